"""Facts that outlive a run: subscriptions, what waits, what was deleted."""

from datetime import timedelta

import pytest

from azure_port_sync.core.errors import StateError
from azure_port_sync.core.facts import Facts
from azure_port_sync.core.quarantine import Cause
from azure_port_sync.core.request import Mode
from azure_port_sync.core.rows import records
from azure_port_sync.core.subscriptions import Subscriptions, SubscriptionState, compare_subscriptions
from azure_port_sync.state import StateStore
from azure_port_sync.state.facts import TOMBSTONE_FOR
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.entities import delete, frame, group, resource, shown, subscription, upsert
from azure_port_sync_tests.support.stores import claimed, comparison, deliver, plan_for

_PRESENT = SubscriptionState(True, False)

# -- subscriptions ---------------------------------------------------------------------------------------------------


def _read(store: StateStore, *ids: str, run: str = "r", mode: Mode = Mode.FULL) -> list[str]:
    """See and read these subscriptions; those that are new."""
    found = compare_subscriptions(store.facts.subscriptions("t"), dict.fromkeys(ids, True), given_up=(), now=NOW)
    store.facts.record(plan_for(store, run=run, mode=mode), Facts(subscriptions=found))
    return sorted(found.new)


def test_new_subscriptions_are_those_that_no_settled_run_read(store: StateStore) -> None:
    assert _read(store, "b", "a") == ["a", "b"]
    assert _read(store, "a", "b") == ["a", "b"]  # the first run did not settle
    store.targets.finish(claimed(store))
    assert _read(store, "a", "b") == []
    assert _read(store, "a", "b", "c") == ["c"]
    assert _read(store, "a", "b", "c") == ["c"]  # read by a run that failed
    store.targets.finish(claimed(store))
    assert _read(store, "a", "b", "c") == []


def test_a_subscription_that_returns_is_new(store: StateStore) -> None:
    """Changes from a time when it could not be read left no record that can be read now."""
    _read(store, "a", "b")
    store.targets.finish(claimed(store))
    assert _read(store, "a") == []
    store.targets.finish(claimed(store))
    assert _read(store, "a", "b") == ["b"]


def test_a_subscription_is_not_taken_as_read_by_a_run_that_did_not_see_it(store: StateStore) -> None:
    """Of two runs at once, the one that settles may be the one that could not read it."""
    _read(store, "a", run="r")
    _read(store, "a", "b", run="another")
    store.targets.finish(claimed(store))
    assert "b" in _read(store, "a", "b")


def test_a_run_that_moves_no_watermark_reads_none_whole(store: StateStore) -> None:
    _read(store, "a", run="r")
    _read(store, "a", "b", run="part", mode=Mode.PARTIAL)
    store.targets.finish(claimed(store))
    assert _read(store, "a", "b") == ["b"]


def test_a_subscription_that_may_be_deleted_is_new_when_it_comes_back(store: StateStore) -> None:
    """The run may die when Port has taken the delete."""
    id_ = subscription()["subscription_id"]
    _read(store, id_)
    deliver(store, upsert(subscription()))
    store.targets.finish(claimed(store))
    store.delivery(claimed(store)).begin_deleting_containers([delete(subscription()), delete(group("Web"))])
    assert _read(store, id_) == [id_]


def test_after_a_rebuild_every_subscription_is_new(store: StateStore) -> None:
    _read(store, "a")
    store.targets.finish(claimed(store))
    store.ledger.rebuild("t", frame())
    assert _read(store, "a") == ["a"]


def test_what_is_remembered_of_a_subscription_comes_back(store: StateStore) -> None:
    seen = {"a": _PRESENT, "b": SubscriptionState(False, False), "c": SubscriptionState(True, False, NOW)}
    store.facts.record(plan_for(store), Facts(subscriptions=Subscriptions(seen, frozenset("ab"), {"c": NOW})))
    assert store.facts.subscriptions("t") == seen
    one_left = Subscriptions({"a": seen["b"]}, frozenset("a"), {})
    store.facts.record(plan_for(store), Facts(subscriptions=one_left))
    assert store.facts.subscriptions("t") == {"a": seen["b"]}
    store.facts.record(plan_for(store), Facts())
    assert store.facts.subscriptions("t") == {"a": seen["b"]}, "where nothing new is known, nothing is forgotten"


# -- what waits ------------------------------------------------------------------------------------------------------


def test_pending_waits_from_its_first_record_on(store: StateStore, clock: SteppedClock) -> None:
    """Each run that saw no row began the 24 hours anew, and the entity was never given up."""
    for _ in range(2):
        store.facts.record(plan_for(store), Facts(pending=frame(resource("x"))))
        clock.sleep(3600)
    (row,) = records(store.facts.pending("t"))
    columns = ("identifier", "azure_id", "type")
    assert row == {"since": NOW, **{name: resource("x")[name] for name in columns}}


