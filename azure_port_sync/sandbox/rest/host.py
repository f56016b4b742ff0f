"""The host of the REST API: its routes and their limits, the token, and HTTP."""

import math
import secrets
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azure_port_sync.sandbox.port.answers import Answer, RestError, error_answer, fine, invalid, too_many_requests
from azure_port_sync.sandbox.port.entity import Clock
from azure_port_sync.sandbox.port.limits import Allowance, Limiter, Throttle
from azure_port_sync.sandbox.port.webhooks import Port
from azure_port_sync.sandbox.rest.call import Call, RestRoute
from azure_port_sync.sandbox.rest.entities import EntityRoutes
from azure_port_sync.sandbox.rest.model import ModelRoutes
from azure_port_sync.sandbox.shapes import json_object

TOKEN_SECONDS = 3 * 60 * 60  # how long Port's own last is not documented

#: What Port grants in five minutes, by kind of route.
PUBLISHED_THROTTLES = {
    # The burst of 10 is left out: many sign in at one instant where a test has frozen the clock.
    "unauthenticated": Throttle(100, 300),
    "entities": Throttle(35_000, 300, burst=3_500),
    "blueprints": Throttle(15_000, 300, burst=1_500),
    "search": Throttle(35_000, 300, burst=3_500),
    "bulk upsert": Throttle(35_000, 300, burst=3_500),
    "other": Throttle(15_000, 300, burst=1_500),
}

ResetForm = Literal["epoch", "seconds"]


class Rest:
    """Port's API host. `requests` counts what it answered, by route and status, e.g. ``"search 200"``.

    `items` counts the entities that were "upserted", "refused" and "deleted". `reset_form` is how `x-ratelimit-reset`
    is given: in seconds since 1970, as Port documents it, or in seconds from now, as Port's own Terraform provider
    reads it.
    """

    def __init__(
        self, port: Port, clock: Clock, *, client_id: str, client_secret: str, ingest_url: Callable[[str], str]
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.requests: Counter[str] = Counter()
        self.reset_form: ResetForm = "epoch"
        self._lock = port.catalog.lock
        self._clock = clock
        self._limiters: dict[str, Limiter] = {}
        self._tokens: dict[str, datetime] = {}
        entities = EntityRoutes(port)
        self.items = entities.items
        model = ModelRoutes(port, ingest_url)
        token = RestRoute("token", "POST", "auth/access_token", "unauthenticated", self._token)
        self._routes = (token, *model.routes(), *entities.routes())
        self.throttle(None)

    def throttle(self, throttle: Throttle | None) -> None:
        """Answer 429 beyond this limit from now on, for all routes together; None: beyond the published ones."""
        if throttle is None:
            self._limiters = {name: Limiter(self._clock, one) for name, one in PUBLISHED_THROTTLES.items()}
        else:
            self._limiters = dict.fromkeys(PUBLISHED_THROTTLES, Limiter(self._clock, throttle))

    @property
    def tokens(self) -> list[str]:
        """The tokens that have been given out and are good."""
        return list(self._tokens)

    def revoke_tokens(self) -> None:
        """Refuse all tokens that have been given out."""
        with self._lock:
            self._tokens.clear()

    def clear(self) -> None:
        """Set the counters to zero and the limits to the published ones; tokens stay good."""
        with self._lock:
            self.requests.clear()
            self.items.clear()
            self.reset_form = "epoch"
            self.throttle(None)

    def find(self, method: str, raw_path: str) -> tuple[RestRoute, dict[str, str]] | None:
        """Return the route of a request and what its path names.

        The path is taken apart as it was sent: an identifier's own slashes must be encoded.
        """
        sent = raw_path.removeprefix("/v1/").split("/")
        for route in self._routes:
            wanted = route.path.split("/")
            if route.method != method or len(wanted) != len(sent):
                continue
            pairs = list(zip(wanted, sent, strict=True))
            if all(have and (want.startswith("{") or want == have) for want, have in pairs):
                return route, {want.strip("{}"): unquote(have) for want, have in pairs if want.startswith("{")}
        return None

    def serve(self, route: RestRoute, call: Call) -> Answer:
        """Answer one request."""
        with self._lock:
            allowance = self._limiters[route.throttle].take()
            answer = too_many_requests(allowance) or self._answer(route, call)
            self.requests[f"{route.name} {answer.status}"] += 1
            return Answer(answer.status, answer.body, answer.headers | self._rate_headers(allowance))

    def _rate_headers(self, allowance: Allowance) -> dict[str, str]:
        reset = self._clock.now() + timedelta(seconds=allowance.seconds)
        until = allowance.seconds if self.reset_form == "seconds" else reset.timestamp()
        return {
            "x-ratelimit-limit": str(allowance.throttle.limit),
            "x-ratelimit-period": str(math.ceil(allowance.throttle.window_seconds)),
            "x-ratelimit-remaining": str(max(allowance.throttle.limit - allowance.number, 0)),
            "x-ratelimit-reset": str(math.ceil(until)),
        }

    def _answer(self, route: RestRoute, call: Call) -> Answer:
        try:
            if route.name != "token":
                self._check_token(call.authorization)
            return route.answer(call)
        except RestError as error:
            return error.answer

    # -- the token

    def _token(self, call: Call) -> Answer:
        body = json_object(call.body)
        if body.keys() != {"clientId", "clientSecret"} or not all(isinstance(text, str) for text in body.values()):
            raise invalid("the body has the texts clientId and clientSecret, and nothing else")
        if body != {"clientId": self.client_id, "clientSecret": self.client_secret}:
            raise RestError(401, "unauthorized", "The client id or the client secret is wrong")
        now = self._clock.now()
        self._tokens = {token: end for token, end in self._tokens.items() if end > now}
        token = secrets.token_urlsafe(32)
        self._tokens[token] = now + timedelta(seconds=TOKEN_SECONDS)
        return fine(accessToken=token, expiresIn=TOKEN_SECONDS, tokenType="Bearer")

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        end = self._tokens.get(token)
        if scheme.lower() != "bearer" or end is None or end <= self._clock.now():
            raise RestError(401, "unauthorized", "The access token is missing, wrong or expired")


# -- HTTP


def rest_app(rest: Rest) -> Starlette:
    """Port's API host over HTTP, below `/v1`."""

    async def serve(request: Request) -> Response:
        found = rest.find(request.method, request.scope["raw_path"].decode(errors="replace"))
        if found is None:
            answer = error_answer(404, "not_found", "There is no such route")
        else:
            route, path = found
            authorization = request.headers.get("authorization", "")
            answer = rest.serve(route, Call(await request.body(), authorization, path, request.query_params))
        return JSONResponse(answer.body, answer.status, answer.headers)

    return Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])
