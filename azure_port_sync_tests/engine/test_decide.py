"""All candidates of a run at once: the change set, and that a run which delivered all leaves nothing to decide."""

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.candidates import candidates
from azure_port_sync.core.decisions import DELIVERY_PHASES, LedgerEntry, Verdict
from azure_port_sync.core.entities import identity, observed_absence
from azure_port_sync.core.guard import Guard
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import CHANGE_SET, OBSERVATION, frame_of, records, to_table
from azure_port_sync.engine.decide import Decisions, decide_all
from azure_port_sync_tests.support.observations import (
    CHANGES,
    EARLIER,
    NOW,
    SUBSCRIPTION,
    change,
    no_row_of,
    resource_id,
    row_of,
)

UNGUARDED = Guard(allowed=True)
NOTHING, SAME = LedgerEntry(), LedgerEntry("confirmed", "h")

_ENTITIES = [
    (f"{SUBSCRIPTION}", "microsoft.resources/subscriptions"),
    (f"{SUBSCRIPTION}/resourceGroups/Web", "microsoft.resources/subscriptions/resourcegroups"),
    (resource_id("a"), "microsoft.web/sites"),
    (resource_id("b"), "microsoft.web/sites"),
]


def _decide_all(
    observations: list[dict[str, Any]], ledger: dict[tuple[str, str], LedgerEntry], *, delete_unknown: bool = False
) -> tuple[pd.DataFrame, Decisions]:
    found = candidates(frame_of(observations, OBSERVATION))
    known = [ledger.get((row["kind"], row["identifier"]), NOTHING) for row in records(found)]
    return found, decide_all(found, known, unchanged=0, guard=UNGUARDED, delete_unknown=delete_unknown)


_KNOWN = st.builds(
    LedgerEntry, st.sampled_from(["confirmed", "sending", None]), st.just("another"), st.none() | st.just(NOW)
)


@st.composite
def _world(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[tuple[str, str], LedgerEntry]]:
    """Observations of some entities of all kinds, and a ledger that knows some of them."""
    observations, ledger = [], {}
    for azure_id, kind in _ENTITIES:
        columns = identity(azure_id, kind, None)
        known = draw(_KNOWN)
        if known.state is None:
            known = known._replace(hash=None)
        ledger[columns["kind"], columns["identifier"]] = known
        drawn = draw(CHANGES)
        record = None if drawn is None else change(*drawn)
        match draw(st.sampled_from(["row", "out of scope", "no row", "not read"])):
            case "row":
                observations.append(row_of(azure_id, record, kind=kind))
            case "out of scope":
                observations.append(row_of(azure_id, record, in_scope=False, kind=kind))
            case "no row" if record is not None:
                observations.append(observed_absence(azure_id, kind, record))
            case "no row":
                observations.append({**columns, "present": False, "in_scope": False})
    return observations, ledger


@given(_world(), st.booleans(), st.integers(0, 5))
def test_every_candidate_gets_exactly_one_verdict(
    world: tuple[list[dict[str, Any]], dict[tuple[str, str], LedgerEntry]], delete_unknown: bool, unchanged: int
) -> None:
    observations, ledger = world
    found = candidates(frame_of(observations, OBSERVATION))
    known = [ledger[row["kind"], row["identifier"]] for row in records(found)]
    decisions = decide_all(found, known, unchanged=unchanged, guard=UNGUARDED, delete_unknown=delete_unknown)
    assert decisions.counts.keys() == set(Verdict)
    assert sum(decisions.counts.values()) == len(found) + unchanged
    assert len(decisions.change_set) == decisions.counts[Verdict.UPSERT] + decisions.counts[Verdict.DELETE]
    assert (decisions.decided["verdict"] == Verdict.PENDING).sum() == decisions.counts[Verdict.PENDING]
    assert not decisions.change_set.duplicated(["kind", "identifier"]).any()


def _settled(ledger: dict[tuple[str, str], LedgerEntry], found: pd.DataFrame, decisions: Decisions) -> None:
    """What the store remembers when every delivery has settled."""
    for row in records(decisions.change_set):
        key = (row["kind"], row["identifier"])
        ledger[key] = LedgerEntry("confirmed", row["hash"]) if row["operation"] == "upsert" else LedgerEntry()
    for row in records(found[found["change_type"] == "Delete"]):
        key = (row["kind"], row["identifier"])
        ledger[key] = ledger.get(key, NOTHING)._replace(tombstone=row["change_time"])


