"""The decision table of one entity: what is true now, and what Port therefore has to be sent.

`decide` looks at a candidate (an entity's current row, its newest change record, and the flags of what it has to wait
for) and at what the store holds of it, and gives a verdict. Absence of a row proves nothing by itself, so it is
confirmed by id before it comes here.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from azure_port_sync.core.kinds import KINDS, Kind
from azure_port_sync.core.rows import Operation

DELETE_RECORD = "Delete"

#: The states of a ledger row; `LedgerEntry` says what each means.
CONFIRMED, SENDING, IMPORTED = "confirmed", "sending", "imported"

#: Deletes before upserts, so that a name that moved is free again; children before their containers when deleting,
#: after them when creating, because Port may refuse a relation to nothing.
DELIVERY_PHASES: tuple[tuple[Operation, Kind], ...] = (
    *((Operation.DELETE, kind) for kind in reversed(list(KINDS))),
    *((Operation.UPSERT, kind) for kind in KINDS),
)


class Verdict(StrEnum):
    """The outcome for a candidate. Every candidate gets exactly one."""

    UPSERT = "upsert"
    DELETE = "delete"
    UNCHANGED = "unchanged"
    OUT_OF_SCOPE = "out of scope"
    PENDING = "pending"
    UNKNOWN_DELETE = "unknown delete"
    TOMBSTONED = "tombstoned"
    ID_CONFLICT = "identifier conflict"
    IN_GRACE = "in grace period"
    QUARANTINED = "quarantined"
    HELD = "held by the guard"


#: Verdicts that leave something to send for a later run.
UNRESOLVED = (Verdict.QUARANTINED, Verdict.PENDING, Verdict.IN_GRACE, Verdict.HELD)


class LedgerEntry(NamedTuple):
    """The store's knowledge of a candidate; every field None where it has none.

    `state` is "confirmed" (Port took what was sent last), "sending" (a request may have reached Port without an
    answer) or "imported" (Port holds the entity, and this target has never sent it). `tombstone` is the instant of
    the Delete record that removed it last, `azure_id` the id that the identifier was last sent for.
    """

    state: str | None = None
    hash: str | None = None
    tombstone: datetime | None = None
    azure_id: str | None = None


class Candidate(NamedTuple):
    """The part of a candidate that its decision rests on, with its flags.

    `parent_missing`: Azure does not show the group that it lies in, or not in scope. `waiting`: an earlier run found
    that it has to wait for its row or its parent. `waited_out`: it has done so for 24 hours. `in_grace`: its
    subscription has vanished and is given time to come back. `resend`: send it although Port has the same.
    `refused_operation` and `refused_hash`: the operation that Port refused before, and the content of an upsert.
    """

    present: bool
    in_scope: bool
    hash: str | None
    change_type: str | None
    change_time: datetime | None
    azure_id: str = ""
    parent_missing: bool = False
    waiting: bool = False
    waited_out: bool = False
    in_grace: bool = False
    resend: bool = False
    refused_operation: str | None = None
    refused_hash: str | None = None


def decide(candidate: Candidate, known: LedgerEntry, *, delete_unknown: bool = False) -> Verdict:
    """Decide one entity.

    `delete_unknown` also deletes what the ledger does not hold but a Delete record names: there is no ledger yet, and
    somebody else may have filled the catalog. An operation that Port refused before is not sent again by itself.
    """
    verdict = _decide(candidate, known, delete_unknown=delete_unknown)
    if verdict == candidate.refused_operation and (
        verdict is Verdict.DELETE or candidate.hash == candidate.refused_hash
    ):
        return Verdict.QUARANTINED
    return verdict


def _decide(candidate: Candidate, known: LedgerEntry, *, delete_unknown: bool) -> Verdict:
    is_known = known.state is not None
    may_wait = not candidate.waited_out
    # Another entity has the identifier, which this one must not change or remove; an imported id is only a guess.
    if known.state != IMPORTED and (known.azure_id or candidate.azure_id).lower() != candidate.azure_id.lower():
        return Verdict.ID_CONFLICT
    if candidate.change_type == DELETE_RECORD:
        return Verdict.DELETE if is_known or delete_unknown else Verdict.UNKNOWN_DELETE
    if candidate.present and candidate.in_scope:
        newest = candidate.change_time or datetime.min.replace(tzinfo=UTC)
        if not is_known and known.tombstone is not None and newest < known.tombstone:
            return Verdict.TOMBSTONED  # of one instant, the row that exists wins
        if is_confirmed(candidate, known) and not candidate.resend:
            return Verdict.UNCHANGED
        return Verdict.PENDING if candidate.parent_missing and may_wait else Verdict.UPSERT
    if candidate.present:
        return Verdict.DELETE if is_known else Verdict.OUT_OF_SCOPE
    if may_wait and (candidate.waiting or candidate.change_type is not None):
        return Verdict.PENDING
    if not is_known:
        return Verdict.UNKNOWN_DELETE
    return Verdict.IN_GRACE if candidate.in_grace else Verdict.DELETE


def is_confirmed(candidate: Candidate, known: LedgerEntry) -> bool:
    """Whether Port has confirmed the very content that the candidate has now."""
    return known.state == CONFIRMED and known.hash == candidate.hash
