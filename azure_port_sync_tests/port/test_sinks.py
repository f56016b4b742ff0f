"""Many events in a request: within Port's limits, each with its own outcome, and no faster than Port lets us."""

import json
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azure_port_sync.core.clock import SystemClock
from azure_port_sync.engine import deliver
from azure_port_sync.port import model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.sinks import OutgoingEvent
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import MAX_BYTES, WebhookBatchSink, WebhookSink
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import Throttle, Webhook
from azure_port_sync.sandbox.rest import ResetForm
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.conftest import SinkOf
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.delivery import MemoryRecord, delivered
from azure_port_sync_tests.support.entities import SUB
from azure_port_sync_tests.support.rows import GROUP, SUBSCRIPTION, change_set, delete, resource, upsert, upserts_of

RESOURCE = "azureCloudResources"
BULK = "/entities/bulk"


@pytest.fixture
def sink(api: PortApi) -> ApiSink:
    """Writes to the sandbox's Port by its API, where the containers of the resources are already."""
    made = ApiSink(api, concurrency=4, deadline=timedelta(minutes=10))
    assert delivered(change_set(upsert(SUBSCRIPTION), upsert(GROUP)), made).accepted.total() == 2
    return made


@pytest.fixture
def batches(sandbox: Sandbox, sink_of: SinkOf) -> WebhookSink:
    """Sends batches to the sandbox's webhook, which has our mapping."""
    (guides,) = sandbox.port.webhooks.values()
    sandbox.port.add_webhook(Webhook(guides.key, model.webhook()["mappings"], guides.security))
    return sink_of(WebhookBatchSink)


def _titles(sandbox: Sandbox, blueprint: str = RESOURCE) -> set[str]:
    return {entity["title"] for entity in sandbox.held()[blueprint].values()}


# -- packing ---------------------------------------------------------------------------------------------------------

