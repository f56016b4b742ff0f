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
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from azure_port_sync.core.decisions import LedgerEntry
from azure_port_sync.core.entities import identity
from azure_port_sync.core.errors import StateError
from azure_port_sync.core.plan import Plan, reasons_for_full
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.rows import OBSERVATION, frame_of, records
from azure_port_sync.core.subscriptions import Subscriptions, SubscriptionState, presence
from azure_port_sync.core.windows import Window
from azure_port_sync.state import Comparison, StateStore
from azure_port_sync.state import tables as t
from azure_port_sync.state.store import LEASE, TOMBSTONE_FOR
from azure_port_sync_tests.support.clocks import NOW

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


def _plan(store: StateStore, target: str = "t", run: str = "r") -> Plan:
    state = store.target_state(target)
    window = Window(NOW - timedelta(minutes=25), NOW)
    return Plan(
        target,
        run,
        Request(),
        Mode.FULL,
        (),
        window,
        "scope",
        state.watermark,
        state.generation,
        state.ledger_rows,
        state.full_runs,
    )


def _claimed(store: StateStore, target: str = "t") -> Plan:
    """A plan of a run that may deliver."""
    plan = _plan(store, target)
    assert store.claim(plan, NOW) is None
    return plan


def _tell(store: StateStore, *rows: Row, target: str = "t") -> None:
    """Deliver and settle these operations."""
    plan = _claimed(store, target)
    store.begin_sending(plan, rows, NOW)
    store.settle(plan, rows, NOW)


def _compare(store: StateStore, *rows: Row, force: bool = False, target: str = "t") -> dict[str, LedgerEntry]:
    """What is known of the candidates that have to be decided, by name; the id that was told goes without saying."""
    comparison = store.compare(target, _frame(*rows), resend=pd.Series([force] * len(rows), dtype=bool), now=NOW)
    assert comparison.unchanged == len(rows) - len(comparison.positions)
    told = zip(comparison.positions, comparison.known, strict=True)
    return {rows[n]["name"]: known._replace(azure_id=None) for n, known in told}


def _comparison(store: StateStore, frame: pd.DataFrame, at: datetime = NOW) -> Comparison:
    return store.compare("t", frame, resend=pd.Series(False, index=frame.index), now=at)


def _names(frame: pd.DataFrame) -> set[str]:
    return set(frame["name"])


# -- comparing -------------------------------------------------------------------------------------------------------


def test_what_port_was_told_already_is_dropped(store: StateStore) -> None:
    _tell(store, _operation(_resource("same")), _operation(_resource("other"), content="old"))
    rows = [_shown(_resource(name)) for name in ("same", "other", "new")]
    assert _compare(store, *rows) == {"other": LedgerEntry("settled", "old"), "new": LedgerEntry()}


def test_force_drops_nothing(store: StateStore) -> None:
    _tell(store, _operation(_resource("same")))
    assert _compare(store, _shown(_resource("same")), force=True) == {"same": LedgerEntry("settled", "h")}


def test_what_is_being_sent_is_never_dropped(store: StateStore) -> None:
    """The acknowledgement was lost, so nobody knows which content Port holds."""
    _tell(store, _operation(_resource("x")))
    store.begin_sending(_claimed(store), [_operation(_resource("x"), content="new")], NOW)
    for content in ("h", "new"):
        assert _compare(store, _shown(_resource("x"), content)) == {"x": LedgerEntry("sending", "h")}


def test_a_first_upsert_being_sent_is_known(store: StateStore) -> None:
    """Else a delete would not reach an entity whose acknowledgement was lost, and a ghost would stay."""
    store.begin_sending(_claimed(store), [_operation(_resource("x"))], NOW)
    assert _compare(store, _absent(_resource("x"))) == {"x": LedgerEntry("sending", None)}


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
    assert _compare(store, _shown(_resource("x"), **more)) == {"x": LedgerEntry("settled", "h")}


@pytest.mark.parametrize("change", ["Create", "Update"])
def test_a_record_does_not_make_equal_content_unequal(store: StateStore, change: str) -> None:
    _tell(store, _operation(_resource("x")))
    assert _compare(store, _shown(_resource("x"), change_type=change, change_time=NOW)) == {}


def test_kinds_are_apart(store: StateStore) -> None:
    _tell(store, _operation(_resource("x")))
    disguised = {**_shown(_resource("x")), "kind": "resourceGroup"}
    assert _compare(store, disguised) == {"x": LedgerEntry()}


