"""Delivering to Port: in phases, recorded before and after, and what is refused told from what failed."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from azure_port_sync.core.clock import SystemClock
from azure_port_sync.core.decisions import DELIVERY_PHASES
from azure_port_sync.core.errors import PortError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import ChangeSetRow, Operation, records
from azure_port_sync.engine.deliver import DeliveryLimits
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.failures import RefusedError
from azure_port_sync.port.sinks import Sink
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import WebhookSink
from azure_port_sync.port.transport import Timeouts
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.delivery import FakeSink, MemoryRecord, delivered
from azure_port_sync_tests.support.rows import GROUP, SUBSCRIPTION, change_set, delete, resource, upsert
from azure_port_sync_tests.support.stores import claimed

# -- phases and the ledger -------------------------------------------------------------------------------------------


def _of_every_phase(count: int = 3) -> pd.DataFrame:
    """Operations of all phases, in the wrong order."""
    rows: list[ChangeSetRow] = []
    for operation, kind in reversed(DELIVERY_PHASES):
        for n in range(count):
            entity = {
                Kind.SUBSCRIPTION: (f"/subscriptions/{operation}-{n}", SUBSCRIPTION[1]),
                Kind.RESOURCE_GROUP: (f"/subscriptions/x/resourceGroups/{operation}-{n}", GROUP[1]),
                Kind.RESOURCE: resource(f"{operation}-{n}"),
            }[kind]
            rows.append(upsert(entity) if operation == Operation.UPSERT else delete(entity))
    return change_set(*rows)


def test_each_phase_ends_before_the_next_begins() -> None:
    """Port deletes what depends on a deleted container: an upsert that overtook it would be swept away with it."""

    class Record(MemoryRecord):
        def begin_sending(self, rows: Sequence[ChangeSetRow]) -> None:
            assert self.confirmed.__len__() == len(self.begun)
            super().begin_sending(rows)

    record = Record()
    report = delivered(_of_every_phase(), FakeSink(), record)
    phases = [DELIVERY_PHASES.index((group[0].operation, group[0].kind)) for group in record.groups]
    assert phases == list(range(6))
    assert all(len({(row.operation, row.kind) for row in group}) == 1 for group in record.groups)
    assert (report.done, report.not_delivered) == (18, 0)
    assert report.accepted == {"delete": 9, "upsert": 9}


def test_sending_is_recorded_before_the_request_leaves(store: StateStore, tmp_path: Path) -> None:
    """A run that is killed after Port took a delete must know that the entity may be gone."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'state.sqlite'}")
    ledger = store.delivery(claimed(store))
    states: list[tuple[str, str | None]] = []

    class Sink(FakeSink):
        concurrency = 1

        def take(self, body: bytes) -> None:
            identifier = json.loads(body)["data"]["resourceId"].replace(" ", "_")
            with engine.connect() as connection:
                found = connection.execute(
                    sa.text("SELECT state, hash FROM azure_port_sync_ledger WHERE identifier = :i"), {"i": identifier}
                ).one()
            states.append((found.state, found.hash))

    first = change_set(upsert(resource("x")))
    report = delivered(first, Sink(), ledger)
    delivered(change_set(delete(resource("x"))), Sink(), ledger)
    engine.dispose()
    assert report.not_delivered == 0
    assert states == [("sending", None), ("sending", records(first)[0]["hash"])]


