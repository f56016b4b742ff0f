"""The decision table, and that a run which settled leaves nothing to decide."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.decisions import (
    DELIVERY_PHASES,
    Candidate,
    Decisions,
    LedgerEntry,
    Verdict,
    candidates,
    decide,
    decide_all,
)
from azure_port_sync.core.entities import identity, observed_absence, observed_row
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import CHANGE_SET, OBSERVATION, frame_of, records, to_table

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
EARLIER, LATER = NOW - timedelta(hours=1), NOW + timedelta(hours=1)

NOTHING = LedgerEntry()
SAME, OTHER = LedgerEntry("confirmed", "h"), LedgerEntry("confirmed", "another")
SENDING, FIRST_DELETE = LedgerEntry("sending", "h"), LedgerEntry("sending", None)
BURIED = LedgerEntry(tombstone=NOW)
IMPORTED = LedgerEntry("imported", "h")


def _shown(change: str | None = None, at: datetime | None = None, *, in_scope: bool = True) -> Candidate:
    return Candidate(True, in_scope, "h", change, at)


def _absent(change: str | None = None, at: datetime | None = None) -> Candidate:
    return Candidate(False, False, None, change, at)


_TABLE: list[tuple[Candidate, LedgerEntry, Verdict]] = [
    # A row in scope, with or without a Create or Update record.
    *[
        (_shown(change, NOW if change else None), known, verdict)
        for change in ("Create", "Update", None)
        for known, verdict in [
            (NOTHING, Verdict.UPSERT),
            (SAME, Verdict.UNCHANGED),
            (OTHER, Verdict.UPSERT),
            (SENDING, Verdict.UPSERT),  # Port may have lost it, so it is never unchanged
            (FIRST_DELETE, Verdict.UPSERT),
        ]
    ],
    # A row out of scope.
    *[
        (_shown(change, NOW if change else None, in_scope=False), known, verdict)
        for change in ("Create", "Update", None)
        for known, verdict in [
            (NOTHING, Verdict.OUT_OF_SCOPE),
            (BURIED, Verdict.OUT_OF_SCOPE),
            (SAME, Verdict.DELETE),
            (OTHER, Verdict.DELETE),
            (SENDING, Verdict.DELETE),
        ]
    ],
    # A record, and no row yet.
    *[
        (_absent(change, NOW), known, Verdict.PENDING)
        for change in ("Create", "Update")
        for known in (NOTHING, SAME, OTHER, SENDING, BURIED)
    ],
    # A Delete record, whatever Azure still shows.
    *[
        (candidate, known, verdict)
        for candidate in (_shown("Delete", NOW), _shown("Delete", NOW, in_scope=False), _absent("Delete", NOW))
        for known, verdict in [
            (NOTHING, Verdict.UNKNOWN_DELETE),
            (BURIED, Verdict.UNKNOWN_DELETE),
            (SAME, Verdict.DELETE),
            (OTHER, Verdict.DELETE),
            (SENDING, Verdict.DELETE),
            (FIRST_DELETE, Verdict.DELETE),
        ]
    ],
    # No row and no record: the steps have confirmed that it is gone.
    (_absent(), NOTHING, Verdict.UNKNOWN_DELETE),
    (_absent(), SAME, Verdict.DELETE),
    (_absent(), SENDING, Verdict.DELETE),
    (_absent(), IMPORTED, Verdict.DELETE),
    # Absence in a subscription that has vanished proves nothing yet; a Delete record and a row do.
    (_absent()._replace(held=True), SAME, Verdict.IN_GRACE),
    (_absent()._replace(held=True), SENDING, Verdict.IN_GRACE),
    (_absent()._replace(held=True), NOTHING, Verdict.UNKNOWN_DELETE),
    (_absent("Create", NOW)._replace(held=True), SAME, Verdict.PENDING),
    (_absent("Delete", NOW)._replace(held=True), SAME, Verdict.DELETE),
    (_shown()._replace(held=True), OTHER, Verdict.UPSERT),
    (_shown(in_scope=False)._replace(held=True), SAME, Verdict.DELETE),
    # What a rebuild found in Port: its content and its id are not known.
    (_shown(), IMPORTED, Verdict.UPSERT),
    (_shown(), IMPORTED._replace(azure_id="a guess"), Verdict.UPSERT),
    (_shown(in_scope=False), IMPORTED, Verdict.DELETE),
    # A row that Azure shows on after a Delete record.
    (_shown(), BURIED, Verdict.TOMBSTONED),
    (_shown("Create", EARLIER), BURIED, Verdict.TOMBSTONED),
    (_shown("Update", NOW), BURIED, Verdict.UPSERT),  # of one instant, the row that exists wins
    (_shown("Create", LATER), BURIED, Verdict.UPSERT),
    (_shown("Update", LATER), BURIED, Verdict.UPSERT),
]


@pytest.mark.parametrize(("candidate", "known", "verdict"), _TABLE)
def test_decision_table(candidate: Candidate, known: LedgerEntry, verdict: Verdict) -> None:
    assert decide(candidate, known) is verdict


@pytest.mark.parametrize(("candidate", "known", "verdict"), _TABLE)
def test_force_turns_unchanged_into_upsert_and_nothing_else(
    candidate: Candidate, known: LedgerEntry, verdict: Verdict
) -> None:
    forced = Verdict.UPSERT if verdict is Verdict.UNCHANGED else verdict
    assert decide(candidate._replace(resend=True), known) is forced


@pytest.mark.parametrize(("candidate", "known", "verdict"), _TABLE)
def test_without_a_ledger_delete_records_of_unknown_ids_are_sent(
    candidate: Candidate, known: LedgerEntry, verdict: Verdict
) -> None:
    """Ghosts that a script before us left go with their Delete records; mere absence of an unknown id is nothing."""
    by_record = verdict is Verdict.UNKNOWN_DELETE and candidate.change_type == "Delete"
    assert decide(candidate, known, delete_unknown=True) is (Verdict.DELETE if by_record else verdict)


# -- reducing --------------------------------------------------------------------------------------------------------

_SUB = "/subscriptions/00000000-0000-0000-0000-00000000000a"


def _resource(name: str) -> str:
    return f"{_SUB}/resourceGroups/Web/providers/Microsoft.Web/sites/{name}"


def _change(change_type: str, at: datetime) -> dict[str, Any]:
    return {"changeType": change_type, "changeTime": at.isoformat(), "changedProperties": None}


def _row(
    azure_id: str,
    change: dict[str, Any] | None = None,
    *,
    in_scope: bool = True,
    location: str = "westeurope",
    kind: str = "microsoft.web/sites",
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": azure_id,
        "name": azure_id.rpartition("/")[2],
        "type": kind,
        "location": location,
        "tags": {},
        "rgTags": None,
        "inScope": in_scope,
    }
    return observed_row(row, change=change)


def _no_row(azure_id: str, change: dict[str, Any] | None) -> dict[str, Any]:
    if change is not None:
        return observed_absence(azure_id, "microsoft.web/sites", change)
    return {**identity(azure_id, "microsoft.web/sites", None), "present": False, "in_scope": False}


def _reduced(*observations: dict[str, Any]) -> dict[str, dict[str, Any]]:
    frame = candidates(frame_of(observations, OBSERVATION))
    assert list(frame.columns) == OBSERVATION.names
    assert not frame.duplicated(["kind", "identifier"]).any()
    return {row["name"]: {k: None if pd.isna(v) else v for k, v in row.items()} for row in records(frame)}


def test_newest_record_wins() -> None:
    x = _resource("x")
    found = _reduced(_row(x, _change("Update", NOW)), _no_row(x, _change("Delete", EARLIER)))["x"]
    assert (found["present"], found["change_type"], found["change_time"]) == (True, "Update", NOW)


@pytest.mark.parametrize("present", [True, False])
def test_tie_of_a_delete_goes_by_the_row(present: bool) -> None:
    """A resource that was deleted and created again within one instant disappeared, or a ghost stayed."""
    x = _resource("x")
    see = _row if present else _no_row
    for order in [("Delete", "Create"), ("Create", "Delete")]:
        found = _reduced(*[see(x, _change(change, NOW)) for change in order])["x"]
        assert (found["present"], found["change_type"]) == (present, "Create" if present else "Delete")


def test_a_row_outweighs_absence_in_whatever_order() -> None:
    x = _resource("x")
    for order in ([_row(x), _no_row(x, None)], [_no_row(x, None), _row(x)]):
        assert _reduced(*order)["x"]["present"] is True


def test_later_read_of_a_row_wins() -> None:
    x = _resource("x")
    found = _reduced(_row(x, location="westeurope"), _row(x, location="northeurope"))["x"]
    assert json.loads(found["data"])["location"] == "northeurope"


def test_ids_of_another_casing_are_one_entity() -> None:
    assert len(_reduced(_row(_resource("x")), _row(_resource("x").upper()))) == 1


@pytest.mark.parametrize("newest_first", [True, False])
def test_data_tells_the_newest_change(newest_first: bool) -> None:
    """Azure lists the newest record first, so the last row that is read carries the oldest."""
    x = _resource("x")
    rows = [_row(x, _change("Update", NOW)), _row(x, _change("Create", EARLIER)), _row(x)]
    found = candidates(frame_of(rows if newest_first else reversed(rows), OBSERVATION))
    (operation,) = records(decide_all(found, [NOTHING], unchanged=0).change_set)
    data = json.loads(operation["data"])
    assert (data["changeType"], data["changeTime"]) == ("Update", NOW.isoformat())
    assert data["name"] == "x"


_CHANGES = st.none() | st.tuples(
    st.sampled_from(["Create", "Update", "Delete"]), st.sampled_from([EARLIER, NOW, LATER])
)


@st.composite
def _observations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What several reads said about up to four entities; the rows of one entity are all alike."""
    found = []
    for name in draw(st.sets(st.sampled_from("abcd"), min_size=1)):
        in_scope = draw(st.booleans())
        for shown, drawn in draw(st.lists(st.tuples(st.booleans(), _CHANGES), min_size=1, max_size=5)):
            change = None if drawn is None else _change(*drawn)
            see = _row(_resource(name), change, in_scope=in_scope) if shown else _no_row(_resource(name), change)
            found.append(see)
    return found


