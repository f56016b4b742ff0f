"""Retention: deletes old runs from Dagster's storage, so that years of a run every 15 minutes fit on a disk.

Dagster deletes old ticks by itself (dagster.yaml, `retention`), but never runs. This job deletes finished runs with
their events, their compute logs and their values; failed runs are kept longer.
"""

import shutil
from datetime import datetime, timedelta

import dagster as dg
from pydantic import Field

from azure_port_sync.core.clock import Clock
from azure_port_sync.defs.dagster_internals import delete_evaluations_of_deleted_runs, delete_event_database
from azure_port_sync.defs.failures import user_facing_errors
from azure_port_sync.defs.jobs import SINGLETON_TAG
from azure_port_sync.defs.resources import StateResource, instance_folder

_BATCH_SIZE = 100
#: Values of the tag on our runs. Not the jobs' names, which other projects in the same instance may use.
_OUR_RUNS = ("sync", "port_setup", "retention")


class RetentionConfig(dg.Config):
    """Run config of `retention`: the time that finished runs and unused state are kept."""

    keep_successes_days: int = Field(
        default=14, ge=1, description="Days to keep runs that succeeded or were cancelled."
    )
    keep_failures_days: int = Field(default=90, ge=1, description="Days to keep runs that failed.")
    keep_states_days: int = Field(
        default=90,
        ge=30,
        description="Days to keep the watermark and the ledger of a target that is no longer synced while another one "
        "is, e.g. those of a webhook that was replaced.",
    )


@dg.op(description="Deletes old runs with everything that belongs to them, and the states of replaced targets.")
def delete_old_runs(
    context: dg.OpExecutionContext, config: RetentionConfig, state: StateResource, clock: dg.ResourceParam[Clock]
) -> None:
    with user_facing_errors():
        now = clock.now()
        successes = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED]
        failures = [dg.DagsterRunStatus.FAILURE]
        deleted_successes = _delete_runs(context.instance, successes, now - timedelta(days=config.keep_successes_days))
        deleted_failures = _delete_runs(context.instance, failures, now - timedelta(days=config.keep_failures_days))
        delete_evaluations_of_deleted_runs(context.instance)
        targets = state.store.targets.forget_unused(now - timedelta(days=config.keep_states_days))
        context.log.info(
            f"Deleted {deleted_successes:,} runs that succeeded more than {config.keep_successes_days} days ago, "
            f"{deleted_failures:,} that failed more than {config.keep_failures_days} days ago, and the state of "
            f"{targets:,} targets."
        )
        context.add_output_metadata(
            {"deleted_successes": deleted_successes, "deleted_failures": deleted_failures, "deleted_targets": targets}
        )


def _delete_runs(instance: dg.DagsterInstance, statuses: list[dg.DagsterRunStatus], created_before: datetime) -> int:
    """Delete our runs with one of these statuses and all that belongs to them, and return their number."""
    deleted = 0
    for tag in _OUR_RUNS:
        old = dg.RunsFilter(tags={SINGLETON_TAG: tag}, statuses=statuses, created_before=created_before)
        while records := instance.get_run_records(old, limit=_BATCH_SIZE, order_by="id", ascending=True):
            for record in records:
                run_id = record.dagster_run.run_id
                instance.compute_log_manager.delete_logs(prefix=[run_id])
                shutil.rmtree(instance_folder(instance) / "values" / run_id, ignore_errors=True)
                instance.delete_run(run_id)  # only now, because what belongs to it is found through it
                delete_event_database(instance, run_id)
            deleted += len(records)
    return deleted


@dg.job(
    name="retention",
    description="Deletes old runs from Dagster's storage: those that succeeded after 14 days, failed ones after 90.",
    executor_def=dg.in_process_executor,
    tags={SINGLETON_TAG: "retention", "dagster/max_runtime": str(60 * 60)},
)
def retention() -> None:
    delete_old_runs()


@dg.schedule(
    job=retention,
    cron_schedule="41 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Launches retention every night at 04:41 UTC.",
)
def retention_schedule() -> dg.RunRequest:
    return dg.RunRequest()
