"""One sentence when syncing starts to fail, one when it works again, and none in between."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest

from azure_port_sync.definitions import definitions
from azure_port_sync.defs.alerts import sync_alerts
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync_tests.support.clocks import Later
from azure_port_sync_tests.support.listeners import Channel
from azure_port_sync_tests.support.operator import Operator, begin_mass_deletion

DOWN = Fault("azure", status=403, times=None)


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    opened = Channel()
    monkeypatch.setenv("ALERT_WEBHOOK_URL", opened.url)
    yield opened
    opened.close()


class Sensor:
    """The sensor as the daemon evaluates it, with the cursor that it left."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self, after: timedelta = timedelta(0)) -> str:
        clock = Later(after)
        with dg.build_sensor_context(self.instance, cursor=self.cursor, resources={"clock": clock}) as context:
            result = sync_alerts(context)
            self.cursor = context.cursor
        assert isinstance(result, dg.SkipReason)
        return result.skip_message or ""


@pytest.fixture
def sensor(operator: Operator) -> Sensor:
    return Sensor(operator.instance)


def _started(operator: Operator, name: str) -> dg.DagsterRun:
    """Return a run of a job that is under way after one that succeeded."""
    operator.sync()
    job = definitions(operator.clock).resolve_job_def(name)
    return operator.instance.create_run_for_job(job, tags=job.tags, status=dg.DagsterRunStatus.STARTED)


def test_an_incident_is_posted_once_and_its_end_once(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor
) -> None:
    operator.sync()
    sensor.tick()
    assert channel.posted == []

    operator.sandbox.faults.add(DOWN)
    for _ in range(3):
        assert not operator.run().success
        sensor.tick()
        sensor.tick()
    (alert,) = channel.posted
    assert alert.startswith("azure_port_sync: incremental_sync failed, so Port is no longer kept up to date.")
    assert "Azure refused the credentials" in alert

    operator.sandbox.faults.clear()
    for _ in range(2):
        operator.sync()
        sensor.tick()
    _, alert = channel.posted
    assert alert.startswith("azure_port_sync: incremental_sync works again")


