"""Of two runs at once, one stops; the run after a killed one waits for its lease to end."""

from collections.abc import Callable
from typing import Any

import pytest

from azure_port_sync.core.errors import StateError
from azure_port_sync.core.request import Request
from azure_port_sync.engine.run import deliver_changes
from azure_port_sync.port.sinks.webhook import WebhookSink
from azure_port_sync.state import DeliveryLedger
from azure_port_sync.state.lease import LEASE
from azure_port_sync_tests.support.scenario import TICK, Scenario


class _Killed(BaseException):
    """Nothing runs after it, as after SIGKILL."""


def test_the_run_after_a_killed_one_waits_for_its_claim_to_end(
    world: Scenario, sink_of: Callable[[], WebhookSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.begin()
    world.tenant.delete_resource(world.one)
    with monkeypatch.context() as patched:
        patched.setattr(DeliveryLedger, "confirm", _kill)
        patched.setattr(world.store.lease, "release", _kill)
        with pytest.raises(_Killed):
            world.tick()
    world.sink = sink_of()
    world.clock.slept.clear()
    change_set, _ = world.decide(Request(), run="next")
    assert deliver_changes(change_set, world.sink, world.store, world.clock).not_delivered == 0
    assert 0 < sum(world.clock.slept) <= LEASE.total_seconds()
    world.ends_right()


def _kill(*_: object) -> None:
    raise _Killed


def test_of_two_runs_at_once_one_stops_with_a_sentence(world: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started from outside the queue: the second one finds the first delivering, and alive."""
    world.begin()
    world.tenant.delete_resource(world.one)
    world.tenant.tag_resource(world.two, {"new": "yes"})
    world.clock.sleep(TICK)
    first, second = (world.decide(Request(), run=run)[0] for run in ("first", "second"))
    delivery, sleep = world.store.delivery(first.plan), world.clock.sleep
    begin = delivery.begin_sending
    stopped: list[str] = []

    def meanwhile(*arguments: Any) -> None:
        begin(*arguments)
        if not stopped:
            stopped.append("")
            monkeypatch.setattr(world.clock, "sleep", lives_on)
            with pytest.raises(StateError, match="Another run is delivering to this target right now") as error:
                deliver_changes(second, world.sink, world.store, world.clock)
            stopped[0] = str(error.value)
            monkeypatch.setattr(world.clock, "sleep", sleep)

    def lives_on(seconds: float) -> None:
        sleep(seconds)
        delivery.renew_lease()

    with monkeypatch.context() as patched:
        patched.setattr(delivery, "begin_sending", meanwhile)
        patched.setattr(world.store, "delivery", lambda _plan: delivery)
        assert deliver_changes(first, world.sink, world.store, world.clock).not_delivered == 0
    assert stopped
    with pytest.raises(StateError, match="planned before another run finished"):
        deliver_changes(second, world.sink, world.store, world.clock)
    world.ends_right()


def test_a_run_that_lost_its_claim_stops_before_its_next_request(world: Scenario) -> None:
    """A laptop that slept wakes up in the middle of a delivery that another run has taken over."""
    world.begin()
    for name in ("y1", "y2", "y3"):
        world.tenant.create_resource(world.group, "microsoft.web/sites", name)
    world.clock.sleep(TICK)
    slow, quick = (world.decide(Request(), run=run)[0] for run in ("slow", "quick"))
    send = world.sink.send
    sent: list[int] = []

    def falls_asleep(events: Any, heartbeat: Any) -> Any:
        if not sent:
            world.clock.sleep(2 * LEASE.total_seconds())
            world.sink.send = send  # type: ignore[method-assign]
            assert deliver_changes(quick, world.sink, world.store, world.clock).not_delivered == 0
            sent.append(world.sandbox.port.events)
        return send(events, heartbeat)

    world.sink.concurrency = 1
    world.sink.send = falls_asleep  # type: ignore[method-assign]
    with pytest.raises(StateError, match="taken this target over"):
        deliver_changes(slow, world.sink, world.store, world.clock)
    assert world.sandbox.port.events == sent[0]
    world.ends_right()
