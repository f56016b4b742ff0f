"""The state store, the same on SQLite and on a Postgres that is started for these tests alone.

Postgres is skipped where its server binaries are missing (Debian: `apt-get install postgresql`).
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from azure_port_sync.state import StateStore
from azure_port_sync.state import tables as t
from azure_port_sync.state.store import TOMBSTONE_FOR
from azure_port_sync.sync.decisions import Known
from azure_port_sync.sync.entities import identity
from azure_port_sync.sync.errors import StateError
from azure_port_sync.sync.rows import OBSERVATION, frame_of, records
from azure_port_sync.sync.windows import Mode, Plan, Window, reasons_for_full
from azure_port_sync_tests.conftest import NOW

_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
Row = dict[str, Any]


def _as_server(*command: str) -> list[str]:
    """Postgres refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a private server on a Unix socket."""
    if not _POSTGRES:
        pytest.skip("no Postgres server binaries below /usr/lib/postgresql")
    if os.geteuid() == 0 and not shutil.which("runuser"):
        pytest.skip("Postgres does not run as root, and runuser is missing")
    programs = _POSTGRES[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short, because a socket's path may have 107 characters
    try:
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        data = str(folder / "data")
        quick = f"-k {folder} -c listen_addresses='' -c fsync=off"
        start = [str(programs / "pg_ctl"), "-D", data, "-w", "-o", quick, "-l", str(folder / "log"), "start"]
        initialise = [str(programs / "initdb"), "-D", data, "-U", "sync", "--auth=trust", "-E", "UTF8", "-N"]
        for command in (initialise, start):
            subprocess.run(_as_server(*command), check=True, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            yield f"postgresql://sync@/postgres?host={folder}"
        finally:
            stop = [str(programs / "pg_ctl"), "-D", data, "-w", "-m", "immediate", "stop"]
            subprocess.run(_as_server(*stop), check=True, cwd=folder, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.sqlite'}"
    server = str(request.getfixturevalue("postgres"))
    engine = sa.create_engine(server.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        t.metadata.drop_all(connection)
    engine.dispose()
    return server


@pytest.fixture
def store(url: str) -> Iterator[StateStore]:
    opened = StateStore(url)
    yield opened
    opened.close()


_SUB = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
_OTHER_SUB = "1b1f6471-1bf0-4dda-aec3-cb9272f09590"


def _subscription(subscription: str = _SUB) -> Row:
    return identity(f"/subscriptions/{subscription}", "microsoft.resources/subscriptions", None)


def _group(name: str, subscription: str = _SUB) -> Row:
    group_id = f"/subscriptions/{subscription}/resourceGroups/{name}"
    return identity(group_id, "microsoft.resources/subscriptions/resourcegroups", None)


def _resource(name: str, group: str = "Web", subscription: str = _SUB) -> Row:
    group_id = f"/subscriptions/{subscription}/resourceGroups/{group}"
    return identity(f"{group_id}/providers/Microsoft.Web/sites/{name}", "microsoft.web/sites", None)


def _operation(columns: Row, operation: str = "upsert", content: str | None = "h") -> Row:
    return {**columns, "operation": operation, "hash": content if operation == "upsert" else None, "data": "{}"}


def _shown(columns: Row, content: str = "h", **more: Any) -> Row:
    return {**columns, "present": True, "in_scope": True, "hash": content, "data": "{}", **more}


def _absent(columns: Row, **more: Any) -> Row:
    return {**columns, "present": False, "in_scope": False, **more}


def _frame(*rows: Row) -> pd.DataFrame:
    return frame_of(rows, OBSERVATION)


def _plan(store: StateStore, target: str = "t") -> Plan:
    state = store.target_state(target)
    window = Window(NOW - timedelta(minutes=25), NOW)
    return Plan(target, Mode.FULL, (), window, "scope", state.watermark, state.generation, False, state.ledger_rows)


def _tell(store: StateStore, *rows: Row, target: str = "t") -> None:
    """Deliver and settle these operations."""
    plan = _plan(store, target)
    store.begin_sending(plan, rows, NOW)
    store.settle(plan, rows, NOW)


def _compare(store: StateStore, *rows: Row, force: bool = False, target: str = "t") -> dict[str, Known]:
    """What is known of the candidates that have to be decided, by name; the id that was told goes without saying."""
    comparison = store.compare(target, _frame(*rows), force=force, now=NOW)
    assert comparison.unchanged == len(rows) - len(comparison.positions)
    told = zip(comparison.positions, comparison.known, strict=True)
    return {rows[n]["name"]: known._replace(azure_id=None) for n, known in told}


def _names(frame: pd.DataFrame) -> set[str]:
    return set(frame["name"])


# -- comparing -------------------------------------------------------------------------------------------------------


def test_what_port_was_told_already_is_dropped(store: StateStore) -> None:
    _tell(store, _operation(_resource("same")), _operation(_resource("other"), content="old"))
    rows = [_shown(_resource(name)) for name in ("same", "other", "new")]
    assert _compare(store, *rows) == {"other": Known("settled", "old"), "new": Known()}


def test_force_drops_nothing(store: StateStore) -> None:
    _tell(store, _operation(_resource("same")))
    assert _compare(store, _shown(_resource("same")), force=True) == {"same": Known("settled", "h")}


def test_what_is_being_sent_is_never_dropped(store: StateStore) -> None:
    """The acknowledgement was lost, so nobody knows which content Port holds."""
    _tell(store, _operation(_resource("x")))
    store.begin_sending(_plan(store), [_operation(_resource("x"), content="new")], NOW)
    for content in ("h", "new"):
        assert _compare(store, _shown(_resource("x"), content)) == {"x": Known("sending", "h")}


def test_a_first_upsert_being_sent_is_known(store: StateStore) -> None:
    """Else a delete would not reach an entity whose acknowledgement was lost, and a ghost would stay."""
    store.begin_sending(_plan(store), [_operation(_resource("x"))], NOW)
    assert _compare(store, _absent(_resource("x"))) == {"x": Known("sending", None)}


@pytest.mark.parametrize(
    "more",
    [
        {"in_scope": False},
        {"present": False},
        {"change_type": "Delete", "change_time": NOW},
    ],
    ids=str,
)
def test_an_equal_hash_hides_no_delete(store: StateStore, more: Row) -> None:
    """A row that left the scope has the content that Port was told; it must be decided all the same."""
    _tell(store, _operation(_resource("x")))
    assert _compare(store, _shown(_resource("x"), **more)) == {"x": Known("settled", "h")}


@pytest.mark.parametrize("change", ["Create", "Update"])
def test_a_record_does_not_make_equal_content_unequal(store: StateStore, change: str) -> None:
    _tell(store, _operation(_resource("x")))
    assert _compare(store, _shown(_resource("x"), change_type=change, change_time=NOW)) == {}


def test_kinds_are_apart(store: StateStore) -> None:
    _tell(store, _operation(_resource("x")))
    disguised = {**_shown(_resource("x")), "kind": "resourceGroup"}
    assert _compare(store, disguised) == {"x": Known()}


def test_comparing_keeps_the_order_of_the_candidates(store: StateStore) -> None:
    rows = [_shown(_resource(f"x{n}")) for n in range(50)]
    _tell(store, *[_operation(row) for row in rows[::3]])
    comparison = store.compare("t", _frame(*rows), force=False, now=NOW)
    assert comparison.positions == [n for n in range(50) if n % 3]


def test_comparing_again_remembers_nothing_of_the_last_time(store: StateStore) -> None:
    assert _compare(store, _shown(_resource("a")), _shown(_resource("b"))).keys() == {"a", "b"}
    assert _compare(store, _shown(_resource("c"))).keys() == {"c"}
    assert _compare(store) == {}


def test_thousands_of_rows(store: StateStore) -> None:
    """More than one statement may carry, on either database."""
    rows = [_resource(f"x{n:05d}", group=f"G{n % 7}") for n in range(6_000)]
    _tell(store, *[_operation(row) for row in rows[:5_500]])
    shown = [_shown(row, "h" if n % 2 else "new") for n, row in enumerate(rows)]
    comparison = store.compare("t", _frame(*shown), force=False, now=NOW)
    assert comparison.unchanged == 2_750
    assert [known.state for known in comparison.known].count(None) == 500
    absent = store.absent("t", _frame(*shown[:1_000]))
    assert len(absent) == 4_500
    groups = [(_SUB, f"g{n}") for n in range(5_100)]
    assert len(store.known_resources_in("t", groups)) == 5_500
    _tell(store, *[_operation(row, "delete") for row in rows[:200]])
    assert store.target_state("t").ledger_rows == 5_300


def test_absent_are_the_known_resources_that_no_read_showed(store: StateStore) -> None:
    told = [_resource("seen"), _resource("unseen"), _group("Web"), _subscription()]
    _tell(store, *map(_operation, told))
    store.begin_sending(_plan(store), [_operation(_resource("sending"))], NOW)
    found = store.absent("t", _frame(_shown(_resource("seen")), _shown(_resource("new"))))
    assert _names(found) == {"unseen", "sending"}
    assert records(found[found["name"] == "unseen"])[0] == {**_resource("unseen"), "kind": "resource"}


_WORD = st.sampled_from(["settled", "sending", "unknown"])
_SEEN = st.sampled_from(["same", "other", "out of scope", "absent", "delete"])


@given(st.lists(st.tuples(_WORD, _SEEN), min_size=1, max_size=12), st.booleans())
@settings(max_examples=15)
def test_only_settled_and_equal_and_in_scope_is_dropped(
    store: StateStore, cases: list[tuple[str, str]], force: bool
) -> None:
    """The join in SQL, against the rule in Python."""
    target = f"t-{os.urandom(6).hex()}"
    rows = []
    for n, (ledger, seen) in enumerate(cases):
        columns = _resource(f"x{n}")
        if ledger == "settled":
            _tell(store, _operation(columns), target=target)
        elif ledger == "sending":
            store.begin_sending(_plan(store, target), [_operation(columns)], NOW)
        rows.append(
            {
                "same": _shown(columns),
                "other": _shown(columns, "new"),
                "out of scope": _shown(columns, in_scope=False),
                "absent": _absent(columns),
                "delete": _shown(columns, change_type="Delete", change_time=NOW),
            }[seen]
        )
    dropped = {f"x{n}" for n, case in enumerate(cases) if case == ("settled", "same") and not force}
    assert _compare(store, *rows, force=force, target=target).keys() == {row["name"] for row in rows} - dropped


# -- settling --------------------------------------------------------------------------------------------------------


def test_settled_deletes_are_forgotten(store: StateStore) -> None:
    _tell(store, _operation(_resource("x")), _operation(_resource("y")))
    _tell(store, _operation(_resource("x"), "delete"))
    assert _compare(store, _absent(_resource("x")), _absent(_resource("y"))) == {
        "x": Known(),
        "y": Known("settled", "h"),
    }


def test_a_settled_group_takes_the_ledger_beneath_it(store: StateStore) -> None:
    """Port deletes what depends on a group: a resource that is still `settled` would never be sent again."""
    kept = [
        _subscription(),
        _group("Web2"),
        _resource("a", "Web2"),
        _group("Web", _OTHER_SUB),
        _resource("b", "Web", _OTHER_SUB),
    ]
    gone = [_group("Web"), _resource("c"), _resource("d", "WEB")]
    _tell(store, *map(_operation, [*kept, *gone]))
    _tell(store, _operation(_group("Web"), "delete"))
    assert _compare(store, *[_shown(row) for row in kept]) == {}
    assert set(_compare(store, *[_shown(row) for row in gone]).values()) == {Known()}


def test_a_settled_subscription_takes_everything_in_it(store: StateStore) -> None:
    inside = [_subscription(), _group("Web"), _resource("a"), _resource("b", "Other")]
    outside = [_subscription(_OTHER_SUB), _group("Web", _OTHER_SUB), _resource("a", "Web", _OTHER_SUB)]
    _tell(store, *map(_operation, [*inside, *outside]))
    _tell(store, _operation(_subscription(), "delete"))
    assert store.target_state("t").ledger_rows == len(outside)
    assert _compare(store, *[_shown(row) for row in outside]) == {}


def test_a_resource_takes_nothing_with_it(store: StateStore) -> None:
    rows = [_resource("a"), _resource("a/slots/b"), _group("Web")]
    _tell(store, *map(_operation, rows))
    _tell(store, _operation(_resource("a"), "delete"))
    assert store.target_state("t").ledger_rows == 2


def test_settling_again_changes_nothing(store: StateStore) -> None:
    rows = [_operation(_resource("x")), _operation(_resource("y"), "delete")]
    for _ in range(2):
        _tell(store, *rows)
    assert store.target_state("t").ledger_rows == 1


def test_the_ledger_takes_over_new_names_and_hashes(store: StateStore) -> None:
    _tell(store, _operation(_resource("x")))
    renamed = {**_resource("x"), "name": "Renamed", "azure_id": _resource("X")["azure_id"]}
    _tell(store, _operation(renamed, content="new"))
    (row,) = records(store.known_resources_in("t", [(_SUB, "web")]))
    assert (row["name"], row["azure_id"]) == ("Renamed", renamed["azure_id"])
    assert _compare(store, _shown(renamed, "new")) == {}


# -- generations -----------------------------------------------------------------------------------------------------


def test_an_unknown_target_has_settled_nothing(store: StateStore) -> None:
    state = store.target_state("t")
    assert (state.watermark, state.fingerprint, state.generation, state.ledger_rows) == (None, None, 0, 0)
    assert store.target_state("t") == state


def test_finish_moves_the_watermark_to_the_windows_end(store: StateStore) -> None:
    store.finish(_plan(store))
    state = store.target_state("t")
    assert (state.watermark, state.fingerprint, state.generation) == (NOW, "scope", 1)
    assert state.watermark is not None
    assert state.watermark.tzinfo is not None


def test_a_plan_settles_once(store: StateStore) -> None:
    """Of two runs that planned from one watermark, the slower one must not put it back."""
    plan = _plan(store)
    slower = replace(plan, window=Window(plan.window.start, NOW - timedelta(hours=1)))
    store.finish(plan)
    for late in (plan, slower):
        with pytest.raises(StateError, match="Another run settled"):
            store.finish(late)
        with pytest.raises(StateError, match="incremental_sync"):
            store.check_plan(late)
    assert store.target_state("t").watermark == NOW
    store.check_plan(_plan(store))
    store.finish(_plan(store))


def test_new_subscriptions_are_those_that_no_settled_run_read(store: StateStore) -> None:
    def read(*ids: str) -> list[str]:
        return store.begin_reading("t", ids, NOW)

    plan = _plan(store)
    assert read("b", "a") == ["a", "b"]
    assert read("a", "b") == ["a", "b"]  # the first run did not settle
    store.finish(plan)
    assert read("a", "b") == []
    assert read("a", "b", "c") == ["c"]
    assert read("a", "b", "c") == ["c"]  # read by a run that failed
    store.finish(_plan(store))
    assert read("a", "b", "c") == []


def test_a_subscription_that_returns_is_new(store: StateStore) -> None:
    """What changed while it could not be read left no record that can be read now."""
    plan = _plan(store)
    store.begin_reading("t", ["a", "b"], NOW)
    store.finish(plan)
    plan = _plan(store)
    assert store.begin_reading("t", ["a"], NOW) == []
    store.finish(plan)
    assert store.begin_reading("t", ["a", "b"], NOW) == ["b"]


def test_containers_of_a_run_that_did_not_settle_are_not_complete(store: StateStore) -> None:
    """A group told by a failed run still needs its resources inventoried."""
    _tell(store, _operation(_group("Old")))
    store.finish(_plan(store))
    _tell(store, _operation(_group("New")), _operation(_group("Old"), content="new"), _operation(_resource("x")))
    generation = store.target_state("t").generation
    known = {row["name"]: row["complete_after"] for row in records(store.known_containers("t"))}
    assert known == {"Old": 0, "New": 1}
    assert generation == 1


def test_a_state_of_an_older_schema_turns_a_run_full(store: StateStore, url: str) -> None:
    """Whose columns mean something else; the design promises a full sync."""
    _tell(store, _operation(_resource("x")))
    store.finish(_plan(store))
    assert reasons_for_full(store.target_state("t"), fingerprint="scope", now=NOW) == ()
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.execute(sa.update(t.target).values(schema_version=t.SCHEMA_VERSION - 1))
    engine.dispose()
    assert reasons_for_full(store.target_state("t"), fingerprint="scope", now=NOW) != ()


# -- pending and tombstones ------------------------------------------------------------------------------------------


def _facts(store: StateStore, *, pending: Any = (), resolved: Any = (), deleted: Any = (), at: Any = NOW) -> None:
    store.record_facts("t", pending=_frame(*pending), resolved=resolved, deleted=_frame(*deleted), now=at)


def test_pending_waits_from_its_first_record_on(store: StateStore) -> None:
    """Each run that saw no row began the 24 hours anew, and the entity was never given up."""
    waiting = _absent(_resource("x"), change_type="Create", change_time=NOW)
    _facts(store, pending=[waiting])
    _facts(
        store,
        pending=[{**waiting, "change_type": "Update", "change_time": NOW + timedelta(hours=1)}],
        at=NOW + timedelta(hours=1),
    )
    (row,) = records(store.pending("t"))
    assert (row["since"], row["change_time"], row["change_type"]) == (NOW, NOW + timedelta(hours=1), "Update")
    assert (row["azure_id"], row["type"]) == (waiting["azure_id"], waiting["type"])


def test_pending_ends_when_resolved_or_settled(store: StateStore) -> None:
    rows = [_absent(_resource(name), change_type="Create", change_time=NOW) for name in "abcd"]
    _facts(store, pending=rows)
    _facts(store, resolved=[rows[0]["identifier"]])
    _tell(store, _operation(_resource("b")), _operation(_resource("c"), "delete"))
    assert [row["azure_id"][-1] for row in records(store.pending("t"))] == ["d"]


def test_no_pending_is_an_empty_frame(store: StateStore) -> None:
    assert {"identifier", "azure_id", "type", "change_type", "change_time", "since"} <= set(store.pending("t").columns)


def _tombstone(store: StateStore, name: str = "x", after: timedelta = timedelta(0)) -> Any:
    comparison = store.compare("t", _frame(_shown(_resource(name))), force=False, now=NOW + after)
    return comparison.known[0].tombstone


def test_a_delete_record_leaves_a_tombstone_for_48_hours(store: StateStore) -> None:
    record = _absent(_resource("x"), change_type="Delete", change_time=NOW - timedelta(minutes=3))
    _facts(store, deleted=[record])
    assert _tombstone(store) == NOW - timedelta(minutes=3)
    assert _tombstone(store, after=TOMBSTONE_FOR - timedelta(seconds=1)) == NOW - timedelta(minutes=3)
    assert _tombstone(store, after=TOMBSTONE_FOR) is None


def test_reading_a_delete_record_again_does_not_prolong_its_tombstone(store: StateStore) -> None:
    record = _absent(_resource("x"), change_type="Delete", change_time=NOW)
    _facts(store, deleted=[record])
    _facts(store, deleted=[record], at=NOW + timedelta(hours=10))
    assert _tombstone(store, after=TOMBSTONE_FOR) is None


def test_a_delete_for_scope_or_absence_leaves_none(store: StateStore) -> None:
    """A group that is retagged out and back in must come back at once."""
    _facts(store, deleted=[_shown(_resource("x"), in_scope=False), _absent(_resource("y"))])
    assert _tombstone(store, "x") is None
    assert _tombstone(store, "y") is None


def test_a_settled_upsert_ends_a_tombstone_and_a_settled_delete_does_not(store: StateStore) -> None:
    for name in ("x", "y"):
        _tell(store, _operation(_resource(name)))
        _facts(store, deleted=[_absent(_resource(name), change_type="Delete", change_time=NOW)])
    _tell(store, _operation(_resource("x"), content="new"), _operation(_resource("y"), "delete"))
    assert _tombstone(store, "x") is None
    assert _tombstone(store, "y") == NOW


# -- apart from each other -------------------------------------------------------------------------------------------


def test_targets_are_apart(store: StateStore) -> None:
    """Another Port knows nothing of what the first one was told."""
    rows = [_subscription(), _group("Web"), _resource("x")]
    _tell(store, *map(_operation, rows))
    _facts(store, pending=[_absent(_resource("p"), change_type="Create", change_time=NOW)])
    _facts(store, deleted=[_absent(_resource("q"), change_type="Delete", change_time=NOW)])
    store.begin_reading("t", [_SUB], NOW)
    store.finish(_plan(store))

    assert store.target_state("u").ledger_rows == 0
    assert set(_compare(store, *map(_shown, [*rows, _resource("q")]), target="u").values()) == {Known()}
    assert store.pending("u").empty
    assert store.known_containers("u").empty
    assert store.known_resources_in("u", [(_SUB, "web")]).empty
    assert store.absent("u", _frame()).empty
    assert store.begin_reading("u", [_SUB], NOW) == [_SUB]
    _tell(store, _operation(_subscription(), "delete"), target="u")
    assert store.target_state("t").ledger_rows == 3


def test_state_outlives_the_process(store: StateStore, url: str) -> None:
    _tell(store, _operation(_resource("x")))
    store.finish(_plan(store))
    again = StateStore(url)
    try:
        assert again.target_state("t").watermark == NOW
        assert _compare(again, _shown(_resource("x"))) == {}
    finally:
        again.close()


def test_no_groups_no_resources(store: StateStore) -> None:
    _tell(store, _operation(_resource("x")))
    assert store.known_resources_in("t", []).empty
    assert "azure_id" in store.known_resources_in("t", []).columns


# -- what cannot be used ---------------------------------------------------------------------------------------------

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
        f"nosuchdatabase://user:{_PASSWORD}@host/database",
        f"mysql://user:{_PASSWORD}@host/database",
        "sqlite:////no/such/folder/state.sqlite",
    ],
)
def test_a_url_that_cannot_be_used_is_one_sentence(url: str) -> None:
    with pytest.raises(StateError, match="AZURE_PORT_SYNC_STATE_URL") as error:
        StateStore(url)
    assert _PASSWORD not in str(error.value)
    assert "Traceback" not in str(error.value)


def test_a_database_that_goes_away_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "state.sqlite"
    opened = StateStore(f"sqlite:///{file}")
    opened.close()
    file.write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(StateError, match="AZURE_PORT_SYNC_STATE_URL"):
        opened.target_state("t")
    opened.close()


def _effort(folder: Path, entities: int) -> int:
    """Thousands of steps of SQLite's machine to compare so many settled entities with as many candidates."""
    opened = StateStore(f"sqlite:///{folder / f'{entities}.sqlite'}")
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    names = [_resource(f"x{n}") for n in range(entities)]
    _tell(opened, *map(_operation, names))
    opened._engine.dispose()
    sa.event.listen(opened._engine, "connect", lambda connection, _: connection.set_progress_handler(count, 1000))
    shown = _frame(*map(_shown, names))
    assert opened.compare("t", shown, force=False, now=NOW).unchanged == entities
    assert opened.absent("t", shown).empty
    opened.close()
    return steps


def test_comparing_twice_as_much_takes_twice_the_effort(tmp_path: Path) -> None:
    """Without an index under the join, a nightly run over 200,000 resources would have taken hours."""
    assert _effort(tmp_path, 4000) < 3 * _effort(tmp_path, 2000)
