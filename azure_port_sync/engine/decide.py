"""From what was observed to a change set: one candidate an entity, joined with the ledger, decided, guarded.

Nothing is written here. Everything that a run learned about Azure is returned as `Facts`, which the run records.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from azure_port_sync.core.cover import Group
from azure_port_sync.core.decisions import (
    DELETE_RECORD,
    DELIVERY_PHASES,
    UNRESOLVED,
    Candidate,
    LedgerEntry,
    Verdict,
    decide,
    is_confirmed,
)
from azure_port_sync.core.entities import canonical, delete_data
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.facts import Facts
from azure_port_sync.core.guard import Guard, recorded_as_deleted
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.quarantine import tried_again
from azure_port_sync.core.request import Mode
from azure_port_sync.core.rows import (
    CHANGE_SET,
    OBSERVATION,
    ChangeSetRow,
    Operation,
    change_set_rows,
    frame_of,
    records,
    tuples,
)
from azure_port_sync.core.subscriptions import Subscriptions
from azure_port_sync.engine.observe import GROUP_KEY, PENDING_FOR, Survey, pairs
from azure_port_sync.state import StateStore

#: A full run sends every n-th part of the catalog again, a different one each time.
RESEND_PARTS = 7

#: Entities of a full run that are looked at in Port afterwards.
_SAMPLED = 20

_TEXT = pd.ArrowDtype(pa.string())


@dataclass(frozen=True)
class ChangeSet:
    """The decided operations (columns of CHANGE_SET, in delivery order), the plan they belong to, and the guard.

    Deletes that the guard holds are not among them. `kept` is the number of rows that the ledger holds when all of a
    full change set is delivered, and None for others. `sample` are a few entities of a full run as Port should show
    them: `kind`, `identifier` and `data`.
    """

    frame: pd.DataFrame
    plan: Plan
    guard: Guard
    kept: int | None = None
    sample: tuple[dict[str, str], ...] = ()


class Decisions(NamedTuple):
    """The verdicts of a run.

    `decided` are the candidates that the ledger did not already equal: the columns of OBSERVATION and a `verdict`.
    `counts` has every verdict, also of those that were equal; `known` counts those of entities in the ledger.
    `conflicts` are upserts whose identifier belongs to another entity, each with a sentence that names it. `resent`
    upserts are of entities that Port has already. `sample` are a few entities of a full run, for the change set.
    """

    decided: pd.DataFrame
    change_set: pd.DataFrame
    guard: Guard
    conflicts: list[tuple[ChangeSetRow, str]]
    candidates: int
    counts: dict[Verdict, int]
    known: dict[Verdict, int]
    resent: int
    sample: tuple[dict[str, str], ...] = ()

    @property
    def kept(self) -> int:
        """Rows that the ledger holds when all is delivered."""
        counts, known = self.counts, self.known
        staying = sum(counts[v] for v in (Verdict.UPSERT, Verdict.UNCHANGED, Verdict.IN_GRACE, Verdict.HELD))
        return staying + known[Verdict.PENDING] + known[Verdict.QUARANTINED]

    @property
    def held(self) -> pd.DataFrame:
        """The candidates whose deletes the guard holds."""
        return self.decided[self.decided["verdict"] == Verdict.HELD]

    @property
    def unresolved(self) -> pd.DataFrame:
        """The candidates that leave something to send for a later run."""
        decided = self.decided
        conflicts = (decided["verdict"] == Verdict.ID_CONFLICT) & decided["present"] & decided["in_scope"]
        return decided[decided["verdict"].isin(UNRESOLVED) | conflicts]


def decide_survey(survey: Survey, store: StateStore, *, resend: bool) -> tuple[Decisions, Facts]:
    """Decide every candidate of a survey, which gives its rows up: a tenant may have a million.

    With `resend`, a full run sends a part of the catalog again (for a sink whose answers say no more of an entity than
    that it was accepted). Raises SettingsError for a selection in which nothing lies.
    """
    plan, remembered = survey.plan, survey.remembered
    found = survey.take_candidates()
    groups_in_scope = pairs(found[(found["kind"] == Kind.RESOURCE_GROUP) & found["present"] & found["in_scope"]])
    found = _selected(found, plan)
    total, sample = len(found), _sample(found, plan)
    waited = remembered.pending.loc[remembered.pending["identifier"].isin(found["identifier"]), "identifier"]
    put_aside = set(entities(remembered.put_aside))
    if put_aside and plan.mode is not Mode.FULL:
        put_aside.intersection_update(entities(found))
    if plan.mode is Mode.FULL and resend and not plan.resends_all:
        found = found.assign(resend=due_again(found["identifier"], plan.full_runs))
    else:
        found = found.assign(resend=plan.resends_all)
    comparison = store.ledger.compare(plan.target, found, resend=found["resend"])
    if len(comparison.positions) < total:
        found = found.iloc[comparison.positions]
    decisions = decide_all(
        _flagged(found, survey, groups_in_scope),
        comparison.known,
        unchanged=comparison.unchanged,
        # Whoever filled the catalog before us left stale entities; until a run has settled, they are ours to remove.
        delete_unknown=plan.advances_watermark and (plan.base_watermark is None or plan.known_before == 0),
        guard=Guard(
            known=plan.known_before,
            known_of={str(kind): number for kind, number in store.ledger.counts(plan.target).items()},
            max_ratio=plan.request.max_delete_ratio,
            min_deletes=plan.request.min_guarded_deletes,
            allowed=plan.request.allow_mass_delete,
            scope_changed=plan.scope_changed,
        ),
    )
    facts = _facts(decisions, survey.containers.subscriptions, waited, put_aside)
    unresolved = set(decisions.unresolved["identifier"])
    sample = [row for row in sample if row["identifier"] not in unresolved]
    return decisions._replace(candidates=total, sample=tuple(sample)), facts


# -- candidates -------------------------------------------------------------------------------------------------------


def _selected(found: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """The candidates that the run is about. Raises SettingsError for a selection in which nothing lies."""
    only = plan.request.only
    if not only:
        return found
    found = found[only.covers(found)].reset_index(drop=True)
    unknown = [*set(only.subscriptions).difference(found["subscription_id"])]
    unknown += set(only.resource_groups).difference(found["resource_group"])
    if unknown or (found.empty and plan.request.backfill is None):
        raise SettingsError(
            f"Nothing in Azure or in the ledger lies in {', '.join(sorted(unknown)) or only}, which `only` names; "
            'nothing was sent. Check the spelling, e.g. only: {resource_groups: ["web"]}, and the scope settings.'
        )
    return found


def _flagged(found: pd.DataFrame, survey: Survey, groups_in_scope: set[Group]) -> pd.DataFrame:
    """The candidates with the flags of the decision table."""
    pending, put_aside = survey.remembered.pending, survey.remembered.put_aside
    # Nothing has begun to wait a day from now: the clock has jumped back.
    waits = pending["since"].between(survey.now - PENDING_FOR, survey.now + PENDING_FOR, inclusive="neither")
    waited_out = pending.loc[~waits.astype(bool), "identifier"]
    flags: dict[str, Any] = {
        "in_grace": survey.in_grace(found),
        "waiting": found["identifier"].isin(pending["identifier"]),
        "waited_out": found["identifier"].isin(waited_out),
        "parent_missing": _parent_missing(found, groups_in_scope),
    }
    refused = put_aside[~tried_again(put_aside, survey.plan)]
    if len(refused):
        before = dict(zip(entities(refused), tuples(refused, ["operation", "hash"]), strict=True))
        of_each = [before.get(one, (None, None)) for one in entities(found)]
        columns = ["refused_operation", "refused_hash"]
        flags.update(pd.DataFrame(of_each, columns=columns, index=found.index, dtype=object))
    return found.assign(**flags)


def _parent_missing(found: pd.DataFrame, groups_in_scope: set[Group]) -> pd.Series:
    """Mark the candidates in a group that no read has shown in scope.

    Port may refuse a relation to nothing, and would otherwise show one. A principal may read a resource and not its
    group, for ever; so the wait for it ends.
    """
    to_send = found[(found["kind"] == Kind.RESOURCE) & found["present"] & found["in_scope"]]
    needed = pairs(to_send[[*GROUP_KEY]].drop_duplicates())
    missing = {pair for pair in needed - groups_in_scope if pair[1]}
    if not missing:
        return pd.Series(False, index=found.index)
    lies_in = [pair in missing for pair in tuples(found, GROUP_KEY)]
    return (found["kind"] == Kind.RESOURCE) & pd.Series(lies_in, index=found.index)


def due_again(identifiers: pd.Series, full_runs: int) -> pd.Series:
    """Return the part of the catalog that the next full run sends again, as a mask; each part comes once in a cycle.

    Port maps what it accepted later, and says nothing of what its mapping dropped. So a mistake in the mapping heals
    within RESEND_PARTS full runs after it was fixed.
    """
    due = full_runs % RESEND_PARTS
    return pd.Series(
        [zlib.crc32(identifier.encode()) % RESEND_PARTS == due for identifier in identifiers],
        index=identifiers.index,
        dtype=bool,
    )


def _sample(found: pd.DataFrame, plan: Plan) -> list[dict[str, str]]:
    """A few entities of a full run, other ones each time."""
    if plan.mode is not Mode.FULL:
        return []
    there = found.index[found["present"] & found["in_scope"] & (found["change_type"] != DELETE_RECORD).fillna(True)]
    chosen = pd.Series(there).sample(min(_SAMPLED, len(there)), random_state=plan.generation)
    return records(found.loc[chosen.tolist(), ["kind", "identifier", "data"]])


def entities(frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Return the (kind, lower-case azure id) of these rows."""
    return zip(frame["kind"], map(str.lower, frame["azure_id"]), strict=True)


