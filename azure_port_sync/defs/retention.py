"""Upkeep: what Dagster keeps of old runs goes, so that years of a run every 15 minutes fit on a disk.

Dagster deletes old ticks by itself (dagster.yaml, `retention`), and no runs. This job deletes finished runs with their
events, their compute logs and, on SQLite, the file that each run has; failures stay longer.
"""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from pydantic import Field

from azure_port_sync.core.clock import Clock
from azure_port_sync.defs.jobs import SINGLETON_TAG
from azure_port_sync.defs.metadata import user_facing_errors
from azure_port_sync.defs.resources import StateResource, instance_folder

_AT_A_TIME = 100
_OURS = ("sync", "port_setup", "retention")  # not by the jobs' names, which others may have in the same instance


class RetentionConfig(dg.Config):
    """How long what is finished stays."""

    keep_successes_days: int = Field(
        default=14, ge=1, description="Days for which runs stay that succeeded or were cancelled."
    )
    keep_failures_days: int = Field(default=90, ge=1, description="Days for which runs stay that failed.")
    keep_states_days: int = Field(
        default=90,
        ge=30,
        description="Days for which watermark and ledger of a target stay that no run has settled, while another one "
        "has: e.g. of a webhook that was replaced.",
    )


@dg.op(description="Deletes old runs with what belongs to them, and the states of targets that were replaced.")
def delete_what_is_old(
    context: dg.OpExecutionContext, config: RetentionConfig, state: StateResource, clock: dg.ResourceParam[Clock]
) -> None:
    now = clock.now()
    kinds = (
        ("successes", [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED], config.keep_successes_days),
        ("failures", [dg.DagsterRunStatus.FAILURE], config.keep_failures_days),
    )
    deleted = dict.fromkeys((name for name, _, _ in kinds), 0)
    for name, statuses, days in kinds:
        for ours in _OURS:
            before = now - timedelta(days=days)
            old = dg.RunsFilter(tags={SINGLETON_TAG: ours}, statuses=statuses, created_before=before)
            for run in _runs(context.instance, old):
                _delete(context.instance, run)
                deleted[name] += 1
    _delete_evaluations(context.instance)
    with user_facing_errors():
        targets = state.store.targets.forget_unused(now - timedelta(days=config.keep_states_days))
    context.log.info(
        f"Deleted {deleted['successes']:,} runs that succeeded more than {config.keep_successes_days} days ago, "
        f"{deleted['failures']:,} that failed more than {config.keep_failures_days} days ago, and the state of "
        f"{targets:,} targets."
    )
    context.add_output_metadata({f"deleted_{name}": number for name, number in deleted.items()} | {"targets": targets})


def _runs(instance: dg.DagsterInstance, which: dg.RunsFilter) -> Iterator[str]:
    """The ids of these runs, the oldest first; each has to be deleted before the next part is asked for."""
    while records := instance.get_run_records(which, limit=_AT_A_TIME, order_by="id", ascending=True):
        for record in records:
            yield record.dagster_run.run_id


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run and all that Dagster leaves of it; the run itself last, because by it the rest is found."""
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    shutil.rmtree(instance_folder(instance) / "values" / run_id, ignore_errors=True)
    instance.delete_run(run_id)
    # On SQLite each run has a database of its own, which Dagster empties and leaves, and would make once more.
    for file in (Path(instance.root_directory) / "history" / "runs").glob(f"{run_id}.db*"):
        file.unlink(missing_ok=True)


def _delete_evaluations(instance: dg.DagsterInstance) -> None:
    """Delete what checks said in runs that are gone, except the newest word of each check.

    The public API has no such verb, and `delete_run` leaves these rows: half a million a year.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        return
    rows = AssetCheckExecutionsTable.c
    with storage.index_connection() as connection:
        runs = connection.scalars(sa.select(rows.run_id).distinct()).all()
        newest = sa.select(sa.func.max(rows.id)).group_by(rows.asset_key, rows.check_name)
        for run_id in runs:
            if instance.get_run_by_id(run_id) is None:
                old = sa.delete(AssetCheckExecutionsTable).where(rows.run_id == run_id, rows.id.not_in(newest))
                connection.execute(old)


@dg.job(
    name="retention",
    description="Deletes what Dagster keeps of old syncs: runs that succeeded after 14 days, failed ones after 90.",
    executor_def=dg.in_process_executor,
    tags={SINGLETON_TAG: "retention", "dagster/max_runtime": str(60 * 60)},
)
def retention() -> None:
    delete_what_is_old()


@dg.schedule(
    job=retention,
    cron_schedule="41 4 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Launches retention every night at 04:41 UTC.",
)
def retention_schedule() -> dg.RunRequest:
    return dg.RunRequest()