@given(_observations(), st.randoms(use_true_random=False))
def test_order_of_observations_does_not_matter(observations: list[dict[str, Any]], rng: Any) -> None:
    shuffled = rng.sample(observations, len(observations))
    one, other = _reduced(*observations), _reduced(*shuffled)
    for row in (*one.values(), *other.values()):
        row.pop("change")  # which of two records of one instant is told does not matter
        row["change_type"] = row["change_type"] and row["change_type"] == "Delete"  # the others decide alike
    assert one == other


@given(_observations())
def test_reducing_follows_the_words_of_the_design(observations: list[dict[str, Any]]) -> None:
    for name, found in _reduced(*observations).items():
        mine = [one for one in observations if one["name"] == name]
        present = any(one["present"] for one in mine)
        changes = [(one["change_time"], one["change_type"]) for one in mine if one.get("change_type")]
        newest = {change for at, change in changes if at == max(changes)[0]}
        assert found["present"] is present
        assert found["change_time"] == (max(changes)[0] if changes else None)
        if "Delete" in newest and len(newest) > 1:
            assert (found["change_type"] == "Delete") is not present
        else:
            assert found["change_type"] in (newest or {None})


# -- all of them -----------------------------------------------------------------------------------------------------

_ENTITIES = [
    (f"{_SUB}", "microsoft.resources/subscriptions"),
    (f"{_SUB}/resourceGroups/Web", "microsoft.resources/subscriptions/resourcegroups"),
    (_resource("a"), "microsoft.web/sites"),
    (_resource("b"), "microsoft.web/sites"),
]


