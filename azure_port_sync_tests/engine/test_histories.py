"""Histories that once left the catalog wrong: each ends with quiet ticks and a catalog equal to the tenant."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.request import Mode
from azure_port_sync.engine.containers import read_snapshot
from azure_port_sync.engine.deliver import DeliveryLimits
from azure_port_sync.port.sinks.webhook import WebhookSink
from azure_port_sync.resource_graph import ReadResult
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.state import DeliveryLedger, StateStore
from azure_port_sync_tests.support.scenario import TICK, Scenario, plain, titles

DOWN = Fault("port", status=503, times=None)
NO_CONTAINERS = Fault("port", status=503, in_body='"resourceContainer"', times=None)


def test_a_group_that_comes_back_after_an_interrupted_deletion(world: Scenario) -> None:
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    world.tenant.retag_group(world.group, {"env": "d"})
    world.tick_under(NO_CONTAINERS)
    world.tenant.retag_group(world.group, {"env": "p"})

    world.ends_right()


def test_a_subscription_that_comes_back_after_an_interrupted_deletion(world: Scenario) -> None:
    world.begin()
    world.tenant.add_subscription("Other")
    world.tenant.lose_subscription(world.subscription)
    world.tick_under(NO_CONTAINERS)
    world.tenant.regain_subscription(world.subscription)

    world.ends_right()


def test_a_group_deletion_that_port_took_and_the_ledger_did_not_settle(
    world: Scenario, sink_of: Callable[[], WebhookSink], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port deletes what is in the group; the ledger must not go on saying that Port has it."""
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    world.tenant.retag_group(world.group, {"env": "d"})
    snapshot = read_snapshot(world.reader).frame
    world.tenant.retag_group(world.group, {"env": "p"})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(DeliveryLedger, "confirm", killed)
        with pytest.raises(KeyboardInterrupt):
            world.deliver(snapshot)

    world.sink = sink_of()
    world.ends_right()


def test_a_resource_recreated_while_it_was_out_of_scope(world: Scenario) -> None:
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


def test_a_row_that_azure_still_shows_after_its_deletion_stays_out(world: Scenario) -> None:
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    world.tenant.set_delays(linger=[36000, 36000])
    world.tenant.delete_resource(world.one)
    world.tick()
    world.clock.sleep(timedelta(hours=1).total_seconds())

    world.tick(Mode.FULL)

    assert world.sandbox.compare(include=plain(world.include)).sentences() == []


def test_a_group_whose_exclusion_shows_late(world: Scenario) -> None:
    """Until the group's row shows, its resources look as if nothing excluded them."""
    world.exclude = {"tmp": "1"}
    world.begin()
    world.tenant.set_delays(row_delay=[1000, 1000])
    late = world.tenant.add_group(world.subscription, "late", "westeurope", {"tmp": "1"})
    world.tenant.set_delays(row_delay=[0, 0])
    world.tenant.create_resource(late, "microsoft.web/sites", "ghost")
    world.tick()

    world.ends_right()


def test_a_resource_whose_row_shows_hours_after_its_record(world: Scenario) -> None:
    """By then its record lies before the window, so that nothing but the wait for it leads back to it."""
    world.begin()
    world.tenant.set_delays(row_delay=[14400, 14400])
    world.tenant.create_resource(world.group, "microsoft.web/sites", "late")
    world.tenant.set_delays(row_delay=[0, 0])
    for _ in range(3):
        assert world.tick().stats.verdicts[Verdict.PENDING] == 1
    world.clock.sleep(timedelta(hours=4).total_seconds())

    assert world.tick().report.accepted == {"upsert": 1}

    assert world.store.facts.pending("t").empty
    assert world.sandbox.compare().sentences() == []