def test_counts_of_what_was_accepted_and_refused() -> None:
    class Sink(FakeSink):
        def take(self, body: bytes) -> None:
            if b"bad" in body:
                raise RefusedError("no")

    record = MemoryRecord()
    rows = [upsert(resource("bad")), *[upsert(resource(f"x{n}")) for n in range(250)], delete(GROUP)]
    seen: list[tuple[int, int]] = []
    report = delivered(change_set(*rows), Sink(), record, progress=lambda done, total: seen.append((done, total)))
    assert report.accepted == {"upsert": 250, "delete": 1}
    assert [(row.name, reason) for row, reason in report.refused] == [("bad", "no")]
    assert (report.total, report.done, report.not_delivered, report.error) == (252, 252, 0, None)
    assert record.quarantined == [report.refused[0][0].identifier]
    assert len(record.begun) == 252
    assert len(record.confirmed) == 251
    assert seen[-1] == (252, 252)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_port_error_stops_and_leaves_the_rest_unsent() -> None:
    lock = threading.Lock()
    sent: list[bytes] = []

    class Sink(FakeSink):
        def take(self, body: bytes) -> None:
            with lock:
                sent.append(body)
            raise PortError("closed")

    rows = [upsert(resource(f"x{n:04d}")) for n in range(300)]
    record = MemoryRecord()
    limits = DeliveryLimits(sent_together=100)
    report = delivered(change_set(upsert(SUBSCRIPTION), *rows), Sink(), record, limits)
    assert len(sent) == 1
    assert str(report.error) == "closed"
    assert (report.done, report.not_delivered, record.confirmed) == (0, 301, [])


def test_a_port_error_amid_a_phase_keeps_what_was_accepted() -> None:
    """What Port took before is confirmed; of the rest only what was on its way may have been sent."""
    lock = threading.Lock()
    sent: list[bytes] = []

    class Sink(FakeSink):
        def take(self, body: bytes) -> None:
            with lock:
                sent.append(body)
                if len(sent) > 150:
                    raise PortError("closed")

    record = MemoryRecord()
    rows = [upsert(resource(f"x{n:04d}")) for n in range(1000)]
    report = delivered(change_set(*rows), Sink(), record, DeliveryLimits(sent_together=200))
    assert report.accepted == {"upsert": 150}
    assert len(record.confirmed) == 150
    assert report.not_delivered == 850
    assert len(sent) <= 200  # what was handed to the threads together


def test_operations_are_sent_and_confirmed_in_groups_of_the_size_that_is_given() -> None:
    record = MemoryRecord()
    limits = DeliveryLimits(sent_together=4, confirmed_together=2)
    delivered(change_set(*[upsert(resource(f"x{n}")) for n in range(10)]), FakeSink(), record, limits)
    assert [len(group) for group in record.groups] == [4, 4, 2]
    assert max(record.confirmed_together) <= 2
    assert len(record.confirmed) == 10


def test_the_lease_is_renewed_while_all_requests_wait_for_port() -> None:
    renewed = threading.Event()

    class Record(MemoryRecord):
        def renew_lease(self) -> None:
            renewed.set()

    class Sink(FakeSink):
        def take(self, body: bytes) -> None:
            assert renewed.wait(5)

    limits = DeliveryLimits(renewed_within_seconds=0.01)
    assert delivered(change_set(upsert(SUBSCRIPTION)), Sink(), Record(), limits).not_delivered == 0


def test_what_is_not_a_port_error_is_not_hidden() -> None:
    class Sink(FakeSink):
        def take(self, body: bytes) -> None:
            raise ZeroDivisionError(body)

    with pytest.raises(ZeroDivisionError):
        delivered(change_set(upsert(SUBSCRIPTION)), Sink())


def test_nothing_to_deliver() -> None:
    report = delivered(change_set(), FakeSink())
    assert (report.total, report.done, report.not_delivered, report.error) == (0, 0, 0, None)


# -- too much to be the entities' fault -------------------------------------------------------------------------------


