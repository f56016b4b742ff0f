"""Jobs and schedules: the same assets run every 15 minutes for what changed, and every night for everything."""

import os
from datetime import timedelta

import dagster as dg

from azure_port_sync.settings import Settings

#: On every run of ours. One live run per value of this tag, whoever launches it: dagster.yaml limits it in the queue.
SINGLETON_TAG = "azure_port_sync/singleton"

#: Owners of the assets; the UI filters by them.
OWNERS = ["team:platform-engineering"]

#: Four ticks without a delivery are too many; the ticks of a schedule may be far apart, e.g. over a weekend.
LATE = 4 * max(Settings.at_import(os.environ).longest_pause, timedelta(minutes=15))

#: Tags that a run gets once it has planned: its mode (`incremental`, `full` or `partial`), and whether it is a dry run.
MODE_TAG = "azure_port_sync/mode"
DRY_RUN_TAG = "azure_port_sync/dry_run"

#: Any run can turn full, and a full run over a million resources takes hours; one that makes no progress ends itself
#: much earlier.
_MAX_RUNTIME_SECONDS = 6 * 60 * 60

_TAGS = {SINGLETON_TAG: "sync", "dagster/max_runtime": str(_MAX_RUNTIME_SECONDS), "dagster/retry_strategy": "ALL_STEPS"}
_ASSETS = dg.AssetSelection.assets(
    "azure_subscriptions", "azure_resource_groups", "azure_change_set", "port_deliveries"
)
#: Statuses of a run that has not ended.
ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.SUSPENDED,
    dg.DagsterRunStatus.CANCELING,
]


incremental_sync = dg.define_asset_job(
    "incremental_sync",
    selection=_ASSETS,
    description="Delivers to Port what changed in Azure since the last successful run. Turns full by itself where "
    "change records are not enough, and says why.",
    tags=_TAGS,
    config={"ops": {"azure_change_set": {"config": {"mode": "incremental"}}}},
)

full_sync = dg.define_asset_job(
    "full_sync",
    selection=_ASSETS,
    description="Reads everything in scope, compares it with what was delivered before, and delivers the difference.",
    tags=_TAGS,
    config={"ops": {"azure_change_set": {"config": {"mode": "full"}}}},
)

port_setup = dg.define_asset_job(
    "port_setup",
    selection=dg.AssetSelection.groups("port_setup"),
    description="Creates the three blueprints and the webhook in Port, or updates them. Needs PORT_CLIENT_ID and "
    "PORT_CLIENT_SECRET; what a person added in Port stays.",
    tags={SINGLETON_TAG: "port_setup"},
)


def _schedule(job_name: str, setting: str) -> dg.ScheduleDefinition:
    cron = str(getattr(Settings.at_import(os.environ), setting))

    @dg.schedule(
        name=f"{job_name}_schedule",
        job_name=job_name,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=f"Launches {job_name} at {cron} UTC ({setting}), unless one is already under way.",
    )
    def launch(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        # A full sync may wait in the queue behind an incremental one: to skip it would put it off for a day.
        waits_for = "full_sync" if job_name == "full_sync" else None
        active = context.instance.get_run_records(
            dg.RunsFilter(job_name=waits_for, tags={SINGLETON_TAG: "sync"}, statuses=ACTIVE), limit=1
        )
        if active:
            run = active[0].dagster_run
            return dg.SkipReason(f"The run {run.run_id[:8]} of {run.job_name} is still {run.status.value.lower()}.")
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    return launch


incremental_sync_schedule = _schedule("incremental_sync", "INCREMENTAL_SYNC_CRON")
full_sync_schedule = _schedule("full_sync", "FULL_SYNC_CRON")
