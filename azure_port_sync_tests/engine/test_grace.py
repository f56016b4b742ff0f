"""A subscription that vanished keeps its entities for a day; one that a setting leaves out does not."""

from datetime import timedelta

import pytest

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.request import Mode, Request, Selection
from azure_port_sync.core.scope import Scope
from azure_port_sync.engine.containers import read_snapshot
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync_tests.support.scenario import TICK, Scenario, titles


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
@pytest.mark.parametrize("loss", ["lose_subscription", "remove_subscription"])
def test_a_subscription_that_vanished_keeps_its_entities_for_a_day(two: Scenario, mode: Mode, loss: str) -> None:
    before = titles(two)
    getattr(two.tenant, loss)(two.subscription)
    outcome = two.tick(mode)
    assert outcome.stats.verdicts[Verdict.IN_GRACE] == 4
    assert outcome.stats.in_grace.keys() == {two.subscription}
    two.clock.sleep(timedelta(hours=24).total_seconds() - TICK - 1)
    two.tick(mode)
    assert titles(two) == before
    two.tick(mode)
    assert two.sandbox.compare().sentences() == []
    assert two.tick(mode).stats.in_grace == {}


def test_a_pause_of_days_does_not_use_up_the_grace(two: Scenario) -> None:
    before = titles(two)
    two.clock.sleep(timedelta(days=3).total_seconds())
    two.tenant.lose_subscription(two.subscription)
    two.tick()
    assert titles(two) == before


@pytest.mark.parametrize("hours", [1, 30])
def test_a_subscription_that_was_lost_and_returns_is_right_after_one_tick(two: Scenario, hours: int) -> None:
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
def test_a_subscription_of_which_one_group_stays_readable(two: Scenario, hours: int) -> None:
    """A role that shrinks for an hour from the subscription to one group must not empty the rest of it."""
    world, tenant = two, two.tenant
    rest = tenant.add_group(world.subscription, "rest", "westeurope")
    gone = tenant.create_resource(rest, "microsoft.web/sites", "gone")
    world.tick()
    before = titles(world)
    tenant.limit_subscription_to_group(world.subscription, world.group)
    tenant.tag_resource(world.one, {"readable": "still"})
    world.tick()
    assert titles(world) == before  # the name of the subscription among it
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


def test_a_subscription_that_shrank_to_a_group_before_port_was_told_of_it(two: Scenario) -> None:
    """Its grace keeps what Port was told, which is nothing: the relations of its group would lead nowhere."""
    third = two.tenant.add_subscription("Third")
    group = two.tenant.add_group(third, "only", "westeurope")
    two.decide(Request(), run="dies before it delivers")
    two.tenant.limit_subscription_to_group(third, group)
    two.tick()
    assert two.sandbox.compare().sentences() == []


def test_a_subscription_that_shrank_to_a_group_before_port_answered_keeps_its_name(two: Scenario) -> None:
    third = two.tenant.add_subscription("Third")
    group = two.tenant.add_group(third, "only", "westeurope")
    two.tick_under(Fault("port", kind="lost", times=None))
    two.tenant.limit_subscription_to_group(third, group)
    two.tick()
    assert "Third" in titles(two)["azureSubscription"]


def test_a_subscription_that_a_setting_excludes_has_no_grace(two: Scenario) -> None:
    two.reader = two.reader_of(Scope.of(excluded_subscription_ids=[two.other]))
    assert two.tick().stats.in_grace == {}
    assert titles(two)["azureSubscription"] == {"S"}


def test_a_subscription_that_leaves_the_management_group_has_no_grace(world: Scenario) -> None:
    world.begin()
    inside = world.tenant.add_subscription("Inside", management_groups=["contoso"])
    world.reader = world.reader_of(Scope.of(management_groups=["contoso"]))
    assert world.tick().stats.in_grace == {}  # what lies outside is readable, and left out by the setting
    assert titles(world)["azureSubscription"] == {"Inside"}
    world.tenant.add_subscription("Second", management_groups=["contoso"])
    world.tick()
    world.tenant.lose_subscription(inside)
    assert world.tick().stats.in_grace.keys() == {inside}


def test_a_subscription_of_the_management_group_that_shrinks_to_a_group_has_its_grace(world: Scenario) -> None:
    """It can be read, by its group, and for all that it has not been moved out of the management group."""
    world.begin()
    inside = world.tenant.add_subscription("Inside", management_groups=["contoso"])
    first, second = (world.tenant.add_group(inside, name, "westeurope") for name in ("first", "second"))
    world.tenant.create_resource(second, "microsoft.web/sites", "z")
    world.reader = world.reader_of(Scope.of(management_groups=["contoso"]))
    world.tick()
    before = titles(world)
    world.tenant.limit_subscription_to_group(inside, first)
    assert world.tick().stats.in_grace.keys() == {inside}
    assert titles(world) == before