#: Blocks of events of one size each: a few large ones, many small ones, and such as fill a request to the last byte.
_LIMIT = WebhookBatchSink.max_bytes
_SIZES = st.lists(
    st.tuples(st.integers(1, 900), st.sampled_from([300, 1046, 1047, 1048, 5_000]))
    | st.tuples(st.integers(1, 4), st.sampled_from([_LIMIT // 2 - 1, _LIMIT // 2, _LIMIT - 301, _LIMIT - 1, _LIMIT])),
    min_size=1,
    max_size=5,
)


def _packed(sink: Any, sizes: list[tuple[int, int]], operation: str = "upsert") -> list[list[OutgoingEvent]]:
    row = upsert(SUBSCRIPTION)._replace(operation=operation)
    events = [OutgoingEvent(row, event) for count, size in sizes for event in [b"x" * size] * count]
    batches = list(deliver.batches(events, sink))
    assert [event for batch in batches for event in batch] == events
    return batches


@given(_SIZES)
@settings(max_examples=40)
def test_a_batch_has_at_most_500_events_and_512_kib(sizes: list[tuple[int, int]]) -> None:
    """Port silently drops the events beyond 500."""
    sink = WebhookBatchSink(
        "http://127.0.0.1/k", secret=None, concurrency=1, deadline=timedelta(1), clock=SystemClock()
    )
    batches = _packed(sink, sizes)
    for batch in batches:
        assert 1 <= len(batch) <= 500
        assert len(sink._body(batch)) <= MAX_BYTES
    for batch, next_window in pairwise(batches):
        assert len(batch) == 500 or len(sink._body([*batch, next_window[0]])) > MAX_BYTES, "there was room"
    sink.close()


@given(_SIZES, st.sampled_from([("upsert", 20), ("delete", 100)]))
@settings(max_examples=40)
def test_the_api_gets_at_most_20_upserts_or_100_deletes(sizes: list[tuple[int, int]], limit: tuple[str, int]) -> None:
    operation, most = limit
    sink = ApiSink.__new__(ApiSink)  # its limits need no Port
    for batch in _packed(sink, sizes, operation):
        assert 1 <= len(batch) <= most
        assert sum(len(event.body) + 1 for event in batch) <= 1024 * 1024


def test_batches_arrive_whole(sandbox: Sandbox, batches: WebhookSink) -> None:
    names = [f"site {n}" for n in range(1101)]
    large = upsert(resource("large"), tags={f"t{n}": "x" * 1000 for n in range(500)})
    report = delivered(change_set(*[upsert(resource(name)) for name in names], large), batches)
    assert report.accepted == {"upsert": 1102}
    assert sandbox.port.events == batches.flow.requests == 4  # 500, 500, 101 and the large one
    assert _titles(sandbox) == {*names, "large"}
    deleted = delivered(change_set(*[delete(resource(name)) for name in names]), batches)
    assert deleted.accepted == {"delete": 1101}
    assert _titles(sandbox) == {"large"}
    assert list(sandbox.port.catalog.failures) == []


def test_the_api_is_sent_20_upserts_and_100_deletes_at_once(sandbox: Sandbox, sink: ApiSink) -> None:
    names = [f"site {n}" for n in range(205)]
    sandbox.rest.requests.clear()
    assert delivered(upserts_of(*names), sink).accepted == {"upsert": 205}
    assert _titles(sandbox) == set(names)
    report = delivered(change_set(*[delete(resource(name)) for name in names]), sink)
    assert report.accepted == {"delete": 205}
    assert _titles(sandbox) == set()
    assert sandbox.rest.requests == {"bulk_upsert 200": 11, "bulk_delete 200": 3}


@pytest.mark.parametrize("tags", [{"a": "ä" * 200_000}, {f"{n:050d}": "" for n in range(9_300)}], ids=["long", "many"])
def test_entities_that_fill_a_request_of_the_api_fit_into_it(
    sandbox: Sandbox, sink: ApiSink, tags: dict[str, str]
) -> None:
    """The events are measured and the entities are sent."""
    rows = [upsert(resource(f"x{n}"), tags=tags) for n in range(2)]
    assert delivered(change_set(*rows), sink).accepted == {"upsert": 2}
    assert not any(request.endswith("413") for request in sandbox.rest.requests)


# -- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_of_a_batch_that_port_refuses_only_the_bad_event_goes_to_quarantine(
    sandbox: Sandbox, batches: WebhookSink, status: int
) -> None:
    sandbox.faults.add(Fault("port", status=status, body={"message": "no"}, in_body="bad", times=None))
    record = MemoryRecord()
    report = delivered(upserts_of("bad", *[f"x{n}" for n in range(30)]), batches, record)
    assert (report.accepted, report.not_delivered, report.error) == ({"upsert": 30}, 0, None)
    assert [row.name for row, _ in report.refused] == ["bad"]
    assert len(record.quarantined) == 1
    assert _titles(sandbox) == {f"x{n}" for n in range(30)}


def test_a_refused_entity_among_twenty_goes_to_quarantine_alone(sandbox: Sandbox, sink: ApiSink) -> None:
    nowhere = f"/subscriptions/{SUB}/resourceGroups/nowhere/providers/Microsoft.Web/sites/bad"
    rows = [upsert(resource(f"x{n}")) for n in range(19)]
    rows.insert(7, upsert((nowhere, "microsoft.web/sites")))
    record = MemoryRecord()
    report = delivered(change_set(*rows), sink, record)
    assert (report.accepted, report.not_delivered, report.error) == ({"upsert": 19}, 0, None)
    ((row, reason),) = report.orphaned
    assert row.name == "bad"
    assert "Port answered 404: the relation 'resourceGroup' points to" in reason
    assert record.quarantined == [row.identifier]
    assert _titles(sandbox) == {f"x{n}" for n in range(19)}
    assert sandbox.rest.requests["bulk_upsert 207"] == 1


def _answer(**errors: int) -> dict[str, Any]:
    """Port's answer to entities 0 to 3, of which those named by ``e<index>`` are not written."""
    failed = {int(name[1:]): status for name, status in errors.items()}
    return {
        "ok": False,
        "entities": [{"created": True, "identifier": "-", "index": n} for n in range(4) if n not in failed],
        "errors": [
            {"identifier": "-", "index": n, "statusCode": status, "error": "e", "message": "said so"}
            for n, status in failed.items()
        ],
    }


def test_entities_that_port_asks_to_send_again_are_sent_again_and_only_those(sandbox: Sandbox, sink: ApiSink) -> None:
    """They counted as refused once, also when Port took them the second time."""
    sandbox.rest.items.clear()
    sandbox.faults.add(Fault("port", status=207, body=_answer(e1=503, e2=429, e3=422), path=BULK))
    report = delivered(upserts_of("a", "b", "c", "d"), sink)
    assert _titles(sandbox) == {"b", "c"}
    assert sandbox.rest.items["upserted"] == 2
    assert report.accepted == {"upsert": 3}
    assert [(row.name, reason) for row, reason in report.refused] == [("d", "Port answered 422: said so")]


@pytest.mark.parametrize(
    "status", [401, 402, 403, 405, 407, 408, 409, 421, 423, 425, 426, 429, 431, 451, 499, 500, 520]
)
def test_what_is_never_about_an_entity_is_not_held_against_one_of_many(
    sandbox: Sandbox, sink: ApiSink, status: int
) -> None:
    record = MemoryRecord()
    sandbox.faults.add(Fault("port", status=207, body=_answer(e2=status), path=BULK))
    report = delivered(upserts_of("a", "b", "c", "d"), sink, record)
    assert (report.accepted, record.quarantined) == ({"upsert": 4}, [])
    assert _titles(sandbox) == {"c"}  # of the others, the answer said that they were written


def test_an_entity_at_which_port_keeps_failing_is_told_apart(sandbox: Sandbox, sink: ApiSink) -> None:
    alone = {**_answer(e0=500), "entities": []}
    sandbox.faults.add(Fault("port", status=207, body=_answer(e3=500), path=BULK))
    sandbox.faults.add(Fault("port", status=207, body=alone, path=BULK, times=None))
    report = delivered(upserts_of("a", "b", "c", "d"), sink)
    assert report.accepted == {"upsert": 3}
    assert [row.name for row, _ in report.failed] == ["d"]
    assert (report.refused, report.error, report.not_delivered) == ([], None, 1)


@pytest.mark.parametrize(
    "body", [{"ok": True, "entities": []}, {"ok": True}, ["?"], {"entities": [{}], "errors": [{"index": 1}]}]
)
def test_an_answer_that_leaves_entities_out_is_no_success(sandbox: Sandbox, sink: ApiSink, body: Any) -> None:
    sandbox.faults.add(Fault("port", status=200, body=body, path=BULK))
    assert delivered(upserts_of("a", "b"), sink).accepted == {"upsert": 2}
    assert _titles(sandbox) == {"a", "b"}


def test_deleting_what_does_not_exist_is_success(sandbox: Sandbox, sink: ApiSink) -> None:
    delivered(upserts_of("a"), sink)
    report = delivered(change_set(*[delete(resource(name)) for name in ("a", "b & c", "d")]), sink)
    assert (report.accepted, report.refused) == ({"delete": 3}, [])
    assert _titles(sandbox) == set()
    assert (sandbox.rest.requests["bulk_delete 200"], sandbox.rest.requests["delete 404"]) == (1, 2)


def test_a_delete_that_a_bulk_answer_leaves_out_is_done_singly(sandbox: Sandbox, sink: ApiSink) -> None:
    """Port's specification and its own client disagree on whether a bulk delete can be partial."""
    delivered(upserts_of("a", "b"), sink)
    answer = {"ok": True, "deletedEntities": [delete(resource("a")).identifier]}
    sandbox.faults.add(Fault("port", status=200, body=answer, path="/bulk/entities/delete"))
    report = delivered(change_set(delete(resource("a")), delete(resource("b"))), sink)
    assert report.accepted == {"delete": 2}
    assert _titles(sandbox) == {"a"}  # of which the answer said that it was gone


def test_a_404_that_is_not_from_port_deletes_nothing(sandbox: Sandbox, sink: ApiSink) -> None:
    """As an ingress without a backend answers."""
    delivered(upserts_of("a"), sink)
    sandbox.faults.add(
        Fault("port", status=200, body={"ok": True, "deletedEntities": []}, path="/bulk/entities/delete")
    )
    sandbox.faults.add(Fault("port", status=404, body="default backend - 404", method="DELETE"))
    assert delivered(change_set(delete(resource("a"))), sink).accepted == {"delete": 1}
    assert _titles(sandbox) == set()


@pytest.mark.parametrize(
    ("status", "sentence"), [(403, "PORT_CLIENT_ID may not write entities"), (404, "launch the job port_setup")]
)
def test_what_concerns_all_entities_ends_the_delivery_in_a_sentence(
    sandbox: Sandbox, sink: ApiSink, status: int, sentence: str
) -> None:
    body = {"ok": False, "error": "no", "message": "no"}
    sandbox.faults.add(Fault("port", status=status, body=body, path=BULK, times=None))
    record = MemoryRecord()
    report = delivered(upserts_of("a", "b"), sink, record)
    assert sentence in str(report.error)
    assert (report.not_delivered, record.quarantined) == (2, [])


def test_what_a_person_added_to_an_entity_stays(sandbox: Sandbox, sink: ApiSink) -> None:
    blueprint = sandbox.port.catalog.blueprints[RESOURCE]
    own = {**blueprint["schema"]["properties"], "owner": {"type": "string"}}
    sandbox.port.catalog.add_blueprint({**blueprint, "schema": {"properties": own}})
    delivered(upserts_of("a"), sink)
    ((identifier, entity),) = sandbox.held()[RESOURCE].items()
    sandbox.put_entity(RESOURCE, identifier, "Mine", {**entity["properties"], "owner": "me"}, entity["relations"])
    delivered(change_set(upsert(resource("a"), tags={"new": "yes"})), sink)
    after = sandbox.held()[RESOURCE][identifier]
    assert after["properties"] == {**entity["properties"], "owner": "me", "tags": {"new": "yes"}}
    assert (after["title"], after["relations"]) == ("a", entity["relations"])


# -- no faster than Port lets us -------------------------------------------------------------------------------------


def test_a_token_that_is_revoked_amid_a_delivery_is_renewed(sandbox: Sandbox, sink: ApiSink) -> None:
    rows = [upsert(SUBSCRIPTION, name="S2"), upsert(GROUP, name="G2"), upsert(resource("a"))]
    report = delivered(change_set(*rows), sink, progress=lambda _done, _total: sandbox.rest.revoke_tokens())
    assert report.accepted == {"upsert": 3}
    assert sandbox.rest.requests["token 200"] == 3
    assert sandbox.rest.requests["bulk_upsert 401"] == 2


@pytest.mark.parametrize("form", ["epoch", "seconds"])
def test_when_no_request_is_left_the_next_waits_until_there_are_new_ones(
    sandbox: Sandbox, sink: ApiSink, form: ResetForm
) -> None:
    """Port documents the reset as an instant; its own Terraform provider reads it as seconds from now."""
    sandbox.rest.reset_form = form
    sandbox.rest.throttle(Throttle(limit=2, window_seconds=120))
    sandbox.rest.requests.clear()
    report = delivered(change_set(upsert(SUBSCRIPTION), upsert(GROUP), upsert(resource("a"))), sink)
    assert report.accepted == {"upsert": 3}
    assert sandbox.rest.requests == {"bulk_upsert 200": 3}
    assert timedelta(seconds=119) <= sandbox.clock.now() - NOW <= timedelta(seconds=121)
    assert 119 <= sink.flow.waited_seconds <= 121


def test_a_throttled_api_gets_everything_in_the_end(sandbox: Sandbox, sink: ApiSink) -> None:
    sandbox.rest.throttle(Throttle(limit=3, window_seconds=10))
    names = [f"x{n}" for n in range(400)]
    assert delivered(upserts_of(*names), sink).accepted == {"upsert": 400}
    assert _titles(sandbox) == set(names)


def test_a_batch_is_an_object_of_its_events(sandbox: Sandbox, clock: SteppedClock) -> None:
    sink = WebhookBatchSink(f"{sandbox.url}/k", secret=None, concurrency=1, deadline=timedelta(1), clock=clock)
    row = upsert(SUBSCRIPTION)
    body = sink._body([OutgoingEvent(row, b'{"a":1}'), OutgoingEvent(row, b'{"b":2}')])
    assert json.loads(body) == {"items": [{"a": 1}, {"b": 2}]}
    sink.close()


def test_what_reaches_port_is_counted_in_bytes(sandbox: Sandbox, sink: ApiSink, batches: WebhookSink) -> None:
    before = sink.flow.bytes
    delivered(upserts_of("x"), sink)
    assert 200 < sink.flow.bytes - before < 2000
    delivered(upserts_of("y"), batches)
    assert 200 < batches.flow.bytes < 2000
