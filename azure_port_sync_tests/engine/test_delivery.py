"""Delivering to Port: in phases, recorded before and after, retried with patience, never showing the key."""

import json
import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from azure_port_sync.core.decisions import DELIVERY_PHASES
from azure_port_sync.core.errors import PortError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import ChangeSetRow, Operation, records
from azure_port_sync.engine.deliver import DeliveryLimits
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.events import event_body
from azure_port_sync.port.failures import RefusedError
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import MAX_BYTES, WebhookSink
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.delivery import FakeSink, MemoryRecord, delivered
from azure_port_sync_tests.support.leaks import shows_none_of
from azure_port_sync_tests.support.listeners import speaking
from azure_port_sync_tests.support.rows import GROUP, SUB, SUBSCRIPTION, change_set, delete, resource, upsert
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


def test_what_is_not_a_port_error_is_not_hidden() -> None:
    class Sink(FakeSink):
        def take(self, body: bytes) -> None:
            raise ZeroDivisionError(body)

    with pytest.raises(ZeroDivisionError):
        delivered(change_set(upsert(SUBSCRIPTION)), Sink())


def test_nothing_to_deliver() -> None:
    report = delivered(change_set(), FakeSink())
    assert (report.total, report.done, report.not_delivered, report.error) == (0, 0, 0, None)


# -- the guide's mapping ---------------------------------------------------------------------------------------------


def test_the_guides_mapping_writes_all_three_kinds(sandbox: Sandbox, sink: WebhookSink) -> None:
    report = delivered(change_set(upsert(resource("Shop")), upsert(GROUP), upsert(SUBSCRIPTION)), sink)
    assert report.accepted == {"upsert": 3}
    assert list(sandbox.port.catalog.failures) == []
    entities = sandbox.port.catalog.entities
    subscription = f"/subscriptions/{SUB}"
    group = f"{subscription}/resourcegroups/web_=28old=29_1"
    assert {name: list(found) for name, found in entities.items()} == {
        "azureSubscription": [subscription],
        "azureResourceGroup": [group],
        "azureCloudResources": [f"{group}/providers/microsoft.web/sites/shop"],
    }
    shop = entities["azureCloudResources"][f"{group}/providers/microsoft.web/sites/shop"]
    assert shop.title == "Shop"
    assert shop.properties == {
        "tags": {"Team": "wêb"},
        "type": "microsoft.web/sites",
        "location": "westeurope",
    }
    assert shop.relations == {"resourceGroup": group}
    assert entities["azureResourceGroup"][group].relations == {"subscription": subscription}
    assert entities["azureSubscription"][subscription].properties["subscriptionId"] == SUB


def test_the_guides_mapping_deletes_all_three_kinds(sandbox: Sandbox, sink: WebhookSink) -> None:
    """The delete of a resource group carried no type, matched no mapping, and the group stayed for good."""
    everything = [SUBSCRIPTION, GROUP, resource("Shop"), resource("Bar & (x)")]
    delivered(change_set(*map(upsert, everything)), sink)
    catalog = sandbox.port.catalog
    for entity in reversed(everything):
        before = sum(map(len, catalog.entities.values()))
        delivered(change_set(delete(entity)), sink)
        assert sum(map(len, catalog.entities.values())) == before - 1
    assert not any(catalog.entities.values())
    assert list(catalog.failures) == []


def test_a_container_takes_what_is_in_it(sandbox: Sandbox, sink: WebhookSink) -> None:
    delivered(change_set(*map(upsert, [SUBSCRIPTION, GROUP, resource("a"), resource("b")])), sink)
    delivered(change_set(delete(GROUP)), sink)
    assert {name: len(found) for name, found in sandbox.port.catalog.entities.items()} == {
        "azureSubscription": 1,
        "azureResourceGroup": 0,
        "azureCloudResources": 0,
    }


def _event(row: ChangeSetRow) -> bytes:
    return event_body(row.operation, row.kind, row.data)


@pytest.mark.parametrize(
    ("row", "operation", "event_type"),
    [
        (upsert(SUBSCRIPTION), "upsert", "resourceContainer"),
        (delete(GROUP), "delete", "resourceContainer"),
        (upsert(resource("x")), "upsert", "resource"),
        (delete(resource("x")), "delete", "resource"),
    ],
)
def test_events_have_the_shape_of_the_guide(row: ChangeSetRow, operation: str, event_type: str) -> None:
    assert json.loads(_event(row)) == {"operation": operation, "type": event_type, "data": json.loads(row.data)}


