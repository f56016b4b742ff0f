"""Plays Port's REST API, as far as the product asks it: a token, the entities of a blueprint in pages, their count.

Shapes are those of Port's OpenAPI file (github.com/port-labs/port-docs, `static/apispec.yaml`), published limits those
of docs.port.io ("Rate limits"). Where both leave something open, the sandbox chooses what is harder on a client.
"""

import base64
import json
import math
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azure_port_sync.sandbox.port import (
    Allowance,
    Answer,
    Catalog,
    Clock,
    Entity,
    Json,
    Limiter,
    Throttle,
    error_answer,
    iso,
)

MAX_BODY_BYTES = 1024 * 1024
TOKEN_SECONDS = 3 * 60 * 60  # how long Port's own last is not documented

#: What Port grants to a search of entities, the route that matters here.
PUBLISHED_THROTTLE = Throttle(limit=35_000, window_seconds=300)

Predicate = Callable[[Entity], bool]


class RestError(Exception):
    """Port answers with this error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = error_answer(status, code, message)


def _invalid(message: str) -> RestError:
    return RestError(422, "invalid_request", message)


class Rest:
    """Port's API host. `requests` counts what it answered, by route and status, e.g. ``"search 200"``."""

    def __init__(self, catalog: Catalog, clock: Clock, *, client_id: str, client_secret: str) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.requests: Counter[str] = Counter()
        self._catalog = catalog
        self._clock = clock
        self._limiter = Limiter(clock, PUBLISHED_THROTTLE)
        self._tokens: dict[str, datetime] = {}
        self._ordered: dict[str, tuple[int, list[str]]] = {}

    def throttle(self, throttle: Throttle | None) -> None:
        """Answer 429 beyond this limit from now on; None: beyond the published one."""
        self._limiter = Limiter(self._clock, throttle or PUBLISHED_THROTTLE)

    def revoke_tokens(self) -> None:
        """No token that was given out is good any more."""
        with self._catalog.lock:
            self._tokens.clear()

    def serve(self, route: str, authorization: str, blueprint: str, body: bytes) -> Answer:
        """One request to the route `token`, `search` or `count`."""
        with self._catalog.lock:
            allowance = self._limiter.take()
            answer = allowance.refusal or self._answer(route, authorization, blueprint, body)
            self.requests[f"{route} {answer.status}"] += 1
        return Answer(answer.status, answer.body, answer.headers | self._rate_headers(allowance))

    def _rate_headers(self, allowance: Allowance) -> dict[str, str]:
        reset = self._clock.now() + timedelta(seconds=allowance.seconds)
        return {
            "x-ratelimit-limit": str(allowance.throttle.limit),
            "x-ratelimit-period": str(math.ceil(allowance.throttle.window_seconds)),
            "x-ratelimit-remaining": str(max(allowance.throttle.limit - allowance.number, 0)),
            "x-ratelimit-reset": str(math.ceil(reset.timestamp())),
        }

    def _answer(self, route: str, authorization: str, blueprint: str, body: bytes) -> Answer:
        try:
            if route == "token":
                return Answer(200, self._token(_object(body)))
            self._check_token(authorization)
            if route == "search":
                search = _search(_object(body or b"{}"))
                return Answer(200, self._search(self._known(blueprint), search))
            return Answer(200, {"ok": True, "count": len(self._catalog.entities[self._known(blueprint)])})
        except RestError as error:
            return error.answer

    def _token(self, body: Json) -> Json:
        if body.keys() != {"clientId", "clientSecret"} or not all(isinstance(text, str) for text in body.values()):
            raise _invalid("the body has the texts clientId and clientSecret, and nothing else")
        if body != {"clientId": self.client_id, "clientSecret": self.client_secret}:
            raise RestError(401, "unauthorized", "The client id or the client secret is wrong")
        now = self._clock.now()
        self._tokens = {token: end for token, end in self._tokens.items() if end > now}
        token = secrets.token_urlsafe(32)
        self._tokens[token] = now + timedelta(seconds=TOKEN_SECONDS)
        return {"ok": True, "accessToken": token, "expiresIn": TOKEN_SECONDS, "tokenType": "Bearer"}

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        end = self._tokens.get(token)
        if scheme.lower() != "bearer" or end is None or end <= self._clock.now():
            raise RestError(401, "unauthorized", "The access token is missing, wrong or expired")

    def _known(self, blueprint: str) -> str:
        if blueprint not in self._catalog.blueprints:
            raise RestError(404, "not_found", f"There is no blueprint {blueprint!r}")
        return blueprint

    def _search(self, blueprint: str, search: "_Search") -> Json:
        chosen = _chosen(search, self._catalog.blueprints[blueprint])
        # Pages go by identifier, so that what is added or removed meanwhile moves nothing from one page to another.
        found = (entity for entity in self._after(blueprint, search.after) if search.matches(entity))
        page = list(islice(found, search.limit + 1))
        answer: Json = {"ok": True, "entities": [_shown(entity, chosen) for entity in page[: search.limit]]}
        if len(page) > search.limit:
            answer["next"] = _cursor(page[search.limit - 1].identifier)
        return answer

    def _after(self, blueprint: str, identifier: str) -> Iterator[Entity]:
        version, ordered = self._ordered.get(blueprint, (-1, []))
        entities = self._catalog.entities[blueprint]
        if version != self._catalog.version:
            ordered = sorted(entities)
            self._ordered[blueprint] = (self._catalog.version, ordered)
        return (entities[ordered[at]] for at in range(bisect_right(ordered, identifier), len(ordered)))


# -- a search


@dataclass(frozen=True)
class _Search:
    """The body of a search, understood. `include` None: everything."""

    matches: Predicate
    include: list[str] | None
    exclude: list[str]
    limit: int
    after: str


