"""Alerts: one sentence to ALERT_WEBHOOK_URL when something starts to go wrong, and one when it works again.

A sensor of its own rather than Dagster's run-failure sensor: that one counts a failure as handled when the post has
failed, tells of each run, and does not see a run that has died unnoticed. This one remembers what it has told, so a
post that fails is made again with its next tick.
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
from azure_port_sync.defs.jobs import ACTIVE, LATE, SINGLETON_TAG
from azure_port_sync.defs.metadata import problems
from azure_port_sync.port.transport import new_session
from azure_port_sync.settings import Settings

_FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
_LOOKED_AT = 50

#: What is remembered of the syncs, and of the upkeep. `quiet since <instant>` is not told yet: it may just be morning.
_WORKING, _FAILING, _STALLED, _QUIET = "working", "failing", "stalled", "quiet since "

#: A channel takes no more: Teams' limit is 28 kB for the whole.
_LONGEST_REASON = 1000
_TIMEOUT_SECONDS = 10


class _Finding(NamedTuple):
    """How something is, and what to tell of it; an empty text is not told."""

    state: str
    text: str = ""


@dg.sensor(
    name="sync_alerts",
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING
    if Settings.at_import(os.environ).ALERT_WEBHOOK_URL
    else dg.DefaultSensorStatus.STOPPED,
    description="Posts to ALERT_WEBHOOK_URL when a sync fails after one that did not, when none has finished for four "
    "ticks, and when one succeeds again; the same when retention fails. Runs that crashed or ran out of time count; "
    "dry runs and runs over a part do not.",
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
    told = []
    for what, look in _LOOKS.items():
        before = states.get(what, _WORKING)
        found = look(context.instance, before, clock.now())
        if found.text:
            _post(settings.ALERT_WEBHOOK_URL.get_secret_value(), found.text, verify=settings.verify)
            told.append(found.text)
        states[what] = found.state
        context.update_cursor(json.dumps(states))  # not before it was told
    return dg.SkipReason(f"Told: {' '.join(told)}" if told else f"Nothing new: {json.dumps(states)}")


# -- the syncs ------------------------------------------------------------------------------------------------------


def _syncs(instance: dg.DagsterInstance, before: str, now: datetime) -> _Finding:
    newest = _newest_finished(instance)
    if newest is None:
        return _Finding(before)
    run, quiet = newest.dagster_run, now - datetime.fromtimestamp(newest.end_time or 0, UTC)
    if run.status is dg.DagsterRunStatus.FAILURE:
        return _Finding(_FAILING, "" if before == _FAILING else _failure(instance, run))
    if quiet <= LATE:
        return _Finding(_WORKING, _recovery(run) if before in (_FAILING, _STALLED) else "")
    return _quiet(instance, before, now, quiet)


def _newest_finished(instance: dg.DagsterInstance) -> dg.RunRecord | None:
    """The newest sync that says something about the whole: none that is tried again, no dry run, none over a part."""
    records = instance.get_run_records(
        dg.RunsFilter(tags={SINGLETON_TAG: "sync"}, statuses=_FINISHED), limit=_LOOKED_AT
    )
    for record in records:
        run = record.dagster_run
        config: Mapping[str, Any] = run.run_config
        asked = config.get("ops", {}).get("azure_change_set", {}).get("config", {})
        partly = asked.get("dry_run") or asked.get("reread") or any((asked.get("only") or {}).values())
        if not partly and run.tags.get("dagster/will_retry") != "true":
            return record
    return None


def _quiet(instance: dg.DagsterInstance, before: str, now: datetime, quiet: timedelta) -> _Finding:
    """No sync has finished for long: told after one more pause, and not while one shows that it lives."""
    under_way = instance.get_runs(dg.RunsFilter(tags={SINGLETON_TAG: "sync"}, statuses=ACTIVE))
    first = under_way[-1] if under_way else None
    if before == _STALLED or (first and _silence(instance, first, now) < LATE / 2):
        return _Finding(before)
    if not before.startswith(_QUIET):
        return _Finding(f"{_QUIET}{now.isoformat()}")
    if now - datetime.fromisoformat(before.removeprefix(_QUIET)) < LATE / 4:
        return _Finding(before)
    why = (
        f"Run {first.run_id[:8]} of {first.job_name} is {first.status.value.lower()} and gives no sign of life: "
        "terminate it in the Dagster UI (by force, if its process is gone)."
        if first
        else "None is under way: look at the ticks of incremental_sync_schedule in the Dagster UI."
    )
    minutes = quiet / timedelta(minutes=1)
    text = f"azure_port_sync: no sync has finished for {minutes:,.0f} minutes, so Port falls behind Azure. {why}"
    return _Finding(_STALLED, text)


def _silence(instance: dg.DagsterInstance, run: dg.DagsterRun, now: datetime) -> timedelta:
    """How long ago a run has recorded its last event; one that works tells of its progress every few seconds."""
    last = max((entry.timestamp for entry in instance.all_logs(run.run_id)), default=0.0)
    return now - datetime.fromtimestamp(last, UTC)


def _failure(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    return (
        f"azure_port_sync: {run.job_name} fails, and Port is no longer kept equal to Azure. {_reason(instance, run)} "
        f"Nothing is lost; the next run that succeeds delivers what is missing. Run {run.run_id[:8]} in the Dagster UI."
    )


def _recovery(run: dg.DagsterRun) -> str:
    return f"azure_port_sync: {run.job_name} works again (run {run.run_id[:8]}); Port has all that changed meanwhile."


def _reason(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    """What a run that failed says: the checks that stopped it, or else the errors of its steps, or how it ended."""
    found = [problem for problem in problems(instance, run.run_id) if problem.stops]
    said = [problem for problem in found if problem.is_check] or found
    text = " ".join(f"{problem.name}: {problem.sentence}" for problem in said) or "Its process ended."
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


# -- the upkeep -----------------------------------------------------------------------------------------------------


def _upkeep(instance: dg.DagsterInstance, before: str, now: datetime) -> _Finding:  # noqa: ARG001
    newest = next(
        iter(instance.get_runs(dg.RunsFilter(tags={SINGLETON_TAG: "retention"}, statuses=_FINISHED), limit=1)), None
    )
    if newest is None:
        return _Finding(before)
    if newest.status is dg.DagsterRunStatus.SUCCESS:
        text = "azure_port_sync: retention works again." if before == _FAILING else ""
        return _Finding(_WORKING, text)
    text = f"azure_port_sync: retention fails, and what Dagster keeps of old runs grows. {_reason(instance, newest)}"
    return _Finding(_FAILING, "" if before == _FAILING else text)


_LOOKS: dict[str, Callable[[dg.DagsterInstance, str, datetime], _Finding]] = {"syncs": _syncs, "upkeep": _upkeep}


# -- the channel ----------------------------------------------------------------------------------------------------


def _post(url: str, text: str, *, verify: str | bool) -> None:
    """Post a text as Slack and Teams take it. Raises Failure, in a sentence without the URL, when it is not taken."""
    trouble = ""
    with new_session(url, connections=1, verify=verify) as session:
        try:
            # A redirect is not followed: it would end in a sign-in page, and count as told.
            answer = session.post(url, json={"text": text}, timeout=_TIMEOUT_SECONDS, allow_redirects=False)
        except requests.RequestException as error:
            trouble = type(error).__name__  # its text would show the URL
        else:
            if not 200 <= answer.status_code < 300:
                trouble = f"it answered {answer.status_code}"
    if trouble:
        raise dg.Failure(
            f"The alert could not be posted to ALERT_WEBHOOK_URL: {trouble}. It is posted again in half a "
            "minute; check the setting, and that this machine reaches the address."
        )
