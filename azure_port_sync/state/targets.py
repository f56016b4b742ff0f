"""Targets: how far each is synced, and what a run that has delivered everything leaves behind.

A row of the table is made by the first verb that writes, so that a dry run leaves no trace.
"""

from dataclasses import fields
from datetime import datetime

import sqlalchemy as sa

from azure_port_sync.core.errors import StateError
from azure_port_sync.core.kinds import CONTAINERS
from azure_port_sync.core.plan import Plan, TargetState
from azure_port_sync.core.request import Mode
from azure_port_sync.state import tables as t
from azure_port_sync.state.database import Database

LOST_LEASE = (
    "Another run has taken this target over, because this one gave no sign of life, or has finished meanwhile; this "
    "one stops, and the watermark stays where the other puts it. Run one sync at a time; the next tick reads "
    "everything that is missing."
)


def ensure_target(database: Database, connection: sa.Connection, target: str) -> None:
    """Make the row of a target that has none."""
    new = {"target": target, "generation": 0, "full_runs": 0, "needs_full_run": False}
    database.upsert(connection, t.target, tuple(new), [tuple(new.values())])


def is_held_by(plan: Plan) -> sa.ColumnElement[bool]:
    """Return the condition that the plan's run holds the lease of its target."""
    return sa.and_(t.target.c.target == plan.target, t.target.c.lease_holder == plan.run)


def contents_due_until(plan: Plan, *, this_run_reads_them: bool) -> int:
    """Return the mark of a container whose contents have to be read whole; `Targets.finish` clears it.

    Where this run does not read them, a run must that is planned after it.
    """
    return plan.generation if this_run_reads_them else plan.generation + 1


class Targets:
    """The targets of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self, target: str) -> TargetState:
        """Return what is known of a target; of an unknown one, that nothing is."""
        rows = sa.select(sa.func.count()).where(t.ledger.c.target == target).scalar_subquery().label("ledger_rows")
        names = (field.name for field in fields(TargetState) if field.name != "ledger_rows")
        query = sa.select(*(t.target.c[name] for name in names), rows).where(t.target.c.target == target)
        with self._database.read() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return TargetState(**row) if row else TargetState()

    def finish(self, plan: Plan) -> None:
        """Move the watermark to the end of the plan's window, because everything is delivered, and end the lease.

        Raises StateError when another run has finished or claimed the target since this one claimed it.
        """
        target, ledger, subscription = t.target.c, t.ledger.c, t.subscription.c
        is_full = plan.mode is Mode.FULL
        values = {
            "watermark": plan.window.end,
            "fingerprint": plan.fingerprint,
            "generation": plan.generation + 1,
            "full_runs": plan.full_runs + is_full,
            "lease_holder": None,
            "lease_expires": None,
            **({"needs_full_run": False} if is_full else {}),
        }
        with self._database.write() as connection:
            moved = connection.execute(
                sa.update(t.target).where(is_held_by(plan), target.generation == plan.generation).values(values)
            )
            if moved.rowcount != 1:
                raise StateError(LOST_LEASE)
            connection.execute(
                sa.update(t.subscription)
                .where(subscription.target == plan.target)
                .values(settled=sa.func.coalesce(subscription.read_by == plan.run, sa.false()))
            )
            # This run has read the contents of all that were due when it was planned.
            connection.execute(
                sa.update(t.ledger)
                .where(
                    ledger.target == plan.target,
                    ledger.kind.in_(CONTAINERS),
                    ledger.contents_due_until <= plan.generation,
                )
                .values(contents_due_until=None)
            )

    def forget_unused(self, before: datetime) -> int:
        """Delete all that is kept of targets that no run has finished since `before`, where another one was finished.

        Returns how many there were. Such a one is of a webhook or a tenant that was replaced; the only target stays
        however old it is, because its ledger is what finds stale entities. One that a run delivers to is not touched.
        """
        target, ledger = t.target.c, t.ledger.c
        sent = sa.select(sa.func.max(ledger.sent_at)).where(ledger.target == target.target).scalar_subquery()
        last_used = sa.func.coalesce(target.watermark, sent)  # what never got a watermark was sent something once
        free = sa.or_(target.lease_expires.is_(None), target.lease_expires <= self._database.now())
        with self._database.write() as connection:
            if not connection.scalar(sa.select(sa.exists().where(target.watermark >= before))):
                return 0
            unused = list(connection.scalars(sa.select(target.target).where(last_used < before, free)))
            for table in t.metadata.sorted_tables:
                connection.execute(sa.delete(table).where(table.c.target.in_(unused)))
        return len(unused)
