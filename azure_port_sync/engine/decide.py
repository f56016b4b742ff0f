"""Reading what a run asks for, and deciding every candidate against the ledger: the first half of a run.

Nothing here reaches Port, with one exception that only reads: the ledger can be filled from what Port really holds.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

import pandas as pd

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.cover import Cover
from azure_port_sync.core.decisions import (
    CONFIRMED,
    DELETE_RECORD,
    REFUSED_DELETE,
    Decisions,
    Verdict,
    candidates,
    decide_all,
    due_again,
)
from azure_port_sync.core.entities import identity, observed_subscription
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.facts import Facts
from azure_port_sync.core.guard import is_mass_deletion, mass_deletion_sentence
from azure_port_sync.core.identity import azure_id_of
from azure_port_sync.core.kinds import RESOURCE_GROUP_TYPE, SUBSCRIPTION_TYPE, Kind
from azure_port_sync.core.plan import Plan, plan
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.rows import OBSERVATION, Operation, concat, frame_of, records
from azure_port_sync.core.subscriptions import Subscriptions, in_question, presence
from azure_port_sync.core.windows import Window
from azure_port_sync.port.blueprints import BLUEPRINTS
from azure_port_sync.resource_graph import AzureReader, ReadResult
from azure_port_sync.state import LedgerRebuild, StateStore
from azure_port_sync.state.facts import CONFLICT, REFUSED

#: How long a change record may wait for its row before the entity counts as deleted.
PENDING_FOR = timedelta(hours=24)

_NOT_ASKED = (
    "what Port holds was not read, because a dry run remembers nothing; a real run reads it first, and may delete what "
    "somebody else has put there"
)

#: Entities of a full run that are looked at in Port afterwards.
_SAMPLED = 20


class Catalog(Protocol):
    """What Port really holds, as its REST API tells."""

    def entities(self, blueprint: str) -> Iterator[Sequence[Mapping[str, Any]]]:
        """The entities of a blueprint in pages of ``{identifier, title, properties}``."""
        ...


@dataclass(frozen=True)
class ChangeSet:
    """The decided operations (columns of CHANGE_SET, in delivery order) and the plan that they belong to.

    `blockers` say why it must not be delivered. `kept` is the number of rows that the ledger holds when all of a
    full change set is delivered, and None for others. `sample` are a few entities of a full run as Port should show
    them: `kind`, `identifier` and `data`.
    """

    frame: pd.DataFrame
    plan: Plan
    blockers: tuple[str, ...] = ()
    kept: int | None = None
    sample: tuple[dict[str, str], ...] = ()


@dataclass
class RunStats:
    """What deciding has read and found: the numbers that a person asks for, and that the checks compare."""

    subscriptions: int = 0
    groups: int = 0
    groups_in_scope: int = 0
    records_read: int = 0
    records_superseded: int = 0
    records_reduced: int = 0
    rows_read: int = 0
    total_records: int = 0
    candidates: int = 0
    verdicts: dict[Verdict, int] = field(default_factory=dict)
    known_deletes: int = 0
    resent: int = 0
    unreadable: list[str] = field(default_factory=list)  # named in the settings, and never readable
    unanswered: list[str] = field(default_factory=list)  # shown at the start of the run, and not at its end
    in_grace: dict[str, datetime] = field(default_factory=dict)  # vanished, each with the end of its grace
    refill: LedgerRebuild | None = None
    ghosts_may_remain: bool = False
    queries: dict[str, str] = field(default_factory=dict)


def decide_changes(
    reader: AzureReader,
    store: StateStore,
    clock: Clock,
    *,
    target: str,
    run: str,
    snapshot: pd.DataFrame,
    request: Request,
    change_window: timedelta,
    resend: bool = True,
    catalog: Catalog | None = None,
) -> tuple[ChangeSet, RunStats]:
    """Read what the request asks for, and decide every candidate against the ledger.

    With `resend`, a full run tells a part of the catalog again (for a sink that learns no more of an entity than that
    it was accepted). `catalog` reads what Port holds, where there are credentials for it.
    """
    now = clock.now()
    state = store.targets.load(target)
    refill = None
    if request.dry_run and request.rebuild_ledger:
        raise SettingsError("`rebuild_ledger` changes the ledger, and `dry_run` nothing: launch with one of them.")
    unfilled = catalog is not None and state.watermark is None and state.ledger_rows == 0
    if request.rebuild_ledger or (unfilled and not request.dry_run):
        refill = _rebuild_ledger(store, target, catalog)
        state = store.targets.load(target)
    run_plan = plan(
        target=target,
        run=run,
        state=state,
        request=request,
        fingerprint=reader.scope.fingerprint,
        now=now,
        change_window=change_window,
    )
    if unfilled and request.dry_run:
        run_plan = replace(run_plan, reasons=(*run_plan.reasons, _NOT_ASKED))
    findings = RunStats(refill=refill, ghosts_may_remain=state.watermark is None and refill is None)
    return _Deciding(reader, store, run_plan, snapshot, now, resend, findings).run()


def _rebuild_ledger(store: StateStore, target: str, catalog: Catalog | None) -> LedgerRebuild:
    """Fill the ledger with what Port holds, whoever put it there."""
    if catalog is None:
        raise SettingsError(
            "`rebuild_ledger` reads from Port's API what it really holds, and PORT_CLIENT_ID and PORT_CLIENT_SECRET "
            "are not set: set them to the credentials from Port's menu (Credentials), or launch without it."
        )
    frames = [
        frame_of([_held(kind, entity) for entity in page], OBSERVATION)
        for kind in Kind
        for page in catalog.entities(BLUEPRINTS[kind])
    ]
    return store.ledger.rebuild(target, concat(frames, OBSERVATION))


def _held(kind: Kind, entity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity columns of an entity in Port; what cannot be known of one that was added by hand stays empty."""
    azure_id = azure_id_of(entity["identifier"], entity.get("title"))
    told = (entity.get("properties") or {}).get("type")
    types = {Kind.SUBSCRIPTION: SUBSCRIPTION_TYPE, Kind.RESOURCE_GROUP: RESOURCE_GROUP_TYPE}
    resource_type = types.get(kind) or (told.lower() if isinstance(told, str) else "")
    return {**identity(azure_id, resource_type, entity.get("title")), "kind": kind, "identifier": entity["identifier"]}


