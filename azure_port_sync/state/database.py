"""The database beneath the state: SQLite or Postgres, its transactions, and statements over many thousands of rows.

Whatever the two databases spell differently stands here. So does the one sentence that a person reads when the database
cannot be used; it shows neither the password nor the rest of the URL.
"""

import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import StateError
from azure_port_sync.core.rows import lowered
from azure_port_sync.state import tables as t

#: A row, as the driver takes it.
Row = tuple[Any, ...]

#: Rows a round trip; bounds the memory of a comparison.
CHUNK = 5_000

logger = logging.getLogger(__name__)


class Waits(NamedTuple):
    """How long the store waits, in seconds: for a lock, for a statement, and before it logs one that has not ended.

    Another process may hold a lock for the time of a large transaction; a statement of millions of rows takes a minute.
    """

    lock: float = 60
    statement: float = 30 * 60
    silence: float = 10


WAITS = Waits()

#: How soon a server that has vanished is noticed.
_REACHABLE = {"connect_timeout": 30, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 6}

_BEGIN = "azure_port_sync_begin"
_NOW = "azure_port_sync_now"


class Database:
    """One database, by a SQLAlchemy URL. Safe to share between threads.

    Raises StateError wherever it cannot be reached, read or written.
    """

    def __init__(self, url: str, clock: Clock, waits: Waits = WAITS) -> None:
        self.clock = clock
        self._waits = waits
        self._engine = _engine(url, waits)
        self.is_postgres = self._engine.dialect.name == "postgresql"
        self._errors = (sa.exc.DBAPIError, self._engine.dialect.loaded_dbapi.Error)
        if self.is_postgres:
            sa.event.listen(self._engine, "begin", self._bound_waits)
        else:
            sa.event.listen(self._engine, "connect", self._give_clock)
            sa.event.listen(self._engine, "begin", _begin_sqlite)
        self._watch = _Watch(
            f"The state store ({self}) has not answered for {waits.silence:g} seconds: it is busy, or another process "
            f"keeps a lock on it, for which this run waits at most {waits.lock:g} seconds",
            waits.silence,
        )
        sa.event.listen(self._engine, "before_cursor_execute", self._watch.begin)
        sa.event.listen(self._engine, "after_cursor_execute", self._watch.end)
        sa.event.listen(self._engine, "handle_error", self._watch.end_in_vain)
        self._writer = self._engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    def close(self) -> None:
        self._watch.close()
        self._engine.dispose()

    def __str__(self) -> str:
        url = self._engine.url
        return f"{url.get_backend_name()} at {url.host or 'this machine'}, {url.database}"

    # -- transactions -----------------------------------------------------------------------------------------------

    def read(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction that writes to temporary tables at most."""
        return self._transaction(self._engine)

    def write(self) -> AbstractContextManager[sa.Connection]:
        """Return a transaction that writes. On SQLite it waits for its turn first, so that it never fails half-way."""
        return self._transaction(self._writer)

    @contextmanager
    def _transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        try:
            with engine.begin() as connection:
                yield connection
        except self._errors as error:
            reason = str(getattr(error, "orig", error)).strip().partition("\n")[0].rstrip(".")
            remedy = (
                "Another process keeps a lock on it: end that one, or wait for the next run, which tries again."
                if re.search(r"\block", reason)
                else "Check AZURE_PORT_SYNC_STATE_URL and that the database can be written."
            )
            raise StateError(f"The state store ({self}) cannot be used: {reason}. {remedy}") from error

    def _bound_waits(self, connection: sa.Connection) -> None:
        """Bound the waits of a transaction on Postgres; options of the connection would be lost behind a pooler."""
        limits = {"lock_timeout": self._waits.lock, "statement_timeout": self._waits.statement}
        calls = ", ".join(f"set_config('{name}', '{seconds:g}s', true)" for name, seconds in limits.items())
        connection.exec_driver_sql(f"SELECT {calls}")

    def now(self, later: timedelta = timedelta(0)) -> sa.ColumnElement[datetime]:
        """Return an SQL expression: the present instant (or a later one) by the database's clock.

        SQLite has no clock but this process's.
        """
        if self.is_postgres:
            return sa.func.timezone("UTC", sa.func.clock_timestamp() + later, type_=t.INSTANT)
        return sa.func.azure_port_sync_now(later.total_seconds(), type_=t.INSTANT)

    def _give_clock(self, connection: Any, _record: object) -> None:
        def now(seconds: float) -> str:
            later = self.clock.now().astimezone(UTC) + timedelta(seconds=seconds)
            return f"{later:%Y-%m-%d %H:%M:%S.%f}"  # as SQLAlchemy stores it

        connection.create_function(_NOW, 1, now)

    def frame(self, query: sa.Select[Any]) -> pd.DataFrame:
        """Return the rows of a query, with its column names."""
        with self.read() as connection:
            result = connection.execute(query)
            return pd.DataFrame(result.all(), columns=list(result.keys()))

    # -- statements over many rows ----------------------------------------------------------------------------------
    # They are given to the driver as they are: to bind the parameters in SQLAlchemy takes longer than the database.

    def upsert(
        self,
        connection: sa.Connection,
        table: sa.Table,
        names: Sequence[str],
        rows: Iterable[Row],
        *,
        update: Sequence[str] = (),
    ) -> None:
        """Insert the rows, which have the columns `names`.

        Of those that are there already, `update` columns are replaced; of those that come twice, the last one counts.
        """
        key = table.primary_key.columns.keys()
        changes = [f"{name} = excluded.{name}" for name in update]
        # Postgres takes a few thousand rows as one array a column, because a statement a row takes three times as long.
        source = self._select_from_arrays(table, names) if self.is_postgres else _values(len(names))
        statement = (
            f"INSERT INTO {table.name} ({', '.join(names)}) {source} ON CONFLICT ({', '.join(key)}) "
            f"DO {'UPDATE SET ' + ', '.join(changes) if changes else 'NOTHING'}"
        )
        if not self.is_postgres:
            self._execute_each(connection, statement, table, names, rows)
            return
        key_of = itemgetter(*map(names.index, key))
        for chunk in chunks(rows):
            once = {key_of(row): row for row in chunk}  # Postgres refuses to update a row twice in one statement
            connection.exec_driver_sql(statement, tuple(self._bound(table, names, once.values())))

    def update(
        self,
        connection: sa.Connection,
        table: sa.Table,
        names: Sequence[str],
        rows: Iterable[Row],
        *,
        where: Sequence[str],
    ) -> None:
        """Set the columns `names` of what `where` finds; each of `rows` has the values of these, then of those."""
        statement = f"UPDATE {table.name} SET {', '.join(map(self._is, names))} WHERE "  # noqa: S608
        self._execute_each(connection, statement + " AND ".join(map(self._is, where)), table, (*names, *where), rows)

    def delete(self, connection: sa.Connection, table: sa.Table, names: Sequence[str], rows: Iterable[Row]) -> None:
        """Delete what has these values in the columns `names`."""
        statement = f"DELETE FROM {table.name} WHERE {' AND '.join(map(self._is, names))}"  # noqa: S608
        self._execute_each(connection, statement, table, names, rows)

    def _execute_each(
        self, connection: sa.Connection, statement: str, table: sa.Table, names: Sequence[str], rows: Iterable[Row]
    ) -> None:
        for chunk in chunks(rows):
            connection.exec_driver_sql(statement, list(zip(*self._bound(table, names, chunk), strict=True)))

    def _is(self, name: str) -> str:
        return f"{name} = {'%s' if self.is_postgres else '?'}"

    def _select_from_arrays(self, table: sa.Table, names: Sequence[str]) -> str:
        types = (table.c[name].type.compile(dialect=self._engine.dialect) for name in names)
        return f"SELECT * FROM unnest({', '.join(f'%s::{type_}[]' for type_ in types)})"  # noqa: S608

    def _bound(self, table: sa.Table, names: Sequence[str], rows: Iterable[Row]) -> Iterator[list[Any]]:
        """Yield the columns of the rows, with their values as the driver takes them."""
        dialect = self._engine.dialect
        for name, column in zip(names, zip(*rows, strict=True), strict=True):
            processor = table.c[name].type.dialect_impl(dialect).bind_processor(dialect)
            # Those that need any processing are mostly the same few values.
            yield list(column) if processor is None else list(map(cache(processor), column))

    # -- temporary tables -------------------------------------------------------------------------------------------

    @contextmanager
    def staged(
        self, connection: sa.Connection, table: sa.Table, rows: Iterable[Row], *, index: Sequence[str] = ()
    ) -> Iterator[None]:
        """Put these rows into a temporary table, which has to be left before the transaction ends.

        With the `index` columns indexed, and for Postgres with statistics, without which it would take it for small.
        """
        connection.execute(sa.schema.CreateTable(table))
        if self.is_postgres:
            cursor: Any = connection.connection.cursor()
            with cursor.copy(f"COPY {table.name} FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            for chunk in chunks(rows):
                connection.exec_driver_sql(f"INSERT INTO {table.name} {_values(len(table.columns))}", chunk)
        if index:
            connection.exec_driver_sql(f"CREATE INDEX {table.name}_key ON {table.name} ({', '.join(index)})")
        if self.is_postgres:
            connection.exec_driver_sql(f"ANALYZE {table.name}")
        yield
        connection.execute(sa.schema.DropTable(table))


def candidate_rows(entities: pd.DataFrame, equal_hashes: "pd.Series | None" = None) -> Iterator[Row]:
    """Rows of the table `candidate`, a few thousand at a time: of these entities, in their order.

    `equal_hashes` are those that make each unchanged; without them, none counts as unchanged.
    """
    columns = entities[["kind", "identifier", "azure_id"]].assign(equal_hash=equal_hashes)
    for start in range(0, len(columns), CHUNK):
        part = columns.iloc[start : start + CHUNK]
        part = part.assign(azure_id=lowered(part["azure_id"]))
        values = (pa.array(part[name], type=pa.string()).to_pylist() for name in part)
        yield from zip(range(start, start + len(part)), *values, strict=True)


def chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of a few thousand of the rows each."""
    remaining = iter(rows)
    while chunk := list(islice(remaining, CHUNK)):
        yield chunk


def _values(number: int) -> str:
    return f"VALUES ({', '.join(['?'] * number)})"


class _Watch:
    """Logs a line for each statement that takes long; most of the time, another process has a lock.

    It is one thread for all of them: a timer for each took longer than most statements do.
    """

    def __init__(self, line: str, seconds: float) -> None:
        self._line = line
        self._seconds = seconds
        self._begun: dict[int, float] = {}
        self._closed = Event()
        self._lock = Lock()
        self._thread: Thread | None = None

    def begin(
        self, _connection: object, _cursor: object, _sql: str, _values: object, context: Any, _many: bool
    ) -> None:
        with self._lock:
            self._begun[id(context)] = time.monotonic()
            if self._thread is None:
                self._thread = Thread(target=self._look, name="state-watch", daemon=True)
                self._thread.start()

    def end(self, _connection: object, _cursor: object, _sql: str, _values: object, context: Any, _: bool) -> None:
        with self._lock:
            self._begun.pop(id(context), None)

    def end_in_vain(self, failed: sa.engine.ExceptionContext) -> None:
        with self._lock:
            self._begun.pop(id(failed.execution_context), None)

    def close(self) -> None:
        self._closed.set()

    def _look(self) -> None:
        while not self._closed.wait(self._seconds / 5):
            with self._lock:
                long_ago = time.monotonic() - self._seconds
                late = [one for one, begun in self._begun.items() if begun <= long_ago]
                for one in late:
                    del self._begun[one]
            for _ in late:
                logger.info(self._line)


def _begin_sqlite(connection: sa.Connection) -> None:
    """Begin the transaction; the driver would do so before the first change of a row, and after a change of tables."""
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))


