"""State stores in the hands of tests: plans, and what a run does with a store, in a line each."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pandas as pd
import sqlalchemy as sa

from azure_port_sync.core.decisions import LedgerEntry
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.rows import ChangeSetRow
from azure_port_sync.core.windows import Window
from azure_port_sync.state import Comparison, StateStore
from azure_port_sync_tests.support.clocks import NOW
from azure_port_sync_tests.support.entities import Row, frame


def plan_for(
    store: StateStore, target: str = "t", run: str = "r", mode: Mode = Mode.FULL, window: Window | None = None
) -> Plan:
    """The plan of a run, from the state of its target as it is now."""
    state = store.targets.load(target)
    return Plan(
        target=target,
        run=run,
        request=Request(mode),
        mode=mode,
        reasons=(),
        window=window or Window(NOW - timedelta(minutes=25), NOW),
        fingerprint="scope",
        base_watermark=state.watermark,
        generation=state.generation,
        known_before=state.ledger_rows,
        full_runs=state.full_runs,
    )


def claimed(store: StateStore, target: str = "t", **more: Any) -> Plan:
    """The plan of a run that may deliver."""
    plan = plan_for(store, target, **more)
    assert store.lease.claim(plan) is None
    return plan


def deliver(store: StateStore, *rows: ChangeSetRow, target: str = "t") -> None:
    """Send these operations, which Port takes."""
    plan = claimed(store, target)
    store.delivery(plan).begin_sending(rows)
    store.delivery(plan).confirm(rows)


def comparison(store: StateStore, candidates: pd.DataFrame, *, force: bool = False, target: str = "t") -> Comparison:
    return store.ledger.compare(target, candidates, resend=pd.Series(force, index=candidates.index, dtype=bool))


def to_decide(store: StateStore, *rows: Row, force: bool = False, target: str = "t") -> dict[str, LedgerEntry]:
    """The ledger's entries of the candidates that have to be decided, by name (without the id, which is theirs)."""
    found = comparison(store, frame(*rows), force=force, target=target)
    assert found.unchanged == len(rows) - len(found.positions)
    entries = zip(found.positions, found.known, strict=True)
    return {rows[position]["name"]: entry._replace(azure_id=None) for position, entry in entries}


@contextmanager
def behind_its_back(url: str) -> Iterator[sa.Connection]:
    """A connection of one's own to the database of a store."""
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()