# -- decisions --------------------------------------------------------------------------------------------------------


def decide_all(
    to_decide: pd.DataFrame,
    known: Iterable[LedgerEntry],
    *,
    unchanged: int,
    guard: Guard,
    delete_unknown: bool = False,
) -> Decisions:
    """Decide every candidate that the ledger does not already equal, and lay the operations out in delivery order.

    `to_decide` has the columns of OBSERVATION and the flags of `Candidate` (or not), and `known` one entry for each of
    its rows; `unchanged` is the number of candidates that the ledger already equals. `guard` has no deletes yet.
    """
    verdicts, in_ledger, confirmed = [], [], []
    owners: dict[str, str] = {}
    # A flag that `to_decide` does not have is None in each row.
    rows = tuples(to_decide.reindex(columns=list(Candidate._fields)), Candidate._fields)
    for candidate, entry in zip(map(Candidate._make, rows), known, strict=True):
        verdicts.append(decide(candidate, entry, delete_unknown=delete_unknown))
        in_ledger.append(entry.state is not None)
        confirmed.append(is_confirmed(candidate, entry))
        if verdicts[-1] is Verdict.ID_CONFLICT:
            owners[candidate.azure_id] = str(entry.azure_id)
    decided = to_decide[OBSERVATION.names].assign(verdict=pd.Series(verdicts, index=to_decide.index, dtype=_TEXT))
    decided["verdict"] = _one_per_identifier(decided)
    unproven = (decided["verdict"] == Verdict.DELETE) & ~recorded_as_deleted(decided)
    guard = replace(
        guard,
        deletes=int(unproven.sum()),
        proven=int((decided["verdict"] == Verdict.DELETE).sum() - unproven.sum()),
        out_of_scope=int((unproven & decided["present"]).sum()),
        deletes_of=dict(Counter(decided.loc[unproven, "kind"])),
    )
    if guard.holds:
        decided["verdict"] = decided["verdict"].mask(unproven, Verdict.HELD)
    counts, of_known = Counter(decided["verdict"]), Counter(decided.loc[in_ledger, "verdict"])
    counts[Verdict.UNCHANGED] += unchanged
    return Decisions(
        decided=decided,
        change_set=_change_set(decided),
        guard=guard,
        conflicts=_conflicts(decided, owners),
        candidates=len(decided) + unchanged,
        counts={verdict: counts[verdict] for verdict in Verdict},
        known={verdict: of_known[verdict] for verdict in Verdict},
        resent=int((decided.loc[confirmed, "verdict"] == Verdict.UPSERT).sum()),
    )


