"""Each kind of change in the tenant is in the catalog after one tick, however late its record or the tick."""

from collections.abc import Callable
from datetime import timedelta

from azure_port_sync.core.request import Mode
from azure_port_sync.sandbox.tenant import Tenant
from azure_port_sync_tests.support.operator import small_estate
from azure_port_sync_tests.support.scenario import TICK, Scenario

Change = Callable[[Tenant, dict[str, str]], object]


def _delete_and_recreate(tenant: Tenant, ids: dict[str, str]) -> None:
    tenant.delete_resource(resource_id=ids["site"])
    tenant.recreate_resource(resource_id=ids["site"])
    tenant.tag_resource(resource_id=ids["site"], tags={"reborn": "yes"})


def _recreate_and_delete(tenant: Tenant, ids: dict[str, str]) -> None:
    tenant.delete_resource(resource_id=ids["site"])
    tenant.recreate_resource(resource_id=ids["site"])
    tenant.delete_resource(resource_id=ids["site"])


def _empty_a_group(tenant: Tenant, ids: dict[str, str]) -> None:
    tenant.delete_group(group_id=ids["data"])
    tenant.add_group(subscription_id=ids["prod"], name="data", location="westeurope")


CHANGES: dict[str, Change] = {
    "create a resource": lambda t, ids: t.create_resource(group_id=ids["lab"], type="Microsoft.Web/sites", name="new"),
    "tag a resource": lambda t, ids: t.tag_resource(resource_id=ids["sql"], tags={"tier": "gold"}),
    "untag a resource": lambda t, ids: t.tag_resource(resource_id=ids["sql"], tags=None),
    "delete a resource": lambda t, ids: t.delete_resource(resource_id=ids["site"]),
    "delete and recreate a resource": _delete_and_recreate,
    "recreate and delete a resource": _recreate_and_delete,
    "move a resource to another group": lambda t, ids: t.move_resource(resource_id=ids["sql"], group_id=ids["web"]),
    "move a resource to another subscription": lambda t, ids: t.move_resource(
        resource_id=ids["sql"], group_id=ids["lab"]
    ),
    "create an empty group": lambda t, ids: t.add_group(
        subscription_id=ids["dev"], name="New [1]", location="westeurope", tags={"q": 'say "x"'}
    ),
    "create a group with a resource": lambda t, ids: t.create_resource(
        group_id=t.add_group(subscription_id=ids["dev"], name="new", location="westeurope"),
        type="Microsoft.Web/sites",
        name="in it",
    ),
    "retag a group": lambda t, ids: t.retag_group(group_id=ids["web"], tags={"Env": "prod", "名": "値"}),
    "delete a group with all in it": lambda t, ids: t.delete_group(group_id=ids["web"]),
    "delete a group and create it again, empty": _empty_a_group,
    "rename a subscription": lambda t, ids: t.rename_subscription(subscription_id=ids["prod"], name="Prod · EU"),
    "retag a subscription": lambda t, ids: t.retag_subscription(subscription_id=ids["prod"], tags={"x": "y"}),
    "add a subscription with content": lambda t, ids: t.create_resource(
        group_id=t.add_group(subscription_id=t.add_subscription(name="Third"), name="g", location="westeurope"),
        type="Microsoft.Web/sites",
        name="far",
    ),
}


def test_each_kind_of_change_is_in_the_catalog_after_one_tick(world: Scenario) -> None:
    """Each in a tick and an estate of its own, so that none is found with the help of another."""
    estates = {name: small_estate(world.sandbox) for name in CHANGES}
    world.begin()
    for name, change in CHANGES.items():
        change(world.tenant, estates[name])
        assert world.sandbox.compare().sentences() != [], name
        world.tick()
        assert world.sandbox.compare().sentences() == [], name

    assert world.tick().report.total == 0


def test_a_record_that_is_published_late_is_not_lost(world: Scenario) -> None:
    """The window of the script that we replace ends before the record appears."""
    world.begin()
    world.tenant.set_delays(record_delay=[280, 300])
    world.clock.sleep(TICK - 60)
    world.tenant.create_resource(world.group, "microsoft.web/sites", "late")
    world.clock.sleep(60 - TICK)
    assert world.tick().report.total == 0

    world.tick()
    assert world.sandbox.compare().sentences() == []
    assert world.tick().report.total == 0


def test_a_long_pause_is_caught_up_and_one_beyond_the_records_turns_the_run_full(world: Scenario) -> None:
    world.begin()
    world.tenant.delete_resource(world.one)
    world.clock.sleep(timedelta(days=6).total_seconds())

    plan = world.tick().plan
    assert plan.mode == Mode.INCREMENTAL
    assert plan.window.end - plan.window.start > timedelta(days=6)
    assert world.sandbox.compare().sentences() == []

    world.tenant.delete_resource(world.two)
    world.clock.sleep(timedelta(days=20).total_seconds())

    assert world.tick().plan.reasons == ("the watermark is older than 7 days",)
    assert world.sandbox.compare().sentences() == []