def _object(body: bytes) -> Json:
    if len(body) > MAX_BODY_BYTES:
        raise RestError(413, "payload_too_large", f"The body is larger than {MAX_BODY_BYTES} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise _invalid("the body is not JSON") from None
    if not isinstance(found, dict):
        raise _invalid("the body is not an object")
    return found


def _search(body: Json) -> _Search:
    unknown = body.keys() - {"query", "include", "exclude", "limit", "from"}
    if unknown:
        raise _invalid(f"the body must not have {', '.join(sorted(unknown))}")
    limit = body.get("limit", 200)
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not 1 <= limit <= 1000:
        raise _invalid('"limit" is a number from 1 to 1000')
    return _Search(
        _matches(body["query"]) if "query" in body else lambda _: True,
        _texts("include", body["include"]) if "include" in body else None,
        _texts("exclude", body.get("exclude", [])),
        int(limit),
        _position(body["from"]) if "from" in body else "",
    )


def _texts(name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _invalid(f'"{name}" is a list of texts')
    return value


def _cursor(identifier: str) -> str:
    return base64.urlsafe_b64encode(identifier.encode()).decode()


def _position(cursor: object) -> str:
    try:
        identifier = base64.b64decode(cursor, b"-_", validate=True).decode() if isinstance(cursor, str) else ""
    except ValueError:
        identifier = ""
    if not identifier:
        raise _invalid('"from" is no `next` of an answer')
    return identifier


_META: dict[str, Callable[[Entity], Any]] = {
    "$identifier": lambda entity: entity.identifier,
    "$title": lambda entity: entity.title,
    "$blueprint": lambda entity: entity.blueprint,
    "$createdAt": lambda entity: iso(entity.created_at),
    "$updatedAt": lambda entity: iso(entity.updated_at),
}
#: What an answer has according to the specification; an example there asks for more by `include`.
_USUAL_META = frozenset({"$identifier", "$title"})


def _chosen(search: _Search, blueprint: Json) -> Collection[str]:
    """The names of what an answer shows. That Port refuses a name it does not know is not documented."""
    named = {*blueprint["schema"]["properties"], *blueprint.get("relations", {})}
    for name in [*(search.include or []), *search.exclude]:
        if name not in named and name not in _META:
            raise _invalid(f"the blueprint has no property {name!r}")
    chosen = named | _USUAL_META if search.include is None else set(search.include)
    return chosen - set(search.exclude)


def _shown(entity: Entity, chosen: Collection[str]) -> Json:
    """The entity without what was not asked for; a title that is null is absent, as the specification wants it."""
    meta = {name.removeprefix("$"): value_of(entity) for name, value_of in _META.items() if name in chosen}
    shown = {name: value for name, value in meta.items() if value is not None}
    for part, values in {"properties": entity.properties, "relations": entity.relations}.items():
        if kept := {name: value for name, value in values.items() if name in chosen}:
            shown[part] = kept
    return shown


# -- the rules of a search: those on texts

_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda have, want: bool(have == want),
    "contains": lambda have, want: str(want) in str(have),
    "beginsWith": lambda have, want: str(have).startswith(str(want)),
    "endsWith": lambda have, want: str(have).endswith(str(want)),
    "in": lambda have, want: isinstance(want, list) and have in want,
}
_NEGATIONS = {
    "!=": "=",
    "doesNotContains": "contains",
    "doesNotBeginsWith": "beginsWith",
    "doesNotEndsWith": "endsWith",
    "notIn": "in",
}


def _matches(query: object) -> Predicate:
    if not isinstance(query, dict) or query.keys() != {"combinator", "rules"}:
        raise _invalid('"query" has a combinator and rules')
    if query["combinator"] not in ("and", "or") or not isinstance(query["rules"], list):
        raise _invalid('"query" has the combinator "and" or "or", and a list of rules')
    rules = [_rule(rule) for rule in query["rules"]]
    every = query["combinator"] == "and" or not rules
    return lambda entity: (all if every else any)(rule(entity) for rule in rules)


def _rule(rule: object) -> Predicate:
    if not isinstance(rule, dict):
        raise _invalid("a rule is an object")
    if "combinator" in rule:
        return _matches(rule)
    operator = str(rule.get("operator"))
    test = _TESTS.get(_NEGATIONS.get(operator, operator))
    if test is None or rule.keys() != {"property", "operator", "value"}:
        raise RestError(501, "not_implemented", f"the sandbox does not play the rule {json.dumps(rule)}")
    return lambda entity: test(_value(entity, rule["property"]), rule["value"]) is (operator not in _NEGATIONS)


def _value(entity: Entity, name: str) -> Any:
    return _META[name](entity) if name in _META else entity.properties.get(name)


# -- HTTP


def rest_app(rest: Rest) -> Starlette:
    """Port's API host over HTTP, below `/v1`."""

    def endpoint(name: str) -> Callable[[Request], Any]:
        async def serve(request: Request) -> Response:
            authorization = request.headers.get("authorization", "")
            blueprint = request.path_params.get("blueprint", "")
            answer = rest.serve(name, authorization, blueprint, await request.body())
            return JSONResponse(answer.body, answer.status, answer.headers)

        return serve

    async def nothing(_: Request) -> Response:
        answer = error_answer(404, "not_found", "There is no such route")
        return JSONResponse(answer.body, answer.status)

    return Starlette(
        routes=[
            Route("/auth/access_token", endpoint("token"), methods=["POST"]),
            Route("/blueprints/{blueprint}/entities/search", endpoint("search"), methods=["POST"]),
            Route("/blueprints/{blueprint}/entities-count", endpoint("count"), methods=["GET"]),
            Route("/{path:path}", nothing, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]
    )
