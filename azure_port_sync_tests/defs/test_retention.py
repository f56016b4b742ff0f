"""Old runs are deleted with everything that belongs to them, and nothing else is."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from azure_port_sync.definitions import definitions
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.clocks import Later, SteppedClock
from azure_port_sync_tests.support.operator import Operator


@pytest.fixture
def operator(
    sandbox: Sandbox, clock: SteppedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Operator]:
    """On an instance with its databases on disk."""
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield Operator(sandbox, instance, clock)


def _retention(operator: Operator, after: timedelta) -> None:
    job = definitions(Later(after)).resolve_job_def("retention")
    assert job.execute_in_process(instance=operator.instance).success


def _kept(operator: Operator) -> set[str]:
    return {run.run_id for run in operator.instance.get_runs()}


def _files(folder: Path, run: str) -> list[Path]:
    return [path for path in folder.rglob("*") if run in str(path.relative_to(folder))]


def test_successes_go_before_failures_with_all_that_belongs_to_them(
    operator: Operator, estate: dict[str, str], tmp_path: Path
) -> None:
    old = [operator.run().run_id for _ in range(3)]
    operator.sandbox.faults.add(Fault("azure", status=403))
    failed = operator.run().run_id
    assert all(_files(tmp_path, run) for run in (*old, failed))

    _retention(operator, timedelta(days=1))
    assert {*old, failed} <= _kept(operator)

    _retention(operator, timedelta(days=20))

    assert failed in _kept(operator)
    assert not _kept(operator).intersection(old)
    assert [_files(tmp_path, run) for run in old] == [[], [], []]
    assert _files(tmp_path, failed)
    last = operator.instance.get_latest_materialization_event(dg.AssetKey("port_deliveries"))
    assert last is not None, "the UI still shows what an asset recorded last"
    assert last.run_id == old[-1]

    _retention(operator, timedelta(days=100))

    assert failed not in _kept(operator)
    assert _files(tmp_path, failed) == []


def _rows(folder: Path) -> Counter[str]:
    """Return the number of rows of each table, in all databases of the instance."""
    found: Counter[str] = Counter()
    for file in folder.rglob("*.db"):
        with closing(sqlite3.connect(file)) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                found[table] += connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
    return found


def test_nothing_grows_from_one_fortnight_to_the_next(
    operator: Operator, estate: dict[str, str], tmp_path: Path
) -> None:
    def fortnight() -> Counter[str]:
        for _ in range(2):
            operator.sync()
        _retention(operator, timedelta(days=20))
        return _rows(tmp_path)

    first = fortnight()
    assert first["asset_check_executions"], "the newest word of each check stays"

    assert fortnight() == first


def test_a_run_under_way_and_the_runs_of_others_stay(operator: Operator) -> None:
    """Another project in the same Dagster instance may have a job of the same name."""
    job = definitions(operator.clock).resolve_job_def("incremental_sync")
    active = operator.instance.create_run_for_job(job, tags=job.tags, status=dg.DagsterRunStatus.STARTED).run_id

    @dg.job(name="retention")
    def of_others() -> None: ...

    theirs = of_others.execute_in_process(instance=operator.instance).run_id

    _retention(operator, timedelta(days=400))

    assert {active, theirs} <= _kept(operator)
