"""Histories that once left the catalog wrong: each ends with quiet ticks and a catalog equal to the tenant."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from azure_port_sync.core import guard
from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.errors import GuardError, SettingsError, StateError
from azure_port_sync.core.request import Mode, Request, Selection
from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window
from azure_port_sync.engine import deliver, run
from azure_port_sync.engine.decide import ChangeSet, RunStats, decide_changes
from azure_port_sync.engine.run import read_snapshot
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.sinks.webhook import WebhookSink
from azure_port_sync.resource_graph import ReadResult
from azure_port_sync.sandbox.compare import identifier_of
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import LedgerRebuild, StateStore
from azure_port_sync.state.lease import LEASE
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
    runs: int = 0
    other: str = ""  # the second subscription, where there is one
    crowd: str = ""  # the group of many resources, where there is one

    def begin(self, tags: Mapping[str, str] | None = None) -> "World":
        self.reader = self.reader_of(Scope.of(include_tags=self.include, exclude_tags=self.exclude))
        self.tenant = self.sandbox.tenant
        self.subscription = self.tenant.add_subscription("S")
        self.group = self.tenant.add_group(self.subscription, "web", "westeurope", tags)
        self.one, self.two = (self.tenant.create_resource(self.group, "microsoft.web/sites", n) for n in ("x1", "x2"))
        self.tick()
        return self

    def tick(self, mode: Mode = Mode.INCREMENTAL, *, catalog: PortApi | None = None, **more: Any) -> run.Outcome:
        self.clock.sleep(TICK)
        self.runs += 1
        return run.sync_once(
            self.reader,
            self.sink,
            self.store,
            self.clock,
            target="t",
            run=str(self.runs),
            request=Request(mode, **more),
            catalog=catalog,
        )

    def tick_under(self, fault: Fault) -> None:
        """A run that a fault ends early."""
        self.sandbox.faults.add(fault)
        assert self.tick().report.unsettled
        self.sandbox.faults.clear()

    def decide(
        self, request: Request, *, snapshot: pd.DataFrame | None = None, run: str = "decided"
    ) -> tuple[ChangeSet, RunStats]:
        """Decide and deliver nothing; on a snapshot that may have been taken earlier than the other reads."""
        return decide_changes(
            self.reader,
            self.store,
            self.clock,
            target="t",
            run=run,
            snapshot=read_snapshot(self.reader).frame if snapshot is None else snapshot,
            request=request,
            change_window=timedelta(minutes=15),
        )

    def deliver(self, snapshot: pd.DataFrame) -> None:
        """A full run on a snapshot that was taken earlier than the other reads."""
        change_set, _ = self.decide(Request(Mode.FULL), snapshot=snapshot)
        run.deliver_changes(change_set, self.sink, self.store, self.clock)

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
    snapshot = run.read_snapshot(world.reader).frame
    world.tenant.retag_group(world.group, {"env": "p"})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(world.store.ledger, "confirm", killed)
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
    monkeypatch.setattr(deliver, "_SENT_TOGETHER", 2)
    script = StateStore(f"sqlite:///{tmp_path_factory.mktemp('script') / 'state.sqlite'}", world.clock)
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
    snapshot = run.read_snapshot(world.reader).frame
    world.tenant.retag_group(world.group, {"env": "d"})
    world.deliver(snapshot)
    world.tenant.retag_group(world.group, {"env": "p"})

    world.ends_right()


def test_a_resource_that_an_inventory_left_out_is_asked_for_by_id(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resource Graph has returned too few rows before, and an automation deleted by it."""
    world.begin()
    inventory = world.reader.inventory

    def too_few(subscriptions: Sequence[str]) -> ReadResult:
        reading = inventory(subscriptions)
        return replace(reading, frame=reading.frame[reading.frame["name"] != "x1"])

    monkeypatch.setattr(world.reader, "inventory", too_few)
    assert world.tick(Mode.FULL).report.accepted["delete"] == 0
    assert world.sandbox.compare().sentences() == []


@pytest.mark.parametrize("kind", ["subscription", "resourceGroup"])
def test_a_container_that_a_snapshot_left_out_is_asked_for_by_id(world: World, kind: str) -> None:
    world.begin()
    snapshot = run.read_snapshot(world.reader).frame
    world.deliver(snapshot[snapshot["kind"] != kind])
    assert world.sandbox.compare().sentences() == []
    world.ends_right()


