"""The client of Port's REST API, which says what Port really holds; the webhook's 202 is no more than a receipt.

Routes, shapes and limits are those of Port's OpenAPI file (github.com/port-labs/port-docs, `static/apispec.yaml`). No
error of this module shows the client secret or an access token, nor carries one along.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import PortError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.port.blueprints import BLUEPRINTS
from azure_port_sync.port.flow import Flow, StubbornError
from azure_port_sync.port.transport import Response, TransientError, new_session, send_request

Json = dict[str, Any]

_PAGE_SIZE = 1000  # the most that Port gives
_DEADLINE = timedelta(minutes=5)
_RENEWED_BEFORE_ITS_END = timedelta(minutes=1)
_LONGEST_LIFE = 10**9  # seconds; what is longer is no number of seconds


@dataclass(frozen=True)
class _Token:
    authorization: str = field(repr=False)
    renew_at: datetime


class PortApi:
    """Asks Port's REST API. Safe to share between threads.

    Every method raises PortError, in one sentence with the setting to look at, when Port refuses, stays unreachable
    for five minutes, or answers what its specification does not have.
    """

    def __init__(
        self,
        base_url: str,
        client_id: str,
        client_secret: str,
        *,
        clock: Clock,
        connections: int = 1,
        verify: str | bool = True,
    ) -> None:
        """`base_url` is the address without ``/v1`` and without a slash at its end, as `Settings` gives it."""
        self._url = f"{base_url}/v1"
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._session = new_session(base_url, connections=connections, verify=verify)
        self._flow = Flow(clock, concurrency=connections, deadline=_DEADLINE, name="Port's API")
        self._token_flow = Flow(clock, concurrency=1, deadline=_DEADLINE, name="Port's API")
        self._token: _Token | None = None
        self._token_lock = threading.Lock()

    def close(self) -> None:
        self._session.close()

    def entities(self, blueprint: str) -> Iterator[list[Json]]:
        """All entities of a blueprint, in pages of at most 1000.

        Each is ``{"identifier": str, "title": str | None, "properties": {"type": str}}``; `properties` is empty for
        containers, and for a resource that has no type. Pages are read as they are asked for. An entity that is added
        or removed meanwhile may be there or not.
        """
        path = f"blueprints/{quote(blueprint, safe='')}/entities/search"
        search: Json = {
            "query": {"combinator": "and", "rules": []},
            "include": ["$identifier", "$title"],
            "limit": _PAGE_SIZE,
        }
        if blueprint == BLUEPRINTS[Kind.RESOURCE]:
            # The other blueprints have no such property, and what Port says to one it does not know is not documented.
            search["include"].append("type")
        cursors = set()
        while True:
            page = self._search(blueprint, path, search)
            yield _entities(blueprint, page)
            cursor = page.get("next")
            if not cursor:
                return
            if not isinstance(cursor, str):
                raise _not_as_documented(f"a search of {blueprint}")
            if cursor in cursors:
                raise PortError(
                    f"Port's API named the same next page of {blueprint} twice, so what Port holds is not known; the "
                    "next run tries again."
                )
            cursors.add(cursor)
            search["from"] = cursor

    def webhooks(self) -> list[Json] | None:
        """All webhooks of the account; None when these credentials may not read them.

        What the answer looks like is not in the specification, so any list of objects in it is taken for them.
        """
        answer = self.request("GET", "webhooks")
        if answer.status == 403:
            return None
        body = self._object(answer, "a list of the webhooks")
        lists = [value for value in body.values() if isinstance(value, list)]
        return [one for one in (lists[0] if lists else []) if isinstance(one, dict)]

    def count(self, blueprint: str) -> int:
        """How many entities a blueprint has."""
        answer = self.request("GET", f"blueprints/{quote(blueprint, safe='')}/entities-count")
        count = self._object(answer, f"the number of entities of {blueprint}").get("count")
        if not isinstance(count, int):
            raise _not_as_documented(f"the number of entities of {blueprint}")
        return count

    def entity(self, blueprint: str, identifier: str) -> Json | None:
        """One entity as Port shows it; None when there is none."""
        return self.find(f"blueprints/{quote(blueprint, safe='')}/entities/{quote(identifier, safe='')}")

    def find(self, path: str) -> Json | None:
        """The one object that an answer to GET holds; None when there is none of that name."""
        answer = self.request("GET", path)
        return None if answer.status == 404 else self._only(answer, f"GET {path}")

    def write(self, method: str, path: str, body: Json) -> Json:
        """Create or change something, and what Port then shows of it."""
        answer = self.request(method, path, body)
        if answer.status == 403:
            raise PortError(
                f"Port does not let PORT_CLIENT_ID change {re.split('[/?]', path)[0]}: use the credentials of an admin."
            )
        return self._only(answer, f"{method} {path}")

    def _only(self, answer: Response, asked: str) -> Json:
        shown = [value for value in self._object(answer, asked).values() if isinstance(value, dict)]
        if not shown:
            raise _not_as_documented(asked)
        return shown[0]

    def _search(self, blueprint: str, path: str, search: Json) -> Json:
        answer = self.request("POST", path, search)
        if answer.status == 404:
            raise PortError(
                f"Port has no blueprint {blueprint}: launch the job port_setup, or check that PORT_CLIENT_ID belongs "
                "to the account that the webhook belongs to."
            )
        if answer.status == 403:
            raise PortError(
                f"Port does not let PORT_CLIENT_ID read the entities of {blueprint}: use the credentials of a user who "
                "may."
            )
        return self._object(answer, f"a search of {blueprint}")

    def request(self, method: str, path: str, body: Json | None = None) -> Response:
        """Port's answer to a request that is tried again while Port is not able to answer; also a refusal."""
        return self._patiently(self._flow, lambda: self.ask(method, path, body))

    def ask(self, method: str, path: str, body: Json | None = None) -> Response:
        """Port's answer to one authorized request; also a refusal. Raises TransientError when there is none just now.

        A token can end before its time, when it is revoked or when the clocks differ: 401 gets a new one, once.
        """
        authorization = self._authorization()
        answer = self._send(method, path, body, authorization)
        if answer.status == 401:
            answer = self._send(method, path, body, self._authorization(refused=authorization))
        if answer.status == 401:
            raise PortError(
                "Port's API answered 401 to an access token that it had just given out: check that PORT_BASE_URL is "
                "the API of the account that PORT_CLIENT_ID belongs to."
            )
        return answer

    def _authorization(self, refused: str | None = None) -> str:
        """The header that authorizes a request; another one than `refused`. All threads share one token."""
        with self._token_lock:
            token = self._token
            if token is None or token.authorization == refused or self._clock.now() >= token.renew_at:
                token = self._token = self._new_token()
            return token.authorization

    def _new_token(self) -> _Token:
        credentials = {"clientId": self._client_id, "clientSecret": self._client_secret}
        answer = self._patiently(self._token_flow, lambda: self._send("POST", "auth/access_token", credentials, None))
        if answer.status in (401, 403):
            raise PortError(
                f"Port's API answered {answer.status} to PORT_CLIENT_ID and PORT_CLIENT_SECRET: copy both again "
                "from the credentials that Port shows, and check that PORT_BASE_URL is the API of that account."
            )
        if answer.status == 404:
            raise PortError("There is no API of Port at PORT_BASE_URL: it answered 404 to the request for a token.")
        asked = "the request for an access token"
        token = self._object(answer, asked)
        authorization = f"{token.get('tokenType')} {token.get('accessToken')}"
        seconds = token.get("expiresIn")
        if not (
            isinstance(token.get("tokenType"), str)
            and isinstance(token.get("accessToken"), str)
            and authorization.isascii()  # else it is no header, and the error that says so would show it
            and authorization.isprintable()
            and isinstance(seconds, int | float)
            and 0 < seconds < _LONGEST_LIFE
        ):
            raise _not_as_documented(asked)
        return _Token(authorization, self._clock.now() + timedelta(seconds=seconds) - _RENEWED_BEFORE_ITS_END)

    def _send(self, method: str, path: str, body: Json | None, authorization: str | None) -> Response:
        headers = {"Authorization": authorization} if authorization else {}
        url = f"{self._url}/{path}"
        text = None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        answer = send_request(self._session, method, url, body=text, headers=headers, clock=self._clock)
        if isinstance(answer, TransientError | PortError):
            raise answer
        if 300 <= answer.status < 400:
            raise PortError(f"Port's API answered {answer.status}, a redirect: check the host in PORT_BASE_URL.")
        return answer

    def _patiently(self, flow: Flow, attempt: Callable[[], Response]) -> Response:
        """What `attempt` returns in the end; all that is asked here may be asked twice."""
        flow.start()
        try:
            return flow.call(attempt, lambda: None)
        except (TransientError, StubbornError) as error:
            minutes = int(_DEADLINE.total_seconds() // 60)
            raise PortError(
                f"Port's API could not be used for {minutes} minutes: {error}. Check the network and PORT_BASE_URL; "
                "the next run tries again."
            ) from None

    def _object(self, answer: Response, asked: str) -> Json:
        """The JSON object of a success."""
        body = parsed(answer)
        if not 200 <= answer.status < 300:
            raise PortError(f"Port's API answered {answer.status} to {asked}: {self.said(answer)}")
        if not isinstance(body, dict):
            raise _not_as_documented(asked)
        return body

    def said(self, answer: Response) -> str:
        """What Port says of a refusal, on one line and without what it may repeat of the request."""
        body = parsed(answer)
        text = " ".join(str(body.get("message")).split()) if isinstance(body, dict) else answer.text
        token = self._token.authorization.partition(" ")[2] if self._token else ""
        for secret in filter(None, (self._client_secret, token)):
            text = text.replace(secret, "(secret)")
        return text[:200]


def parsed(answer: Response) -> object:
    """The JSON of an answer; None where it is none. The parser's own error would carry the answer, token and all."""
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _entities(blueprint: str, page: Json) -> list[Json]:
    entities = page.get("entities")
    if not isinstance(entities, list):
        raise _not_as_documented(f"a search of {blueprint}")
    return [_entity(blueprint, one) for one in entities]


def _entity(blueprint: str, shown: Any) -> Json:
    """What is used of an entity, in the types that are counted on."""
    if not (
        isinstance(shown, dict)
        and isinstance(shown.get("identifier"), str)
        and isinstance(shown.get("title"), str | None)
        and isinstance(shown.get("properties"), dict | None)
    ):
        raise _not_as_documented(f"a search of {blueprint}")
    resource_type = (shown.get("properties") or {}).get("type")
    return {
        "identifier": shown["identifier"],
        "title": shown.get("title"),
        "properties": {"type": resource_type} if isinstance(resource_type, str) else {},
    }


def _not_as_documented(asked: str) -> PortError:
    return PortError(
        f"Port's API answered {asked} with what its specification does not have: check that PORT_BASE_URL is the "
        "address of Port's API."
    )
