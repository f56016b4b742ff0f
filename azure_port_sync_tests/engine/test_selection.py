"""A part of the catalog sent again, and a past window read again: the watermark stays."""

from dataclasses import replace
from datetime import timedelta

import pytest

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.request import Request, Selection
from azure_port_sync.core.windows import Window
from azure_port_sync.sandbox.compare import identifier_of
from azure_port_sync_tests.support.scenario import TICK, Scenario


def test_a_part_is_delivered_again_and_the_watermark_stays(two: Scenario) -> None:
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
def test_a_part_is_what_lies_in_all_that_is_named(two: Scenario, only: Selection, told: str) -> None:
    only = replace(only, subscriptions=tuple(two.other for _ in only.subscriptions))
    before = two.sandbox.port.events
    two.clock.sleep(TICK)
    change_set, _ = two.decide(Request(only=only))
    assert set(change_set.frame["name"]) == set(told.split())
    assert set(change_set.frame["operation"]) == {"upsert"}
    assert two.sandbox.port.events == before


def test_a_part_removes_what_is_gone_from_it(two: Scenario) -> None:
    two.tenant.delete_resource(two.one)
    two.tenant.delete_resource(two.two)
    outcome = two.tick(only=Selection.of(subscriptions=[two.subscription], resource_groups=["web"]))
    assert outcome.report.accepted == {"delete": 2, "upsert": 1}
    two.ends_right()


def test_a_part_that_is_nowhere_is_one_sentence(two: Scenario) -> None:
    with pytest.raises(SettingsError, match="Nothing in Azure or in the ledger lies in nowhere, which `only` names"):
        two.tick(only=Selection.of(resource_groups=["web", "nowhere"]))


def test_what_changes_elsewhere_meanwhile_is_left_to_the_next_tick(two: Scenario) -> None:
    two.tenant.tag_resource(two.one, {"changed": "yes"})
    late = two.tenant.add_group(two.subscription, "late", "westeurope")
    two.tenant.create_resource(late, "microsoft.web/sites", "new")
    two.tick(only=Selection.of(subscriptions=[two.other]))
    two.tick()
    assert two.sandbox.compare().sentences() == []


def test_a_past_window_is_read_again(two: Scenario) -> None:
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