def test_a_delete_of_one_never_removes_the_other(world: World) -> None:
    """A space and an underscore meet in one identifier of Port."""
    world.begin()
    spaced = world.tenant.create_resource(world.group, "microsoft.web/sites", "a b")
    world.tick()
    world.tenant.create_resource(world.group, "microsoft.web/sites", "a_b")
    outcome = world.tick()
    assert outcome.findings.verdicts[Verdict.ID_CONFLICT] == 1
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

    assert outcome.report.total == outcome.findings.resent
    assert outcome.findings.verdicts[Verdict.UNCHANGED] + outcome.findings.resent == outcome.findings.candidates > 3000


def test_seven_full_runs_tell_everything_again_once(world: World) -> None:
    """Port accepts what its mapping then drops: after a repair of the mapping, the catalog heals within a week."""
    world.begin()
    world.tenant.create_resources(
        [{"group_id": world.group, "type": "microsoft.web/sites", "name": f"s{n}"} for n in range(40)]
    )
    world.tick()
    known = world.store.targets.load("t").ledger_rows
    shares = [world.tick(Mode.FULL).findings.resent for _ in range(7)]
    assert sum(shares) == known == 44
    assert max(shares) < known / 2
    world.sink.verifies = True
    assert world.tick(Mode.FULL).report.total == 0


# -- grace -----------------------------------------------------------------------------------------------------------


def _held(world: World) -> dict[str, set[str]]:
    return {blueprint: {e["title"] for e in held.values()} for blueprint, held in world.sandbox.held().items()}


@pytest.fixture
def two(world: World) -> World:
    """A world with a second subscription, "Other", that has one group and one resource."""
    world.begin()
    world.other = world.tenant.add_subscription("Other")
    group = world.tenant.add_group(world.other, "far", "westeurope")
    world.tenant.create_resource(group, "microsoft.web/sites", "z")
    world.tick()
    return world


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
@pytest.mark.parametrize("loss", ["lose_subscription", "remove_subscription"])
def test_a_subscription_that_vanished_keeps_its_entities_for_a_day(two: World, mode: Mode, loss: str) -> None:
    before = _held(two)
    getattr(two.tenant, loss)(two.subscription)
    outcome = two.tick(mode)
    assert outcome.findings.verdicts[Verdict.IN_GRACE] == 4
    assert outcome.findings.in_grace.keys() == {two.subscription}
    two.clock.sleep(timedelta(hours=24).total_seconds() - TICK - 1)
    two.tick(mode)
    assert _held(two) == before
    two.tick(mode)
    assert two.sandbox.compare().sentences() == []
    assert two.tick(mode).findings.in_grace == {}


def test_a_pause_of_days_does_not_use_up_the_grace(two: World) -> None:
    before = _held(two)
    two.clock.sleep(timedelta(days=3).total_seconds())
    two.tenant.lose_subscription(two.subscription)
    two.tick()
    assert _held(two) == before


@pytest.mark.parametrize("hours", [1, 30])
def test_a_subscription_that_was_lost_and_returns_is_right_after_one_tick(two: World, hours: int) -> None:
    """Its records lie before the window by then: what was deleted in the lost hour stayed in Port for ever."""
    two.tenant.lose_subscription(two.subscription)
    two.tick()
    two.tenant.delete_resource(two.one)
    two.tenant.tag_resource(two.two, {"while": "lost"})
    two.tenant.rename_subscription(two.subscription, "Renamed")
    late = two.tenant.add_group(two.subscription, "late", "westeurope")
    two.tenant.create_resource(late, "microsoft.web/sites", "new")
    for _ in range(2):
        two.clock.sleep(timedelta(hours=hours / 2).total_seconds())
        two.tick()
    two.tenant.regain_subscription(two.subscription)
    two.tick()
    assert two.sandbox.compare().sentences() == []


@pytest.mark.parametrize("hours", [1, 30])
def test_a_subscription_of_which_one_group_stays_readable(two: World, hours: int) -> None:
    """A role that shrinks for an hour from the subscription to one group must not empty the rest of it."""
    world, tenant = two, two.tenant
    rest = tenant.add_group(world.subscription, "rest", "westeurope")
    gone = tenant.create_resource(rest, "microsoft.web/sites", "gone")
    world.tick()
    before = _held(world)
    tenant.limit_subscription_to_group(world.subscription, world.group)
    tenant.tag_resource(world.one, {"readable": "still"})
    world.tick()
    assert _held(world) == before  # the name of the subscription among it
    assert any(
        "readable" in (e["properties"]["tags"] or {}) for e in world.sandbox.held()["azureCloudResources"].values()
    )
    tenant.regain_subscription(world.subscription)
    tenant.delete_resource(gone)
    tenant.limit_subscription_to_group(world.subscription, world.group)
    for _ in range(2):
        world.clock.sleep(timedelta(hours=hours / 2).total_seconds())
        world.tick()
    if hours > 24:
        assert world.sandbox.compare().sentences() == []
    tenant.regain_subscription(world.subscription)
    world.tick()
    assert world.sandbox.compare().sentences() == []


