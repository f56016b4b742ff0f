"""The database beneath the state: what can be used, what a person reads where it cannot, and what it costs."""

import stat
from pathlib import Path

import pytest
import sqlalchemy as sa

from azure_port_sync.core.cover import Cover
from azure_port_sync.core.errors import StateError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.state import StateStore
from azure_port_sync.state.database import Waits
from azure_port_sync_tests.support.clocks import SteppedClock
from azure_port_sync_tests.support.entities import SUB, frame, resource, shown, upsert
from azure_port_sync_tests.support.leaks import shows_none_of
from azure_port_sync_tests.support.stores import behind_its_back, claimed, comparison, deliver, to_decide

_PASSWORD = "do-not-show"


@pytest.mark.parametrize(
    "url",
    [
        "not a url",
        "",
        "/var/lib/state.sqlite",
        f"postgresql://user:{_PASSWORD}@host:port/database",
        f"postgresql://user:{_PASSWORD}@127.0.0.1:1/database",
        f"postgresql://user@127.0.0.1:1/database?password={_PASSWORD}",
        f"postgresql://user:begins@{_PASSWORD}@127.0.0.1:1/database",
        f"postgresql://user:begins@with/{_PASSWORD}@127.0.0.1:1/database",
        f"postgresql://user@127.0.0.1:1/database?password=begins@{_PASSWORD}",
        f"postgresql://user:begins/{_PASSWORD}@127.0.0.1:1/database",
        f"nosuchdatabase://user:{_PASSWORD}@host/database",
        f"mysql://user:{_PASSWORD}@host/database",
        "sqlite:////no/such/folder/state.sqlite",
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence(url: str, clock: SteppedClock) -> None:
    with pytest.raises(StateError, match="AZURE_PORT_SYNC_STATE_URL") as error:
        StateStore(url, clock)
    shows_none_of(error.value, _PASSWORD)
    assert "\n" not in str(error.value)


def test_a_database_that_goes_away_is_one_sentence(tmp_path: Path, clock: SteppedClock) -> None:
    file = tmp_path / "state.sqlite"
    opened = StateStore(f"sqlite:///{file}", clock)
    opened.close()
    file.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StateError, match="AZURE_PORT_SYNC_STATE_URL"):
        opened.targets.load("t")
    opened.close()


def test_a_row_that_postgres_does_not_take_is_one_sentence(postgres: str, clock: SteppedClock) -> None:
    """A null character, which no text of Postgres's may hold; rows are copied past SQLAlchemy there."""
    opened = StateStore(postgres, clock)
    with pytest.raises(StateError, match="NUL"):
        comparison(opened, frame(shown(resource("a\0b"))))
    opened.close()


def test_only_its_owner_may_read_a_new_file(tmp_path: Path, clock: SteppedClock) -> None:
    file = tmp_path / "state.sqlite"
    StateStore(f"sqlite:///{file}", clock).close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_file_that_everybody_could_read_is_for_its_owner_once_it_is_opened(
    tmp_path: Path, clock: SteppedClock
) -> None:
    """As older versions made it. Its folder may hold the files of others, and stays as it is."""
    tmp_path.chmod(0o755)
    file = tmp_path / "state.sqlite"
    opened = StateStore(f"sqlite:///{file}", clock)
    deliver(opened, upsert(resource("x")))
    opened.close()
    file.chmod(0o644)
    again = StateStore(f"sqlite:///{file}", clock)
    assert to_decide(again, shown(resource("x"))) == {}
    again.close()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


_ROW = "SELECT * FROM azure_port_sync_target FOR UPDATE"


@pytest.mark.parametrize(
    ("way", "lock", "reason"),
    [
        ("sqlite", "BEGIN IMMEDIATE", "database is locked"),
        ("postgres", _ROW, "lock timeout"),
        ("pgbouncer", _ROW, "lock timeout"),
    ],
)
def test_a_wait_for_a_lock_is_logged_and_bounded(
    way: str,
    lock: str,
    reason: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    clock: SteppedClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"sqlite:///{tmp_path / 'state.sqlite'}" if way == "sqlite" else str(request.getfixturevalue(way))
    opened = StateStore(url, clock, Waits(lock=1, silence=0.1))
    plan = claimed(opened)
    with behind_its_back(url) as another, caplog.at_level("INFO"):
        another.exec_driver_sql(lock)
        with pytest.raises(StateError, match=rf"{reason}\. Another process keeps a lock on it: end that one"):
            opened.lease.release(plan)
    (line,) = caplog.messages
    assert "has not answered for 0.1 seconds: it is busy, or another process keeps a lock on it" in line
    assert "for which this run waits at most 1 seconds" in line
    caplog.clear()
    opened.lease.release(plan)
    opened.close()
    assert caplog.messages == []


def test_nothing_is_left_of_a_transaction_that_fails(store: StateStore) -> None:
    """As when a run is killed: neither half a group of rows, nor a temporary table that is in the way next time."""
    plan = claimed(store)
    good, bad = upsert(resource("x")), upsert(resource("y"))._replace(name=None)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="cannot be used"):
        store.delivery(plan).begin_sending([good, bad])
    assert store.targets.load("t").ledger_rows == 0
    with pytest.raises(KeyError):
        comparison(store, frame(shown(resource("x"))).drop(columns="identifier"))
    assert to_decide(store, shown(resource("x"))).keys() == {"x"}


def test_state_outlives_the_process(store: StateStore, url: str, clock: SteppedClock) -> None:
    deliver(store, upsert(resource("x")))
    store.targets.finish(claimed(store))
    again = StateStore(url, clock)
    try:
        assert again.targets.load("t").watermark == clock.now()
        assert to_decide(again, shown(resource("x"))) == {}
    finally:
        again.close()


def test_behind_pgbouncer_in_transaction_mode(pgbouncer: str, clock: SteppedClock) -> None:
    """The second process had failed, because a statement was prepared on another connection (github.com/dagster-io/
    dagster, issue 33416)."""
    rows = [resource(f"x{n}") for n in range(20)]
    for _ in range(3):
        stores = [StateStore(pgbouncer, clock) for _ in range(3)]
        for n, row in enumerate(rows):
            deliver(stores[n % 3], upsert(row))
            assert to_decide(stores[(n + 1) % 3], shown(row)) == {}
        for one in stores:
            one.close()


# -- what comparing costs --------------------------------------------------------------------------------------------


def _effort(folder: Path, clock: SteppedClock, *, ledger: int, observed: int) -> dict[str, int]:
    """Thousands of steps of SQLite's machine: to compare entities with a ledger, and to find what is absent."""
    opened = StateStore(f"sqlite:///{folder / f'{ledger}-{observed}.sqlite'}", clock)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    entities = [resource(f"x{n}", f"G{n // 100}") for n in range(ledger)]
    deliver(opened, *map(upsert, entities))
    engine = opened._database._engine
    engine.dispose()
    sa.event.listen(engine, "connect", lambda connection, _: connection.set_progress_handler(count, 1000))
    seen = frame(*map(shown, entities[:observed]))
    kinds = frozenset({Kind.RESOURCE})
    efforts = {}

    def measured(name: str, found: int, expected: int) -> None:
        nonlocal steps
        assert found == expected
        efforts[name], steps = steps, 0

    measured("compare", comparison(opened, seen).unchanged, observed)
    measured("absent", len(opened.ledger.absent("t", seen, [Cover(kinds)])), ledger - observed)
    groups = Cover(kinds, frozenset((SUB, f"g{n}") for n in range(10)))
    measured("in ten groups", len(opened.ledger.absent("t", frame(), [groups])), 1000)
    measured("known among", opened.ledger.known_among("t", seen), observed)
    deliver(opened, *map(upsert, entities[:1000]))
    measured("deliver 1000", 0, 0)
    measured("rebuild", opened.ledger.rebuild("t", seen).missing, ledger - observed)
    opened.close()
    return efforts


def test_comparing_twice_as_much_takes_twice_the_effort(tmp_path: Path, clock: SteppedClock) -> None:
    """Without an index under the join, a nightly run over 200,000 resources would have taken hours."""
    small = _effort(tmp_path, clock, ledger=2000, observed=2000)
    large = _effort(tmp_path, clock, ledger=4000, observed=4000)
    assert {name for name in small if large[name] >= 3 * small[name]} == set()


def test_a_larger_ledger_takes_no_more_effort_where_as_much_is_looked_at(tmp_path: Path, clock: SteppedClock) -> None:
    small = _effort(tmp_path, clock, ledger=2000, observed=1000)
    large = _effort(tmp_path, clock, ledger=8000, observed=1000)
    assert {name for name in small if large[name] >= 1.5 * small[name]} == {"absent", "rebuild"}
