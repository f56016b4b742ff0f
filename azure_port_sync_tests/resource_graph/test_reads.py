"""The reads of a run: what each gives, and what it asks for."""

from datetime import timedelta
from typing import Any

import pytest

from azure_port_sync.core.errors import AzureError
from azure_port_sync.core.rows import records
from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window
from azure_port_sync.engine.containers import with_hidden_subscriptions
from azure_port_sync.resource_graph import AzureReader
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.conftest import ReaderOf
from azure_port_sync_tests.support.azure import error_body, fill, one_sentence, response_body
from azure_port_sync_tests.support.clocks import NOW


def test_subscriptions_go_in_batches(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    sandbox.tenant.grow(50, groups=10, subscriptions=5, records=True)
    subscriptions = sorted({row["subscriptionId"] for row in sandbox.tenant.containers()})
    reader = reader_of(batch_size=2)
    wanted = {row["id"] for row in sandbox.tenant.resources()}
    inventory = reader.inventory(subscriptions)
    assert (set(inventory.frame["azure_id"]), inventory.total_records) == (wanted, 50)
    assert reader.graph.usage.requests == 3
    changes = reader.changes(Window(NOW - timedelta(minutes=1), NOW), subscriptions)
    assert set(changes.frame["azure_id"]) == wanted
    assert reader.graph.usage.requests == 6


def test_no_subscriptions_no_request(reader: AzureReader) -> None:
    for reading in (reader.inventory([]), reader.changes(Window(NOW, NOW), []), reader.resources([])):
        assert (reading.rows, reading.total_records) == (0, 0)
    assert reader.containers([]).rows == 0
    assert reader.inventory_of_groups([]).rows == 0
    assert reader.graph.usage.requests == 0


def test_a_subscription_that_shows_through_its_group_is_observed(sandbox: Sandbox, reader: AzureReader) -> None:
    """A Reader on one group sees the group and not the subscription, whose entity the group's relation needs."""
    tenant = sandbox.tenant
    seen = tenant.add_subscription("seen")
    hidden = tenant.add_subscription("hidden")
    group_id = tenant.add_group(hidden, "Web", "westeurope")
    tenant.add_group(hidden, "Other", "westeurope")
    tenant.limit_subscription_to_group(hidden, group_id)
    reading = reader.containers()
    found = {row["azure_id"]: row for row in records(with_hidden_subscriptions(reading.frame))}
    assert found.keys() == {f"/subscriptions/{seen}", f"/subscriptions/{hidden}", group_id}
    assert found[f"/subscriptions/{hidden}"]["name"] == hidden
    assert found[f"/subscriptions/{hidden}"]["in_scope"] is True
    assert (reading.rows, len(reading.frame), reading.total_records) == (2, 2, 2)


def test_snapshot_keeps_to_the_settings(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    tenant = sandbox.tenant
    below = tenant.add_subscription("below", management_groups=["contoso"])
    excluded = tenant.add_subscription("excluded", management_groups=["contoso"])
    other = tenant.add_subscription("other")

    def snapshot(**scope: Any) -> set[str]:
        return set(reader_of(Scope.of(**scope)).containers().frame["subscription_id"])

    assert snapshot() == {below, excluded, other}
    assert snapshot(management_groups=["contoso"]) == {below, excluded}
    assert snapshot(management_groups=["contoso"], excluded_subscription_ids=[excluded.upper()]) == {below}
    assert snapshot(subscription_ids=[other.upper()]) == {other}


def test_containers_by_id_are_shown_again(sandbox: Sandbox, reader: AzureReader) -> None:
    subscription = sandbox.tenant.add_subscription("one")
    ids = [sandbox.tenant.add_group(subscription, f"o'{n}", "westeurope").lower() for n in range(3)]
    found = reader.containers([*ids[:2], "/subscriptions/none"]).frame
    assert set(found["azure_id"].str.lower()) == set(ids[:2])


def test_many_ids_go_in_lists(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = fill(sandbox, 1100)
    reading = reader.resources(one.upper() for one in wanted)
    assert set(reading.frame["azure_id"]) == set(wanted)
    assert reader.graph.usage.requests == 3


def test_ids_are_found_in_whatever_casing_azure_has(sandbox: Sandbox, reader: AzureReader) -> None:
    """Python's lower case of a last `Σ` is not Kusto's: such a resource counted as gone, though it was there."""
    subscription = sandbox.tenant.add_subscription("one")
    group_id = sandbox.tenant.add_group(subscription, "ΟΔΟΣ", "westeurope")
    azure_id = sandbox.tenant.create_resource(group_id, "Microsoft.Web/sites", "Site")
    assert list(reader.resources([azure_id, azure_id.upper()]).frame["azure_id"]) == [azure_id]
    assert list(reader.containers([group_id.upper()]).frame["azure_id"]) == [group_id]
    window = Window(NOW - timedelta(minutes=1), NOW)
    assert list(reader.changes_of([azure_id.upper()], window).frame["azure_id"]) == [azure_id]


def test_groups_are_inventoried_wherever_they_lie(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    sandbox.tenant.grow(40, groups=8, subscriptions=4)
    rows = sandbox.tenant.resources()
    pairs = sorted({(row["subscriptionId"].lower(), row["resourceGroup"].lower()) for row in rows})[::2]
    reading = reader_of(batch_size=3).inventory_of_groups(pairs)
    wanted = {row["id"] for row in rows if (row["subscriptionId"].lower(), row["resourceGroup"].lower()) in pairs}
    assert set(reading.frame["azure_id"]) == wanted


@pytest.mark.parametrize("name", ["RG-İstanbul", "ΟΔΟΣ", "ΣΊΣΥΦΟΣ (old)", "Straße"])
def test_groups_are_inventoried_by_the_name_that_azure_gives_them(
    sandbox: Sandbox, reader: AzureReader, name: str
) -> None:
    """Python's lower case of some letters is not Kusto's: their resources were missing until the nightly run."""
    subscription = sandbox.tenant.add_subscription("one")
    azure_id = sandbox.tenant.create_resource(
        sandbox.tenant.add_group(subscription, name, "westeurope"), "Microsoft.Web/sites", "Site"
    )
    (row,) = [row for row in records(reader.containers().frame) if row["kind"] == "resourceGroup"]
    assert list(reader.inventory_of_groups([(row["subscription_id"], row["name"])]).frame["azure_id"]) == [azure_id]


def test_groups_in_lists_name_no_other_subscriptions(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """Each list of groups was asked for in every batch of subscriptions: 20 requests more for each thousand groups."""
    sandbox.graph.quota.limit = None
    sandbox.tenant.grow(1100, groups=1100, subscriptions=11)
    rows = sandbox.tenant.resources()
    reader = reader_of(batch_size=6)
    found = reader.inventory_of_groups([(row["subscriptionId"], row["resourceGroup"]) for row in rows])
    assert set(found.frame["azure_id"]) == {row["id"] for row in rows}
    assert reader.graph.usage.requests == 3


def test_changes_carry_the_row_and_the_record(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    tenant = sandbox.tenant
    subscription = tenant.add_subscription("one")
    group_id = tenant.add_group(subscription, "Web", "westeurope", {"team": "web"})
    kept = tenant.create_resource(group_id, "Microsoft.Web/sites", "Kept", sku={"name": "S1"})
    gone = tenant.create_resource(group_id, "Microsoft.Web/sites", "Gone")
    sandbox.clock.advance(timedelta(minutes=1))
    tenant.delete_resource(gone)
    window = Window(NOW, sandbox.clock.now())
    reader = reader_of(Scope.of(extra_columns=["sku.name"]))
    (record,) = records(reader.changes(window, [subscription]).frame)
    assert (record["azure_id"], record["present"], record["change_type"]) == (gone, False, "Delete")
    assert record["change_time"] == NOW + timedelta(minutes=1)
    window = Window(NOW - timedelta(minutes=1), NOW)
    both = {row["azure_id"]: row for row in records(reader.changes(window, [subscription]).frame)}
    assert (both[kept]["present"], both[kept]["change_type"]) == (True, "Create")
    assert '"sku":{"name":"S1"}' in both[kept]["data"]
    assert (both[gone]["present"], both[gone]["change_type"]) == (False, "Create")


def test_changes_of_containers(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """Groups that were deleted before the first run stay in Port if nothing reads of their deletion."""
    tenant = sandbox.tenant
    tenant.add_subscription("old", management_groups=["contoso"])
    kept = tenant.add_subscription("kept", management_groups=["contoso"])
    excluded = tenant.add_subscription("excluded", management_groups=["contoso"])
    elsewhere = tenant.add_subscription("elsewhere")
    sandbox.clock.advance(timedelta(minutes=1))
    groups = {one: tenant.add_group(one, "Web (old)", "westeurope") for one in (kept, excluded, elsewhere)}
    tenant.create_resource(groups[kept], "Microsoft.Web/sites", "x")
    tenant.rename_subscription(kept, "renamed")
    sandbox.clock.advance(timedelta(minutes=1))
    tenant.delete_group(groups[kept])
    scope = Scope.of(
        management_groups=["contoso"],
        excluded_subscription_ids=[excluded],
        resource_types=["microsoft.keyvault/vaults"],
        include_tags={"team": "web"},
    )
    read = reader_of(scope).container_changes(Window(NOW, sandbox.clock.now()))
    found = records(read.frame)
    assert sorted((row["kind"], row["azure_id"], row["change_type"], row["present"]) for row in found) == [
        ("resourceGroup", groups[kept], "Create", False),
        ("resourceGroup", groups[kept], "Delete", False),
        ("subscription", f"/subscriptions/{kept}", "Update", False),
    ]
    (deleted,) = (row for row in found if row["change_type"] == "Delete")
    assert (deleted["subscription_id"], deleted["resource_group"]) == (kept, "web (old)")
    assert deleted["change_time"] == sandbox.clock.now()
    assert (read.rows, read.unreadable, read.duplicates) == (3, 0, 0)
    whole = reader_of().container_changes(Window(NOW - timedelta(days=1), sandbox.clock.now()))
    assert len(whole.frame) == 4 + 3 + 2


def test_the_numbers_of_a_read(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = fill(sandbox, 3)
    reading = reader.inventory([wanted[0].split("/")[2]])
    assert (reading.rows, reading.total_records, reading.duplicates, reading.unreadable) == (3, 3, 0, 0)
    assert reading.samples == ()
    assert reading.query.startswith("resources\n| ")


def test_a_total_that_is_always_one_too_many_is_shown_and_stops_nothing(sandbox: Sandbox, reader: AzureReader) -> None:
    """Read again and again, it never became right, and every run failed."""
    body = response_body(total=1)
    sandbox.faults.add(Fault("azure", status=200, body=body, path="/resources", times=None))
    reading = reader.inventory(["a"])
    assert (reading.rows, reading.total_records) == (0, 1)
    assert reader.graph.usage.requests == 1


# -- which subscriptions can be read -----------------------------------------------------------------------------------


def _subscriptions(sandbox: Sandbox) -> dict[str, str]:
    """One of each kind that a principal may meet; their ids by name."""
    tenant = sandbox.tenant
    ids = {name: tenant.add_subscription(name) for name in ("empty", "through a group", "lost", "lost too")}
    ids["full"] = tenant.add_subscription("full", subscription_id="0B1F6471-1BF0-4DDA-AEC3-CB9272F09590").lower()
    tenant.add_group(ids["full"], "Web", "westeurope")
    group_id = tenant.add_group(ids["through a group"], "Web", "westeurope")
    tenant.limit_subscription_to_group(ids["through a group"], group_id)
    tenant.add_group(ids["lost"], "Web", "westeurope")
    tenant.lose_subscription(ids["lost"])
    tenant.lose_subscription(ids["lost too"])
    return ids


@pytest.mark.parametrize("anywhere", [False, True])
def test_readable_are_those_that_show_anything(sandbox: Sandbox, reader: AzureReader, anywhere: bool) -> None:
    """Azure silently leaves out what may not be read, so a subscription that was lost looked empty."""
    ids = _subscriptions(sandbox)
    asked = [one.upper() for one in ids.values()] + ["00000000-0000-0000-0000-000000000000"]
    wanted = {ids["empty"], ids["full"], ids["through a group"]}
    assert reader.readable(asked, anywhere=anywhere) == wanted
    assert reader.readable([ids["full"]], anywhere=anywhere) == {ids["full"]}
    assert reader.graph.usage.requests == 2


@pytest.mark.parametrize("names_no_access", [False, True], ids=["403", "400"])
def test_none_readable_is_an_answer(sandbox: Sandbox, reader_of: ReaderOf, names_no_access: bool) -> None:
    """To a request all of whose subscriptions are lost, Azure answers 403, or 400, which is no failure of a read.

    With a batch size of 1, the loss of one subscription failed every run.
    """
    sandbox.graph.names_no_access = names_no_access
    ids = _subscriptions(sandbox)
    lost = [ids["lost"], ids["lost too"]]
    assert reader_of().readable(lost) == set()
    in_ones = reader_of(batch_size=1)
    assert in_ones.readable([*lost, ids["full"]]) == {ids["full"]}
    assert in_ones.graph.usage.requests == 3
    assert reader_of().readable(lost, anywhere=True) == set()


@pytest.mark.parametrize("names_no_access", [False, True], ids=["403", "400"])
def test_subscriptions_that_cannot_be_read_have_no_rows(
    sandbox: Sandbox, reader_of: ReaderOf, names_no_access: bool
) -> None:
    """In every read that names subscriptions; the others go on."""
    sandbox.graph.names_no_access = names_no_access
    kept, lost = (sandbox.tenant.add_subscription(name) for name in ("kept", "lost"))
    groups = {one: sandbox.tenant.add_group(one, "Web", "westeurope") for one in (kept, lost)}
    made = {one: sandbox.tenant.create_resource(groups[one], "Microsoft.Web/sites", "x") for one in groups}
    sandbox.tenant.lose_subscription(lost)
    named = reader_of(Scope.of(subscription_ids=[kept, lost]), batch_size=1)
    window = Window(NOW - timedelta(minutes=1), NOW)
    containers = {f"/subscriptions/{kept}", groups[kept]}
    assert set(named.containers().frame["azure_id"]) == containers
    assert set(named.containers([*groups.values(), f"/subscriptions/{kept}"]).frame["azure_id"]) == containers
    reads = [
        named.inventory([kept, lost]),
        named.inventory_of_groups([(one, "Web") for one in groups]),
        named.resources(made.values()),
        named.changes(window, [kept, lost]),
        named.changes_of(made.values(), window),
    ]
    assert [list(read.frame["azure_id"]) for read in reads] == [[made[kept]]] * len(reads)
    assert reader_of(Scope.of(subscription_ids=[lost])).containers().rows == 0


@pytest.mark.parametrize("status", [400, 403])
def test_a_whole_tenant_that_cannot_be_read_names_the_role(sandbox: Sandbox, reader: AzureReader, status: int) -> None:
    """ "refused a query with 400" was all that was said."""
    code = {400: "NoValidSubscriptionsInQueryRequest", 403: "AccessDenied"}[status]
    body = error_body("BadRequest", (code, "There must be at least one subscription."))
    sandbox.faults.add(Fault("azure", status=status, body=body, path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        reader.containers()
    one_sentence(error, "Reader", "AZURE_SUBSCRIPTION_IDS")


def test_a_page_in_place_of_the_rows_of_a_batch_is_no_lost_role(sandbox: Sandbox, reader: AzureReader) -> None:
    """Only Azure itself knows which subscriptions may be read: a firewall's 403 must not empty anything."""
    for body in ("<html>Blocked</html>", "Forbidden"):
        sandbox.faults.add(Fault("azure", status=403, body=body, path="/resources"))
        with pytest.raises(AzureError) as error:
            reader.inventory([sandbox.tenant.add_subscription("one")])
        one_sentence(error, "proxy")


def test_readable_anywhere_is_not_only_below_the_management_groups(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """A subscription that was moved elsewhere is not one that was lost."""
    below = sandbox.tenant.add_subscription("below", management_groups=["contoso"])
    moved = sandbox.tenant.add_subscription("moved", management_groups=["fabrikam"])
    lost = sandbox.tenant.add_subscription("lost", management_groups=["contoso"])
    sandbox.tenant.lose_subscription(lost)
    reader = reader_of(Scope.of(management_groups=["contoso"], subscription_ids=[below]))
    assert reader.readable([below, moved, lost], anywhere=True) == {below, moved}


def test_many_are_asked_for_in_lists(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    subscription = sandbox.tenant.add_subscription("one")
    asked = [f"00000000-0000-0000-0000-{n:012d}" for n in range(1000)] + [subscription]
    reader = reader_of(batch_size=600)
    assert reader.readable(asked, anywhere=True) == {subscription}
    assert reader.graph.usage.requests == 3
    assert reader.readable(asked) == {subscription}
    assert reader.graph.usage.requests == 3 + 2


def test_readable_of_none_asks_nothing(reader: AzureReader) -> None:
    assert reader.readable([]) == reader.readable([], anywhere=True) == set()
    assert reader.graph.usage.requests == 0


@pytest.mark.parametrize(("status", "anywhere"), [(403, True), (404, True), (404, False), (401, False)])
def test_any_other_refusal_is_an_error_of_this_question_too(
    sandbox: Sandbox, reader: AzureReader, status: int, anywhere: bool
) -> None:
    """No subscription readable in the whole tenant is a principal without a role, not an empty tenant."""
    sandbox.faults.add(Fault("azure", status=status, body=error_body("x"), path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        reader.readable(["a"], anywhere=anywhere)
    one_sentence(error)


def test_containers_have_no_extra_columns(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    """Such a column is one of `resources`; the snapshot of a tenant with one once failed."""
    group_id = sandbox.tenant.add_group(sandbox.tenant.add_subscription("one"), "Web", "westeurope")
    sandbox.tenant.create_resource(group_id, "microsoft.web/sites", "x", sku={"name": "F1"})
    reader = reader_of(Scope.of(extra_columns=["sku.name"]))
    assert len(reader.containers().frame) == 2
    (data,) = reader.inventory([group_id.split("/")[2]]).frame["data"]
    assert '"sku":{"name":"F1"}' in data
