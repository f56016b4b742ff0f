"""The store as the run that delivers to a target writes to it: before it sends, after Port has answered, and no longer
than it holds the lease.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from operator import attrgetter

import sqlalchemy as sa

from azure_port_sync.core.decisions import CONFIRMED, SENDING
from azure_port_sync.core.kinds import CONTAINERS, KINDS, Kind, descendants
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.quarantine import Cause
from azure_port_sync.core.rows import ChangeSetRow, Operation, parent_of
from azure_port_sync.state import tables as t
from azure_port_sync.state.database import Database
from azure_port_sync.state.facts import FactStore
from azure_port_sync.state.lease import LEASE, Lease
from azure_port_sync.state.targets import contents_due_until

_identity_of = attrgetter(*t.IDENTITY)


class DeliveryLedger:
    """The ledger of one target, as the run that holds its lease may write to it. Safe to share between threads.

    Each verb is one transaction that also renews the lease; it raises StateError when another run has taken over, so
    that no further request is sent.
    """

    def __init__(self, database: Database, lease: Lease, facts: FactStore, plan: Plan) -> None:
        self._database = database
        self._lease = lease
        self._facts = facts
        self._plan = plan
        self._lock = threading.Lock()
        self._renewed_at = database.clock.now()

    def renew_lease(self) -> None:
        """Renew the lease when half of it has passed. To be called before each request."""
        with self._lock:
            passed = self._database.clock.now() - self._renewed_at
            if not timedelta(0) <= passed < LEASE / 2:  # less than nothing: the clock has jumped back
                with self._write():
                    pass

    def begin_deleting_containers(self, containers: Sequence[ChangeSetRow]) -> None:
        """Record, before anything is sent, that these containers are to go, and with them all that is in them.

        However far the run gets, none of it counts as unchanged any more, and a container that comes back is read
        whole.
        """
        ledger, seen, target = t.ledger.c, t.subscription.c, self._plan.target
        due = contents_due_until(self._plan, this_run_reads_them=False)
        values = {"state": SENDING, "contents_due_until": sa.case((ledger.kind.in_(CONTAINERS), due))}
        with self._write() as connection:
            for row in containers:
                is_it = sa.and_(ledger.target == target, ledger.kind == row.kind, ledger.identifier == row.identifier)
                for gone in (is_it, self._lies_in(row)):
                    connection.execute(sa.update(t.ledger).where(gone).values(values))
                if row.kind == Kind.SUBSCRIPTION:
                    is_it = sa.and_(seen.target == target, seen.subscription_id == row.subscription_id)
                    connection.execute(sa.update(t.subscription).where(is_it).values(settled=False))

    def begin_sending(self, rows: Sequence[ChangeSetRow]) -> None:
        """Record that these operations are about to reach Port.

        From here on none of them counts as unchanged, and a delete always reaches them.
        """
        target, now = self._plan.target, self._database.clock.now()
        due = contents_due_until(self._plan, this_run_reads_them=True)
        sent = ((target, *_identity_of(row), SENDING, due if row.kind in CONTAINERS else None, now) for row in rows)
        names = ("target", *t.IDENTITY, "state", "contents_due_until", "sent_at")
        # The id of what was only found in Port was a guess, and counts from here on.
        changing = (*t.IDENTITY[2:], "state", "sent_at")
        with self._write() as connection:
            self._database.upsert(connection, t.ledger, names, sent, update=changing)

    def confirm(self, rows: Sequence[ChangeSetRow]) -> None:
        """Record that Port took these operations, which have been begun before.

        What lay in a deleted container stays in the ledger until it is deleted itself: Port may have deleted it with
        the container, which it may never have held.
        """
        target, now = self._plan.target, self._database.clock.now()
        upserts = [row for row in rows if row.operation == Operation.UPSERT]
        deletes = [row for row in rows if row.operation == Operation.DELETE]
        confirmed = ((target, *_identity_of(row), row.hash, CONFIRMED, now) for row in upserts)
        names = ("target", *t.IDENTITY, "hash", "state", "sent_at")
        gone = ((target, row.kind, row.identifier) for row in deletes)
        with self._write() as connection:
            self._database.upsert(connection, t.ledger, names, confirmed, update=("hash", "state"))
            self._database.delete(connection, t.ledger, ("target", "kind", "identifier"), gone)
            self._facts.forget_delivered(connection, target, rows)

    def in_quarantine(self) -> dict[tuple[str, str], Cause]:
        """Return what counts as quarantined, by kind and lower-case id, with its cause."""
        rows = self._facts.quarantined(self._plan.target)
        entities = zip(rows["kind"], map(str.lower, rows["azure_id"]), strict=True)
        return dict(zip(entities, map(Cause, rows["cause"]), strict=True))

    def quarantine(
        self, cause: Cause, operations: Sequence[tuple[ChangeSetRow, str]]
    ) -> list[tuple[ChangeSetRow, str]]:
        """Put operations aside, each with its reason; returns those that count as quarantined from now on.

        The parents that Port lacks no longer count as confirmed, so that the next run sends them again.
        """
        with self._write() as connection:
            if cause is Cause.PARENT:
                parents = {parent for row, _ in operations if (parent := parent_of(row))}
                for kind in CONTAINERS:
                    lacking = ((SENDING, self._plan.target, *key) for key in sorted(parents) if key[0] == kind)
                    where = ("target", "kind", *KINDS[kind].key)
                    self._database.update(connection, t.ledger, ("state",), lacking, where=where)
            return self._facts.quarantine(connection, self._plan, cause, operations)

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        now = self._database.clock.now()
        with self._database.write() as connection:
            self._lease.renew(connection, self._plan)
            yield connection
        self._renewed_at = now

    def _lies_in(self, container: ChangeSetRow) -> sa.ColumnElement[bool]:
        """All that is beneath a container."""
        ledger, kind = t.ledger.c, Kind(container.kind)
        place = (ledger[name] == getattr(container, name) for name in KINDS[kind].key)
        return sa.and_(ledger.target == self._plan.target, ledger.kind.in_(descendants(kind)), *place)
