"""The table of all that can come in place of a response of Azure, with its treatment and a sentence for a person.

A failure is first described in one line (`Failure.came`): where it came from, then the status, what its body is, and
the codes in it. The first row of FAILURES whose pattern matches that line says how it is treated and in which sentence
it ends. To learn what happens on a 407, read the table from its top.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import NamedTuple

from azure_port_sync.core.errors import AzureError, one_line
from azure_port_sync.core.foreign_json import read_json
from azure_port_sync.resource_graph.quota import retry_after


class NoAccessError(AzureError):
    """The principal may read nothing of what a request names."""


class Treatment(StrEnum):
    """The ways to deal with a failure."""

    RETRY = "retry"  # with growing waits until the deadline
    SPLIT = "split"  # its rows are more bytes than Azure sends at once: ask for them in parts
    NO_ACCESS = "no access"  # of subscriptions that a request names, an answer: no rows; otherwise as CONFIGURATION
    CONFIGURATION = "configuration"  # a person has to change something
    FATAL = "fatal"  # nothing that a setting could change


class Row(NamedTuple):
    """One row of the table.

    `came` is a pattern that the description begins with. `sentence` may name what was last seen ({seen}), Azure's own
    words ({reason}), the wait that it asked for ({wait}) and, for what was retried, for how long ({minutes}).
    """

    came: str
    treatment: Treatment
    sentence: str


_READER = (
    "Give it the role Reader on the subscriptions (or a management group above them) that AZURE_SUBSCRIPTION_IDS and "
    "AZURE_MANAGEMENT_GROUPS name."
)
_NEXT_RUN = "nothing was sent. The next run tries again."
_PROXY = (
    "A proxy or firewall on the way seems to answer in Azure's place: check HTTPS_PROXY and NO_PROXY, and that it lets "
    "requests to Azure through (to AZURE_RESOURCE_MANAGER_URL and AZURE_AUTHORITY_HOST, where they are set)."
)
_NETWORK = (
    "Check the network, AZURE_CLOUD, AZURE_AUTHORITY_HOST, AZURE_RESOURCE_MANAGER_URL and, behind a private "
    "certificate authority, REQUESTS_CA_BUNDLE."
)
_CREDENTIALS = (
    "Azure refused the credentials: {reason}. Check AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or the "
    "identity that this machine signs in with."
)
_OTHER_CLOUD = (
    "The sign-in is for another cloud than the one that is asked: {reason}. Check AZURE_CLOUD, and "
    "AZURE_RESOURCE_MANAGER_URL and AZURE_AUTHORITY_HOST, where they are set."
)
_NO_IDENTITY = (
    "Nothing on this machine can sign in to Azure: {reason}. Set AZURE_TENANT_ID, AZURE_CLIENT_ID and "
    "AZURE_CLIENT_SECRET, or give the machine an identity."
)
_NO_ACCESS = f"Azure does not let this principal read: {{reason}}. {_READER}"
_FORBIDDEN = f"Azure could not be asked: the answer was {{seen}}. If it is Azure's: {_READER} If it is not: {_PROXY}"
_NO_SUCH_GROUP = (
    "Azure does not know the management groups that AZURE_MANAGEMENT_GROUPS names: {reason}. Write their ids, which "
    "are not their display names, and check that they are of this tenant."
)
_NO_SUCH_SUBSCRIPTION = "Azure does not take the subscription ids of a query: {reason}. Check AZURE_SUBSCRIPTION_IDS."
_TOO_MANY = (
    "Azure Resource Graph left subscriptions out, because there are more than one query may span. Name them in "
    "AZURE_SUBSCRIPTION_IDS, or set narrower AZURE_MANAGEMENT_GROUPS."
)
_KEPT_FAILING = (
    f"Azure Resource Graph kept failing for {{minutes}} minutes, and its last answer was {{seen}}; {_NEXT_RUN}"
)
_NO_QUOTA = (
    "Azure Resource Graph let no query through for {minutes} minutes, because the quota of this principal is used up: "
    f"its last answer was {{seen}}, which asks to wait {{wait}}; {_NEXT_RUN} Other tools that query Azure a lot should "
    "have a principal of their own."
)
_KEPT_OUT = f"Azure could not be asked for {{minutes}} minutes: the last answer was {{seen}}. {_PROXY}"
_SHUT_OUT = f"Azure could not be asked: the answer was {{seen}}. {_PROXY}"
_UNREACHABLE = f"Azure could not be reached for {{minutes}} minutes: {{reason}}. {_NETWORK}"
_REFUSED = "Azure Resource Graph refused a query with {seen}: {reason}."
_NO_SIGN_IN = f"Signing in to Azure kept failing for {{minutes}} minutes: {{reason}}; {_NEXT_RUN}"

RETRY, SPLIT, NO_ACCESS, CONFIGURATION, FATAL = Treatment

#: Queries: the statuses and codes that are on record (github.com/Azure/cosmos-explorer/issues/1986,
#: github.com/Azure/aztfexport/issues/491, github.com/Azure/azure-cli-extensions/issues/3325). Sign-in: the codes that
#: learn.microsoft.com/entra/identity-platform/reference-error-codes calls transient; the other texts are those of
#: azure-identity and MSAL, which put what the network did into the words of a refusal.
FAILURES = (
    Row(r"query 400 .*ResponsePayloadTooLarge", SPLIT, _REFUSED),
    Row(r"query 400 .*NoValidSubscriptionsInQueryRequest", NO_ACCESS, _NO_ACCESS),
    Row(r"query 400 .*ManagementGroupsContainInvalidIds", CONFIGURATION, _NO_SUCH_GROUP),
    Row(r"query 400 .*SubscriptionsContainInvalidGuids", CONFIGURATION, _NO_SUCH_SUBSCRIPTION),
    Row(r"query 400 .*TooManySubscriptionsUnderScope", CONFIGURATION, f"{_TOO_MANY} (Azure said: {{reason}})"),
    Row(r"query 200 partial scope", CONFIGURATION, _TOO_MANY),
    Row(r"query (200 empty|(200|408|429|5..) page)", RETRY, _KEPT_OUT),
    Row(r"query (407|... page)", CONFIGURATION, _SHUT_OUT),
    Row(r"query 429", RETRY, _NO_QUOTA),
    Row(r"query (200|408|5..)", RETRY, _KEPT_FAILING),
    Row(r"query 401 .*InvalidAuthenticationTokenAudience|sign-in .*AADSTS500011\b", CONFIGURATION, _OTHER_CLOUD),
    Row(r"query 401", CONFIGURATION, _CREDENTIALS),
    Row(r"query 403 error", NO_ACCESS, _NO_ACCESS),
    Row(r"query 403", CONFIGURATION, _FORBIDDEN),
    Row(r"query 3..", CONFIGURATION, f"Azure could not be asked: the answer was {{seen}}. {_NETWORK}"),
    Row(r"query", FATAL, _REFUSED),
    Row(r"(network|sign-in) .*CERTIFICATE", CONFIGURATION, f"Azure could not be reached: {{reason}}. {_NETWORK}"),
    Row(
        r"(network|sign-in) .*Tunnel connection failed: 4",
        CONFIGURATION,
        f"Azure was not reached: {{reason}}. {_PROXY}",
    ),
    Row(r"network", RETRY, _UNREACHABLE),
    Row(r"sign-in unavailable", CONFIGURATION, _NO_IDENTITY),
    Row(r"sign-in .*AADSTS(90006|90012|90024|90033)\b", RETRY, _NO_SIGN_IN),
    Row(r"sign-in .*AADSTS\d", CONFIGURATION, _CREDENTIALS),
    Row(r"sign-in .*(HTTP Error: (408|429|5..)|the answer (was|asked))", RETRY, _NO_SIGN_IN),
    Row(r"sign-in .*(JSON is invalid|Expecting value|(No|Unexpected) response)", RETRY, f"{_NO_SIGN_IN} {_PROXY}"),
    Row(r"sign-in .*(Connection|IncompleteRead|timed out|Failed to resolve|Max retries)", RETRY, _UNREACHABLE),
    Row(r"sign-in", CONFIGURATION, _CREDENTIALS),
)

_FORMS = {"page": "a web page", "body": "a body that is not Azure's", "empty": "an empty body"}
_LONGEST_REASON = 500
_UNAVAILABLE = re.compile("unavailable|not found|not installed|could not be found|requires the")


@dataclass(frozen=True)
class Failure:
    """A failure that came in place of a response: its line for the table, and how a person would put it."""

    came: str
    seen: str
    reason: str
    retry_after: timedelta = timedelta(0)

    @property
    def row(self) -> Row:
        """The row of the table that this failure falls under."""
        return next(row for row in FAILURES if re.match(row.came, self.came, re.DOTALL))

    def error(self, *, after: timedelta) -> AzureError:
        """Return the error that ends the run; `after` is how long it was tried."""
        minutes, wait = after // timedelta(minutes=1), str(self.retry_after) if self.retry_after else "a while"
        kind = NoAccessError if self.row.treatment is NO_ACCESS else AzureError
        return kind(self.row.sentence.format(seen=self.seen, reason=self.reason, wait=wait, minutes=minutes))


def query_failure(status: int, headers: Mapping[str, str], body: bytes, secrets: Iterable[str] = ()) -> Failure:
    """Describe an answer to a query that is no response: an error, a page of a proxy, or a body that cannot be read.

    An error may repeat the `secrets` of a request; they are not shown.
    """
    wait = retry_after(headers) or timedelta(0)
    if leaves_subscriptions_out(headers):
        return Failure(f"query {status} partial scope", str(status), "")
    errors = _errors(body)
    if not errors:
        text = body.strip()
        form = "page" if text.startswith(b"<") else "body" if text else "empty"
        seen = f"{status} with {_FORMS[form]}"
        return Failure(f"query {status} {form}", seen, f"it answered {seen}", wait)
    codes, messages = (filter(None, texts) for texts in zip(*errors, strict=True))
    code = one_line(", ".join(codes), _LONGEST_REASON, secrets) or "no code"
    reason = one_line(" ".join(messages), _LONGEST_REASON, secrets) or f"it answered {status}"
    return Failure(f"query {status} error {code}", f"{status} ({code})", reason, wait)


def leaves_subscriptions_out(headers: Mapping[str, str]) -> bool:
    """Whether a response says that it spans fewer subscriptions than were asked for (learn.microsoft.com/azure/
    governance/resource-graph/concepts/guidance-for-throttled-requests).
    """
    return headers.get("x-ms-tenant-subscription-limit-hit", "").lower() == "true"


def network_failure(error: BaseException) -> Failure:
    """Describe an error of the network between here and Azure."""
    reason = one_line(str(error), _LONGEST_REASON)
    return Failure(f"network {type(error).__name__} {reason}", reason, reason)


def sign_in_failure(error: BaseException, secrets: Iterable[str] = ()) -> Failure:
    """Describe a sign-in that failed, in the words of the credential that failed last, without the `secrets`."""
    tried = _attempts(str(error))
    inner, unavailable = tried[-1], _UNAVAILABLE.search(tried[-1])
    reason = one_line("; ".join(tried) if unavailable else inner, _LONGEST_REASON, secrets)
    return Failure(f"sign-in {'unavailable' if unavailable else 'failed'} {reason}", reason, reason)


def _errors(body: bytes) -> list[tuple[str, str]]:
    """Return the codes and messages of an error body, none for another body; the useful ones are the inner ones."""
    try:
        error = read_json(body)["error"]
        inner = error.get("details") or [error]
        return [(str(one.get("code") or ""), str(one.get("message") or "")) for one in inner]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _attempts(text: str) -> list[str]:
    """Split the text of a failed sign-in into that of each credential that was tried.

    A chain stops at the first that could have signed in and was refused; those before it this machine does not have.
    """
    chain = text.partition("Attempted credentials:")[2].partition("To mitigate this issue")[0]
    attempts = chain.split("\n\t")[1:] or [text]
    return [" ".join(re.split(r" Trace ID:|\sVisit https:", attempt)[0].split()).rstrip(".") for attempt in attempts]