def test_comparing_keeps_the_order_of_the_candidates(store: StateStore) -> None:
    rows = [_shown(_resource(f"x{n}")) for n in range(50)]
    _tell(store, *[_operation(row) for row in rows[::3]])
    comparison = _comparison(store, _frame(*rows), at=NOW)
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
    comparison = _comparison(store, _frame(*shown), at=NOW)
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
    store.begin_sending(_claimed(store), [_operation(_resource("sending"))], NOW)
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
            store.begin_sending(_claimed(store, target), [_operation(columns)], NOW)
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
        "x": LedgerEntry(),
        "y": LedgerEntry("settled", "h"),
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
    assert _compare(store, *[_shown(row) for row in gone]) == dict.fromkeys(("Web", "c", "d"), LedgerEntry())


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
    store.finish(_claimed(store))
    state = store.target_state("t")
    assert (state.watermark, state.fingerprint, state.generation) == (NOW, "scope", 1)
    assert state.watermark is not None
    assert state.watermark.tzinfo is not None


def test_a_plan_settles_once(store: StateStore) -> None:
    """Of two runs that planned from one watermark, the slower one must not put it back."""
    plan = _claimed(store)
    slower = replace(plan, run="slower", window=Window(plan.window.start, NOW - timedelta(hours=1)))
    store.finish(plan)
    for late in (plan, slower):
        with pytest.raises(StateError, match="has settled it meanwhile"):
            store.finish(late)
        with pytest.raises(StateError, match="incremental_sync"):
            store.claim(late, NOW)
    assert store.target_state("t").watermark == NOW
    store.finish(_claimed(store))


def _read(store: StateStore, *ids: str, run: str = "r") -> list[str]:
    """See and read these subscriptions; those that are new."""
    found = presence(store.subscriptions("t"), dict.fromkeys(ids, True), given_up=(), now=NOW)
    store.remember_subscriptions(_plan(store, run=run), found)
    return sorted(found.new)


def test_new_subscriptions_are_those_that_no_settled_run_read(store: StateStore) -> None:
    assert _read(store, "b", "a") == ["a", "b"]
    assert _read(store, "a", "b") == ["a", "b"]  # the first run did not settle
    store.finish(_claimed(store))
    assert _read(store, "a", "b") == []
    assert _read(store, "a", "b", "c") == ["c"]
    assert _read(store, "a", "b", "c") == ["c"]  # read by a run that failed
    store.finish(_claimed(store))
    assert _read(store, "a", "b", "c") == []


def test_a_subscription_that_returns_is_new(store: StateStore) -> None:
    """What changed while it could not be read left no record that can be read now."""
    _read(store, "a", "b")
    store.finish(_claimed(store))
    assert _read(store, "a") == []
    store.finish(_claimed(store))
    assert _read(store, "a", "b") == ["b"]


def test_a_subscription_is_not_taken_as_read_by_a_run_that_did_not_see_it(store: StateStore) -> None:
    """Of two runs at once, the one that settles may be the one that could not read it."""
    _read(store, "a", run="r")
    _read(store, "a", "b", run="another")
    store.finish(_claimed(store))
    assert "b" in _read(store, "a", "b")


def test_what_is_remembered_of_a_subscription_comes_back(store: StateStore) -> None:
    seen = {
        "a": SubscriptionState(True, False),
        "b": SubscriptionState(False, False),
        "c": SubscriptionState(True, False, NOW),
    }
    store.remember_subscriptions(_plan(store), Subscriptions(seen, frozenset("ab"), {"c": NOW}))
    assert store.subscriptions("t") == seen
    store.remember_subscriptions(_plan(store), Subscriptions({"a": seen["b"]}, frozenset("a"), {}))
    assert store.subscriptions("t") == {"a": seen["b"]}


def test_containers_of_a_run_that_did_not_settle_are_not_complete(store: StateStore) -> None:
    """A group told by a failed run still needs its resources inventoried."""
    _tell(store, _operation(_group("Old")))
    store.finish(_claimed(store))
    _tell(store, _operation(_group("New")), _operation(_group("Old"), content="new"), _operation(_resource("x")))
    generation = store.target_state("t").generation
    known = {row["name"]: row["complete_after"] for row in records(store.known_containers("t"))}
    assert known == {"Old": 0, "New": 1}
    assert generation == 1


