"""Delivering a change set: in phases, with many requests in flight and one writer to the ledger.

Before a request leaves, the ledger says `sending`; after Port has answered, the operations are confirmed, in groups. A
run that is killed between the two repeats at most a group and what was in flight, and all operations are idempotent.
What Port refuses for what it is goes to quarantine at the end, so that it holds up nothing else.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import NamedTuple, Protocol

import pandas as pd

from azure_port_sync.core.decisions import DELIVERY_PHASES
from azure_port_sync.core.errors import PortError
from azure_port_sync.core.identity import illegal_identifiers
from azure_port_sync.core.kinds import CONTAINERS
from azure_port_sync.core.quarantine import Cause
from azure_port_sync.core.rows import ChangeSetRow, Operation, change_set_rows, container_key, parent_of
from azure_port_sync.port.events import event_body
from azure_port_sync.port.failures import MissingParentError, RefusedError, TransientError
from azure_port_sync.port.flow import KeptFailingError
from azure_port_sync.port.sinks import Outcome, OutgoingEvent, Sink

logger = logging.getLogger(__name__)


class DeliveryLimits(NamedTuple):
    """How much of a delivery is done together, and how much of it Port may refuse.

    `sent_together` operations are marked and handed to the threads at once: many, so that a slow answer holds up few
    threads (five times as many where a request carries several). `confirmed_together` operations are confirmed at once,
    or as many as are answered `confirmed_within_seconds`: about a second's worth, because a kill repeats them; the
    seconds are real ones, as the kill is. While all requests wait for Port, the lease is renewed after
    `renewed_within_seconds`. A run that is cancelled waits `stopped_within_seconds` for the requests that are on their
    way, and goes. When Port refuses more than `max_refused` and than `max_refused_ratio` of what a run
    sends, or all of two operations or more, that is a mistake in the set-up and not in the entities.
    """

    sent_together: int = 1000
    confirmed_together: int = 2500
    confirmed_within_seconds: float = 1.0
    renewed_within_seconds: float = 15.0
    stopped_within_seconds: float = 2.0
    max_refused: int = 20
    max_refused_ratio: float = 0.05


LIMITS = DeliveryLimits()


class DeliveryRecord(Protocol):
    """The record of a delivery's progress. Every verb raises StateError when another run has taken over."""

    def renew_lease(self) -> None: ...

    def begin_sending(self, rows: Sequence[ChangeSetRow]) -> None: ...

    def confirm(self, rows: Sequence[ChangeSetRow]) -> None: ...

    def in_quarantine(self) -> Mapping[tuple[str, str], Cause]: ...

    def quarantine(
        self, cause: Cause, operations: Sequence[tuple[ChangeSetRow, str]]
    ) -> list[tuple[ChangeSetRow, str]]: ...


@dataclass
class DeliveryReport:
    """The outcome of a delivery.

    `accepted` counts by operation, `refused_by_port` holds each row that Port refused for what it is, and `foreseen`
    each refusal that says nothing about the set-up: not sent because Port is known to refuse its like, or refused
    again out of quarantine. `orphaned` are those that Port refused for lack of their parent, `failed` those at which
    Port kept failing, and `given_up` those of these that went to quarantine for it. `error` is what ended the delivery
    early.
    """

    total: int
    accepted: Counter[str] = field(default_factory=Counter)
    refused_by_port: list[tuple[ChangeSetRow, str]] = field(default_factory=list)
    foreseen: list[tuple[ChangeSetRow, str]] = field(default_factory=list)
    orphaned: list[tuple[ChangeSetRow, str]] = field(default_factory=list)
    failed: list[tuple[ChangeSetRow, str]] = field(default_factory=list)
    given_up: list[tuple[ChangeSetRow, str]] = field(default_factory=list)
    quarantined: int = 0
    error: PortError | None = None

    @property
    def done(self) -> int:
        """Operations of which the outcome is known."""
        return self.accepted.total() + len(self.put_aside) + len(self.failed)

    @property
    def refused(self) -> list[tuple[ChangeSetRow, str]]:
        """Rows that Port does not take as they are, each with the reason."""
        return self.refused_by_port + self.foreseen

    @property
    def put_aside(self) -> list[tuple[ChangeSetRow, str]]:
        """Rows that go to quarantine unless an error ends the delivery, each with the reason."""
        return self.refused + self.orphaned + self.given_up

    @property
    def not_delivered(self) -> int:
        """Operations that Port has not taken, and that are not in quarantine either."""
        return self.total - self.accepted.total() - self.quarantined

    @property
    def summary(self) -> str:
        """The outcome in a sentence or two, with the remedy where there is something to do."""
        if self.error is not None:
            return f"{self.not_delivered:,} of {self.total:,} deliveries were not made. {self.error}"
        if self.failed:
            row, reason = self.failed[0]
            rest = "took the others" if self.accepted else "answers other requests"
            return (
                f"Port kept failing at {len(self.failed):,} of {self.total:,} deliveries and {rest}; the "
                f"first is {row.azure_id}: {reason}. The watermark stays where it is; the next run tries them "
                "again, and the third run in a row puts them into quarantine."
            )
        if self.quarantined:
            return (
                f"Port accepted {self.accepted.total():,} of {self.total:,} deliveries; the other "
                f"{self.quarantined:,} are in quarantine."
            )
        return f"Port accepted all {self.total:,} deliveries." if self.total else "There was nothing to deliver."