@dataclass
class _Deciding:
    """One decision in the making: what was read accumulates in `observations`, the later read below the earlier."""

    reader: AzureReader
    store: StateStore
    plan: Plan
    snapshot: pd.DataFrame
    now: datetime
    resend: bool
    findings: RunStats
    observations: list[pd.DataFrame] = field(default_factory=list)
    known: pd.DataFrame = field(default_factory=pd.DataFrame)
    quarantined: pd.DataFrame = field(default_factory=pd.DataFrame)

    def run(self) -> tuple[ChangeSet, RunStats]:
        self.known = self.store.ledger.containers(self.target)
        subscriptions = self._observe_subscriptions()
        self._observe_containers()
        self.quarantined = self.store.facts.quarantined(self.target)
        pending = self.store.facts.pending(self.target)
        match self.plan.mode:
            case Mode.PARTIAL:
                self._observe_part()
            case Mode.FULL:
                self._observe_rows(self.reader.inventory(self.asked), "inventory")
                self._observe_pending(pending)
                self._observe_changes()
            case Mode.INCREMENTAL:
                self._observe_new(subscriptions)
                self._observe_pending(pending)
                self._observe_quarantined()
                self._observe_changes()
        self._observe_parents(pending)
        self._observe_tombstoned()
        self._observe_absent_resources(subscriptions)
        self._check_answers()
        return self._decide(pending, subscriptions), self.findings

    @property
    def target(self) -> str:
        return self.plan.target

    @property
    def asked(self) -> list[str]:
        """The subscriptions that the run reads."""
        shown = self.snapshot["subscription_id"]
        only = self.plan.request.only.subscriptions
        return sorted(set(shown[shown.isin(only)] if only else shown))

    # -- subscriptions and containers -------------------------------------------------------------------------------

    def _observe_subscriptions(self) -> Subscriptions:
        """Which subscriptions are there, new, or missing; what is missing is remembered at once."""
        snapshot = self.snapshot
        own = snapshot[snapshot["kind"] == Kind.SUBSCRIPTION]
        whole = set(own.loc[own["name"] != own["subscription_id"], "subscription_id"])  # the others were made up
        shown = {id_: id_ in whole for id_ in set(snapshot["subscription_id"])}
        remembered = self.store.facts.subscriptions(self.target)
        named = self.reader.scope.subscription_ids
        self.findings.unreadable = sorted(set(named) - shown.keys() - remembered.keys())
        vanished = [id_ for id_ in in_question(remembered, shown, self.now) if id_ not in shown]
        given_up = self._given_up(vanished)
        found = presence(remembered, shown, given_up=given_up, now=self.now)
        if not self.plan.request.dry_run:
            self.store.facts.record(self.plan, Facts(subscriptions=found))
        self.findings.in_grace = found.in_grace
        self.snapshot = self._without_stand_ins(found.in_grace)
        return found

    def _without_stand_ins(self, in_grace: Collection[str]) -> pd.DataFrame:
        """The snapshot, in which what Port was told of a subscription stands where its own row is no longer shown.

        Where it is not known whether Port was told, it is told the name again: groups need something to relate to.
        """
        snapshot, known = self.snapshot, self.known
        told = known[(known["kind"] == Kind.SUBSCRIPTION) & known["subscription_id"].isin(list(in_grace))]
        stands_in = (snapshot["kind"] == Kind.SUBSCRIPTION) & snapshot["identifier"].isin(told["identifier"])
        shown = set(snapshot.loc[stands_in, "subscription_id"])
        in_doubt = told[(told["state"] != CONFIRMED) & told["subscription_id"].isin(shown)]
        again = [observed_subscription(row["subscription_id"], row["name"]) for row in records(in_doubt)]
        return concat([snapshot[~stands_in], frame_of(again, OBSERVATION)], OBSERVATION)

    def _given_up(self, vanished: Sequence[str]) -> set[str]:
        """Those of the subscriptions no longer shown that a setting leaves out; nobody has lost them."""
        scope = self.reader.scope
        left_out = {id_ for id_ in vanished if scope.leaves_out(id_)}
        if scope.management_groups and vanished:
            left_out |= self.reader.readable(vanished, anywhere=True)
        return left_out

    def _observe_containers(self) -> None:
        """The snapshot, the known containers that it no longer shows, and what lay in those that went."""
        snapshot = self.snapshot
        groups = snapshot[snapshot["kind"] == Kind.RESOURCE_GROUP]
        self.findings.subscriptions = int(snapshot["subscription_id"].nunique())
        self.findings.groups = len(groups)
        self.findings.groups_in_scope = int(groups["in_scope"].sum())
        known = self.known
        missing = known[~known["identifier"].isin(snapshot["identifier"])]
        still_there = self.reader.containers(sorted(missing["azure_id"])).frame
        gone = missing[~missing["identifier"].isin(still_there["identifier"])]
        self.observations += [snapshot, still_there, _absences(gone)]
        if self.plan.mode is not Mode.FULL:
            self._observe_emptied(snapshot, still_there, known)

    def _observe_emptied(self, snapshot: pd.DataFrame, still_there: pd.DataFrame, known: pd.DataFrame) -> None:
        """The known resources of containers that are gone or out of scope, whether or not Port knows the container.

        A container that Azure does not show yet, and that Port does not know, proves nothing.
        """
        shown = _pairs(snapshot) | _pairs(still_there)
        kept = _pairs(snapshot[snapshot["in_scope"]]) | _pairs(still_there[still_there["in_scope"]])
        held = set(self.store.ledger.groups_with_resources(self.target))
        emptied = frozenset((held - kept) & (shown | _pairs(known)))
        cover = Cover(frozenset({Kind.RESOURCE}), groups=emptied)
        self.observations.append(_absences(self.store.ledger.absent(self.target, frame_of([], OBSERVATION), [cover])))

    def _observe_new(self, subscriptions: Subscriptions) -> None:
        """The resources of containers that no settled run has read: no change record need exist for them."""
        if subscriptions.new:
            self._observe_rows(self.reader.inventory(sorted(subscriptions.new)), "inventory of new subscriptions")
        settled = self.known[~self.known["contents_due"]]
        groups = self._groups_in_scope()
        new = groups[
            ~groups["identifier"].isin(settled["identifier"]) & ~groups["subscription_id"].isin(list(subscriptions.new))
        ]
        if len(new):
            self._observe_rows(self.reader.inventory_of_groups(sorted(_pairs(new))), "inventory of new resource groups")

    def _groups_in_scope(self) -> pd.DataFrame:
        return self.snapshot[(self.snapshot["kind"] == Kind.RESOURCE_GROUP) & self.snapshot["in_scope"]]

    # -- resources --------------------------------------------------------------------------------------------------

    def _observe_rows(self, reading: ReadResult, label: str) -> None:
        self.observations.append(reading.frame)
        self._count(reading)
        if reading.query:
            self.findings.queries[label] = reading.query

    def _count(self, reading: ReadResult) -> None:
        self.findings.rows_read += reading.rows
        self.findings.total_records += reading.total_records

    def _observe_changes(self) -> pd.DataFrame:
        reading = self.reader.changes(self.plan.window, self.asked)
        self._observe_rows(reading, "change records")
        self.findings.records_read = reading.rows
        self.findings.records_reduced = len(candidates(reading.frame))
        self.findings.records_superseded = reading.rows - len({id_.lower() for id_ in reading.frame["azure_id"]})
        return reading.frame

    def _observe_part(self) -> None:
        """The part that was asked for, whole; or what changed in a past window, and what became of it since."""
        request = self.plan.request
        if request.backfill is None:
            self._observe_rows(self._inventory_of_part(), "inventory of the part")
            return
        changed = candidates(self._observe_changes())
        # A record of the past that says nothing of a row may have been overtaken; what followed decides.
        in_doubt = changed[~changed["present"] | (changed["change_type"] == DELETE_RECORD)]
        if len(in_doubt):
            since = Window(self.plan.window.start, self.now)
            self._observe_rows(self.reader.changes_of(in_doubt["azure_id"], since), "what followed those records")

    def _inventory_of_part(self) -> ReadResult:
        only = self.plan.request.only
        types = set(only.resource_types) - {SUBSCRIPTION_TYPE, RESOURCE_GROUP_TYPE}
        if only.resource_types and not types:
            return self.reader.inventory([])  # containers alone
        reader = self.reader.of_types(types) if types else self.reader
        if not only.resource_groups:
            return reader.inventory(self.asked)
        groups = self._groups_in_scope()
        around = replace(only, resource_types=())
        return reader.inventory_of_groups(sorted(_pairs(groups[around.covers(groups)])))

    def _observe_pending(self, pending: pd.DataFrame) -> None:
        """What waits for its row: the row, where Azure shows it by now, and else the record again until it expires."""
        if pending.empty:
            return
        self._observe_rows(self.reader.resources(pending["azure_id"]), "rows of pending resources")
        oldest = self.now - PENDING_FOR
        waiting = [
            {
                **identity(row["azure_id"], row["type"], None),
                "present": False,
                "in_scope": False,
                # Older than any record that tells more.
                **({} if row["since"] <= oldest else {"change_type": "Create", "change_time": self.plan.window.start}),
            }
            for row in records(pending)
        ]
        self.observations.append(frame_of(waiting, OBSERVATION))

    def _observe_parents(self, pending: pd.DataFrame) -> None:
        """The groups of resources that were read after them, or are not shown yet: asked for by id.

        A resource whose group Azure goes on not showing, or not in scope, waits for it as others wait for their row,
        because Port may refuse a relation to nothing, and would otherwise show one. Who may read a resource and not
        its group waits for ever, so the wait ends as the others do, and the resource is told.
        """
        told, shown, needed = set[tuple[str, str]](), set[tuple[str, str]](), set[tuple[str, str]]()
        for frame in self.observations:
            groups = frame[(frame["kind"] == Kind.RESOURCE_GROUP) & frame["present"]]
            shown |= _pairs(groups)
            told |= _pairs(groups[groups["in_scope"]])
            telling = frame[(frame["kind"] == Kind.RESOURCE) & frame["present"] & frame["in_scope"]]
            needed |= _pairs(telling[["subscription_id", "resource_group"]].drop_duplicates())
        needed = {pair for pair in needed if pair[1]}  # some lie in a subscription, and in no group
        late = sorted(needed - shown)
        if late:
            ids = [f"/subscriptions/{subscription}/resourceGroups/{group}" for subscription, group in late]
            found = self.reader.containers(ids).frame
            self.observations.append(found)
            new = _pairs(found[found["in_scope"]])
            told |= new
            if new:  # it may have come with resources that no change record tells of
                self._observe_rows(self.reader.inventory_of_groups(sorted(new)), "inventory of groups read late")
        unseen = needed - told
        if unseen:
            waited = set(pending.loc[pending["since"] <= self.now - PENDING_FOR, "identifier"])
            self.observations = [self._waiting_for_group(frame, unseen, waited) for frame in self.observations]

    def _waiting_for_group(self, frame: pd.DataFrame, unseen: set[tuple[str, str]], waited: set[str]) -> pd.DataFrame:
        pairs = zip(frame["subscription_id"], frame["resource_group"], strict=True)
        waits = (frame["kind"] == Kind.RESOURCE) & pd.Series(
            [pair in unseen for pair in pairs], index=frame.index, dtype=bool
        )
        waits &= frame["present"] & frame["in_scope"] & ~frame["identifier"].isin(waited)
        if not waits.any():
            return frame
        waiting = frame[waits].assign(present=False, in_scope=False, hash=None, data=None)
        waiting["change_type"] = waiting["change_type"].fillna("Create")
        # Older than any record that tells more.
        waiting["change_time"] = waiting["change_time"].fillna(pd.Timestamp(self.plan.window.start))
        return concat([frame[~waits], waiting], OBSERVATION)

    def _observe_quarantined(self) -> None:
        """What could be told now: its identifier may be free again, or a person wants it to be tried again."""
        again = self.quarantined
        if not self.plan.request.retry_quarantined:
            again = again[again["cause"] == CONFLICT]
        if again.empty:
            return
        is_resource = again["kind"] == Kind.RESOURCE
        self._observe_rows(self.reader.resources(again.loc[is_resource, "azure_id"]), "rows of quarantined resources")
        # Containers are in the snapshot, or asked for by id already.
        gone = [identity(row["azure_id"], row["type"], None) for row in records(again[is_resource])]
        self.observations.append(frame_of([{**one, "present": False, "in_scope": False} for one in gone], OBSERVATION))

    def _observe_tombstoned(self) -> None:
        """Rows of which a Delete record is known and no newer one was read: their records, wherever they lay.

        They may be rows that Azure still shows after a deletion, or have come back while nothing read their records.
        """
        buried = self.store.facts.tombstones(self.target)
        if buried.empty:
            return
        shown = candidates(concat(self.observations, OBSERVATION))
        in_doubt = shown[
            shown["present"] & shown["change_type"].isna() & shown["identifier"].isin(buried["identifier"])
        ]
        if len(in_doubt):
            since = buried.loc[buried["identifier"].isin(in_doubt["identifier"]), "deleted_at"].min()
            window = Window(since.to_pydatetime() - timedelta(seconds=1), self.now)
            self._observe_rows(self.reader.changes_of(in_doubt["azure_id"], window), "records of resources in doubt")

    def _observe_absent_resources(self, subscriptions: Subscriptions) -> None:
        """The known resources that should have been seen and were not: each is asked for by id.

        A full run should have seen all of them, an incremental one those of the subscriptions that it inventoried:
        one that comes back may have lost resources whose Delete records lie before the window.
        """
        kinds = frozenset({Kind.RESOURCE})
        match self.plan.mode:
            case Mode.FULL:
                cover = Cover(kinds)
            case Mode.INCREMENTAL if subscriptions.new:
                cover = Cover(kinds, subscriptions.new)
            case Mode.PARTIAL if self.plan.request.backfill is None:
                cover = Cover(kinds, frozenset(self.asked))
            case _:
                return
        observed = candidates(concat(self.observations, OBSERVATION))
        absent = self.store.ledger.absent(self.target, observed, [cover])
        absent = absent[self.plan.request.only.covers(absent)]
        if absent.empty:
            return
        self.observations.append(_absences(absent))
        # Of a subscription in grace nothing is deleted for being absent, so there is nothing to confirm.
        to_confirm = absent[~absent["subscription_id"].isin(list(subscriptions.in_grace))]
        if len(to_confirm):
            self._observe_rows(self.reader.resources(to_confirm["azure_id"]), "known resources that were not seen")

    def _check_answers(self) -> None:
        """Whether Azure still answers for every subscription that was asked: it leaves out silently what it may not."""
        self.findings.unanswered = sorted(set(self.asked) - self.reader.readable(self.asked))

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _decide(self, pending: pd.DataFrame, subscriptions: Subscriptions) -> ChangeSet:
        found = self._candidates()
        resend = self._to_resend(found)
        comparison = self.store.ledger.compare(self.target, found, resend=resend)
        self.findings.candidates = len(found)
        waiting = pending[pending["identifier"].isin(found["identifier"])]
        held = found["subscription_id"].isin(list(subscriptions.in_grace))
        undecided = found.assign(resend=resend, held=held, refused=self._refused(found))
        in_quarantine = self._in_quarantine(found)
        sample = self._sample(found)
        if len(comparison.positions) < len(found):
            undecided = undecided.iloc[comparison.positions]
        del found  # a first run decides about all of it, and need not hold it twice
        decisions = decide_all(
            undecided,
            comparison.known,
            unchanged=comparison.unchanged,
            # Whoever filled the catalog before us left ghosts; until a run has settled, they are ours to remove.
            delete_unknown=self.plan.advances_watermark
            and (self.plan.base_watermark is None or self.plan.known_before == 0),
        )
        self.findings.verdicts = decisions.verdicts
        self.findings.known_deletes = decisions.known_deletes
        self.findings.resent = decisions.resent
        if not self.plan.request.dry_run:
            self._record_facts(waiting, undecided, decisions, in_quarantine)
        kept = decisions.kept if self.plan.mode is Mode.FULL else None
        untold = set(decisions.unresolved["identifier"])
        sample = [row for row in sample if row["identifier"] not in untold]
        return ChangeSet(decisions.change_set, self.plan, self._blockers(), kept, tuple(sample))

    def _sample(self, found: pd.DataFrame) -> list[dict[str, str]]:
        """A few entities of a full run, other ones each time."""
        if self.plan.mode is not Mode.FULL:
            return []
        there = found.index[found["present"] & found["in_scope"] & (found["change_type"] != DELETE_RECORD).fillna(True)]
        chosen = pd.Series(there).sample(min(_SAMPLED, len(there)), random_state=self.plan.generation)
        return records(found.loc[chosen.tolist(), ["kind", "identifier", "data"]])

    def _candidates(self) -> pd.DataFrame:
        only = self.plan.request.only
        found = candidates(concat(self.observations, OBSERVATION))
        self.observations.clear()
        if not only:
            return found
        found = found[only.covers(found)].reset_index(drop=True)
        unknown = [*set(only.subscriptions).difference(found["subscription_id"])]
        unknown += set(only.resource_groups).difference(found["resource_group"])
        if unknown or (found.empty and self.plan.request.backfill is None):
            raise SettingsError(
                f"Nothing in Azure or in the ledger lies in {', '.join(sorted(unknown)) or only}, which `only` names; "
                'nothing was sent. Check the spelling, e.g. only: {resource_groups: ["web"]}, and the scope settings.'
            )
        return found

    def _to_resend(self, found: pd.DataFrame) -> pd.Series:
        if self.plan.mode is Mode.FULL and self.resend and not self.plan.resends_all:
            return due_again(found["identifier"], self.plan.full_runs)
        return pd.Series(self.plan.resends_all, index=found.index)

    def _refused(self, found: pd.DataFrame) -> "pd.Series | None":
        """The content of each candidate that Port has refused before, and that nobody wants to be tried again."""
        refused = self.quarantined[self.quarantined["cause"] == REFUSED]
        if refused.empty or self.plan.request.retry_quarantined:
            return None
        contents = refused["hash"].where(refused["operation"] == Operation.UPSERT, REFUSED_DELETE)
        by_entity = dict(zip(_entities(refused), contents, strict=True))
        return pd.Series([by_entity.get(one) for one in _entities(found)], index=found.index, dtype=object)

    def _in_quarantine(self, found: pd.DataFrame) -> set[tuple[str, str]]:
        """Those in quarantine whose fate this run decides: its candidates, and in a full run all of them."""
        quarantined = set(_entities(self.quarantined))
        if not quarantined or self.plan.mode is Mode.FULL:
            return quarantined
        return quarantined.intersection(_entities(found))

    def _record_facts(
        self,
        pending: pd.DataFrame,
        undecided: pd.DataFrame,
        decisions: Decisions,
        in_quarantine: set[tuple[str, str]],
    ) -> None:
        """Remember what was learned about Azure; `pending` are those of the pending that were candidates."""
        waits, ids = pending["identifier"], (decisions.change_set["identifier"], decisions.pending["identifier"])
        facts = Facts(
            pending=decisions.pending,
            no_longer_pending=waits[~waits.isin(ids[0]) & ~waits.isin(ids[1])].tolist(),
            deleted=undecided[undecided["change_type"] == DELETE_RECORD],
            conflicts=[(row, _collision(owner)) for row, owner in decisions.colliding],
            released=sorted(in_quarantine.difference(_entities(decisions.change_set), _entities(decisions.unresolved)))
            if in_quarantine
            else [],
            contents_due=sorted(_pairs(decisions.deleted_for_scope)),
        )
        self.store.facts.record(self.plan, facts)

    def _blockers(self) -> tuple[str, ...]:
        """Why the change set must not be delivered."""
        findings, request = self.findings, self.plan.request
        said = subscription_blockers(findings.unreadable, findings.unanswered)
        deletes, known = findings.known_deletes, self.plan.known_before
        ratio = request.max_delete_ratio
        if not request.allow_mass_delete and is_mass_deletion(deletes, known, max_ratio=ratio):
            said.append(mass_deletion_sentence(deletes, known, max_ratio=ratio))
        return tuple(said)


