"""Reading Azure over HTTP: every row once, or one sentence that says why not."""

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from azure.identity import ClientSecretCredential
from hypothesis import given, settings
from hypothesis import strategies as st

from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.resource_graph.client import Page, Where
from azure_port_sync.resource_graph.quota import QuotaLimiter, quota_of, retry_after
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.sync.errors import AzureError
from azure_port_sync.sync.rows import records
from azure_port_sync.sync.scope import Scope
from azure_port_sync.sync.windows import Window
from azure_port_sync_tests.conftest import NOW, ReaderOf, SteppedClock

_ALL = "resources\n| project id, name\n| order by id asc"
_TOO_LARGE = {
    "error": {
        "code": "BadRequest",
        "message": "Please provide below info when asking for support",
        "details": [{"code": "ResponsePayloadTooLarge", "message": "exceeded the limit of 16777216"}],
    }
}


def _ids(page: Page) -> pa.Table:
    return pa.table({"id": [row["id"] for row in page]})


def _read(graph: ResourceGraph, query: str = _ALL, convert: Callable[[Page], pa.Table] = _ids) -> list[str]:
    tables, total = graph.read(query, Where(), convert)
    ids = [str(value) for table in tables for value in table.column("id").to_pylist()]
    assert len(ids) == total
    return ids


def _fill(sandbox: Sandbox, resources: int, groups: int = 2) -> list[str]:
    sandbox.tenant.grow(resources, groups=groups, subscriptions=1)
    return sorted(row["id"] for row in sandbox.tenant.resources())


def _one_sentence(error: pytest.ExceptionInfo[AzureError], *words: str) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    for word in words:
        assert word in text
    return text


# -- paging ----------------------------------------------------------------------------------------------------------


def test_pages_on_until_there_is_no_token(sandbox: Sandbox, reader: AzureReader) -> None:
    """A client that stopped at `resultTruncated == "false"` lost every resource after the first thousand."""
    wanted = _fill(sandbox, 2001)
    assert _read(reader.graph) == wanted
    assert reader.graph.usage.requests == 3


@pytest.fixture(scope="module")
def full_sandbox() -> Any:
    """A tenant of 3,500 resources that nothing changes, and a client without its own quota to wait for."""
    with Sandbox(estate=False, quota=False) as running:
        running.clock.set(NOW)
        running.tenant.grow(3500, groups=5, subscriptions=2)
        environment = running.environment()
        verify = environment["REQUESTS_CA_BUNDLE"]
        with ClientSecretCredential(
            environment["AZURE_TENANT_ID"],
            environment["AZURE_CLIENT_ID"],
            environment["AZURE_CLIENT_SECRET"],
            authority=environment["AZURE_AUTHORITY_HOST"],
            connection_verify=verify,
            disable_instance_discovery=True,
        ) as credential:
            graph = ResourceGraph(
                credential,
                SteppedClock(running.clock),
                base_url=environment["AZURE_RESOURCE_MANAGER_URL"],
                credential_scopes=["https://management.azure.com/.default"],
                connection_verify=verify,
            )
            yield running, graph
            graph.close()


@given(st.integers(0, 3500) | st.sampled_from([0, 1, 999, 1000, 1001, 2000, 3000]), st.data())
@settings(max_examples=25)
def test_every_row_comes_exactly_once(
    full_sandbox: tuple[Sandbox, ResourceGraph], rows: int, data: st.DataObject
) -> None:
    """Whatever their number, and wherever a page that is too large for an answer halves the rest."""
    sandbox, graph = full_sandbox
    sandbox.faults.clear()
    for skip in data.draw(st.lists(st.integers(0, 4), max_size=3)):
        sandbox.faults.add(Fault("azure", status=400, body=_TOO_LARGE, path="/resources", skip=skip))
    query = f"resources\n| where name < 'res-{rows:07d}'\n| project id, name\n| order by id asc"
    ids = _read(graph, query)
    assert len(ids) == len(set(ids)) == rows
    assert ids == sorted(ids)


