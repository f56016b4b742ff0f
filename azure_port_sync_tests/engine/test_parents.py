"""Groups before what is in them: Port's API refuses a relation to nothing, and a webhook would show one."""

from datetime import timedelta

import pandas as pd
import pytest

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.engine.containers import read_snapshot
from azure_port_sync.engine.deliver import DeliveryReport
from azure_port_sync.engine.run import deliver_changes
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync_tests.support.scenario import TICK, Scenario

SITES = "microsoft.web/sites"


@pytest.fixture
def strict(world: Scenario, api: PortApi) -> Scenario:
    """Delivers by Port's API, which refuses a resource whose group it does not hold."""
    deadline = timedelta(minutes=10)
    world.sink = ApiSink(api, concurrency=4, deadline=deadline)  # type: ignore[assignment]
    return world


def _run_on(world: Scenario, snapshot: pd.DataFrame, mode: Mode) -> DeliveryReport:
    """A run whose snapshot was taken before its other reads."""
    world.runs += 1
    change_set, _ = world.decide(Request(mode), snapshot=snapshot, run=str(world.runs))
    report = deliver_changes(change_set, world.sink, world.store, world.clock)
    assert (report.refused, report.not_delivered) == ([], 0)
    return report


def _titles(world: Scenario) -> set[str]:
    return {entity["title"] for entity in world.sandbox.held()["azureCloudResources"].values()}


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
def test_a_group_created_after_the_snapshot_is_told_before_its_resource(strict: Scenario, mode: Mode) -> None:
    world = strict.begin()
    world.clock.sleep(TICK)
    snapshot = read_snapshot(world.reader).frame
    late = world.tenant.add_group(world.subscription, "Late (1)", "westeurope")
    world.tenant.create_resource(late, SITES, "within")

    report = _run_on(world, snapshot, mode)

    assert report.accepted == {"upsert": 2}
    assert world.sandbox.compare().sentences() == []
    world.ends_right()


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
def test_a_resource_whose_group_azure_does_not_show_yet_waits_for_it(strict: Scenario, mode: Mode) -> None:
    world = strict.begin()
    world.tenant.set_delays(row_delay=[2 * TICK, 2 * TICK])
    late = world.tenant.add_group(world.subscription, "late", "westeurope")
    world.tenant.set_delays(row_delay=[0, 0])
    world.tenant.create_resource(late, SITES, "within")

    outcome = world.tick(mode)

    assert (outcome.stats.verdicts[Verdict.PENDING], outcome.report.total) == (2, 0)
    assert set(world.store.facts.pending("t")["azure_id"].str.rpartition("/")[2]) == {"late", "within"}
    world.clock.sleep(2 * TICK)
    assert world.tick().report.accepted == {"upsert": 2}
    assert world.store.facts.pending("t").empty
    world.ends_right()


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
def test_a_resource_waits_for_a_group_that_the_snapshot_shows_out_of_scope(strict: Scenario, mode: Mode) -> None:
    """Refused, it would have stayed in quarantine when the group was told a tick later."""
    strict.include = {"env": "p"}
    world = strict.begin({"env": "p"})
    other = world.tenant.add_group(world.subscription, "other", "westeurope", {"env": "d"})
    world.clock.sleep(TICK)
    snapshot = read_snapshot(world.reader).frame
    world.tenant.retag_group(other, {"env": "p"})
    world.tenant.create_resource(other, SITES, "within")

    assert _run_on(world, snapshot, mode).total == 0

    world.tick()
    assert _titles(world) == {"x1", "x2", "within"}
    world.ends_right()


def test_a_group_that_is_read_late_comes_with_all_that_is_in_it(strict: Scenario) -> None:
    """Its older resources have no change record, and from the next run on it is no new group."""
    world = strict.begin()
    rest = world.tenant.add_group(world.subscription, "rest", "westeurope")
    world.tenant.create_resource(rest, SITES, "old")
    touched = world.tenant.create_resource(rest, SITES, "touched")
    world.clock.sleep(timedelta(days=1).total_seconds())
    snapshot = read_snapshot(world.reader).frame
    world.store.targets.finish(_settled_until_now(world))
    world.tenant.tag_resource(touched, {"a": "b"})

    _run_on(world, snapshot[snapshot["name"] != "rest"], Mode.INCREMENTAL)

    assert _titles(world) == {"x1", "x2", "old", "touched"}
    world.ends_right()


def _settled_until_now(world: Scenario) -> Plan:
    """The plan of a run that settles and tells nothing, as if the group had not been readable so far."""
    change_set, _ = world.decide(Request(), run="blind")
    assert world.store.lease.claim(change_set.plan) is None
    return change_set.plan


def _begin_with_a_group_that_is_not_shown(world: Scenario) -> None:
    """Its only resource is shown."""
    world.begin()
    world.tenant.set_delays(row_delay=[10 * 86400, 10 * 86400])
    unseen = world.tenant.add_group(world.subscription, "unseen", "westeurope")
    world.tenant.set_delays(row_delay=[0, 0])
    world.tenant.create_resource(unseen, SITES, "within")


def test_who_may_not_read_a_group_is_told_of_the_resource_after_a_day(world: Scenario) -> None:
    """A role on one resource shows it and not its group, for as long as it lasts."""
    _begin_with_a_group_that_is_not_shown(world)
    world.tick()
    world.tick()
    assert "within" not in _titles(world)
    world.clock.sleep(timedelta(days=1).total_seconds())
    world.tick()
    assert "within" in _titles(world)
    assert world.store.facts.pending("t").empty
    assert world.tick().report.total == 0


def test_a_wait_that_began_by_a_clock_far_ahead_ends(world: Scenario) -> None:
    """It would have lasted until that day came."""
    _begin_with_a_group_that_is_not_shown(world)
    world.clock.ahead = timedelta(days=300)
    world.tick()
    world.clock.ahead = timedelta(0)
    assert "within" not in _titles(world)
    world.tick()
    assert "within" in _titles(world)
    assert world.store.facts.pending("t").empty
