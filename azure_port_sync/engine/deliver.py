"""Delivering a change set: in phases, with many requests in flight and one writer to the ledger.

Before a request leaves, the ledger says `sending`; after Port has answered, `confirmed`, in groups. A run that is
killed between the two repeats at most a group and what was in flight, and all operations are idempotent. What Port
refuses for what it is goes to quarantine at the end, so that it holds up nothing else.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

import pandas as pd

from azure_port_sync.core.decisions import DELIVERY_PHASES
from azure_port_sync.core.errors import PortError
from azure_port_sync.core.identity import illegal_identifiers
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import ChangeSetRow, Operation, change_set_rows
from azure_port_sync.port.events import event_body
from azure_port_sync.port.flow import StubbornError
from azure_port_sync.port.sinks import Outcome, OutgoingEvent, RefusedError, Sink
from azure_port_sync.port.transport import TransientError

logger = logging.getLogger(__name__)

#: Operations that are marked and handed to the threads together: many, so that a slow answer holds up few threads; five
#: times as many where a request carries several.
_SENT_TOGETHER = 1000

#: Operations that are settled together: about a second's worth, because a kill repeats them. The seconds are real
#: ones, as the kill is.
_SETTLED_TOGETHER = 2500
_SETTLED_WITHIN_SECONDS = 1.0

#: More refusals than this many, and than this share of a run, are a mistake in the set-up and not in the entities.
_MAX_REFUSED = 20
_MAX_REFUSED_RATIO = 0.05


class Settlements(Protocol):
    """Where the progress of a delivery is recorded. Every verb raises StateError when another run has taken over."""

    def renew_lease(self) -> None: ...

    def begin_sending(self, rows: Sequence[ChangeSetRow]) -> None: ...

    def confirm(self, rows: Sequence[ChangeSetRow]) -> None: ...

    def quarantine(self, refused: Sequence[tuple[ChangeSetRow, str]]) -> None: ...


@dataclass
class DeliveryReport:
    """What became of a change set.

    `accepted` counts by operation, `refused` holds each row that Port refuses for what it is (`unsent` of them were
    never sent), `failed` each that Port goes on failing at. `error` is what ended the delivery early.
    """

    total: int
    accepted: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[ChangeSetRow, str]] = field(default_factory=list)
    failed: list[tuple[ChangeSetRow, str]] = field(default_factory=list)
    unsent: int = 0
    quarantined: int = 0
    error: PortError | None = None

    @property
    def done(self) -> int:
        """Operations of which the outcome is known."""
        return self.accepted.total() + len(self.refused) + len(self.failed)

    @property
    def unsettled(self) -> int:
        """Operations that Port has not taken, and that are not in quarantine either."""
        return self.total - self.accepted.total() - self.quarantined

    @property
    def refuses_too_much(self) -> bool:
        """Whether so much was refused that the entities cannot be the reason."""
        return len(self.refused) > max(_MAX_REFUSED, _MAX_REFUSED_RATIO * self.total)


def deliver(
    change_set: pd.DataFrame, sink: Sink, settlements: Settlements, *, progress: Callable[[int, int], None]
) -> DeliveryReport:
    """Send every operation of the change set and record each outcome; each phase ends before the next begins.

    Never raises PortError: what went wrong is in the report, with everything that was settled before it.
    `progress` hears how many operations are done, and of how many, after each group.
    """
    report = DeliveryReport(total=len(change_set))
    sink.flow.start()
    pool = ThreadPoolExecutor(sink.flow.concurrency, thread_name_prefix="port")
    try:
        for group in _groups(change_set, sink):
            events = _fit(group, sink, report)
            if report.error is not None:
                break
            settlements.begin_sending([event.row for event in events])
            sending = {
                pool.submit(_send, sink, batch, settlements.renew_lease): batch for batch in _batches(events, sink)
            }
            for done in _settlement_groups(sending):
                _settle(done, settlements, report)
                progress(report.done, report.total)
                if report.error is not None:
                    for future in sending:
                        future.cancel()
            if report.error is not None:
                break
    finally:
        # Whatever ends this (a cancelled run, a lost store), what has not been sent is not sent any more.
        pool.shutdown(cancel_futures=True)
    if report.failed and report.done == len(report.failed):
        report.error = report.error or _accepts_nothing(sink, report.failed[0][1])
    if report.refused and not report.refuses_too_much:
        settlements.quarantine(report.refused)
        report.quarantined = len(report.refused)
    return report


def _groups(change_set: pd.DataFrame, sink: Sink) -> Iterator[list[ChangeSetRow]]:
    """The operations phase by phase, in groups of one phase each, large enough to keep all threads busy."""
    for operation, kind in DELIVERY_PHASES:
        phase = change_set[(change_set["operation"] == operation) & (change_set["kind"] == kind)]
        size = _SENT_TOGETHER * min(sink.max_batch_size(operation), 5)
        for start in range(0, len(phase), size):
            yield change_set_rows(phase.iloc[start : start + size])


def _fit(rows: Sequence[ChangeSetRow], sink: Sink, report: DeliveryReport) -> list[OutgoingEvent]:
    """Those that can be sent at all; what Port would refuse for its identifier or its size is refused here."""
    illegal = set(illegal_identifiers(row.identifier for row in rows))
    events = []
    for row in rows:
        event = OutgoingEvent(row, event_body(row.operation, row.kind, row.data))
        if row.identifier in illegal:
            reason = "Port does not take its identifier: it has more than 1000 characters, or one that is illegal"
        elif len(event.body) > sink.max_bytes:
            reason = f"the event has {len(event.body):,} bytes; Port takes {sink.max_bytes:,}"
        else:
            events.append(event)
            continue
        report.unsent += 1
        _refuse(row, reason, report)
    return events


def _batches(events: Sequence[OutgoingEvent], sink: Sink) -> Iterator[list[OutgoingEvent]]:
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


def _send(sink: Sink, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
    """What became of each; a request that Port refuses, or goes on failing at, is halved until it is known why."""
    try:
        return sink.send(events, heartbeat)
    except (RefusedError, StubbornError) as error:
        if len(events) == 1:
            return [error]
        middle = len(events) // 2
        return _send(sink, events[:middle], heartbeat) + _send(sink, events[middle:], heartbeat)
    except TransientError as error:
        raise _accepts_nothing(sink, error) from None


def _accepts_nothing(sink: Sink, reason: object) -> PortError:
    minutes = int(sink.flow.deadline.total_seconds() // 60)
    return PortError(
        f"Port accepted nothing for {minutes} minutes (PORT_DELIVERY_DEADLINE_MINUTES): {reason}. "
        "The watermark stays where it is, and the next run delivers what is missing."
    )


def _settlement_groups(
    sending: Mapping[Future[list[Outcome]], list[OutgoingEvent]],
) -> Iterator[list[tuple[list[OutgoingEvent], Future[list[Outcome]]]]]:
    """The answers as they come in, as many at a time as are settled together."""
    answered: SimpleQueue[Future[list[Outcome]]] = SimpleQueue()
    for future in sending:
        future.add_done_callback(answered.put)
    left = len(sending)
    while left:
        done = [answered.get()]
        operations = len(sending[done[0]])
        until = time.monotonic() + _SETTLED_WITHIN_SECONDS
        with suppress(Empty):
            while len(done) < left and operations < _SETTLED_TOGETHER:
                done.append(answered.get(timeout=max(until - time.monotonic(), 0.0)))
                operations += len(sending[done[-1]])
        left -= len(done)
        yield [(sending[future], future) for future in done]


def _settle(
    answers: list[tuple[list[OutgoingEvent], Future[list[Outcome]]]], settlements: Settlements, report: DeliveryReport
) -> None:
    accepted = []
    for events, future in answers:
        if future.cancelled():
            continue
        try:
            outcomes = future.result()
        except PortError as error:
            report.error = report.error or error
            continue
        for event, outcome in zip(events, outcomes, strict=True):
            match outcome:
                case None:
                    accepted.append(event.row)
                case RefusedError() if not _lacks_container(event.row, report):
                    _refuse(event.row, str(outcome), report)
                case RefusedError() | StubbornError():
                    report.failed.append((event.row, str(outcome)))
    settlements.confirm(accepted)
    report.accepted.update(str(row.operation) for row in accepted)


def _lacks_container(row: ChangeSetRow, report: DeliveryReport) -> bool:
    """Whether Port goes on failing at what holds this: to refuse it then says nothing about it."""
    return any(
        row.operation == container.operation == Operation.UPSERT
        and row.subscription_id == container.subscription_id
        and (
            (container.kind == Kind.SUBSCRIPTION and row.kind != Kind.SUBSCRIPTION)
            or (container.kind == Kind.RESOURCE_GROUP and row.resource_group == container.resource_group)
        )
        for container, _ in report.failed
    )


def _refuse(row: ChangeSetRow, reason: str, report: DeliveryReport) -> None:
    report.refused.append((row, reason))
    if len(report.refused) <= _MAX_REFUSED:
        logger.warning("Port refused %s %s: %s", row.operation, row.identifier, reason)
    if report.refuses_too_much and report.error is None:
        report.error = PortError(
            f"Port refused {len(report.refused):,} of {report.total:,} deliveries, the last one saying: {reason}. So "
            "many are a mistake in the set-up and not in the entities: check the blueprints and the webhook's mapping "
            "in Port (the job port_setup does) and launch again. Nothing was put into quarantine."
        )
