"""The lease: which run may deliver to a target, by the clock of the database.

Dagster's queue keeps runs apart only while they come through it; the lease keeps them apart always. It ends by itself a
minute after its run has given the last sign of life, and no machine's own clock can prolong or shorten it.
"""

from datetime import datetime, timedelta

import sqlalchemy as sa

from azure_port_sync.core.errors import StateError
from azure_port_sync.core.plan import Plan
from azure_port_sync.state import tables as t
from azure_port_sync.state.database import Database
from azure_port_sync.state.targets import LOST_LEASE, ensure_target, is_held_by

#: How long a run that gives no sign of life keeps a target.
LEASE = timedelta(seconds=60)


class Lease:
    """The leases of a store's targets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, plan: Plan) -> datetime | None:
        """Claim the target for the plan's run; returns None, or the instant when the lease of another run ends.

        Raises StateError when another run has moved the watermark since this one was planned.
        """
        target, now, end = t.target.c, self._database.now(), self._database.now(LEASE)
        free = sa.or_(
            target.lease_holder.is_(None),
            target.lease_holder == plan.run,
            target.lease_expires <= now,
            target.lease_expires > end,  # nobody claims for so long: the clock has jumped back
        )
        with self._database.write() as connection:
            ensure_target(self._database, connection, plan.target)
            claimed = connection.execute(
                sa.update(t.target)
                .where(target.target == plan.target, target.generation == plan.generation, free)
                .values(lease_holder=plan.run, lease_expires=end)
            )
            if claimed.rowcount == 1:
                return None
            row = connection.execute(sa.select(t.target).where(target.target == plan.target)).one()
        if row.generation != plan.generation:
            raise StateError(
                "This change set was planned before another run finished, so it may be out of date; nothing was sent. "
                "Launch the job incremental_sync instead of a part of an old run."
            )
        expires: datetime = row.lease_expires
        return expires

    def renew(self, connection: sa.Connection, plan: Plan) -> None:
        """Keep the lease as part of a transaction; raises StateError when another run has taken the target over."""
        end = self._database.now(LEASE)
        if connection.execute(sa.update(t.target).where(is_held_by(plan)).values(lease_expires=end)).rowcount != 1:
            raise StateError(LOST_LEASE)

    def release(self, plan: Plan) -> None:
        """End the lease, where the plan's run still has it."""
        with self._database.write() as connection:
            connection.execute(
                sa.update(t.target).where(is_held_by(plan)).values(lease_holder=None, lease_expires=None)
            )
