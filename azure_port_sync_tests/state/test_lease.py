"""The lease: one run delivers to a target, by the clock of the database and by no machine's own."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from azure_port_sync.core.errors import StateError
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.quarantine import Cause
from azure_port_sync.state import StateStore
from azure_port_sync.state import tables as t
from azure_port_sync.state.lease import LEASE
from azure_port_sync_tests.support.clocks import SteppedClock
from azure_port_sync_tests.support.entities import group, resource, upsert
from azure_port_sync_tests.support.stores import behind_its_back, claimed, plan_for

_LOST = "taken this target over"


def _now(url: str, clock: SteppedClock) -> datetime:
    """By the database's clock."""
    return clock.now() if url.startswith("sqlite") else datetime.now(UTC)


def _move_end(url: str, by: timedelta) -> None:
    """As if time had passed, or the clock had jumped, which Postgres's does not do for a test."""
    with behind_its_back(url) as connection:
        (expires,) = connection.scalars(t.target.select().with_only_columns(t.target.c.lease_expires))
        connection.execute(t.target.update().values(lease_expires=expires + by))


def test_only_one_run_claims_a_target(store: StateStore, url: str, clock: SteppedClock) -> None:
    mine, other = plan_for(store), plan_for(store, run="other")
    assert store.lease.claim(mine) is None
    assert store.lease.claim(mine) is None  # again, by the same run
    ends = store.lease.claim(other)
    assert ends is not None
    assert abs(ends - (_now(url, clock) + LEASE)) < timedelta(seconds=30)
    _move_end(url, -LEASE)
    assert store.lease.claim(other) is None
    with pytest.raises(StateError, match=_LOST):
        store.delivery(mine).begin_sending([])


def _send(store: StateStore, plan: Plan) -> None:
    store.delivery(plan).begin_sending([upsert(resource("x"))])


def _confirm(store: StateStore, plan: Plan) -> None:
    store.delivery(plan).confirm([upsert(resource("x"))])


def _delete(store: StateStore, plan: Plan) -> None:
    store.delivery(plan).begin_deleting_containers([upsert(group("Web"))])


def _quarantine(store: StateStore, plan: Plan) -> None:
    store.delivery(plan).quarantine(Cause.REFUSED, [(upsert(resource("x")), "no")])


_VERBS = [_send, _confirm, _delete, _quarantine]


@pytest.mark.parametrize("verb", _VERBS)
def test_every_verb_of_a_delivery_renews_it(store: StateStore, url: str, verb: Any) -> None:
    mine, other = claimed(store), plan_for(store, run="other")
    _move_end(url, -LEASE / 2)
    before = store.lease.claim(other)
    verb(store, mine)
    after = store.lease.claim(other)
    assert before is not None
    assert after is not None
    assert after - before >= LEASE / 2


@pytest.mark.parametrize("verb", _VERBS)
def test_a_run_that_was_taken_over_writes_nothing(store: StateStore, url: str, verb: Any) -> None:
    mine, other = claimed(store), plan_for(store, run="other")
    _move_end(url, -LEASE)
    assert store.lease.claim(other) is None
    with pytest.raises(StateError, match=_LOST):
        verb(store, mine)
    assert store.targets.load("t").ledger_rows == 0
    assert store.facts.quarantined("t").empty
    with pytest.raises(StateError, match=_LOST):
        store.targets.finish(mine)
    store.lease.release(mine)  # of what is not ours any more
    store.targets.finish(other)


def test_a_lease_that_is_released_is_free(store: StateStore) -> None:
    mine = claimed(store)
    store.lease.release(mine)
    assert store.lease.claim(plan_for(store, run="other")) is None


def test_a_lease_that_ends_in_the_far_future_is_none(store: StateStore, url: str) -> None:
    """The clock was ahead when it was claimed; waiting for its end could take years."""
    claimed(store)
    _move_end(url, timedelta(days=400))
    assert store.lease.claim(plan_for(store, run="other")) is None


@pytest.mark.parametrize("jump", [timedelta(days=400), -timedelta(days=400)])
def test_on_postgres_the_clock_of_this_machine_does_not_matter(
    postgres: str, clock: SteppedClock, jump: timedelta
) -> None:
    """A virtual machine that was suspended, or whose clock was wrong, took the target of a run that lived."""
    store = StateStore(postgres, clock)
    mine, other = claimed(store), plan_for(store, run="other")
    clock.sleep(jump.total_seconds())
    assert store.lease.claim(other) is not None
    store.delivery(mine).begin_sending([])
    assert store.lease.claim(other) is not None
    store.close()


def test_on_sqlite_it_ends_by_the_clock_of_the_process(tmp_path: Any, clock: SteppedClock) -> None:
    store = StateStore(f"sqlite:///{tmp_path / 'state.sqlite'}", clock)
    claimed(store)
    other = plan_for(store, run="other")
    clock.sleep(LEASE.total_seconds() - 0.000001)
    assert store.lease.claim(other) is not None
    clock.sleep(0.000001)
    assert store.lease.claim(other) is None
    store.close()
