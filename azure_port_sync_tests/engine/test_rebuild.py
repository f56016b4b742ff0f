"""The ledger, rebuilt from what Port really holds."""

from contextlib import closing
from pathlib import Path

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.request import Mode
from azure_port_sync.port.api import PortApi
from azure_port_sync.sandbox.compare import identifier_of
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.state import LedgerRebuild, StateStore
from azure_port_sync_tests.support.scenario import Scenario


def test_a_rebuild_mends_what_people_did_in_port(world: Scenario, api: PortApi) -> None:
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

    assert outcome.plan.reasons == ("a full sync was asked for", "the ledger was rebuilt from what Port holds")
    assert outcome.stats.rebuild == LedgerRebuild(in_port=8, missing=1, added=4)
    assert outcome.report.accepted["delete"] == 4
    assert world.sandbox.compare().sentences() == []
    world.tenant.delete_resource(spaced)
    world.ends_right()


def test_a_first_run_with_port_credentials_finds_ghosts_of_any_age(
    world: Scenario, api: PortApi, tmp_path: Path
) -> None:
    world.begin()
    ghost = identifier_of(world.group) + "/providers/microsoft.web/sites/ghost"
    world.sandbox.put_entity("azureCloudResources", ghost, "ghost", {}, {})
    with closing(StateStore(f"sqlite:///{tmp_path / 'another.sqlite'}", world.clock)) as world.store:
        outcome = world.tick(catalog=api)
    assert outcome.stats.rebuild is not None
    assert not outcome.stats.stale_may_remain
    assert world.sandbox.compare().sentences() == []


def test_a_rebuild_that_is_cut_off_is_gone_on_with(world: Scenario, api: PortApi) -> None:
    """The ledger knows what Port holds, and not yet that it is right."""
    world.begin()
    world.sandbox.put_entity("azureCloudResources", identifier_of(world.one), "Mine now", {}, {})
    world.sandbox.faults.add(Fault("port", status=503, in_body='"operation"', times=None))
    assert world.tick(Mode.FULL, rebuild_ledger=True, catalog=api).report.not_delivered
    world.sandbox.faults.clear()

    outcome = world.tick()

    assert outcome.plan.reasons == ("the ledger was rebuilt from what Port holds",)
    assert world.sandbox.compare().sentences() == []


def test_a_rebuild_is_guarded_like_any_run(crowd: Scenario, api: PortApi) -> None:
    for n in range(20):
        crowd.sandbox.put_entity("azureCloudResources", f"by-hand-{n}", None, {}, {})
    assert crowd.tick(Mode.FULL, rebuild_ledger=True, catalog=api).stats.verdicts[Verdict.HELD] == 20
    crowd.tick(allow_mass_delete=True)
    assert crowd.sandbox.compare().sentences() == []


def test_half_of_a_surrogate_pair_in_port_stops_nothing(world: Scenario, api: PortApi) -> None:
    """Port's API writes it as an escape, and no store can."""
    world.begin()
    by_hand = {"identifier": "by-hand", "title": "\ud83d", "properties": {"type": "a\ud83d"}}
    body = {"ok": True, "entities": [by_hand]}
    world.sandbox.faults.add(Fault("port", status=200, body=body, path="azureCloudResources/entities/search"))
    outcome = world.tick(Mode.FULL, rebuild_ledger=True, catalog=api)
    assert (outcome.report.not_delivered, outcome.report.accepted["delete"]) == (0, 1)
    world.ends_right()
