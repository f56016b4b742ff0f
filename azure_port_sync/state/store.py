"""The state store: watermark, ledger and what else a run must find again, behind the verbs that a run needs.

All comparisons with the ledger are joins in SQL, so that a million entities never become a million Python objects.
What moves together is written in one transaction.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from azure_port_sync.state import tables as t
from azure_port_sync.sync.decisions import DELETE_RECORD, Known
from azure_port_sync.sync.errors import StateError
from azure_port_sync.sync.rows import Kind, Operation, records
from azure_port_sync.sync.windows import Plan, TargetState

Row = Mapping[str, Any]

#: How long a row that Azure still shows is disbelieved after a Delete record (reports speak of up to 30 hours:
#: github.com/ansible-collections/azure, pull request 1994).
TOMBSTONE_FOR = timedelta(hours=48)

#: Rows a statement or a round trip; bounds the memory of a comparison.
_CHUNK = 5_000

#: Below the limit of bound parameters of every SQLite that Python 3.11 ships with (32,766 since 3.32).
_IN_LIST = 5_000


@dataclass(frozen=True)
class Comparison:
    """Which candidates have to be decided (positions in the frame), what is known of them, and how many do not."""

    positions: list[int]
    known: list[Known]
    unchanged: int


class StateStore:
    """One database, any number of targets. Safe to share between threads.

    Raises StateError from every verb when the database cannot be reached or written.
    """

    def __init__(self, url: str) -> None:
        """Open the database at a SQLAlchemy `url` and create what is missing in it."""
        self._engine = _engine(url)
        with self._transaction() as connection:
            t.metadata.create_all(connection)

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
        current = row.schema_version == t.SCHEMA_VERSION
        return TargetState(row.watermark, row.fingerprint, row.generation, rows or 0, schema_is_current=current)

    def finish(self, plan: Plan) -> None:
        """Move the watermark to the end of the plan's window: every delivery of the run is settled.

        Raises StateError when another run has settled since this one planned.
        """
        settled = plan.generation + 1
        with self._transaction() as connection:
            moved = connection.execute(
                sa.update(t.target)
                .where(t.target.c.target == plan.target, t.target.c.generation == plan.generation)
                .values(
                    watermark=plan.window.end,
                    fingerprint=plan.fingerprint,
                    generation=settled,
                    schema_version=t.SCHEMA_VERSION,
                )
            )
            if moved.rowcount != 1:
                raise StateError(
                    "Another run settled this target while this one was delivering; the watermark stays where that "
                    "run put it. Run one sync at a time; the next tick reads everything that is missing."
                )
            connection.execute(
                sa.update(t.subscription_seen)
                .where(t.subscription_seen.c.target == plan.target, t.subscription_seen.c.in_last_reading)
                .values(generation=settled)
            )

    def check_plan(self, plan: Plan) -> None:
        """Raise StateError when this plan was made before another run settled."""
        if self.target_state(plan.target).generation != plan.generation:
            raise StateError(
                "This change set was planned before another run settled, so it may be out of date; nothing was sent. "
                "Launch the job incremental_sync instead of a part of an old run."
            )

    # -- subscriptions and containers -------------------------------------------------------------------------------

    def begin_reading(self, target: str, subscription_ids: Sequence[str], now: datetime) -> list[str]:
        """Record which subscriptions a run reads; returns those that the last settled run did not read."""
        seen = t.subscription_seen
        with self._transaction() as connection:
            connection.execute(sa.update(seen).where(seen.c.target == target).values(in_last_reading=False))
            rows = [
                {"target": target, "subscription_id": id_, "seen_at": now, "in_last_reading": True}
                for id_ in subscription_ids
            ]
            self._upsert(connection, seen, rows, update=("seen_at", "in_last_reading"))
            settled = connection.scalars(
                sa.select(seen.c.subscription_id)
                .join(t.target, t.target.c.target == seen.c.target)
                .where(seen.c.target == target, seen.c.generation == t.target.c.generation)
            ).all()
        return sorted(set(subscription_ids) - set(settled))

    def known_containers(self, target: str) -> pd.DataFrame:
        """The subscriptions and resource groups in the ledger: identity columns and `complete_after`."""
        ledger = t.ledger
        kinds = (Kind.SUBSCRIPTION, Kind.RESOURCE_GROUP)
        return self._frame(
            sa.select(*_identity(ledger), ledger.c.complete_after).where(
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

    def compare(self, target: str, candidates: pd.DataFrame, *, force: bool, now: datetime) -> Comparison:
        """Join the candidates with the ledger and drop those that Port has been told already.

        `candidates` has the columns of OBSERVATION, one row per entity. With `force` nothing is dropped.
        """
        c, ledger, tombstone = t.candidate, t.ledger, t.tombstone
        equal = sa.and_(ledger.c.state == "settled", ledger.c.hash == c.c.equal_hash)
        unchanged = sa.select(sa.func.count()).select_from(c).join(ledger, _same_entity(target)).where(equal)
        query = (
            sa.select(
                c.c.position,
                ledger.c.state,
                ledger.c.hash,
                ledger.c.azure_id,
                tombstone.c.azure_id.label("buried_id"),
                tombstone.c.deleted_at,
            )
            .outerjoin(ledger, _same_entity(target))
            .outerjoin(
                tombstone,
                sa.and_(
                    tombstone.c.target == target,
                    tombstone.c.identifier == c.c.identifier,
                    tombstone.c.since > now - TOMBSTONE_FOR,
                ),
            )
            .where(sa.or_(equal.is_(None), sa.not_(equal)))
            .order_by(c.c.position)
        )
        with self._candidates(candidates, comparable=not force) as connection:
            found = connection.execute(query).all()
            equals = connection.scalar(unchanged) or 0
        positions = [row.position for row in found]
        ids = candidates["azure_id"].take(positions).tolist()
        known = [
            Known(row.state, row.hash, row.deleted_at if _same(row.buried_id, azure_id) else None, row.azure_id)
            for row, azure_id in zip(found, ids, strict=True)
        ]
        return Comparison(positions, known, equals)

    def absent(self, target: str, observations: pd.DataFrame) -> pd.DataFrame:
        """The known resources that are not among these observations: identity columns."""
        ledger, c = t.ledger, t.candidate
        query = (
            sa.select(*_identity(ledger))
            .outerjoin(c, sa.and_(c.c.kind == ledger.c.kind, c.c.identifier == ledger.c.identifier))
            .where(ledger.c.target == target, ledger.c.kind == Kind.RESOURCE, c.c.position.is_(None))
        )
        with self._candidates(observations, comparable=False) as connection:
            return pd.DataFrame(connection.execute(query).all(), columns=_IDENTITY)

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
        now: datetime,
    ) -> None:
        """Remember what a run learned about Azure, whether or not its deliveries succeed.

        `pending` waits for a row, `resolved` identifiers wait no longer and need no delivery, `deleted` holds the
        candidates whose newest record is a Delete. The two frames have the columns of OBSERVATION.
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
                for row in records(buried[["identifier", "azure_id", "change_time"]])
            ]
            self._upsert(connection, t.tombstone, rows, update=("azure_id", "deleted_at"))
            expired = sa.and_(t.tombstone.c.target == target, t.tombstone.c.since <= now - TOMBSTONE_FOR)
            connection.execute(sa.delete(t.tombstone).where(expired))

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

    def begin_deleting_containers(self, plan: Plan, containers: Sequence[Row]) -> None:
        """Record, before anything is sent, that these containers are to go, and with them all that is in them.

        However far the run gets, none of it counts as unchanged any more, and a container that comes back is
        inventoried. `containers` have the columns of CHANGE_SET.
        """
        seen = t.subscription_seen
        values = {"state": "sending", "complete_after": plan.generation}
        with self._transaction() as connection:
            for row in containers:
                for gone in _gone_with(plan.target, row):
                    connection.execute(sa.update(t.ledger).where(gone).values(values))
                if row["kind"] == Kind.SUBSCRIPTION:
                    is_it = sa.and_(seen.c.target == plan.target, seen.c.subscription_id == row["subscription_id"])
                    connection.execute(sa.update(seen).where(is_it).values(generation=None))

    def begin_sending(self, plan: Plan, rows: Sequence[Row], now: datetime) -> None:
        """Record that these operations are about to reach Port; `rows` have the columns of CHANGE_SET.

        From here on none of them counts as unchanged, and a delete always reaches them.
        """
        values = [
            {
                "target": plan.target,
                **{name: row[name] for name in _IDENTITY},
                "state": "sending",
                "complete_after": plan.generation,
                "told_at": now,
            }
            for row in rows
        ]
        with self._transaction() as connection:
            self._upsert(connection, t.ledger, values, update=("state", "told_at"))

    def settle(self, plan: Plan, rows: Sequence[Row], now: datetime) -> None:
        """Record in one transaction that Port took these operations; `rows` have the columns of CHANGE_SET.

        Port deletes what depends on a deleted container, so the ledger beneath one is voided with it.
        """
        with self._transaction() as connection:
            upserts = [
                {
                    "target": plan.target,
                    **{name: row[name] for name in _IDENTITY},
                    "hash": row["hash"],
                    "state": "settled",
                    "complete_after": plan.generation,
                    "told_at": now,
                }
                for row in rows
                if row["operation"] == Operation.UPSERT
            ]
            columns = (
                "azure_id",
                "type",
                "name",
                "subscription_id",
                "resource_group",
                "hash",
                "state",
                "told_at",
            )
            self._upsert(connection, t.ledger, upserts, update=columns)
            for row in rows:
                if row["operation"] == Operation.DELETE:
                    for gone in _gone_with(plan.target, row):
                        connection.execute(sa.delete(t.ledger).where(gone))
            self._forget(connection, t.pending, plan.target, [row["identifier"] for row in rows])
            self._forget(connection, t.tombstone, plan.target, [row["identifier"] for row in upserts])

    # -- plumbing ---------------------------------------------------------------------------------------------------

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
    def _candidates(self, frame: pd.DataFrame, *, comparable: bool) -> Iterator[sa.Connection]:
        """A connection whose temporary table holds these candidates."""
        with self._transaction() as connection:
            connection.execute(sa.schema.CreateTable(t.candidate, if_not_exists=True))
            connection.execute(sa.delete(t.candidate))
            may_be_equal = frame["present"] & frame["in_scope"] & (frame["change_type"] != DELETE_RECORD).fillna(True)
            hashes = frame["hash"].where(may_be_equal & comparable, None)
            mark = "?" if self._engine.dialect.name == "sqlite" else "%s"
            insert = f"INSERT INTO candidate VALUES ({', '.join([mark] * 4)})"  # noqa: S608  (no value in the text)
            for start in range(0, len(frame), _CHUNK):
                part = slice(start, start + _CHUNK)
                columns = (frame["kind"].iloc[part], frame["identifier"].iloc[part], hashes.iloc[part])
                kinds, identifiers, equal = (pa.array(column, type=pa.string()).to_pylist() for column in columns)
                # Plain tuples, because a million dicts cost more than the million rows.
                rows = list(zip(kinds, identifiers, range(start, start + _CHUNK), equal, strict=False))
                connection.exec_driver_sql(insert, rows)
            yield connection

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
        statement = self._insert(table)
        statement = statement.on_conflict_do_update(
            index_elements=list(table.primary_key), set_={name: statement.excluded[name] for name in update}
        )
        for chunk in _chunks(rows, _CHUNK):
            connection.execute(statement, chunk)

    def _forget(self, connection: sa.Connection, table: sa.Table, target: str, identifiers: Sequence[str]) -> None:
        for chunk in _chunks(identifiers, _IN_LIST):
            connection.execute(sa.delete(table).where(table.c.target == target, table.c.identifier.in_(chunk)))