_FIRST_SCHEMA = """
    DROP TABLE target; DROP TABLE subscription_seen;
    CREATE TABLE target (target VARCHAR(64) PRIMARY KEY, schema_version INTEGER NOT NULL, watermark TIMESTAMP,
        fingerprint VARCHAR(64), generation INTEGER NOT NULL, lease_holder VARCHAR(64), lease_expires TIMESTAMP);
    CREATE TABLE subscription_seen (target VARCHAR(64), subscription_id VARCHAR(64), seen_at TIMESTAMP NOT NULL,
        in_last_reading BOOLEAN NOT NULL, generation INTEGER, PRIMARY KEY (target, subscription_id));
    INSERT INTO target VALUES ('t', 1, '2026-11-23 09:45:00', 'scope', 1, NULL, NULL);
    INSERT INTO subscription_seen VALUES ('t', 'a', '2026-11-23 09:45:00', TRUE, 1)
"""


def test_a_state_of_an_older_schema_keeps_its_ledger_and_turns_a_run_full(store: StateStore, url: str) -> None:
    """Without the ledger, what was deleted meanwhile would stay in Port for ever."""
    _tell(store, _operation(_resource("x")))
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for statement in _FIRST_SCHEMA.split(";"):
            connection.execute(sa.text(statement))
    engine.dispose()

    again = StateStore(url)

    state = again.target_state("t")
    assert reasons_for_full(state, fingerprint="scope", now=NOW) == ("the state was written by another version",)
    assert (state.ledger_rows, state.generation) == (1, 1)
    assert again.subscriptions("t") == {"a": SubscriptionState(True, True)}
    _read(again, "a", "b")
    again.finish(_claimed(again))
    assert reasons_for_full(again.target_state("t"), fingerprint="scope", now=NOW) == ()
    again.close()


# -- the lease -------------------------------------------------------------------------------------------------------


def test_only_one_run_claims_a_target(store: StateStore) -> None:
    mine, other = _plan(store), _plan(store, run="other")
    assert store.claim(mine, NOW) is None
    assert store.claim(mine, NOW) is None  # again, by the same run
    assert store.claim(other, NOW + timedelta(seconds=1)) == NOW + LEASE
    assert store.claim(other, NOW + LEASE) is None
    with pytest.raises(StateError, match="taken this target over"):
        store.renew(mine, NOW + LEASE)


def test_a_claim_lives_as_long_as_it_is_renewed(store: StateStore) -> None:
    mine, other = _claimed(store), _plan(store, run="other")
    store.renew(mine, NOW + LEASE / 2)
    store.begin_sending(mine, [_operation(_resource("x"))], NOW + LEASE)
    store.settle(mine, [_operation(_resource("x"))], NOW + LEASE * 1.5)
    assert store.claim(other, NOW + LEASE * 2) == NOW + LEASE * 2.5


@pytest.mark.parametrize("verb", ["begin_sending", "settle", "begin_deleting_containers"])
def test_a_run_that_was_taken_over_writes_nothing(store: StateStore, verb: str) -> None:
    mine, other = _claimed(store), _plan(store, run="other")
    assert store.claim(other, NOW + LEASE) is None
    with pytest.raises(StateError, match="taken this target over"):
        getattr(store, verb)(mine, [_operation(_group("Web"))], NOW + LEASE)
    assert store.target_state("t").ledger_rows == 0
    with pytest.raises(StateError, match="taken this target over"):
        store.finish(mine)
    store.release(mine)  # of what is not ours any more
    store.finish(other)


def test_a_claim_that_is_given_up_is_free(store: StateStore) -> None:
    mine = _claimed(store)
    store.release(mine)
    assert store.claim(_plan(store, run="other"), NOW) is None


def test_a_claim_of_the_far_future_is_not_believed(store: StateStore) -> None:
    """The clock was ahead when it was made; waiting for its end could take years."""
    assert store.claim(_plan(store), NOW + timedelta(days=400)) is None
    assert store.claim(_plan(store, run="other"), NOW) is None


# -- rebuilding ------------------------------------------------------------------------------------------------------


def test_a_refill_makes_the_ledger_what_port_holds(store: StateStore) -> None:
    _tell(store, *[_operation(_resource(name)) for name in ("kept", "lost")], _operation(_group("Web")))
    store.finish(_claimed(store))
    before = _plan(store)
    held = [_resource("kept"), _resource("added"), _group("Web")]

    found = store.refill("t", _frame(*[_absent({**row, "name": "?"}) for row in held]), NOW)

    assert (found.held, found.missing, found.added) == (3, 1, 1)
    assert {name: known.state for name, known in _compare(store, *map(_shown, [*held, _resource("lost")])).items()} == {
        "kept": "found",
        "added": "found",
        "Web": "found",
        "lost": None,
    }
    assert _names(store.known_resources_in("t", [(_SUB, "web")])) == {"kept", "?"}  # what was known better stays
    assert store.target_state("t").watermark is None
    with pytest.raises(StateError, match="planned before another run settled"):
        store.claim(before, NOW)


