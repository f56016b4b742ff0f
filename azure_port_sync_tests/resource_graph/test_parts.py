"""Results in parts: every row once, whatever comes and goes, at the price of a calm tenant; or one clear end."""

import itertools
import logging
import math
import os
import random
import re
import signal
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.errors import AzureError
from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window
from azure_port_sync.resource_graph import AzureReader, ResourceGraph, kql
from azure_port_sync.resource_graph.client import QueryScope, Response
from azure_port_sync.resource_graph.parts import IN_FLIGHT, Part, read_in_parts
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.conftest import ReaderOf
from azure_port_sync_tests.support.azure import fill, one_sentence, response_body
from azure_port_sync_tests.support.clocks import NOW, SteppedClock, StillClock

# -- the loop, without Azure ------------------------------------------------------------------------------------------


class _Table:
    """Rows by id, each with its size, and the responses that Resource Graph would give to parts of them."""

    def __init__(self, rows: Mapping[int, int], *, max_rows: int = 10, max_bytes: int = 10**9) -> None:
        self.rows = dict(rows)
        self.max_rows = max_rows
        self.max_bytes = max_bytes
        self.asked: list[str] = []
        self.change: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def ask(self, query: str, scope: QueryScope) -> Response:
        with self._lock:
            self.change()
            self.asked.append(query)
            return self._response(query)

    def _response(self, query: str) -> Response:
        found = re.search(r"% (\d+) == (\d+)", query)
        parts, part = map(int, found.groups()) if found else (1, 0)
        whole = [row for row in self.rows if row % parts == part]
        rows = whole[: self.max_rows]
        if sum(self.rows[row] for row in rows) > self.max_bytes:
            return Response([], 0, complete=False)
        return Response(rows, len(whole), len(rows) == len(whole))

    def read(self) -> list[int]:
        shares = [Part(kql.resources(Scope.of()), QueryScope())]
        responses = read_in_parts(self.ask, shares, clock=StillClock(), max_rows=self.max_rows)
        return [row for response in responses for row in response.rows]


_SIZES = st.integers(1, 40)


@given(st.dictionaries(st.integers(0, 2**20), _SIZES, max_size=120))
def test_every_row_comes_once(rows: dict[int, int]) -> None:
    """Whatever their number and their size, and however unevenly they fall into parts."""
    table = _Table(rows, max_bytes=150)
    assert sorted(table.read()) == sorted(rows)


@given(
    start=st.sets(st.integers(0, 60), max_size=50),
    turns=st.lists(st.lists(st.integers(0, 60), max_size=4), min_size=1, max_size=20),
)
def test_what_is_there_throughout_comes_once(start: set[int], turns: list[list[int]]) -> None:
    """Whatever else comes and goes between two requests, for as long as the read lasts."""
    table, changes = _Table(dict.fromkeys(start, 1), max_rows=5), itertools.cycle(turns)
    states = [start]

    def change() -> None:
        for row in next(changes):
            if table.rows.pop(row, None) is None:
                table.rows[row] = 1
        states.append(set(table.rows))

    table.change = change
    read = table.read()
    assert len(read) == len(set(read))
    assert set.intersection(*states) <= set(read) <= set.union(*states)


def test_churn_costs_no_request_more() -> None:
    """One create or delete every half second tripled the requests for a tenant of 40 pages, and their time."""
    rng = random.Random(1)  # noqa: S311
    ids = [rng.getrandbits(60) for _ in range(40_000)]

    def table() -> _Table:
        return _Table(dict.fromkeys(ids, 1), max_rows=1000)

    calm, churned, doomed = table(), table(), iter(ids[::7])

    def change() -> None:  # more than any tenant at three requests a second
        churned.rows.pop(next(doomed))
        churned.rows[rng.getrandbits(60)] = 1

    churned.change = change
    assert sorted(calm.read()) == sorted(ids)
    read = churned.read()
    assert set(ids) & set(churned.rows) <= set(read)
    assert len(read) == len(set(read))
    assert len(calm.asked) == len(churned.asked) == 1 + math.ceil(40_000 / 850) == 49


@pytest.mark.parametrize("number", [0, 1, 9, 10])
def test_a_result_that_fits_is_asked_for_once(number: int) -> None:
    table = _Table(dict.fromkeys(range(number), 1))
    assert sorted(table.read()) == list(range(number))
    assert len(table.asked) == 1
    assert "hash" not in table.asked[0]


def test_the_number_of_rows_says_into_how_many_parts() -> None:
    table = _Table(dict.fromkeys(range(1000), 1), max_rows=100)
    assert sorted(table.read()) == list(range(1000))
    assert len(table.asked) == 1 + math.ceil(1000 / 85)


def test_a_part_that_overflows_is_split_again() -> None:
    """Hashes fall as they will: here all of them into one part, and half of those into one of that."""
    rows = [n * 6 for n in range(25)] + [n * 12 for n in range(25)]
    table = _Table(dict.fromkeys(rows, 1), max_rows=10)
    assert sorted(table.read()) == sorted(set(rows))


