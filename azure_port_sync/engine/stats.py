"""The numbers of a run: sums over its reads, and the counts of its verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from azure_port_sync.core.candidates import candidates
from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import OBSERVATION, concat, lowered, subscriptions_of
from azure_port_sync.engine.containers import Containers
from azure_port_sync.engine.decide import Decisions
from azure_port_sync.engine.observe import CHANGES, Read
from azure_port_sync.state import LedgerRebuild


@dataclass(frozen=True)
class ReadStats:
    """The numbers of a run's reads, beside the snapshot.

    Of `records_read` change records of the window, `records_superseded` are older than another of the same resource,
    and `records_reduced` are left. `queries` are KQL texts by their purpose.
    """

    rows_read: int
    total_records: int
    duplicate_rows: int
    unreadable_rows: int
    samples: tuple[str, ...]
    records_read: int
    records_reduced: int
    records_superseded: int
    queries: dict[str, str]

    @classmethod
    def of(cls, reads: Sequence[Read]) -> "ReadStats":
        """Sum up reads that still have their rows."""
        results = [read.result for read in reads]
        records = concat([read.result.frame for read in reads if read.label == CHANGES], OBSERVATION)
        return cls(
            rows_read=sum(one.rows for one in results),
            total_records=sum(one.total_records for one in results),
            duplicate_rows=sum(one.duplicates for one in results),
            unreadable_rows=sum(one.unreadable for one in results),
            samples=tuple(sample for one in results for sample in one.samples),
            records_read=len(records),
            records_reduced=len(candidates(records)),
            records_superseded=len(records) - lowered(records["azure_id"]).nunique(),
            queries={read.label: read.result.query for read in reads if read.result.query},
        )


@dataclass(frozen=True)
class RunStats:
    """The numbers of a run that a person asks for, and that the checks compare.

    `unreadable` subscriptions are named in the settings and were never readable; each of `in_grace` has vanished, with
    the end of its grace period, the `silent` ones while the run was reading.
    `held` are the entities whose deletes the guard holds (columns of OBSERVATION). `stale_may_remain`: nobody knows
    what Port contained before the first run.
    """

    subscriptions: int
    groups: int
    groups_in_scope: int
    reads: ReadStats
    candidates: int
    verdicts: dict[Verdict, int]
    resent: int
    held: pd.DataFrame
    unreadable: tuple[str, ...]
    silent: frozenset[str]
    in_grace: dict[str, datetime]
    rebuild: LedgerRebuild | None
    stale_may_remain: bool

    @classmethod
    def of(
        cls,
        containers: Containers,
        reads: ReadStats,
        decisions: Decisions,
        *,
        rebuild: LedgerRebuild | None,
        stale_may_remain: bool,
    ) -> "RunStats":
        """Put together what the steps of a run found."""
        frame: pd.DataFrame = containers.frame
        groups = frame[frame["kind"] == Kind.RESOURCE_GROUP]
        return cls(
            subscriptions=len(subscriptions_of(frame)),
            groups=len(groups),
            groups_in_scope=int(groups["in_scope"].sum()),
            reads=reads,
            candidates=decisions.candidates,
            verdicts=decisions.counts,
            resent=decisions.resent,
            held=decisions.held,
            unreadable=containers.unreadable,
            silent=containers.subscriptions.silent,
            in_grace=containers.subscriptions.in_grace,
            rebuild=rebuild,
            stale_may_remain=stale_may_remain,
        )