class _Refusing(FakeSink):
    """A Port that refuses what has this text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text.encode()

    def take(self, body: bytes) -> None:
        if self._text in body:
            raise RefusedError("no")


@pytest.mark.parametrize(
    ("refused", "taken", "is_the_set_up"), [(1, 0, False), (2, 0, True), (2, 1, False), (20, 1, False), (21, 1, True)]
)
def test_a_refusal_of_everything_is_a_mistake_in_the_set_up(refused: int, taken: int, is_the_set_up: bool) -> None:
    """A tick of two or three operations was put aside whole, with its deletes, and the run was green."""
    deletes = [delete(resource(f"bad{n}")) for n in range(refused // 2)]
    upserts = [upsert(resource(f"bad{n}")) for n in range(refused // 2, refused)]
    record = MemoryRecord()
    fine = [upsert(resource(f"good{n}")) for n in range(taken)]
    report = delivered(change_set(*deletes, *upserts, *fine), _Refusing("bad"), record)
    assert len(record.quarantined) == report.quarantined == (0 if is_the_set_up else refused)
    if is_the_set_up:
        assert f"Port refused {refused} of {refused + taken} deliveries, the last one saying: no. " in str(report.error)
        assert "Nothing was put into quarantine" in report.summary
    else:
        assert (report.error, report.not_delivered) == (None, 0)


def test_what_was_not_even_sent_never_counts_as_ports_refusal() -> None:
    """21 entities with ids that are too long stopped 200 fine ones, in every run."""
    long = [upsert(resource("(" * 320 + str(n))) for n in range(21)]
    record = MemoryRecord()
    report = delivered(change_set(*long, *[upsert(resource(f"x{n}")) for n in range(200)]), FakeSink(), record)
    assert (report.error, report.accepted, report.not_delivered) == (None, {"upsert": 200}, 0)
    assert len(record.quarantined) == 21

    report = delivered(change_set(*long), FakeSink(), record)
    assert (report.error, report.quarantined) == (None, 21)

    report = delivered(change_set(*long, *[upsert(resource(f"bad{n}")) for n in range(2)]), _Refusing("bad"))
    assert "Port refused 2 of 2 deliveries" in str(report.error)
    assert report.quarantined == 0


# -- what is never about the entity -----------------------------------------------------------------------------------

#: Statuses of proxies, firewalls, load balancers and outages.
_NOT_PORTS = [402, 405, 407, 409, 421, 423, 425, 426, 431, 451, 499, 501, 505, 507, 511, 520, 530, 598]


@pytest.fixture
def api_sink(sandbox: Sandbox, clock: SteppedClock) -> Iterator[ApiSink]:
    """Delivers by the sandbox's API, with two requests in flight."""
    port = sandbox.api_environment()
    credentials = (port["PORT_BASE_URL"], port["PORT_CLIENT_ID"], port["PORT_CLIENT_SECRET"])
    with closing(PortApi(*credentials, clock=clock, connections=2)) as api:
        yield ApiSink(api, concurrency=2, deadline=timedelta(minutes=10))


