"""The tenant's tables, in DuckDB: every row is a version with the span of time in which Resource Graph shows it.

A version is `alive` while what it describes exists, whatever Resource Graph shows meanwhile. A `twin` describes nothing
of its own: it is a second row of an id that Resource Graph shows. Change records are kept in tables of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb_kql

from azure_port_sync.sandbox.tenant import growth
from azure_port_sync.sandbox.tenant.records import RETENTION
from azure_port_sync.sandbox.tenant.rows import COLUMNS, DYNAMICS, STRINGS, Row, TenantError, group_key

# What a query may name, and where it is kept.
TABLES = {
    "resources": "resource_versions",
    "resourcecontainers": "container_versions",
    "resourcechanges": "resource_records",
    "resourcecontainerchanges": "container_records",
}

FOREVER = datetime.fromisoformat("9999-12-31")

# Beside Resource Graph's columns, rows carry what the sandbox itself looks things up by: `key` is the id, `grp` the id
# of the resource group and `sub` the subscription, all lower-cased; `hashed` says in which part of a table a row lies.
_EXTRAS = {"grp": "VARCHAR", "sub": "VARCHAR", "hashed": "BIGINT", "shown_from": "TIMESTAMP"}
_VERSION_EXTRAS = {
    "key": "VARCHAR",
    "seq": "BIGINT",
    "alive": "BOOLEAN",
    "twin": "BOOLEAN",
    "shown_to": "TIMESTAMP",
    **_EXTRAS,
}
_RECORD_EXTRAS = {"happened": "TIMESTAMP", **_EXTRAS}
_SCHEMA = {
    table: dict.fromkeys(STRINGS, "VARCHAR")
    | dict.fromkeys(DYNAMICS, "JSON")
    | (_VERSION_EXTRAS if table.endswith("versions") else _RECORD_EXTRAS)
    for table in TABLES.values()
}

#: The hash that plays Kusto's hash(), as SQL; the function below is the same. Kusto has xxhash64, but clients use it
#: only to divide rows into equal shares, for which any hash that is never negative serves.
HASH_SQL = "CAST(md5_number_lower(CAST({0} AS VARCHAR)) >> 1 AS BIGINT)"


def hashed(text: str) -> int:
    """Return the hash of a text."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little") >> 1


@dataclass(frozen=True)
class Part:
    """The rows of a table whose hashed id leaves `number` when it is divided by `count`."""

    table: str
    count: int
    number: int


