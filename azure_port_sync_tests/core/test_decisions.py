"""The decision table, and that a run which settled leaves nothing to decide."""

from datetime import datetime

import pytest

from azure_port_sync.core.decisions import DELIVERY_PHASES, Candidate, LedgerEntry, Verdict, decide
from azure_port_sync_tests.support.observations import EARLIER, LATER, NOW

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
    # No row and no record: by id as well: it is gone.
    (_absent(), NOTHING, Verdict.UNKNOWN_DELETE),
    (_absent(), SAME, Verdict.DELETE),
    (_absent(), SENDING, Verdict.DELETE),
    (_absent(), IMPORTED, Verdict.DELETE),
    # Absence in a subscription that has vanished proves nothing yet; a Delete record and a row do.
    (_absent()._replace(in_grace=True), SAME, Verdict.IN_GRACE),
    (_absent()._replace(in_grace=True), SENDING, Verdict.IN_GRACE),
    (_absent()._replace(in_grace=True), NOTHING, Verdict.UNKNOWN_DELETE),
    (_absent("Create", NOW)._replace(in_grace=True), SAME, Verdict.PENDING),
    (_absent("Delete", NOW)._replace(in_grace=True), SAME, Verdict.DELETE),
    (_shown()._replace(in_grace=True), OTHER, Verdict.UPSERT),
    (_shown(in_scope=False)._replace(in_grace=True), SAME, Verdict.DELETE),
    # What a rebuild imported from Port: its content and its id are not known.
    (_shown(), IMPORTED, Verdict.UPSERT),
    (_shown(), IMPORTED._replace(azure_id="a guess"), Verdict.UPSERT),
    (_shown(in_scope=False), IMPORTED, Verdict.DELETE),
    # A parent that Azure does not show yet is waited for, for a day; what Port has already need not wait.
    *[
        (_shown(change, NOW if change else None)._replace(parent_missing=True), known, verdict)
        for change in ("Create", None)
        for known, verdict in [
            (NOTHING, Verdict.PENDING),
            (OTHER, Verdict.PENDING),
            (SENDING, Verdict.PENDING),
            (SAME, Verdict.UNCHANGED),
        ]
    ],
    (_shown()._replace(parent_missing=True, waiting=True), NOTHING, Verdict.PENDING),
    (_shown()._replace(parent_missing=True, waiting=True, waited_out=True), NOTHING, Verdict.UPSERT),
    (_shown("Delete", NOW)._replace(parent_missing=True), SAME, Verdict.DELETE),
    (_shown(in_scope=False)._replace(parent_missing=True), SAME, Verdict.DELETE),
    # A row that an earlier run began to wait for, whose record is no longer read; after a day it is taken as absent.
    *[(_absent()._replace(waiting=True), known, Verdict.PENDING) for known in (NOTHING, SAME, SENDING)],
    (_absent()._replace(waiting=True, waited_out=True), NOTHING, Verdict.UNKNOWN_DELETE),
    (_absent()._replace(waiting=True, waited_out=True), SAME, Verdict.DELETE),
    (_absent("Create", NOW)._replace(waiting=True, waited_out=True), SAME, Verdict.DELETE),
    (_absent("Delete", NOW)._replace(waiting=True), SAME, Verdict.DELETE),
    (_shown()._replace(waiting=True), NOTHING, Verdict.UPSERT),
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
    if candidate.parent_missing and verdict is Verdict.UNCHANGED:
        forced = Verdict.PENDING
    assert decide(candidate._replace(resend=True), known) is forced


@pytest.mark.parametrize(("candidate", "known", "verdict"), _TABLE)
def test_without_a_ledger_delete_records_of_unknown_ids_are_sent(
    candidate: Candidate, known: LedgerEntry, verdict: Verdict
) -> None:
    """What a script before us left goes with its Delete record; mere absence of an unknown id is nothing."""
    by_record = verdict is Verdict.UNKNOWN_DELETE and candidate.change_type == "Delete"
    assert decide(candidate, known, delete_unknown=True) is (Verdict.DELETE if by_record else verdict)


# -- quarantine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("candidate", "known", "verdict"), _TABLE)
def test_an_operation_that_port_refused_is_not_sent_again_by_itself(
    candidate: Candidate, known: LedgerEntry, verdict: Verdict
) -> None:
    """Only that very operation: another content, or a delete where an upsert was refused, is tried."""
    upsert = candidate._replace(refused_operation="upsert", refused_hash=candidate.hash)
    assert decide(upsert, known) is (Verdict.QUARANTINED if verdict is Verdict.UPSERT else verdict)
    assert decide(upsert._replace(refused_hash="other"), known) is verdict
    delete = candidate._replace(refused_operation="delete")
    assert decide(delete, known) is (Verdict.QUARANTINED if verdict is Verdict.DELETE else verdict)


def test_delivery_phases_are_those_of_the_design() -> None:
    assert [f"{operation} {kind}" for operation, kind in DELIVERY_PHASES] == [
        "delete resource",
        "delete resourceGroup",
        "delete subscription",
        "upsert subscription",
        "upsert resourceGroup",
        "upsert resource",
    ]
