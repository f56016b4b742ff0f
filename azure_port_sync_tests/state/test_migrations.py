"""Migrations: of fresh stores, of those that an older version has left, and never of anything else."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from azure_port_sync.core.errors import StateError
from azure_port_sync.core.plan import TargetState, reasons_for_full
from azure_port_sync.core.rows import records
from azure_port_sync.core.subscriptions import SubscriptionState
from azure_port_sync.state import StateStore
from azure_port_sync.state import tables as t
from azure_port_sync.state.database import Database
from azure_port_sync.state.migrations import MIGRATIONS, Migration, migrate
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.entities import Row, frame, group, names, resource, shown, subscription, upsert
from azure_port_sync_tests.support.stores import behind_its_back, claimed, deliver, plan_for, to_decide


@contextmanager
def _opened(url: str, clock: SteppedClock) -> Iterator[StateStore]:
    with closing(StateStore(url, clock)) as store:
        yield store


def _contents(url: str) -> dict[str, Any]:
    """All tables and all rows of a database."""
    with behind_its_back(url) as connection:
        tables = sorted(sa.inspect(connection).get_table_names())
        return {table: sorted(map(str, connection.exec_driver_sql(f"SELECT * FROM {table}"))) for table in tables}  # noqa: S608


# -- fresh stores ----------------------------------------------------------------------------------------------------


def _layout(connection: sa.Connection) -> dict[str, Any]:
    inspector = sa.inspect(connection)
    return {
        table: (
            [
                (
                    column["name"],
                    column["type"]._type_affinity,
                    getattr(column["type"], "length", None),
                    column["nullable"],
                )
                for column in inspector.get_columns(table)
            ],
            inspector.get_pk_constraint(table)["constrained_columns"],
            [(index["name"], index["column_names"], index["unique"]) for index in inspector.get_indexes(table)],
        )
        for table in sorted(inspector.get_table_names())
    }


def test_the_migrations_lead_to_the_tables_that_the_code_uses(url: str, clock: SteppedClock) -> None:
    with _opened(url, clock), behind_its_back(url) as connection:
        migrated = _layout(connection)
        for table in [*t.metadata.sorted_tables, t.migration]:
            table.drop(connection)
        for table in [*t.metadata.sorted_tables, t.migration]:
            table.create(connection)
        assert migrated == _layout(connection)
        assert all(name.startswith(t.PREFIX) for name in migrated)


def test_what_was_applied_is_recorded(url: str, clock: SteppedClock) -> None:
    for _ in range(2):
        with _opened(url, clock), behind_its_back(url) as connection:
            applied = connection.execute(t.migration.select()).all()
            assert [(row.number, row.applied_at) for row in applied] == [(one.number, NOW) for one in MIGRATIONS]
        clock.sleep(60)


@pytest.mark.parametrize("_", range(3))
def test_first_opens_at_the_same_time(url: str, clock: SteppedClock, _: int) -> None:
    """Of four first runs at once on an empty Postgres, three failed."""
    started = threading.Barrier(4)

    def open_and_use(n: int) -> int:
        started.wait()
        with _opened(url, clock) as store:
            deliver(store, upsert(resource("x")), target=f"t{n}")
            return store.targets.load(f"t{n}").ledger_rows

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(open_and_use, range(4))) == [1] * 4


# -- later migrations ------------------------------------------------------------------------------------------------


def _add_column(connection: sa.Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE azure_port_sync_target ADD COLUMN colour TEXT")
    connection.exec_driver_sql("UPDATE azure_port_sync_target SET needs_full_run = TRUE")


def _fail_half_way(connection: sa.Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE azure_port_sync_half (x INTEGER)")
    connection.exec_driver_sql("SELECT * FROM azure_port_sync_none")


_LATER = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "colours", _add_column))


def test_a_later_migration_is_applied_once_and_may_ask_for_a_full_run(url: str, clock: SteppedClock) -> None:
    with _opened(url, clock) as store:
        deliver(store, upsert(resource("x")))
        store.targets.finish(claimed(store))
        with closing(Database(url, clock)) as database:
            for _ in range(2):
                migrate(database, _LATER)
        state = store.targets.load("t")
        reasons = reasons_for_full(state, fingerprint="scope", now=NOW)
        assert reasons == ("an upgrade has changed what the state means",)
        assert (state.ledger_rows, state.watermark) == (1, NOW)


def test_a_migration_that_fails_leaves_nothing_of_itself(url: str, clock: SteppedClock) -> None:
    with _opened(url, clock):
        before = _contents(url)
    with closing(Database(url, clock)) as database:
        with pytest.raises(StateError, match="azure_port_sync_none"):
            migrate(database, (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, "half", _fail_half_way)))
        assert _contents(url) == before
        migrate(database, _LATER)


def test_a_newer_store_is_refused_in_one_sentence_and_touched_by_nobody(
    url: str, clock: SteppedClock, tmp_path: Path
) -> None:
    """An older version had dropped the columns that it did not know, or the whole ledger."""
    with closing(Database(url, clock)) as database:
        migrate(database, _LATER)
    with behind_its_back(url) as connection:  # as far as it can be from what this version knows
        connection.exec_driver_sql("DROP TABLE azure_port_sync_ledger")
        connection.exec_driver_sql("CREATE TABLE azure_port_sync_ledger (colour TEXT)")
    before, file = _contents(url), tmp_path / "state.sqlite"
    content = file.read_bytes() if file.exists() else b""
    for _ in range(2):
        with pytest.raises(StateError, match="newer version") as error:
            StateStore(url, clock)
    assert "AZURE_PORT_SYNC_STATE_URL" in str(error.value)
    assert _contents(url) == before
    assert content == (file.read_bytes() if file.exists() else b"")


# -- the version before there were migrations ------------------------------------------------------------------------

_SUB = subscription()["subscription_id"]

_TABLES_OF_VERSION_3 = """
CREATE TABLE ledger (target VARCHAR(64) NOT NULL, kind VARCHAR(16) NOT NULL, identifier VARCHAR(1024) NOT NULL,
    azure_id TEXT NOT NULL, type TEXT NOT NULL, name TEXT NOT NULL, subscription_id VARCHAR(64) NOT NULL,
    resource_group TEXT NOT NULL, hash VARCHAR(32), state VARCHAR(8) NOT NULL, complete_after INTEGER NOT NULL,
    told_at TIMESTAMP NOT NULL, PRIMARY KEY (target, kind, identifier));