def test_a_subscription_that_shrank_to_a_group_before_port_was_told_of_it(two: World) -> None:
    """Its grace keeps what Port was told, which is nothing: the relations of its group would lead nowhere."""
    third = two.tenant.add_subscription("Third")
    group = two.tenant.add_group(third, "only", "westeurope")
    two.decide(Request(), run="dies before it delivers")
    two.tenant.limit_subscription_to_group(third, group)
    two.tick()
    assert two.sandbox.compare().sentences() == []


def test_a_subscription_that_shrank_to_a_group_before_port_answered_keeps_its_name(two: World) -> None:
    third = two.tenant.add_subscription("Third")
    group = two.tenant.add_group(third, "only", "westeurope")
    two.tick_under(Fault("port", kind="lost", times=None))
    two.tenant.limit_subscription_to_group(third, group)
    two.tick()
    assert "Third" in _held(two)["azureSubscription"]


def test_a_subscription_that_a_setting_excludes_has_no_grace(two: World) -> None:
    two.reader = two.reader_of(Scope.of(excluded_subscription_ids=[two.other]))
    assert two.tick().findings.in_grace == {}
    assert _held(two)["azureSubscription"] == {"S"}


def test_a_subscription_that_leaves_the_management_group_has_no_grace(world: World) -> None:
    world.begin()
    inside = world.tenant.add_subscription("Inside", management_groups=["contoso"])
    world.reader = world.reader_of(Scope.of(management_groups=["contoso"]))
    assert world.tick().findings.in_grace == {}  # what lies outside is readable, and left out by the setting
    assert _held(world)["azureSubscription"] == {"Inside"}
    world.tenant.add_subscription("Second", management_groups=["contoso"])
    world.tick()
    world.tenant.lose_subscription(inside)
    assert world.tick().findings.in_grace.keys() == {inside}


def test_a_subscription_of_the_management_group_that_shrinks_to_a_group_has_its_grace(world: World) -> None:
    """It can be read, by its group, and for all that it has not been moved out of the management group."""
    world.begin()
    inside = world.tenant.add_subscription("Inside", management_groups=["contoso"])
    first, second = (world.tenant.add_group(inside, name, "westeurope") for name in ("first", "second"))
    world.tenant.create_resource(second, "microsoft.web/sites", "z")
    world.reader = world.reader_of(Scope.of(management_groups=["contoso"]))
    world.tick()
    before = _held(world)
    world.tenant.limit_subscription_to_group(inside, first)
    assert world.tick().findings.in_grace.keys() == {inside}
    assert _held(world) == before


def test_a_named_subscription_that_was_never_readable_stops_the_run(two: World) -> None:
    """Azure leaves it out without a word; nobody would notice that it is not synced."""
    nowhere = "00000000-0000-4000-8000-000000000000"
    two.reader = two.reader_of(Scope.of(subscription_ids=[two.subscription, two.other, nowhere]))
    with pytest.raises(GuardError, match=f"AZURE_SUBSCRIPTION_IDS names {nowhere}, of which Azure shows .* nothing"):
        two.tick()
    two.reader = two.reader_of(Scope.of(subscription_ids=[two.subscription, two.other]))
    two.tenant.lose_subscription(two.other)
    assert two.tick().findings.in_grace.keys() == {two.other}  # this one was, and has its day


def test_a_subscription_that_is_lost_while_it_is_read_stops_the_run(two: World) -> None:
    before = _held(two)
    snapshot = run.read_snapshot(two.reader).frame
    two.tenant.lose_subscription(two.other)
    with pytest.raises(GuardError, match=f"Azure stopped showing {two.other} while this run was reading"):
        two.deliver(snapshot)
    assert _held(two) == before


# -- the guard -------------------------------------------------------------------------------------------------------


