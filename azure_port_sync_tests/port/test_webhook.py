"""The sink for a Port webhook: the events it sends, signed, retried with patience, never showing the key."""

import gzip
import json
import logging
import socket
from datetime import timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from azure_port_sync.core.errors import PortError
from azure_port_sync.core.rows import ChangeSetRow
from azure_port_sync.port.events import event_body
from azure_port_sync.port.sinks.webhook import MAX_BYTES, WebhookSink
from azure_port_sync.port.transport import MAX_RESPONSE_BYTES
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import Throttle
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.delivery import delivered
from azure_port_sync_tests.support.entities import SUB
from azure_port_sync_tests.support.leaks import shows_none_of
from azure_port_sync_tests.support.listeners import speaking
from azure_port_sync_tests.support.rows import GROUP, SUBSCRIPTION, change_set, delete, resource, upsert

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
    assert shop.properties == {"tags": {"Team": "wêb"}, "type": "microsoft.web/sites", "location": "westeurope"}
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


def _send(sink: WebhookSink) -> None:
    """Send one event; what keeps Port from taking it is raised."""
    report = delivered(change_set(upsert(resource("größe"))), sink)
    if report.error is not None:
        raise report.error


def test_the_signature_is_over_the_raw_body(sandbox: Sandbox, sink: WebhookSink) -> None:
    """The sandbox verifies it as Port documents it; the guide's script read the secret and never signed."""
    _send(sink)
    assert sandbox.port.requests == {202: 1}


@pytest.mark.parametrize("secret", [None, "another secret"])
def test_a_wrong_signature_names_the_setting(sandbox: Sandbox, clock: SteppedClock, secret: str | None) -> None:
    url = sandbox.environment()["PORT_WEBHOOK_INGEST_URL"]
    sink = _sink_to(url, clock, secret)
    with pytest.raises(PortError, match="PORT_WEBHOOK_SECRET") as error:
        _send(sink)
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
    _send(sink)
    assert (sandbox.port.requests, sink.flow.retries) == ({202: 1}, 5)


def test_a_connection_that_breaks_is_retried(sandbox: Sandbox, sink: WebhookSink) -> None:
    sandbox.faults.add(Fault("port", kind="reset", times=3))
    _send(sink)
    assert sandbox.port.requests == {202: 1}


@pytest.mark.parametrize("as_date", [True, False])
def test_waits_as_long_as_port_asks(sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock, as_date: bool) -> None:
    started = clock.now()
    asked = format_datetime(started + timedelta(seconds=40), usegmt=True) if as_date else "40"
    sandbox.faults.add(Fault("port", status=429, headers={"Retry-After": asked}))
    _send(sink)
    assert timedelta(seconds=40) <= clock.now() - started < timedelta(seconds=60)


def test_a_throttled_port_gets_everything_in_the_end(sandbox: Sandbox, sink: WebhookSink) -> None:
    sandbox.port.throttle(Throttle(limit=20, window_seconds=5))
    report = delivered(change_set(*[upsert(resource(f"x{n}")) for n in range(100)]), sink)
    assert report.accepted == {"upsert": 100}
    assert len(sandbox.port.catalog.entities["azureCloudResources"]) == 100


def test_port_that_stays_away_ends_in_one_sentence(sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock) -> None:
    sandbox.faults.add(Fault("port", status=503, times=None))
    with pytest.raises(PortError, match=r"10 minutes \(PORT_DELIVERY_DEADLINE_MINUTES\).*503") as error:
        _send(sink)
    assert timedelta(minutes=10) <= clock.now() - NOW < timedelta(minutes=11)
    assert "\n" not in str(error.value)


def test_the_deadline_counts_from_the_last_acceptance(sandbox: Sandbox, sink: WebhookSink, clock: SteppedClock) -> None:
    """A long delivery is no outage: an hour of accepted events uses up nothing."""
    for _ in range(6):
        sandbox.clock.advance(timedelta(minutes=9))
        sandbox.faults.add(Fault("port", status=503, times=2))
        _send(sink)
    assert clock.now() - NOW > timedelta(minutes=54)


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
        _send(sink)
    sink.close()
    shows_none_of(error.value, *_secrets_of(url))
    shown = [record.getMessage() for record in caplog.records if record.name.startswith("azure_port_sync")]
    assert not any("key-0123456789" in text for text in shown)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nabc", b"220 mail.example.com ESMTP\r\n"],
    ids=["cut off", "not HTTP"],
)
def test_an_answer_that_is_not_whole_is_retried(clock: SteppedClock, answer: bytes) -> None:
    """One that is cut short is neither a ConnectionError nor a Timeout of `requests`."""
    with speaking(answer) as base:
        sink = _sink_to(f"{base}/key-0123456789", clock)
        with pytest.raises(PortError) as error:
            _send(sink)
        sink.close()
    shows_none_of(error.value, *_secrets_of(f"{base}/key-0123456789"))


def test_an_answer_that_unpacks_to_more_than_port_ever_sends_is_given_up(clock: SteppedClock) -> None:
    """2 MB of it took 4 GB of memory."""
    packed = gzip.compress(bytes(MAX_RESPONSE_BYTES + 1), 1)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
    with speaking(head.encode() + packed) as base:
        sink = WebhookSink(f"{base}/k", secret=None, concurrency=1, deadline=timedelta(seconds=1), clock=clock)
        with pytest.raises(PortError, match="its answer is larger than any of Port's"):
            _send(sink)
        sink.close()


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
        _send(sink)
    sink.close()
    shows_none_of(error.value, *_secrets_of(url))


def test_the_sink_does_not_print_its_secrets(sandbox: Sandbox, sink: WebhookSink) -> None:
    environment = sandbox.environment()
    for text in (repr(sink), str(sink)):
        assert environment["PORT_WEBHOOK_SECRET"] not in text
        assert environment["PORT_WEBHOOK_INGEST_URL"] not in text
