"""Migrations: how the tables of the state store come to be as they are.

Each has a number, adds to what is there, and runs once, in a transaction of its own and under a lock, so that any
number of processes may open a store at once. There is no way back: a store that a newer version has migrated is refused
before anything is written. A migration never changes after its release, so it is written in plain SQL and not with the
tables of today; a test holds the two equal.

To add one, append it to MIGRATIONS and change `tables` to match. Where the meaning of the ledger changes, it also sets
`needs_full_run` of every target.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import sqlalchemy as sa

from azure_port_sync.core.errors import StateError
from azure_port_sync.state import tables as t
from azure_port_sync.state.database import Database

#: Key of the advisory lock on Postgres: any number that nobody else has.
_LOCK = 4_715_083_212


class Migration(NamedTuple):
    """One step from a schema to the next; its number is that of the schema it leads to."""

    number: int
    name: str
    apply: Callable[[sa.Connection], None]


def migrate(database: Database, migrations: Sequence[Migration] | None = None) -> None:
    """Bring the store to the newest schema that this version knows.

    Raises StateError for a store of a newer one, of which nothing is touched.
    """
    known = MIGRATIONS if migrations is None else migrations
    with database.read() as connection:
        due = _due(database, connection, known)
    for _ in due:
        with database.write() as connection:
            if database.is_postgres:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            for migration in _due(database, connection, known)[:1]:  # none, where another process was quicker
                migration.apply(connection)
                done = {"number": migration.number, "name": migration.name, "applied_at": database.clock.now()}
                connection.execute(sa.insert(t.migration).values(done))


def _due(database: Database, connection: sa.Connection, known: Sequence[Migration]) -> Sequence[Migration]:
    number = 0
    if sa.inspect(connection).has_table(t.migration.name):
        number = connection.scalar(sa.select(sa.func.max(t.migration.c.number))) or 0
    if number > known[-1].number:
        raise StateError(
            f"The state store ({database}) was written by a newer version of azure_port_sync (its schema is number "
            f"{number}, and this version knows {known[-1].number}); nothing was read or changed. Install the newer "
            "version again, or name another database in AZURE_PORT_SYNC_STATE_URL."
        )
    return known[number:]


def _create_tables(connection: sa.Connection) -> None:
    for statement in _TABLES.split(";"):
        connection.exec_driver_sql(statement)
    if _holds_legacy_tables(connection):
        _carry_over(connection)


_TABLES = """
CREATE TABLE azure_port_sync_migration (
    number INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_at TIMESTAMP NOT NULL
);
CREATE TABLE azure_port_sync_target (
    target VARCHAR(64) NOT NULL PRIMARY KEY,
    watermark TIMESTAMP,
    fingerprint VARCHAR(64),
    generation INTEGER NOT NULL,
    full_runs INTEGER NOT NULL,
    needs_full_run BOOLEAN NOT NULL,
    lease_holder VARCHAR(64),
    lease_expires TIMESTAMP
);
CREATE TABLE azure_port_sync_ledger (
    target VARCHAR(64) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    identifier TEXT NOT NULL,
    azure_id TEXT NOT NULL,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    subscription_id VARCHAR(64) NOT NULL,
    resource_group TEXT NOT NULL,
    hash VARCHAR(32),
    state VARCHAR(16) NOT NULL,
    contents_due_until INTEGER,
    sent_at TIMESTAMP NOT NULL,
    PRIMARY KEY (target, kind, identifier)
);
CREATE INDEX azure_port_sync_ledger_place
    ON azure_port_sync_ledger (target, subscription_id, resource_group, kind);