def test_a_check_that_stopped_the_run_is_in_the_alert(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_mass_deletion(operator, estate, monkeypatch)
    for _ in range(2):
        operator.run()
        sensor.tick()

    (alert,) = channel.posted
    assert "deliveries_complete: There was nothing to deliver. 3 of the 9 entities" in alert
    assert "`allow_mass_delete: true`" in alert
    assert "subscriptions_present" not in alert


def test_a_post_that_fails_is_tried_again_and_shows_no_url(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor
) -> None:
    operator.sandbox.faults.add(DOWN)
    operator.run()
    for status in (500, 302):  # a redirect would end at a sign-in page
        channel.status = status
        with pytest.raises(
            dg.Failure, match=f"could not be posted to ALERT_WEBHOOK_URL: it answered {status}"
        ) as failed:
            sensor.tick()
        assert "a-secret-key" not in str(failed.getrepr(chain=True))
    channel.status = 200
    sensor.tick()

    assert len(channel.posted) == 1


@pytest.mark.parametrize("config", [{"dry_run": True}, {"only": {"resource_groups": ["data"]}}], ids=str)
def test_a_run_over_a_part_is_no_recovery(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor, config: dict[str, Any]
) -> None:
    operator.sync()
    operator.sandbox.faults.add(DOWN)
    operator.run()
    operator.sandbox.faults.clear()
    assert operator.run(mode="incremental", **config).success

    sensor.tick()

    (alert,) = channel.posted
    assert "failed" in alert


def test_a_sync_that_died_unnoticed_is_posted(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor
) -> None:
    """Dagster does not notice when the code server dies with its run, and all ticks wait for that run."""
    run = _started(operator, "incremental_sync")
    for minutes in (59, 61, 70):
        sensor.tick(timedelta(minutes=minutes))
    assert channel.posted == [], "it may be the first tick of a morning"

    for _ in range(2):
        sensor.tick(timedelta(minutes=77))

    (alert,) = channel.posted
    assert "no sync has finished for 77 minutes" in alert
    assert f"Run {run.run_id[:8]} of incremental_sync is started and makes no progress" in alert
    operator.instance.report_run_canceled(run)
    operator.sync()
    sensor.tick()
    assert "works again" in channel.posted[-1]


def test_a_long_sync_that_lives_is_no_incident(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor
) -> None:
    run = _started(operator, "full_sync")
    for minutes in range(60, 300, 20):
        at = datetime.now(UTC) + timedelta(minutes=minutes)
        line = f"{minutes * 1000} of 1,000,000 delivered"
        entry = dg.EventLogEntry(  # type: ignore[no-untyped-call]
            None, 20, line, run.run_id, at.timestamp(), job_name=run.job_name
        )
        operator.instance.handle_new_event(entry)
        sensor.tick(timedelta(minutes=minutes + 5))

    assert channel.posted == []


def test_a_schedule_that_is_off_is_posted_once(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor
) -> None:
    operator.sync()
    for minutes in range(0, 300, 10):
        sensor.tick(timedelta(minutes=minutes))

    (alert,) = channel.posted
    assert "None is under way" in alert


def test_a_retention_that_fails_is_posted_too(
    operator: Operator, channel: Channel, sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = definitions(operator.clock).resolve_job_def("retention")
    with monkeypatch.context() as broken:
        broken.setenv("AZURE_PORT_SYNC_STATE_URL", "oracle://x")
        assert not job.execute_in_process(instance=operator.instance, raise_on_error=False).success
    for _ in range(2):
        sensor.tick()
    assert job.execute_in_process(instance=operator.instance).success
    sensor.tick()

    failed, works = channel.posted
    assert "retention failed" in failed
    assert "AZURE_PORT_SYNC_STATE_URL names oracle" in failed
    assert works == "azure_port_sync: retention works again."


def test_a_mistake_in_the_launchpad_is_no_incident(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor
) -> None:
    operator.sync()
    for config in (
        {"only": {"resource_groups": ["wbe"]}},
        {"backfill": {"start": "yesterday", "end": "today"}},
        {"dry_run": True, "rebuild_ledger": True},
    ):
        assert not operator.run(mode="incremental", **config).success
        sensor.tick()

    assert channel.posted == []


def test_a_long_reason_is_cut(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Teams takes 28 kB, and a channel that refuses the text would never get any."""
    operator.sandbox.faults.add(Fault("port", status=403, body="<html>" + "long " * 10_000, times=None))
    monkeypatch.setenv("PORT_DELIVERY_DEADLINE_MINUTES", "1")
    assert not operator.run().success

    sensor.tick()

    (alert,) = channel.posted
    assert len(alert) < 1500
    assert "deliveries_complete: 9 of 9 deliveries were not made." in alert


def test_a_run_that_dagster_tries_again_is_no_incident_yet(
    operator: Operator, estate: dict[str, str], channel: Channel, sensor: Sensor
) -> None:
    operator.sandbox.faults.add(DOWN)
    failed = operator.run()
    operator.instance.add_run_tags(failed.run_id, {"dagster/will_retry": "true"})
    sensor.tick()
    assert channel.posted == []
    operator.run()
    sensor.tick()
    assert len(channel.posted) == 1


@pytest.mark.parametrize(
    ("url", "said"), [("", "is not set"), ("http://example.com/key", "ALERT_WEBHOOK_URL is plain http")]
)
def test_without_a_good_address_nothing_is_posted(
    operator: Operator, sensor: Sensor, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("ALERT_WEBHOOK_URL", url)
    if not url:
        assert said in sensor.tick()
        return
    with pytest.raises(dg.Failure, match=said):
        sensor.tick()
