"""Resource Graph's query endpoint, as the real SDK calls it, beside Entra's token endpoint.

The product is meant to meet real limits and real errors before it meets Azure: the quota and its headers, the limits of
an answer in rows and in bytes, and error bodies word for word as they were recorded. The contract is that of
learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/resources and
learn.microsoft.com/azure/governance/resource-graph/concepts/guidance-for-throttled-requests.
"""

from __future__ import annotations

import base64
import json
import math
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.entra import Authority
from azure_port_sync.sandbox.kql import QueryEngine, QueryError, Result
from azure_port_sync.sandbox.tenant import Scope, Tenant

QUOTA, QUOTA_WINDOW = 15, timedelta(seconds=5)
MAX_SUBSCRIPTIONS = 1000
MAX_ROWS = 1000
MAX_PAYLOAD = 16 * 1024 * 1024

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: 1 to 90 letters, digits, underscores, hyphens, parentheses and periods (learn.microsoft.com/azure/
#: azure-resource-manager/management/resource-name-rules, Microsoft.Management).
_MANAGEMENT_GROUP = re.compile(r"[\w().-]{1,90}", re.ASCII)

_CLUSTER = "https://arg-neu-sandbox-sf.arg.core.windows.net"


def azure_app(
    tenant: Tenant, clock: SandboxClock, *, client_id: str, client_secret: str, quota: int | None = QUOTA
) -> Starlette:
    """Return the ASGI app; `app.state.graph` has its counters and its quota, which tests and benchmarks may set."""
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
        """Forget the requests that were taken."""
        with self._lock:
            self._taken.clear()
            self.refused = 0

    def take(self) -> tuple[bool, dict[str, str]]:
        """Return whether one more request passes, and the headers with the state of the quota."""
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
class _Question:
    """A request body, read."""

    query: str
    scope: Scope
    top: int


class ResourceGraph:
    """`POST /providers/Microsoft.ResourceGraph/resources`.

    `requests` counts those that were answered with rows or with an error of the query, not those that were throttled.
    `before_answer` is called before each of them: what a test lets happen between two requests. With `names_no_access`
    a request that can read nothing gets the 400 that some tenants report, in place of 403 or no rows.
    """

    def __init__(self, tenant: Tenant, clock: SandboxClock, authority: Authority, quota: Quota) -> None:
        self.quota = quota
        self._engine = QueryEngine(tenant, clock)
        self._tenant = tenant
        self._clock = clock
        self._authority = authority
        self.clear()

    def clear(self) -> None:
        """Set the counters to zero, and let nothing happen before an answer."""
        self.requests = 0
        self.rows = 0
        self.before_answer: Callable[[], object] = lambda: None
        self.names_no_access = False
        self.quota.clear()

    async def resources(self, request: Request) -> Response:
        """Answer a query: its rows, as many as fit into one answer."""
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
        return Response(content, media_type="application/json", headers=self._dated(headers))

    def _answer(self, body: bytes) -> bytes:
        self.before_answer()
        asked = _read(body)
        self._check_access(asked.scope)
        try:
            result = self._engine.run(asked.query, asked.scope, top=asked.top)
        except QueryError as error:
            raise _ServiceError(400, "BadRequest", _detail("InvalidQuery", _INVALID_QUERY), error.detail) from error
        content = _body(result, asked)
        if len(content) > MAX_PAYLOAD:
            raise _ServiceError(400, "BadRequest", _detail("ResponsePayloadTooLarge", _TOO_LARGE.format(len(content))))
        self.rows += len(result.rows)
        return content

    def _check_access(self, scope: Scope) -> None:
        groups, subscriptions = scope.management_groups, scope.subscriptions
        if invalid := [name for name in subscriptions or () if not _GUID.fullmatch(name)]:
            raise _bad_request("SubscriptionsContainInvalidGuids", _INVALID_GUIDS, invalid)
        if invalid := [name for name in groups or () if not _MANAGEMENT_GROUP.fullmatch(name)]:
            raise _bad_request("ManagementGroupsContainInvalidIds", _INVALID_GROUPS, invalid)
        if subscriptions is not None and not self._tenant.readable_subscriptions(scope):
            if self.names_no_access:
                raise _bad_request("NoValidSubscriptionsInQueryRequest", _NO_VALID_SUBSCRIPTIONS, subscriptions)
            raise _ServiceError(403, "AccessDenied", _detail("AccessDenied", _DENIED))
        if groups is not None and not self._tenant.existing_management_groups(groups):
            raise _ServiceError(403, "AccessDenied", _detail("AccessDenied", _DENIED))
        if scope == Scope() and self.names_no_access and not self._tenant.readable_subscriptions(scope):
            raise _bad_request("NoValidSubscriptionsInQueryRequest", _NO_VALID_SUBSCRIPTIONS, ())

    def _error(self, refused: _ServiceError, headers: Mapping[str, str]) -> Response:
        now = self._clock.now()
        message = (
            f"Please provide below info when asking for support: timestamp = {now:%Y-%m-%dT%H:%M:%S.%f}0Z, "
            f"correlationId = {headers['x-ms-correlation-request-id']}."
        )
        error = {"code": refused.code, "message": message, "details": list(refused.details)}
        return JSONResponse({"error": error}, status_code=refused.status, headers=self._dated(headers))

    def _dated(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {**headers, "Date": format_datetime(self._clock.now(), usegmt=True)}


def _body(result: Result, asked: _Question) -> bytes:
    """The answer. With rows left over it has a skip token, or where there can be none says that rows are cut off."""
    more = len(result.rows) < result.total
    token = f',"$skipToken":"{_skip_token(len(result.rows), asked.top)}"' if more and result.pageable else ""
    truncated = "true" if more and not result.pageable else "false"
    return (
        f'{{"totalRecords":{result.total},"count":{len(result.rows)},"data":[{",".join(result.rows)}],"facets":[],'
        f'"resultTruncated":"{truncated}"{token}}}'
    ).encode()


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
# As reported in github.com/Azure/aztfexport/issues/331.
_NO_VALID_SUBSCRIPTIONS = "There must be at least one subscription that is eligible to contain resources. Given: '{}'."
# The codes are on record, the wording of these two is not.
_INVALID_GUIDS = "The subscriptions contain invalid GUIDs. Given: '{}'."
_INVALID_GROUPS = "The management groups contain invalid ids. Given: '{}'."
_TOO_LARGE = (
    f"Response payload size is {{}}, and has exceeded the limit of {MAX_PAYLOAD}. Please consider querying less "
    "data at a time and make paginated call if needed."
)


def _detail(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message}


def _bad(message: str) -> _ServiceError:
    # The refusals of a malformed request are not on record; their status and shape are, their wording is not.
    return _ServiceError(400, "BadRequest", _detail("InvalidRequest", message))


def _bad_request(code: str, message: str, names: Sequence[str]) -> _ServiceError:
    return _ServiceError(400, "BadRequest", _detail(code, message.format(",".join(names))))


def _read(body: bytes) -> _Question:
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
    if subscriptions and len(subscriptions) > MAX_SUBSCRIPTIONS:
        raise _bad(f"{len(subscriptions)} subscriptions are more than the {MAX_SUBSCRIPTIONS} of one request.")
    options = given.get("options") or {}
    if (layout := options.get("resultFormat", "objectArray")) != "objectArray":
        raise _bad(f"resultFormat {layout!r} is not objectArray, the only one that the sandbox plays.")
    if unplayed := options.keys() & {"$skip", "$skipToken"}:
        raise _bad(f"The sandbox does not play {min(unplayed)}: an offset misses rows of a tenant that changes.")
    top = options.get("$top", MAX_ROWS)
    if not isinstance(top, int) or not 1 <= top <= MAX_ROWS:
        raise _bad(f"$top must be 1 to {MAX_ROWS}.")
    return _Question(given["query"], Scope(subscriptions, groups), top)


def _names(given: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    names: Sequence[Any] | None = given.get(key)
    if names is None or names == []:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _bad(f"{key} is not a list of names.")
    return tuple(names)


def _skip_token(skip: int, top: int) -> str:
    """Return an offset in the form of the tokens on record; clients are not to look inside."""
    inner = {"$id": "1", "MaxRows": top, "RowsToSkip": skip, "KustoClusterUrl": _CLUSTER}
    return base64.b64encode(json.dumps(inner, indent=2).replace("\n", "\r\n").encode()).decode()
