"""Dagster at work, for the tests of what happens while nobody touches anything: schedules, sensors, retries."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

import dagster as dg
import pytest

from azure_port_sync_tests.support.processes import MACHINE, ROOT

_T = TypeVar("_T")

#: Bounds, in seconds, how long a run or a tick may take before a test counts as failed; nothing waits that long.
PATIENCE = 240


class RunningCommand:
    """A command that runs until it is closed, with all the processes that it starts."""

    def __init__(self, *command: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._log = folder / "command.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=folder,
                env={**MACHINE, **environment, "PYTHONUNBUFFERED": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
                # Where these tests run in the background, a shell has made them ignore it.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def close(self) -> None:
        """Stop all of it, as Ctrl-C in its terminal does."""
        os.killpg(self._process.pid, signal.SIGINT)
        self.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the command alone."""
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end, and return its status."""
        return self._process.wait(PATIENCE)

    def wait_for(self, look: Callable[[], _T | None]) -> _T:
        """Return what `look` finds, once it finds something."""
        for _ in range(PATIENCE * 4):
            if found := look():
                return found
            assert self._process.poll() is None, self.output
            try:
                self._process.wait(0.25)
            except subprocess.TimeoutExpired:
                continue
        raise AssertionError(f"nothing was found in {PATIENCE} seconds: {self.output[-5000:]}")


def instance_of(home: Path) -> dg.DagsterInstance:
    """Open the Dagster instance in this folder."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("DAGSTER_HOME", str(home))
        return dg.DagsterInstance.get()


class DagsterDev(RunningCommand):
    """`dagster dev` with a Dagster instance of its own below `folder`, and that instance."""

    def __init__(self, folder: Path, environment: Mapping[str, str], *, port: int = 0) -> None:
        home = folder / "home"
        home.mkdir(exist_ok=True)
        if not (home / "dagster.yaml").exists():
            (home / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
        self.instance = instance_of(home)
        # Its databases are made once, not by two processes at a time.
        self.instance.get_runs(limit=1)
        self.instance.get_asset_keys()
        self.instance.all_instigator_state()
        super().__init__(
            *("dagster", "dev", "-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)),
            folder=folder,
            environment={**environment, "DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore"},
        )

    def close(self) -> None:
        super().close()
        self.instance.dispose()