CREATE INDEX ledger_container ON ledger (target, kind, subscription_id, resource_group);
CREATE TABLE pending (target VARCHAR(64) NOT NULL, identifier VARCHAR(1024) NOT NULL, azure_id TEXT NOT NULL,
    type TEXT NOT NULL, change_type VARCHAR(8) NOT NULL, change_time TIMESTAMP NOT NULL, since TIMESTAMP NOT NULL,
    PRIMARY KEY (target, identifier));
CREATE TABLE quarantine (target VARCHAR(64) NOT NULL, entity VARCHAR(32) NOT NULL, kind VARCHAR(16) NOT NULL,
    identifier TEXT NOT NULL, azure_id TEXT NOT NULL, type TEXT NOT NULL, operation VARCHAR(8), hash VARCHAR(32),
    payload TEXT, reason TEXT NOT NULL, first_at TIMESTAMP NOT NULL, last_at TIMESTAMP NOT NULL,
    attempts INTEGER NOT NULL, PRIMARY KEY (target, entity));
CREATE TABLE subscription_seen (target VARCHAR(64) NOT NULL, subscription_id VARCHAR(64) NOT NULL,
    whole BOOLEAN DEFAULT TRUE NOT NULL, missing_since TIMESTAMP, read_by VARCHAR(64), generation INTEGER,
    PRIMARY KEY (target, subscription_id));
CREATE TABLE target (target VARCHAR(64) NOT NULL, schema_version INTEGER NOT NULL, watermark TIMESTAMP,
    fingerprint VARCHAR(64), generation INTEGER NOT NULL, full_runs INTEGER DEFAULT 0 NOT NULL,
    lease_holder VARCHAR(64), lease_expires TIMESTAMP, PRIMARY KEY (target));
CREATE TABLE tombstone (target VARCHAR(64) NOT NULL, identifier VARCHAR(1024) NOT NULL, azure_id TEXT NOT NULL,
    deleted_at TIMESTAMP NOT NULL, since TIMESTAMP NOT NULL, PRIMARY KEY (target, identifier))
