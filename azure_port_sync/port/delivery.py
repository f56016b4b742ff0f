"""Delivering a change set: in phases, with many requests in flight and one writer to the ledger.

Before a request leaves, the ledger says `sending`; after Port has answered, `settled`, in groups. A run that is
killed between the two repeats at most a group and what was in flight, and all operations are idempotent.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import pandas as pd

from azure_port_sync.port.events import event
from azure_port_sync.port.webhook import RefusedError
from azure_port_sync.sync.decisions import DELIVERY_PHASES
from azure_port_sync.sync.errors import PortError
from azure_port_sync.sync.rows import records

logger = logging.getLogger(__name__)

#: Operations that are marked and handed to the threads together: many, so that a slow answer holds up few threads.
_SENT_TOGETHER = 1000

#: Answers that are written to the ledger together: few and soon, because a kill repeats them. The seconds are real
#: ones, as the kill is.
_SETTLED_TOGETHER = 100
_SETTLED_WITHIN_SECONDS = 1.0

Row = dict[str, Any]


class Sink(Protocol):
    """A way into Port.

    `verifies`: its answers say what became of each entity, not only that it was accepted.
    """

    concurrency: int
    verifies: bool

    def start(self) -> None: ...

    def send(self, body: bytes, before_request: Callable[[], None]) -> None:
        """Send one event. `before_request` comes before each attempt, and stops it by raising."""
        ...


class Settlements(Protocol):
    """Where the progress of a delivery is recorded. Every verb raises StateError when another run has taken over."""

    def hold(self) -> None: ...

    def begin_sending(self, rows: Sequence[Row]) -> None: ...

    def settle(self, rows: Sequence[Row]) -> None: ...


@dataclass
class DeliveryReport:
    """What became of a change set: `accepted` by operation, and each failure with its row."""

    total: int
    accepted: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[Row, str]] = field(default_factory=list)
    error: PortError | None = None

    @property
    def done(self) -> int:
        """Operations that Port has answered."""
        return self.accepted.total() + len(self.refused)

    @property
    def unsettled(self) -> int:
        """Operations that Port has not taken."""
        return self.total - self.accepted.total()


def deliver(
    change_set: pd.DataFrame, sink: Sink, settlements: Settlements, *, progress: Callable[[int, int], None]
) -> DeliveryReport:
    """Send every operation of the change set and record each outcome; each phase ends before the next begins.

    Never raises PortError: what went wrong is in the report, with everything that was settled before it.
    `progress` hears how many operations are done, and of how many, after each group.
    """
    report = DeliveryReport(total=len(change_set))
    sink.start()
    pool = ThreadPoolExecutor(sink.concurrency, thread_name_prefix="port")
    try:
        for group in _groups(change_set):
            settlements.begin_sending(group)
            sending = {pool.submit(sink.send, event(row), settlements.hold): row for row in group}
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
    return report


def _groups(change_set: pd.DataFrame) -> Iterator[list[Row]]:
    """The operations phase by phase, in groups of one phase each."""
    for operation, kind in DELIVERY_PHASES:
        phase = change_set[(change_set["operation"] == operation) & (change_set["kind"] == kind)]
        for start in range(0, len(phase), _SENT_TOGETHER):
            yield records(phase.iloc[start : start + _SENT_TOGETHER])


def _settlement_groups(sending: Mapping[Future[None], Row]) -> Iterator[list[tuple[Row, Future[None]]]]:
    """The answers as they come in, as many at a time as are settled together."""
    answered: SimpleQueue[Future[None]] = SimpleQueue()
    for future in sending:
        future.add_done_callback(answered.put)
    left = len(sending)
    while left:
        done = [answered.get()]
        until = time.monotonic() + _SETTLED_WITHIN_SECONDS
        with suppress(Empty):
            while len(done) < min(left, _SETTLED_TOGETHER):
                done.append(answered.get(timeout=max(until - time.monotonic(), 0.0)))
        left -= len(done)
        yield [(sending[future], future) for future in done]


def _settle(outcomes: list[tuple[Row, Future[None]]], settlements: Settlements, report: DeliveryReport) -> None:
    accepted = []
    for row, future in outcomes:
        if future.cancelled():
            continue
        try:
            future.result()
        except RefusedError as error:
            report.refused.append((row, str(error)))
            logger.warning("Port refused %s %s: %s", row["operation"], row["identifier"], error)
        except PortError as error:
            report.error = report.error or error
        else:
            accepted.append(row)
    settlements.settle(accepted)
    report.accepted.update(str(row["operation"]) for row in accepted)