def _one_per_identifier(decided: pd.DataFrame) -> pd.Series:
    """The verdicts, in which only the first of several entities, by id, is sent under their identifier."""
    acting = decided[decided["verdict"].isin([Verdict.UPSERT, Verdict.DELETE])].sort_values("azure_id", kind="stable")
    losing = acting.index[acting.duplicated(["kind", "identifier"])]
    return decided["verdict"].mask(decided.index.isin(losing), Verdict.ID_CONFLICT)


def _conflicts(decided: pd.DataFrame, owners: Mapping[str, str]) -> list[tuple[ChangeSetRow, str]]:
    """The upserts that cannot be, because another entity has their identifier: from before, or in this run."""
    losing = decided[(decided["verdict"] == Verdict.ID_CONFLICT) & decided["present"] & decided["in_scope"]]
    upserts = decided[decided["verdict"] == Verdict.UPSERT] if len(losing) else losing
    in_run = dict(tuples(upserts, ["identifier", "azure_id"]))
    reason = (
        "its identifier in Port is that of {}, because Port takes no space and makes it an underscore; rename one of "
        "the two in Azure"
    )
    return [
        (row, reason.format(owners.get(row.azure_id) or in_run.get(row.identifier, "another entity")))
        for row in change_set_rows(losing.assign(operation=str(Operation.UPSERT)))
    ]