def _decide_all(
    observations: list[dict[str, Any]], ledger: dict[tuple[str, str], LedgerEntry], *, delete_unknown: bool = False
) -> tuple[pd.DataFrame, Decisions]:
    found = candidates(frame_of(observations, OBSERVATION))
    known = [ledger.get((row["kind"], row["identifier"]), NOTHING) for row in records(found)]
    return found, decide_all(found, known, unchanged=0, delete_unknown=delete_unknown)


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
        change = draw(_CHANGES)
        record = None if change is None else _change(*change)
        match draw(st.sampled_from(["row", "out of scope", "no row", "not read"])):
            case "row":
                observations.append(_row(azure_id, record, kind=kind))
            case "out of scope":
                observations.append(_row(azure_id, record, in_scope=False, kind=kind))
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
    decisions = decide_all(found, known, unchanged=unchanged, delete_unknown=delete_unknown)
    assert decisions.verdicts.keys() == set(Verdict)
    assert sum(decisions.verdicts.values()) == len(found) + unchanged
    assert len(decisions.change_set) == decisions.verdicts[Verdict.UPSERT] + decisions.verdicts[Verdict.DELETE]
    assert len(decisions.pending) == decisions.verdicts[Verdict.PENDING]
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
    assert again.verdicts[Verdict.PENDING] == first.verdicts[Verdict.PENDING]


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


