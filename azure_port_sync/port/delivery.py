"""Delivering a change set: in phases, with many requests in flight and one writer to the ledger.

Before a request leaves, the ledger says `sending`; after Port has answered, `settled`, in groups. A run that is
killed between the two repeats at most a group and what was in flight, and all operations are idempotent.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
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

#: Answers that are written to the ledger together: few, because a kill repeats them.
_SETTLED_TOGETHER = 100

Row = dict[str, Any]


class Sink(Protocol):
    """A way into Port."""

    concurrency: int

    def start(self) -> None: ...

    def send(self, body: bytes) -> None: ...


class Settlements(Protocol):
    """Where the progress of a delivery is recorded."""

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
            sending = {pool.submit(sink.send, event(row)): row for row in group}
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
    done: list[tuple[Row, Future[None]]] = []
    for future in as_completed(sending):
        done.append((sending[future], future))
        if len(done) == _SETTLED_TOGETHER:
            yield done
            done = []
    if done:
        yield done


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
