"""The state store: watermark, ledger and what else a run must find again, behind the verbs that a run needs.

All comparisons with the ledger are joins in SQL, so that a million entities never become a million Python objects.
What moves together is written in one transaction.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from azure_port_sync.core.decisions import DELETE_RECORD, FOUND, SENDING, SETTLED, LedgerEntry
from azure_port_sync.core.errors import StateError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import Plan, TargetState
from azure_port_sync.core.request import Mode
from azure_port_sync.core.rows import ChangeSetRow, Operation, records
from azure_port_sync.core.subscriptions import Subscriptions, SubscriptionState
from azure_port_sync.state import tables as t

#: How long a row that Azure still shows is disbelieved after a Delete record (reports speak of up to 30 hours:
#: github.com/ansible-collections/azure, pull request 1994).
TOMBSTONE_FOR = timedelta(hours=48)

#: How long a run that gives no sign of life keeps its claim on a target.
LEASE = timedelta(seconds=60)

#: Rows a statement or a round trip; bounds the memory of a comparison.
_CHUNK = 5_000

#: Below the limit of bound parameters of every SQLite that Python 3.11 ships with (32,766 since 3.32).
_IN_LIST = 5_000


@dataclass(frozen=True)
class Comparison:
    """Which candidates have to be decided (positions in the frame), what is known of them, and how many do not."""

    positions: list[int]
    facts: pa.Table
    unchanged: int

    @property
    def known(self) -> Iterator[LedgerEntry]:
        """What is known of each, in their order; a few thousand at a time are Python objects."""
        for batch in self.facts.to_batches(max_chunksize=_CHUNK):
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield LedgerEntry(*values)


@dataclass(frozen=True)
class LedgerRebuild:
    """What a rebuild of the ledger found: the entities that Port holds, those that it had lost, and those added."""

    held: int
    missing: int
    added: int


class StateStore:
    """One database, any number of targets. Safe to share between threads.

    Raises StateError from every verb when the database cannot be reached or written.
    """

    def __init__(self, url: str) -> None:
        """Open the database at a SQLAlchemy `url` and create what is missing in it."""
        self._engine = _engine(url)
        with self._transaction() as connection:
            t.metadata.create_all(connection)
            self._bring_up_to_date(connection)

    def close(self) -> None:
        self._engine.dispose()

    # -- the target -------------------------------------------------------------------------------------------------

    def target_state(self, target: str) -> TargetState:
        """What is known of a target; an unknown one is created."""
        with self._transaction() as connection:
            new = {"target": target, "schema_version": t.SCHEMA_VERSION, "generation": 0}
            connection.execute(self._insert(t.target).values(new).on_conflict_do_nothing())
            row = connection.execute(sa.select(t.target).where(t.target.c.target == target)).one()
            rows = connection.scalar(sa.select(sa.func.count()).where(t.ledger.c.target == target))
        return TargetState(
            watermark=row.watermark,
            fingerprint=row.fingerprint,
            generation=row.generation,
            ledger_rows=rows or 0,
            full_runs=row.full_runs,
            schema_is_current=row.schema_version == t.SCHEMA_VERSION,
        )

    def finish(self, plan: Plan) -> None:
        """Move the watermark to the end of the plan's window: every delivery of the run is settled.

        Raises StateError when another run has settled or claimed the target since this one claimed it.
        """
        settled = plan.generation + 1
        mine = self._is_mine(plan)
        with self._transaction() as connection:
            moved = connection.execute(
                sa.update(t.target)
                .where(mine, t.target.c.generation == plan.generation)
                .values(
                    watermark=plan.window.end,
                    fingerprint=plan.fingerprint,
                    generation=settled,
                    full_runs=plan.full_runs + (plan.mode is Mode.FULL),
                    schema_version=t.SCHEMA_VERSION,
                    lease_holder=None,
                    lease_expires=None,
                )
            )
            if moved.rowcount != 1:
                raise StateError(_LOST)
            connection.execute(
                sa.update(t.subscription_seen)
                .where(t.subscription_seen.c.target == plan.target, t.subscription_seen.c.read_by == plan.run)
                .values(generation=settled)
            )

    def forget_targets(self, before: datetime, now: datetime) -> int:
        """Delete all that is kept of targets that no run has settled since `before`, where another one was settled.

        Returns how many there were. Such a one is of a webhook or a tenant that was replaced; the only target stays
        however old it is, because its ledger is what finds ghosts. One that a run delivers to is not touched.
        """
        target, ledger = t.target.c, t.ledger.c
        told = sa.select(sa.func.max(ledger.told_at)).where(ledger.target == target.target).scalar_subquery()
        last = sa.func.coalesce(target.watermark, told)  # a target without a watermark has been told something once
        free = sa.or_(target.lease_expires.is_(None), target.lease_expires <= now)
        with self._transaction() as connection:
            if not connection.scalar(sa.select(sa.exists().where(target.watermark >= before))):
                return 0
            old = list(connection.scalars(sa.select(target.target).where(last < before, free)))
            for table in t.metadata.sorted_tables:
                connection.execute(sa.delete(table).where(table.c.target.in_(old)))
        return len(old)

    # -- the lease --------------------------------------------------------------------------------------------------

    def claim(self, plan: Plan, now: datetime) -> datetime | None:
        """Claim the target for the plan's run; returns None, or the instant when the lease of another run ends.

        Raises StateError when another run has settled since this one planned.
        """
        lease = t.target.c
        free = sa.or_(
            lease.lease_holder.is_(None),
            lease.lease_holder == plan.run,
            lease.lease_expires <= now,
            lease.lease_expires > now + LEASE,  # nobody claims for so long: the clock has jumped back
        )
        with self._transaction() as connection:
            claimed = connection.execute(
                sa.update(t.target)
                .where(lease.target == plan.target, lease.generation == plan.generation, free)
                .values(lease_holder=plan.run, lease_expires=now + LEASE)
            )
            if claimed.rowcount == 1:
                return None
            row = connection.execute(sa.select(t.target).where(lease.target == plan.target)).one()
        if row.generation != plan.generation:
            raise StateError(
                "This change set was planned before another run settled, so it may be out of date; nothing was sent. "
                "Launch the job incremental_sync instead of a part of an old run."
            )
        expires: datetime = row.lease_expires
        return expires

    def renew(self, plan: Plan, now: datetime) -> datetime:
        """Keep the claim; returns until when. Raises StateError when another run has taken the target over."""
        with self._transaction() as connection:
            self._renew(connection, plan, now)
        return now + LEASE

    def release(self, plan: Plan) -> None:
        """Give the claim up, where it is still ours."""
        with self._transaction() as connection:
            connection.execute(
                sa.update(t.target).where(self._is_mine(plan)).values(lease_holder=None, lease_expires=None)
            )

    def _renew(self, connection: sa.Connection, plan: Plan, now: datetime) -> None:
        renewed = connection.execute(sa.update(t.target).where(self._is_mine(plan)).values(lease_expires=now + LEASE))
        if renewed.rowcount != 1:
            raise StateError(_LOST)

    def _is_mine(self, plan: Plan) -> sa.ColumnElement[bool]:
        return sa.and_(t.target.c.target == plan.target, t.target.c.lease_holder == plan.run)

    # -- subscriptions and containers -------------------------------------------------------------------------------

    def subscriptions(self, target: str) -> dict[str, SubscriptionState]:
        """What is remembered of the target's subscriptions, by their lower-case ids."""
        seen = t.subscription_seen
        query = sa.select(
            seen.c.subscription_id, seen.c.whole, seen.c.generation == t.target.c.generation, seen.c.missing_since
        ).join(t.target, t.target.c.target == seen.c.target)
        with self._transaction() as connection:
            rows = connection.execute(query.where(seen.c.target == target)).all()
        return {
            id_: SubscriptionState(whole, bool(settled), missing_since) for id_, whole, settled, missing_since in rows
        }

    def remember_subscriptions(self, plan: Plan, presence: Subscriptions) -> None:
        """Record what a run sees of the subscriptions, and which of them it reads."""
        read = presence.read if plan.advances_watermark else frozenset()
        rows = [
            {
                "target": plan.target,
                "subscription_id": id_,
                "whole": seen.whole,
                "missing_since": seen.missing_since,
                "read_by": plan.run if id_ in read else None,
            }
            for id_, seen in presence.seen.items()
        ]
        columns = ("whole", "missing_since", *(("read_by",) if plan.advances_watermark else ()))
        seen_before = t.subscription_seen.c
        with self._transaction() as connection:
            self._upsert(connection, t.subscription_seen, rows, update=columns)
            of_target = seen_before.target == plan.target
            known = connection.scalars(sa.select(seen_before.subscription_id).where(of_target))
            for chunk in _chunks(sorted(set(known) - presence.seen.keys()), _IN_LIST):
                forgotten = sa.and_(of_target, seen_before.subscription_id.in_(chunk))
                connection.execute(sa.delete(t.subscription_seen).where(forgotten))

    def known_containers(self, target: str) -> pd.DataFrame:
        """The subscriptions and resource groups in the ledger: identity columns, `state` and `complete_after`."""
        ledger = t.ledger
        kinds = (Kind.SUBSCRIPTION, Kind.RESOURCE_GROUP)
        return self._frame(
            sa.select(*_identity(ledger), ledger.c.state, ledger.c.complete_after).where(
                ledger.c.target == target, ledger.c.kind.in_(kinds)
            )
        )

    def groups_with_resources(self, target: str) -> list[tuple[str, str]]:
        """The (subscription id, resource group) pairs in which the ledger holds a resource."""
        ledger = t.ledger
        query = sa.select(ledger.c.subscription_id, ledger.c.resource_group).distinct()
        with self._transaction() as connection:
            found = connection.execute(query.where(ledger.c.target == target, ledger.c.kind == Kind.RESOURCE))
            return [(row.subscription_id, row.resource_group) for row in found]

    def known_resources_in(self, target: str, groups: Sequence[tuple[str, str]]) -> pd.DataFrame:
        """The known resources in these (subscription id, resource group) pairs: identity columns."""
        ledger = t.ledger
        frames = [
            self._frame(
                sa.select(*_identity(ledger)).where(
                    ledger.c.target == target,
                    ledger.c.kind == Kind.RESOURCE,
                    sa.tuple_(ledger.c.subscription_id, ledger.c.resource_group).in_(chunk),
                )
            )
            for chunk in _chunks(groups, _IN_LIST)
        ]
        return pd.concat(frames) if frames else self._frame(sa.select(*_identity(ledger)).where(sa.false()))

    # -- comparing --------------------------------------------------------------------------------------------------

    def compare(self, target: str, candidates: pd.DataFrame, *, resend: pd.Series, now: datetime) -> Comparison:
        """Join the candidates with the ledger and drop those that Port has been told already.

        `candidates` has the columns of OBSERVATION, one row per entity. Those that the mask `resend` names are not
        dropped.
        """
        c, ledger, tombstone = t.candidate, t.ledger, t.tombstone
        equal = sa.and_(ledger.c.state == SETTLED, ledger.c.hash == c.c.equal_hash)
        unchanged = sa.select(sa.func.count()).select_from(c).join(ledger, _same_entity(target)).where(equal)
        query = (
            sa.select(c.c.position, ledger.c.state, ledger.c.hash, tombstone.c.deleted_at, ledger.c.azure_id)
            .outerjoin(ledger, _same_entity(target))
            .outerjoin(
                tombstone,
                sa.and_(
                    tombstone.c.target == target,
                    tombstone.c.identifier == c.c.identifier,
                    tombstone.c.azure_id == c.c.azure_id,  # another id may meet this one in the identifier
                    tombstone.c.since > now - TOMBSTONE_FOR,
                ),
            )
            .where(sa.or_(equal.is_(None), sa.not_(equal)))
            .order_by(c.c.position)
        )
        positions: list[int] = []
        facts = [_FACTS.empty_table()]
        with self._candidates(candidates, comparable=~resend) as connection:
            for rows in connection.execute(query, execution_options={"yield_per": _CHUNK}).partitions():
                position, *columns = zip(*rows, strict=True)
                positions += position
                facts.append(pa.table([pa.array(c, type=f.type) for c, f in zip(columns, _FACTS, strict=True)], _FACTS))
            equals = connection.scalar(unchanged) or 0
        return Comparison(positions, pa.concat_tables(facts), equals)

    def absent(
        self, target: str, observations: pd.DataFrame, *, subscriptions: Collection[str] | None = None
    ) -> pd.DataFrame:
        """The known resources (of these subscriptions) that are not among the observations: identity columns.

        One whose id has letters beyond ASCII may be among them in another casing all the same.
        """
        ledger, c = t.ledger, t.candidate
        query = (
            sa.select(*_identity(ledger))
            .outerjoin(
                c,
                sa.and_(
                    c.c.kind == ledger.c.kind,
                    c.c.identifier == ledger.c.identifier,
                    # Another id may meet this one in the identifier; of what was only found in Port, it is a guess.
                    sa.or_(ledger.c.state == FOUND, c.c.azure_id == sa.func.lower(ledger.c.azure_id)),
                ),
            )
            .where(ledger.c.target == target, ledger.c.kind == Kind.RESOURCE, c.c.position.is_(None))
        )
        if subscriptions is not None:
            query = query.where(ledger.c.subscription_id.in_(subscriptions))
        with self._candidates(observations, comparable=False) as connection:
            return pd.DataFrame(connection.execute(query).all(), columns=_IDENTITY)

    def ledger_counts(self, target: str) -> dict[Kind, int]:
        """How many entities of each kind Port has been told of."""
        ledger = t.ledger
        query = sa.select(ledger.c.kind, sa.func.count()).where(ledger.c.target == target, ledger.c.hash.is_not(None))
        with self._transaction() as connection:
            return {Kind(kind): number for kind, number in connection.execute(query.group_by(ledger.c.kind))}

    def known_among(self, target: str, operations: pd.DataFrame) -> int:
        """How many of these rows (columns `kind` and `identifier`) the ledger holds."""
        known = 0
        with self._transaction() as connection:
            for kind, rows in operations.groupby("kind"):
                for chunk in _chunks(rows["identifier"].tolist(), _IN_LIST):
                    of_kind = sa.and_(t.ledger.c.target == target, t.ledger.c.kind == kind)
                    query = sa.select(sa.func.count()).where(of_kind, t.ledger.c.identifier.in_(chunk))
                    known += connection.scalar(query) or 0
        return known

    def refill(self, target: str, held: pd.DataFrame, now: datetime) -> LedgerRebuild:
        """Make the ledger what Port really holds; the next run has to be full, and tells all of it again.

        `held` has the identity columns. What the ledger knew of an entity beyond its existence is kept. All of it is
        one transaction, and a run that plans or delivers meanwhile is refused.
        """
        ledger = t.ledger
        of_target = ledger.c.target == target
        with self._transaction() as connection:
            connection.execute(sa.update(ledger).where(of_target).values(state=_UNSEEN))
            before = connection.scalar(sa.select(sa.func.count()).where(of_target)) or 0
            for start in range(0, len(held), _CHUNK):
                rows = [
                    {"target": target, **row, "state": FOUND, "complete_after": 0, "told_at": now}
                    for row in records(held[_IDENTITY].iloc[start : start + _CHUNK])
                ]
                self._upsert(connection, ledger, rows, update=("state", "told_at"))
            missing = connection.execute(sa.delete(ledger).where(of_target, ledger.c.state == _UNSEEN)).rowcount
            connection.execute(
                sa.update(t.target)
                .where(t.target.c.target == target)
                .values(watermark=None, generation=t.target.c.generation + 1)
            )
        return LedgerRebuild(held=len(held), missing=missing, added=len(held) - (before - missing))

    # -- pending and tombstones -------------------------------------------------------------------------------------

    def pending(self, target: str) -> pd.DataFrame:
        """The entities that wait for a row: identifier, azure_id, type, change_type, change_time, since."""
        return self._frame(sa.select(t.pending).where(t.pending.c.target == target))

    def tombstones(self, target: str, now: datetime) -> pd.DataFrame:
        """What Delete records have removed of late: identifier, deleted_at."""
        tombstone = t.tombstone
        return self._frame(
            sa.select(tombstone.c.identifier, tombstone.c.deleted_at).where(
                tombstone.c.target == target, tombstone.c.since > now - TOMBSTONE_FOR
            )
        )

    def record_facts(
        self,
        target: str,
        *,
        pending: pd.DataFrame,
        resolved: Sequence[str],
        deleted: pd.DataFrame,
        colliding: Sequence[tuple[ChangeSetRow, str]],
        released: Sequence[tuple[str, str]],
        now: datetime,
    ) -> None:
        """Remember what a run learned about Azure, whether or not its deliveries succeed.

        `pending` waits for a row, `resolved` identifiers wait no longer and need no delivery, `deleted` holds the
        candidates whose newest record is a Delete (both frames with the columns of OBSERVATION). `colliding` have an
        identifier that is another's, each with the reason, and `released` (kind, azure id) pairs leave quarantine.
        """
        with self._transaction() as connection:
            columns = ("azure_id", "type", "change_type", "change_time")
            rows = [
                {
                    "target": target,
                    "identifier": row["identifier"],
                    "since": now,
                    **{c: row[c] for c in columns},
                }
                for row in records(pending)
            ]
            self._upsert(connection, t.pending, rows, update=("change_type", "change_time"))
            self._forget(connection, t.pending, target, resolved)
            buried = deleted[deleted["change_type"] == DELETE_RECORD]
            rows = [
                {
                    "target": target,
                    "identifier": row["identifier"],
                    "azure_id": row["azure_id"],
                    "deleted_at": row["change_time"],
                    "since": now,
                }
                for row in records(buried.assign(azure_id=buried["azure_id"].str.lower()))
            ]
            self._upsert(connection, t.tombstone, rows, update=("azure_id", "deleted_at"))
            taken = [
                _refused(target, row, reason, now, operation=None, hash=None, attempts=0) for row, reason in colliding
            ]
            self._put_in_quarantine(connection, taken)
            self._release(connection, target, released)
            expired = sa.and_(t.tombstone.c.target == target, t.tombstone.c.since <= now - TOMBSTONE_FOR)
            connection.execute(sa.delete(t.tombstone).where(expired))

    # -- quarantine -------------------------------------------------------------------------------------------------

    def quarantined(self, target: str) -> pd.DataFrame:
        """What Port does not take: kind, identifier, azure_id, type, operation, hash, payload, reason, times, attempts.

        `operation` is null where the identifier is another entity's.
        """
        names = [column for column in t.quarantine.c if column.name not in ("target", "entity")]
        query = sa.select(*names).where(t.quarantine.c.target == target)
        return self._frame(query.order_by(t.quarantine.c.first_at, t.quarantine.c.azure_id))

    def quarantine(self, plan: Plan, refused: Sequence[tuple[ChangeSetRow, str]], now: datetime) -> None:
        """Record why Port does not take these operations: rows of a change set, each with its reason."""
        with self._transaction() as connection:
            self._renew(connection, plan, now)
            rows = [
                _refused(
                    plan.target,
                    row,
                    reason,
                    now,
                    operation=str(row.operation),
                    hash=row.hash if row.operation == Operation.UPSERT else None,
                    attempts=1,
                )
                for row, reason in refused
            ]
            self._put_in_quarantine(connection, rows)
            self._forget(connection, t.pending, plan.target, [row.identifier for row, _ in refused])

    def _put_in_quarantine(self, connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
        insert = self._insert(t.quarantine)
        new = {name: insert.excluded[name] for name in ("operation", "hash", "payload", "reason", "last_at")}
        insert = insert.on_conflict_do_update(
            index_elements=list(t.quarantine.primary_key),
            set_={**new, "attempts": t.quarantine.c.attempts + insert.excluded.attempts},
        )
        for chunk in _chunks(rows, _CHUNK):
            connection.execute(insert, chunk)

    def _release(self, connection: sa.Connection, target: str, entities: Sequence[tuple[str, str]]) -> None:
        """Forget what was refused of these (kind, azure id) pairs."""
        if not self._holds_any(connection, t.quarantine, target):
            return
        for chunk in _chunks([_digest(*pair) for pair in entities], _IN_LIST):
            of_target = t.quarantine.c.target == target
            connection.execute(sa.delete(t.quarantine).where(of_target, t.quarantine.c.entity.in_(chunk)))

    # -- delivering -------------------------------------------------------------------------------------------------

    def read_again(self, plan: Plan, groups: Sequence[tuple[str, str]]) -> None:
        """Have the next run inventory these (subscription id, resource group) pairs: what is in them is in doubt."""
        ledger = t.ledger
        with self._transaction() as connection:
            for subscription_id, resource_group in groups:
                connection.execute(
                    sa.update(ledger)
                    .where(
                        ledger.c.target == plan.target,
                        ledger.c.kind == Kind.RESOURCE_GROUP,
                        ledger.c.subscription_id == subscription_id,
                        ledger.c.resource_group == resource_group,
                    )
                    .values(complete_after=plan.generation + 1)
                )

    def begin_deleting_containers(self, plan: Plan, containers: Sequence[ChangeSetRow], now: datetime) -> None:
        """Record, before anything is sent, that these containers are to go, and with them all that is in them.

        However far the run gets, none of it counts as unchanged any more, and a container that comes back is
        inventoried. `containers` have the columns of CHANGE_SET. Like all verbs of a delivery, it renews the lease and
        raises StateError when another run has taken the target over.
        """
        seen = t.subscription_seen
        values = {"state": SENDING, "complete_after": plan.generation}
        with self._transaction() as connection:
            self._renew(connection, plan, now)
            for row in containers:
                for gone in _gone_with(plan.target, row):
                    connection.execute(sa.update(t.ledger).where(gone).values(values))
                if row.kind == Kind.SUBSCRIPTION:
                    is_it = sa.and_(seen.c.target == plan.target, seen.c.subscription_id == row.subscription_id)
                    connection.execute(sa.update(seen).where(is_it).values(generation=None))

    def begin_sending(self, plan: Plan, rows: Sequence[ChangeSetRow], now: datetime) -> None:
        """Record that these operations are about to reach Port; `rows` have the columns of CHANGE_SET.

        From here on none of them counts as unchanged, and a delete always reaches them.
        """
        values = [
            {
                "target": plan.target,
                **{name: getattr(row, name) for name in _IDENTITY},
                "state": SENDING,
                "complete_after": plan.generation,
                "told_at": now,
            }
            for row in rows
        ]
        with self._transaction() as connection:
            self._renew(connection, plan, now)
            # The id of what was only found in Port was a guess, and counts from here on.
            self._upsert(connection, t.ledger, values, update=(*_TOLD, "state", "told_at"))

    def settle(self, plan: Plan, rows: Sequence[ChangeSetRow], now: datetime) -> None:
        """Record in one transaction that Port took these operations; `rows` have the columns of CHANGE_SET.

        They have been begun before (`begin_sending`). Port deletes what depends on a deleted container, so the ledger
        beneath one is voided with it.
        """
        with self._transaction() as connection:
            self._renew(connection, plan, now)
            upserts = [row for row in rows if row.operation == Operation.UPSERT]
            if upserts:
                mark = self._mark
                connection.exec_driver_sql(
                    f"UPDATE ledger SET hash = {mark}, state = {mark} "  # noqa: S608  (no value in the text)
                    f"WHERE target = {mark} AND kind = {mark} AND identifier = {mark}",
                    [(row.hash, SETTLED, plan.target, row.kind, row.identifier) for row in upserts],
                )
            for row in rows:
                if row.operation == Operation.DELETE:
                    for gone in _gone_with(plan.target, row):
                        connection.execute(sa.delete(t.ledger).where(gone))
            self._forget(connection, t.pending, plan.target, [row.identifier for row in rows])
            self._forget(connection, t.tombstone, plan.target, [row.identifier for row in upserts])
            self._release(connection, plan.target, [(row.kind, row.azure_id) for row in rows])

    # -- plumbing ---------------------------------------------------------------------------------------------------

    @property
    def _mark(self) -> str:
        """What stands for a value in the text of a statement that goes to the driver as it is."""
        return "?" if self._engine.dialect.name == "sqlite" else "%s"

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            raise StateError(
                f"The state store ({_place(self._engine.url)}) cannot be used: {_first_line(error.orig)}. "
                "Check AZURE_PORT_SYNC_STATE_URL and that the database can be written."
            ) from error

    @contextmanager
    def _candidates(self, frame: pd.DataFrame, *, comparable: "pd.Series | bool") -> Iterator[sa.Connection]:
        """A connection whose temporary table holds these candidates; those not `comparable` have no equal."""
        with self._transaction() as connection:
            connection.execute(sa.schema.CreateTable(t.candidate, if_not_exists=True))
            connection.execute(sa.delete(t.candidate))
            may_be_equal = frame["present"] & frame["in_scope"] & (frame["change_type"] != DELETE_RECORD).fillna(True)
            hashes = frame["hash"].where(may_be_equal & comparable, None)
            mark = self._mark
            insert = f"INSERT INTO candidate VALUES ({', '.join([mark] * 5)})"  # noqa: S608  (no value in the text)
            for start in range(0, len(frame), _CHUNK):
                part = slice(start, start + _CHUNK)
                ids = frame["azure_id"].iloc[part].str.lower()
                columns = (frame["kind"].iloc[part], frame["identifier"].iloc[part], hashes.iloc[part], ids)
                kinds, identifiers, equal, ids = (pa.array(column, type=pa.string()).to_pylist() for column in columns)
                # Plain tuples, because a million dicts cost more than the million rows.
                rows = list(zip(kinds, identifiers, range(start, start + _CHUNK), equal, ids, strict=False))
                connection.exec_driver_sql(insert, rows)
            yield connection

    def _bring_up_to_date(self, connection: sa.Connection) -> None:
        """Give the tables of another version the columns of this one; the next run of each target is then full."""
        inspector = sa.inspect(connection)
        for table in t.metadata.sorted_tables:
            key = inspector.get_pk_constraint(table.name)["constrained_columns"]
            if set(key) != set(table.primary_key.columns.keys()):
                table.drop(connection)
                table.create(connection)
                continue
            there = {column["name"] for column in inspector.get_columns(table.name)}
            for column in table.columns:
                if column.name not in there:
                    definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                    connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {definition}")
            for name in there - {column.name for column in table.columns}:
                connection.exec_driver_sql(f"ALTER TABLE {table.name} DROP COLUMN {name}")

    def _frame(self, query: sa.Select[Any]) -> pd.DataFrame:
        with self._transaction() as connection:
            result = connection.execute(query)
            return pd.DataFrame(result.all(), columns=list(result.keys()))

    def _insert(self, table: sa.Table) -> Any:
        return (postgresql if self._engine.dialect.name == "postgresql" else sqlite).insert(table)

    def _upsert(
        self, connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]], *, update: Sequence[str]
    ) -> None:
        """Insert the rows, or bring the `update` columns of those that are there up to date."""
        if not rows:
            return
        # Given to the driver as it is: binding the parameters in SQLAlchemy takes longer than the database.
        names = list(rows[0])
        mark = self._mark
        statement = (
            f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join([mark] * len(names))}) "  # noqa: S608
            f"ON CONFLICT ({', '.join(table.primary_key.columns.keys())}) DO UPDATE SET "
            + ", ".join(f"{name} = excluded.{name}" for name in update)
        )
        processors = [
            table.c[name].type.dialect_impl(self._engine.dialect).bind_processor(self._engine.dialect) for name in names
        ]
        for chunk in _chunks(rows, _CHUNK):
            columns = (
                [row[name] for row in chunk]
                if processor is None
                else list(map(cache(processor), (row[name] for row in chunk)))
                for name, processor in zip(names, processors, strict=True)
            )
            connection.exec_driver_sql(statement, list(zip(*columns, strict=True)))

    def _holds_any(self, connection: sa.Connection, table: sa.Table, target: str) -> bool:
        """Spares a long list of names where there is nothing, as there mostly is."""
        return bool(connection.scalar(sa.select(sa.exists().where(table.c.target == target))))

    def _forget(self, connection: sa.Connection, table: sa.Table, target: str, identifiers: Sequence[str]) -> None:
        if not self._holds_any(connection, table, target):
            return
        for chunk in _chunks(identifiers, _IN_LIST):
            connection.execute(sa.delete(table).where(table.c.target == target, table.c.identifier.in_(chunk)))


