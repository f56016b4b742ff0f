"""Random histories through the real jobs, and real processes that die of a real SIGKILL."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import Phase, given, seed, settings

from azure_port_sync.core import guard
from azure_port_sync.core.errors import AzureError
from azure_port_sync.core.request import Mode
from azure_port_sync.definitions import definitions
from azure_port_sync.resource_graph import AzureReader, ReadResult
from azure_port_sync.sandbox.port import Answer
from azure_port_sync_tests.support.histories import SETUPS, SUBSCRIPTIONS, TICK, Do, History, Setup, Tick, histories
from azure_port_sync_tests.support.operator import failed_checks, failure, recorded
from azure_port_sync_tests.support.processes import MACHINE
from azure_port_sync_tests.support.station import Life, Ran, Request, Station
from azure_port_sync_tests.support.worlds import World

#: Checks that only warn, of what a history may well contain.
_WARNINGS = {
    "subscriptions_present",
    "no_stale_entities",
    "watermark_recent",
    "rows_readable",
    "containers_readable",
}


class Jobs:
    """The product as Dagster runs it, in this process."""

    def __init__(self, station: Station, setup: Setup) -> None:
        self._setup = setup
        self._clock = station.clock
        self._database = station.new_database()
        self._instance = dg.DagsterInstance.ephemeral()
        self._environment = {
            **station.environment,
            "AZURE_PORT_SYNC_STATE_URL": self._database,
            "SUBSCRIPTION_BATCH_SIZE": str(setup.batch_size),
        }

    def environment(self, setup: Setup | None = None) -> dict[str, str]:
        """The settings of the setup, as a person writes them."""
        setup = setup or self._setup
        return self._environment | {name: json.dumps(of(setup)) for name, of in _SETTINGS.items() if of(setup)}

    def run(self, life: Life, request: Request) -> Ran:
        config = {"mode": str(request.mode), "force": request.force, "allow_mass_delete": request.allow}
        job = definitions(self._clock).resolve_job_def(f"{request.mode}_sync")
        with pytest.MonkeyPatch.context() as patched, _told_of_snapshots(life):
            for name in _SETTINGS:
                patched.delenv(name, raising=False)
            for name, value in self.environment(request.setup).items():
                patched.setenv(name, value)
            result = job.execute_in_process(
                run_config={"ops": {"azure_change_set": {"config": config}}},
                instance=self._instance,
                raise_on_error=False,
            )
        return self._told_by(result)

    def _told_by(self, result: dg.ExecuteInProcessResult) -> Ran:
        figures, wrong = recorded(result), failed_checks(result)
        if not result.success and "accepted" not in figures:
            sentence = failure(result)
            assert "Azure" in sentence, sentence
            raise AzureError(sentence)
        if result.success:
            assert wrong.keys() <= _WARNINGS, wrong
        assert ("deletes_within_guard" in wrong) == bool(figures["held_deletes"])
        operations = figures["upserts"] + figures["deletes"]
        summary = f"{operations} operations, {figures['accepted']} accepted: {figures}"
        return Ran(figures["mode"], operations, operations - figures["accepted"], figures["held_deletes"], 0, summary)

    def come_back(self) -> None:
        """Every run opens all anew."""

    def close(self) -> None:
        self._instance.dispose()
        Path(self._database.removeprefix("sqlite:///")).unlink(missing_ok=True)

    def back_up(self) -> None:
        """No copy is kept: what the engine makes of an old state has nothing to do with Dagster."""

    def restore(self) -> bool:
        return False

    def remembered(self) -> list[str]:
        with closing(sqlite3.connect(self._database.removeprefix("sqlite:///"))) as state:
            return list(state.iterdump())

    def quarantined(self) -> set[str]:
        return set()


def _filters(setup: Setup) -> dict[str, Mapping[str, str]]:
    filters = {"include": setup.include, "exclude": setup.exclude}
    return {name: tags for name, tags in filters.items() if tags}


_SETTINGS: Mapping[str, Callable[[Setup], Any]] = {
    "RESOURCE_GROUP_TAG_FILTERS": _filters,
    "RESOURCE_TYPES": lambda setup: setup.types,
    "AZURE_MANAGEMENT_GROUPS": lambda setup: setup.management_groups,
    "AZURE_SUBSCRIPTION_IDS": lambda setup: [SUBSCRIPTIONS[one] for one in setup.subscriptions],
    "EXTRA_RESOURCE_COLUMNS": lambda setup: setup.columns,
}

#: Verbs of the histories that are not played here: what the engine does with them has nothing to do with Dagster.
_OF_THE_ENGINE = frozenset({"skew", "back_up", "restore"})


@contextmanager
def _told_of_snapshots(life: Life) -> Iterator[None]:
    """The reads of the jobs' own reader pass through this life."""
    containers = AzureReader.containers

    def passing(reader: AzureReader, *arguments: Any) -> ReadResult:
        def containers_(*ids: Any) -> ReadResult:
            return containers(reader, *ids)

        containers_.__name__ = "containers"
        reading: ReadResult = life.pass_on("azure", containers_, *arguments)
        return reading

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AzureReader, "containers", passing)
        yield