# -- the webhook -----------------------------------------------------------------------------------------------------


def _sink_to(url: str, clock: SteppedClock, secret: str | None = None) -> WebhookSink:
    return WebhookSink(url, secret=secret, concurrency=1, deadline=timedelta(minutes=10), clock=clock)


def _tell(sink: WebhookSink) -> None:
    """Send one event; what keeps Port from taking it is raised."""
    report = delivered(change_set(upsert(resource("größe"))), sink)
    if report.error is not None:
        raise report.error


def test_the_signature_is_over_the_raw_body(sandbox: Sandbox, sink: WebhookSink) -> None:
    """The sandbox verifies it as Port documents it; the guide's script read the secret and never signed."""
    _tell(sink)
    assert sandbox.port.requests == {202: 1}


@pytest.mark.parametrize("secret", [None, "another secret"])
def test_a_wrong_signature_names_the_setting(sandbox: Sandbox, clock: SteppedClock, secret: str | None) -> None:
    url = sandbox.environment()["PORT_WEBHOOK_INGEST_URL"]
    sink = _sink_to(url, clock, secret)
    with pytest.raises(PortError, match="PORT_WEBHOOK_SECRET") as error:
        _tell(sink)
    sink.close()
    shows_none_of(error.value, *_secrets_of(url), "another secret")


@pytest.mark.parametrize(
    ("status", "setting"),
    [
        (401, "PORT_WEBHOOK_SECRET"),
        (403, "PORT_WEBHOOK_SECRET"),
        (404, "PORT_WEBHOOK_INGEST_URL"),
        (410, "PORT_WEBHOOK_INGEST_URL"),
    ],
)
def test_a_refusal_of_everything_names_the_setting(
    sandbox: Sandbox, sink: WebhookSink, status: int, setting: str
) -> None:
    sandbox.faults.add(Fault("port", status=status, times=None))
    report = delivered(change_set(upsert(SUBSCRIPTION), upsert(GROUP)), sink)
    assert setting in str(report.error)
    assert str(status) in str(report.error)
    assert report.not_delivered == 2
    assert report.error is not None
    shows_none_of(report.error, *_secrets_of(sandbox.environment()["PORT_WEBHOOK_INGEST_URL"]))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_acceptance(sandbox: Sandbox, sink: WebhookSink, status: int) -> None:
    """`requests` calls every answer below 400 ok: events that went nowhere counted as delivered."""
    headers = {"Location": "https://example.com/elsewhere"}
    sandbox.faults.add(Fault("port", status=status, headers=headers, times=None))
    report = delivered(change_set(upsert(SUBSCRIPTION)), sink)
    assert report.accepted == {}
    assert "PORT_WEBHOOK_INGEST_URL" in str(report.error)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_answers_are_retried(sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock, status: int) -> None:
    """The guide's script gave up after three tries, logged it, and ended with success."""
    sandbox.faults.add(Fault("port", status=status, times=5))
    _tell(sink)
    assert (sandbox.port.requests, sink.flow.retries, len(clock.slept)) == ({202: 1}, 5, 5)


def test_a_connection_that_breaks_is_retried(sandbox: Sandbox, sink: WebhookSink) -> None:
    sandbox.faults.add(Fault("port", kind="reset", times=3))
    _tell(sink)
    assert sandbox.port.requests == {202: 1}


@pytest.mark.parametrize("as_date", [True, False])
def test_waits_as_long_as_port_asks(sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock, as_date: bool) -> None:
    started = clock.now()
    asked = format_datetime(started + timedelta(seconds=40), usegmt=True) if as_date else "40"
    sandbox.faults.add(Fault("port", status=429, headers={"Retry-After": asked}))
    _tell(sink)
    assert timedelta(seconds=40) <= clock.now() - started < timedelta(seconds=60)


@pytest.mark.parametrize("text", ["", "soon", "-5", "Mon, 99 Nov 2026 10:00:00 GMT", "Mon, 23 Nov 2026 10:00:00"])
def test_a_malformed_retry_after_is_ignored(
    sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock, text: str
) -> None:
    sandbox.faults.add(Fault("port", status=503, headers={"Retry-After": text}))
    _tell(sink)
    assert clock.now() - NOW < timedelta(minutes=1)