def test_a_page_too_large_is_halved(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = _fill(sandbox, 1200)
    fault = Fault("azure", status=400, body=_TOO_LARGE, in_body="1000", times=None)
    sandbox.faults.add(fault)
    assert _read(reader.graph) == wanted
    assert reader.graph.usage.requests == 1 + 3
    assert reader.graph.usage.retries == 0


def test_one_row_too_large_is_an_error(sandbox: Sandbox, reader: AzureReader) -> None:
    _fill(sandbox, 1)
    sandbox.faults.add(Fault("azure", status=400, body=_TOO_LARGE, path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        _read(reader.graph)
    _one_sentence(error, "ResponsePayloadTooLarge")


class _Meddling:
    """Converts pages, and changes the tenant after the first page of a reading, so many times."""

    def __init__(self, change: Callable[[], object], times: int) -> None:
        self._change = change
        self._left = times
        self.readings = 0

    def __call__(self, page: Page) -> pa.Table:
        if len(page) == 1000 and page[0]["id"] == self.first_id(page):
            self.readings += 1
            if self._left:
                self._left -= 1
                self._change()
        return _ids(page)

    def first_id(self, page: Page) -> str:
        """Only the first page begins with the least id there is."""
        self._least = min(getattr(self, "_least", page[0]["id"]), page[0]["id"])
        return str(self._least)


def test_a_row_deleted_between_pages_is_noticed(sandbox: Sandbox, reader: AzureReader) -> None:
    """The token is an offset: one row less on the first page, and a row slips past the second unseen."""
    wanted = _fill(sandbox, 1500)
    meddling = _Meddling(lambda: sandbox.tenant.delete_resource(wanted[10]), times=1)
    assert _read(reader.graph, convert=meddling) == [one for one in wanted if one != wanted[10]]
    assert meddling.readings == 2


def test_a_row_created_between_pages_is_noticed(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = _fill(sandbox, 1500)
    group_id = wanted[0].partition("/providers/")[0]
    meddling = _Meddling(lambda: sandbox.tenant.create_resource(group_id, "Microsoft.AAA/x", "first"), times=1)
    ids = _read(reader.graph, convert=meddling)
    assert len(ids) == len(set(ids)) == 1501
    assert set(wanted) < set(ids)


def test_a_row_deleted_after_the_last_page_was_begun_is_noticed(sandbox: Sandbox, reader: AzureReader) -> None:
    """A total that is right on every page, and fewer rows than that in all."""
    wanted = _fill(sandbox, 1001)
    meddling = _Meddling(lambda: sandbox.tenant.delete_resource(wanted[0]), times=1)
    assert _read(reader.graph, convert=meddling) == wanted[1:]


def test_fewer_rows_than_azure_claims_are_read_again(sandbox: Sandbox, reader: AzureReader) -> None:
    """Resource Graph has been seen to answer with too few rows, and its users to delete what it left out."""
    wanted = _fill(sandbox, 5)
    rows = [{"id": one, "name": "x"} for one in wanted[:3]]
    body = {"totalRecords": 5, "count": 3, "data": rows, "facets": [], "resultTruncated": "false"}
    sandbox.faults.add(Fault("azure", status=200, body=body, path="/resources"))
    assert _read(reader.graph) == wanted
    assert reader.graph.usage.requests == 2


def test_data_that_never_rests_is_given_up(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = iter(_fill(sandbox, 1500)[1:])
    meddling = _Meddling(lambda: sandbox.tenant.delete_resource(next(wanted)), times=10)
    with pytest.raises(AzureError) as error:
        _read(reader.graph, convert=meddling)
    assert meddling.readings == 4
    _one_sentence(error, "changed 4 times", "The next run tries again")


def test_what_moves_too_fast_is_read_in_smaller_parts(
    sandbox: Sandbox, reader: AzureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a large tenant something is created or deleted every minute; a nightly run must end all the same."""
    sandbox.graph.quota.limit = None
    sandbox.tenant.grow(2400, groups=4, subscriptions=2)
    subscriptions = sorted({row["subscriptionId"] for row in sandbox.tenant.containers()})
    doomed = iter([row["id"] for row in sandbox.tenant.resources()][:50])
    read = reader.graph.read

    def while_it_moves(query: str, where: Where, convert: Any) -> Any:
        def convert_and_meddle(page: Any) -> Any:
            sandbox.tenant.delete_resource(next(doomed))
            return convert(page)

        together = len(where.subscriptions or []) > 1
        return read(query, where, convert_and_meddle if together else convert)

    monkeypatch.setattr(reader.graph, "read", while_it_moves)

    found = reader.inventory(subscriptions)

    assert set(found.frame["azure_id"]) == {row["id"] for row in sandbox.tenant.resources()}
    assert found.total_records == found.rows


def test_a_result_cut_short_without_a_token_is_an_error(sandbox: Sandbox, reader: AzureReader) -> None:
    """`resultTruncated` without a token means that rows are missing, not that this was the last page."""
    _fill(sandbox, 1500)
    with pytest.raises(AzureError) as error:
        _read(reader.graph, "resources | project id, name | take 1200")
    _one_sentence(error, "cut a result short")


def test_subscriptions_left_out_by_azure_are_an_error(sandbox: Sandbox, reader: AzureReader) -> None:
    body = {"totalRecords": 0, "count": 0, "data": [], "facets": [], "resultTruncated": "false"}
    headers = {"x-ms-tenant-subscription-limit-hit": "true"}
    sandbox.faults.add(Fault("azure", status=200, headers=headers, body=body, path="/resources"))
    with pytest.raises(AzureError) as error:
        _read(reader.graph)
    _one_sentence(error, "AZURE_SUBSCRIPTION_IDS", "AZURE_MANAGEMENT_GROUPS")


# -- what is transient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_answers_are_retried(sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, status: int) -> None:
    """The SDK retries neither 408, 502 nor a 429 without Retry-After when the request is a POST."""
    wanted = _fill(sandbox, 3)
    sandbox.faults.add(Fault("azure", status=status, path="/resources", times=3))
    assert _read(reader.graph) == wanted
    assert (reader.graph.usage.requests, reader.graph.usage.retries, len(clock.slept)) == (4, 3, 3)


@pytest.mark.parametrize("body", [None, "<html>Bad gateway</html>", {"error": {"code": "x", "message": "y"}}, {}])
def test_transient_answers_with_any_body_are_retried(sandbox: Sandbox, reader: AzureReader, body: Any) -> None:
    wanted = _fill(sandbox, 3)
    sandbox.faults.add(Fault("azure", status=502, body=body, path="/resources"))
    assert _read(reader.graph) == wanted


def test_a_connection_that_breaks_is_retried(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = _fill(sandbox, 3)
    sandbox.faults.add(Fault("azure", kind="reset", path="/resources", times=2))
    assert _read(reader.graph) == wanted
    assert reader.graph.usage.retries >= 1


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"Retry-After": "17"}, 17),
        ({"x-ms-user-quota-resets-after": "00:00:23"}, 23),
        ({"Retry-After": "2", "x-ms-user-quota-resets-after": "00:01:05"}, 65),
        ({"Retry-After": "65", "x-ms-user-quota-resets-after": "00:00:02"}, 65),
    ],
    ids=str,
)
def test_waits_as_long_as_azure_asks(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, headers: dict[str, str], least: int
) -> None:
    """Requests sent before Retry-After has elapsed are refused as well, and cost quota."""
    wanted = _fill(sandbox, 1)
    sandbox.faults.add(Fault("azure", status=429, headers=headers, path="/resources"))
    started = clock.now()
    assert _read(reader.graph) == wanted
    assert timedelta(seconds=least) <= clock.now() - started <= timedelta(seconds=least + 10)


def test_azure_that_stays_away_ends_in_one_sentence(sandbox: Sandbox, reader: AzureReader, clock: SteppedClock) -> None:
    sandbox.faults.add(Fault("azure", status=503, path="/resources", times=None))
    started = clock.now()
    with pytest.raises(AzureError) as error:
        _read(reader.graph)
    text = _one_sentence(error, "503")
    (minutes,) = map(int, re.findall(r"for (\d+) minutes", text))
    assert timedelta(minutes=minutes - 1) < clock.now() - started < timedelta(minutes=minutes + 1)


def test_a_very_long_retry_after_does_not_outlast_the_deadline(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock
) -> None:
    """A day asked for by a proxy would hold the run, and every run queued behind it, for a day."""
    sandbox.faults.add(Fault("azure", status=429, headers={"Retry-After": "86400"}, path="/resources", times=None))
    started = clock.now()
    with pytest.raises(AzureError):
        _read(reader.graph)
    assert clock.now() - started < timedelta(hours=1)


def test_a_network_that_stays_broken_names_what_to_look_at(sandbox: Sandbox, reader: AzureReader) -> None:
    sandbox.faults.add(Fault("azure", kind="reset", path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        _read(reader.graph)
    _one_sentence(error, "AZURE_RESOURCE_MANAGER_URL", "REQUESTS_CA_BUNDLE")


# -- what is not -----------------------------------------------------------------------------------------------------


def _body(code: str, *details: tuple[str, str]) -> dict[str, Any]:
    inner = [{"code": inner_code, "message": message} for inner_code, message in details]
    return {"error": {"code": code, "message": "m", "details": inner}}


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, _body("InvalidAuthenticationToken"), ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"]),
        (403, _body("AccessDenied"), ["Reader", "AZURE_SUBSCRIPTION_IDS", "AZURE_MANAGEMENT_GROUPS"]),
        (
            400,
            _body("BadRequest", ("InvalidQuery", "Query is invalid."), ("ParserFailure", "line 1")),
            ["400", "InvalidQuery", "ParserFailure", "Query is invalid."],
        ),
        (
            400,
            _body("BadRequest", ("TooManySubscriptionsUnderScope", "allowed limit 18000")),
            ["TooManySubscriptionsUnderScope", "allowed limit 18000"],
        ),
        (404, None, ["404"]),
        (400, "<html>", ["400"]),
        (403, None, ["Reader"]),
    ],
)
def test_refusals_are_one_sentence_and_not_retried(
    sandbox: Sandbox, reader: AzureReader, status: int, body: Any, words: list[str]
) -> None:
    sandbox.faults.add(Fault("azure", status=status, body=body, path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        _read(reader.graph)
    _one_sentence(error, *words)
    assert reader.graph.usage.requests == 1


def test_azures_own_words_about_a_bad_query_are_shown(sandbox: Sandbox, reader: AzureReader) -> None:
    _fill(sandbox, 1)
    with pytest.raises(AzureError) as error:
        _read(reader.graph, "resources | project id | summarise count()")
    _one_sentence(error, "InvalidQuery", "InvalidQueryLanguage")


def test_a_wrong_client_secret_is_one_sentence_without_the_secret(sandbox: Sandbox, clock: SteppedClock) -> None:
    environment = sandbox.environment()
    secret = "not-the-secret-0123456789"
    verify = environment["REQUESTS_CA_BUNDLE"]
    with ClientSecretCredential(
        environment["AZURE_TENANT_ID"],
        environment["AZURE_CLIENT_ID"],
        secret,
        authority=environment["AZURE_AUTHORITY_HOST"],
        connection_verify=verify,
        disable_instance_discovery=True,
    ) as credential:
        graph = ResourceGraph(
            credential,
            clock,
            base_url=sandbox.azure_url,
            credential_scopes=["https://management.azure.com/.default"],
            connection_verify=verify,
        )
        with pytest.raises(AzureError) as error:
            _read(graph)
        graph.close()
    assert secret not in _one_sentence(error, "AZURE_CLIENT_SECRET")


# -- the quota -------------------------------------------------------------------------------------------------------


class _PlainClock:
    """A clock that stands still but for sleeping; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = NOW

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += timedelta(seconds=seconds)


def _busiest(instants: list[datetime]) -> int:
    """The most requests within any five seconds that begin with a request."""
    return max(sum(one <= other < one + timedelta(seconds=5) for other in instants) for one in instants)


def test_fifteen_requests_in_five_seconds_and_no_more() -> None:
    clock = _PlainClock()
    limiter = QuotaLimiter(clock)
    instants = []
    for _ in range(50):
        limiter.acquire()
        instants.append(clock.now())
        limiter.answered({})
    assert _busiest(instants) == 15
    assert limiter.waited_seconds == 15
    assert instants[-1] - instants[0] == timedelta(seconds=15)


def test_threads_share_one_quota() -> None:
    clock = _PlainClock()
    limiter = QuotaLimiter(clock)
    instants: list[datetime] = []

    def work() -> None:
        for _ in range(10):
            limiter.acquire()
            instants.append(clock.now())
            limiter.answered({})

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work) for _ in range(6)]:
            future.result()
    assert len(instants) == 60
    assert _busiest(instants) <= 15


def test_the_limiter_believes_a_smaller_quota() -> None:
    clock = _PlainClock()
    limiter = QuotaLimiter(clock)
    limiter.acquire()
    limiter.answered({"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "00:00:04"})
    limiter.acquire()
    assert clock.now() - NOW == timedelta(seconds=4)


def test_the_limiter_uses_a_raised_quota() -> None:
    clock = _PlainClock()
    limiter = QuotaLimiter(clock)
    for left in range(99, 0, -1):
        limiter.acquire()
        limiter.answered({"x-ms-user-quota-remaining": str(left), "x-ms-user-quota-resets-after": "00:00:05"})
    clock.sleep(5)
    for _ in range(99):
        limiter.acquire()
        limiter.answered({})
    assert clock.now() - NOW <= timedelta(seconds=15)


def test_answers_without_quota_headers_change_nothing() -> None:
    limiter = QuotaLimiter(_PlainClock())
    for headers in ({}, {"x-ms-user-quota-remaining": "many"}, {}):
        limiter.acquire()
        limiter.answered(headers)
    assert limiter.waited_seconds == 0


def test_reading_in_threads_meets_no_429(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """The sandbox refuses a sixteenth request within five seconds, whichever thread it comes from."""
    sandbox.tenant.grow(40, groups=20, subscriptions=20)
    reader = reader_of(batch_size=1)
    subscriptions = sorted({row["subscriptionId"] for row in sandbox.tenant.containers()})
    assert reader.inventory(subscriptions).rows == 40
    assert reader.graph.usage.requests == 20
    assert sandbox.graph.quota.refused == 0
    assert reader.graph.usage.retries == 0
    assert reader.graph.throttled_seconds > 0


@pytest.mark.parametrize("retry_after_header", [True, False])
def test_a_quota_that_others_use_too_is_waited_for(
    sandbox: Sandbox, reader: AzureReader, retry_after_header: bool
) -> None:
    wanted = _fill(sandbox, 5)
    sandbox.graph.quota.limit = 2
    sandbox.graph.quota.retry_after = retry_after_header
    for _ in range(6):
        assert _read(reader.graph) == wanted


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, (None, None)),
        ({"x-ms-user-quota-remaining": "12"}, (12, None)),
        ({"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "00:00:05"}, (0, timedelta(seconds=5))),
        ({"x-ms-user-quota-resets-after": "01:02:03"}, (None, timedelta(hours=1, minutes=2, seconds=3))),
        ({"x-ms-user-quota-remaining": "-1", "x-ms-user-quota-resets-after": "5"}, (None, None)),
    ],
    ids=str,
)
def test_quota_headers(headers: dict[str, str], wanted: tuple[int | None, timedelta | None]) -> None:
    assert quota_of(headers) == wanted


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, None),
        ({"Retry-After": "7"}, timedelta(seconds=7)),
        ({"x-ms-user-quota-resets-after": "00:00:05"}, timedelta(seconds=5)),
        ({"Retry-After": "1", "x-ms-user-quota-resets-after": "00:00:05"}, timedelta(seconds=5)),
        ({"Retry-After": "soon"}, None),
    ],
    ids=str,
)
def test_retry_after_headers(headers: dict[str, str], wanted: timedelta | None) -> None:
    assert retry_after(headers) == wanted


# -- the reads -------------------------------------------------------------------------------------------------------


def test_subscriptions_go_in_batches(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    sandbox.tenant.grow(50, groups=10, subscriptions=5, records=True)
    subscriptions = sorted({row["subscriptionId"] for row in sandbox.tenant.containers()})
    reader = reader_of(batch_size=2)
    wanted = {row["id"] for row in sandbox.tenant.resources()}
    inventory = reader.inventory(subscriptions)
    assert (set(inventory.frame["azure_id"]), inventory.total_records) == (wanted, 50)
    assert reader.graph.usage.requests == 3
    changes = reader.changes(Window(NOW - timedelta(minutes=1), NOW), subscriptions)
    assert set(changes.frame["azure_id"]) == wanted
    assert reader.graph.usage.requests == 6


def test_no_subscriptions_no_request(reader: AzureReader) -> None:
    for reading in (reader.inventory([]), reader.changes(Window(NOW, NOW), []), reader.resources([])):
        assert (reading.rows, reading.total_records) == (0, 0)
    assert reader.containers([]).rows == 0
    assert reader.inventory_of_groups([]).rows == 0
    assert reader.graph.usage.requests == 0


def test_a_subscription_that_shows_through_its_group_is_observed(sandbox: Sandbox, reader: AzureReader) -> None:
    """A Reader on one group sees the group and not the subscription, whose entity the group's relation needs."""
    tenant = sandbox.tenant
    seen = tenant.add_subscription("seen")
    hidden = tenant.add_subscription("hidden")
    group_id = tenant.add_group(hidden, "Web", "westeurope")
    tenant.add_group(hidden, "Other", "westeurope")
    tenant.limit_subscription_to_group(hidden, group_id)
    reading = reader.containers()
    found = {row["azure_id"]: row for row in records(reading.frame)}
    assert found.keys() == {f"/subscriptions/{seen}", f"/subscriptions/{hidden}", group_id}
    assert found[f"/subscriptions/{hidden}"]["name"] == hidden
    assert found[f"/subscriptions/{hidden}"]["in_scope"] is True
    assert (reading.rows, reading.derived, reading.total_records) == (3, 1, 2)


def test_snapshot_keeps_to_the_settings(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    tenant = sandbox.tenant
    below = tenant.add_subscription("below", management_groups=["contoso"])
    excluded = tenant.add_subscription("excluded", management_groups=["contoso"])
    other = tenant.add_subscription("other")

    def snapshot(**scope: Any) -> set[str]:
        return set(reader_of(Scope.of(**scope)).containers().frame["subscription_id"])

    assert snapshot() == {below, excluded, other}
    assert snapshot(management_groups=["contoso"]) == {below, excluded}
    assert snapshot(management_groups=["contoso"], excluded_subscription_ids=[excluded.upper()]) == {below}
    assert snapshot(subscription_ids=[other.upper()]) == {other}


def test_containers_by_id_are_shown_again(sandbox: Sandbox, reader: AzureReader) -> None:
    subscription = sandbox.tenant.add_subscription("one")
    ids = [sandbox.tenant.add_group(subscription, f"o'{n}", "westeurope").lower() for n in range(3)]
    found = reader.containers([*ids[:2], "/subscriptions/none"]).frame
    assert set(found["azure_id"].str.lower()) == set(ids[:2])


def test_many_ids_go_in_lists(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = _fill(sandbox, 1100)
    reading = reader.resources(one.upper() for one in wanted)
    assert set(reading.frame["azure_id"]) == set(wanted)
    assert reader.graph.usage.requests == 3


def test_groups_are_inventoried_wherever_they_lie(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    sandbox.tenant.grow(40, groups=8, subscriptions=4)
    rows = sandbox.tenant.resources()
    pairs = sorted({(row["subscriptionId"].lower(), row["resourceGroup"].lower()) for row in rows})[::2]
    reading = reader_of(batch_size=3).inventory_of_groups(pairs)
    wanted = {row["id"] for row in rows if (row["subscriptionId"].lower(), row["resourceGroup"].lower()) in pairs}
    assert set(reading.frame["azure_id"]) == wanted


def test_changes_carry_the_row_and_the_record(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    tenant = sandbox.tenant
    subscription = tenant.add_subscription("one")
    group_id = tenant.add_group(subscription, "Web", "westeurope", {"team": "web"})
    kept = tenant.create_resource(group_id, "Microsoft.Web/sites", "Kept", sku={"name": "S1"})
    gone = tenant.create_resource(group_id, "Microsoft.Web/sites", "Gone")
    sandbox.clock.advance(timedelta(minutes=1))
    tenant.delete_resource(gone)
    window = Window(NOW, sandbox.clock.now())
    reader = reader_of(Scope.of(extra_columns=["sku.name"]))
    (record,) = records(reader.changes(window, [subscription]).frame)
    assert (record["azure_id"], record["present"], record["change_type"]) == (gone, False, "Delete")
    assert record["change_time"] == NOW + timedelta(minutes=1)
    window = Window(NOW - timedelta(minutes=1), NOW)
    both = {row["azure_id"]: row for row in records(reader.changes(window, [subscription]).frame)}
    assert (both[kept]["present"], both[kept]["change_type"]) == (True, "Create")
    assert '"sku":{"name":"S1"}' in both[kept]["data"]
    assert (both[gone]["present"], both[gone]["change_type"]) == (False, "Create")
