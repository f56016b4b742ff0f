"""Random histories through the real jobs, and real processes that are really killed.

`test_soak.py` plays thousands through `sync_once`; these few show that nothing is different on the way through Dagster,
and that a process which is gone from one instant to the next leaves nothing behind that the next tick does not mend.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import Phase, given, note, settings

from azure_port_sync import assets, steps
from azure_port_sync.deciding import ChangeSet, decide_changes
from azure_port_sync.definitions import definitions
from azure_port_sync.port import delivery
from azure_port_sync.sandbox.estate import drift
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.sync import guards
from azure_port_sync.sync.errors import GuardError, SyncError
from azure_port_sync.sync.request import Mode
from azure_port_sync_tests.conftest import SteppedClock
from azure_port_sync_tests.worlds import (
    SETUPS,
    TICK,
    History,
    Killed,
    Life,
    Mortal,
    Setup,
    Station,
    Syncer,
    Tick,
    World,
    histories,
)


class JobSyncer(Syncer):
    """The product as Dagster runs it: settings from the environment, a request from run config, its own assets."""

    def run(self, life: Life, *, mode: Mode, force: bool, filtered: bool, allow: bool) -> steps.Outcome:
        done: list[Any] = []

        def keeping(step: Callable[..., Any]) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                try:
                    result = step(*arguments, **named)
                except (SyncError, Killed) as error:
                    done.append(error)
                    raise
                done.append(result)
                return result

            return call

        def read(reader: Any) -> Any:
            return steps.read_snapshot(Mortal(reader, "azure", life))  # type: ignore[arg-type]

        def decide(reader: Any, store: Any, *rest: Any, **named: Any) -> Any:
            return decide_changes(Mortal(reader, "azure", life), Mortal(store, "store", life), *rest, **named)  # type: ignore[arg-type]

        def deliver(change_set: ChangeSet, sink: Any, store: Any, *rest: Any, **named: Any) -> Any:
            edges: Any = (Mortal(sink, "port", life), Mortal(store, "store", life))
            return steps.deliver_changes(change_set, *edges, *rest, **named)

        job = definitions(self.clock).resolve_job_def("full_sync" if mode is Mode.FULL else "incremental_sync")
        config = {"mode": str(mode), "force": force, "allow_mass_delete": allow}
        with pytest.MonkeyPatch.context() as patched, dg.DagsterInstance.ephemeral() as instance:
            for name, value in self._settings(filtered=filtered).items():
                patched.setenv(name, value)
            patched.setattr(assets, "read_snapshot", keeping(read))
            patched.setattr(assets, "decide_changes", keeping(decide))
            patched.setattr(assets, "deliver_changes", keeping(deliver))
            job.execute_in_process(
                run_config={"ops": {"azure_change_set": {"config": config}}}, instance=instance, raise_on_error=False
            )
        return self._outcome(done)

    def _outcome(self, done: list[Any]) -> steps.Outcome:
        """What the run did, or the reason why it did not."""
        if isinstance(done[-1], BaseException):
            raise done[-1]
        change_set, findings = done[1]
        if len(done) == 2:
            raise GuardError(" ".join(change_set.objections))
        return steps.Outcome(change_set.plan, findings, done[2])

    def _settings(self, *, filtered: bool) -> dict[str, str]:
        scope = self.setup.scope(filtered=filtered)
        tags = {"include": dict(scope.include_tags), "exclude": dict(scope.exclude_tags)}
        return {
            **self.environment,
            "AZURE_PORT_SYNC_STATE_URL": f"sqlite:///{self.database}",
            "PORT_MAX_CONCURRENCY": "1",
            "RESOURCE_GROUP_TAG_FILTERS": json.dumps(tags),
            "RESOURCE_TYPES": json.dumps(scope.resource_types),
            "AZURE_MANAGEMENT_GROUPS": json.dumps(scope.management_groups),
            "SUBSCRIPTION_BATCH_SIZE": str(self.setup.batch_size),
        }


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    made = Station(tmp_path_factory.mktemp("soak-jobs"))
    yield made
    made.close()


def _does_something(history: History) -> bool:
    return sum(isinstance(step, Tick) for step in history.steps) > 1


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_any_history_through_the_jobs_ends_with_the_right_catalog(station: Station, setup: Setup) -> None:
    @settings(max_examples=2, derandomize=True, phases=[Phase.generate], print_blob=True)
    @given(histories(setup, most_runs=4).filter(_does_something))
    def lives(history: History) -> None:
        world = World(station, setup, syncer=JobSyncer)
        try:
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(delivery, "_SENT_TOGETHER", 3)
                patched.setattr(guards, "FLOOR", history.floor)
                world.play(history)
        finally:
            note("\n".join([str(history), *world.log]))
            world.close()

    lives()


# -- SIGKILL -----------------------------------------------------------------------------------------------------------

_JOB = ["-m", "dagster", "job", "execute", "-m", "azure_port_sync.definitions", "-j", "incremental_sync"]
_MACHINE = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}


class Doom:
    """Kills a process when the sandbox has answered, or is about to answer, its n-th request of a kind."""

    def __init__(self, owner: Any, method: str, at: int, *, after: bool) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        answer = getattr(owner, method)
        seen = 0

        def counting(*arguments: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == at and not after:
                self._strike()
            result = answer(*arguments)
            if seen == at and after:
                self._strike()
            return result

        setattr(owner, method, counting)

    def _strike(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("seed", range(5))
def test_the_tick_after_a_killed_process_makes_the_catalog_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """No handler runs and nothing is tidied up, wherever the run is by then; its claim on the target outlives it."""
    rng = random.Random(seed)  # noqa: S311  (to be drawn again, not secret)
    with Sandbox(quota=False) as sandbox:
        clock = SteppedClock(sandbox.clock)
        environment = {
            **sandbox.environment(),
            "AZURE_PORT_SYNC_STATE_URL": f"sqlite:///{tmp_path / 'state.sqlite'}",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if seed:  # the first of them dies in its first run
            _tick(clock)
            for _ in range(150):
                drift(sandbox.tenant, rng)
            sandbox.tenant.delete_group(rng.choice(_groups(sandbox)))
        # The webhook's answers, and in the last case Resource Graph's.
        after = rng.choice((True, False))
        if seed < 4:
            doom = Doom(sandbox.port, "ingest", rng.randrange(1, 60), after=after)
        else:
            doom = Doom(sandbox.graph, "_answer", rng.randrange(1, 3), after=after)
        doom.process = subprocess.Popen(
            [sys.executable, *_JOB],
            cwd=tmp_path,
            env={**_MACHINE, **environment, "DAGSTER_HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert doom.process.wait(180) == -signal.SIGKILL
        for _ in range(10):
            drift(sandbox.tenant, rng)

        _tick(clock)

        assert sandbox.compare().sentences() == []


def _tick(clock: SteppedClock) -> None:
    """The next tick, in this process."""
    clock.sleep(TICK)
    with dg.DagsterInstance.ephemeral() as instance:
        assert definitions(clock).resolve_job_def("incremental_sync").execute_in_process(instance=instance).success


def _groups(sandbox: Sandbox) -> list[str]:
    return sorted(row["id"] for row in sandbox.tenant.containers() if row["type"].endswith("/resourcegroups"))
