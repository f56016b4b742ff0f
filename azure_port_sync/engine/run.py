"""The steps of a run, without Dagster: read the snapshot, decide the change set, deliver it, settle.

The assets call these steps one by one; `sync_once` calls them in a row. What a step learned on its way is returned
as plain numbers, for whoever shows them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import AzureError, GuardError
from azure_port_sync.core.guard import is_mass_deletion, mass_deletion_sentence
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.request import Request
from azure_port_sync.core.rows import Operation, change_set_rows
from azure_port_sync.engine.decide import Catalog, ChangeSet, RunStats, decide_changes
from azure_port_sync.engine.deliver import DeliveryReport, deliver
from azure_port_sync.engine.lease import claimed
from azure_port_sync.port.sinks import Sink
from azure_port_sync.resource_graph import AzureReader, ReadResult
from azure_port_sync.state import StateStore


def read_snapshot(reader: AzureReader) -> ReadResult:
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


def deliver_changes(
    change_set: ChangeSet,
    sink: Sink,
    store: StateStore,
    clock: Clock,
    *,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> DeliveryReport:
    """Deliver the change set, and move the watermark when all of it is settled.

    What Port does not take is in the report; the watermark then stays. Raises GuardError for a change set that must
    not be delivered, and StateError when another run has settled this target since it was planned, or is delivering.
    """
    plan, frame = change_set.plan, change_set.frame
    if plan.request.dry_run:
        raise GuardError("This change set is of a dry run, which sends nothing.")
    if change_set.blockers:
        raise GuardError(" ".join(change_set.blockers))
    with claimed(store, clock, plan) as lease:
        _guard(change_set, store)
        gone = frame[(frame["operation"] == Operation.DELETE) & (frame["kind"] != Kind.RESOURCE)]
        lease.begin_deleting_containers(change_set_rows(gone))
        report = deliver(frame, sink, lease, progress=progress)
        if report.unsettled == 0 and plan.advances_watermark:
            store.targets.finish(plan)
    return report


def _guard(change_set: ChangeSet, store: StateStore) -> None:
    """Whoever made the change set, and whenever: so many deletions need a person's word."""
    request, frame = change_set.plan.request, change_set.frame
    known = store.targets.load(change_set.plan.target).ledger_rows
    deletes = store.ledger.known_among(change_set.plan.target, frame[frame["operation"] == Operation.DELETE])
    if not request.allow_mass_delete and is_mass_deletion(deletes, known, max_ratio=request.max_delete_ratio):
        raise GuardError(mass_deletion_sentence(deletes, known, max_ratio=request.max_delete_ratio))


@dataclass(frozen=True)
class Outcome:
    """What one run did; the report of a dry run knows no more than how many deliveries there would be."""

    plan: Plan
    findings: RunStats
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
    catalog: Catalog | None = None,
) -> Outcome:
    """Read, decide, deliver, settle. `run` is a name that no other run has.

    Raises SyncError when it cannot; a refused delivery is in the report.
    """
    change_set, findings = decide_changes(
        reader,
        store,
        clock,
        target=target,
        run=run,
        snapshot=read_snapshot(reader).frame,
        request=request or Request(),
        change_window=change_window,
        resend=not sink.verifies,
        catalog=catalog,
    )
    dry = change_set.plan.request.dry_run
    report = DeliveryReport(len(change_set.frame)) if dry else deliver_changes(change_set, sink, store, clock)
    return Outcome(change_set.plan, findings, report)
