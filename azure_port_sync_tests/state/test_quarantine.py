"""Quarantine: what Port does not take, with its cause and its reason."""

from typing import Any

import pandas as pd

from azure_port_sync.core.facts import Facts
from azure_port_sync.core.quarantine import Cause
from azure_port_sync.core.rows import ChangeSetRow, records
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.entities import delete, resource, upsert
from azure_port_sync_tests.support.stores import claimed, deliver, plan_for


def _put(store: StateStore, *rows: ChangeSetRow, reason: str = "no") -> None:
    store.delivery(claimed(store)).quarantine(Cause.REFUSED, [(row, reason) for row in rows])


def _quarantined(store: StateStore) -> list[tuple[Any, ...]]:
    rows = records(store.facts.quarantined("t"))
    columns = ("azure_id", "cause", "operation", "hash", "reason", "attempts")
    return [tuple(None if pd.isna(row[name]) else row[name] for name in columns) for row in rows]


def _names(store: StateStore) -> list[str]:
    return [azure_id.rpartition("/")[2] for azure_id, *_ in _quarantined(store)]


def test_a_refusal_is_remembered_and_counted(store: StateStore, clock: SteppedClock) -> None:
    site = resource("Site")
    _put(store, upsert(site))
    clock.sleep(30)
    _put(store, upsert({**site, "azure_id": site["azure_id"].upper()}, "h2"), reason="no!")
    (row,) = records(store.facts.quarantined("t"))
    assert (row["cause"], row["operation"]) == ("refused", "upsert")
    assert (row["hash"], row["reason"], row["attempts"]) == ("h2", "no!", 2)
    assert (row["first_at"], row["last_at"]) == (NOW, clock.now())
    assert (row["kind"], row["identifier"], row["type"], row["payload"]) == (
        "resource",
        site["identifier"],
        site["type"],
        "{}",
    )
    assert store.facts.quarantined("another").empty


def test_a_refused_delete_has_no_content(store: StateStore) -> None:
    """Whatever a change set has in place of a hash."""
    for nothing in (None, pd.NA, float("nan")):
        _put(store, delete(resource(f"Site {nothing}"))._replace(hash=nothing))  # type: ignore[arg-type]
    assert [(operation, hash_) for _, _, operation, hash_, _, _ in _quarantined(store)] == [("delete", None)] * 3


def test_the_oldest_comes_first(store: StateStore, clock: SteppedClock) -> None:
    for name in ("b", "a"):
        _put(store, upsert(resource(name)))
        clock.sleep(1)
    assert _names(store) == ["b", "a"]


def test_what_is_confirmed_is_no_longer_in_quarantine(store: StateStore) -> None:
    one, two, gone = (upsert(resource(name)) for name in ("one", "two", "gone"))
    _put(store, one, two, gone)
    deliver(store, one, delete(resource("gone")))
    assert _names(store) == ["two"]


def test_two_ids_in_one_identifier_are_two_in_quarantine(store: StateStore) -> None:
    _put(store, *[upsert(resource(name)) for name in ("a b", "a_b")])
    deliver(store, upsert(resource("a b")))
    assert _names(store) == ["a_b"]


def test_facts_put_conflicts_aside_and_release(store: StateStore) -> None:
    one, two = resource("one"), resource("two")
    _put(store, upsert(two))
    conflict = (one["azure_id"], "conflict", "upsert", "h", "it is another's", 0)
    for _ in range(2):
        store.facts.record(plan_for(store), Facts(conflicts=[(upsert(one), "it is another's")]))
    assert conflict in _quarantined(store)
    store.facts.record(plan_for(store), Facts(released=[(two["kind"], two["azure_id"].upper())]))
    assert _quarantined(store) == [conflict]


def test_a_conflict_that_is_over_may_be_refused(store: StateStore) -> None:
    store.facts.record(plan_for(store), Facts(conflicts=[(upsert(resource("x")), "it is another's")]))
    _put(store, upsert(resource("x")))
    ((_, cause, _, _, reason, attempts),) = _quarantined(store)
    assert (cause, reason, attempts) == ("refused", "no", 1)