def subscription_blockers(unreadable: Sequence[str], unanswered: Sequence[str]) -> list[str]:
    """What is wrong with the subscriptions of a run, in a sentence each, and what to do."""
    said = []
    if unreadable:
        said.append(
            f"AZURE_SUBSCRIPTION_IDS names {', '.join(unreadable)}, of which Azure shows this identity nothing: give "
            "it the role Reader there, or take the id out of the setting."
        )
    if unanswered:
        said.append(
            f"Azure stopped showing {', '.join(unanswered)} while this run was reading, so its answers are not whole; "
            "nothing was sent, and the next run starts anew."
        )
    return said


def _pairs(frame: pd.DataFrame) -> set[tuple[str, str]]:
    """The (subscription id, resource group) pairs of these rows."""
    return set(zip(frame["subscription_id"], frame["resource_group"], strict=True))


def _entities(frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """The (kind, lower-case azure id) of these rows."""
    return zip(frame["kind"], frame["azure_id"].str.lower(), strict=True)


def _collision(owner: str) -> str:
    return (
        f"its identifier in Port is that of {owner}, because Port takes no space and makes it an underscore; rename "
        "one of the two in Azure"
    )


def _absences(known: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows as observations of entities that Azure shows no row for."""
    return frame_of(records(known.assign(present=False, in_scope=False)), OBSERVATION)