def test_a_throttled_port_gets_everything_in_the_end(sandbox: Sandbox, sink: WebhookSink) -> None:
    from azure_port_sync.sandbox.port import Throttle

    sandbox.port.throttle(Throttle(limit=20, window_seconds=5))
    report = delivered(change_set(*[upsert(resource(f"x{n}")) for n in range(100)]), sink)
    assert report.accepted == {"upsert": 100}
    assert len(sandbox.port.catalog.entities["azureCloudResources"]) == 100


def test_port_that_stays_away_ends_in_one_sentence(sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock) -> None:
    sandbox.faults.add(Fault("port", status=503, times=None))
    with pytest.raises(PortError, match=r"10 minutes \(PORT_DELIVERY_DEADLINE_MINUTES\).*503") as error:
        _tell(sink)
    assert timedelta(minutes=10) <= clock.now() - NOW < timedelta(minutes=11)
    assert "\n" not in str(error.value)


def test_the_deadline_counts_from_the_last_acceptance(sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock) -> None:
    """A long delivery is no outage: an hour of accepted events uses up nothing."""
    for _ in range(6):
        sandbox.clock.advance(timedelta(minutes=9))
        sandbox.faults.add(Fault("port", status=503, times=2))
        _tell(sink)
    assert clock.now() - NOW > timedelta(minutes=54)


def test_a_very_long_retry_after_does_not_outlast_the_deadline(
    sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock
) -> None:
    sandbox.faults.add(Fault("port", status=429, headers={"Retry-After": "86400"}, times=None))
    with pytest.raises(PortError):
        _tell(sink)
    assert clock.now() - NOW < timedelta(hours=1)


def test_an_event_over_ports_limit_is_refused_without_a_request(sandbox: Sandbox, sink: WebhookSink) -> None:
    empty = len(_event(upsert(resource("x"), location="")))
    fits, too_large = (upsert(resource("x"), location="x" * (MAX_BYTES - empty + n)) for n in (2, 3))
    assert len(_event(fits)) == MAX_BYTES
    report = delivered(change_set(fits, too_large), sink)
    assert [reason for _, reason in report.refused] == ["the event has 524,289 bytes; Port takes 524,288"]
    assert (report.accepted.total(), sandbox.port.requests) == (1, {202: 1})


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_of_one_event_is_of_that_event_alone(sandbox: Sandbox, sink: WebhookSink, status: int) -> None:
    sandbox.faults.add(Fault("port", status=status, body={"message": "bad tags"}, in_body="bad", times=None))
    report = delivered(change_set(upsert(resource("bad")), upsert(resource("good"))), sink)
    assert (report.accepted, report.error) == ({"upsert": 1}, None)
    ((row, reason),) = report.refused
    assert (row.name, str(status) in reason, "bad tags" in reason) == ("bad", True, True)


# -- what is never about the entity -----------------------------------------------------------------------------------

#: Statuses of proxies, firewalls, load balancers and outages.
_NOT_PORTS = [402, 405, 407, 409, 421, 423, 425, 426, 431, 451, 499, 501, 505, 507, 511, 520, 530, 598]


@pytest.fixture
def api_sink(sandbox: Sandbox, clock: SteppedClock) -> Iterator[ApiSink]:
    """Delivers by the sandbox's API, with two requests in flight."""
    port = sandbox.api_environment()
    credentials = (port["PORT_BASE_URL"], port["PORT_CLIENT_ID"], port["PORT_CLIENT_SECRET"])
    with closing(PortApi(*credentials, clock=clock, connections=2)) as api:
        yield ApiSink(api, concurrency=2, deadline=timedelta(minutes=10), clock=clock)


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


@pytest.mark.parametrize("status", [401, 403, 404, 413])
def test_a_page_of_a_firewall_is_named_as_one(sandbox: Sandbox, either_sink: Any, status: int) -> None:
    """Who read "check PORT_WEBHOOK_SECRET" looked for a day in the wrong place."""
    path = "/bulk" * (either_sink.verifies)
    sandbox.faults.add(Fault("port", status=status, body="\n<html>Blocked</html>", path=path, times=None))
    report = delivered(change_set(upsert(SUBSCRIPTION)), either_sink)
    assert f"it answered {status} with a web page, which is not from Port" in str(report.error)
    assert "proxy or firewall" in str(report.error)
    assert "SECRET" not in str(report.error)


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
    assert [row.name for row, _ in report.failed] == ["Web (old) 1", "x", "y"]
    assert (report.refused, record.quarantined) == ([], [])

    sandbox.faults.clear()
    assert delivered(change_set(*rows), api_sink, record).not_delivered == 0