@pytest.fixture(params=["webhook", "api"])
def either_sink(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue({"webhook": "sink", "api": "api_sink"}[request.param])


#: An ordinary tick.
_TICK = [delete(resource("old")), upsert(resource("a")), upsert(resource("b"))]


def _hold_the_group(sandbox: Sandbox) -> None:
    sandbox.put_entity("azureSubscription", SUBSCRIPTION[0])
    sandbox.put_entity("azureResourceGroup", upsert(GROUP).identifier)


@pytest.mark.parametrize("status", [400, 404, 413, 422, *_NOT_PORTS])
def test_what_is_not_from_port_passes_or_fails_the_run_and_puts_nothing_aside(
    sandbox: Sandbox, either_sink: Any, clock: SteppedClock, status: int
) -> None:
    """A proxy answered 520 to all of a small tick: its deletes and upserts went to quarantine, and were lost."""
    _hold_the_group(sandbox)
    body = "<html>Error</html>" if status == 404 else "error"
    path = "/bulk" * (either_sink.verifies)
    record = MemoryRecord()
    sandbox.faults.add(Fault("port", status=status, body=body, path=path, times=None))
    report = delivered(change_set(*_TICK), either_sink, record)
    assert (report.refused, record.quarantined, report.not_delivered) == ([], [], 3)
    assert f"{status}" in str(report.error)
    assert timedelta(minutes=10) <= clock.now() - NOW < timedelta(minutes=21)

    sandbox.faults.clear()
    sandbox.faults.add(Fault("port", status=status, body=body, path=path))
    assert delivered(change_set(*_TICK), either_sink, record).accepted == {"delete": 1, "upsert": 2}
    assert record.quarantined == []


@pytest.mark.parametrize("body", ["OK", {"ok": False}])
def test_a_webhook_that_does_not_say_that_it_has_accepted_has_not(
    sandbox: Sandbox, sink: WebhookSink, body: Any
) -> None:
    sandbox.faults.add(Fault("port", status=200, body=body, times=1))
    assert delivered(change_set(*_TICK), sink).not_delivered == 0
    assert sink.flow.retries == 1

    sandbox.faults.add(Fault("port", status=200, body=body, times=None))
    record = MemoryRecord()
    report = delivered(change_set(*_TICK), sink, record)
    assert (report.accepted.total(), report.not_delivered, record.quarantined) == (0, 3, [])
    assert "Port accepted nothing for 10 minutes" in str(report.error)


@pytest.mark.parametrize("status", [401, 403, 404, 413])
def test_a_page_of_a_firewall_is_named_as_one(sandbox: Sandbox, either_sink: Any, status: int) -> None:
    """Who read "check PORT_WEBHOOK_SECRET" looked for a day in the wrong place."""
    path = "/bulk" * (either_sink.verifies)
    sandbox.faults.add(Fault("port", status=status, body="\n<html>Blocked</html>", path=path, times=None))
    summary = delivered(change_set(upsert(SUBSCRIPTION)), either_sink).summary
    assert f"it answered {status} with a web page, which is not from Port" in summary
    assert "proxy or firewall" in summary
    assert "SECRET" not in summary


@pytest.mark.parametrize("status", [409, 423, 500, 520])
def test_trouble_that_a_request_meets_three_times_splits_it_and_loses_nothing(
    sandbox: Sandbox, api_sink: ApiSink, status: int
) -> None:
    """A group's request met 520 three times, and what lies in the group went to quarantine for lack of it."""
    sandbox.faults.add(Fault("port", status=status, path="azureResourceGroup/entities/bulk", times=3))
    sandbox.put_entity("azureSubscription", SUBSCRIPTION[0])
    other = (GROUP[0] + " too", GROUP[1])
    rows = [upsert(GROUP), upsert(other), *[upsert(resource(f"x{n}")) for n in range(8)]]
    record = MemoryRecord()
    report = delivered(change_set(*rows), api_sink, record)
    assert (report.accepted, record.quarantined) == ({"upsert": 10}, [])


@pytest.mark.parametrize(("status", "word"), [(402, "plan"), (405, "newer azure_port_sync")])
def test_what_no_setting_changes_ends_the_delivery_at_once(
    sandbox: Sandbox, either_sink: Any, clock: SteppedClock, status: int, word: str
) -> None:
    path = "/bulk" * (either_sink.verifies)
    body = {"ok": False, "error": "no", "message": "Not for you."}
    sandbox.faults.add(Fault("port", status=status, body=body, path=path, times=None))
    report = delivered(change_set(upsert(SUBSCRIPTION)), either_sink)
    assert f"answered {status}: Not for you. " in str(report.error)
    assert word in str(report.error)
    assert clock.slept == []


# -- a run that is cancelled -----------------------------------------------------------------------------------------


class _Cancelled(MemoryRecord):
    """The record of a run that is cancelled, as its main thread sees it, once so many requests have met the fault."""

    def __init__(self, fault: Fault, requests: int = 1) -> None:
        super().__init__()
        self._fault, self._requests = fault, requests

    def renew_lease(self) -> None:
        if threading.current_thread() is threading.main_thread() and self._fault.fired >= self._requests:
            raise KeyboardInterrupt


_SOON = DeliveryLimits(renewed_within_seconds=0.02, stopped_within_seconds=2)


def _sending_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("port_")]


@pytest.mark.parametrize(
    "fault",
    [{"status": 503}, {"status": 429, "headers": {"Retry-After": "3600"}}, {"kind": "reset"}, {"status": 520}],
    ids=str,
)
@pytest.mark.parametrize("way", ["webhook", "api", "api signing in"])
def test_a_cancelled_run_stops_sending_within_seconds(sandbox: Sandbox, fault: dict[str, Any], way: str) -> None:
    """Its last request came five minutes after it had been cancelled."""
    path = {"webhook": "", "api": "/bulk", "api signing in": "/auth"}[way]
    ordered = Fault("port", path=path, times=None, **fault)
    sandbox.faults.add(ordered)
    environment, clock = {**sandbox.environment(), **sandbox.api_environment()}, SystemClock()
    common: dict[str, Any] = {"concurrency": 2, "deadline": timedelta(minutes=10)}
    credentials = (environment[f"PORT_{name}"] for name in ("BASE_URL", "CLIENT_ID", "CLIENT_SECRET"))
    secret = environment["PORT_WEBHOOK_SECRET"]
    with (
        closing(PortApi(*credentials, clock=clock, connections=2)) as api,
        closing(WebhookSink(environment["PORT_WEBHOOK_INGEST_URL"], secret=secret, clock=clock, **common)) as webhook,
    ):
        sink: Sink = webhook if way == "webhook" else ApiSink(api, **common)
        rows = [upsert(resource(f"x{n:03d}")) for n in range(200)]
        with pytest.raises(KeyboardInterrupt):
            delivered(change_set(*rows), sink, _Cancelled(ordered), _SOON)
        assert _sending_threads() == []


