"""Far ends of a delivery that only remember: a record without a store, and a sink without a Port."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pandas as pd

from azure_port_sync.core.clock import StoppableClock, SystemClock
from azure_port_sync.core.quarantine import Cause, is_settled
from azure_port_sync.core.rows import ChangeSetRow, Operation
from azure_port_sync.engine.deliver import LIMITS, DeliveryLimits, DeliveryReport, deliver
from azure_port_sync.port.flow import Flow
from azure_port_sync.port.sinks import Outcome, OutgoingEvent
from azure_port_sync.port.sinks.webhook import MAX_BYTES


class MemoryRecord:
    """The record of a delivery, in memory."""

    def __init__(self) -> None:
        self.groups: list[list[ChangeSetRow]] = []
        self.begun: list[str] = []
        self.confirmed: list[str] = []
        self.confirmed_together: list[int] = []
        self.quarantined: list[str] = []

    def renew_lease(self) -> None:
        pass

    def begin_sending(self, rows: Sequence[ChangeSetRow]) -> None:
        self.groups.append(list(rows))
        self.begun += [row.identifier for row in rows]

    def confirm(self, rows: Sequence[ChangeSetRow]) -> None:
        self.confirmed_together.append(len(rows))
        self.confirmed += [row.identifier for row in rows]

    def in_quarantine(self) -> dict[tuple[str, str], Cause]:
        return {}

    def quarantine(
        self, cause: Cause, operations: Sequence[tuple[ChangeSetRow, str]]
    ) -> list[tuple[ChangeSetRow, str]]:
        counted = [one for one in operations if is_settled(cause, 1)]
        self.quarantined += [row.identifier for row, _ in counted]
        return counted


class FakeSink:
    """A sink that takes everything, so many events in a request; `take` can be another."""

    verifies = False
    max_bytes = MAX_BYTES
    concurrency = 4
    items = 1

    def __init__(self) -> None:
        self.flow = Flow(StoppableClock(SystemClock()), deadline=timedelta(minutes=10))

    def close(self) -> None:
        pass

    def max_batch_size(self, operation: Operation) -> int:
        return self.items

    def send(self, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        for event in events:
            self.take(event.body)
        return [None] * len(events)

    def take(self, body: bytes) -> None:
        pass


def delivered(
    change_set: pd.DataFrame,
    sink: Any,
    record: Any = None,
    limits: DeliveryLimits = LIMITS,
    progress: Any = lambda _done, _total: None,
) -> DeliveryReport:
    """Deliver, with a record in memory unless another is given."""
    return deliver(change_set, sink, record or MemoryRecord(), limits=limits, progress=progress)