"""

_T0 = "2026-11-23 09:45:00.000000"
_T1 = "2026-11-23 10:00:00.000000"


def _insert(table: str, *values: object) -> str:
    literals = (f"'{v}'" if isinstance(v, str) else "NULL" if v is None else str(v).upper() for v in values)
    return f"INSERT INTO {table} VALUES ({', '.join(literals)})"  # noqa: S608


def _sent(entity: Row, state: str, content: str | None = "h", complete_after: int = 0) -> str:
    return _insert("ledger", "t", *entity.values(), content, state, complete_after, _T0)


def _refused(entity: Row, reason: str, operation: str | None, content: str | None, attempts: int) -> str:
    columns = [entity[name] for name in ("kind", "identifier", "azure_id", "type")]
    return _insert("quarantine", "t", reason, *columns, operation, content, "{}", reason, _T0, _T1, attempts)


_WAITS, _BURIED = resource("p"), resource("q")

#: What that version left: five runs had settled, and one was killed while it sent a new group.
_ROWS_OF_VERSION_3 = [
    _insert("target", "t", 3, _T1, "scope", 5, 2, None, None),
    _sent(subscription(), "settled"),
    _sent(group("Web"), "settled", complete_after=4),
    _sent(group("New"), "sending", None, complete_after=5),
    _sent(group("Reread"), "settled", complete_after=6),
    _sent(resource("same"), "settled", complete_after=5),
    _sent(resource("sending"), "sending"),
    _sent(resource("found"), "found", None),
    _insert("pending", "t", _WAITS["identifier"], _WAITS["azure_id"], _WAITS["type"], "Create", _T0, _T1),
    _insert("tombstone", "t", _BURIED["identifier"], _BURIED["azure_id"].lower(), _T0, _T1),
    _refused(resource("bad"), "no", "upsert", "h2", 2),
    _refused(resource("b ad"), "another", None, None, 0),
    _refused(resource("stays"), "kept", "delete", None, 1),
    _insert("subscription_seen", "t", _SUB, True, None, "r5", 5),
    _insert("subscription_seen", "t", "lost", True, _T0, "r4", 4),
    _insert("subscription_seen", "t", "partly", False, None, None, None),
]


def _as_version_3_left_it(url: str, *changes: str) -> None:
    with behind_its_back(url) as connection:
        for statement in [*_TABLES_OF_VERSION_3.split(";"), *_ROWS_OF_VERSION_3, *changes]:
            connection.exec_driver_sql(statement)


def test_the_state_of_version_3_is_carried_over(url: str, clock: SteppedClock) -> None:
    _as_version_3_left_it(url)

    with _opened(url, clock) as store:
        state = store.targets.load("t")
        assert state == TargetState(NOW, "scope", generation=5, ledger_rows=7, full_runs=2, needs_full_run=False)
        assert reasons_for_full(state, fingerprint="scope", now=NOW) == ()
        rows = [subscription(), group("Web"), *map(resource, ("same", "sending", "found", "unknown"))]
        entries = to_decide(store, *map(shown, rows))
        assert {name: (entry.state, entry.hash) for name, entry in entries.items()} == {
            "sending": ("sending", "h"),
            "found": ("imported", None),
            "unknown": (None, None),
        }
        containers = store.ledger.containers("t")
        assert names(containers) == {_SUB, "Web", "New", "Reread"}
        assert names(containers[containers["contents_due"]]) == {"New", "Reread"}
        assert store.facts.subscriptions("t") == {
            _SUB: SubscriptionState(True, True),
            "lost": SubscriptionState(True, False, NOW - timedelta(minutes=15)),
            "partly": SubscriptionState(False, False),
        }
        (waiting,) = records(store.facts.pending("t"))
        columns = ("identifier", "azure_id", "type")
        assert waiting == {"since": NOW, **{name: _WAITS[name] for name in columns}}
        (buried,) = records(store.facts.tombstones("t"))
        assert buried["deleted_at"] == NOW - timedelta(minutes=15)
        quarantined = {row["reason"]: row for row in records(store.facts.quarantined("t"))}
        assert {reason: (row["cause"], row["operation"], row["attempts"]) for reason, row in quarantined.items()} == {
            "no": ("refused", "upsert", 2),
            "another": ("conflict", "upsert", 0),
            "kept": ("refused", "delete", 1),
        }
        assert quarantined["no"]["hash"] == "h2"
        assert quarantined["no"]["first_at"] == NOW - timedelta(minutes=15)

    with behind_its_back(url) as connection:
        left = sa.inspect(connection).get_table_names()
    assert all(name.startswith(t.PREFIX) for name in left)


def test_contents_that_were_due_stay_due_for_as_long(url: str, clock: SteppedClock) -> None:
    """Of a group whose resources were deleted for scope, until a run has settled that was planned after another one."""
    _as_version_3_left_it(url)
    with _opened(url, clock) as store:
        for expected in ({"Reread"}, set()):
            store.targets.finish(claimed(store))
            containers = store.ledger.containers("t")
            assert names(containers[containers["contents_due"]]) == expected


def test_a_run_that_delivers_while_the_version_changes_keeps_its_lease(url: str, clock: SteppedClock) -> None:
    soon = (datetime.now(UTC) if url.startswith("postgresql") else NOW) + timedelta(seconds=30)
    held = f"SET lease_holder = 'old', lease_expires = '{soon:%Y-%m-%d %H:%M:%S.%f}'"
    _as_version_3_left_it(url, f"UPDATE target {held}")
    with _opened(url, clock) as store:
        assert store.lease.claim(plan_for(store)) is not None


def test_a_target_that_version_3_had_not_filled_anew_still_needs_a_full_run(url: str, clock: SteppedClock) -> None:
    _as_version_3_left_it(url, "UPDATE target SET schema_version = 2")
    with _opened(url, clock) as store:
        assert reasons_for_full(store.targets.load("t"), fingerprint="scope", now=NOW) != ()


def test_first_opens_at_the_same_time_carry_over_once(url: str, clock: SteppedClock) -> None:
    _as_version_3_left_it(url)
    started = threading.Barrier(4)

    def rows(_: int) -> int:
        started.wait()
        with _opened(url, clock) as store:
            return store.targets.load("t").ledger_rows

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(rows, range(4))) == [7] * 4


# -- tables of other people ------------------------------------------------------------------------------------------

_NOT_OURS = {
    "a column more": ("ALTER TABLE ledger ADD COLUMN amount INTEGER",),
    "a column of another name": ("ALTER TABLE pending RENAME COLUMN since TO until",),
    "a table less": ("DROP TABLE tombstone",),
    "another key": (
        "DROP TABLE subscription_seen",
        """CREATE TABLE subscription_seen (target TEXT, subscription_id TEXT, whole BOOLEAN, missing_since TIMESTAMP,
        read_by TEXT, generation INTEGER, PRIMARY KEY (subscription_id))""",
    ),
}


@pytest.mark.parametrize("difference", _NOT_OURS)
def test_tables_that_are_not_exactly_ours_are_left_alone(url: str, clock: SteppedClock, difference: str) -> None:
    """Somebody's table `ledger` was dropped silently."""
    _as_version_3_left_it(url, *_NOT_OURS[difference])
    before = _contents(url)
    with _opened(url, clock) as store:
        assert store.targets.load("t") == TargetState(None, None, 0, 0)
        deliver(store, upsert(resource("x")))
        store.targets.finish(claimed(store))
        state = store.targets.load("t")
    after = _contents(url)
    assert {table: after[table] for table in before} == before
    with _opened(url, clock) as store:  # whatever became of the others
        assert store.targets.load("t") == replace(state, generation=1)


def test_every_part_of_the_store_works_beside_them(url: str, clock: SteppedClock) -> None:
    with behind_its_back(url) as connection:
        for name in ("target", "ledger", "candidate", "cover", "migration"):
            connection.exec_driver_sql(f"CREATE TABLE {name} (mine TEXT)")
    before = _contents(url)
    with _opened(url, clock) as store:
        deliver(store, upsert(resource("x")))
        assert to_decide(store, shown(resource("x"))) == {}
        store.ledger.rebuild("t", frame(resource("x")))
    after = _contents(url)
    assert {table: after[table] for table in before} == before
