"""The steps of a run, without Dagster: read the snapshot, decide the change set, deliver it, settle.

The assets call these steps one by one; `sync_once` calls them in a row. What a step learned on its way is returned
as plain numbers, for whoever shows them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pandas as pd

from azure_port_sync.port import DeliveryReport, deliver
from azure_port_sync.port.delivery import Row, Sink
from azure_port_sync.resource_graph import AzureReader, Reading
from azure_port_sync.state import StateStore
from azure_port_sync.sync.clock import Clock
from azure_port_sync.sync.decisions import Verdict, candidates, decide_all
from azure_port_sync.sync.entities import identity
from azure_port_sync.sync.errors import AzureError
from azure_port_sync.sync.rows import OBSERVATION, Kind, Operation, concat, frame_of, records
from azure_port_sync.sync.windows import Mode, Plan, Window, plan

#: How long a change record may wait for its row before the entity counts as deleted.
PENDING_FOR = timedelta(hours=24)


@dataclass(frozen=True)
class ChangeSet:
    """The decided operations (columns of CHANGE_SET, in delivery order) and the plan that they belong to."""

    frame: pd.DataFrame
    plan: Plan


@dataclass
class Findings:
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
    queries: dict[str, str] = field(default_factory=dict)


def read_snapshot(reader: AzureReader) -> Reading:
    """All subscriptions and resource groups that are readable now.

    Raises AzureError when there is none: an identity that has lost its role must not empty the catalog.
    """
    reading = reader.containers()
    if reading.frame.empty:
        raise AzureError(
            "Azure shows this identity no subscription at all; nothing was sent. Give it the role Reader on the "
            "subscriptions to sync, and check AZURE_SUBSCRIPTION_IDS, AZURE_EXCLUDED_SUBSCRIPTION_IDS and "
            "AZURE_MANAGEMENT_GROUPS."
        )
    return reading


def decide_changes(
    reader: AzureReader,
    store: StateStore,
    clock: Clock,
    *,
    target: str,
    snapshot: pd.DataFrame,
    requested: Mode,
    force: bool,
    change_window: timedelta,
) -> tuple[ChangeSet, Findings]:
    """Read what the mode asks for, and decide every candidate against the ledger."""
    return _Deciding(reader, store, clock, target, snapshot).run(requested, force, change_window)


@dataclass
class _Deciding:
    """One decision in the making: what was read accumulates in `observations`, the later read below the earlier."""

    reader: AzureReader
    store: StateStore
    clock: Clock
    target: str
    snapshot: pd.DataFrame
    observations: list[pd.DataFrame] = field(default_factory=list)
    findings: Findings = field(default_factory=Findings)
    known: pd.DataFrame = field(default_factory=pd.DataFrame)

    def run(self, requested: Mode, force: bool, change_window: timedelta) -> tuple[ChangeSet, Findings]:
        now = self.clock.now()
        run_plan = plan(
            target=self.target,
            state=self.store.target_state(self.target),
            requested=requested,
            force=force,
            fingerprint=self.reader.scope.fingerprint,
            now=now,
            change_window=change_window,
        )
        self._observe_containers(run_plan)
        subscriptions = sorted(set(self.snapshot["subscription_id"]))
        new_subscriptions = self.store.begin_reading(self.target, subscriptions, now)
        pending = self.store.pending(self.target)
        if run_plan.mode is Mode.FULL:
            self._observe_rows(self.reader.inventory(subscriptions), "inventory")
        else:
            self._observe_new(new_subscriptions, run_plan)
        self._observe_pending(pending)
        self._observe_changes(run_plan, subscriptions)
        self._observe_tombstoned(now)
        if run_plan.mode is Mode.FULL:
            self._observe_absent_resources()
        frame = self._decide(run_plan, pending)
        return ChangeSet(frame, run_plan), self.findings

    # -- containers -------------------------------------------------------------------------------------------------

    def _observe_containers(self, run_plan: Plan) -> None:
        """The snapshot, the known containers that it no longer shows, and what lay in those that went."""
        snapshot = self.snapshot
        groups = snapshot[snapshot["kind"] == Kind.RESOURCE_GROUP]
        self.findings.subscriptions = int((snapshot["kind"] == Kind.SUBSCRIPTION).sum())
        self.findings.groups = len(groups)
        self.findings.groups_in_scope = int(groups["in_scope"].sum())
        known = self.known = self.store.known_containers(self.target)
        missing = known[~known["identifier"].isin(snapshot["identifier"])]
        still_there = self.reader.containers(sorted(missing["azure_id"].str.lower())).frame
        gone = missing[~missing["identifier"].isin(still_there["identifier"])]
        self.observations += [snapshot, still_there, _absences(gone)]
        if run_plan.mode is Mode.INCREMENTAL:
            self._observe_emptied(snapshot, still_there, known)

    def _observe_emptied(self, snapshot: pd.DataFrame, still_there: pd.DataFrame, known: pd.DataFrame) -> None:
        """The known resources of containers that are gone or out of scope, whether or not Port knows the container.

        A container that Azure does not show yet, and that Port does not know, proves nothing.
        """
        shown = _pairs(snapshot) | _pairs(still_there)
        kept = _pairs(snapshot[snapshot["in_scope"]]) | _pairs(still_there[still_there["in_scope"]])
        held = set(self.store.groups_with_resources(self.target))
        emptied = sorted((held - kept) & (shown | _pairs(known)))
        self.observations.append(_absences(self.store.known_resources_in(self.target, emptied)))

    def _observe_new(self, new_subscriptions: list[str], run_plan: Plan) -> None:
        """The resources of containers that no settled run has read: no change record need exist for them."""
        if new_subscriptions:
            self._observe_rows(self.reader.inventory(new_subscriptions), "inventory of new subscriptions")
        settled = self.known[self.known["complete_after"] < run_plan.generation]
        groups = self.snapshot[(self.snapshot["kind"] == Kind.RESOURCE_GROUP) & self.snapshot["in_scope"]]
        new = groups[
            ~groups["identifier"].isin(settled["identifier"]) & ~groups["subscription_id"].isin(new_subscriptions)
        ]
        if len(new):
            pairs = list(zip(new["subscription_id"], new["resource_group"], strict=True))
            self._observe_rows(self.reader.inventory_of_groups(pairs), "inventory of new resource groups")

    # -- resources --------------------------------------------------------------------------------------------------

    def _observe_rows(self, reading: Reading, label: str) -> None:
        self.observations.append(reading.frame)
        self._count(reading)
        if reading.query:
            self.findings.queries[label] = reading.query

    def _count(self, reading: Reading) -> None:
        self.findings.rows_read += reading.rows
        self.findings.total_records += reading.total_records

    def _observe_changes(self, run_plan: Plan, subscriptions: list[str]) -> None:
        reading = self.reader.changes(run_plan.window, subscriptions)
        self.observations.append(reading.frame)
        self._count(reading)
        self.findings.records_read = reading.rows
        self.findings.records_reduced = len(candidates(reading.frame))
        self.findings.records_superseded = reading.rows - len({id_.lower() for id_ in reading.frame["azure_id"]})
        self.findings.queries["change records"] = reading.query

    def _observe_pending(self, pending: pd.DataFrame) -> None:
        """What waits for its row: the row, where Azure shows it by now, and else the record again until it expires."""
        if pending.empty:
            return
        self._observe_rows(self.reader.resources(pending["azure_id"]), "rows of pending resources")
        oldest = self.clock.now() - PENDING_FOR
        waiting = [
            {
                **identity(row["azure_id"], row["type"], None),
                "present": False,
                "in_scope": False,
                **({} if row["since"] <= oldest else {name: row[name] for name in ("change_type", "change_time")}),
            }
            for row in records(pending)
        ]
        self.observations.append(frame_of(waiting, OBSERVATION))

    def _observe_tombstoned(self, now: datetime) -> None:
        """Rows of which a Delete record is known and no newer one was read: their records, wherever they lay.

        They may be rows that Azure still shows after a deletion, or have come back while nothing read their records.
        """
        buried = self.store.tombstones(self.target, now)
        if buried.empty:
            return
        shown = candidates(concat(self.observations, OBSERVATION))
        in_doubt = shown[
            shown["present"] & shown["change_type"].isna() & shown["identifier"].isin(buried["identifier"])
        ]
        if len(in_doubt):
            since = buried.loc[buried["identifier"].isin(in_doubt["identifier"]), "deleted_at"].min()
            window = Window(since.to_pydatetime() - timedelta(seconds=1), now)
            self._observe_rows(self.reader.changes_of(in_doubt["azure_id"], window), "records of resources in doubt")

    def _observe_absent_resources(self) -> None:
        """The known resources that no read has shown, each asked for by id, because absence proves nothing."""
        seen = candidates(concat(self.observations, OBSERVATION))
        absent = self.store.absent(self.target, seen)
        if len(absent):
            self._observe_rows(self.reader.resources(absent["azure_id"]), "known resources that were not seen")
            self.observations.append(_absences(absent))

    # -- deciding ---------------------------------------------------------------------------------------------------

    def _decide(self, run_plan: Plan, pending: pd.DataFrame) -> pd.DataFrame:
        found = candidates(concat(self.observations, OBSERVATION))
        self.observations.clear()
        comparison = self.store.compare(self.target, found, force=run_plan.force, now=run_plan.window.end)
        undecided = found.iloc[comparison.positions]
        decisions = decide_all(
            undecided,
            comparison.known,
            unchanged=comparison.unchanged,
            force=run_plan.force,
            # Whoever filled the catalog before us left ghosts; until a run has settled, they are ours to remove.
            delete_unknown=run_plan.planned_from is None or run_plan.known_before == 0,
        )
        self.findings.candidates = len(found)
        self.findings.verdicts = decisions.verdicts
        to_deliver = set(decisions.change_set["identifier"]) | set(decisions.pending["identifier"])
        self.store.record_facts(
            self.target,
            pending=decisions.pending,
            resolved=[identifier for identifier in pending["identifier"] if identifier not in to_deliver],
            deleted=undecided,
            now=run_plan.window.end,
        )
        self.store.read_again(run_plan, sorted(_pairs(decisions.deleted_for_scope)))
        return decisions.change_set


def _pairs(frame: pd.DataFrame) -> set[tuple[str, str]]:
    """The (subscription id, resource group) pairs of these rows."""
    return set(zip(frame["subscription_id"], frame["resource_group"], strict=True))


def _absences(known: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows as observations of entities that Azure shows no row for."""
    return frame_of(records(known.assign(present=False, in_scope=False)), OBSERVATION)


