"""Azure's two doors, as the real SDK knocks on them: Entra's token endpoint and Resource Graph's query endpoint.

The product is meant to meet real limits and real errors before it meets Azure: the quota and its headers, offset skip
tokens, payload limits, and error bodies word for word as they were recorded. The contract is that of
learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/resources and
learn.microsoft.com/azure/governance/resource-graph/concepts/guidance-for-throttled-requests.
"""

from __future__ import annotations

import base64
import json
import math
import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.kql import Layout, QueryEngine, QueryError, Result
from azure_port_sync.sandbox.tenant import Scope, Tenant

QUOTA, QUOTA_WINDOW = 15, timedelta(seconds=5)
MOST_SUBSCRIPTIONS = 1000
LARGEST_PAGE = 1000
LARGEST_PAYLOAD = 16 * 1024 * 1024
TOKEN_SECONDS = 3600

_CLUSTER = "https://arg-neu-sandbox-sf.arg.core.windows.net"


def azure_app(
    tenant: Tenant, clock: SandboxClock, *, client_id: str, client_secret: str, quota: int | None = QUOTA
) -> Starlette:
    """The ASGI app; `app.state.graph` has its counters and its quota, which tests and benchmarks may set."""
    authority = Authority(tenant.tenant_id, client_id, client_secret)
    graph = ResourceGraph(tenant, clock, authority, Quota(clock, quota))
    app = Starlette(
        routes=[
            Route("/{tenant}/v2.0/.well-known/openid-configuration", authority.configuration),
            Route("/{tenant}/oauth2/v2.0/token", authority.token, methods=["POST"]),
            Route("/providers/Microsoft.ResourceGraph/resources", graph.resources, methods=["POST"]),
        ]
    )
    app.state.graph, app.state.authority = graph, authority
    return app


# -- Entra -----------------------------------------------------------------------------------------------------------


class Authority:
    """Hands out bearer tokens for the client credentials grant."""

    def __init__(self, tenant_id: str, client_id: str, client_secret: str) -> None:
        self._tenant_id = tenant_id
        self._client_id = client_id
        self._client_secret = client_secret
        self._expiry: dict[str, float] = {}

    @property
    def tokens(self) -> list[str]:
        """All that have been given out."""
        return list(self._expiry)

    async def configuration(self, request: Request) -> Response:
        """The OpenID configuration of the tenant, at whatever address this server is reached."""
        if wrong := self._wrong_tenant(request):
            return wrong
        base = f"{request.base_url}{self._tenant_id}"
        return JSONResponse(
            {
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{base}/discovery/v2.0/keys",
                "issuer": f"{base}/v2.0",
                "tenant_region_scope": "EU",
            }
        )

    async def token(self, request: Request) -> Response:
        """A token for the one client there is, or Entra's refusal."""
        if wrong := self._wrong_tenant(request):
            return wrong
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        client_id = form.get("client_id", "")
        if form.get("grant_type") != "client_credentials":
            return _refusal(400, "unsupported_grant_type", 70003, "The app requested an unsupported grant type.")
        if client_id.lower() != self._client_id.lower():
            return _refusal(
                400,
                "unauthorized_client",
                700016,
                f"Application with identifier '{client_id}' was not found in the directory '{self._tenant_id}'. "
                "This can happen if the application has not been installed by the administrator of the tenant or "
                "consented to by any user in the tenant. You may have sent your authentication request to the "
                "wrong tenant.",
            )
        if not secrets.compare_digest(form.get("client_secret", "").encode(), self._client_secret.encode()):
            return _refusal(
                401,
                "invalid_client",
                7000215,
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret "
                f"value, not the client secret ID, for a secret added to app '{client_id}'.",
            )
        token = secrets.token_urlsafe(48)
        # The life of a token is real time, not the sandbox's: the SDK that holds it knows no other.
        self._expiry[token] = time.time() + TOKEN_SECONDS
        lifetime = {"expires_in": TOKEN_SECONDS, "ext_expires_in": TOKEN_SECONDS}
        return JSONResponse({"token_type": "Bearer", **lifetime, "access_token": token})

    def refuse(self, request: Request) -> Response | None:
        """ARM's 401 for a request without a good token; None when the token is good."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token or scheme.lower() != "bearer":
            return self._unauthorized(
                request,
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is missing or invalid.",
            )
        expiry = self._expiry.get(token)
        if expiry is None:
            return self._unauthorized(request, "InvalidAuthenticationToken", "The access token is invalid.")
        if expiry <= time.time():
            return self._unauthorized(
                request,
                "ExpiredAuthenticationToken",
                f"The access token expiry UTC time '{_american(expiry)}' is earlier than current UTC time "
                f"'{_american(time.time())}'.",
            )
        return None

    def _unauthorized(self, request: Request, code: str, message: str) -> Response:
        challenge = f'Bearer authorization_uri="{request.base_url}{self._tenant_id}", error="invalid_token"'
        return JSONResponse(
            {"error": {"code": code, "message": message}},
            status_code=401,
            headers={"WWW-Authenticate": f'{challenge}, error_description="{message}"'},
        )

    def _wrong_tenant(self, request: Request) -> Response | None:
        name = request.path_params["tenant"]
        if name.lower() == self._tenant_id.lower():
            return None
        return _refusal(
            400,
            "invalid_tenant",
            90002,
            f"Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are signing into the "
            "correct cloud. Check with your subscription administrator, this may happen if there are no active "
            "subscriptions for the tenant.",
        )


def _refusal(status: int, error: str, code: int, message: str) -> Response:
    trace, correlation = uuid.uuid4(), uuid.uuid4()
    stamp = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}"
    return JSONResponse(
        {
            "error": error,
            "error_description": f"AADSTS{code}: {message} Trace ID: {trace} Correlation ID: {correlation} "
            f"Timestamp: {stamp}",
            "error_codes": [code],
            "timestamp": stamp,
            "trace_id": str(trace),
            "correlation_id": str(correlation),
            "error_uri": f"https://login.microsoftonline.com/error?code={code}",
        },
        status_code=status,
    )


def _american(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%m/%d/%Y %I:%M:%S %p}"


# -- Resource Graph --------------------------------------------------------------------------------------------------


@dataclass
class Quota:
    """So many requests in any window of the sandbox's clock; `limit` None lets everything through."""

    clock: SandboxClock
    limit: int | None
    retry_after: bool = True
    refused: int = 0
    _taken: deque[datetime] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def clear(self) -> None:
        """Nothing is taken."""
        with self._lock:
            self._taken.clear()
            self.refused = 0

    def take(self) -> tuple[bool, dict[str, str]]:
        """Whether one more request passes, and the headers that say how things stand."""
        with self._lock:
            now = self.clock.now()
            # A clock that was set back must not leave requests of the future in the window.
            while self._taken and not now - QUOTA_WINDOW < self._taken[0] <= now:
                self._taken.popleft()
            allowed = self.limit is None or len(self._taken) < self.limit
            if allowed:
                self._taken.append(now)
            else:
                self.refused += 1
            seconds = math.ceil((self._taken[0] + QUOTA_WINDOW - now).total_seconds()) if self._taken else 0
            remaining = QUOTA if self.limit is None else self.limit - len(self._taken)
            headers = {
                "x-ms-user-quota-remaining": str(remaining),
                "x-ms-user-quota-resets-after": f"00:00:{seconds:02d}",
                "x-ms-ratelimit-remaining-tenant-resource-requests": str(remaining),
            }
            if not allowed and self.retry_after:
                headers["Retry-After"] = str(max(1, seconds))
            return allowed, headers