def test_a_cancelled_run_does_not_wait_for_an_answer_that_does_not_come(sandbox: Sandbox) -> None:
    environment = sandbox.environment()
    hanging = Fault("port", kind="hang", times=None)
    sandbox.faults.add(hanging)
    sink = WebhookSink(
        environment["PORT_WEBHOOK_INGEST_URL"],
        secret=environment["PORT_WEBHOOK_SECRET"],
        concurrency=2,
        deadline=timedelta(minutes=10),
        clock=SystemClock(),
        timeouts=Timeouts(read_seconds=1),
    )
    limits = _SOON._replace(stopped_within_seconds=0.01)
    with closing(sink):
        with pytest.raises(KeyboardInterrupt):
            delivered(change_set(*[upsert(resource(f"x{n}")) for n in range(9)]), sink, _Cancelled(hanging, 2), limits)
        on_their_way = _sending_threads()
        for thread in on_their_way:
            thread.join(10)
        assert (len(on_their_way), _sending_threads(), hanging.fired) == (2, [], 2)


# -- one item that Port keeps failing at -----------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [{"status": 500}, {"kind": "reset"}], ids=str)
def test_an_item_alone_in_its_phase_holds_up_no_later_one(
    sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock, fault: dict[str, Any]
) -> None:
    """Nothing beside it says that Port is well; so the deadline is waited for, and then the others are tried."""
    sandbox.faults.add(Fault("port", in_body="stubborn", times=None, **fault))
    report = delivered(
        change_set(delete(resource("stubborn")), upsert(SUBSCRIPTION), upsert(GROUP), upsert(resource("x"))),
        sink,
    )
    assert (report.accepted, report.not_delivered, report.error) == ({"upsert": 3}, 1, None)
    assert [row.name for row, _ in report.failed] == ["stubborn"]
    assert timedelta(minutes=10) <= clock.now() - NOW < timedelta(minutes=11)


def test_an_outage_is_not_taken_for_many_such_items(sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock) -> None:
    sandbox.faults.add(Fault("port", status=503, skip=5, times=None))
    report = delivered(change_set(*[upsert(resource(f"x{n:03d}")) for n in range(500)]), sink)
    assert "Port accepted nothing for 10 minutes" in str(report.error)
    assert report.accepted.total() == 5
    # Those in flight when it began have seen others succeed while they failed.
    assert len(report.failed) <= 3 + sink.concurrency
    assert clock.now() - NOW < timedelta(minutes=12)


def test_what_lies_in_such_an_item_is_not_put_into_quarantine(sandbox: Sandbox, api_sink: ApiSink) -> None:
    """Port's API refuses a resource whose group it does not have. That says nothing about the resource."""
    sandbox.put_entity("azureSubscription", SUBSCRIPTION[0])
    sandbox.faults.add(Fault("port", status=500, in_body="stubborn", times=None))
    rows = [upsert(GROUP, tags={"a": "stubborn"}), upsert(resource("x")), upsert(resource("y"))]
    record = MemoryRecord()
    report = delivered(change_set(*rows), api_sink, record)
    assert [row.name for row, _ in report.failed] == ["Web (old) 1"]
    assert [row.name for row, _ in report.orphaned] == ["x", "y"]
    assert (report.refused, record.quarantined) == ([], [])

    sandbox.faults.clear()
    assert delivered(change_set(*rows), api_sink, record).not_delivered == 0
