"""The real processes: the dagster commands, a schedule tick through the daemon, `make run`'s launcher."""

import contextlib
import os
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import dagster as dg
import pytest
import requests

from azure_port_sync import cli
from azure_port_sync.cli import has_credentials
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.sandbox.client import SandboxClient
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import Throttle
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.dagster_dev import RunningCommand, instance_of
from azure_port_sync_tests.support.processes import MACHINE, ROOT, run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
    return folder


JOB = ("dagster", "job", "execute", "-m", "azure_port_sync.definitions", "-j", "incremental_sync")


def test_of_two_runs_at_once_one_stops_with_a_sentence(seeded: Sandbox, home: Path, tmp_path: Path) -> None:
    """`dagster job execute` goes around the queue and its limit of one run at a time."""
    environment = {**seeded.environment(), "DAGSTER_HOME": str(home)}
    seeded.port.throttle(Throttle(limit=2, window_seconds=1))  # slow enough to be met
    command = [sys.executable, "-m", *JOB]
    with subprocess.Popen(
        command, cwd=tmp_path, env={**MACHINE, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        while not seeded.port.events:
            assert first.poll() is None
            _wait_a_moment(first)
        second = run(*JOB, folder=tmp_path, environment=environment)
        seeded.port.throttle(None)
        assert first.wait(180) == 0

    assert second.returncode != 0
    assert "Another run is delivering to this target right now, so this one stops" in second.stderr + second.stdout
    assert seeded.compare().sentences() == []


@pytest.mark.parametrize(
    ("way", "by_the_ui"),
    [(signal.SIGINT, True), (signal.SIGTERM, False)],
    ids=["Terminate", "systemd or Kubernetes"],
)
def test_a_cancelled_run_stops_within_seconds(
    seeded: Sandbox,
    home: Path,
    tmp_path: Path,
    way: signal.Signals,
    by_the_ui: bool,
) -> None:
    """ "Terminate" in the UI marks the run as canceling, and its process gets SIGINT."""
    environment = {**seeded.environment(), "DAGSTER_HOME": str(home)}
    down = Fault("port", status=503, headers={"Retry-After": "2"}, times=None)
    seeded.faults.add(down)
    cancelled = RunningCommand(*JOB, folder=tmp_path, environment=environment)
    cancelled.wait_for(lambda: down.fired >= 3)
    with instance_of(home) as instance:
        (started,) = instance.get_runs()
        if by_the_ui:
            instance.report_run_canceling(started)
        cancelled.signal(way)
        cancelled.wait()
        ended = instance.get_run_by_id(started.run_id)
        assert ended is not None
        assert ended.status is dg.DagsterRunStatus.CANCELED, cancelled.output
    with closing(sqlite3.connect(home / "azure_port_sync" / "state.sqlite")) as state:
        assert state.execute("SELECT lease_holder FROM azure_port_sync_target").fetchall() == [(None,)]
    seeded.faults.clear()
    assert run(*JOB, folder=tmp_path, environment=environment).returncode == 0
    assert seeded.compare().sentences() == []


def test_with_wrong_settings_the_definitions_load_and_a_run_says_what_is_wrong(home: Path, tmp_path: Path) -> None:
    """A location that does not load shows nothing at all; schedules are made when it loads."""
    wrong = {"INCREMENTAL_SYNC_CRON": "every now and then", "RESOURCE_TYPES": "[", "DAGSTER_HOME": str(home)}
    done = run(*JOB, folder=tmp_path, environment=wrong)

    assert done.returncode != 0
    said = done.stderr + done.stdout
    assert "RESOURCE_TYPES is not valid JSON" in said, said[-3000:]


def test_without_a_folder_for_the_instance_a_run_warns(seeded: Sandbox, tmp_path: Path) -> None:
    """Each would be full: the state is deleted with the temporary folder that Dagster makes."""
    done = run(*JOB, folder=tmp_path, environment=seeded.environment())

    assert done.returncode == 0
    assert "Set DAGSTER_HOME, or AZURE_PORT_SYNC_STATE_URL." in done.stderr + done.stdout


def test_the_launcher_runs_the_main_job_on_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")

    done = run("azure_port_sync", "run", folder=tmp_path, environment={})

    assert done.returncode == 0, done.stderr
    assert "full: this target has never been synced" in done.stdout
    assert "incremental: the watermark is recent and the scope is unchanged" in done.stdout
    assert "The catalog equals the tenant." in done.stdout


def test_the_launcher_does_a_real_run_where_a_webhook_is_set(seeded: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
    lines = [f"{name}={value}" for name, value in seeded.environment().items()]
    (tmp_path / ".env").write_text("\n".join(lines))

    done = run("azure_port_sync", "run", folder=tmp_path, environment={})

    assert done.returncode == 0, done.stderr
    assert "sandbox" not in done.stdout
    assert seeded.compare().sentences() == []


def test_the_launcher_fails_when_the_run_fails(seeded: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
    environment = {**seeded.environment(), "AZURE_CLIENT_SECRET": "wrong"}

    done = run("azure_port_sync", "run", folder=tmp_path, environment=environment)

    assert done.returncode == 1
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("The sync failed. azure_snapshot: Azure refused the credentials")
    assert "wrong" not in done.stderr + done.stdout


@pytest.mark.parametrize("place", ["home", "./home", "~/home"])
@pytest.mark.parametrize("in_file", [True, False])
def test_the_folder_of_the_instance_may_be_written_in_any_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, in_file: bool
) -> None:
    """Except one: Dagster reads `.env` itself, and takes no relative folder from there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    written = {"DAGSTER_HOME": place} if in_file else {}

    if in_file and not place.startswith("~"):
        with pytest.raises(
            SettingsError, match=rf"DAGSTER_HOME in \.env is home, .* write DAGSTER_HOME={tmp_path}/home"
        ):
            cli._home(written, {"DAGSTER_HOME": place})
        return
    prepared = cli._place(tmp_path, cli._home(written, {"DAGSTER_HOME": place}), {})

    assert prepared.environment["DAGSTER_HOME"] == str(tmp_path / "home")
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_a_checkout_that_was_renamed_still_has_its_dagster_yaml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "before"
    checkout.mkdir()
    (checkout / "dagster.yaml").write_text("telemetry: {enabled: false}")
    monkeypatch.chdir(checkout)
    cli._place(checkout, Path("home"), {})
    monkeypatch.chdir(checkout.rename(tmp_path / "after"))

    cli._place(Path.cwd(), Path("home"), {})

    assert Path("home/dagster.yaml").read_text() == "telemetry: {enabled: false}"


def test_make_dev_ticks_survives_a_death_and_stops_on_ctrl_c(tmp_path: Path) -> None:
    for name in ("dagster.yaml", "workspace.yaml"):
        (tmp_path / name).symlink_to(ROOT / name)
    dev = RunningCommand("azure_port_sync", "dev", folder=tmp_path, environment={})
    try:
        ui, catalog = (dev.wait_for(partial(_served, dev, label)) for label in ("Dagster UI", "Port's catalog"))
        home = tmp_path / ".sandbox" / "dagster_home"
        with instance_of(home) as instance, SandboxClient(catalog) as sandbox:
            _a_run_whose_process_is_killed_is_tried_again(dev, instance, sandbox)
    finally:
        dev.close()

    for address in (ui, catalog):
        with pytest.raises(requests.ConnectionError):
            requests.get(address, timeout=10)


def _a_run_whose_process_is_killed_is_tried_again(
    dev: RunningCommand, instance: dg.DagsterInstance, sandbox: SandboxClient
) -> None:
    """The daemon evaluates the schedule and the queue launches the run; a machine that dies costs one run."""
    sandbox.fault(Fault("azure", kind="hang", path="ResourceGraph", times=1))
    dev.wait_for(lambda: any(fault.fired for fault in sandbox.faults()))
    (killed,) = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
    os.kill(dev.wait_for(lambda: _worker(instance, killed.run_id)), signal.SIGKILL)
    succeeded = dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS])
    again = dev.wait_for(
        lambda: next((run for run in instance.get_runs(succeeded) if run.parent_run_id == killed.run_id), None)
    )
    first = instance.get_run_by_id(killed.run_id)
    assert first is not None
    assert first.status is dg.DagsterRunStatus.FAILURE
    assert (first.job_name, again.job_name) == ("incremental_sync", "incremental_sync")
    dev.wait_for(lambda: sandbox.comparison()["equal"])  # in between, the tenant drifts


def _worker(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """Return the process that executes a run, once it does."""
    for entry in instance.all_logs(run_id):
        if found := re.match(r"Executing steps in process \(pid: (\d+)\)", entry.message or ""):
            return int(found[1])
    return None


def _served(dev: RunningCommand, label: str) -> str | None:
    """Return the address that the launcher prints behind a label, once something answers there."""
    found = re.search(rf"{label}\s+(http://\S+)", dev.output)
    if found:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(found[1], timeout=10).ok:
                return found[1]
    return None


def _wait_a_moment(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.1)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"AZURE_CLIENT_ID": "x"}, "AZURE_CLIENT_ID is set, but PORT_WEBHOOK_INGEST_URL is not"),
        ({"AZURE_CLIENT_ID": "x", "AZURE_TENANT_ID": "y"}, "AZURE_CLIENT_ID, AZURE_TENANT_ID are set, but PORT_WEB"),
        ({"PORT_WEBHOOK_SECRET": "x"}, "PORT_WEBHOOK_SECRET is set, but PORT_WEBHOOK_INGEST_URL is not"),
        ({"PORT_CLIENT_ID": "x"}, "PORT_CLIENT_ID is set, but PORT_CLIENT_SECRET is not"),
        ({"PORT_WEBHOOK_INGEST_URL": "ftp://x"}, "PORT_WEBHOOK_INGEST_URL is not the URL of a webhook"),
    ],
)
def test_half_set_settings_are_an_error_and_never_the_sandbox(settings: dict[str, str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        has_credentials(settings)


def test_empty_settings_mean_the_sandbox() -> None:
    assert not has_credentials({"PORT_WEBHOOK_INGEST_URL": "", "AZURE_CLIENT_SECRET": " "})
