"""The sandbox's KQL: what runs must be right, and what Resource Graph refuses must not run here either."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.kql import QueryEngine, QueryError
from azure_port_sync.sandbox.tenant import Scope, Tenant

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
VM, STORAGE = "Microsoft.Compute/virtualMachines", "Microsoft.Storage/storageAccounts"
MINUTE = timedelta(minutes=1)


class World:
    """A small tenant and an engine over it."""

    def __init__(self) -> None:
        self.clock = SandboxClock()
        self.clock.set(START)
        self.tenant = Tenant(self.clock)
        self.engine = QueryEngine(self.tenant, self.clock)
        self.subscription = self.tenant.add_subscription("Production")
        self.live = self.tenant.add_group(self.subscription, "RG-Live (eu)", "westeurope", {"Environment": "PROD"})
        self.test = self.tenant.add_group(self.subscription, "rg-test", "westeurope", {"environment": "test"})
        self.bare = self.tenant.add_group(self.subscription, "rg-bare", "westeurope")

    def rows(self, query: str) -> list[dict[str, Any]]:
        result = self.engine.run(query, Scope())
        return [json.loads(row) for row in result.rows]

    def column(self, query: str) -> list[Any]:
        """The values of the only column."""
        return [value for row in self.rows(query) for value in row.values()]

    def refusal(self, query: str) -> dict[str, Any]:
        with pytest.raises(QueryError) as caught:
            self.rows(query)
        return caught.value.detail


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def small(world: World) -> World:
    world.tenant.create_resource(world.live, VM, "vm 1", tags={"owner": "O'Brien", "path": "C:\\new", "N": "1"})
    world.tenant.create_resource(world.test, STORAGE, "store", sku={"name": "LRS"}, kind="StorageV2", tags={})
    world.tenant.create_resource(world.bare, "Microsoft.Sql/servers/databases", "sql/db")
    return world


# -- the queries of a synchroniser -------------------------------------------------------------------------------------

INCREMENTAL = """
resourcechanges
| extend targetId = tostring(properties.targetResourceId), changeType = tostring(properties.changeType),
    changeTime = todatetime(properties.changeAttributes.timestamp)
| where changeTime > datetime(2026-11-23T10:01:00.000000Z) and changeTime <= datetime(2026-11-23T10:03:00.000000Z)
| project changeId = id, targetId, targetKey = tolower(targetId), changeType, changeTime,
    groupKey = tolower(strcat('/subscriptions/', subscriptionId, '/resourceGroups/', resourceGroup))
| join kind=leftouter (resources | project rowKey = tolower(id), rowId = id, rowName = name, rowTags = tags)
    on $left.targetKey == $right.rowKey
| join kind=leftouter (
    resourcecontainers
    | where type == 'microsoft.resources/subscriptions/resourcegroups'
    | project containerKey = tolower(id), rgTags = tags
) on $left.groupKey == $right.containerKey
| extend rgText = parse_json(tolower(tostring(rgTags)))
| extend inScope = rgText['environment'] == 'prod'
| where changeType == 'Delete' or isempty(rowId) or inScope
| project id = changeId, targetId, changeType, changeTime, rowId, rowName, rowTags, rgTags, inScope
| order by id asc
"""

INVENTORY = """
resources
| where type in~ ('Microsoft.Compute/virtualMachines', 'microsoft.storage/STORAGEACCOUNTS')
| project id, name, type, location, tags, subscriptionId, resourceGroup,
    groupKey = tolower(strcat('/subscriptions/', subscriptionId, '/resourceGroups/', resourceGroup))