@given(_world(), st.booleans())
def test_deciding_again_after_settling_gives_nothing(
    world: tuple[list[dict[str, Any]], dict[tuple[str, str], LedgerEntry]], delete_unknown: bool
) -> None:
    """Windows overlap, so every record is read twice: the second reading must not deliver anything."""
    observations, ledger = world
    found, first = _decide_all(observations, ledger, delete_unknown=delete_unknown)
    _settled(ledger, found, first)
    _, again = _decide_all(observations, ledger)
    assert records(again.change_set) == []
    assert again.counts[Verdict.PENDING] == first.counts[Verdict.PENDING]


@given(_world())
def test_a_delivery_that_was_cut_off_is_decided_again(
    world: tuple[list[dict[str, Any]], dict[tuple[str, str], LedgerEntry]],
) -> None:
    """After a lost acknowledgement the ledger says `sending`: the next run repeats each operation."""
    observations, ledger = world
    _, first = _decide_all(observations, ledger)
    for row in records(first.change_set):
        key = (row["kind"], row["identifier"])
        ledger[key] = ledger.get(key, NOTHING)._replace(state="sending")
    _, again = _decide_all(observations, ledger)
    columns = ["operation", "kind", "identifier"]
    assert again.change_set[columns].values.tolist() == first.change_set[columns].values.tolist()


@given(_world())
def test_operations_come_in_delivery_order(
    world: tuple[list[dict[str, Any]], dict[tuple[str, str], LedgerEntry]],
) -> None:
    _, decisions = _decide_all(*world)
    phases = [DELIVERY_PHASES.index((row["operation"], row["kind"])) for row in records(decisions.change_set)]
    assert phases == sorted(phases)


def test_within_a_phase_the_order_is_stable() -> None:
    rows = [row_of(resource_id(name)) for name in "dbca"]
    _, decisions = _decide_all(rows, {})
    names = decisions.change_set["name"].tolist()
    assert all(one < other for one, other in pairwise(names))


def test_a_delete_carries_identity_and_no_content() -> None:
    x = row_of(resource_id("X (old)"), change("Delete", NOW))
    _, decisions = _decide_all([x], {(x["kind"], x["identifier"]): SAME})
    (row,) = records(decisions.change_set)
    assert row["operation"] == "delete"
    assert pd.isna(row["hash"])
    assert json.loads(row["data"]) == {
        "resourceId": resource_id("x =28old=29").lower(),
        "type": "microsoft.web/sites",
        "subscriptionId": SUBSCRIPTION.rpartition("/")[2],
        "resourceGroup": "web",
    }


def test_deletes_and_upserts_together_fit_the_change_set() -> None:
    rows = [row_of(resource_id("a")), no_row_of(resource_id("b"), change("Delete", NOW))]
    _, decisions = _decide_all(rows, {(rows[1]["kind"], rows[1]["identifier"]): SAME})
    table = to_table(decisions.change_set, CHANGE_SET)
    assert table.column("operation").to_pylist() == ["delete", "upsert"]
    assert table.column("hash").to_pylist() == [None, rows[0]["hash"]]


def test_nothing_to_decide_gives_an_empty_change_set() -> None:
    found, decisions = _decide_all([], {})
    assert len(found) == 0
    assert list(decisions.change_set.columns) == CHANGE_SET.names
    assert Counter(decisions.counts).total() == 0


def test_kinds_do_not_meet_in_one_entity() -> None:
    assert {identity(azure_id, kind, None)["kind"] for azure_id, kind in _ENTITIES} == set(Kind)


@pytest.mark.parametrize("newest_first", [True, False])
def test_data_tells_the_newest_change(newest_first: bool) -> None:
    """Azure lists the newest record first, so the last row that is read carries the oldest."""
    x = resource_id("x")
    rows = [row_of(x, change("Update", NOW)), row_of(x, change("Create", EARLIER)), row_of(x)]
    found = candidates(frame_of(rows if newest_first else reversed(rows), OBSERVATION))
    (operation,) = records(decide_all(found, [NOTHING], unchanged=0, guard=UNGUARDED).change_set)
    data = json.loads(operation["data"])
    assert (data["changeType"], data["changeTime"]) == ("Update", NOW.isoformat())
    assert data["name"] == "x"
