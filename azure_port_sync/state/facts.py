"""Facts that outlive a run: subscriptions, pending entities, tombstones, and operations in quarantine.

`record` is the one door through which a run's facts about Azure come in; a delivery adds what Port refuses, and forgets
what it has delivered.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import pandas as pd
import sqlalchemy as sa

from azure_port_sync.core.cover import Group
from azure_port_sync.core.facts import Facts
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.quarantine import Cause, is_settled, settled
from azure_port_sync.core.rows import ChangeSetRow, Operation
from azure_port_sync.core.subscriptions import Subscriptions, SubscriptionState
from azure_port_sync.state import tables as t
from azure_port_sync.state.database import Database, Row
from azure_port_sync.state.targets import contents_due_until, ensure_target

#: How long a row that Azure still shows is disbelieved after a Delete record (reports speak of up to 30 hours:
#: github.com/ansible-collections/azure, pull request 1994).
TOMBSTONE_FOR = timedelta(hours=48)


class FactStore:
    """The facts of a store's targets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- reading ----------------------------------------------------------------------------------------------------

    def subscriptions(self, target: str) -> dict[str, SubscriptionState]:
        """Return what is remembered of the target's subscriptions, by their lower-case ids."""
        seen = t.subscription.c
        query = sa.select(seen.subscription_id, seen.whole, seen.settled, seen.missing_since)
        with self._database.read() as connection:
            rows = connection.execute(query.where(seen.target == target)).all()
        return {id_: SubscriptionState(*state) for id_, *state in rows}

    def pending(self, target: str) -> pd.DataFrame:
        """Return the entities that wait for a row or for their parent: identifier, azure_id, type, since."""
        pending = t.pending.c
        query = sa.select(pending.identifier, pending.azure_id, pending.type, pending.since)
        return self._database.frame(query.where(pending.target == target))

    def held(self, target: str) -> pd.DataFrame:
        """Return the entities whose deletes the guard holds: identity columns, `present`, `since`."""
        held = t.held_delete.c
        query = sa.select(*t.held_delete.columns[1:]).where(held.target == target)
        return self._database.frame(query.order_by(held.azure_id))

    def tombstones(self, target: str) -> pd.DataFrame:
        """Return what Delete records have removed of late: identifier, lower-case azure_id, deleted_at."""
        tombstone = t.tombstone.c
        query = sa.select(tombstone.identifier, tombstone.azure_id, tombstone.deleted_at)
        return self._database.frame(query.where(tombstone.target == target, is_fresh_tombstone(self._database)))

    def quarantined(self, target: str) -> pd.DataFrame:
        """Return what counts as quarantined: `put_aside` without what will be tried again before it does."""
        return settled(self.put_aside(target))

    def put_aside(self, target: str) -> pd.DataFrame:
        """Return the operations that could not be delivered, the oldest first.

        Columns: kind, identifier, azure_id, type, cause, operation, hash, payload, reason, first_at, last_at, attempts,
        sink. `hash` is null for a delete; `attempts` counts the runs in a row that have sent it and met this cause.
        """
        quarantine = t.quarantine.c
        query = sa.select(*t.quarantine.columns[2:]).where(quarantine.target == target)
        return self._database.frame(query.order_by(quarantine.first_at, quarantine.azure_id))

    # -- writing ----------------------------------------------------------------------------------------------------

    def record(self, plan: Plan, facts: Facts) -> None:
        """Remember what a run learned about Azure, all of it or nothing."""
        now = self._database.clock.now()
        with self._database.write() as connection:
            ensure_target(self._database, connection, plan.target)
            if facts.subscriptions is not None:
                self._remember_subscriptions(connection, plan, facts.subscriptions)
            self._remember_pending(connection, plan.target, facts.pending)
            self._forget(connection, t.pending, plan.target, facts.no_longer_pending)
            self._remember_deleted(connection, plan.target, facts.deleted)
            if plan.advances_watermark:
                self._remember_held(connection, plan.target, facts.held)
            self._put_aside(connection, plan, facts.conflicts, Cause.CONFLICT)
            self._forget(connection, t.quarantine, plan.target, (_digest(*entity) for entity in facts.released))
            self._mark_contents_due(connection, plan, facts.contents_due)
            expired = sa.and_(t.tombstone.c.target == plan.target, t.tombstone.c.since <= now - TOMBSTONE_FOR)
            connection.execute(sa.delete(t.tombstone).where(expired))

    def quarantine(
        self, connection: sa.Connection, plan: Plan, cause: Cause, operations: Sequence[tuple[ChangeSetRow, str]]
    ) -> list[tuple[ChangeSetRow, str]]:
        """Put operations aside, each with its reason, as part of a delivery's transaction.

        Returns those of them that count as quarantined from now on.
        """
        attempts = self._put_aside(connection, plan, operations, cause)
        quarantined = [one for one, number in zip(operations, attempts, strict=True) if is_settled(cause, number)]
        self._forget(connection, t.pending, plan.target, (row.identifier for row, _ in quarantined))
        return quarantined

    def forget_delivered(self, connection: sa.Connection, target: str, rows: Sequence[ChangeSetRow]) -> None:
        """Forget what waited for these operations, as part of the transaction that confirms them."""
        upserts = (row.identifier for row in rows if row.operation == Operation.UPSERT)
        self._forget(connection, t.pending, target, (row.identifier for row in rows))
        self._forget(connection, t.tombstone, target, upserts)
        self._forget(connection, t.quarantine, target, (_digest(row.kind, row.azure_id) for row in rows))

    def _remember_subscriptions(self, connection: sa.Connection, plan: Plan, found: Subscriptions) -> None:
        """Note which are seen, and which of them this run reads; what is seen no more is forgotten."""
        names = ["target", "subscription_id", "settled", "whole", "missing_since", "read_by"]
        read = found.read if plan.advances_watermark else frozenset()
        rows = [
            (plan.target, id_, False, seen.whole, seen.missing_since, plan.run if id_ in read else None)
            for id_, seen in found.seen.items()
        ]
        changing = names[3:] if plan.advances_watermark else names[3:5]
        self._database.upsert(connection, t.subscription, names, rows, update=changing)
        known = sa.select(t.subscription.c.subscription_id).where(t.subscription.c.target == plan.target)
        gone = set(connection.scalars(known)) - found.seen.keys()
        self._database.delete(connection, t.subscription, names[:2], [(plan.target, id_) for id_ in sorted(gone)])

    def _remember_pending(self, connection: sa.Connection, target: str, pending: pd.DataFrame) -> None:
        """Record the pending entities; one that is pending already stays so since it was first recorded."""
        if pending.empty:
            return
        now = self._database.clock.now()
        rows = ((target, *row, now) for row in _rows(pending, "identifier", "azure_id", "type"))
        names = ("target", "identifier", "azure_id", "type", "since")
        self._database.upsert(connection, t.pending, names, rows)

    def _remember_deleted(self, connection: sa.Connection, target: str, deleted: pd.DataFrame) -> None:
        """Record tombstones; a Delete record that is read again does not prolong its own."""
        if deleted.empty:
            return
        now = self._database.clock.now()
        rows = (
            (target, identifier, azure_id.lower(), deleted_at, now)
            for identifier, azure_id, deleted_at in _rows(deleted, "identifier", "azure_id", "change_time")
        )
        names = ("target", "identifier", "azure_id", "deleted_at", "since")
        self._database.upsert(connection, t.tombstone, names, rows, update=("azure_id", "deleted_at"))

    def _remember_held(self, connection: sa.Connection, target: str, held: pd.DataFrame) -> None:
        """Hold these and no others; an entity that was held already keeps the time at which that began."""
        row = t.held_delete.c
        of_target = row.target == target
        begun = connection.execute(sa.select(row.kind, row.identifier, row.since).where(of_target)).all()
        since = {(kind, identifier): instant for kind, identifier, instant in begun}
        if begun:
            connection.execute(sa.delete(t.held_delete).where(of_target))
        now = self._database.clock.now()
        names = t.held_delete.columns.keys()
        rows = ((target, *values, since.get(values[:2], now)) for values in _rows(held, *names[1:-1]))
        self._database.upsert(connection, t.held_delete, names, rows)

    def _mark_contents_due(self, connection: sa.Connection, plan: Plan, groups: Sequence[Group]) -> None:
        until = contents_due_until(plan, this_run_reads_them=False)
        rows = ((until, plan.target, Kind.RESOURCE_GROUP, *group) for group in groups)
        where = ("target", "kind", "subscription_id", "resource_group")
        self._database.update(connection, t.ledger, ("contents_due_until",), rows, where=where)

    def _put_aside(
        self, connection: sa.Connection, plan: Plan, operations: Sequence[tuple[ChangeSetRow, str]], cause: Cause
    ) -> list[int]:
        """Record the operations; returns how many runs in a row have sent each and met this cause."""
        now = self._database.clock.now()
        quarantine = t.quarantine.c
        query = sa.select(quarantine.entity, quarantine.attempts)
        query = query.where(quarantine.target == plan.target, quarantine.cause == cause)
        before: dict[str, int] = dict(connection.execute(query).tuples().all())
        names = [_digest(row.kind, row.azure_id) for row, _ in operations]
        # What is in conflict was never sent.
        attempts = [0 if cause is Cause.CONFLICT else before.get(name, 0) + 1 for name in names]
        rows = (
            (
                plan.target,
                name,
                row.kind,
                row.identifier,
                row.azure_id,
                row.type,
                cause,
                row.operation,
                row.hash if row.operation == Operation.UPSERT else None,
                row.data,
                reason,
                now,
                now,
                number,
                plan.sink,
            )
            for (row, reason), name, number in zip(operations, names, attempts, strict=True)
        )
        changing = ("cause", "operation", "hash", "payload", "reason", "last_at", "attempts", "sink")
        self._database.upsert(connection, t.quarantine, t.quarantine.columns.keys(), rows, update=changing)
        return attempts

    def _forget(self, connection: sa.Connection, table: sa.Table, target: str, keys: Iterable[str]) -> None:
        """Delete the rows of these keys; where the table has none, as mostly, without thousands of statements."""
        if connection.scalar(sa.select(sa.exists().where(table.c.target == target))):
            names = table.primary_key.columns.keys()
            self._database.delete(connection, table, names, ((target, key) for key in keys))


def is_fresh_tombstone(database: Database) -> sa.ColumnElement[bool]:
    """Return the condition that a row of `tombstone` still counts."""
    return t.tombstone.c.since > database.clock.now() - TOMBSTONE_FOR


def _rows(frame: pd.DataFrame, *names: str) -> Iterator[Row]:
    return zip(*(frame[name] for name in names), strict=True)


def _digest(kind: str, azure_id: str) -> str:
    """The name of an entity in quarantine."""
    return hashlib.blake2b(f"{kind} {azure_id.lower()}".encode(), digest_size=16).hexdigest()
