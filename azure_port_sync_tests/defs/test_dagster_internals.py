"""The private parts of Dagster that we depend on are where we expect them, and still needed."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable

from azure_port_sync.defs.dagster_internals import (
    UserFacingError,
    delete_evaluations_of_deleted_runs,
    delete_event_database,
)


@dg.asset
def one() -> None: ...


@dg.asset_check(asset=one)
def checked() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=True)


def _run(instance: dg.DagsterInstance) -> str:
    return dg.materialize([one, checked], instance=instance).run_id


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp(str(tmp_path)) as opened:
        yield opened


def _evaluated_in(instance: dg.DagsterInstance) -> list[str]:
    """Return the runs of which the storage has evaluations, the oldest first."""
    assert isinstance(instance.event_log_storage, SqlEventLogStorage)
    columns = AssetCheckExecutionsTable.c
    with instance.event_log_storage.index_connection() as connection:
        return list(connection.scalars(sa.select(columns.run_id).order_by(columns.id)))


def test_the_evaluations_of_a_deleted_run_are_deleted_except_the_newest(instance: dg.DagsterInstance) -> None:
    first, second, third = (_run(instance) for _ in range(3))
    for run_id in (first, third):
        instance.delete_run(run_id)
    assert _evaluated_in(instance) == [first, second, third], "Dagster deletes them itself: this code can go"

    delete_evaluations_of_deleted_runs(instance)

    assert _evaluated_in(instance) == [second, third]


def test_the_database_of_a_deleted_run_is_deleted(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    gone, kept = (_run(instance) for _ in range(2))
    instance.delete_run(gone)
    assert list(tmp_path.rglob(f"{gone}.db")), "Dagster deletes it itself: this code can go"

    delete_event_database(instance, gone)

    assert not list(tmp_path.rglob(f"{gone}.db*"))
    assert list(tmp_path.rglob(f"{kept}.db"))


def test_an_instance_without_such_a_storage_is_left_alone() -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        run_id = _run(instance)
        delete_event_database(instance, run_id)
        delete_evaluations_of_deleted_runs(instance)
        assert instance.get_run_by_id(run_id) is not None


def test_dagster_records_a_traceback_of_every_failure_but_ours(instance: dg.DagsterInstance) -> None:
    def recorded(failure: dg.Failure) -> str:
        @dg.asset
        def fails() -> None:
            raise failure

        result = dg.materialize([fails], instance=instance, raise_on_error=False)
        (event,) = result.get_step_failure_events()
        data = event.step_failure_data
        assert data.user_failure_data is not None
        assert data.user_failure_data.description == "A sentence."
        return data.error_display_string

    assert "Stack Trace:" in recorded(dg.Failure("A sentence."))
    assert recorded(UserFacingError("A sentence.")) == "A sentence.\n"