def test_pending_ends_when_resolved_confirmed_or_refused(store: StateStore) -> None:
    store.facts.record(plan_for(store), Facts(pending=frame(*map(resource, "abcde"))))
    store.facts.record(plan_for(store), Facts(no_longer_pending=[resource("a")["identifier"]]))
    deliver(store, upsert(resource("b")), delete(resource("c")))
    store.delivery(claimed(store)).quarantine(Cause.REFUSED, [(upsert(resource("e")), "no")])
    assert [row["azure_id"][-1] for row in records(store.facts.pending("t"))] == ["d"]


def test_two_that_meet_in_one_identifier_wait_as_one(store: StateStore) -> None:
    """One statement over both was an error on Postgres."""
    store.facts.record(plan_for(store), Facts(pending=frame(resource("a b"), resource("a_b"))))
    assert len(store.facts.pending("t")) == 1


def test_no_pending_is_an_empty_frame(store: StateStore) -> None:
    assert list(store.facts.pending("t").columns) == ["identifier", "azure_id", "type", "since"]


# -- tombstones ------------------------------------------------------------------------------------------------------


def _bury(store: StateStore, name: str = "x", at: timedelta = timedelta(0)) -> None:
    store.facts.record(plan_for(store), Facts(deleted=frame({**resource(name), "change_time": NOW + at})))


def _tombstone(store: StateStore, name: str = "x") -> object:
    return next(comparison(store, frame(shown(resource(name)))).known).tombstone


def test_a_delete_record_leaves_a_tombstone_for_48_hours(store: StateStore, clock: SteppedClock) -> None:
    _bury(store, at=-timedelta(minutes=3))
    assert _tombstone(store) == NOW - timedelta(minutes=3)
    (row,) = records(store.facts.tombstones("t"))
    assert (row["identifier"], row["deleted_at"]) == (resource("x")["identifier"], NOW - timedelta(minutes=3))
    assert row["azure_id"] == resource("x")["azure_id"].lower()
    clock.sleep((TOMBSTONE_FOR - timedelta(seconds=1)).total_seconds())
    assert _tombstone(store) == NOW - timedelta(minutes=3)
    clock.sleep(1)
    assert _tombstone(store) is None
    assert store.facts.tombstones("t").empty


def test_reading_a_delete_record_again_does_not_prolong_its_tombstone(store: StateStore, clock: SteppedClock) -> None:
    _bury(store)
    clock.sleep(timedelta(hours=10).total_seconds())
    _bury(store)
    clock.sleep((TOMBSTONE_FOR - timedelta(hours=10)).total_seconds())
    assert _tombstone(store) is None


def test_a_newer_delete_record_replaces_the_older_one(store: StateStore) -> None:
    _bury(store)
    _bury(store, at=timedelta(minutes=1))
    assert _tombstone(store) == NOW + timedelta(minutes=1)


def test_a_tombstone_is_of_one_id(store: StateStore) -> None:
    """Another one may meet it in the identifier."""
    _bury(store, "a b")
    assert _tombstone(store, "a_b") is None
    assert _tombstone(store, "A B") == NOW


def test_a_confirmed_upsert_ends_a_tombstone_and_a_confirmed_delete_does_not(store: StateStore) -> None:
    for name in ("x", "y"):
        deliver(store, upsert(resource(name)))
        _bury(store, name)
    deliver(store, upsert(resource("x"), "new"), delete(resource("y")))
    assert _tombstone(store, "x") is None
    assert _tombstone(store, "y") == NOW


def test_names_of_any_length_wait_and_are_buried(store: StateStore) -> None:
    """Longer than Port's identifiers may be, which stopped every run on Postgres as long as the record was read."""
    long = resource("(" * 600)
    assert len(long["identifier"]) > 1800
    store.facts.record(plan_for(store), Facts(pending=frame(long), deleted=frame({**long, "change_time": NOW})))
    store.delivery(claimed(store)).quarantine(Cause.REFUSED, [(upsert(long), "too long")])
    assert list(store.facts.tombstones("t")["identifier"]) == [long["identifier"]]


# -- all of it or nothing --------------------------------------------------------------------------------------------


def test_facts_are_recorded_all_or_none(store: StateStore) -> None:
    deliver(store, upsert(group("Web")))
    store.targets.finish(claimed(store))
    unusable = upsert(resource("bad"))._replace(name="bad", data=None)  # type: ignore[arg-type]
    facts = Facts(
        subscriptions=Subscriptions({"a": _PRESENT}, frozenset("a"), {}),
        pending=frame(resource("p")),
        deleted=frame({**resource("q"), "change_time": NOW}),
        conflicts=[(unusable, "it is another's")],
        contents_due=[(subscription()["subscription_id"], "web")],
    )
    with pytest.raises(StateError):
        store.facts.record(plan_for(store), facts)
    assert store.facts.subscriptions("t") == {}
    assert store.facts.pending("t").empty
    assert store.facts.tombstones("t").empty
    assert not store.ledger.containers("t")["contents_due"].any()


def test_the_first_fact_makes_the_target_known(store: StateStore, clock: SteppedClock) -> None:
    """Nothing would ever forget the facts of a target that is not known."""
    store.facts.record(plan_for(store), Facts(pending=frame(resource("p"))))
    clock.sleep(60)
    deliver(store, upsert(resource("x")))
    store.targets.finish(claimed(store))
    assert store.targets.load("t").generation == 1
