"""The client of Port's REST API: it signs in, sends requests, and treats what comes back by the tables of `failures`.

The requests there are stand in `api`. No error of this module shows the client secret or an access token, nor carries
one along.
"""

import json
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple, TypeVar

from azure_port_sync.core.clock import Clock, StoppableClock
from azure_port_sync.core.errors import PortError
from azure_port_sync.port import Json
from azure_port_sync.port.failures import (
    API,
    SIGN_IN,
    Body,
    RefusedError,
    TransientError,
    body_of,
    failure,
    raise_for_failure,
)
from azure_port_sync.port.flow import Flow, KeptFailingError
from azure_port_sync.port.responses import ShapeError, Token
from azure_port_sync.port.transport import TIMEOUTS, Broken, Response, Timeouts, new_session, send_request, until_reset

_T = TypeVar("_T")

_DEADLINE = timedelta(minutes=5)
_RENEWED_BEFORE_ITS_END = timedelta(minutes=1)


class ApiRequest(NamedTuple):
    """One request to Port's API, and the words in which a sentence speaks of it.

    `purpose` ends "PORT_CLIENT_ID may not ...", `subject` "Port has no ...". `expected` are statuses that are an answer
    and no failure.
    """

    method: str
    path: str
    purpose: str
    subject: str = ""
    body: Json | None = None
    expected: frozenset[int] = frozenset()


class ApiClient:
    """Sends requests to Port's API. Safe to share between threads; all of them share one access token.

    All flows of requests to this API have its `clock`, so that a sign-in ends together with the delivery that needs it.
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
        timeouts: Timeouts = TIMEOUTS,
    ) -> None:
        """`base_url` is the address without ``/v1`` and without a slash at its end, as `Settings` gives it."""
        self._url = f"{base_url}/v1"
        self._client_id = client_id
        self._client_secret = client_secret
        self.clock = StoppableClock(clock)
        self._timeouts = timeouts
        self._session = new_session(base_url, connections=connections, verify=verify)
        self._flow = Flow(self.clock, deadline=_DEADLINE, name="Port's API")
        self._sign_in_flow = Flow(self.clock, deadline=_DEADLINE, name="Port's API")
        self._token: Token | None = None
        self._renew_at = clock.elapsed()
        self._token_lock = threading.Lock()

    def close(self) -> None:
        self._session.close()

    def send(self, request: ApiRequest) -> Response:
        """Return Port's response, patiently. Raises PortError when Port refuses the request or stays unreachable."""
        return _patiently(self._flow, request, lambda: self.attempt(request, self._flow))

    def send_for_json(self, request: ApiRequest) -> Json:
        """Return the JSON object that Port responds with, patiently."""
        return _patiently(self._flow, request, lambda: json_object(self.attempt(request, self._flow)))

    def attempt(self, request: ApiRequest, flow: Flow) -> Response:
        """Return Port's response to one attempt, as part of a flow. Raises what the table of the API says.

        A token can end before its time, when it is revoked or when the clocks differ: 401 gets a new one, once.
        """
        authorization = self._authorization()
        came = self._send_once(request, authorization)
        if isinstance(came, Response) and came.status == 401:
            came = self._send_once(request, self._authorization(refused=authorization))
        if isinstance(came, Response):
            flow.count_bytes(came.sent)
            if came.headers.get("x-ratelimit-remaining") == "0":
                flow.pause(until_reset(came, self.clock.now()))
            if came.status in request.expected and body_of(came) is Body.PORT:
                return came
        words = {"purpose": request.purpose, "subject": request.subject}
        return raise_for_failure(API, came, self.clock.now(), secrets=self.secrets(), words=words)

    def secrets(self) -> tuple[str, str]:
        """The texts that no error may show."""
        token = self._token
        return self._client_secret, token.authorization.partition(" ")[2] if token else ""

    def _authorization(self, refused: str | None = None) -> str:
        """Return the header that authorizes a request; another one than `refused`."""
        with self._token_lock:
            token = self._token
            if token is None or token.authorization == refused or self.clock.elapsed() >= self._renew_at:
                token = self._token = self._sign_in()
                life = timedelta(seconds=token.expires_in)
                self._renew_at = self.clock.elapsed() + life - _RENEWED_BEFORE_ITS_END
            return token.authorization

    def _sign_in(self) -> Token:
        credentials = {"clientId": self._client_id, "clientSecret": self._client_secret}
        request = ApiRequest("POST", "auth/access_token", "sign in", body=credentials)

        def attempt() -> Token:
            came = self._send_once(request, None)
            response = raise_for_failure(SIGN_IN, came, self.clock.now(), secrets=self.secrets())
            return read(request, Token.of, json_object(response))

        return _patiently(self._sign_in_flow, request, attempt)

    def _send_once(self, request: ApiRequest, authorization: str | None) -> Response | Broken:
        body = request.body
        return send_request(
            self._session,
            request.method,
            f"{self._url}/{request.path}",
            body=None if body is None else json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(),
            headers={"Authorization": authorization} if authorization else {},
            clock=self.clock,
            timeouts=self._timeouts,
        )


def json_object(response: Response) -> Json:
    """Return the JSON object of a success. What is none is not from Port, and the request is tried again."""
    if isinstance(response.json, dict):
        return response.json
    raise failure(API, response.status, Body.OTHER)


def read(request: ApiRequest, shape: Callable[[Json], _T], body: Json) -> _T:
    """Return the body in the shape that it should have. Raises PortError when it has another."""
    try:
        return shape(body)
    except ShapeError:
        raise PortError(
            f"Port's API answered a request to {request.purpose} with something that its specification does not have: "
            "check that PORT_BASE_URL is the address of Port's API."
        ) from None


def _patiently(flow: Flow, request: ApiRequest, attempt: Callable[[], _T]) -> _T:
    """Return what `attempt` returns in the end; all that is asked here may be asked twice."""
    flow.restart_deadline()
    try:
        return flow.call(attempt, lambda: None)
    except (TransientError, KeptFailingError) as error:
        minutes = int(flow.deadline.total_seconds() // 60)
        reason = (
            f"Port's API could not be used for {minutes} minutes: {error}. Check the network and PORT_BASE_URL; the "
            "next run tries again."
        )
    except RefusedError as error:
        reason = f"Port's API refused a request to {request.purpose}: {error}"
    raise PortError(reason)