def test_a_refill_of_one_target_leaves_the_others_alone(store: StateStore) -> None:
    _tell(store, _operation(_resource("x")), target="u")
    _tell(store, _operation(_resource("x")))
    store.refill("t", _frame(), NOW)
    assert store.target_state("t").ledger_rows == 0
    assert _compare(store, _shown(_resource("x")), target="u") == {}


def test_known_among_counts_what_the_ledger_holds(store: StateStore) -> None:
    _tell(store, _operation(_resource("x")), _operation(_group("Web")))
    disguised = {**_absent(_resource("x")), "kind": "resourceGroup"}
    assert store.known_among("t", _frame(_absent(_resource("x")), _absent(_resource("y")), _absent(_group("Web")))) == 2
    assert store.known_among("t", _frame(disguised)) == 0
    assert store.known_among("t", _frame()) == 0


# -- pending and tombstones ------------------------------------------------------------------------------------------


def _facts(store: StateStore, *, pending: Any = (), resolved: Any = (), deleted: Any = (), at: Any = NOW) -> None:
    store.record_facts(
        "t",
        pending=_frame(*pending),
        resolved=resolved,
        deleted=_frame(*deleted),
        colliding=(),
        released=(),
        now=at,
    )


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
    comparison = _comparison(store, _frame(_shown(_resource(name))), at=NOW + after)
    return next(comparison.known).tombstone


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
    _read(store, _SUB)
    store.finish(_claimed(store))

    assert store.target_state("u").ledger_rows == 0
    assert set(_compare(store, *map(_shown, [*rows, _resource("q")]), target="u").values()) == {LedgerEntry()}
    assert store.pending("u").empty
    assert store.known_containers("u").empty
    assert store.known_resources_in("u", [(_SUB, "web")]).empty
    assert store.absent("u", _frame()).empty
    assert store.subscriptions("u") == {}
    _tell(store, _operation(_subscription(), "delete"), target="u")
    assert store.target_state("t").ledger_rows == 3


def test_state_outlives_the_process(store: StateStore, url: str) -> None:
    _tell(store, _operation(_resource("x")))
    store.finish(_claimed(store))
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
    assert _comparison(opened, shown).unchanged == entities
    assert opened.absent("t", shown).empty
    opened.close()
    return steps


def test_comparing_twice_as_much_takes_twice_the_effort(tmp_path: Path) -> None:
    """Without an index under the join, a nightly run over 200,000 resources would have taken hours."""
    assert _effort(tmp_path, 4000) < 3 * _effort(tmp_path, 2000)


# -- replaced targets ------------------------------------------------------------------------------------------------


def test_the_state_of_a_replaced_target_goes_and_that_of_the_only_one_stays(store: StateStore) -> None:
    for target, age in (("replaced", 100), ("t", 0)):
        _tell(store, _operation(_resource("x")), target=target)
        plan = replace(_claimed(store, target), window=Window(NOW - timedelta(days=age + 1), NOW - timedelta(days=age)))
        store.finish(plan)

    assert store.forget_targets(NOW - timedelta(days=200), NOW) == 0
    assert store.forget_targets(NOW - timedelta(days=90), NOW) == 1
    assert store.target_state("replaced").ledger_rows == 0
    assert store.target_state("t").ledger_rows == 1
    later = NOW + timedelta(days=90)
    assert store.forget_targets(later, later) == 0, "without a newer one, the old ledger finds ghosts"
    assert store.target_state("t").ledger_rows == 1


def test_a_target_that_was_never_settled_goes_too_but_not_under_a_run(store: StateStore) -> None:
    """As of a webhook URL that was mistyped; or one in its first run, which takes its time."""
    _tell(store, _operation(_resource("x")), target="mistyped")
    later = NOW + timedelta(days=100)
    settled = replace(_claimed(store), window=Window(later - timedelta(minutes=25), later))
    store.finish(settled)

    assert store.forget_targets(NOW - timedelta(days=1), later) == 0, "it is young"
    assert store.forget_targets(later - timedelta(days=90), NOW) == 0, "a run delivers to it"
    assert store.forget_targets(later - timedelta(days=90), later) == 1
    assert store.target_state("mistyped").ledger_rows == 0
