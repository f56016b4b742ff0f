"""What is true now, and what Port therefore has to be told: one function decides for both modes.

Observations of one entity, from however many reads, are first reduced to a *candidate*: its current row and its
newest change record. `decide` then looks at the candidate and at what the ledger holds, and gives a verdict. Absence
of a row proves nothing by itself, so the steps above confirm it before they hand it in here.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import repeat
from typing import Any, NamedTuple, cast

import pandas as pd
import pyarrow as pa

from azure_port_sync.core.entities import canonical, delete_data
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import (
    CHANGE_SET,
    OBSERVATION,
    ChangeSetRow,
    Operation,
    change_set_rows,
    frame_of,
    records,
)

DELETE_RECORD = "Delete"

#: The states of a ledger row; what each means stands at `LedgerEntry`.
SENDING, CONFIRMED, IMPORTED = "sending", "confirmed", "imported"

#: A full run tells every n-th part of the catalog again, a different one each time.
RESEND_PARTS = 7

#: In place of a hash: Port has refused to delete the entity.
REFUSED_DELETE = "delete"

_AT_ONCE = 5_000
_VERDICT = pd.ArrowDtype(pa.string())
_KEY = ["kind", "key"]  # an identifier is not enough: a space and an underscore may meet in one
_RECORD = ["change_type", "change_time", "change"]


class Verdict(StrEnum):
    """What a run makes of a candidate. Every candidate gets exactly one."""

    UPSERT = "upsert"
    DELETE = "delete"
    UNCHANGED = "unchanged"
    OUT_OF_SCOPE = "out of scope"
    PENDING = "pending"
    UNKNOWN_DELETE = "unknown delete"
    TOMBSTONED = "tombstoned"
    ID_CONFLICT = "colliding"
    IN_GRACE = "held back by grace"
    QUARANTINED = "quarantined"


#: Verdicts that leave something to tell for a later run.
_UNRESOLVED = [Verdict.QUARANTINED, Verdict.PENDING, Verdict.IN_GRACE]


class LedgerEntry(NamedTuple):
    """What the store holds about a candidate; every field None where it holds nothing.

    `state` is SENDING (a request may have reached Port without an answer), CONFIRMED (Port has taken `hash`) or
    IMPORTED (Port holds it, and nobody remembers having sent it). `tombstone` is the instant of the Delete record that
    removed it last, `azure_id` the id that the identifier was sent for.
    """

    state: str | None = None
    hash: str | None = None
    tombstone: datetime | None = None
    azure_id: str | None = None


class Candidate(NamedTuple):
    """The part of a candidate that a decision rests on.

    `held`: its subscription has vanished and is given time to come back. `resend`: to be told although Port has been
    told the same. `refused`: the content that Port has refused before, by its hash, or REFUSED_DELETE.
    """

    present: bool
    in_scope: bool
    hash: str | None
    change_type: str | None
    change_time: datetime | None
    azure_id: str = ""
    held: bool = False
    resend: bool = False
    refused: str | None = None


def candidates(observations: pd.DataFrame) -> pd.DataFrame:
    """Reduce observations to one row per entity: the last row seen, and the newest change record.

    Where records of one instant disagree, a Delete loses to a row that exists and wins over one that does not.
    The order of the observations matters only between two rows of one entity: the later read wins.
    """
    keyed = observations.assign(key=observations["azure_id"].str.lower())
    repeated = keyed.duplicated(_KEY, keep=False)
    once = observations[~repeated]
    if not repeated.any():
        return once.reset_index(drop=True)
    return pd.concat([once, _reduced(keyed[repeated])], ignore_index=True)


def _reduced(observations: pd.DataFrame) -> pd.DataFrame:
    rows = observations.sort_values("present", kind="stable").drop_duplicates(_KEY, keep="last")
    changes = observations[observations["change_type"].notna()]
    newest = changes["change_time"] == changes.groupby(_KEY)["change_time"].transform("max")
    changes = changes[newest].assign(is_delete=lambda f: f["change_type"] == DELETE_RECORD)
    changes = changes.sort_values("is_delete", kind="stable")
    live = changes.drop_duplicates(_KEY, keep="first").set_index(_KEY)[_RECORD]
    dead = changes.drop_duplicates(_KEY, keep="last").set_index(_KEY)[_RECORD]
    rows = rows.set_index(_KEY).drop(columns=_RECORD)
    present = rows["present"].astype(bool)
    joined = pd.concat([rows[present].join(live), rows[~present].join(dead)])
    return cast("pd.DataFrame", joined.reset_index()[OBSERVATION.names])


def decide(candidate: Candidate, known: LedgerEntry, *, delete_unknown: bool = False) -> Verdict:
    """The decision table of one entity.

    `delete_unknown` also deletes what the ledger does not hold but a Delete record names (there is no ledger yet, and
    somebody else may have filled the catalog). What Port has refused before is not told again by itself.
    """
    verdict = _decide(candidate, known, delete_unknown=delete_unknown)
    telling = {Verdict.UPSERT: candidate.hash, Verdict.DELETE: REFUSED_DELETE}.get(verdict)
    refused_before = telling is not None and telling == candidate.refused
    return Verdict.QUARANTINED if refused_before else verdict


def _decide(candidate: Candidate, known: LedgerEntry, *, delete_unknown: bool) -> Verdict:
    is_known = known.state is not None
    if _is_anothers(known, candidate.azure_id):
        return Verdict.ID_CONFLICT  # the identifier is another entity's, which this one must not change or remove
    if candidate.change_type == DELETE_RECORD:
        return Verdict.DELETE if is_known or delete_unknown else Verdict.UNKNOWN_DELETE
    if candidate.present and candidate.in_scope:
        if not is_known and known.tombstone is not None and not _newer(candidate.change_time, known.tombstone):
            return Verdict.TOMBSTONED
        same = known.state == CONFIRMED and known.hash == candidate.hash
        return Verdict.UNCHANGED if same and not candidate.resend else Verdict.UPSERT
    if candidate.present:
        return Verdict.DELETE if is_known else Verdict.OUT_OF_SCOPE
    if candidate.change_type is not None:
        return Verdict.PENDING
    if not is_known:
        return Verdict.UNKNOWN_DELETE
    return Verdict.IN_GRACE if candidate.held else Verdict.DELETE


def _is_anothers(known: LedgerEntry, azure_id: str) -> bool:
    """Whether the identifier was told for another id; of what was only found in Port, the id is a guess."""
    return known.azure_id is not None and known.state != IMPORTED and known.azure_id.lower() != azure_id.lower()


def _newer(change_time: datetime | None, tombstone: datetime) -> bool:
    return change_time is not None and change_time >= tombstone  # of one instant, the row that exists wins


@dataclass(frozen=True)
class Decisions:
    """The change set and, for every verdict, how many candidates it met."""

    change_set: pd.DataFrame
    pending: pd.DataFrame
    colliding: list[tuple[ChangeSetRow, str]]  # that exist and whose identifier is another's, each with whose
    unresolved: pd.DataFrame  # of which something is left to tell, and nothing in the change set
    deleted_for_scope: pd.DataFrame  # resources that exist and are deleted because they are out of scope
    verdicts: dict[Verdict, int]
    known_deletes: int  # deletes of what Port is known to hold
    resent: int  # upserts of what Port has been told already
    kept: int  # rows that the ledger holds when all is delivered


def decide_all(
    to_decide: pd.DataFrame, known: Iterable[LedgerEntry], *, unchanged: int, delete_unknown: bool = False
) -> Decisions:
    """Decide every candidate that the store did not find equal, and lay the operations out in delivery order.

    `to_decide` has the columns of OBSERVATION and those that `Candidate` has beyond (or not), and
    `known` one entry for each of its rows; `unchanged` is the number of candidates that the store already found equal.
    """
    verdicts, of_known, of_same = [], [], []
    owners: dict[str, str] = {}
    for candidate, fact in zip(_candidates(to_decide), known, strict=True):
        verdicts.append(decide(candidate, fact, delete_unknown=delete_unknown))
        of_known.append(fact.state is not None)
        of_same.append(fact.state == CONFIRMED and fact.hash == candidate.hash)
        if verdicts[-1] is Verdict.ID_CONFLICT:
            owners[candidate.azure_id] = str(fact.azure_id)
    verdicts = _one_per_identifier(to_decide, verdicts)
    counts = Counter(verdicts)
    counts[Verdict.UNCHANGED] += unchanged
    known_counts = Counter(verdict for verdict, is_known in zip(verdicts, of_known, strict=True) if is_known)
    marked = to_decide[OBSERVATION.names].assign(
        verdict=pd.Series(pa.array(verdicts, type=pa.string()), dtype=_VERDICT, index=to_decide.index)
    )
    upserts = marked[marked["verdict"] == Verdict.UPSERT]
    colliding = marked[(marked["verdict"] == Verdict.ID_CONFLICT) & marked["present"] & marked["in_scope"]]
    deletes = marked[marked["verdict"] == Verdict.DELETE]
    return Decisions(
        change_set=_in_delivery_order(_operations(upserts, deletes)),
        pending=marked[marked["verdict"] == Verdict.PENDING].drop(columns="verdict"),
        colliding=_with_owners(colliding, upserts, owners),
        unresolved=pd.concat([marked[marked["verdict"].isin(_UNRESOLVED)], colliding]),
        deleted_for_scope=deletes[
            deletes["present"]
            & (deletes["kind"] == Kind.RESOURCE)
            & (deletes["change_type"] != DELETE_RECORD).fillna(True)
        ],
        verdicts={verdict: counts[verdict] for verdict in Verdict},
        known_deletes=known_counts[Verdict.DELETE],
        resent=sum(same and verdict is Verdict.UPSERT for verdict, same in zip(verdicts, of_same, strict=True)),
        kept=counts[Verdict.UPSERT]
        + counts[Verdict.UNCHANGED]
        + counts[Verdict.IN_GRACE]
        + known_counts[Verdict.PENDING]
        + known_counts[Verdict.QUARANTINED],
    )


def _candidates(to_decide: pd.DataFrame) -> Iterator[Candidate]:
    """The rows one by one; a few thousand at a time are Python objects."""
    for start in range(0, len(to_decide), _AT_ONCE):
        part = to_decide.iloc[start : start + _AT_ONCE]
        columns: list[Iterable[Any]] = [
            part[name].tolist() if name in part else repeat(Candidate._field_defaults[name], len(part))
            for name in Candidate._fields
        ]
        for values in zip(*columns, strict=True):
            yield Candidate._make(None if value is pd.NA or value is pd.NaT else value for value in values)


def due_again(identifiers: pd.Series, full_runs: int) -> pd.Series:
    """The part of the catalog that the next full run tells again, as a mask: each part comes once in RESEND_PARTS.

    Port maps what it accepted later, and says nothing of what its mapping dropped. So a mistake in the mapping heals
    within that many full runs after its repair.
    """
    due = full_runs % RESEND_PARTS
    return pd.Series(
        [zlib.crc32(identifier.encode()) % RESEND_PARTS == due for identifier in identifiers],
        index=identifiers.index,
        dtype=bool,
    )


#: Deletes before upserts, so that a name that moved is free again; children before their containers when deleting,
#: after them when creating, because Port deletes dependents and may refuse a relation to nothing.
DELIVERY_PHASES: tuple[tuple[Operation, Kind], ...] = (
    (Operation.DELETE, Kind.RESOURCE),
    (Operation.DELETE, Kind.RESOURCE_GROUP),
    (Operation.DELETE, Kind.SUBSCRIPTION),
    (Operation.UPSERT, Kind.SUBSCRIPTION),
    (Operation.UPSERT, Kind.RESOURCE_GROUP),
    (Operation.UPSERT, Kind.RESOURCE),
)


def _operations(upserts: pd.DataFrame, deletes: pd.DataFrame) -> pd.DataFrame:
    parts = []
    if len(upserts):
        told = upserts["change"].notna()
        parts += [
            part.assign(operation=str(Operation.UPSERT), data=data)[CHANGE_SET.names]
            for part, data in (
                (upserts[~told], upserts.loc[~told, "data"]),
                (upserts[told], list(map(_with_change, upserts.loc[told, "data"], upserts.loc[told, "change"]))),
            )
            if len(part)
        ]
    if len(deletes):
        data = [canonical(delete_data(row)) for row in records(deletes)]
        parts.append(deletes.assign(operation=str(Operation.DELETE), data=data, hash=None)[CHANGE_SET.names])
    return pd.concat(parts) if parts else frame_of([], CHANGE_SET)


def _with_change(data: str, change: str) -> str:
    """`data` with what it is told of the newest change."""
    return canonical({**json.loads(data), **json.loads(change)})


def _one_per_identifier(to_decide: pd.DataFrame, verdicts: list[Verdict]) -> list[Verdict]:
    """Where several entities would be told under one identifier, only the first of them, by id, is."""
    operations = pd.Series([v in (Verdict.UPSERT, Verdict.DELETE) for v in verdicts], index=to_decide.index, dtype=bool)
    acting = to_decide[operations].sort_values("azure_id", kind="stable")
    losing = set(acting.index[acting.duplicated(["kind", "identifier"])])
    return [
        Verdict.ID_CONFLICT if position in losing else verdict
        for position, verdict in zip(to_decide.index, verdicts, strict=True)
    ]


def _with_owners(
    colliding: pd.DataFrame, upserts: pd.DataFrame, owners: Mapping[str, str]
) -> list[tuple[ChangeSetRow, str]]:
    """Each with whose identifier it has: that of an entity that Port was told of, or is told of in this run."""
    in_run = dict(zip(upserts["identifier"], upserts["azure_id"], strict=True)) if len(colliding) else {}
    return [
        (row, owners.get(row.azure_id) or in_run.get(row.identifier, "another entity"))
        for row in change_set_rows(colliding.assign(operation=str(Operation.UPSERT)))
    ]


def _in_delivery_order(operations: pd.DataFrame) -> pd.DataFrame:
    phase = {f"{operation} {kind}": n for n, (operation, kind) in enumerate(DELIVERY_PHASES)}
    order = (operations["operation"] + " " + operations["kind"]).map(phase)
    ordered = operations.assign(order=order).sort_values(["order", "identifier"], kind="stable")
    return ordered.drop(columns="order").reset_index(drop=True)
