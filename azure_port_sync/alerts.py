"""Alerts: one sentence to ALERT_WEBHOOK_URL when syncing starts to fail or stalls, and one when it works again.

A sensor of its own rather than Dagster's run-failure sensor: that one counts a failure as handled when the post has
failed, and tells of each run. This one remembers what it has told, so a post that fails is tried again.
"""

import os
from datetime import UTC, datetime, timedelta

import dagster as dg
import requests
from tenacity import Retrying, retry_if_result, stop_after_attempt, wait_random_exponential

from azure_port_sync.automation import ACTIVE, DRY_RUN_TAG, LATE, MODE_TAG, SINGLETON_TAG
from azure_port_sync.settings import Settings
from azure_port_sync.sync.clock import Clock
from azure_port_sync.sync.errors import SettingsError
from azure_port_sync.sync.request import Mode

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
_LOOKED_AT = 50
_FAILING, _STALLED, _WORKING = "failing", "stalled", "working"
_TRIES, _TIMEOUT_SECONDS, _LONGEST_WAIT_SECONDS = 3, 10, 5


@dg.sensor(
    name="sync_alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING
    if Settings.at_import(os.environ).ALERT_WEBHOOK_URL
    else dg.DefaultSensorStatus.STOPPED,
    description="Posts to ALERT_WEBHOOK_URL when a sync fails after one that did not, when none has finished for four "
    "ticks, and when one succeeds again. Runs that crashed or ran out of time count; dry runs and runs over a part do "
    "not.",
)
def sync_alerts(context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]) -> dg.SkipReason:
    try:
        settings = Settings.from_environment({"ALERT_WEBHOOK_URL": os.environ.get("ALERT_WEBHOOK_URL", "")})
    except SettingsError as error:
        raise dg.Failure(str(error)) from None
    if settings.ALERT_WEBHOOK_URL is None:
        return dg.SkipReason("ALERT_WEBHOOK_URL is not set.")
    newest = _newest_finished(context.instance)
    if newest is None:
        return dg.SkipReason("No sync has finished yet.")
    run, quiet = newest.dagster_run, clock.now() - datetime.fromtimestamp(newest.end_time or 0, UTC)
    succeeded = run.status is dg.DagsterRunStatus.SUCCESS
    state = _FAILING if not succeeded else _STALLED if quiet > LATE else _WORKING
    if state == (context.cursor or _WORKING):
        return dg.SkipReason(f"Syncing is {state}, as before.")
    match state:
        case "failing":
            text = _failure(context.instance, run)
        case "stalled":
            text = _stall(context.instance, quiet)
        case _:
            text = _recovery(run)
    _post(settings.ALERT_WEBHOOK_URL.get_secret_value(), text, verify=settings.verify)
    context.update_cursor(state)  # not before it was told
    return dg.SkipReason(f"Told: {text}")


def _newest_finished(instance: dg.DagsterInstance) -> dg.RunRecord | None:
    """The newest sync that says something about the whole: none that is tried again, and none over a part."""
    records = instance.get_run_records(
        dg.RunsFilter(tags={SINGLETON_TAG: "sync"}, statuses=_FINISHED), limit=_LOOKED_AT
    )
    for record in records:
        tags = record.dagster_run.tags
        if DRY_RUN_TAG not in tags and tags.get(MODE_TAG) != Mode.PARTIAL and tags.get("dagster/will_retry") != "true":
            return record
    return None


def _stall(instance: dg.DagsterInstance, quiet: timedelta) -> str:
    """What holds everything up: a run that goes on, or has died unnoticed, or a schedule that is off."""
    under_way = instance.get_runs(dg.RunsFilter(tags={SINGLETON_TAG: "sync"}, statuses=ACTIVE))
    why = (
        f"Run {under_way[-1].run_id[:8]} of {under_way[-1].job_name} is {under_way[-1].status.value.lower()}: if it "
        "makes no progress, terminate it in the Dagster UI (by force, if its process is gone)."
        if under_way
        else "None is under way: look at the ticks of incremental_sync_schedule in the Dagster UI."
    )
    minutes = quiet / timedelta(minutes=1)
    return f"azure_port_sync: no sync has finished for {minutes:,.0f} minutes, so Port falls behind Azure. {why}"


def _failure(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    return (
        f"azure_port_sync: {run.job_name} fails, and Port is no longer kept equal to Azure. {_reason(instance, run)} "
        f"Nothing is lost; the next run that succeeds delivers what is missing. Run {run.run_id[:8]} in the Dagster UI."
    )


def _recovery(run: dg.DagsterRun) -> str:
    return f"azure_port_sync: {run.job_name} works again (run {run.run_id[:8]}); Port has all that changed meanwhile."


def _reason(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """What a run that failed says: the checks that stopped it, or else the errors of its steps, or how it ended."""
    checks, errors, ended = [], [], ""
    for entry in instance.all_logs(run.run_id):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if not found.passed and found.severity is dg.AssetCheckSeverity.ERROR:
                checks.append(f"{found.check_name}: {found.description}")
        elif event.is_step_failure:
            data = event.step_failure_data
            said = data.user_failure_data.description if data.user_failure_data else None
            errors.append(said or (data.error.message if data.error else ""))
        elif event.event_type is dg.DagsterEventType.RUN_FAILURE:
            ended = event.message or ""
    return " ".join(checks or errors or [ended]).strip()


def _post(url: str, text: str, *, verify: str | bool) -> None:
    """Post a text as Slack and Teams take it. Raises Failure, in a sentence without the URL, when it is not taken."""

    def once() -> str:
        try:
            answer = requests.post(url, json={"text": text}, timeout=_TIMEOUT_SECONDS, verify=verify)
        except requests.RequestException as error:
            return type(error).__name__  # its text would show the URL
        return "" if answer.ok else f"it answered {answer.status_code}"

    trouble = Retrying(
        retry=retry_if_result(bool),
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(max=_LONGEST_WAIT_SECONDS),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else "",
    )(once)
    if trouble:
        raise dg.Failure(
            f"The alert could not be posted to ALERT_WEBHOOK_URL: {trouble}. It is tried again; check the setting and "
            "that this machine reaches the address."
        )