class _ServiceError(Exception):
    """Resource Graph's own error: a status, and the detail that says what is the matter."""

    def __init__(self, status: int, code: str, *details: Mapping[str, Any]) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.details = details


@dataclass(frozen=True)
class _Ask:
    """A request body, read."""

    query: str
    scope: Scope
    layout: Layout
    skip: int
    top: int


class ResourceGraph:
    """`POST /providers/Microsoft.ResourceGraph/resources`."""

    def __init__(self, tenant: Tenant, clock: SandboxClock, authority: Authority, quota: Quota) -> None:
        self.requests = 0  # answered with rows or with an error of the query, not throttled
        self.rows = 0
        self.quota = quota
        self.engine = QueryEngine(tenant, clock)
        self._tenant = tenant
        self._clock = clock
        self._authority = authority

    async def resources(self, request: Request) -> Response:
        """One page of a query."""
        if refusal := self._authority.refuse(request):
            return refusal
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            message = "An unexpected query execution error occurred"
            return JSONResponse({"error": {"code": "InternalServerError", "message": message}}, status_code=500)
        allowed, headers = self.quota.take()
        headers["x-ms-correlation-request-id"] = str(uuid.uuid4())
        if not allowed:
            return self._error(_ServiceError(429, "RateLimiting", _detail("RateLimiting", _THROTTLED)), headers)
        self.requests += 1
        try:
            content = await run_in_threadpool(self._answer, await request.body())
        except _ServiceError as error:
            return self._error(error, headers)
        return Response(content, media_type="application/json", headers=headers)

    def _answer(self, body: bytes) -> bytes:
        ask = _read(body)
        self._check_access(ask.scope)
        try:
            result = self.engine.run(ask.query, ask.scope, ask.layout)
        except QueryError as error:
            raise _ServiceError(400, "BadRequest", _detail("InvalidQuery", _INVALID_QUERY), error.detail) from error
        return self._page(ask, result)

    def _page(self, ask: _Ask, result: Result) -> bytes:
        skip = ask.skip if result.pageable else 0  # a query with a limit of its own takes no offset
        rows = result.page(skip, ask.top)
        total = len(result.rows)
        more = skip + len(rows) < total
        data = f"[{','.join(rows)}]"
        if ask.layout == "table":
            columns = [{"name": name, "type": kind} for name, kind in result.columns]
            data = f'{{"columns":{json.dumps(columns)},"rows":{data}}}'
        truncated = "true" if more and not result.pageable else "false"
        token = f',"$skipToken":"{_skip_token(skip + len(rows), ask.top)}"' if more and result.pageable else ""
        content = (
            f'{{"totalRecords":{total},"count":{len(rows)},"data":{data},"facets":[],'
            f'"resultTruncated":"{truncated}"{token}}}'
        ).encode()
        if len(content) > LARGEST_PAYLOAD:
            raise _ServiceError(400, "BadRequest", _detail("ResponsePayloadTooLarge", _TOO_LARGE.format(len(content))))
        self.rows += len(rows)
        return content

    def _check_access(self, scope: Scope) -> None:
        groups = scope.management_groups
        if scope.subscriptions is not None and not self._tenant.readable_subscriptions(scope):
            raise _ServiceError(403, "AccessDenied", _detail("AccessDenied", _DENIED))
        if groups is not None and not self._tenant.readable_management_groups(groups):
            raise _ServiceError(403, "AccessDenied", _detail("AccessDenied", _DENIED))

    def _error(self, refused: _ServiceError, headers: Mapping[str, str]) -> Response:
        now = self._clock.now()
        message = (
            f"Please provide below info when asking for support: timestamp = {now:%Y-%m-%dT%H:%M:%S.%f}0Z, "
            f"correlationId = {headers['x-ms-correlation-request-id']}."
        )
        error = {"code": refused.code, "message": message, "details": list(refused.details)}
        return JSONResponse({"error": error}, status_code=refused.status, headers=dict(headers))