def test_a_deletion_and_a_creation_of_one_instant_in_two_ticks(world: Scenario) -> None:
    world.begin()
    world.clock.sleep(TICK - 30)
    world.tenant.delete_resource(world.one)
    world.tenant.set_delays(record_delay=[200, 200])
    world.tenant.recreate_resource(world.one)
    world.clock.sleep(30 - TICK)
    assert world.tick().report.accepted["delete"] == 1

    world.ends_right()


def test_what_the_script_left_goes_even_when_the_first_run_was_interrupted(
    world: Scenario, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world.limits = DeliveryLimits(sent_together=2)
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


def test_a_group_that_left_and_came_back_within_one_full_run(world: Scenario) -> None:
    """The snapshot shows it in scope and the inventory does not: its resources go, and nothing says that it is new."""
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    snapshot = read_snapshot(world.reader).frame
    world.tenant.retag_group(world.group, {"env": "d"})
    world.deliver(snapshot)
    world.tenant.retag_group(world.group, {"env": "p"})

    world.ends_right()


def test_a_resource_that_an_inventory_left_out_is_asked_for_by_id(
    world: Scenario, monkeypatch: pytest.MonkeyPatch
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
def test_a_container_that_a_snapshot_left_out_is_asked_for_by_id(world: Scenario, kind: str) -> None:
    world.begin()
    snapshot = read_snapshot(world.reader).frame
    world.deliver(snapshot[snapshot["kind"] != kind])
    assert world.sandbox.compare().sentences() == []
    world.ends_right()


def test_a_delete_of_one_never_removes_the_other(world: Scenario) -> None:
    """A space and an underscore meet in one identifier of Port."""
    world.begin()
    spaced = world.tenant.create_resource(world.group, "microsoft.web/sites", "a b")
    world.tick()
    world.tenant.create_resource(world.group, "microsoft.web/sites", "a_b")
    outcome = world.tick()
    assert outcome.stats.verdicts[Verdict.ID_CONFLICT] == 1
    world.tenant.delete_resource(spaced)
    world.tick()
    world.tick(Mode.FULL)

    titles = {entity["title"] for entity in world.sandbox.held()["azureCloudResources"].values()}
    assert titles == {"x1", "x2", "a_b"}


def test_a_second_full_run_over_many_resources_sends_nothing(world: Scenario) -> None:
    """The comparison with the ledger was once quadratic; the first run over an empty one could not show it."""
    world.begin()
    world.tenant.grow(resources=3000)
    world.sandbox.graph.quota.limit = None
    world.tick(Mode.FULL)

    outcome = world.tick(Mode.FULL)

    assert outcome.report.total == outcome.stats.resent
    assert outcome.stats.verdicts[Verdict.UNCHANGED] + outcome.stats.resent == outcome.stats.candidates > 3000


def test_seven_full_runs_tell_everything_again_once(world: Scenario) -> None:
    """Port accepts what its mapping then drops: after a repair of the mapping, the catalog heals within a week."""
    world.begin()
    world.tenant.create_resources(
        [{"group_id": world.group, "type": "microsoft.web/sites", "name": f"s{n}"} for n in range(40)]
    )
    world.tick()
    known = world.store.targets.load("t").ledger_rows
    shares = [world.tick(Mode.FULL).stats.resent for _ in range(7)]
    assert sum(shares) == known == 44
    assert max(shares) < known / 2
    world.sink.verifies = True
    assert world.tick(Mode.FULL).report.total == 0


@pytest.mark.parametrize("name", ["RG-İstanbul", "ΟΔΟΣ"])
def test_a_group_of_letters_that_languages_fold_differently_enters_the_scope(world: Scenario, name: str) -> None:
    """Its name went into the query in our lower case, and its older resources were missing until the nightly run."""
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    group = world.tenant.add_group(world.subscription, name, "westeurope", {"env": "d"})
    world.tenant.create_resource(group, "microsoft.web/sites", "old")
    world.clock.sleep(timedelta(days=1).total_seconds())
    world.tick()
    world.tenant.retag_group(group, {"env": "p"})
    world.tick()
    assert "old" in titles(world)["azureCloudResources"]