# -- the change set ---------------------------------------------------------------------------------------------------


def _change_set(decided: pd.DataFrame) -> pd.DataFrame:
    """The operations in delivery order, in the columns of CHANGE_SET."""
    upserts = decided[decided["verdict"] == Verdict.UPSERT]
    deletes = decided[decided["verdict"] == Verdict.DELETE]
    has_change = upserts["change"].notna()
    changed = upserts[has_change]
    # `data` and `change` are JSON objects that share no key, and become one.
    with_change = [f"{data[:-1]},{change[1:]}" for data, change in tuples(changed, ["data", "change"])]
    parts = [
        upserts[~has_change],
        changed.assign(data=with_change),
        deletes.assign(hash=None, data=[canonical(delete_data(row)) for row in records(deletes)]),
    ]
    parts = [part.rename(columns={"verdict": "operation"})[CHANGE_SET.names] for part in parts if len(part)]
    if not parts:
        return frame_of([], CHANGE_SET)
    operations = pd.concat(parts)
    phase = {f"{operation} {kind}": n for n, (operation, kind) in enumerate(DELIVERY_PHASES)}
    order = (operations["operation"] + " " + operations["kind"]).map(phase)
    ordered = operations.assign(order=order).sort_values(["order", "identifier"], kind="stable")
    return ordered.drop(columns="order").reset_index(drop=True)


# -- facts ------------------------------------------------------------------------------------------------------------


def _facts(
    decisions: Decisions, subscriptions: Subscriptions, waited: pd.Series, put_aside: set[tuple[str, str]]
) -> Facts:
    """Return what the run learned about Azure, which is remembered whether or not its deliveries succeed.

    `waited` (identifiers) and `put_aside` (kind, lower-case azure id) are those of earlier runs that this one has
    decided about.
    """
    decided, change_set = decisions.decided, decisions.change_set
    pending = decided[decided["verdict"] == Verdict.PENDING]
    is_delete = (decided["change_type"] == DELETE_RECORD).fillna(False)
    for_scope = (decided["verdict"] == Verdict.DELETE) & decided["present"] & ~is_delete
    still_to_do = [change_set["identifier"], pending["identifier"], decisions.held["identifier"]]
    still_waiting = waited.isin(pd.concat(still_to_do))
    return Facts(
        subscriptions=subscriptions,
        pending=pending,
        no_longer_pending=waited[~still_waiting].tolist(),
        deleted=decided[is_delete & (decided["kind"] == Kind.RESOURCE)],  # of containers, every run reads all rows
        held=decisions.held,
        conflicts=decisions.conflicts,
        released=sorted(put_aside.difference(entities(change_set), entities(decisions.unresolved)))
        if put_aside
        else [],
        contents_due=sorted(pairs(decided[for_scope & (decided["kind"] == Kind.RESOURCE)])),
    )