_THROTTLED = (
    "Client application has been throttled and should not attempt to repeat the request until an amount of time has "
    "elapsed. Please see https://aka.ms/resourcegraph-throttling for help."
)
_INVALID_QUERY = (
    "Query is invalid. Please refer to the documentation for the Azure Resource Graph service and fix the error "
    "before retrying."
)
# As reported in github.com/Azure/azure-sdk-for-java/issues/29924.
_DENIED = "Access is denied to the requested resource. The user might not have enough permission."
_TOO_LARGE = (
    f"Response payload size is {{}}, and has exceeded the limit of {LARGEST_PAYLOAD}. Please consider querying less "
    "data at a time and make paginated call if needed."
)


def _detail(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}


def _bad(message: str) -> _ServiceError:
    # The refusals of a malformed request are not on record; their status and shape are, their wording is not.
    return _ServiceError(400, "BadRequest", _detail("InvalidRequest", message))


def _read(body: bytes) -> _Ask:
    """The request body, or the reason why Resource Graph would not take it."""
    try:
        given = json.loads(body)
    except ValueError as error:
        raise _bad("The request body is not JSON.") from error
    if not isinstance(given, dict) or not isinstance(given.get("query"), str) or not given["query"].strip():
        raise _bad("The request has no query.")
    subscriptions, groups = _names(given, "subscriptions"), _names(given, "managementGroups")
    if subscriptions and groups:
        raise _bad("subscriptions and managementGroups cannot be given together.")
    if subscriptions and len(subscriptions) > MOST_SUBSCRIPTIONS:
        raise _bad(f"{len(subscriptions)} subscriptions are more than the {MOST_SUBSCRIPTIONS} of one request.")
    options = given.get("options") or {}
    layout = options.get("resultFormat", "objectArray")
    if layout not in {"objectArray", "table"}:
        raise _bad(f"resultFormat {layout!r} is neither objectArray nor table.")
    token = _read_skip_token(options.get("$skipToken"))
    top = _number(options, "$top", token.get("MaxRows", LARGEST_PAGE))
    skip = _number(options, "$skip", token.get("RowsToSkip", 0))
    if not 1 <= top <= LARGEST_PAGE or skip < 0:
        raise _bad(f"$top must be 1 to {LARGEST_PAGE} and $skip not negative.")
    return _Ask(given["query"], Scope(subscriptions, groups), layout, skip, top)


def _names(given: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    names: Sequence[Any] | None = given.get(key)
    if names is None or names == []:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _bad(f"{key} is not a list of names.")
    return tuple(names)


def _number(options: Mapping[str, Any], key: str, otherwise: int) -> int:
    value = options.get(key)
    if value is None:
        return otherwise
    if not isinstance(value, int) or isinstance(value, bool):
        raise _bad(f"{key} is not a whole number.")
    return value


def _skip_token(skip: int, top: int) -> str:
    """An offset, in the clothes of the tokens on record; clients are not to look inside."""
    inner = {"$id": "1", "MaxRows": top, "RowsToSkip": skip, "KustoClusterUrl": _CLUSTER}
    return base64.b64encode(json.dumps(inner, indent=2).replace("\n", "\r\n").encode()).decode()


def _read_skip_token(token: str | None) -> dict[str, Any]:
    if token is None:
        return {}
    try:
        inner = json.loads(base64.b64decode(token, validate=True))
        return {"MaxRows": int(inner["MaxRows"]), "RowsToSkip": int(inner["RowsToSkip"])}
    except (ValueError, TypeError, KeyError) as error:
        raise _bad("The skip token is not one of this service.") from error
