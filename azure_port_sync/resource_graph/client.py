"""The client: one query in, one response out, or one sentence that says why not.

It sends a request again for as long as what comes back is transient (`failures` says what is), waits for the quota,
and says whether the response holds the whole result. What to do with one that does not is for `parts`.

The Azure SDK signs in, gives the model of a request and sends it, without its retries, which leave out a part of what
is transient for a POST (a 429 without Retry-After, 502, 408), and without following redirects. `ResourceGraphClient` is
passed by: it decodes each answer, copies it into a model at five times the cost of reading it, and reports less of a
body that is not Azure's than the answer itself says.
"""

import base64
import json
import logging
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, TypeVar

from azure.core import PipelineClient, exceptions
from azure.core.credentials import AccessToken, TokenCredential
from azure.core.pipeline.policies import RequestIdPolicy, UserAgentPolicy
from azure.core.rest import HttpRequest, HttpResponse
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy
from azure.mgmt.resourcegraph.models import QueryRequest, QueryRequestOptions

from azure_port_sync import __version__
from azure_port_sync.core.clock import Clock, StoppableClock, wait_in_words
from azure_port_sync.core.errors import AzureError
from azure_port_sync.core.foreign_json import read_json
from azure_port_sync.resource_graph.failures import (
    Failure,
    Treatment,
    leaves_subscriptions_out,
    network_failure,
    query_failure,
    sign_in_failure,
)
from azure_port_sync.resource_graph.quota import QuotaLimiter
from azure_port_sync.resource_graph.transport import BoundedTransport

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The most rows that one response holds (learn.microsoft.com/rest/api/azureresourcegraph/resourcegraph/resources/
#: resources, QueryRequestOptions).
MAX_ROWS = 1000

#: For how long a request is sent again while what comes back is transient.
DEADLINE = timedelta(minutes=5)

#: The operation "Resources" (github.com/Azure/azure-rest-api-specs, specification/resourcegraph, stable/2021-03-01).
_PATH = "/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01"

#: A query that costs next to nothing, for the `Date` of its answer.
_CHEAP_QUERY = "resourcecontainers | take 1"

#: The grain of a `Date` header (RFC 9110, 5.6.7).
_GRAIN = timedelta(seconds=1)

_NOTABLE_SKEW = timedelta(minutes=1)
_LONGEST_BACKOFF_SECONDS = 30.0


@dataclass
class Usage:
    """The cost of reading so far."""

    requests: int = 0
    retries: int = 0


@dataclass(frozen=True)
class QueryScope:
    """The reach of one request: these subscriptions, or these management groups, or (neither) the whole tenant."""

    subscriptions: Sequence[str] | None = None
    management_groups: Sequence[str] | None = None


@dataclass(frozen=True)
class Response:
    """The response to one query; `complete` says whether its rows are the whole result, of `total_records` rows.

    One that is too large to be sent is not complete, and has no rows. `refused` are the subscriptions of a request of
    which Azure lets this principal read none.
    """

    rows: list[Any]
    total_records: int
    complete: bool
    refused: Sequence[str] = ()


class ResourceGraph:
    """Queries Azure Resource Graph. Safe to share between threads.

    Raises AzureError when Azure refuses, or when it keeps failing until the deadline.
    """

    def __init__(
        self,
        credential: TokenCredential,
        clock: Clock,
        *,
        base_url: str,
        credential_scopes: Sequence[str],
        connection_verify: bool | str = True,
        deadline: timedelta = DEADLINE,
        max_rows: int = MAX_ROWS,
        secrets: Sequence[str] = (),
    ) -> None:
        """`connection_verify` may name a file of certificate authorities.

        `deadline` ends the retries of a request, a response holds `max_rows`, and no error shows `secrets`.
        """
        self._credential = _Credential(credential)
        self._credential_scopes = credential_scopes
        self._client: PipelineClient[HttpRequest, HttpResponse] = PipelineClient(
            base_url,
            policies=[
                RequestIdPolicy(),
                UserAgentPolicy(f"azure-port-sync/{__version__}"),
                ARMChallengeAuthenticationPolicy(self._credential, *credential_scopes),
            ],
            transport=BoundedTransport(clock, connection_verify=connection_verify),
        )
        self._url = self._client.format_url(_PATH)
        self.clock = clock
        self.max_rows = max_rows
        self._deadline = deadline
        self._secrets = secrets
        self._waits = StoppableClock(clock)
        self._limiter = QuotaLimiter(self._waits)
        self._lock = threading.Lock()
        self._skew: timedelta | None = None
        self._skew_was_logged = False
        self.usage = Usage()

    @property
    def throttled_seconds(self) -> float:
        """Seconds that requests have waited for the quota."""
        return self._limiter.waited_seconds

    @property
    def skew(self) -> timedelta:
        """How far this machine's clock is ahead of Azure's, to a second; zero before the first answer."""
        return self._skew or timedelta(0)

    def now(self) -> datetime:
        """Return the time by Azure's clock, in which its records are dated; sends a query if none was answered yet."""
        if self._skew is None:
            try:
                self.query(_CHEAP_QUERY, QueryScope())
            except AzureError:
                if self._skew is None:  # a refusal has its `Date` as well
                    raise
        return self.clock.now() - self.skew

    def close(self) -> None:
        self._client.close()

    def stop(self) -> None:
        """Begin no further request, for good; what waits for its turn ends within a second."""
        self._waits.stop()

    def query(self, query: str, scope: QueryScope) -> Response:
        """Return the response to a query, which is sent again until the deadline while failures are transient."""
        return self._keep_trying(lambda: self._send_request(query, scope))

    def tenant(self) -> str:
        """Return the id of the tenant that issues the tokens."""
        token = self._keep_trying(self._token)
        try:
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            return str(claims["tid"])
        except (ValueError, IndexError, KeyError, TypeError):
            unreadable = AzureError("Azure's access token does not say of which tenant it is: set AZURE_TENANT_ID.")
        raise unreadable  # from outside the handler: the cause would carry a part of the token

    def _token(self) -> str | Failure:
        try:
            return self._credential.get_token(*self._credential_scopes).token
        except _SignInError as error:
            return sign_in_failure(error.inner, self._secrets)

    def _keep_trying(self, once: Callable[[], T | Failure]) -> T:
        started = self.clock.elapsed()
        for attempt in count():
            self._waits.raise_if_stopped()
            outcome = once()
            if not isinstance(outcome, Failure):
                return outcome
            tried = self.clock.elapsed() - started
            if outcome.row.treatment is not Treatment.RETRY or tried >= self._deadline:
                raise outcome.error(after=tried)
            self._wait(outcome, attempt, longest=self._deadline - tried)
        raise AssertionError("count() never ends")

    def _wait(self, failure: Failure, attempt: int, longest: timedelta) -> None:
        """Back off with jitter, and not less than Azure asks for."""
        backoff = random.uniform(0, min(0.5 * 2**attempt, _LONGEST_BACKOFF_SECONDS))  # noqa: S311  (jitter, no secret)
        seconds = min(backoff + failure.retry_after.total_seconds(), longest.total_seconds())
        with self._lock:
            self.usage.retries += 1
        logger.warning("Azure: %s; waiting %s", failure.seen, wait_in_words(self.clock, seconds))
        self._waits.sleep(seconds)

    def _send_request(self, query: str, scope: QueryScope) -> Response | Failure:
        body = QueryRequest(
            query=query,
            subscriptions=None if scope.subscriptions is None else list(scope.subscriptions),
            management_groups=None if scope.management_groups is None else list(scope.management_groups),
            options=QueryRequestOptions(top=self.max_rows, result_format="objectArray"),
        )
        request = HttpRequest("POST", self._url, headers={"Accept": "application/json"}, json=body.serialize())
        headers: Mapping[str, str] = {}
        self._limiter.acquire()
        with self._lock:
            self.usage.requests += 1
        sent = self.clock.now()
        try:
            answer = self._client.send_request(request)
            headers = answer.headers
            self._compare_clocks(headers, sent)
        except _SignInError as error:
            return sign_in_failure(error.inner, self._secrets)
        except exceptions.AzureError as error:
            return network_failure(error)
        finally:
            self._limiter.answered(headers)
        if (response := _response(answer)) is not None:
            return response
        failure = query_failure(answer.status_code, answer.headers, answer.content, self._secrets)
        return Response([], 0, complete=False) if failure.row.treatment is Treatment.SPLIT else failure

    def _compare_clocks(self, headers: Mapping[str, str], sent: datetime) -> None:
        """Take in the `Date` of an answer of Resource Graph, which tells the quota in each; a proxy may be elsewhen.

        It was written between `sent` and now, up to a second after what it says. Of the skews for which that can be,
        the smallest counts.
        """
        if "x-ms-user-quota-remaining" not in headers:
            return
        try:
            date = parsedate_to_datetime(headers.get("Date", ""))
            most, least = self.clock.now() - date, sent - date - _GRAIN
        except (ValueError, TypeError):
            return
        with self._lock:
            self._skew = max(least, min(most, timedelta(0)))
            is_news = abs(self._skew) > _NOTABLE_SKEW and not self._skew_was_logged
            self._skew_was_logged |= is_news
        if is_news:
            logger.warning(
                "This machine's clock is %s %s Azure's; change records are read by Azure's. Set the machine's clock "
                "(NTP): Port, and the tokens of both, go by it.",
                timedelta(seconds=round(abs(self._skew).total_seconds())),
                "ahead of" if self._skew > timedelta(0) else "behind",
            )


class _SignInError(Exception):
    """A sign-in that failed, however the credential reports it."""

    def __init__(self, inner: Exception) -> None:
        super().__init__(str(inner))
        self.inner = inner


class _Credential:
    """A credential whose errors can be distinguished from those of the network behind it."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        try:
            return self._credential.get_token(*scopes, **options)
        except Exception as error:
            raise _SignInError(error) from error


def _response(answer: HttpResponse) -> Response | None:
    """Read a response; None for an answer that is none.

    It is complete if it names no next page and was not cut off: `resultTruncated` alone says "false" on a first page
    of many (elastic/cloudbeat pull request 7424: whoever trusted it lost all resources after the first page).
    """
    if answer.status_code != 200 or leaves_subscriptions_out(answer.headers):
        return None
    try:
        content = read_json(answer.content)
        rows, total = content["data"], content["totalRecords"]
        complete = content.get("$skipToken") is None and str(content["resultTruncated"]).lower() == "false"
    except (ValueError, TypeError, KeyError):
        return None
    return Response(rows, total, complete) if isinstance(rows, list) and isinstance(total, int) else None
