"""The lease of a run: claimed, renewed as it goes along, and released, whatever the clock of the machine does."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from azure_port_sync.core.errors import StateError
from azure_port_sync.engine.lease import claimed
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.state import DeliveryLedger, StateStore
from azure_port_sync.state.lease import LEASE
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.stores import plan_for

_HALF = LEASE.total_seconds() / 2


@pytest.fixture
def clock() -> SteppedClock:
    """SQLite has no clock but this."""
    frozen = SandboxClock()
    frozen.set(NOW)
    return SteppedClock(frozen)


@pytest.fixture
def ledger(store: StateStore, clock: SteppedClock) -> Iterator[DeliveryLedger]:
    with claimed(store, clock, plan_for(store)) as ledger:
        yield ledger


def _end(store: StateStore) -> timedelta | None:
    """After which time the target is free for another run."""
    ends = store.lease.claim(plan_for(store, run="another"))
    return None if ends is None else ends - NOW


def test_it_is_renewed_when_half_of_it_has_passed(
    store: StateStore, clock: SteppedClock, ledger: DeliveryLedger
) -> None:
    """And not before each of thousands of requests."""
    clock.sleep(_HALF - 1)
    ledger.renew_lease()
    assert _end(store) == LEASE
    clock.sleep(1)
    ledger.renew_lease()
    assert _end(store) == LEASE * 1.5
    clock.sleep(_HALF - 1)
    ledger.renew_lease()
    assert _end(store) == LEASE * 1.5


def test_it_is_renewed_at_once_when_the_clock_has_jumped_back(
    store: StateStore, clock: SteppedClock, ledger: DeliveryLedger
) -> None:
    """By that clock, it would not have been for hours, while the database's goes on."""
    clock.sleep(-3600)
    ledger.renew_lease()
    assert _end(store) == LEASE - timedelta(hours=1)
    clock.sleep(_HALF)
    ledger.renew_lease()
    assert _end(store) == LEASE * 1.5 - timedelta(hours=1)


def test_a_run_that_was_taken_over_learns_of_it_before_its_next_request(
    store: StateStore, clock: SteppedClock, ledger: DeliveryLedger
) -> None:
    clock.sleep(LEASE.total_seconds())
    assert _end(store) is None
    with pytest.raises(StateError, match="taken this target over"):
        ledger.renew_lease()


def test_it_is_released_however_the_run_ends(store: StateStore, clock: SteppedClock) -> None:
    with pytest.raises(KeyboardInterrupt), claimed(store, clock, plan_for(store)):
        raise KeyboardInterrupt
    assert _end(store) is None


def test_the_lease_of_a_killed_run_is_waited_for(
    store: StateStore, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    store.lease.claim(plan_for(store, run="killed"))
    clock.sleep(10)
    with caplog.at_level("INFO"), claimed(store, clock, plan_for(store)):
        assert sum(clock.slept) == LEASE.total_seconds()
    (line,) = caplog.messages
    assert line.startswith(f"Another run has claimed this target; waiting until {(NOW + LEASE):%Y-%m-%d %H:%M:%S}")


def test_that_of_a_run_that_lives_is_not(
    store: StateStore, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(store, run="alive")
    store.lease.claim(plan)
    alive = store.delivery(plan)
    sleep = clock.sleep

    def meanwhile(seconds: float) -> None:
        sleep(seconds)
        alive.renew_lease()

    monkeypatch.setattr(clock, "sleep", meanwhile)
    with (
        pytest.raises(StateError, match="Another run is delivering to this target right now"),
        claimed(store, clock, plan_for(store)),
    ):
        pytest.fail("it must not deliver")
    assert sum(clock.slept) == _HALF