def test_what_fits_nowhere_ends_in_one_sentence() -> None:
    table = _Table({0: 100, **dict.fromkeys(range(1, 200), 1)}, max_bytes=99)
    with pytest.raises(AzureError) as error:
        table.read()
    one_sentence(error, "EXTRA_RESOURCE_COLUMNS")


def test_a_service_that_never_gives_a_whole_result_is_found_out_soon() -> None:
    """Asking for all parts before the parts of those would take 65,536 requests, six hours at Azure's quota."""
    table = _Table({})

    def cut_off(query: str, scope: QueryScope) -> Response:
        table.ask(query, scope)
        return Response([], 0, complete=False)

    shares = [Part(kql.resources(Scope.of()), QueryScope())]
    with pytest.raises(AzureError):
        list(read_in_parts(cut_off, shares, clock=StillClock()))
    assert len(table.asked) < 20 * IN_FLIGHT


def test_a_whole_read_has_a_deadline() -> None:
    """Each answer came in time, and all of them never."""
    clock = StillClock()

    def ask(query: str, scope: QueryScope) -> Response:
        clock.sleep(100)
        return Response([], 0, complete=True)

    shares = [Part(kql.resources(Scope.of()), QueryScope())] * 1000
    with pytest.raises(AzureError, match=r"was not whole after 2 hours .*a principal of its own"):
        list(read_in_parts(ask, shares, clock=clock))


def test_requests_run_side_by_side() -> None:
    """One after the other, answers that take two seconds would leave most of the quota unused."""
    together = threading.Barrier(IN_FLIGHT, timeout=20)

    def ask(query: str, scope: QueryScope) -> Response:
        together.wait()
        return Response([], 0, complete=True)

    shares = [Part(kql.resources(Scope.of()), QueryScope())] * IN_FLIGHT
    assert len(list(read_in_parts(ask, shares, clock=StillClock()))) == IN_FLIGHT


class _Cancelled(BaseException):
    """As Dagster and Ctrl-C end a run."""