_IDENTITY = ["kind", "identifier", "azure_id", "type", "name", "subscription_id", "resource_group"]


def _identity(table: sa.Table) -> list[sa.Column[Any]]:
    return [table.c[name] for name in _IDENTITY]


def _same_entity(target: str) -> sa.ColumnElement[bool]:
    c, ledger = t.candidate, t.ledger
    return sa.and_(ledger.c.target == target, ledger.c.kind == c.c.kind, ledger.c.identifier == c.c.identifier)


def _same(one: str | None, other: str) -> bool:
    return one is not None and one.lower() == other.lower()


def _gone_with(target: str, row: Row) -> list[sa.ColumnElement[bool]]:
    """The ledger rows that a delete ends: the entity itself, and for a container all that is in it.

    One condition for each index that finds them.
    """
    ledger = t.ledger
    itself = sa.and_(ledger.c.target == target, ledger.c.kind == row["kind"], ledger.c.identifier == row["identifier"])
    within = sa.and_(ledger.c.target == target, ledger.c.subscription_id == row["subscription_id"])
    match row["kind"]:
        case Kind.SUBSCRIPTION:
            return [itself, sa.and_(within, ledger.c.kind.in_((Kind.RESOURCE_GROUP, Kind.RESOURCE)))]
        case Kind.RESOURCE_GROUP:
            in_group = ledger.c.resource_group == row["resource_group"]
            return [itself, sa.and_(within, ledger.c.kind == Kind.RESOURCE, in_group)]
        case _:
            return [itself]


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
        return sa.create_engine(parsed)
    except (ModuleNotFoundError, sa.exc.NoSuchModuleError):
        raise StateError(
            f"AZURE_PORT_SYNC_STATE_URL names {parsed.get_backend_name()}, whose driver is not installed; "
            "install azure-port-sync[postgres] or use a postgresql:// or sqlite:/// URL."
        ) from None
