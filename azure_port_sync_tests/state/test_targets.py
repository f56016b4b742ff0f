"""Targets: what a run finds of the runs before it, and what it leaves when everything is delivered."""

from datetime import timedelta

import pytest

from azure_port_sync.core.cover import Cover
from azure_port_sync.core.decisions import LedgerEntry
from azure_port_sync.core.errors import StateError
from azure_port_sync.core.facts import Facts
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import reasons_for_full
from azure_port_sync.core.quarantine import Cause
from azure_port_sync.core.request import Mode
from azure_port_sync.core.subscriptions import Subscriptions, SubscriptionState
from azure_port_sync.core.windows import Window
from azure_port_sync.state import StateStore
from azure_port_sync.state import tables as t
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.entities import SUB, delete, frame, group, resource, shown, subscription, upsert
from azure_port_sync_tests.support.stores import behind_its_back, claimed, deliver, plan_for, to_decide


def test_an_unknown_target_has_settled_nothing_and_to_ask_for_it_writes_nothing(store: StateStore, url: str) -> None:
    """A dry run leaves no trace."""
    state = store.targets.load("t")
    assert (state.watermark, state.fingerprint, state.generation, state.ledger_rows) == (None, None, 0, 0)
    assert reasons_for_full(state, fingerprint="scope", now=NOW) == ("this target has never been synced",)
    with behind_its_back(url) as connection:
        assert connection.execute(t.target.select()).all() == []


def test_finish_moves_the_watermark_to_the_windows_end(store: StateStore) -> None:
    store.targets.finish(claimed(store))
    state = store.targets.load("t")
    assert (state.watermark, state.fingerprint, state.generation, state.full_runs) == (NOW, "scope", 1, 1)
    assert state.watermark is not None
    assert state.watermark.tzinfo is not None


def test_only_full_runs_are_counted_as_such(store: StateStore) -> None:
    store.targets.finish(claimed(store, mode=Mode.INCREMENTAL))
    state = store.targets.load("t")
    assert (state.generation, state.full_runs) == (1, 0)


def test_a_plan_settles_once(store: StateStore) -> None:
    """Of two runs that planned from one watermark, the slower one must not put it back."""
    plan = claimed(store)
    slower = plan_for(store, run="slower", window=Window(plan.window.start, NOW - timedelta(hours=1)))
    store.targets.finish(plan)
    for late in (plan, slower):
        with pytest.raises(StateError, match="has finished meanwhile"):
            store.targets.finish(late)
        with pytest.raises(StateError, match="incremental_sync"):
            store.lease.claim(late)
    assert store.targets.load("t").watermark == NOW
    store.targets.finish(claimed(store))


def test_a_full_run_that_a_migration_asks_for_is_over_when_one_has_settled(store: StateStore, url: str) -> None:
    store.targets.finish(claimed(store))
    with behind_its_back(url) as connection:
        connection.execute(t.target.update().values(needs_full_run=True))
    reasons = ("an upgrade has changed what the state means",)
    for mode, expected in ((Mode.INCREMENTAL, reasons), (Mode.FULL, ())):
        deliver(store, upsert(resource("x")))
        store.targets.finish(claimed(store, mode=mode))
        assert reasons_for_full(store.targets.load("t"), fingerprint="scope", now=NOW) == expected


def test_targets_are_apart(store: StateStore) -> None:
    """Another Port knows nothing of what was sent to the first one."""
    rows = [subscription(), group("Web"), resource("x")]
    deliver(store, *map(upsert, rows))
    waiting, buried = frame(resource("p")), frame({**resource("q"), "change_time": NOW})
    seen = Subscriptions({SUB: SubscriptionState(True, False)}, frozenset({SUB}), {})
    store.facts.record(plan_for(store), Facts(subscriptions=seen, pending=waiting, deleted=buried))
    store.delivery(claimed(store)).quarantine(Cause.REFUSED, [(upsert(resource("bad")), "no")])
    store.targets.finish(claimed(store))

    assert store.targets.load("u").ledger_rows == 0
    entries = to_decide(store, *map(shown, [*rows, resource("q")]), target="u")
    assert set(entries.values()) == {LedgerEntry()}
    assert store.facts.pending("u").empty
    assert store.facts.tombstones("u").empty
    assert store.facts.quarantined("u").empty
    assert store.facts.subscriptions("u") == {}
    assert store.ledger.containers("u").empty
    assert store.ledger.groups_with_resources("u") == []
    assert store.ledger.absent("u", frame(), [Cover(frozenset(Kind))]).empty
    assert store.ledger.counts("u") == {}
    deliver(store, delete(subscription()), target="u")
    assert store.targets.load("t").ledger_rows == 3


# -- targets that were replaced --------------------------------------------------------------------------------------


def _settle(store: StateStore, target: str, clock: SteppedClock) -> None:
    deliver(store, upsert(resource("x")), target=target)
    store.targets.finish(claimed(store, target, window=Window(clock.now() - timedelta(minutes=25), clock.now())))


def test_the_state_of_a_replaced_target_goes_and_that_of_the_only_one_stays(
    store: StateStore, clock: SteppedClock
) -> None:
    _settle(store, "replaced", clock)
    clock.sleep(timedelta(days=100).total_seconds())
    _settle(store, "t", clock)

    assert store.targets.forget_unused(clock.now() - timedelta(days=200)) == 0
    assert store.targets.forget_unused(clock.now() - timedelta(days=90)) == 1
    assert store.targets.load("replaced").ledger_rows == 0
    assert store.targets.load("t").ledger_rows == 1
    clock.sleep(timedelta(days=90).total_seconds())
    assert store.targets.forget_unused(clock.now()) == 0, "without a newer one, the old ledger finds ghosts"
    assert store.targets.load("t").ledger_rows == 1


def test_a_target_that_was_never_settled_goes_too_but_not_under_a_run(store: StateStore, clock: SteppedClock) -> None:
    """As of a webhook URL that was mistyped; or one in its first run, which takes its time."""
    plan = claimed(store, "mistyped")
    store.delivery(plan).begin_sending([upsert(resource("x"))])
    clock.sleep(timedelta(days=100).total_seconds())
    _settle(store, "t", clock)

    assert store.targets.forget_unused(NOW - timedelta(days=1)) == 0, "it is young"
    store.delivery(plan).begin_sending([])
    assert store.targets.forget_unused(clock.now() - timedelta(days=90)) == 0, "a run delivers to it"
    store.lease.release(plan)
    assert store.targets.forget_unused(clock.now() - timedelta(days=90)) == 1
    assert store.targets.load("mistyped").ledger_rows == 0