CREATE TABLE azure_port_sync_pending (
    target VARCHAR(64) NOT NULL,
    identifier TEXT NOT NULL,
    azure_id TEXT NOT NULL,
    type TEXT NOT NULL,
    since TIMESTAMP NOT NULL,
    PRIMARY KEY (target, identifier)
);
CREATE TABLE azure_port_sync_tombstone (
    target VARCHAR(64) NOT NULL,
    identifier TEXT NOT NULL,
    azure_id TEXT NOT NULL,
    deleted_at TIMESTAMP NOT NULL,
    since TIMESTAMP NOT NULL,
    PRIMARY KEY (target, identifier)
);
CREATE TABLE azure_port_sync_quarantine (
    target VARCHAR(64) NOT NULL,
    entity VARCHAR(32) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    identifier TEXT NOT NULL,
    azure_id TEXT NOT NULL,
    type TEXT NOT NULL,
    cause VARCHAR(16) NOT NULL,
    operation VARCHAR(16) NOT NULL,
    hash VARCHAR(32),
    payload TEXT NOT NULL,
    reason TEXT NOT NULL,
    first_at TIMESTAMP NOT NULL,
    last_at TIMESTAMP NOT NULL,
    attempts INTEGER NOT NULL,
    PRIMARY KEY (target, entity)
);
CREATE TABLE azure_port_sync_subscription (
    target VARCHAR(64) NOT NULL,
    subscription_id VARCHAR(64) NOT NULL,
    whole BOOLEAN NOT NULL,
    missing_since TIMESTAMP,
    read_by VARCHAR(64),
    settled BOOLEAN NOT NULL,
    PRIMARY KEY (target, subscription_id)
)
"""

# -- the tables of before there were migrations ----------------------------------------------------------------------
# They had no prefix, so each could be somebody else's: they are ours if all six are there, with our columns and keys.

_LEGACY = {
    "target": "target* schema_version watermark fingerprint generation full_runs lease_holder lease_expires",
    "ledger": "target* kind* identifier* azure_id type name subscription_id resource_group hash state complete_after "
    "told_at",
    "pending": "target* identifier* azure_id type change_type change_time since",
    "tombstone": "target* identifier* azure_id deleted_at since",
    "quarantine": "target* entity* kind identifier azure_id type operation hash payload reason first_at last_at "
    "attempts",
    "subscription_seen": "target* subscription_id* whole missing_since read_by generation",
}


def _holds_legacy_tables(connection: sa.Connection) -> bool:
    inspector = sa.inspect(connection)
    return set(inspector.get_table_names()) >= _LEGACY.keys() and all(
        _columns(inspector, table) == set(columns.split()) for table, columns in _LEGACY.items()
    )


def _columns(inspector: sa.Inspector, table: str) -> set[str]:
    """The names of the columns, those of the key with an asterisk."""
    key = inspector.get_pk_constraint(table)["constrained_columns"]
    return {
        f"{column['name']}*" if column["name"] in key else column["name"] for column in inspector.get_columns(table)
    }


def _carry_over(connection: sa.Connection) -> None:
    """Move what version 3 of these tables held, and drop them."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {', '.join(_LEGACY)} IN ACCESS EXCLUSIVE MODE")
    for statement in _CARRY_OVER.split(";"):
        connection.exec_driver_sql(statement)
    for table in _LEGACY:
        connection.exec_driver_sql(f"DROP TABLE {table}")


_CARRY_OVER = """
INSERT INTO azure_port_sync_target (target, watermark, fingerprint, generation, full_runs, needs_full_run, lease_holder,
    lease_expires)
SELECT target, watermark, fingerprint, generation, full_runs, schema_version <> 3, lease_holder, lease_expires
FROM target;

INSERT INTO azure_port_sync_ledger (target, kind, identifier, azure_id, type, name, subscription_id, resource_group,
    hash, state, contents_due_until, sent_at)
SELECT ledger.target, kind, identifier, azure_id, type, name, subscription_id, resource_group, hash,
    CASE state WHEN 'settled' THEN 'confirmed' WHEN 'found' THEN 'imported' ELSE state END,
    CASE WHEN kind <> 'resource' AND complete_after >= generation THEN complete_after END,
    told_at
FROM ledger JOIN target ON target.target = ledger.target;

INSERT INTO azure_port_sync_pending (target, identifier, azure_id, type, since)
SELECT target, identifier, azure_id, type, since FROM pending;

INSERT INTO azure_port_sync_tombstone (target, identifier, azure_id, deleted_at, since)
SELECT target, identifier, azure_id, deleted_at, since FROM tombstone;

INSERT INTO azure_port_sync_quarantine (target, entity, kind, identifier, azure_id, type, cause, operation, hash,
    payload, reason, first_at, last_at, attempts)
SELECT target, entity, kind, identifier, azure_id, type,
    CASE WHEN operation IS NULL THEN 'conflict' ELSE 'refused' END, COALESCE(operation, 'upsert'), hash,
    COALESCE(payload, '{}'), reason, first_at, last_at, attempts
FROM quarantine;

INSERT INTO azure_port_sync_subscription (target, subscription_id, whole, missing_since, read_by, settled)
SELECT subscription_seen.target, subscription_id, whole, missing_since, read_by,
    COALESCE(subscription_seen.generation = target.generation, FALSE)
FROM subscription_seen JOIN target ON target.target = subscription_seen.target
"""

_HELD_DELETE = """
CREATE TABLE azure_port_sync_held_delete (
    target VARCHAR(64) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    identifier TEXT NOT NULL,
    azure_id TEXT NOT NULL,
    type TEXT NOT NULL,
    name TEXT NOT NULL,
    subscription_id VARCHAR(64) NOT NULL,
    resource_group TEXT NOT NULL,
    present BOOLEAN NOT NULL,
    since TIMESTAMP NOT NULL,
    PRIMARY KEY (target, kind, identifier)
)
"""


def _create_held_delete(connection: sa.Connection) -> None:
    connection.exec_driver_sql(_HELD_DELETE)


def _add_quarantine_sink(connection: sa.Connection) -> None:
    """Of what was put aside before, the sink is not known, so it is tried again once."""
    connection.exec_driver_sql("ALTER TABLE azure_port_sync_quarantine ADD COLUMN sink VARCHAR(32) NOT NULL DEFAULT ''")


MIGRATIONS = (
    Migration(1, "tables with a prefix of their own", _create_tables),
    Migration(2, "deletes that the guard holds", _create_held_delete),
    Migration(3, "the sink that put an operation into quarantine", _add_quarantine_sink),
)