@pytest.fixture
def crowd(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of 24 entities, whose guard begins at 5 deletions."""
    monkeypatch.setattr(guard, "FLOOR", 5)
    world.begin()
    world.crowd = world.tenant.add_group(world.subscription, "crowd", "westeurope")
    world.tenant.create_resources(
        [{"group_id": world.crowd, "type": "microsoft.web/sites", "name": f"s{n}"} for n in range(19)]
    )
    world.tick()
    assert world.store.targets.load("t").ledger_rows == 24
    return world


def test_a_mass_deletion_waits_for_a_persons_word(crowd: World) -> None:
    before = _held(crowd)
    crowd.tenant.delete_group(crowd.crowd)
    for _ in range(2):
        with pytest.raises(GuardError, match=r"would delete 20 of the 24 entities .*allow_mass_delete: true"):
            crowd.tick()
    assert _held(crowd) == before
    assert crowd.tick(allow_mass_delete=True).report.accepted["delete"] == 20
    assert crowd.sandbox.compare().sentences() == []
    assert crowd.tick().report.total == 0  # the word was for one run


@pytest.mark.parametrize(("deletes", "stops"), [(5, False), (6, False), (7, True)])
def test_the_guard_allows_a_quarter_beyond_its_floor(crowd: World, deletes: int, stops: bool) -> None:
    for n in range(deletes):
        crowd.tenant.delete_resource(f"{crowd.crowd}/providers/microsoft.web/sites/s{n}")
    with pytest.raises(GuardError) if stops else nullcontext():
        crowd.tick()


def test_another_ratio_can_be_asked_for(crowd: World) -> None:
    crowd.tenant.delete_group(crowd.crowd)
    assert crowd.tick(max_delete_ratio=0.9).report.accepted["delete"] == 20


def test_delivering_applies_the_guard_itself(crowd: World) -> None:
    """A change set that was planned while the ledger held more, or by a hand, is not waved through."""
    crowd.tenant.delete_group(crowd.crowd)
    change_set, _ = crowd.decide(Request(allow_mass_delete=True))
    smuggled = replace(change_set, plan=replace(change_set.plan, request=Request()))
    assert smuggled.blockers == ()
    with pytest.raises(GuardError, match="would delete 20 of the 24"):
        run.deliver_changes(smuggled, crowd.sink, crowd.store, crowd.clock)


def test_deletes_of_what_nobody_knows_do_not_count(crowd: World, tmp_path: Path) -> None:
    """A first run sends the deletes of a fortnight, so that ghosts of the script go."""
    crowd.tenant.delete_group(crowd.crowd)
    with closing(StateStore(f"sqlite:///{tmp_path / 'another.sqlite'}", crowd.clock)) as crowd.store:
        assert crowd.tick().report.accepted["delete"] == 19  # the resources; no record of the group is read


# -- a part, and a past window ---------------------------------------------------------------------------------------


def test_a_part_is_delivered_again_and_the_watermark_stays(two: World) -> None:
    state = two.store.targets.load("t")
    two.sandbox.port.catalog.delete("azureCloudResources", identifier_of(two.one), dependents=False)

    outcome = two.tick(only=Selection.of(resource_groups=["WEB"]))

    assert outcome.report.accepted == {"upsert": 3}  # the group and both resources
    assert two.sandbox.compare().sentences() == []
    assert two.store.targets.load("t") == state


@pytest.mark.parametrize(
    ("only", "told"),
    [
        (Selection.of(subscriptions=["other"]), "Other far z"),
        (Selection.of(resource_types=["Microsoft.Web/sites"]), "x1 x2 z"),
        (Selection.of(resource_types=["Microsoft.Resources/subscriptions"]), "Other S"),
        (Selection.of(subscriptions=["other"], resource_types=["microsoft.web/sites"]), "z"),
        (Selection.of(resource_groups=["far", "web"], resource_types=["microsoft.web/sites"]), "x1 x2 z"),
    ],
    ids=str,
)
def test_a_part_is_what_lies_in_all_that_is_named(two: World, only: Selection, told: str) -> None:
    only = replace(only, subscriptions=tuple(two.other for _ in only.subscriptions))
    before = two.sandbox.port.events
    two.clock.sleep(TICK)
    change_set, _ = two.decide(Request(only=only))
    assert set(change_set.frame["name"]) == set(told.split())
    assert set(change_set.frame["operation"]) == {"upsert"}
    assert two.sandbox.port.events == before


def test_a_part_removes_what_is_gone_from_it(two: World) -> None:
    two.tenant.delete_resource(two.one)
    two.tenant.delete_resource(two.two)
    outcome = two.tick(only=Selection.of(subscriptions=[two.subscription], resource_groups=["web"]))
    assert outcome.report.accepted == {"delete": 2, "upsert": 1}
    two.ends_right()


def test_a_part_that_is_nowhere_is_one_sentence(two: World) -> None:
    with pytest.raises(SettingsError, match="Nothing in Azure or in the ledger lies in nowhere, which `only` names"):
        two.tick(only=Selection.of(resource_groups=["web", "nowhere"]))


def test_what_changes_elsewhere_meanwhile_is_left_to_the_next_tick(two: World) -> None:
    two.tenant.tag_resource(two.one, {"changed": "yes"})
    late = two.tenant.add_group(two.subscription, "late", "westeurope")
    two.tenant.create_resource(late, "microsoft.web/sites", "new")
    two.tick(only=Selection.of(subscriptions=[two.other]))
    two.tick()
    assert two.sandbox.compare().sentences() == []


def test_a_past_window_is_read_again(two: World) -> None:
    """Somebody meddled with Port: what changed that morning is delivered again, as it is now."""
    start = two.clock.now()
    two.tenant.tag_resource(two.one, {"at": "first"})
    two.tenant.delete_resource(two.two)
    two.clock.sleep(60)
    end = two.clock.now()
    two.tick()
    two.tenant.recreate_resource(two.two)
    two.tenant.tag_resource(two.one, {"at": "last"})
    two.tick()
    for one in (two.one, two.two):
        two.sandbox.port.catalog.delete("azureCloudResources", identifier_of(one), dependents=False)
    state = two.store.targets.load("t")
    window = Window(start - timedelta(seconds=1), end)

    assert two.tick(backfill=window).report.total == 0  # Port has been told all of it
    assert (
        two.tick(backfill=window, force=True, only=Selection.of(resource_groups=["web"])).report.accepted["upsert"] >= 2
    )

    assert two.sandbox.compare().sentences() == []
    assert two.store.targets.load("t") == state


# -- the lease -------------------------------------------------------------------------------------------------------


class _Killed(BaseException):
    """Nothing runs after it, as after SIGKILL."""


def test_the_run_after_a_killed_one_waits_for_its_claim_to_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.begin()
    world.tenant.delete_resource(world.one)
    with monkeypatch.context() as patched:
        patched.setattr(world.store.ledger, "confirm", _kill)
        patched.setattr(world.store.lease, "release", _kill)
        with pytest.raises(_Killed):
            world.tick()
    world.clock.slept.clear()
    change_set, _ = world.decide(Request(), run="next")
    assert run.deliver_changes(change_set, world.sink, world.store, world.clock).unsettled == 0
    assert 0 < sum(world.clock.slept) <= LEASE.total_seconds()
    world.ends_right()


def _kill(*_: object) -> None:
    raise _Killed


def test_of_two_runs_at_once_one_stops_with_a_sentence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Started from outside the queue: the second one finds the first delivering, and alive."""
    world.begin()
    world.tenant.delete_resource(world.one)
    world.tenant.tag_resource(world.two, {"new": "yes"})
    world.clock.sleep(TICK)
    first, second = (world.decide(Request(), run=run)[0] for run in ("first", "second"))
    begin, sleep = world.store.ledger.begin_sending, world.clock.sleep
    stopped: list[str] = []

    def meanwhile(*arguments: Any) -> None:
        begin(*arguments)
        if not stopped:
            stopped.append("")
            monkeypatch.setattr(world.clock, "sleep", lives_on)
            with pytest.raises(StateError, match="Another run is delivering to this target right now") as error:
                run.deliver_changes(second, world.sink, world.store, world.clock)
            stopped[0] = str(error.value)
            monkeypatch.setattr(world.clock, "sleep", sleep)

    def lives_on(seconds: float) -> None:
        sleep(seconds)
        world.store.lease.renew(first.plan)

    monkeypatch.setattr(world.store.ledger, "begin_sending", meanwhile)
    assert run.deliver_changes(first, world.sink, world.store, world.clock).unsettled == 0
    assert stopped
    with pytest.raises(StateError, match="planned before another run settled"):
        run.deliver_changes(second, world.sink, world.store, world.clock)
    world.ends_right()


def test_a_run_that_lost_its_claim_stops_before_its_next_request(world: World) -> None:
    """A laptop that slept wakes up in the middle of a delivery that another run has taken over."""
    world.begin()
    for name in ("y1", "y2", "y3"):
        world.tenant.create_resource(world.group, "microsoft.web/sites", name)
    world.clock.sleep(TICK)
    slow, quick = (world.decide(Request(), run=run)[0] for run in ("slow", "quick"))
    send = world.sink.send
    sent: list[int] = []

    def falls_asleep(events: Any, heartbeat: Any) -> Any:
        if not sent:
            world.clock.sleep(2 * LEASE.total_seconds())
            world.sink.send = send  # type: ignore[method-assign]
            assert run.deliver_changes(quick, world.sink, world.store, world.clock).unsettled == 0
            sent.append(world.sandbox.port.events)
        return send(events, heartbeat)

    world.sink.flow.concurrency = 1
    world.sink.send = falls_asleep  # type: ignore[method-assign]
    with pytest.raises(StateError, match="taken this target over"):
        run.deliver_changes(slow, world.sink, world.store, world.clock)
    assert world.sandbox.port.events == sent[0]
    world.ends_right()


# -- rebuilding the ledger -------------------------------------------------------------------------------------------


@pytest.fixture
def api(sandbox: Sandbox, clock: SteppedClock) -> Iterator[PortApi]:
    """Asks the sandbox's Port what it holds."""
    settings = sandbox.api_environment()
    opened = PortApi(settings["PORT_BASE_URL"], settings["PORT_CLIENT_ID"], settings["PORT_CLIENT_SECRET"], clock=clock)
    yield opened
    opened.close()


def test_a_rebuild_mends_what_people_did_in_port(world: World, api: PortApi) -> None:
    world.begin()
    spaced = world.tenant.create_resource(world.group, "microsoft.web/sites", "A b (c)")
    world.tick()
    lost, edited = identifier_of(world.one), identifier_of(world.two)
    hands = world.sandbox
    hands.delete_entity("azureCloudResources", lost)
    hands.put_entity("azureCloudResources", edited, "Mine now", {"location": "nowhere"}, {})
    hands.put_entity("azureCloudResources", "My-Thing", "Mine", {"type": "Coffee"}, {})
    hands.put_entity("azureCloudResources", f"{identifier_of(world.group)}/providers/a/b/c=28", None, {}, {})
    hands.put_entity("azureResourceGroup", "Some.Group", "Some", {}, {})
    hands.put_entity("azureSubscription", "/subscriptions/none", None, {}, {})

    outcome = world.tick(Mode.FULL, rebuild_ledger=True, catalog=api)

    assert outcome.plan.reasons == ("a full sync was asked for", "the ledger was filled from what Port holds")
    assert outcome.findings.refill == LedgerRebuild(held=8, missing=1, added=4)
    assert outcome.report.accepted["delete"] == 4
    assert world.sandbox.compare().sentences() == []
    world.tenant.delete_resource(spaced)
    world.ends_right()


def test_a_first_run_with_port_credentials_finds_ghosts_of_any_age(world: World, api: PortApi, tmp_path: Path) -> None:
    world.begin()
    ghost = identifier_of(world.group) + "/providers/microsoft.web/sites/ghost"
    world.sandbox.put_entity("azureCloudResources", ghost, "ghost", {}, {})
    with closing(StateStore(f"sqlite:///{tmp_path / 'another.sqlite'}", world.clock)) as world.store:
        outcome = world.tick(catalog=api)
    assert outcome.findings.refill is not None
    assert not outcome.findings.ghosts_may_remain
    assert world.sandbox.compare().sentences() == []


def test_a_rebuild_that_is_cut_off_is_gone_on_with(world: World, api: PortApi) -> None:
    """The ledger knows what Port holds, and not yet that it is right."""
    world.begin()
    world.sandbox.put_entity("azureCloudResources", identifier_of(world.one), "Mine now", {}, {})
    world.sandbox.faults.add(Fault("port", status=503, in_body='"operation"', times=None))
    assert world.tick(Mode.FULL, rebuild_ledger=True, catalog=api).report.unsettled
    world.sandbox.faults.clear()

    outcome = world.tick()

    assert outcome.plan.reasons == ("the ledger was filled from what Port holds",)
    assert world.sandbox.compare().sentences() == []


def test_a_rebuild_is_guarded_like_any_run(crowd: World, api: PortApi) -> None:
    for n in range(20):
        crowd.sandbox.put_entity("azureCloudResources", f"by-hand-{n}", None, {}, {})
    with pytest.raises(GuardError, match="would delete 20 of the 44"):
        crowd.tick(Mode.FULL, rebuild_ledger=True, catalog=api)
    crowd.tick(allow_mass_delete=True)
    assert crowd.sandbox.compare().sentences() == []
