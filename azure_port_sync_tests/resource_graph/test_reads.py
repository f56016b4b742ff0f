"""Reading Azure over HTTP: every row once, or one sentence that says why not."""

import itertools
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from azure.identity import ClientSecretCredential
from hypothesis import given, settings
from hypothesis import strategies as st

from azure_port_sync.core.errors import AzureError
from azure_port_sync.core.rows import records
from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window
from azure_port_sync.resource_graph import AzureReader, ResourceGraph, client
from azure_port_sync.resource_graph.client import DataMovedError, Page, QueryScope
from azure_port_sync.resource_graph.quota import QuotaLimiter, quota_of, retry_after
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.sandbox.tenant import Tenant
from azure_port_sync_tests.conftest import ReaderOf
from azure_port_sync_tests.support.clocks import NOW, SteppedClock

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
    tables, total = graph.read(query, QueryScope(), convert)
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


@contextmanager
def _without_quota() -> Iterator[tuple[Sandbox, ResourceGraph]]:
    """An empty tenant, and a client that never waits for its quota."""
    with Sandbox(estate=False, quota=False) as running:
        running.clock.set(NOW)
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


@pytest.fixture(scope="module")
def full_sandbox() -> Iterator[tuple[Sandbox, ResourceGraph]]:
    """A tenant of 3,500 resources that nothing changes."""
    with _without_quota() as (sandbox, graph):
        sandbox.tenant.grow(3500, groups=5, subscriptions=2)
        yield sandbox, graph


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
    fault = Fault("azure", status=400, body=_TOO_LARGE, in_body='"$top": 1000', times=None)
    sandbox.faults.add(fault)
    assert _read(reader.graph) == wanted
    assert reader.graph.usage.requests == 1 + 3
    assert reader.graph.usage.retries == 0


