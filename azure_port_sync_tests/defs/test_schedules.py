"""When the schedules launch a run, and when they let one be."""

import tempfile
from datetime import UTC, datetime

import dagster as dg
import pytest

from azure_port_sync.core.clock import SystemClock
from azure_port_sync.definitions import defs

TICK = datetime(2026, 11, 23, 10, 15, tzinfo=UTC)


def evaluate(schedule: str, *active: str) -> dg.RunRequest | dg.SkipReason:
    """One tick of a schedule while runs of these jobs are under way."""
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.local_temp(home) as instance:
        for job in active:
            resolved = defs.resolve_job_def(job)
            instance.create_run_for_job(resolved, tags=resolved.tags, status=dg.DagsterRunStatus.STARTED)
        # Closed, because the context opens the instance again, and Dagster keeps an open one for all that follows.
        with dg.build_schedule_context(instance=instance, scheduled_execution_time=TICK) as context:
            result = defs.resolve_schedule_def(schedule).evaluate_tick(context)
    if result.skip_message:
        return dg.SkipReason(result.skip_message)
    (request,) = result.run_requests or []
    return request


@pytest.mark.parametrize("schedule", ["incremental_sync_schedule", "full_sync_schedule"])
def test_a_tick_launches_a_run(schedule: str) -> None:
    request = evaluate(schedule)

    assert isinstance(request, dg.RunRequest)
    assert request.run_key == TICK.isoformat()


@pytest.mark.parametrize("active", ["incremental_sync", "full_sync"])
def test_an_incremental_tick_is_skipped_while_a_sync_is_under_way(active: str) -> None:
    skipped = evaluate("incremental_sync_schedule", active)

    assert isinstance(skipped, dg.SkipReason)
    assert f"of {active} is still started" in (skipped.skip_message or "")


def test_a_full_tick_waits_in_the_queue_behind_an_incremental_one() -> None:
    """Skipping it would put the night's comparison off for a day, each night in which the quarter hour runs long."""
    assert isinstance(evaluate("full_sync_schedule", "incremental_sync"), dg.RunRequest)
    assert isinstance(evaluate("full_sync_schedule", "full_sync"), dg.SkipReason)


def test_the_schedules_are_on_and_keep_clear_of_each_other() -> None:
    schedules = {
        s.name: s for s in (defs.resolve_schedule_def(n) for n in ("incremental_sync_schedule", "full_sync_schedule"))
    }

    assert {s.cron_schedule for s in schedules.values()} == {"*/15 * * * *", "7 3 * * *"}
    assert all(s.default_status is dg.DefaultScheduleStatus.RUNNING for s in schedules.values())
    assert all(s.execution_timezone == "UTC" for s in schedules.values())


def test_the_system_clock_is_aware() -> None:
    assert SystemClock().now().tzinfo is UTC
