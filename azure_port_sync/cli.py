"""The commands behind the Makefile: `run` and `dev` on your tenant or else on the sandbox, and `docs`.

The sandbox, and Dagster working on it, run in a folder of their own with an environment built for them, because Dagster
lets a `.env` in the working folder override exported variables, and a real credential must never reach the sandbox.
This module starts Dagster as a process; modules that import it are imported only where they are used.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from dotenv import dotenv_values

from azure_port_sync.core.errors import SettingsError, SyncError
from azure_port_sync.settings import Settings

_MODULE = "azure_port_sync.definitions"
_REAL_HOME = Path(".dagster_home")
_SANDBOX_FOLDER = Path(".sandbox")
_START_SECONDS = 60

#: Each of these settings alone says which Port to deliver to.
_PORT_SETTINGS = ("PORT_WEBHOOK_INGEST_URL", "PORT_CLIENT_ID")
#: Settings that make sense only together with one of those: whoever sets one of them does not want the sandbox.
_CREDENTIALS = (
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "PORT_WEBHOOK_SECRET",
    "PORT_CLIENT_SECRET",
)
#: Variables that a process needs from this machine; none of them is a credential.
_MACHINE_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TERM", "SYSTEMROOT", "VIRTUAL_ENV")


def main() -> int:
    """Run the command; the exit status says whether all went well."""
    parser = argparse.ArgumentParser(prog="python -m azure_port_sync", description=__doc__)
    parser.add_argument(
        "command",
        choices=("run", "dev", "docs"),
        help="run: sync once; dev: the Dagster UI and schedules; docs: write docs/configuration.md",
    )
    command = parser.parse_args().command
    if command == "docs":
        from azure_port_sync.defs.configuration_page import PAGE, configuration

        PAGE.write_text(configuration(), encoding="utf-8")
        print(f"Wrote {PAGE}")
        return 0
    # Started in the background by a shell, we inherit an ignored SIGINT, and Dagster would then ignore SIGTERM too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    written = {name: value or "" for name, value in dotenv_values(".env").items()}
    environment = {**os.environ, **written}
    try:
        if has_credentials(environment):
            place = _place(Path.cwd(), _home(written, environment), environment)
            title = "Syncing once with the settings of this environment"
            return _sync(place, title) if command == "run" else _dagster_dev(place)
        print("No PORT_WEBHOOK_INGEST_URL is set: using the embedded sandbox, which plays Azure and Port.", flush=True)
        return _run_on_sandbox() if command == "run" else _dev_on_sandbox()
    except SyncError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def has_credentials(environment: Mapping[str, str]) -> bool:
    """Return whether the settings are those of a real Port; False means the sandbox.

    Raises SettingsError when they are incomplete: a run on the sandbox would hide the mistake.
    """
    given = {name for name in environment if environment[name].strip()}
    if given.intersection(_PORT_SETTINGS):
        Settings.from_environment(environment)
        return True
    if half := sorted(given.intersection(_CREDENTIALS)):
        are, others = ("is", "the other") if len(half) == 1 else ("are", "the others")
        raise SettingsError(
            f"{', '.join(half)} {are} set, but PORT_WEBHOOK_INGEST_URL is not: set it to the URL of your Port webhook "
            f"(or PORT_CLIENT_ID and PORT_CLIENT_SECRET), or unset {others} to run on the sandbox."
        )
    return False


@dataclass(frozen=True)
class Place:
    """The working folder and the environment of a Dagster process."""

    folder: Path
    environment: dict[str, str]


def _home(written: Mapping[str, str], environment: Mapping[str, str]) -> Path:
    """Return the folder of the Dagster instance; of what is `written` in `.env`, Dagster reads the text itself."""
    home = Path(environment.get("DAGSTER_HOME", "").strip() or _REAL_HOME).expanduser()
    if written.get("DAGSTER_HOME", "").strip() and not home.is_absolute():
        raise SettingsError(
            f"DAGSTER_HOME in .env is {home}, and Dagster takes no relative folder from there: write "
            f"DAGSTER_HOME={home.resolve()}."
        )
    return home


def _place(folder: Path, home: Path, environment: Mapping[str, str]) -> Place:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    link = home / "dagster.yaml"
    if not link.exists():  # a link that leads nowhere is one into a checkout that was renamed
        link.unlink(missing_ok=True)
        link.symlink_to(Path("dagster.yaml").resolve())
    quiet = {"PYTHONWARNINGS": "ignore", "DAGSTER_HOME": str(home.resolve()), "PYTHONUNBUFFERED": "1"}
    return Place(folder, {**environment, **quiet})


# -- make run -------------------------------------------------------------------------------------------------------


def _run_on_sandbox() -> int:
    with _sandbox() as sandbox:
        print(f"The sandbox serves its catalog at {sandbox.url}\n")
        if status := _sync(sandbox.place, "First run"):
            return status
        print("\nChanging the tenant ...")
        for sentence in sandbox.ask("POST", "play"):
            print(f"  {sentence}")
        print()
        return _sync(sandbox.place, "Second run") or _compare(sandbox.ask("GET", "comparison"))


def _sync(place: Place, title: str) -> int:
    """Run the job incremental_sync to its end, print its log and its figures, and return the exit status."""
    print(f"{title} ...", flush=True)
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", _MODULE, "-j", "incremental_sync"]
    with subprocess.Popen(
        command, cwd=place.folder, env=place.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if " - INFO - incremental_sync - " in line or " - WARNING - incremental_sync - " in line:
                print(f"  {line.rstrip().split(' - ', 6)[-1]}", flush=True)
    os.environ["DAGSTER_HOME"] = place.environment["DAGSTER_HOME"]
    from azure_port_sync.defs.run_summary import failed_run, newest_run

    if not process.returncode:
        print(newest_run())
        return 0
    log = "".join(line for line in lines if " - DEBUG - " not in line)
    failed = re.search(r"Run (\S+) resulted in failure", log)
    if failed is None or "Stack Trace:" in log:  # not one that a person can fix by the sentence alone
        print(log, file=sys.stderr)
    if failed:
        print(f"\n{failed_run(failed[1])}", file=sys.stderr)
    return 1


def _compare(comparison: Mapping[str, Any]) -> int:
    print(f"\n  {'blueprint':<24}{'Azure tenant':>14}{'Port catalog':>14}")
    for blueprint, count in comparison["counts"].items():
        print(f"  {blueprint:<24}{count['tenant']:>14,}{count['catalog']:>14,}")
    if comparison["equal"]:
        print("\nThe catalog equals the tenant.")
        return 0
    print("\nThe catalog differs from the tenant:", *comparison["sentences"][:20], sep="\n  ", file=sys.stderr)
    return 1


# -- make dev -------------------------------------------------------------------------------------------------------


def _dev_on_sandbox() -> int:
    with _sandbox("--drift", "20") as sandbox:
        sandbox.place.environment["INCREMENTAL_SYNC_CRON"] = "* * * * *"  # something to see without a long wait
        return _dagster_dev(sandbox.place, catalog=sandbox.url)


def _dagster_dev(place: Place, *, catalog: str | None = None) -> int:
    """Run `dagster dev` on loopback until Ctrl-C, and return when all of it has stopped."""
    port = _free_port(3000)
    workspace = str(Path("workspace.yaml").resolve())
    command = [sys.executable, "-m", "dagster", "dev", "-w", workspace, "-h", "127.0.0.1", "-p", str(port)]
    print(f"\n  Dagster UI      http://127.0.0.1:{port}")
    if catalog:
        print(f"  Port's catalog  {catalog}")
    print("\nThe schedules are on. Ctrl-C stops everything.\n", flush=True)
    with _terminated_on_exit(subprocess.Popen(command, cwd=place.folder, env=place.environment)) as dagster:
        return dagster.wait()


def _free_port(wanted: int) -> int:
    """Return the wanted port where it is free, otherwise any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- the sandbox ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sandbox:
    url: str
    place: Place

    def ask(self, method: str, what: str) -> Any:
        """Send one request to the sandbox's control API."""
        with requests.Session() as session:
            session.trust_env = False  # a proxy of the machine has no business on loopback
            answer = session.request(method, f"{self.url}/control/{what}", timeout=60)
        answer.raise_for_status()
        return answer.json()


