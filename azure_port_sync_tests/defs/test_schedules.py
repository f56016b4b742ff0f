"""The schedules: they launch a run, or skip a tick while one is under way."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from azure_port_sync.definitions import defs

TICK = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance with a disk: the context of a schedule opens it again."""
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as opened:
        yield opened


def evaluate(instance: dg.DagsterInstance, schedule: str, *active: str) -> dg.RunRequest | dg.SkipReason:
    """Evaluate one tick of a schedule while runs of these jobs are under way."""
    runs = []
    for job in active:
        resolved = defs.resolve_job_def(job)
        run = instance.create_run_for_job(resolved, tags=resolved.tags, status=dg.DagsterRunStatus.STARTED)
        runs.append(run)
    # Closed, because Dagster would keep the instance that it opens for all that follows.
    with dg.build_schedule_context(instance=instance, scheduled_execution_time=TICK) as context:
        result = defs.resolve_schedule_def(schedule).evaluate_tick(context)
    for run in runs:
        instance.delete_run(run.run_id)
    if result.skip_message:
        return dg.SkipReason(result.skip_message)
    (request,) = result.run_requests or []
    return request


@pytest.mark.parametrize("schedule", ["incremental_sync_schedule", "full_sync_schedule"])
def test_a_tick_launches_a_run(instance: dg.DagsterInstance, schedule: str) -> None:
    request = evaluate(instance, schedule)

    assert isinstance(request, dg.RunRequest)
    assert request.run_key == TICK.isoformat()


@pytest.mark.parametrize("active", ["incremental_sync", "full_sync"])
def test_an_incremental_tick_is_skipped_while_a_sync_is_under_way(instance: dg.DagsterInstance, active: str) -> None:
    skipped = evaluate(instance, "incremental_sync_schedule", active)

    assert isinstance(skipped, dg.SkipReason)
    assert f"of {active} is still started" in (skipped.skip_message or "")


def test_a_full_tick_waits_in_the_queue_behind_an_incremental_one(instance: dg.DagsterInstance) -> None:
    """Skipping it would put the night's comparison off for a day, each night in which the quarter hour runs long."""
    assert isinstance(evaluate(instance, "full_sync_schedule", "incremental_sync"), dg.RunRequest)
    assert isinstance(evaluate(instance, "full_sync_schedule", "full_sync"), dg.SkipReason)


def test_the_schedules_are_on_and_keep_clear_of_each_other() -> None:
    schedules = {
        s.name: s for s in (defs.resolve_schedule_def(n) for n in ("incremental_sync_schedule", "full_sync_schedule"))
    }

    assert {s.cron_schedule for s in schedules.values()} == {"*/15 * * * *", "7 3 * * *"}
    assert all(s.default_status is dg.DefaultScheduleStatus.RUNNING for s in schedules.values())
    assert all(s.execution_timezone == "UTC" for s in schedules.values())
