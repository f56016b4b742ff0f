"""One run, without Dagster: read the snapshot, observe, decide, remember, deliver.

The only module that orders the steps, and the only one that has what a run learned written down. The assets call
these functions one by one; `sync_once` calls them in a row.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pandas as pd

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.kinds import CONTAINERS
from azure_port_sync.core.plan import Plan, TargetState, plan
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.rows import Operation, change_set_rows
from azure_port_sync.engine.containers import compare_containers, read_snapshot
from azure_port_sync.engine.decide import ChangeSet, decide_survey
from azure_port_sync.engine.deliver import LIMITS, DeliveryLimits, DeliveryReport, deliver
from azure_port_sync.engine.lease import claimed
from azure_port_sync.engine.observe import Remembered, Survey
from azure_port_sync.engine.rebuild import Catalog, rebuild_ledger
from azure_port_sync.engine.stats import ReadStats, RunStats
from azure_port_sync.port.sinks import Sink
from azure_port_sync.resource_graph import AzureReader
from azure_port_sync.state import LedgerRebuild, StateStore

_NOT_REBUILT = (
    "what Port holds was not read, because a dry run remembers nothing; a real run reads it first, and may delete what "
    "somebody else has put there"
)


def decide_changes(
    reader: AzureReader,
    store: StateStore,
    *,
    target: str,
    run: str,
    snapshot: pd.DataFrame,
    request: Request,
    change_window: timedelta,
    resend: bool = True,
    sink: str = "",
    catalog: Catalog | None = None,
) -> tuple[ChangeSet, RunStats]:
    """Read what the request asks for, decide every candidate against the ledger, and remember what was learned.

    `snapshot` are all containers (columns of OBSERVATION). With `resend`, a full run sends a part of the catalog again
    (for a sink whose answers say no more than that it was accepted). `catalog` reads what Port holds, where there are
    credentials for it; `sink` is the fingerprint of the way into it. A dry run writes nothing.
    """
    now = reader.now()
    state, rebuild = _target_state(store, target, request, catalog)
    run_plan = plan(
        target=target,
        run=run,
        state=state,
        request=request,
        fingerprint=reader.scope.fingerprint,
        now=now,
        change_window=change_window,
        sink=sink,
    )
    if request.dry_run and catalog is not None and _is_unfilled(state):
        run_plan = replace(run_plan, reasons=(*run_plan.reasons, _NOT_REBUILT))
    survey = _survey(reader, store, run_plan, snapshot, now)
    reads = ReadStats.of(survey.reads)
    decisions, facts = decide_survey(survey, store, resend=resend)
    if not request.dry_run:  # the one place where a run writes what it learned; a dry run stops here
        store.facts.record(run_plan, facts)
    never_rebuilt = state.watermark is None and rebuild is None and not (state.generation and state.ledger_rows)
    stats = RunStats.of(survey.containers, reads, decisions, rebuild=rebuild, stale_may_remain=never_rebuilt)
    kept = decisions.kept if run_plan.mode is Mode.FULL else None
    return ChangeSet(decisions.change_set, run_plan, decisions.guard, kept, decisions.sample), stats


def _target_state(
    store: StateStore, target: str, request: Request, catalog: Catalog | None
) -> tuple[TargetState, LedgerRebuild | None]:
    """The state of the target; where it is asked for, or nothing is known yet, after a rebuild of the ledger."""
    if request.dry_run and request.rebuild_ledger:
        raise SettingsError("`rebuild_ledger` changes the ledger, and `dry_run` nothing: launch with one of them.")
    state = store.targets.load(target)
    wanted = request.rebuild_ledger or (catalog is not None and _is_unfilled(state) and not request.dry_run)
    rebuild = rebuild_ledger(store, target, catalog) if wanted else None
    return (store.targets.load(target) if rebuild else state), rebuild


def _is_unfilled(state: TargetState) -> bool:
    return state.watermark is None and state.ledger_rows == 0


def _survey(reader: AzureReader, store: StateStore, run_plan: Plan, snapshot: pd.DataFrame, now: datetime) -> Survey:
    """Everything that the run has to observe, observed."""
    target = run_plan.target
    containers = compare_containers(
        reader,
        snapshot,
        known=store.ledger.containers(target),
        remembered=store.facts.subscriptions(target),
        now=now,
    )
    facts = store.facts
    remembered = Remembered(
        facts.pending(target), facts.held(target), facts.put_aside(target), facts.tombstones(target)
    )
    survey = Survey(reader, store, run_plan, containers, remembered, now)
    survey.observe()
    return survey


def deliver_changes(
    change_set: ChangeSet,
    sink: Sink,
    store: StateStore,
    clock: Clock,
    *,
    limits: DeliveryLimits = LIMITS,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> DeliveryReport:
    """Deliver the change set, and move the watermark when every delivery is confirmed or in quarantine, and none held.

    What Port does not take is in the report; the watermark then stays. Raises SettingsError for the change set of a dry
    run, and StateError when another run has moved the watermark since it was planned, or is delivering.
    """
    run_plan, frame = change_set.plan, change_set.frame
    if run_plan.request.dry_run:
        raise SettingsError("This change set is of a dry run, which sends nothing.")
    with claimed(store, clock, run_plan) as ledger:
        going = frame[(frame["operation"] == Operation.DELETE) & frame["kind"].isin(CONTAINERS)]
        ledger.begin_deleting_containers(change_set_rows(going))
        report = deliver(frame, sink, ledger, limits=limits, progress=progress)
        if report.not_delivered == 0 and not change_set.guard.holds and run_plan.advances_watermark:
            store.targets.finish(run_plan)
    return report


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run; the report of a dry run only counts the deliveries that there would be."""

    plan: Plan
    stats: RunStats
    report: DeliveryReport


def sync_once(
    reader: AzureReader,
    sink: Sink,
    store: StateStore,
    clock: Clock,
    *,
    target: str,
    run: str,
    request: Request | None = None,
    change_window: timedelta = timedelta(minutes=15),
    sink_fingerprint: str = "",
    catalog: Catalog | None = None,
    limits: DeliveryLimits = LIMITS,
) -> Outcome:
    """Read, decide, deliver. `run` is a name that no other run has.

    Raises SyncError when it cannot; a refused delivery is in the report.
    """
    change_set, stats = decide_changes(
        reader,
        store,
        target=target,
        run=run,
        snapshot=read_snapshot(reader).frame,
        request=request or Request(),
        change_window=change_window,
        resend=not sink.verifies,
        sink=sink_fingerprint,
        catalog=catalog,
    )
    if change_set.plan.request.dry_run:
        report = DeliveryReport(len(change_set.frame))
    else:
        report = deliver_changes(change_set, sink, store, clock, limits=limits)
    return Outcome(change_set.plan, stats, report)