_LOST = (
    "Another run has taken this target over, because this one gave no sign of life, or has settled it meanwhile; this "
    "one stops, and the watermark stays where the other puts it. Run one sync at a time; the next tick reads "
    "everything that is missing."
)

#: The columns of Known.
_FACTS = pa.schema(
    [
        ("state", pa.string()),
        ("hash", pa.string()),
        ("tombstone", pa.timestamp("us", tz="UTC")),
        ("azure_id", pa.string()),
    ]
)

#: While a refill is under way: in the ledger, and not met in Port yet.
_UNSEEN = "unseen"

_TOLD = ["azure_id", "type", "name", "subscription_id", "resource_group"]
_IDENTITY = ["kind", "identifier", *_TOLD]


def _identity(table: sa.Table) -> list[sa.Column[Any]]:
    return [table.c[name] for name in _IDENTITY]


def _same_entity(target: str) -> sa.ColumnElement[bool]:
    c, ledger = t.candidate, t.ledger
    return sa.and_(ledger.c.target == target, ledger.c.kind == c.c.kind, ledger.c.identifier == c.c.identifier)


def _gone_with(target: str, row: ChangeSetRow) -> list[sa.ColumnElement[bool]]:
    """The ledger rows that a delete ends: the entity itself, and for a container all that is in it.

    One condition for each index that finds them.
    """
    ledger = t.ledger
    itself = sa.and_(ledger.c.target == target, ledger.c.kind == row.kind, ledger.c.identifier == row.identifier)
    within = sa.and_(ledger.c.target == target, ledger.c.subscription_id == row.subscription_id)
    match row.kind:
        case Kind.SUBSCRIPTION:
            return [itself, sa.and_(within, ledger.c.kind.in_((Kind.RESOURCE_GROUP, Kind.RESOURCE)))]
        case Kind.RESOURCE_GROUP:
            in_group = ledger.c.resource_group == row.resource_group
            return [itself, sa.and_(within, ledger.c.kind == Kind.RESOURCE, in_group)]
        case _:
            return [itself]