def test_a_named_subscription_that_was_never_readable_is_named_and_stops_nothing(two: Scenario) -> None:
    """Azure leaves it out silently; nobody would notice that it is not synced."""
    nowhere = "00000000-0000-4000-8000-000000000000"
    two.reader = two.reader_of(Scope.of(subscription_ids=[two.subscription, two.other, nowhere]))
    two.tenant.create_resource(two.group, "microsoft.web/sites", "new")
    outcome = two.tick()
    assert outcome.stats.unreadable == (nowhere,)
    assert "new" in titles(two)["azureCloudResources"]
    two.reader = two.reader_of(Scope.of(subscription_ids=[two.subscription, two.other]))
    two.tenant.lose_subscription(two.other)
    assert two.tick().stats.in_grace.keys() == {two.other}  # this one was, and has its day


def test_a_subscription_that_is_lost_while_it_is_read_keeps_its_entities_and_stops_nothing(two: Scenario) -> None:
    snapshot = read_snapshot(two.reader).frame
    two.tenant.lose_subscription(two.other)
    two.tenant.create_resource(two.group, "microsoft.web/sites", "new")
    before = titles(two)
    stats = two.deliver(snapshot)
    assert stats.silent == {two.other}
    assert stats.in_grace.keys() == {two.other}
    before["azureCloudResources"].add("new")
    assert titles(two) == before
    two.tenant.delete_resource(two.far)  # while nobody can read it
    two.tick()
    assert titles(two) == before
    two.tenant.regain_subscription(two.other)
    two.ends_right()


@pytest.mark.parametrize("table", ["resourcechanges", "resources"])
def test_a_subscription_that_one_read_is_refused_is_inventoried_by_the_next_run(two: Scenario, table: str) -> None:
    """A role that flickers: it answers before and after, so its change was lost until the next full run."""
    two.reader = two.reader_of(Scope(), batch_size=1)
    two.tenant.tag_resource(two.far, {"changed": "yes"})
    two.clock.sleep(timedelta(minutes=1).total_seconds())
    error = {"error": {"code": "AuthorizationFailed", "message": "no"}}
    query = f'"query": "{table}'
    two.sandbox.faults.add(Fault("azure", status=403, body=error, in_body=query, times=2))
    outcome = two.tick(Mode.FULL if table == "resources" else Mode.INCREMENTAL)
    assert outcome.stats.silent == {two.subscription, two.other}
    two.clock.sleep(timedelta(hours=1).total_seconds())
    two.ends_right()


def test_the_group_that_stays_readable_has_no_grace(two: Scenario) -> None:
    """What was deleted in it while it could not be read left no record that is still read."""
    rest = two.tenant.add_group(two.subscription, "rest", "westeurope")
    two.tick()
    two.tenant.limit_subscription_to_group(two.subscription, rest)
    two.tenant.delete_resource(two.one)
    two.tick()
    two.clock.sleep(timedelta(hours=1).total_seconds())
    two.tick()
    two.tenant.limit_subscription_to_group(two.subscription, two.group)
    outcome = two.tick()
    assert outcome.stats.in_grace.keys() == {two.subscription}
    held = titles(two)
    assert held["azureCloudResources"] == {"x2", "z"}
    assert "rest" in held["azureResourceGroup"]


def test_a_subscription_that_shrinks_to_a_group_while_it_is_read_keeps_its_entities(two: Scenario) -> None:
    snapshot = read_snapshot(two.reader).frame
    rest = two.tenant.add_group(two.subscription, "rest", "westeurope")
    two.tenant.limit_subscription_to_group(two.subscription, rest)
    before = titles(two)
    assert two.deliver(snapshot).silent == {two.subscription}
    assert titles(two) == before
    two.tenant.regain_subscription(two.subscription)
    two.ends_right()


@pytest.mark.parametrize("name", ["", "its id"])
def test_a_subscription_without_a_name_of_its_own_is_an_ordinary_one(world: Scenario, name: str) -> None:
    world.begin()
    plain = world.tenant.add_subscription("Plain")
    world.tenant.rename_subscription(plain, name and plain)
    group = world.tenant.add_group(plain, "data", "westeurope")
    world.tenant.create_resource(group, "microsoft.web/sites", "z")
    world.tick()
    assert titles(world)["azureSubscription"] == {"S", plain}
    world.tenant.rename_subscription(plain, "Named")
    assert world.tick().stats.in_grace == {}
    world.ends_right()


def test_what_was_sent_without_its_containers_goes_when_the_grace_is_over(world: Scenario) -> None:
    """A part was sent, its subscription vanished, and the resources stayed in Port until a full run."""
    world.begin()
    other = world.tenant.add_subscription("Other")
    far = world.tenant.add_group(other, "far", "westeurope")
    world.tenant.create_resource(far, "microsoft.compute/disks", "z")
    world.tick(only=Selection.of(resource_types=["microsoft.compute/disks"]))
    assert "z" in titles(world)["azureCloudResources"]
    world.tenant.lose_subscription(other)
    world.tick()
    assert "z" in titles(world)["azureCloudResources"]
    world.clock.sleep(timedelta(hours=24).total_seconds())
    assert world.tick().plan.mode is Mode.INCREMENTAL
    assert world.sandbox.compare().sentences() == []