@contextmanager
def _sandbox(*options: str) -> Iterator[_Sandbox]:
    """Run a sandbox in a process of its own, which ends with this one, whatever ends it."""
    shutil.rmtree(_SANDBOX_FOLDER, ignore_errors=True)
    _SANDBOX_FOLDER.mkdir()
    folder = _SANDBOX_FOLDER.resolve()
    machine = {name: os.environ[name] for name in _MACHINE_VARIABLES if name in os.environ}
    command = [sys.executable, "-m", "azure_port_sync.sandbox", "--folder", str(folder), "--stop-with-stdin", *options]
    log = (folder / "sandbox.log").open("w")
    process = subprocess.Popen(command, cwd=folder, env=machine, stdin=subprocess.PIPE, stdout=log, stderr=log)
    with log, _terminated_on_exit(process):
        announced = _wait_for(folder / "sandbox.json", process)
        place = _place(folder, folder / "dagster_home", {**machine, **announced["environment"]})
        yield _Sandbox(announced["url"], place)


def _wait_for(announcement: Path, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if announcement.exists():
            announced: dict[str, Any] = json.loads(announcement.read_text())
            return announced
        time.sleep(0.1)
    raise SyncError(f"The sandbox did not start: {announcement.parent / 'sandbox.log'} says why.")


@contextmanager
def _terminated_on_exit(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Make sure that a child process ends with this one: it is terminated, and killed if that does not help."""
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        yield process
    finally:
        signal.signal(signal.SIGTERM, previous)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        signal.signal(signal.SIGINT, signal.default_int_handler)