class Store:
    """The four tables. Nothing here is locked: the tenant sees to it that one thread works at a time."""

    def __init__(self) -> None:
        self.db = duckdb_kql.connect()
        self.clear()

    def clear(self) -> None:
        """Empty all tables."""
        self._seq = 0
        self._views: tuple[str, datetime] | None = None
        for table, columns in _SCHEMA.items():
            spec = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            self.db.execute(f"CREATE OR REPLACE TABLE {table} ({spec})")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes of the block, or none."""
        self.db.execute("BEGIN")
        try:
            yield
        except BaseException:
            self.db.execute("ROLLBACK")
            raise
        self.db.execute("COMMIT")

    # -- what Resource Graph shows

    def show_at(self, now: datetime, readable: str, part: Part | None = None) -> None:
        """Make views of the four tables as shown at `now` to who may read `readable`; and `parted`, of one part."""
        if self._views != (readable, now):  # a client asks several times in one instant
            self._views = (readable, now)
            for name, table in TABLES.items():
                self._view(name, f"SELECT {_LISTED} FROM {table} WHERE {_shown(table, now)} AND {readable}")
        if part is not None:
            table = TABLES[part.table]
            where = f"hashed % {part.count} = {part.number} AND {_shown(table, now)} AND {readable}"
            self._view("parted", f"SELECT {_LISTED} FROM {table} WHERE {where}")

    def _view(self, name: str, query: str) -> None:
        self.db.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {query}")

    def calm_at(self, now: datetime) -> datetime:
        """Return from when on, if nothing is changed, what is shown is what is true: every delay has run out."""
        ends = [f"SELECT max(shown_from) AS e FROM {table}" for table in TABLES.values()]
        ends += [
            f"SELECT max(shown_to) FROM {table} WHERE shown_to < {_literal(FOREVER.replace(tzinfo=UTC))}"
            for table in TABLES.values()
            if table.endswith("versions")
        ]
        ((end,),) = self.fetch(f"SELECT max(e) FROM ({' UNION ALL '.join(ends)})")
        return max(now, end.replace(tzinfo=UTC)) if end is not None else now

    # -- what is true

    def existing(self, table: str, row_id: str) -> Row:
        """Return the living row of an id; TenantError when there is none."""
        return self.living(table, [row_id])[0]

    def living(self, table: str, ids: Iterable[str]) -> list[Row]:
        """Return the living rows of these ids; TenantError when one has none."""
        keys = [one.lower() for one in ids]
        rows = self.rows(table, "alive AND key IN (SELECT unnest(?))", [keys])
        if missing := set(keys) - {row["key"] for row in rows}:
            raise TenantError(f"there is no {min(missing)}")
        return rows

    def rows(self, table: str, where: str, values: Sequence[Any] = ()) -> list[Row]:
        """Return versions, the oldest first, with the columns that the sandbox adds."""
        found = self.fetch(f"SELECT * FROM {table} WHERE {where} ORDER BY seq", values)
        return [_parsed(dict(zip(_SCHEMA[table], row, strict=True))) for row in found]

    def truth(self, table: str, where: str) -> list[Row]:
        """Return what exists, in the columns that an oracle needs, each with the tags of its group as `rgTags`."""
        names = ("id", "name", "type", "location", "tags", "subscriptionId", "resourceGroup", "rgTags")
        columns = ", ".join(f'v."{name}"' for name in names[:-1])
        found = self.fetch(
            f"SELECT {columns}, g.tags FROM (SELECT * FROM {table} WHERE alive AND {where}) v "
            "LEFT JOIN container_versions g ON g.key = v.grp AND g.alive ORDER BY v.key"
        )
        return [_parsed(dict(zip(names, row, strict=True))) for row in found]

    def counts(self, readable: str) -> list[tuple[str, int]]:
        """Return how many containers of each type, `resources` and change `records` there are; a name may recur."""
        what = {
            "container_versions": ("type", "alive"),
            "resource_versions": ("'resources'", "alive"),
            "resource_records": ("'records'", "true"),
            "container_records": ("'records'", "true"),
        }
        each = (
            f"SELECT {name} AS what, count(*) FROM {table} WHERE {where} AND {readable} GROUP BY what"
            for table, (name, where) in what.items()
        )
        return [(str(name), int(number)) for name, number in self.fetch(" UNION ALL ".join(each))]

    def fetch(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        return self.db.execute(sql, list(values)).fetchall()

    # -- changes

    def show(self, table: str, rows: Sequence[Row], shown_from: Sequence[datetime], *, twins: bool = False) -> None:
        """Add versions, each shown from its instant on; they exist, unless they are twins."""
        versions = [
            {
                **row,
                **_looked_up_by(row),
                "key": row["id"].lower(),
                "seq": self._seq + number,
                "alive": not twins,
                "twin": twins,
                "shown_from": instant,
                "shown_to": FOREVER,
            }
            for number, (row, instant) in enumerate(zip(rows, shown_from, strict=True), start=1)
        ]
        self._seq += len(versions)
        self._insert(table, versions)

    def retire(self, table: str, ids: Iterable[str], shown_to: Sequence[datetime], *, where: str = "true") -> None:
        """End all versions of these ids, each shown to its instant at most.

        Those that were to be shown later, or longer, than what replaces them must not reappear.
        """
        self.db.execute(
            f"UPDATE {table} SET alive = false, shown_to = least({table}.shown_to, new.shown_to) "
            "FROM (SELECT unnest(?) AS key, unnest(?::TIMESTAMP[]) AS shown_to) new "
            f"WHERE {table}.key = new.key AND {where}",
            [[one.lower() for one in ids], list(shown_to)],
        )

    def record(self, table: str, rows: Iterable[Row], happened: datetime, shown_from: Sequence[datetime]) -> None:
        """Add change records of what happened at one instant, each published at its own."""
        self._insert(
            table,
            [
                {**row, **_looked_up_by(row), "happened": happened, "shown_from": instant}
                for row, instant in zip(rows, shown_from, strict=True)
            ],
        )

    def forget(self, sub: str) -> None:
        """Remove all of a subscription, its records too."""
        for table in _SCHEMA:
            self.db.execute(f"DELETE FROM {table} WHERE sub = ?", [sub])

    def grow(self, homes: Sequence[str], first: int, count: int, at: datetime, *, records: bool) -> None:
        """Add many resources to these groups, without a Python object each; with `records` each has a Create record."""
        growth.add(self.db, homes, first=first, count=count, seq=self._seq, at=at, records=records)
        self._seq += count

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        columns = _SCHEMA[table].items()
        with self.db.appender(table) as appender:
            appender.append_rows(
                [_text(row[name]) if kind == "JSON" else row[name] for name, kind in columns] for row in rows
            )


_LISTED = ", ".join(f'"{name}"' for name in COLUMNS)


def records_of(table: str) -> str:
    """Return the table of the change records of a table of versions."""
    return table.replace("versions", "records")


def _shown(table: str, now: datetime) -> str:
    at = _literal(now)
    if table.endswith("versions"):
        return f"shown_from <= {at} AND shown_to > {at}"
    return f"shown_from <= {at} AND happened > {_literal(now - RETENTION)}"


def _looked_up_by(row: Row) -> Row:
    key = row["id"].lower()
    return {"grp": group_key(key), "sub": row["subscriptionId"].lower(), "hashed": hashed(key)}


def _parsed(row: Row) -> Row:
    for name in (*DYNAMICS, "rgTags"):
        if row.get(name) is not None:
            row[name] = json.loads(row[name])
    return row


def _text(value: Mapping[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _literal(instant: datetime) -> str:
    return f"TIMESTAMP '{instant.astimezone(UTC).replace(tzinfo=None):%Y-%m-%d %H:%M:%S.%f}'"