def drawn(setup: Setup, number: int, ticks: int) -> History:
    """A history with about so many runs, the same for the same number; runs die otherwise here, or not at all."""
    found: list[History] = []

    @seed(number)
    @settings(max_examples=30, database=None, phases=[Phase.generate])
    @given(histories(setup))
    def draw(history: History) -> None:
        found.append(history)

    draw()
    best = min(found, key=lambda one: abs(sum(isinstance(step, Tick) for step in one.steps) - ticks))
    steps = [replace(step, kill=None, during=(), launch="") if isinstance(step, Tick) else step for step in best.steps]
    plain = [step for step in steps if isinstance(step, Tick) or step.verb not in _OF_THE_ENGINE]
    return replace(best, steps=tuple(plain), ticks_to_rest=0)


@pytest.mark.parametrize("number", range(10))
def test_any_history_of_jobs_ends_with_the_right_catalog(
    station: Station, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    setup = SETUPS[number % len(SETUPS)]
    history = drawn(setup, number, ticks=4)
    world = World(station, setup, product=Jobs)
    monkeypatch.setattr(guard, "MIN_DELETES", history.floor)
    try:
        world.play(history)
    except BaseException as error:
        error.add_note("\n".join([str(history), *world.log]))
        raise
    finally:
        world.close()


# -- real deaths -------------------------------------------------------------------------------------------------------

#: Changes that a history may make where nobody watches the runs for the oracle: all but what can be read.
_OF_THE_TENANT = frozenset({"add", "delete", "revive", "tag", "move", "respell", "touch"})


@pytest.mark.parametrize("number", range(5))
def test_what_a_killed_process_leaves_is_made_good_by_the_next_tick(
    station: Station, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    """The process runs on the machine's clock, and dies while Port takes one of its events, or just after."""
    setup = SETUPS[number % 4]  # moves between management groups change what can be read
    chance = random.Random(number)  # noqa: S311  (drawn, not secret)
    steps = [step for step in drawn(setup, 100 + number, ticks=8).steps if isinstance(step, Do)]
    changes = [step for step in steps if step.verb in _OF_THE_TENANT and "/" in step.arguments[0]]
    before, after = changes[: len(changes) // 2], changes[len(changes) // 2 :]
    world = World(station, setup, product=Jobs, now=datetime.now(UTC))
    try:
        world.begin(("s0/g0/r0", "s0/g0/r1", "s0/g1/r0", "s1/g0/r0"))
        world.sandbox.clock.resume()
        world.quiet_tick()
        for step in [*before, Do("delete", "s0/g0/r0"), Do("add", "s1/g1/r0"), Do("add", "s1/g1/r1")]:
            world.do(step)
        found = world.differences()
        events = sum(len(part) for parts in (found.missing, found.extra, found.different) for part in parts.values())
        assert events >= 2
        dies_at = chance.randint(1, events)
        code = killed_run(world, tmp_path, chance.choice(list(Mode)[:2]), dies_at, after=chance.random() < 0.5)
        assert code == -signal.SIGKILL, f"it should have died at event {dies_at} of {events}"
        for step in after:
            world.do(step)
        world.clock.sleep(TICK)
        world.quiet_tick()
        world.check("after one quiet tick")
    except BaseException as error:
        error.add_note("\n".join([repr(changes), *world.log]))
        raise
    finally:
        world.close()


def killed_run(world: World, folder: Path, mode: Mode, event: int, *, after: bool) -> int:
    """A run in a process of its own, which is gone when Port has (or has not) taken its n-th event; its exit code."""
    assert isinstance(world.product, Jobs)
    port = world.sandbox.port
    home = folder / "home"
    home.mkdir()
    number = 0
    ingest: Callable[..., Answer] = port.ingest

    def deadly(*arguments: Any) -> Answer:
        nonlocal number
        number += 1
        if number == event and not after:
            os.kill(process.pid, signal.SIGKILL)
            return Answer(503, {})
        answer = ingest(*arguments)
        if number == event:
            os.kill(process.pid, signal.SIGKILL)
        return answer

    command = ["dagster", "job", "execute", "-m", "azure_port_sync.definitions", "-j", f"{mode}_sync"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(port, "ingest", deadly)
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**MACHINE, **world.product.environment(), "DAGSTER_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return process.wait(180)
        finally:
            process.kill()
