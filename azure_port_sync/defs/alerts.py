"""Alerts: one message to ALERT_WEBHOOK_URL when something starts to go wrong, and one when it works again.

This is a sensor of its own rather than Dagster's run-failure sensor, which counts a failure as handled even if the
alert could not be posted, reports every single run, and does not see a run that died unnoticed. This one remembers what
it has posted, so an alert that could not be posted is posted with its next tick.
"""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import dagster as dg
import requests

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.defs.failures import reason
from azure_port_sync.defs.jobs import ACTIVE, LATE, SINGLETON_TAG
from azure_port_sync.port.transport import new_session
from azure_port_sync.settings import Settings

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
_RUNS_TO_SEARCH = 50

#: States that are remembered from tick to tick. `quiet since <instant>` is not an alert yet: it may just be morning.
_WORKING, _FAILING, _STALLED, _QUIET = "working", "failing", "stalled", "quiet since "

#: Channels accept no more: Teams' limit is 28 kB for the whole message.
_MAX_REASON_LENGTH = 1000
_TIMEOUT_SECONDS = 10


class _Status(NamedTuple):
    """The state of something that is watched, and the alert about it; an empty one is not posted."""

    state: str
    alert: str = ""


@dg.sensor(
    name="sync_alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING
    if Settings.at_import(os.environ).ALERT_WEBHOOK_URL
    else dg.DefaultSensorStatus.STOPPED,
    description="Posts to ALERT_WEBHOOK_URL when a sync fails after one that succeeded, when none has finished for "
    "four ticks, and when one succeeds again; the same for the job retention. Runs that crashed or timed out count; "
    "dry runs and partial runs do not.",
)
def sync_alerts(context: dg.SensorEvaluationContext, clock: dg.ResourceParam[Clock]) -> dg.SkipReason:
    names = ("ALERT_WEBHOOK_URL", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
    try:
        settings = Settings.from_environment({name: os.environ.get(name, "") for name in names})
    except SettingsError as error:
        raise dg.Failure(str(error)) from None
    if settings.ALERT_WEBHOOK_URL is None:
        return dg.SkipReason("ALERT_WEBHOOK_URL is not set.")
    states: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    posted = []
    for name, status_of in _WATCHED.items():
        status = status_of(context.instance, states.get(name, _WORKING), clock.now())
        if status.alert:
            _post(settings.ALERT_WEBHOOK_URL.get_secret_value(), status.alert, verify=settings.verify)
            posted.append(status.alert)
        states[name] = status.state
        context.update_cursor(json.dumps(states))  # only now, so that an alert that was not posted is posted next time
    return dg.SkipReason(f"Posted: {' '.join(posted)}" if posted else f"Nothing new: {json.dumps(states)}")


# -- the syncs ------------------------------------------------------------------------------------------------------


def _sync_status(instance: dg.DagsterInstance, before: str, now: datetime) -> _Status:
    newest = _newest_finished(instance)
    if newest is None:
        return _Status(before)
    run, silence = newest.dagster_run, now - datetime.fromtimestamp(newest.end_time or 0, UTC)
    if run.status is dg.DagsterRunStatus.FAILURE:
        alert = (
            f"azure_port_sync: {run.job_name} failed, so Port is no longer kept up to date. {_reason(instance, run)} "
            "Nothing is lost: the next run that succeeds delivers what is missing. See run "
            f"{run.run_id[:8]} in the Dagster UI."
        )
        return _Status(_FAILING, "" if before == _FAILING else alert)
    if silence <= LATE:
        back = f"azure_port_sync: {run.job_name} works again (run {run.run_id[:8]}), and Port is up to date."
        return _Status(_WORKING, back if before in (_FAILING, _STALLED) else "")
    return _late_status(instance, before, now, silence)


def _newest_finished(instance: dg.DagsterInstance) -> dg.RunRecord | None:
    """Return the newest finished sync of everything: not a dry run, not a partial one, not one that is retried."""
    syncs = dg.RunsFilter(tags={SINGLETON_TAG: "sync"}, statuses=_FINISHED)
    for record in instance.get_run_records(syncs, limit=_RUNS_TO_SEARCH):
        run = record.dagster_run
        if _covers_everything(run.run_config) and run.tags.get("dagster/will_retry") != "true":
            return record
    return None


def _covers_everything(run_config: Mapping[str, Any]) -> bool:
    config = run_config.get("ops", {}).get("azure_change_set", {}).get("config", {})
    is_partial = config.get("backfill") or any((config.get("only") or {}).values())
    return not (config.get("dry_run") or is_partial)


def _late_status(instance: dg.DagsterInstance, before: str, now: datetime, silence: timedelta) -> _Status:
    """No sync has finished for long: an alert after one more pause, unless a run is making progress."""
    under_way = instance.get_runs(dg.RunsFilter(tags={SINGLETON_TAG: "sync"}, statuses=ACTIVE))
    oldest = under_way[-1] if under_way else None
    if oldest:  # one that works reports its progress every few seconds
        last = max((entry.timestamp for entry in instance.all_logs(oldest.run_id)), default=0.0)
        if now - datetime.fromtimestamp(last, UTC) < LATE / 2:
            return _Status(before)
    if before == _STALLED:
        return _Status(before)
    if not before.startswith(_QUIET):
        return _Status(f"{_QUIET}{now.isoformat()}")
    if now - datetime.fromisoformat(before.removeprefix(_QUIET)) < LATE / 4:
        return _Status(before)
    return _Status(_STALLED, _stall(oldest, silence))


def _stall(oldest: dg.DagsterRun | None, silence: timedelta) -> str:
    cause = (
        f"Run {oldest.run_id[:8]} of {oldest.job_name} is {oldest.status.value.lower()} and makes no progress: "
        "terminate it in the Dagster UI (by force, if its process is gone)."
        if oldest
        else "None is under way: look at the ticks of incremental_sync_schedule in the Dagster UI."
    )
    minutes = silence / timedelta(minutes=1)
    return f"azure_port_sync: no sync has finished for {minutes:,.0f} minutes, so Port is out of date. {cause}"


def _reason(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    text = reason(instance, run.run_id)
    return text if len(text) <= _MAX_REASON_LENGTH else f"{text[:_MAX_REASON_LENGTH]}..."


# -- retention ------------------------------------------------------------------------------------------------------


def _retention_status(instance: dg.DagsterInstance, before: str, now: datetime) -> _Status:  # noqa: ARG001
    finished = dg.RunsFilter(tags={SINGLETON_TAG: "retention"}, statuses=_FINISHED)
    newest = next(iter(instance.get_runs(finished, limit=1)), None)
    if newest is None:
        return _Status(before)
    if newest.status is dg.DagsterRunStatus.SUCCESS:
        return _Status(_WORKING, "azure_port_sync: retention works again." if before == _FAILING else "")
    alert = f"azure_port_sync: retention failed, so Dagster's storage keeps growing. {_reason(instance, newest)}"
    return _Status(_FAILING, "" if before == _FAILING else alert)


_WATCHED: dict[str, Callable[[dg.DagsterInstance, str, datetime], _Status]] = {
    "syncs": _sync_status,
    "retention": _retention_status,
}


# -- the channel ----------------------------------------------------------------------------------------------------


def _post(url: str, text: str, *, verify: str | bool) -> None:
    """Post a text as Slack and Teams accept it. Raises Failure, in a sentence without the URL, if that fails."""
    trouble = ""
    with new_session(url, connections=1, verify=verify) as session:
        try:
            # A redirect is not followed: it would end at a sign-in page, whose 200 would count as posted.
            answer = session.post(url, json={"text": text}, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            trouble = type(error).__name__  # its text would contain the URL
        else:
            if not 200 <= answer.status_code < 300:
                trouble = f"it answered {answer.status_code}"
    if trouble:
        raise dg.Failure(
            f"The alert could not be posted to ALERT_WEBHOOK_URL: {trouble}. The next tick, in half a minute, tries "
            "again; check the setting, and that this machine can reach the address."
        )
