"""Histories that once left the catalog wrong: each ends with quiet ticks and a catalog equal to the tenant."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import pandas as pd
import pytest

from azure_port_sync import steps
from azure_port_sync.port import WebhookSink, delivery
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync.sync.decisions import Verdict
from azure_port_sync.sync.scope import Scope
from azure_port_sync.sync.windows import Mode
from azure_port_sync_tests.conftest import ReaderOf, SteppedClock

TICK = timedelta(minutes=15).total_seconds()
DOWN = Fault("port", status=503, times=None)
NO_CONTAINERS = Fault("port", status=503, in_body='"resourceContainer"', times=None)


@dataclass
class World:
    """A tenant with one group of two resources, and a sync that has settled once."""

    sandbox: Sandbox
    clock: SteppedClock
    sink: WebhookSink
    store: StateStore
    reader_of: ReaderOf
    include: Mapping[str, str] | None = None
    exclude: Mapping[str, str] | None = None

    def begin(self, tags: Mapping[str, str] | None = None) -> "World":
        self.reader = self.reader_of(Scope.of(include_tags=self.include, exclude_tags=self.exclude))
        self.tenant = self.sandbox.tenant
        self.subscription = self.tenant.add_subscription("S")
        self.group = self.tenant.add_group(self.subscription, "web", "westeurope", tags)
        self.one, self.two = (self.tenant.create_resource(self.group, "microsoft.web/sites", n) for n in ("x1", "x2"))
        self.tick()
        return self

    def tick(self, mode: Mode = Mode.INCREMENTAL) -> steps.Outcome:
        self.clock.sleep(TICK)
        return steps.sync_once(self.reader, self.sink, self.store, self.clock, target="t", mode=mode)

    def tick_under(self, fault: Fault) -> None:
        """A run that a fault ends early."""
        self.sandbox.faults.add(fault)
        assert self.tick().report.unsettled
        self.sandbox.faults.clear()

    def deliver(self, snapshot: pd.DataFrame, *, mode: Mode = Mode.FULL) -> None:
        """Decide on a snapshot that was taken earlier than the other reads, and deliver."""
        change_set, _ = steps.decide_changes(
            self.reader,
            self.store,
            self.clock,
            target="t",
            snapshot=snapshot,
            requested=mode,
            force=False,
            change_window=timedelta(minutes=15),
        )
        steps.deliver_changes(change_set, self.sink, self.store, self.clock)

    def ends_right(self) -> None:
        self.tick()
        self.tick()
        assert self.sandbox.compare(include=_dict(self.include), exclude=_dict(self.exclude)).sentences() == []


def _dict(tags: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if tags is None else dict(tags)


@pytest.fixture
def world(sandbox: Sandbox, clock: SteppedClock, sink: WebhookSink, store: StateStore, reader_of: ReaderOf) -> World:
    return World(sandbox, clock, sink, store, reader_of)


def test_a_group_that_comes_back_after_an_interrupted_deletion(world: World) -> None:
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    world.tenant.retag_group(world.group, {"env": "d"})
    world.tick_under(NO_CONTAINERS)
    world.tenant.retag_group(world.group, {"env": "p"})

    world.ends_right()


def test_a_subscription_that_comes_back_after_an_interrupted_deletion(world: World) -> None:
    world.begin()
    world.tenant.add_subscription("Other")
    world.tenant.lose_subscription(world.subscription)
    world.tick_under(NO_CONTAINERS)
    world.tenant.regain_subscription(world.subscription)

    world.ends_right()


def test_a_group_deletion_that_port_took_and_the_ledger_did_not_settle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port deletes what is in the group; the ledger must not go on saying that Port has it."""
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    world.tenant.retag_group(world.group, {"env": "d"})
    snapshot = steps.read_snapshot(world.reader).frame
    world.tenant.retag_group(world.group, {"env": "p"})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(world.store, "settle", killed)
        with pytest.raises(KeyboardInterrupt):
            world.deliver(snapshot)

    world.ends_right()