def test_a_cancelled_read_ends_at_once_and_sends_nothing_more(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It kept asking an Azure in trouble until the deadline, five minutes later."""
    sandbox.faults.add(Fault("azure", status=503, path="/resources", times=None))
    terminated, ended = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def sleep(seconds: float) -> None:
        if not terminated.is_set():
            terminated.set()
            os.kill(os.getpid(), signal.SIGUSR1)
        in_time.append(ended.wait(20))

    def terminate(_number: int, _frame: object) -> None:
        raise _Cancelled

    monkeypatch.setattr(clock, "sleep", sleep)
    before = signal.signal(signal.SIGUSR1, terminate)
    try:
        with pytest.raises(_Cancelled):
            reader.containers()
    finally:
        signal.signal(signal.SIGUSR1, before)
        ended.set()
    for thread in threading.enumerate():
        if thread.name.startswith("azure"):
            thread.join(30)
    assert in_time == [True]
    assert reader.graph.usage.requests == 1


def test_the_first_error_ends_the_read() -> None:
    asked = itertools.count(1)

    def ask(query: str, scope: QueryScope) -> Response:
        if next(asked) == 3:
            raise AzureError("no")
        return Response([], 0, complete=True)

    shares = [Part(kql.resources(Scope.of()), QueryScope())] * 1000
    with pytest.raises(AzureError, match="no"):
        list(read_in_parts(ask, shares, clock=StillClock()))
    assert next(asked) <= 3 + 2 * IN_FLIGHT


def test_a_long_read_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock()

    def ask(query: str, scope: QueryScope) -> Response:
        clock.sleep(1)
        return Response([{}] * 100, 100, complete=True)

    caplog.set_level(logging.INFO)
    shares = [Part(kql.resources(Scope.of()), QueryScope())] * 25
    list(read_in_parts(ask, shares, clock=clock, in_flight=1))
    assert [record.getMessage() for record in caplog.records] == [
        "Azure: 1,000 rows read, 15 requests to go",
        "Azure: 2,000 rows read, 5 requests to go",
    ]


# -- over HTTP --------------------------------------------------------------------------------------------------------


def test_a_small_tenant_is_one_request(sandbox: Sandbox, reader: AzureReader) -> None:
    sandbox.tenant.grow(900, groups=10, subscriptions=3, records=True)
    subscriptions = [row["subscriptionId"] for row in sandbox.tenant.containers() if not row["resourceGroup"]]
    assert reader.containers().rows == 13
    assert reader.inventory(subscriptions).rows == 900
    assert reader.changes(Window(NOW - timedelta(minutes=1), NOW), subscriptions).rows == 900
    assert reader.graph.usage.requests == 3


def test_a_tenant_too_large_for_one_response(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = fill(sandbox, 2001)
    found = reader.inventory([wanted[0].split("/")[2]])
    assert sorted(found.frame["azure_id"]) == wanted
    assert (found.rows, found.total_records, found.duplicates) == (2001, 2001, 0)
    assert reader.graph.usage.requests == 1 + math.ceil(2001 / 850)
    assert "hash(" not in found.query  # what is shown of a run is the query, not how it was divided


def test_rows_too_wide_for_one_response(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """The limit of a response is on its bytes, too."""
    sandbox.tenant.grow(200, groups=1, subscriptions=1)
    (group_id,) = {row["id"].partition("/providers/")[0] for row in sandbox.tenant.resources()}
    wide = {"type": "Microsoft.Zzz/wide", "group_id": group_id, "properties": {"text": "x" * 900_000}}
    sandbox.tenant.create_resources([{**wide, "name": f"wide-{n:02d}"} for n in range(24)])
    found = reader_of(Scope.of(extra_columns=["properties"])).inventory([group_id.split("/")[2]])
    assert set(found.frame["azure_id"]) == {row["id"] for row in sandbox.tenant.resources()}
    assert found.rows == found.total_records == 224


@pytest.mark.parametrize("others", [3, 25])
@pytest.mark.parametrize("twins", [9, 30])
def test_more_rows_of_one_id_than_a_response_holds_stop_nothing(
    sandbox: Sandbox, reader_of: ReaderOf, others: int, twins: int
) -> None:
    """All rows of an id lie in one part, however small that is made: the read failed, in every run."""
    wanted = fill(sandbox, others)
    subscription = wanted[0].split("/")[2]
    twin = sandbox.tenant.create_resource(wanted[0].partition("/providers/")[0], "Microsoft.Web/sites", "O'Brien")
    for n in range(twins):
        sandbox.tenant.add_twin(twin, {"id": twin.upper() if n % 2 else twin, "name": f"twin {n}"})
    reader = reader_of(max_rows=10)
    window = Window(NOW - timedelta(minutes=1), NOW)
    for found, ids in [
        (reader.inventory([subscription]), {*wanted, twin}),
        (reader.changes(window, [subscription]), {twin}),
    ]:
        assert {id_.lower() for id_ in found.frame["azure_id"]} == {id_.lower() for id_ in ids}
        assert len(found.frame) == len(ids)
        assert found.duplicates >= min(twins, 5)
        assert any("rows of one id" in sample for sample in found.samples)
    assert reader.graph.usage.requests < 40


def test_an_id_that_comes_although_it_was_left_out_ends_in_one_sentence(reader_of: ReaderOf, sandbox: Sandbox) -> None:
    row = {"id": "x"}
    body = {**response_body(*[row] * 10, total=20), "resultTruncated": "true"}
    sandbox.graph.quota.limit = None
    sandbox.faults.add(Fault("azure", status=200, body=body, path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        reader_of(max_rows=10).containers()
    one_sentence(error, "no whole result")


class _Changing:
    """A client under which something is done before each request; the requests come one at a time."""

    def __init__(self, graph: ResourceGraph, change: Callable[[], object]) -> None:
        self._graph = graph
        self._change = change
        self._lock = threading.Lock()
        self.clock = graph.clock
        self.max_rows = graph.max_rows
        self.stop = graph.stop

    def query(self, query: str, scope: QueryScope) -> Response:
        with self._lock:
            self._change()
            return self._graph.query(query, scope)


def _under(reader: AzureReader, change: Callable[[], object]) -> AzureReader:
    return AzureReader(cast("ResourceGraph", _Changing(reader.graph, change)), reader.scope)


def test_a_tenant_that_never_rests(sandbox: Sandbox, reader_of: ReaderOf, clock: SteppedClock) -> None:
    """Something is created and something deleted every half second; the read is as long as that of a calm tenant."""
    tenant = sandbox.tenant
    wanted = fill(sandbox, 6000)
    (subscription,) = {one.split("/")[2] for one in wanted}
    group_id = wanted[0].partition("/providers/")[0]
    doomed, numbers = iter(wanted[::97]), itertools.count()
    changed_at = clock.now()

    def change() -> None:
        nonlocal changed_at
        while changed_at <= clock.now():
            changed_at += timedelta(seconds=0.5)
            tenant.delete_resource(next(doomed))
            tenant.create_resource(group_id, "Microsoft.Web/sites", f"new-{next(numbers)}")

    calm, churned = reader_of(), reader_of()
    assert sorted(calm.inventory([subscription]).frame["azure_id"]) == wanted
    found = _under(churned, change).inventory([subscription])
    assert calm.graph.usage.requests == churned.graph.usage.requests == 1 + math.ceil(6000 / 850)
    ids = list(found.frame["azure_id"])
    assert next(numbers) > 1
    assert len(ids) == len(set(ids)) == found.total_records
    assert set(wanted) & {row["id"] for row in tenant.resources()} <= set(ids)
    assert sandbox.graph.quota.refused == 0


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
