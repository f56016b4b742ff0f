"""The client: one query in, all of its rows out, or one sentence that says why not.

Resource Graph pages by offset over live data, throttles per principal, and answers a query over too many rows with
an error; a reader that trusts the first answer loses resources. The Azure SDK retries a part of what is transient
for a POST (not a 429 without Retry-After, not 502, not 408), so its own retries are off and ours cover all of it.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast

import pyarrow as pa
from azure.core.credentials import TokenCredential
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.mgmt.resourcegraph import ResourceGraphClient
from azure.mgmt.resourcegraph.models import QueryRequest, QueryRequestOptions, QueryResponse
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import AzureError
from azure_port_sync.resource_graph.quota import QuotaLimiter, retry_after

logger = logging.getLogger(__name__)

#: The largest page that Resource Graph gives, and the smallest that reading can go on with: the last row of the page
#: before, and one more.
PAGE_SIZE = 1000
_LEAST_PAGE_SIZE = 2

_TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_DEADLINE = timedelta(minutes=5)
_BACKOFF = wait_random_exponential(multiplier=0.5, max=30)
_READ_AGAIN = 4
_PROGRESS = timedelta(seconds=10)

Page = list[dict[str, Any]]


@dataclass
class Usage:
    """What reading has cost so far."""

    requests: int = 0
    retries: int = 0


@dataclass(frozen=True)
class QueryScope:
    """The reach of one request: these subscriptions, or these management groups, or (neither) the whole tenant."""

    subscriptions: list[str] | None = None
    management_groups: list[str] | None = None


@dataclass
class _Pages:
    """What has been seen while paging, to notice that the data moved underneath."""

    started_at: datetime
    told_at: datetime
    size: int
    total: int | None = None
    rows: int = 0
    ids: set[int] = field(default_factory=set)
    last_id: str | None = None
    moved: bool = False

    @property
    def skip(self) -> int | None:
        """Where the next page begins: with the last row of this one, so that it shows whether rows before it moved."""
        return self.rows - 1 if self.rows else None

    def add(self, page: Page, total: int) -> Page:
        """The rows of a page that were not on the one before."""
        new = page
        if self.last_id is not None:
            self.moved = not page or page[0]["id"] != self.last_id
            new = page[1:]
        self.rows += len(new)
        self.ids.update(hash(row["id"]) for row in new)
        self.moved |= (self.total is not None and self.total != total) or len(self.ids) != self.rows
        self.total = total
        if new:
            self.last_id = new[-1]["id"]
        return new

    @property
    def number(self) -> int:
        """How many pages of this size the whole takes."""
        return math.ceil((self.total or 0) / self.size)


class DataMovedError(AzureError):
    """Rows came twice, one slipped by, or their number changed, each time that the `pages` of a query were read."""

    def __init__(self, pages: int) -> None:
        super().__init__(
            f"The result of a query changed {_READ_AGAIN} times while it was being read, so it cannot be known to "
            "be complete; nothing was sent. The next run tries again."
        )
        self.pages = pages


class NoAccessError(AzureError):
    """The principal may read nothing of what a request names."""


class ResourceGraph:
    """Queries Azure Resource Graph. Safe to share between threads.

    Raises AzureError when Azure refuses, when it stays unreachable for five minutes, or when its answer is not
    complete.
    """

    def __init__(self, credential: TokenCredential, clock: Clock, **client_options: Any) -> None:
        """`client_options` go to `ResourceGraphClient`: base_url, credential_scopes, connection_verify, ..."""
        self._client = ResourceGraphClient(
            credential, retry_total=0, connection_timeout=10, read_timeout=120, **client_options
        )
        self._clock = clock
        self._limiter = QuotaLimiter(clock)
        self._lock = threading.Lock()
        self.usage = Usage()

    @property
    def throttled_seconds(self) -> float:
        """Seconds that requests have waited for the quota."""
        return self._limiter.waited_seconds

    def close(self) -> None:
        self._client.close()

    def read(self, query: str, where: QueryScope, convert: Callable[[Page], pa.Table]) -> tuple[list[pa.Table], int]:
        """All pages of a query, each through `convert` as it comes in, and the total that Resource Graph claims.

        The query must project a unique `id` and order by it. A page is found by its offset, so each begins with the
        last row of the one before: rows that come or go before that one shift it, even when as many come as go. Then,
        and when a row comes twice or the number of rows changes, the whole is read again, up to four times in all
        (DataMovedError). So a row that is there throughout is read, once; of rows that come and go meanwhile, some are.
        """
        pages = 0
        for _ in range(_READ_AGAIN):
            now = self._clock.now()
            seen = _Pages(now, now, PAGE_SIZE)
            tables = []
            for page in self._pages(query, where, seen):
                if seen.moved:
                    break
                tables.append(convert(page))
            if not seen.moved and seen.rows == seen.total:
                return tables, seen.total
            pages = max(pages, seen.number)
        raise DataMovedError(pages)

    def _pages(self, query: str, where: QueryScope, seen: _Pages) -> Iterator[Page]:
        token: str | None = None
        while True:
            # Both override what the token says (learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/
            # resources/resources, QueryRequestOptions).
            options = QueryRequestOptions(top=seen.size, skip=seen.skip, skip_token=token, result_format="objectArray")
            try:
                response = self._ask(query, where, options)
            except HttpResponseError as error:
                if "ResponsePayloadTooLarge" in _codes(error) and seen.size > _LEAST_PAGE_SIZE:
                    seen.size = max(seen.size // 2, _LEAST_PAGE_SIZE)
                    continue
                raise _refused(error) from error
            page = cast("Page", response.data)  # a list, because the answer is asked for as objects
            new = seen.add(page, response.total_records)
            self._tell_progress(seen)
            yield new
            token = response.skip_token
            if token is None:
                break
        if response.result_truncated == "true":
            raise AzureError(
                "Azure Resource Graph cut a result short and offers no next page, so rows are missing; nothing was "
                "sent. Set a smaller SUBSCRIPTION_BATCH_SIZE, e.g. 100."
            )

    def _tell_progress(self, seen: _Pages) -> None:
        now = self._clock.now()
        if now - seen.told_at >= _PROGRESS:
            seen.told_at = now
            rate = max(seen.rows, 1) / (now - seen.started_at).total_seconds()
            left = ((seen.total or 0) - seen.rows) / rate
            logger.info(
                "Azure: %s of %s rows read, %s a second, %s s left",
                *(f"{number:,.0f}" for number in (seen.rows, seen.total or 0, rate, left)),
            )

    def _ask(self, query: str, where: QueryScope, options: QueryRequestOptions) -> QueryResponse:
        request = QueryRequest(
            query=query,
            subscriptions=where.subscriptions,
            management_groups=where.management_groups,
            options=options,
        )
        ends = self._clock.now() + _DEADLINE

        def time_left() -> float:
            return (ends - self._clock.now()).total_seconds()

        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            wait=lambda state: min(_wait(state), max(time_left(), 0.0)),
            stop=lambda _: time_left() <= 0,
            sleep=self._clock.sleep,
            before_sleep=self._before_retry,
            reraise=True,
        )
        try:
            return retrying(self._send, request)
        except (ClientAuthenticationError, ServiceRequestError, ServiceResponseError) as error:
            if not _is_network(error):
                raise AzureError(
                    f"Azure refused the credentials: {_first_line(error)}. Check AZURE_TENANT_ID, AZURE_CLIENT_ID and "
                    "AZURE_CLIENT_SECRET, or the identity that this machine signs in with."
                ) from None
            raise AzureError(
                f"Azure could not be reached: {_first_line(error)}. Check the network, AZURE_CLOUD, "
                "AZURE_AUTHORITY_HOST, AZURE_RESOURCE_MANAGER_URL and, behind a private certificate authority, "
                "REQUESTS_CA_BUNDLE."
            ) from None

    def _send(self, request: QueryRequest) -> QueryResponse:
        self._limiter.acquire()
        with self._lock:
            self.usage.requests += 1
        headers: Mapping[str, str] = {}

        def keep_headers(answer: Any) -> None:
            nonlocal headers
            headers = answer.http_response.headers

        try:
            return self._client.resources(request, raw_response_hook=keep_headers)
        finally:
            self._limiter.answered(headers)
            _refuse_partial_scope(headers)

    def _before_retry(self, state: RetryCallState) -> None:
        with self._lock:
            self.usage.retries += 1
        if state.outcome is not None and state.next_action is not None:
            error = state.outcome.exception()
            logger.warning("Azure: %s; asking again in %.0f s", str(error).partition("\n")[0], state.next_action.sleep)


def _is_transient(error: BaseException) -> bool:
    if _is_network(error):
        return "CERTIFICATE" not in str(error)
    return isinstance(error, HttpResponseError) and error.status_code in _TRANSIENT_STATUS


def _is_network(error: BaseException | None) -> bool:
    """Whether the network, not Azure, failed; a sign-in that cannot reach its host hides that in its causes."""
    while error is not None:
        if isinstance(error, ServiceRequestError | ServiceResponseError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _wait(state: RetryCallState) -> float:
    """Back off with jitter, and not less than the service asks for."""
    error = state.outcome.exception() if state.outcome else None
    asked = (
        retry_after(cast("Any", error.response).headers)
        if isinstance(error, HttpResponseError) and error.response
        else None
    )
    return float(_BACKOFF(state)) + (asked.total_seconds() if asked else 0.0)


def _refused(error: HttpResponseError) -> AzureError:
    if error.status_code == 403:
        return NoAccessError(
            f"Azure does not let this principal read: {_first_line(error)}. Give it the role Reader on the "
            "subscriptions (or a management group above them) that AZURE_SUBSCRIPTION_IDS and "
            "AZURE_MANAGEMENT_GROUPS name."
        )
    codes = ", ".join(_codes(error)) or "no code"
    if error.status_code in _TRANSIENT_STATUS:
        minutes = int(_DEADLINE.total_seconds() // 60)
        return AzureError(
            f"Azure Resource Graph went on answering {error.status_code} ({codes}) for {minutes} minutes; nothing "
            "was sent. The next run tries again."
        )
    return AzureError(f"Azure Resource Graph refused a query with {error.status_code} ({codes}): {_details(error)}")


def _refuse_partial_scope(headers: Mapping[str, str]) -> None:
    if headers.get("x-ms-tenant-subscription-limit-hit", "").lower() == "true":
        raise AzureError(
            "Azure Resource Graph left subscriptions out, because the tenant holds more than one query may span. "
            "Name them in AZURE_SUBSCRIPTION_IDS, or set narrower AZURE_MANAGEMENT_GROUPS."
        )


def _codes(error: HttpResponseError) -> list[str]:
    """The codes of an error body; the useful ones are the inner ones."""
    inner = getattr(error.error, "details", None) or []
    return [item.code for item in inner if item.code] or ([error.error.code] if error.error else [])


def _details(error: HttpResponseError) -> str:
    inner = getattr(error.error, "details", None) or []
    return " ".join(item.message for item in inner if item.message) or _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