def test_a_resource_recreated_while_it_was_out_of_scope(world: World) -> None:
    """Its Create record is never read; the tombstone of its Delete must not keep it out."""
    world.include = {"env": "p"}
    world.begin({"env": "d"})
    world.tenant.delete_resource(world.one)
    world.clock.sleep(60)
    world.tenant.recreate_resource(world.one)
    world.tick()
    world.clock.sleep(timedelta(hours=1).total_seconds())
    world.tick()
    world.tenant.retag_group(world.group, {"env": "p"})

    world.ends_right()


def test_a_row_that_azure_still_shows_after_its_deletion_stays_out(world: World) -> None:
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    world.tenant.set_delays(linger=[36000, 36000])
    world.tenant.delete_resource(world.one)
    world.tick()
    world.clock.sleep(timedelta(hours=1).total_seconds())

    world.tick(Mode.FULL)

    assert world.sandbox.compare(include=_dict(world.include)).sentences() == []


def test_a_group_whose_exclusion_shows_late(world: World) -> None:
    """Until the group's row shows, its resources look as if nothing excluded them."""
    world.exclude = {"tmp": "1"}
    world.begin()
    world.tenant.set_delays(row_delay=[1000, 1000])
    late = world.tenant.add_group(world.subscription, "late", "westeurope", {"tmp": "1"})
    world.tenant.set_delays(row_delay=[0, 0])
    world.tenant.create_resource(late, "microsoft.web/sites", "ghost")
    world.tick()

    world.ends_right()


def test_a_deletion_and_a_creation_of_one_instant_in_two_ticks(world: World) -> None:
    world.begin()
    world.clock.sleep(TICK - 30)
    world.tenant.delete_resource(world.one)
    world.tenant.set_delays(record_delay=[200, 200])
    world.tenant.recreate_resource(world.one)
    world.clock.sleep(30 - TICK)
    assert world.tick().report.accepted["delete"] == 1

    world.ends_right()


def test_ghosts_of_the_script_go_even_when_the_first_run_was_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(delivery, "_SENT_TOGETHER", 2)
    script = StateStore(f"sqlite:///{tmp_path_factory.mktemp('script') / 'state.sqlite'}")
    ours, world.store = world.store, script
    world.begin()
    more = [world.tenant.create_resource(world.group, "microsoft.web/sites", f"y{n}") for n in range(6)]
    world.tick()
    world.store = ours
    script.close()
    for resource in more:
        world.tenant.delete_resource(resource)

    world.tick_under(Fault("port", status=503, skip=1, times=None))

    world.ends_right()


def test_a_group_that_left_and_came_back_within_one_full_run(world: World) -> None:
    """The snapshot shows it in scope and the inventory does not: its resources go, and nothing says that it is new."""
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    snapshot = steps.read_snapshot(world.reader).frame
    world.tenant.retag_group(world.group, {"env": "d"})
    world.deliver(snapshot)
    world.tenant.retag_group(world.group, {"env": "p"})

    world.ends_right()


def test_a_delete_of_one_never_removes_the_other(world: World) -> None:
    """A space and an underscore meet in one identifier of Port."""
    world.begin()
    spaced = world.tenant.create_resource(world.group, "microsoft.web/sites", "a b")
    world.tick()
    world.tenant.create_resource(world.group, "microsoft.web/sites", "a_b")
    outcome = world.tick()
    assert outcome.findings.verdicts[Verdict.COLLIDING] == 1
    world.tenant.delete_resource(spaced)
    world.tick()
    world.tick(Mode.FULL)

    titles = {entity["title"] for entity in world.sandbox.held()["azureCloudResources"].values()}
    assert titles == {"x1", "x2", "a_b"}


def test_a_second_full_run_over_many_resources_sends_nothing(world: World) -> None:
    """The comparison with the ledger was once quadratic; the first run over an empty one could not show it."""
    world.begin()
    world.tenant.grow(resources=3000)
    world.sandbox.graph.quota.limit = None
    world.tick(Mode.FULL)

    outcome = world.tick(Mode.FULL)

    assert outcome.report.total == 0
    assert outcome.findings.verdicts[Verdict.UNCHANGED] == outcome.findings.candidates > 3000