def test_pages_of_wide_rows_keep_below_sixteen_mebibytes(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """The limit is on bytes, so it is met in the middle of a reading: where the rows are wide."""
    sandbox.tenant.grow(1000, groups=1, subscriptions=1)
    (group_id,) = {row["id"].partition("/providers/")[0] for row in sandbox.tenant.resources()}
    wide = {"type": "Microsoft.Zzz/wide", "group_id": group_id, "properties": {"text": "x" * 900_000}}
    sandbox.tenant.create_resources([{**wide, "name": f"wide-{n:02d}"} for n in range(40)])
    reader = reader_of(Scope.of(extra_columns=["properties"]))
    subscriptions = [group_id.split("/")[2]]
    for reading in (1, 2):  # each begins with a full page, and so finds out anew
        found = reader.inventory(subscriptions)
        assert set(found.frame["azure_id"]) == {row["id"] for row in sandbox.tenant.resources()}
        assert found.rows == found.total_records == 1040
        # A full page; 500, 250, 125, 62 and 31 rows are too large, 15 are not; each repeats the one before.
        assert reader.graph.usage.requests == reading * (1 + 6 + 3)


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


@pytest.mark.parametrize(("group", "provider"), [(0, "Microsoft.AAA"), (-1, "Microsoft.Zzz")])
def test_a_row_created_between_pages_is_noticed(
    sandbox: Sandbox, reader: AzureReader, group: int, provider: str
) -> None:
    """On the page that was read, or on the one that was not yet."""
    wanted = _fill(sandbox, 1500)
    group_id = wanted[group].partition("/providers/")[0]
    meddling = _Meddling(lambda: sandbox.tenant.create_resource(group_id, f"{provider}/x", "new"), times=1)
    ids = _read(reader.graph, convert=meddling)
    assert len(ids) == len(set(ids)) == 1501
    assert set(wanted) < set(ids)
    assert meddling.readings == 2


def test_as_many_created_as_deleted_between_pages_is_noticed(sandbox: Sandbox, reader: AzureReader) -> None:
    """A resource that moves to another group: the number stays, and a row between its places slips by unseen."""
    wanted = _fill(sandbox, 1500)
    group_id = wanted[-1].partition("/providers/")[0]

    def move() -> None:
        sandbox.tenant.delete_resource(wanted[10])
        sandbox.tenant.create_resource(group_id, "Microsoft.Zzz/last", "last")

    meddling = _Meddling(move, times=1)
    ids = _read(reader.graph, convert=meddling)
    assert set(ids) == {row["id"] for row in sandbox.tenant.resources()}
    assert meddling.readings == 2


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


def test_a_row_that_comes_twice_is_read_again(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = _fill(sandbox, 3)
    rows = [{"id": one, "name": "x"} for one in [wanted[0], wanted[0], wanted[1]]]
    body = {"totalRecords": 3, "count": 3, "data": rows, "facets": [], "resultTruncated": "false"}
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


def _changing(
    monkeypatch: pytest.MonkeyPatch, graph: ResourceGraph, change: Callable[[str, QueryScope, Page], object]
) -> None:
    """Have something done whenever a page has been converted."""
    read = graph.read

    def while_it_changes(query: str, where: QueryScope, convert: Callable[[Page], pa.Table]) -> Any:
        def convert_and_change(page: Page) -> pa.Table:
            table = convert(page)
            change(query, where, page)
            return table

        return read(query, where, convert_and_change)

    monkeypatch.setattr(graph, "read", while_it_changes)


def test_what_moves_too_fast_is_read_in_smaller_parts(
    sandbox: Sandbox, reader: AzureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a large tenant something is created or deleted every minute; a nightly run must end all the same."""
    sandbox.graph.quota.limit = None
    sandbox.tenant.grow(2400, groups=4, subscriptions=2)
    subscriptions = sorted({row["subscriptionId"] for row in sandbox.tenant.containers()})
    doomed = iter([row["id"] for row in sandbox.tenant.resources()][:50])

    def change(query: str, where: QueryScope, page: Page) -> None:
        if len(where.subscriptions or []) > 1:
            sandbox.tenant.delete_resource(next(doomed))

    _changing(monkeypatch, reader.graph, change)
    found = reader.inventory(subscriptions)
    assert set(found.frame["azure_id"]) == {row["id"] for row in sandbox.tenant.resources()}
    assert found.total_records == found.rows
    assert reader.graph.usage.requests == 4 * 2 + 2 * 2  # two pages of both show that they move; then two of each


def test_a_subscription_that_moves_too_fast_is_read_in_parts_of_one_page(
    sandbox: Sandbox, reader: AzureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page cannot move, so a tenant that changes with every page is read none the less."""
    sandbox.graph.quota.limit = None
    sandbox.tenant.grow(2400, groups=2, subscriptions=1)
    (subscription,) = {row["subscriptionId"] for row in sandbox.tenant.containers()}
    doomed = iter([row["id"] for row in sandbox.tenant.resources()][:50])

    def change(query: str, where: QueryScope, page: Page) -> None:
        if len(page) == client.PAGE_SIZE:
            sandbox.tenant.delete_resource(next(doomed))

    _changing(monkeypatch, reader.graph, change)
    found = reader.inventory([subscription])
    assert sorted(found.frame["azure_id"]) == [row["id"] for row in sandbox.tenant.resources()]
    assert found.total_records == found.rows == 2400 - 4
    assert reader.graph.usage.requests == 4 * 2 + 4
    assert "hash(" not in found.query  # what is shown of a run is the query, not how it was divided


def test_a_snapshot_that_moves_too_fast_is_read_in_parts_of_one_page(
    sandbox: Sandbox, reader: AzureReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names no subscriptions that there could be fewer of."""
    sandbox.graph.quota.limit = None
    sandbox.tenant.grow(0, groups=1500, subscriptions=3)
    number = itertools.count()
    (first, *_) = (row["subscriptionId"] for row in sandbox.tenant.containers())

    def change(query: str, where: QueryScope, page: Page) -> None:
        if len(page) == client.PAGE_SIZE:
            sandbox.tenant.add_group(first, f"new-{next(number)}", "westeurope")

    _changing(monkeypatch, reader.graph, change)
    found = reader.containers()
    assert set(found.frame["azure_id"]) == {row["id"] for row in sandbox.tenant.containers()}
    assert found.total_records == found.rows == 1503 + 4


_SHORT = {"totalRecords": 5, "count": 0, "data": [], "facets": [], "resultTruncated": "false"}


def test_a_part_that_still_moves_is_split_again(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = _fill(sandbox, 40)
    (subscription,) = {one.split("/")[2] for one in wanted}
    sandbox.graph.quota.limit = None
    sandbox.faults.add(Fault("azure", status=200, body=_SHORT, path="/resources", times=4))
    sandbox.faults.add(Fault("azure", status=200, body=_SHORT, in_body="hash(tolower(id)) % 2 == 1", times=4))
    sandbox.faults.add(Fault("azure", status=200, body=_SHORT, in_body="hash(tolower(id)) % 4 == 3", times=4))
    found = reader.inventory([subscription])
    assert sorted(found.frame["azure_id"]) == wanted
    assert found.total_records == 40
    assert reader.graph.usage.requests == 4 + 1 + 4 + 1 + 4 + 2


def test_what_moves_in_the_smallest_parts_too_is_given_up(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = _fill(sandbox, 40)
    sandbox.graph.quota.limit = None
    sandbox.faults.add(Fault("azure", status=200, body=_SHORT, path="/resources", times=None))
    with pytest.raises(DataMovedError) as error:
        reader.inventory([wanted[0].split("/")[2]])
    _one_sentence(error, "changed 4 times", "The next run tries again")
    assert reader.graph.usage.requests == 4 * (1 + 3)


#: One change of a tenant: the group of that number is deleted or, if there is none, created. About half of them are
#: there, so that creations and deletions often cancel out.
_CHANGE = st.integers(0, 29)
_START = st.sets(_CHANGE, min_size=8, max_size=22)


class _Groups:
    """The groups of one subscription, which come and go, and what there was of them."""

    def __init__(self, tenant: Tenant, start: Iterable[int]) -> None:
        self._tenant = tenant
        self._subscription = tenant.add_subscription("moving")
        self._present: set[str] = set()
        self.states: list[frozenset[str]] = []
        self.change(start)

    def change(self, numbers: Iterable[int]) -> None:
        """Delete or create each; no reader sees one without the others."""
        for number in numbers:
            group_id = f"/subscriptions/{self._subscription}/resourceGroups/g-{number:02d}"
            if group_id in self._present:
                self._tenant.delete_group(group_id)
            else:
                self._tenant.add_group(self._subscription, f"g-{number:02d}", "westeurope")
            self._present ^= {group_id}
        self.states.append(frozenset(self._present))

    def remove(self) -> None:
        self._tenant.remove_subscription(self._subscription)

    @property
    def always(self) -> frozenset[str]:
        return frozenset.intersection(*self.states)

    @property
    def ever(self) -> frozenset[str]:
        return frozenset.union(*self.states)


@contextmanager
def _changing_groups(
    made: tuple[Sandbox, ResourceGraph], start: Iterable[int], changes: Iterable[Iterable[int]]
) -> Iterator[_Groups]:
    """A subscription of these groups, of which some change whenever a page (of five) has come, while changes last."""
    sandbox, graph = made
    groups, left = _Groups(sandbox.tenant, start), iter(changes)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(client, "PAGE_SIZE", 5)
        _changing(monkeypatch, graph, lambda *_: groups.change(next(left, [])))
        try:
            yield groups
        finally:
            groups.remove()


@pytest.fixture(scope="module")
def moving_sandbox() -> Iterator[tuple[Sandbox, ResourceGraph]]:
    """A tenant for each example to change."""
    with _without_quota() as made:
        yield made


@given(start=_START, changes=st.lists(st.lists(_CHANGE, max_size=1), max_size=20))
@settings(max_examples=25)
def test_a_reading_is_of_one_instant_or_none(
    moving_sandbox: tuple[Sandbox, ResourceGraph], start: set[int], changes: list[list[int]]
) -> None:
    """Whatever is created or deleted between two pages, one at a time."""
    query = "resourcecontainers | where type has 'resourcegroups' | project id | order by id asc"
    with _changing_groups(moving_sandbox, start, changes) as groups:
        try:
            assert frozenset(_read(moving_sandbox[1], query)) in groups.states
        except DataMovedError:
            assert len(groups.states) > 4


@given(start=_START, changes=st.lists(st.lists(_CHANGE, max_size=4), min_size=1, max_size=20), for_ever=st.booleans())
@settings(max_examples=25)
def test_what_is_there_throughout_is_read_once(
    moving_sandbox: tuple[Sandbox, ResourceGraph], start: set[int], changes: list[list[int]], for_ever: bool
) -> None:
    """Whatever else comes and goes between two pages, in numbers that cancel out too, and in parts by hash too."""
    with _changing_groups(moving_sandbox, start, itertools.cycle(changes) if for_ever else changes) as groups:
        try:
            found = AzureReader(moving_sandbox[1], Scope()).containers()
        except DataMovedError:
            assert for_ever
        else:
            ids = [one for one in found.frame["azure_id"] if "/resourceGroups/" in one]
            assert len(ids) == len(set(ids)) == found.total_records - 1
            assert groups.always <= set(ids) <= groups.ever


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


def test_ids_are_found_in_whatever_casing_azure_has(sandbox: Sandbox, reader: AzureReader) -> None:
    """Python's lower case of a last `Σ` is not Kusto's: such a resource counted as gone, though it was there."""
    subscription = sandbox.tenant.add_subscription("one")
    group_id = sandbox.tenant.add_group(subscription, "ΟΔΟΣ", "westeurope")
    azure_id = sandbox.tenant.create_resource(group_id, "Microsoft.Web/sites", "Site")
    assert list(reader.resources([azure_id, azure_id.upper()]).frame["azure_id"]) == [azure_id]
    assert list(reader.containers([group_id.upper()]).frame["azure_id"]) == [group_id]
    window = Window(NOW - timedelta(minutes=1), NOW)
    assert list(reader.changes_of([azure_id.upper()], window).frame["azure_id"]) == [azure_id]


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


# -- which subscriptions can be read -----------------------------------------------------------------------------------


def _subscriptions(sandbox: Sandbox) -> dict[str, str]:
    """One of each kind that a principal may meet; their ids by name."""
    tenant = sandbox.tenant
    ids = {name: tenant.add_subscription(name) for name in ("empty", "through a group", "lost", "lost too")}
    ids["full"] = tenant.add_subscription("full", subscription_id="0B1F6471-1BF0-4DDA-AEC3-CB9272F09590").lower()
    tenant.add_group(ids["full"], "Web", "westeurope")
    group_id = tenant.add_group(ids["through a group"], "Web", "westeurope")
    tenant.limit_subscription_to_group(ids["through a group"], group_id)
    tenant.add_group(ids["lost"], "Web", "westeurope")
    tenant.lose_subscription(ids["lost"])
    tenant.lose_subscription(ids["lost too"])
    return ids


@pytest.mark.parametrize("anywhere", [False, True])
def test_readable_are_those_that_show_anything(sandbox: Sandbox, reader: AzureReader, anywhere: bool) -> None:
    """Azure leaves out what may not be read without a word, so a subscription that was lost looked empty."""
    ids = _subscriptions(sandbox)
    asked = [one.upper() for one in ids.values()] + ["00000000-0000-0000-0000-000000000000"]
    wanted = {ids["empty"], ids["full"], ids["through a group"]}
    assert reader.readable(asked, anywhere=anywhere) == wanted
    assert reader.readable([ids["full"]], anywhere=anywhere) == {ids["full"]}
    assert reader.graph.usage.requests == 2


def test_none_readable_is_an_answer(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """To a request all of whose subscriptions are lost, Azure answers 403, which is no failure of this question."""
    ids = _subscriptions(sandbox)
    lost = [ids["lost"], ids["lost too"]]
    assert reader_of().readable(lost) == set()
    in_ones = reader_of(batch_size=1)
    assert in_ones.readable([*lost, ids["full"]]) == {ids["full"]}
    assert in_ones.graph.usage.requests == 3
    assert reader_of().readable(lost, anywhere=True) == set()
    with pytest.raises(AzureError) as error:  # of any other question it is
        reader_of().inventory(lost)
    _one_sentence(error, "Reader")


def test_readable_anywhere_is_not_only_below_the_management_groups(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """A subscription that was moved elsewhere is not one that was lost."""
    below = sandbox.tenant.add_subscription("below", management_groups=["contoso"])
    moved = sandbox.tenant.add_subscription("moved", management_groups=["fabrikam"])
    lost = sandbox.tenant.add_subscription("lost", management_groups=["contoso"])
    sandbox.tenant.lose_subscription(lost)
    reader = reader_of(Scope.of(management_groups=["contoso"], subscription_ids=[below]))
    assert reader.readable([below, moved, lost], anywhere=True) == {below, moved}


def test_many_are_asked_for_in_lists(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    subscription = sandbox.tenant.add_subscription("one")
    asked = [f"00000000-0000-0000-0000-{n:012d}" for n in range(1000)] + [subscription]
    reader = reader_of(batch_size=600)
    assert reader.readable(asked, anywhere=True) == {subscription}
    assert reader.graph.usage.requests == 3
    assert reader.readable(asked) == {subscription}
    assert reader.graph.usage.requests == 3 + 2


def test_readable_of_none_asks_nothing(reader: AzureReader) -> None:
    assert reader.readable([]) == reader.readable([], anywhere=True) == set()
    assert reader.graph.usage.requests == 0


@pytest.mark.parametrize(("status", "anywhere"), [(403, True), (404, True), (404, False), (401, False)])
def test_any_other_refusal_is_an_error_of_this_question_too(
    sandbox: Sandbox, reader: AzureReader, status: int, anywhere: bool
) -> None:
    """No subscription readable in the whole tenant is a principal without a role, not an empty tenant."""
    sandbox.faults.add(Fault("azure", status=status, body=_body("x"), path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        reader.readable(["a"], anywhere=anywhere)
    _one_sentence(error)
