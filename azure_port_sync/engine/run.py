"""The steps of a run, without Dagster: read the snapshot, decide the change set, deliver it, settle.

The assets call these steps one by one; `sync_once` calls them in a row. What a step learned on its way is returned
as plain numbers, for whoever shows them.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import AzureError, GuardError, StateError
from azure_port_sync.core.guard import is_mass_deletion, mass_deletion_sentence
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.request import Request
from azure_port_sync.core.rows import ChangeSetRow, Operation, change_set_rows
from azure_port_sync.engine.decide import Catalog, ChangeSet, RunStats, decide_changes
from azure_port_sync.engine.deliver import LIMITS, DeliveryLimits, DeliveryReport, deliver
from azure_port_sync.port.sinks import Sink
from azure_port_sync.resource_graph import AzureReader, ReadResult
from azure_port_sync.state import StateStore
from azure_port_sync.state.store import LEASE

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 1.0


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


class _Claim:
    """A target that is ours to deliver to, and the ledger as far as a delivery may touch it.

    Dagster's queue keeps runs apart only while they come through it; this keeps them apart always. Whoever delivers
    renews the claim as it goes along, and stops before its next request when another run has taken over.
    """

    def __init__(self, store: StateStore, clock: Clock, plan: Plan) -> None:
        self._store = store
        self._clock = clock
        self._plan = plan
        self._lock = threading.Lock()
        self._until = self._claim()

    def _claim(self) -> datetime:
        """Claim the target. A run that was killed cannot give its claim up, so its end is waited for.

        Raises StateError when the other run turns out to live: it renews its claim.
        """
        now = self._clock.now()
        first = expires = self._store.claim(self._plan, now)
        if first is not None:
            logger.info("Another run has claimed this target; waiting until it shows that it lives, or %s", first)
        while expires is not None:
            if first is not None and expires > first:
                raise StateError(
                    "Another run is delivering to this target right now, so this one stops; nothing was sent. Run one "
                    "sync at a time; the next tick reads everything that is missing."
                )
            self._clock.sleep(min(_LOOK_AGAIN_SECONDS, max((expires - now).total_seconds(), 0.0)))
            now = self._clock.now()
            expires = self._store.claim(self._plan, now)
        return now + LEASE

    def renew_lease(self) -> None:
        with self._lock:
            now = self._clock.now()
            left = self._until - now
            if not LEASE / 2 < left <= LEASE:  # more than a lease is left when the clock has jumped back
                self._until = self._store.renew(self._plan, now)

    def begin_deleting(self, containers: Sequence[ChangeSetRow]) -> None:
        """Write ahead that these containers go, and with them all that is in them."""
        self._store.begin_deleting_containers(self._plan, containers, self._clock.now())

    def begin_sending(self, rows: Sequence[ChangeSetRow]) -> None:
        self._store.begin_sending(self._plan, rows, self._clock.now())

    def confirm(self, rows: Sequence[ChangeSetRow]) -> None:
        self._store.settle(self._plan, rows, self._clock.now())

    def quarantine(self, refused: Sequence[tuple[ChangeSetRow, str]]) -> None:
        self._store.quarantine(self._plan, refused, self._clock.now())


@contextmanager
def _claimed(store: StateStore, clock: Clock, plan: Plan) -> Iterator[_Claim]:
    claim = _Claim(store, clock, plan)
    try:
        yield claim
    finally:
        store.release(plan)


def deliver_changes(
    change_set: ChangeSet,
    sink: Sink,
    store: StateStore,
    clock: Clock,
    *,
    limits: DeliveryLimits = LIMITS,
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
    with _claimed(store, clock, plan) as claim:
        _guard(change_set, store)
        gone = frame[(frame["operation"] == Operation.DELETE) & (frame["kind"] != Kind.RESOURCE)]
        claim.begin_deleting(change_set_rows(gone))
        report = deliver(frame, sink, claim, limits=limits, progress=progress)
        if report.unsettled == 0 and plan.advances_watermark:
            store.finish(plan)
    return report


def _guard(change_set: ChangeSet, store: StateStore) -> None:
    """Whoever made the change set, and whenever: so many deletions need a person's word."""
    request, frame = change_set.plan.request, change_set.frame
    known = store.target_state(change_set.plan.target).ledger_rows
    deletes = store.known_among(change_set.plan.target, frame[frame["operation"] == Operation.DELETE])
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
    limits: DeliveryLimits = LIMITS,
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
    report = (
        DeliveryReport(len(change_set.frame)) if dry else deliver_changes(change_set, sink, store, clock, limits=limits)
    )
    return Outcome(change_set.plan, findings, report)