| join kind=leftouter (
    resourcecontainers
    | where type == 'microsoft.resources/subscriptions/resourcegroups'
    | project groupKey = tolower(id), rgTags = tags
) on groupKey
| where parse_json(tolower(tostring(rgTags)))['environment'] in ('prod', 'stage')
| project id, name, type, location, tags, subscriptionId, resourceGroup, rgTags
| order by id asc
"""


def test_incremental_query(world: World) -> None:
    tenant, clock = world.tenant, world.clock
    early, late, gone, outside = (
        tenant.create_resource(group, VM, name, tags={"é": "😀"})
        for group, name in ((world.live, "early"), (world.live, "late"), (world.test, "gone"), (world.test, "outside"))
    )
    clock.set(START + MINUTE)  # the window is open at its start
    tenant.touch_resource(early)
    clock.set(START + 2 * MINUTE)
    tenant.touch_resource(late)
    tenant.touch_resource(outside)
    tenant.delete_resource(gone)
    tenant.set_delays(row_delay=(600, 600))
    unseen = tenant.create_resource(world.test, VM, "unseen")
    clock.set(START + 3 * MINUTE)
    tenant.touch_resource(late)
    clock.set(START + 3 * MINUTE + timedelta(milliseconds=1))
    tenant.touch_resource(late)
    rows = world.rows(INCREMENTAL)
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert sorted((row["targetId"], row["changeType"], row["changeTime"], row["inScope"]) for row in rows) == sorted(
        [
            (late, "Update", "2026-11-23T10:02:00Z", True),
            (gone, "Delete", "2026-11-23T10:02:00Z", False),
            (unseen, "Create", "2026-11-23T10:02:00Z", False),
            (late, "Update", "2026-11-23T10:03:00Z", True),
        ]
    )
    by_target = {row["targetId"]: row for row in rows}
    assert by_target[late]["rowId"] == late
    assert by_target[late]["rowTags"] == {"é": "😀"}
    assert by_target[late]["rgTags"] == {"Environment": "PROD"}
    assert (by_target[unseen]["rowId"], by_target[unseen]["rowName"], by_target[unseen]["rowTags"]) == ("", "", None)


def test_inventory_query(small: World) -> None:
    (row,) = small.rows(INVENTORY)
    assert row["name"] == "vm 1"
    assert row["type"] == "microsoft.compute/virtualmachines"
    assert row["rgTags"] == {"Environment": "PROD"}


def test_snapshot_query(small: World) -> None:
    query = """
        resourcecontainers
        | where type in~ ('microsoft.resources/subscriptions', 'microsoft.resources/subscriptions/resourcegroups')
        | project id, name, type, location, tags, subscriptionId, resourceGroup
        | order by id asc
    """
    shown = sorted(small.rows(query), key=lambda row: str(row["id"]).lower())
    assert shown == small.tenant.containers()


def test_a_thousand_ids(world: World) -> None:
    world.tenant.grow(3000)
    wanted = [row["id"] for row in world.tenant.resources()][500:1500]
    listed = ", ".join(f"'{wanted_id.lower()}'" for wanted_id in wanted)
    assert world.column(f"resources | where tolower(id) in ({listed}) | project id | order by id asc") == sorted(wanted)


@pytest.mark.parametrize("table", ["resources", "resourcechanges"])
def test_parts_hold_each_row_once_in_about_equal_shares(world: World, table: str) -> None:
    """Wherever the step stands: where it is the first one, it is not translated but looked up."""
    world.tenant.grow(4000, records=True)
    for steps in ("where hash(tolower(id)) % 4 == {}", "where name != '' | where hash(tolower(id)) % 4 == {}"):
        shares = [world.column(f"{table} | {steps.format(n)} | project id | order by id asc") for n in range(5)]
        assert sorted(itertools.chain(*shares)) == world.column(f"{table} | project id | order by id asc")
        assert all(900 < len(share) < 1200 for share in shares[:4])
        assert shares[4] == []


def test_a_row_stays_in_its_part_whatever_becomes_of_it(world: World) -> None:
    """A reader of parts would else see it twice or never."""
    world.tenant.grow(30)
    query = "resources | where hash(tolower(id)) % 3 == 1 | project id = tolower(id) | order by id asc"
    before = world.column(query)
    for row in world.tenant.resources():
        world.tenant.tag_resource(row["id"], {"a": "b"})
        world.tenant.respell_resource(row["id"].upper())
        world.tenant.add_twin(row["id"], {"id": row["id"].lower()})
    assert world.column(query) == sorted(before * 2)


def test_a_part_is_of_the_table_that_leads_the_query(small: World) -> None:
    """Joined tables are whole."""
    wanted = {row["id"]: row["name"] for row in small.tenant.resources()}
    found: dict[str, list[str]] = {}
    for number in range(3):
        for row in small.rows(
            f"resources\n| where hash(tolower(id)) % 3 == {number}\n| project id, one = 1"
            "| join kind=inner (resources | project other = name, one = 1) on one"
        ):
            found.setdefault(row["id"], []).append(row["other"])
    assert {one: sorted(others) for one, others in found.items()} == dict.fromkeys(wanted, sorted(wanted.values()))


def test_a_part_is_refused_as_the_whole_is(small: World) -> None:
    part = "where hash(tolower(id)) % 3 == 1"
    assert small.refusal(f"nowhere | {part}")["code"] == "DisallowedLogicalTableName"
    assert small.refusal(f"parted | {part}")["code"] == "DisallowedLogicalTableName"
    assert small.refusal(f"resources\n| {part}\n| where name ==")["line"] == 3
    assert small.column(f"resources | {part.replace('3', '0')} | project id") == []


# -- language ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("resources | count", [3]),
        ("resources | join (resourcecontainers | project subscriptionId, x = 1) on subscriptionId | count", [4]),
        ("resources | where type has 'storage' | project name", ["store"]),
        ("resources | project name | order by name desc", ["vm 1", "store", "db"]),
        ("resources | where kind == 'StorageV2' | project kind", ["StorageV2"]),
        ("resources | where kind =~ 'storagev2' and name == 'store' | count", [1]),
        ("resources | distinct type | count", [3]),
        ("resources | summarize n = count() by type | summarize max(n)", [1]),
        ("resources | where sku.name == 'LRS' | project sku.name", ["LRS"]),
        ("resources | where tags['owner'] == 'O\\'Brien' | count", [1]),
        ("resources | where tags['path'] == 'C:\\\\new' | count", [1]),
        ("resources | where tags.path == @'C:\\new' | count", [1]),
        ("resources | where parse_json(tolower(tostring(tags)))['n'] == '1' | count", [1]),
        ("resources | where name !contains 'vm' // and kind ; let | join\n| count", [2]),
        ("resources | project x = strcat('| let ; kind and ', name) | top 1 by x desc", ["| let ; kind and vm 1"]),
        ("resources | where isnull(tags) | project name", ["db"]),
        (
            "resources | extend p = split(id, '/') | project tostring(p[4]) | order by p_4 asc | take 1",
            ["RG-Live (eu)"],
        ),
        ("resources | where id in~ ('a', 'b') | order by id asc | count", [0]),
        ("resources | summarize arg_max(name, *) by subscriptionId | project name", ["vm 1"]),
        ("resources | project d = datetime(2026-01-02T03:04:05.100Z) | distinct d", ["2026-01-02T03:04:05.1Z"]),
        ("resources | project d = datetime(2026-01-02T10:00:00Z) | distinct d", ["2026-01-02T10:00:00Z"]),
    ],
)
def test_language(small: World, query: str, expected: list[Any]) -> None:
    assert small.column(query) == expected


def test_names_of_both_sides_of_a_join_get_a_suffix(small: World) -> None:
    (row,) = small.rows("resources | where name == 'vm 1' | join kind=inner (resources | project id, name) on id")
    assert (row["id"], row["id1"], row["name1"]) == (row["id"], row["id"], "vm 1")


def test_column_types_are_those_of_resource_graph(small: World) -> None:
    query = (
        "resources | project id, tags, n = 1, x = 1.5, b = true, t = todatetime('2026-01-01'), p = properties.a.b, "
        "m = isnotempty(name)"
    )
    assert small.engine.run(query, Scope()).columns == (
        ("id", "string"),
        ("tags", "object"),
        ("n", "integer"),
        ("x", "number"),
        ("b", "boolean"),
        ("t", "datetime"),
        ("p", "object"),
        ("m", "boolean"),
    )


@pytest.mark.parametrize("table", ["resources", "resourcecontainers", "resourcechanges", "resourcecontainerchanges"])
def test_tables_have_all_columns(small: World, table: str) -> None:
    (first, *_) = small.rows(table)
    assert set(first) == {
        *("id", "name", "type", "tenantId", "kind", "location", "resourceGroup", "subscriptionId", "managedBy"),
        *("sku", "plan", "properties", "tags", "identity", "zones", "extendedLocation"),
    }


def test_now_is_the_sandboxs(small: World) -> None:
    query = "resourcechanges | where todatetime(properties.changeAttributes.timestamp) > ago(1h) | count"
    assert small.column(query) == [3]
    small.clock.advance(timedelta(hours=1))
    assert small.column(query) == [0]
    assert small.column("resources | distinct type | project now() | distinct Column1") == ["2026-11-23T11:00:00Z"]


WORLD = World()
TAGGED = WORLD.tenant.create_resource(WORLD.live, VM, "vm")


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1, max_size=30))
def test_any_text_can_be_asked_for(value: str) -> None:
    WORLD.tenant.tag_resource(TAGGED, {"k": value})
    literal = "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    found = WORLD.rows(f"resources | where tags['k'] == {literal} | project tags, x = strcat({literal}, '|')")
    assert found == [{"tags": {"k": value}, "x": value + "|"}]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "ParserFailure"),
        ("resources |", "ParserFailure"),
        ("resources | where name ==", "ParserFailure"),
        ("resources | where name == 'x", "ParserFailure"),
        ("resources | where name == 'O''Brien' and and", "ParserFailure"),
        ("resources | lookup (resourcecontainers) on id", "InvalidQueryLanguage"),
        ("resources | project-keep id", "InvalidQueryLanguage"),
        ("resources | project-reorder id", "InvalidQueryLanguage"),
        ("resources | mv-apply x = tags on (take 1)", "InvalidQueryLanguage"),
        ("resources | evaluate bag_unpack(tags)", "InvalidQueryLanguage"),
        ("resources | serialize", "InvalidQueryLanguage"),
        ("resources | render piechart", "InvalidQueryLanguage"),
        ("let x = 1; resources | take x", "InvalidQueryLanguage"),
        ("resources; resources", "InvalidQueryLanguage"),
        ("resources | extend x = no_such_function(id)", "InvalidQueryLanguage"),
        ("resources | join kind=leftanti (resourcecontainers) on id", "UnsupportedJoinFlavor"),
        ("resources | join kind=rightouter (resourcecontainers) on id", "UnsupportedJoinFlavor"),
        ("resources " + "| join (resources | project id) on id " * 4, "DisallowedMaxNumberOfJoins"),
        ("resources | mv-expand tags", "NotPlayed"),
        ("resources | parse id with * '/resourceGroups/' rg '/' *", "NotPlayed"),
        ("resources | union (resourcecontainers)", "NotPlayed"),
        ("union resources, resourcecontainers", "NotPlayed"),
        ("where name == 'x'", "NotPlayed"),
        ("| where name == 'x'", "NotPlayed"),
        ("securityresources | take 1", "DisallowedLogicalTableName"),
        ("resources | join (nowhere | project id) on id", "DisallowedLogicalTableName"),
        ("print 1", "DisallowedLogicalTableName"),
        ("resources | where nocolumn == 1", "Default"),
        ("resources | project id | where name == 'x'", "Default"),
        ("resources | where Name == 'x'", "Default"),
        ("resources | extend Kind = 1 | project KIND", "Default"),
        ("resources | order by tags asc", "Default"),
        ("resources | top 3 by properties.a", "Default"),
        ("resources | distinct tags", "Default"),
        ("resources | where kind in ('a', 'b') | distinct tags", "Default"),
        ("resources | summarize count() by tags", "Default"),
        ("resources | summarize count() by x = properties.a", "Default"),
        ("resources | join (resourcecontainers | project id, tags) on tags", "Default"),
        ("resources | extend n = 1 | join (resourcecontainers | project m = '1') on $left.n == $right.m", "Default"),
        ("resources | join (resourcecontainers | order by tags asc | project id) on id", "Default"),
    ],
)
def test_what_resource_graph_refuses(small: World, query: str, code: str) -> None:
    assert small.refusal(query)["code"] == code


def test_a_parser_failure_names_the_place(small: World) -> None:
    detail = small.refusal("resources\n| where name == 'a' or\n| count")
    assert (detail["line"], detail["token"], detail["expectedToken"]) == (3, "|", "Ǐ")


def test_a_refusal_is_repeated(small: World) -> None:
    for name in ("a", "b"):
        assert small.refusal(f"resources | where name == '{name}' | order by tags asc")["code"] == "Default"


def test_an_unknown_column_is_named(small: World) -> None:
    assert "'nocolumn'" in small.refusal("resources | where nocolumn == 1")["message"]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ("project x = tostring(name)", "vm 1"),
        ("extend name = tags.owner | project x = tolower(tostring(name))", "o'brien"),  # no string column any more
        ("extend name = tags | extend y = name | project x = tostring(y.owner)", "O'Brien"),
        ("extend y = tolower(name) | extend z = y | project x = strcat(z, '/', tolower(z))", "vm 1/vm 1"),
        ("extend id = tags.N == '1' | project x = tostring(id)", "True"),
        ("extend y = tostring(tags.N) == tostring(1) | project x = tostring(y)", "True"),
        ("extend y = todatetime('2026-11-23T10:00:00Z') | project x = tostring(y)", "2026-11-23T10:00:00.0000000Z"),
    ],
)
def test_a_text_is_what_the_type_of_its_source_makes_it(small: World, steps: str, text: str) -> None:
    assert small.column(f"resources | where name == 'vm 1' | {steps}") == [text]


def test_queries_that_differ_in_an_instant_only(small: World) -> None:
    def before(*instants: str) -> int:
        conditions = " or ".join(f"todatetime('2026-11-23T10:00:00Z') < datetime({instant})" for instant in instants)
        return len(small.rows(f"resources | where {conditions} | project name | order by name asc"))

    early, late = "2026-11-23T09:59:59.999999Z", "2026-11-23T10:00:00.000001Z"
    assert [before(early), before(late), before(early, late), before(late, early), before(early)] == [0, 3, 3, 3, 0]
    text = f"it is datetime({late})"
    assert small.column(f"resources | where name == 'db' | project x = '{text}'") == [text]