def deliver(
    change_set: pd.DataFrame,
    sink: Sink,
    record: DeliveryRecord,
    *,
    limits: DeliveryLimits = LIMITS,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> DeliveryReport:
    """Send every operation of the change set and record each outcome; each phase ends before the next begins.

    Never raises PortError: what went wrong is in the report, with everything that was confirmed before it. `progress`
    is called with the number of operations that are done, and of all, after each group.
    """
    report = DeliveryReport(len(change_set))
    delivery = _Delivery(sink, record, limits, progress, report, record.in_quarantine())
    sink.flow.restart_deadline()
    phases = dict(iter(change_set.groupby(["operation", "kind"], sort=False)))
    for operation, kind in DELIVERY_PHASES:
        phase = phases.get((operation, kind), _NOTHING)
        size = limits.sent_together * min(sink.max_batch_size(operation), 5)  # keeps all threads busy
        for start in range(0, len(phase), size):
            if report.error is None:
                delivery.send(change_set_rows(phase.iloc[start : start + size]))
    delivery.end()
    return report


def batches(events: Sequence[OutgoingEvent], sink: Sink) -> Iterator[list[OutgoingEvent]]:
    """As many operations a request as the sink takes, in number and in bytes."""
    batch: list[OutgoingEvent] = []
    size = 0
    for event in events:
        length = len(event.body) + 1  # and a comma
        full = len(batch) == sink.max_batch_size(Operation(event.row.operation)) or size + length > sink.max_bytes + 1
        if batch and full:
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += length
    if batch:
        yield batch


_NOTHING = pd.DataFrame()

#: The outcomes of the batches that are being sent.
_Sending = Mapping[Future[list[Outcome]], list[OutgoingEvent]]


@dataclass(frozen=True)
class _Delivery:
    """One delivery under way: what it sends by, where it records, its report, and what quarantine held before."""

    sink: Sink
    record: DeliveryRecord
    limits: DeliveryLimits
    progress: Callable[[int, int], None]
    report: DeliveryReport
    in_quarantine: Mapping[tuple[str, str], Cause]
    accepted_containers: set[tuple[str, ...]] = field(default_factory=set)

    def send(self, rows: Sequence[ChangeSetRow]) -> None:
        """Send operations of one phase, and record their outcomes as they come in."""
        events = list(self._sendable(rows))
        if self.report.error is not None:
            return
        self.record.begin_sending([event.row for event in events])
        pool = ThreadPoolExecutor(self.sink.concurrency, thread_name_prefix="port")
        sending: dict[Future[list[Outcome]], list[OutgoingEvent]] = {}
        try:
            sending.update((pool.submit(self._send_batch, batch), batch) for batch in batches(events, self.sink))
            for answered in self._answered(sending):
                self._record_outcomes(answered, sending)
                self.progress(self.report.done, self.report.total)
                if self.report.error is not None:
                    for future in sending:
                        future.cancel()
        except BaseException:
            # A cancelled run or a lost lease: no further request begins, and those on their way have a moment to end.
            self.sink.flow.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            wait([one for one in sending if not one.cancelled()], timeout=self.limits.stopped_within_seconds)
            raise
        pool.shutdown()

    def _sendable(self, rows: Sequence[ChangeSetRow]) -> Iterator[OutgoingEvent]:
        """The events of these rows; what Port would refuse for its identifier or its size is refused here."""
        illegal = set(illegal_identifiers(row.identifier for row in rows))
        for row in rows:
            event = OutgoingEvent(row, event_body(row.operation, row.kind, row.data))
            if row.identifier in illegal:
                reason = "Port does not take its identifier: it has more than 1000 characters, or one that is illegal"
            elif len(event.body) > self.sink.max_bytes:
                reason = f"the event has {len(event.body):,} bytes; Port takes {self.sink.max_bytes:,}"
            else:
                yield event
                continue
            self.report.foreseen.append((row, reason))
            logger.warning("Port would refuse %s %s: %s", row.operation, row.identifier, reason)

    def _send_batch(self, events: Sequence[OutgoingEvent]) -> list[Outcome]:
        """Return what became of each; a request that Port refuses, or keeps failing at, is halved to find out why."""
        try:
            return self.sink.send(events, self.record.renew_lease)
        except (RefusedError, KeptFailingError) as error:
            if len(events) == 1:
                return [error]
            middle = len(events) // 2
            return self._send_batch(events[:middle]) + self._send_batch(events[middle:])
        except TransientError as error:
            if all(self._cause_before(event.row) is Cause.FAILING for event in events):
                return [KeptFailingError(str(error))] * len(events)  # as before, which says nothing about Port
            raise self._accepts_nothing(error) from None

    def _answered(self, sending: _Sending) -> Iterator[list[Future[list[Outcome]]]]:
        """The batches as they are answered, as many at a time as are confirmed together."""
        answered: SimpleQueue[Future[list[Outcome]]] = SimpleQueue()
        for future in sending:
            future.add_done_callback(answered.put)
        left = len(sending)
        while left:
            try:
                done = [answered.get(timeout=self.limits.renewed_within_seconds)]
            except Empty:  # a Port that takes long to answer must not cost the run its lease
                self.record.renew_lease()
                ends = f"{self.sink.flow.time_left:,.0f} s"
                logger.info("Waiting for Port: %s requests are not answered; without any answer, for %s", left, ends)
                continue
            operations = len(sending[done[0]])
            until = time.monotonic() + self.limits.confirmed_within_seconds
            with suppress(Empty):
                while len(done) < left and operations < self.limits.confirmed_together:
                    done.append(answered.get(timeout=max(until - time.monotonic(), 0.0)))
                    operations += len(sending[done[-1]])
            left -= len(done)
            yield done

    def _record_outcomes(self, answered: Sequence[Future[list[Outcome]]], sending: _Sending) -> None:
        accepted = []
        for future in answered:
            if future.cancelled():
                continue
            try:
                outcomes = future.result()
            except PortError as error:
                self.report.error = self.report.error or error
                continue
            for event, outcome in zip(sending[future], outcomes, strict=True):
                match outcome:
                    case None:
                        accepted.append(event.row)
                    case MissingParentError() if self._may_lack_parent(event.row):
                        self.report.orphaned.append((event.row, str(outcome)))
                    case RefusedError():
                        self._refuse(event.row, str(outcome))
                    case KeptFailingError():
                        self.report.failed.append((event.row, str(outcome)))
        self.record.confirm(accepted)
        self.report.accepted.update(str(row.operation) for row in accepted)
        self.accepted_containers.update(container_key(row) for row in accepted if row.kind in CONTAINERS)

    def _may_lack_parent(self, row: ChangeSetRow) -> bool:
        """Whether Port may lack the parent; where it has just taken that one, it lacks what our ledger knows not of."""
        parent = parent_of(row)
        return parent is not None and parent not in self.accepted_containers

    def _cause_before(self, row: ChangeSetRow) -> Cause | None:
        """The cause for which quarantine held this entity before the delivery."""
        return self.in_quarantine.get((row.kind, row.azure_id.lower()))

    def _refuse(self, row: ChangeSetRow, reason: str) -> None:
        report = self.report
        refusals = report.foreseen if self._cause_before(row) else report.refused_by_port
        refusals.append((row, reason))
        if len(refusals) <= self.limits.max_refused:
            logger.warning("Port refused %s %s: %s", row.operation, row.identifier, reason)
        if self._is_too_many(len(report.refused_by_port)):
            report.error = report.error or self._refuses_too_much()

    @property
    def _judged(self) -> int:
        """The operations whose refusal would say something about the set-up."""
        return self.report.total - len(self.report.foreseen)

    def _is_too_many(self, number: int) -> bool:
        """Whether so many cannot be the trouble of single operations."""
        return number > max(self.limits.max_refused, self.limits.max_refused_ratio * self._judged)

    def _refuses_too_much(self) -> PortError:
        refused = self.report.refused_by_port
        return PortError(
            f"Port refused {len(refused):,} of {self._judged:,} deliveries, the last one saying: {refused[-1][1]}. So "
            "many are a mistake in the set-up and not in the entities: check the blueprints and the webhook's mapping "
            "in Port (the job port_setup does) and launch again. Nothing was put into quarantine."
        )

    def end(self) -> None:
        """Put aside what Port does not take, unless the reason is not in the entities."""
        report = self.report
        again = [one for one in report.failed if self._cause_before(one[0]) is Cause.FAILING]
        failed_anew = len(report.failed) - len(again)
        takes_others = bool(report.accepted)
        if report.error is None and not report.accepted:
            if len(report.refused_by_port) > 1:
                report.error = self._refuses_too_much()
            elif failed_anew and not report.refused_by_port:
                # The only operation of every run must not keep the watermark where it is for good.
                takes_others = report.total == 1 and self.sink.is_answered()
                if not takes_others:
                    report.error = self._accepts_nothing(report.failed[0][1])
        if report.error is not None:
            return
        # A Port that takes nothing, or fails at many, is in trouble of its own.
        fails_alone = takes_others and not self._is_too_many(failed_anew)
        if failing := report.failed if fails_alone else again:
            report.given_up = self.record.quarantine(Cause.FAILING, failing)
            given_up = set(report.given_up)
            report.failed = [one for one in report.failed if one not in given_up]
        for cause, operations in ((Cause.REFUSED, report.refused), (Cause.PARENT, report.orphaned)):
            if operations:
                self.record.quarantine(cause, operations)
        report.quarantined = len(report.put_aside)

    def _accepts_nothing(self, reason: object) -> PortError:
        minutes = int(self.sink.flow.deadline.total_seconds() // 60)
        return PortError(
            f"Port accepted nothing for {minutes} minutes (PORT_DELIVERY_DEADLINE_MINUTES): {reason}. "
            "The watermark stays where it is, and the next run delivers what is missing."
        )