def test_delivery_phases_are_those_of_the_design() -> None:
    assert [f"{operation} {kind}" for operation, kind in DELIVERY_PHASES] == [
        "delete resource",
        "delete resourceGroup",
        "delete subscription",
        "upsert subscription",
        "upsert resourceGroup",
        "upsert resource",
    ]


def test_within_a_phase_the_order_is_stable() -> None:
    rows = [_row(_resource(name)) for name in "dbca"]
    _, decisions = _decide_all(rows, {})
    names = decisions.change_set["name"].tolist()
    assert all(one < other for one, other in pairwise(names))


def test_a_delete_carries_identity_and_no_content() -> None:
    x = _row(_resource("X (old)"), _change("Delete", NOW))
    _, decisions = _decide_all([x], {(x["kind"], x["identifier"]): SAME})
    (row,) = records(decisions.change_set)
    assert row["operation"] == "delete"
    assert pd.isna(row["hash"])
    assert json.loads(row["data"]) == {
        "resourceId": _resource("x =28old=29").lower(),
        "type": "microsoft.web/sites",
        "subscriptionId": _SUB.rpartition("/")[2],
        "resourceGroup": "web",
    }


def test_deletes_and_upserts_together_fit_the_change_set() -> None:
    rows = [_row(_resource("a")), _no_row(_resource("b"), _change("Delete", NOW))]
    _, decisions = _decide_all(rows, {(rows[1]["kind"], rows[1]["identifier"]): SAME})
    table = to_table(decisions.change_set, CHANGE_SET)
    assert table.column("operation").to_pylist() == ["delete", "upsert"]
    assert table.column("hash").to_pylist() == [None, rows[0]["hash"]]


def test_nothing_to_decide_gives_an_empty_change_set() -> None:
    found, decisions = _decide_all([], {})
    assert len(found) == 0
    assert list(decisions.change_set.columns) == CHANGE_SET.names
    assert Counter(decisions.verdicts).total() == 0


def test_kinds_do_not_meet_in_one_entity() -> None:
    assert {identity(azure_id, kind, None)["kind"] for azure_id, kind in _ENTITIES} == set(Kind)