def test_a_web_page_is_no_receipt(sandbox: Sandbox, sink: WebhookSink) -> None:
    """A proxy that wants a password, or the address of Port's pages in the place of the webhook's, answers 200."""
    sandbox.faults.add(Fault("port", status=200, body="\n<!DOCTYPE html><html></html>", times=None))
    report = delivered(change_set(upsert(SUBSCRIPTION)), sink)
    assert report.accepted == {}
    assert "PORT_WEBHOOK_INGEST_URL" in str(report.error)


# -- the key is a secret ---------------------------------------------------------------------------------------------


def _secrets_of(url: str) -> tuple[str, str]:
    """A webhook's URL, and the key alone."""
    return url, url.rpartition("/")[2]


def test_no_error_shows_the_key_when_nobody_listens(clock: SteppedClock, caplog: pytest.LogCaptureFixture) -> None:
    """`requests` writes the path, which is the key, into the text of a ConnectionError."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}/key-0123456789"
    sink = _sink_to(url, clock)
    with caplog.at_level(logging.DEBUG), pytest.raises(PortError, match="PORT_DELIVERY_DEADLINE_MINUTES") as error:
        _tell(sink)
    sink.close()
    shows_none_of(error.value, *_secrets_of(url))
    shown = [record.getMessage() for record in caplog.records if record.name.startswith("azure_port_sync")]
    assert not any("key-0123456789" in text for text in shown)


def test_an_answer_that_breaks_off_is_retried(clock: SteppedClock) -> None:
    """An answer cut short is neither a ConnectionError nor a Timeout of `requests`."""
    with speaking(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nabc") as base:
        sink = _sink_to(f"{base}/key-0123456789", clock)
        with pytest.raises(PortError) as error:
            _tell(sink)
        sink.close()
    shows_none_of(error.value, *_secrets_of(f"{base}/key-0123456789"))


def test_a_retry_after_beyond_ascii_is_ignored(clock: SteppedClock) -> None:
    """Latin-1 has digits that Python calls digits and cannot read as a number."""
    with speaking(b"HTTP/1.1 503 No\r\nRetry-After: \xb2\r\nContent-Length: 0\r\n\r\n") as base:
        sink = _sink_to(f"{base}/key-0123456789", clock)
        with pytest.raises(PortError, match="it answered 503"):
            _tell(sink)
        sink.close()


def test_an_answer_that_is_not_http_is_retried(clock: SteppedClock) -> None:
    with speaking(b"220 mail.example.com ESMTP\r\n") as base:
        sink = _sink_to(f"{base}/key-0123456789", clock)
        with pytest.raises(PortError) as error:
            _tell(sink)
        sink.close()
    shows_none_of(error.value, *_secrets_of(f"{base}/key-0123456789"))


@pytest.mark.parametrize("body", ["Cannot POST /{}", {"message": "Cannot POST /{}"}], ids=["text", "json"])
@pytest.mark.parametrize("status", [400, 405])
def test_an_answer_that_repeats_the_address_does_not_show_it(
    sandbox: Sandbox, sink: WebhookSink, caplog: pytest.LogCaptureFixture, status: int, body: Any
) -> None:
    """Servers like to say `Cannot POST /<path>`, and here the path is the key."""
    url = sandbox.environment()["PORT_WEBHOOK_INGEST_URL"]
    key = url.rpartition("/")[2]
    said = body.format(key) if isinstance(body, str) else {"message": body["message"].format(key)}
    sandbox.faults.add(Fault("port", status=status, body=said, times=None))
    report = delivered(change_set(upsert(SUBSCRIPTION)), sink)
    assert report.refused or report.error
    assert not any(key in reason for _, reason in [*report.refused, *report.failed])
    assert key not in caplog.text + str(report.error)


def test_a_certificate_that_is_not_trusted_names_the_setting(sandbox: Sandbox, clock: SteppedClock) -> None:
    url = f"{sandbox.azure_url}/key-0123456789"
    sink = _sink_to(url, clock)
    with pytest.raises(PortError, match="REQUESTS_CA_BUNDLE") as error:
        _tell(sink)
    sink.close()
    shows_none_of(error.value, *_secrets_of(url))


def test_the_sink_does_not_print_its_secrets(sandbox: Sandbox, sink: WebhookSink) -> None:
    environment = sandbox.environment()
    for text in (repr(sink), str(sink)):
        assert environment["PORT_WEBHOOK_SECRET"] not in text
        assert environment["PORT_WEBHOOK_INGEST_URL"] not in text