def _digest(kind: str, azure_id: str) -> str:
    """What names an entity in quarantine."""
    return hashlib.blake2b(f"{kind} {azure_id.lower()}".encode(), digest_size=16).hexdigest()


def _refused(target: str, row: ChangeSetRow, reason: str, now: datetime, **more: Any) -> dict[str, Any]:
    """A row of the quarantine."""
    return {
        "target": target,
        "entity": _digest(row.kind, row.azure_id),
        **{name: getattr(row, name) for name in ("kind", "identifier", "azure_id", "type")},
        "payload": row.data,
        "reason": reason,
        "first_at": now,
        "last_at": now,
        **more,
    }


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _chunks(values: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _place(url: sa.URL) -> str:
    """Where a database is, without what may be secret in its URL."""
    return f"{url.get_backend_name()} at {url.host or 'this machine'}, {url.database}"


def _engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StateError(
            "AZURE_PORT_SYNC_STATE_URL is not a database URL; write e.g. "
            "postgresql://user:password@host/database or sqlite:////var/lib/azure_port_sync/state.sqlite."
        ) from None
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        # Another process may hold SQLite's one lock for the time of a large transaction.
        patience = {"timeout": 60} if parsed.get_backend_name() == "sqlite" else {}
        return sa.create_engine(parsed, connect_args=patience)
    except (ModuleNotFoundError, sa.exc.NoSuchModuleError):
        raise StateError(
            f"AZURE_PORT_SYNC_STATE_URL names {parsed.get_backend_name()}, whose driver is not installed; "
            "install azure-port-sync[postgres] or use a postgresql:// or sqlite:/// URL."
        ) from None