def _engine(url: str, waits: Waits) -> sa.Engine:
    parsed = _parsed(url)
    options: dict[str, Any] = {"timeout": waits.lock}
    if parsed.get_backend_name() == "sqlite":
        _make_private(parsed.database or "")
    else:
        # A pooler in transaction mode gives each transaction another connection, which knows nothing of the statements
        # that the last one has prepared (github.com/psycopg/psycopg, issue 1151).
        options = {"prepare_threshold": None, **_REACHABLE}
    try:
        return sa.create_engine(parsed, connect_args=options)
    except ModuleNotFoundError:
        raise StateError(
            f"AZURE_PORT_SYNC_STATE_URL names {parsed.get_backend_name()}, whose driver is not installed; "
            "install azure-port-sync[postgres], or use a sqlite:/// URL."
        ) from None


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise StateError(
            "AZURE_PORT_SYNC_STATE_URL is not a database URL; write e.g. "
            "postgresql://user:password@host/database or sqlite:////var/lib/azure_port_sync/state.sqlite."
        ) from None
    database = parsed.get_backend_name()
    if database == "sqlite":
        return parsed.set(drivername="sqlite")
    if database not in ("postgres", "postgresql"):
        raise StateError(
            f"AZURE_PORT_SYNC_STATE_URL names {database}, which cannot hold the state; "
            "use a postgresql:// or sqlite:/// URL."
        )
    # The end of the password, which no sentence may show.
    if "@" in f"{parsed.host}{parsed.database}" or re.search(r"[?&]\w*password=[^&]*@", url):
        raise StateError("The password in AZURE_PORT_SYNC_STATE_URL has an @ in it: write %40 in its place.")
    return parsed.set(drivername="postgresql+psycopg")


def _make_private(file: str) -> None:
    """Let only its owner read the file of SQLite's, a new one or one that is there; SQLite would go by the umask.

    It is not opened here if it is there: closing it again would end this process's locks on it
    (sqlite.org/howtocorrupt.html, "Posix advisory locks").
    """
    if file and file != ":memory:" and not file.startswith("file:"):
        with suppress(OSError):  # SQLite says what is wrong with it
            Path(file).touch(mode=0o600)
            Path(file).chmod(0o600)