@dataclass(frozen=True)
class _Settlements:
    """The ledger, as far as a delivery may touch it."""

    store: StateStore
    clock: Clock
    plan: Plan

    def begin_sending(self, rows: Sequence[Row]) -> None:
        self.store.begin_sending(self.plan, rows, self.clock.now())

    def settle(self, rows: Sequence[Row]) -> None:
        self.store.settle(self.plan, rows, self.clock.now())


def deliver_changes(
    change_set: ChangeSet,
    sink: Sink,
    store: StateStore,
    clock: Clock,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> DeliveryReport:
    """Deliver the change set, and move the watermark when all of it is settled.

    What Port does not take is in the report; the watermark then stays. Raises StateError when another run has
    settled this target since the change set was planned.
    """
    store.check_plan(change_set.plan)
    frame = change_set.frame
    gone = frame[(frame["operation"] == Operation.DELETE) & (frame["kind"] != Kind.RESOURCE)]
    store.begin_deleting_containers(change_set.plan, records(gone))
    report = deliver(change_set.frame, sink, _Settlements(store, clock, change_set.plan), progress=progress)
    if report.unsettled == 0:
        store.finish(change_set.plan)
    return report


@dataclass(frozen=True)
class Outcome:
    """What one run did."""

    plan: Plan
    findings: Findings
    report: DeliveryReport


def sync_once(
    reader: AzureReader,
    sink: Sink,
    store: StateStore,
    clock: Clock,
    *,
    target: str,
    mode: Mode = Mode.INCREMENTAL,
    force: bool = False,
    change_window: timedelta = timedelta(minutes=15),
) -> Outcome:
    """Read, decide, deliver, settle. Raises SyncError when it cannot; a refused delivery is in the report."""
    change_set, findings = decide_changes(
        reader,
        store,
        clock,
        target=target,
        snapshot=read_snapshot(reader).frame,
        requested=mode,
        force=force,
        change_window=change_window,
    )
    report = deliver_changes(change_set, sink, store, clock)
    return Outcome(change_set.plan, findings, report)
