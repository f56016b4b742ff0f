"""The queries: their text, exactly; their literals; and what the tag filter selects.

The text of every query is kept in ``snapshots/queries.kql``, so that a change of one is seen in review. After a
change that is meant, write it anew with ``UPDATE_SNAPSHOTS=1 pytest azure_port_sync_tests/test_kql.py``.
"""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azure_port_sync.resource_graph import kql
from azure_port_sync.sandbox import tenant as sandbox_tenant
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.kql import QueryEngine, tokenize
from azure_port_sync.sandbox.tenant import Tenant
from azure_port_sync.sync.scope import Scope
from azure_port_sync.sync.windows import Window

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=25), NOW)
_SNAPSHOT = Path(__file__).parent / "snapshots" / "queries.kql"

PLAIN = Scope.of()
EVERYTHING = Scope.of(
    subscription_ids=["0B1F6471-1BF0-4DDA-AEC3-CB9272F09590"],
    excluded_subscription_ids=["5A0C7E1D-3B52-4F0E-9D6A-8C41F27B9E10"],
    management_groups=["contoso-root"],
    resource_types=["Microsoft.KeyVault/vaults", "Microsoft.Web/sites"],
    include_tags={"Environment": "Production", "owner's team": "O'Brien\\\"x"},
    exclude_tags={"Temporary": "true", "empty": ""},
    extra_columns=["sku", "kind", "properties.provisioningState", "properties.a-b.c"],
)
_GROUPS = [("0b1f6471-1bf0-4dda-aec3-cb9272f09590", "web (old)"), ("0b1f6471-1bf0-4dda-aec3-cb9272f09590", "o'brien")]
_IDS = ["/subscriptions/a/resourcegroups/web/providers/microsoft.web/sites/x", "/subscriptions/a/resourcegroups/o'b"]


def _queries(scope: Scope) -> dict[str, str]:
    return {
        "containers": kql.containers(scope),
        "containers by id": kql.containers(scope, _IDS),
        "resources": kql.resources(scope),
        "resources of groups": kql.resources(scope, groups=_GROUPS),
        "resources by id": kql.resources(scope, ids=_IDS),
        "changes": kql.resource_changes(scope, WINDOW),
        "changes of ids": kql.resource_changes(scope, WINDOW, _IDS),
    }


_ALL = {
    f"{name}, {label}": query
    for label, scope in [("plain scope", PLAIN), ("everything set", EVERYTHING)]
    for name, query in _queries(scope).items()
}


def test_queries_are_those_of_the_snapshot() -> None:
    text = "\n---\n".join(f"// {title}\n{query}" for title, query in _ALL.items()) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        _SNAPSHOT.write_text(text)
    assert text == _SNAPSHOT.read_text()


@pytest.fixture(scope="module")
def tenant() -> Tenant:
    clock = SandboxClock()
    clock.set(NOW)
    return Tenant(clock, seed=1)


@pytest.fixture(scope="module")
def engine(tenant: Tenant) -> QueryEngine:
    return QueryEngine(tenant, tenant.clock)


@pytest.fixture(scope="module")
def groups(tenant: Tenant) -> list[str]:
    """Sixteen groups, each with one resource of one change record; their tags are what a test makes them."""
    subscription = tenant.add_subscription("one")
    ids = [tenant.add_group(subscription, f"Group-{n}", "westeurope") for n in range(16)]
    for group_id in ids:
        tenant.create_resource(group_id, "Microsoft.Web/sites", "site")
    return ids


def _run(engine: QueryEngine, query: str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in engine.run(query, sandbox_tenant.Scope()).page(0, 1000)]


@pytest.mark.parametrize("title", _ALL)
def test_every_query_runs_and_pages_by_a_unique_id(title: str, engine: QueryEngine, groups: list[str]) -> None:
    """`order by changeTime` is not unique: pages of equal rows came twice or never."""
    assert groups
    query = _ALL[title]
    result = engine.run(query, sandbox_tenant.Scope())
    assert dict(result.columns)["id"] == "string"
    assert result.pageable
    assert query.splitlines()[-1] == "| order by id asc"


@pytest.mark.parametrize("title", _ALL)
def test_every_query_keeps_to_the_documented_subset(title: str) -> None:
    words = {token.text for token in tokenize(_ALL[title]) if token.kind == "name"}
    assert not words & {"let", "summarize", "ago", "now", "limit", "take", "serialize", "arg_max", "lookup"}
    assert _ALL[title].count("join kind=") <= 3


_TEXT = st.text(
    alphabet=st.one_of(st.sampled_from("'\"\\\n\r\t`$@;|/*-{}[]()=~ aZ"), st.characters(exclude_categories=["Cs"])),
    max_size=20,
).filter(lambda text: "\0" not in text)


@given(_TEXT)
@settings(max_examples=100)
def test_literal_is_the_text(engine: QueryEngine, groups: list[str], text: str) -> None:
    """Doubling the quote, as SQL does, silently turned `O'Brien` into `OBrien`."""
    assert groups
    query = f"resourcecontainers | project id, text = {kql.literal(text)} | order by id asc"
    assert {row["text"] for row in _run(engine, query)} == {text}


@given(_TEXT)
def test_literal_is_one_token_on_one_line(text: str) -> None:
    (token,) = tokenize(kql.literal(text))
    assert token.kind == "string"
    assert "\n" not in token.text
    assert "\r" not in token.text


def test_instants_are_absolute_and_in_utc() -> None:
    assert kql.instant(datetime.fromisoformat("2026-11-23T11:00:00.000001+01:00")) == (
        "datetime(2026-11-23T10:00:00.000001Z)"
    )


def test_window_is_open_at_its_start_and_closed_at_its_end(engine: QueryEngine, groups: list[str]) -> None:
    """Successive windows share an instant: a record there is read once, not never."""
    assert groups

    def read(start: datetime, end: datetime) -> int:
        return len(_run(engine, kql.resource_changes(PLAIN, Window(start, end))))

    assert read(NOW - timedelta(minutes=1), NOW) == len(groups)
    assert read(NOW, NOW + timedelta(minutes=1)) == 0
    assert read(NOW - timedelta(minutes=1), NOW - timedelta(microseconds=1)) == 0


# -- tag filters -----------------------------------------------------------------------------------------------------

_KEYS = ["env", "Env", "ENV", "owner's", "OWNER'S", 'quo"te', "back\\slash", "größe", "GRÖSSE", "ключ", "x[0]", "$y"]
_VALUES = [
    "",
    "prod",
    "PROD",
    "prod ",
    "O'Brien",
    "o'brien",
    'say "HI"',
    'say "hi"',
    "C:\\temp",
    "ГРУППА",
    "группа",
    "*",
]

#: (include, exclude): few, because each costs the engine four translations; the tags vary freely.
_FILTERS: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"ENV": "Prod", "owner's": "O'Brien"}, {}),
    ({"env": ""}, {"x[0]": "*"}),
    ({}, {"Back\\Slash": "c:\\TEMP", "env": ""}),
    ({'QUO"te': 'say "hi"'}, {"Ключ": "Группа"}),
    ({"Größe": "PROD"}, {"$Y": "prod", "owner's": "o'brien"}),
]


def _one_casing(tags: dict[str, str]) -> dict[str, str]:
    """Azure keeps one tag for keys that differ in case only."""
    return {key: value for _, (key, value) in {key.lower(): (key, value) for key, value in tags.items()}.items()}


_SPELLINGS: list[Callable[[str], str]] = [str.lower, str.upper, str.title, str]


@st.composite
def _tags(draw: st.DrawFn, include: dict[str, str], exclude: dict[str, str]) -> dict[str, str] | None:
    """Any tags or none, often near to what the filter is about, in another casing."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([None, {}]))
    tags = draw(st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES), max_size=4))
    for key, value in (include | exclude).items():
        if draw(st.booleans()):
            respelled = draw(st.sampled_from(_SPELLINGS))
            tags[respelled(key)] = draw(st.sampled_from([respelled(value), value, "prod"]))
    return _one_casing(tags)


def _selected(tags: Mapping[str, str] | None, include: Mapping[str, str], exclude: Mapping[str, str]) -> bool:
    """What the guide promises, in Python."""
    has = {(key.lower(), value.lower()) for key, value in (tags or {}).items()}
    return all((key.lower(), value.lower()) in has for key, value in include.items()) and not any(
        (key.lower(), value.lower()) in has for key, value in exclude.items()
    )


@pytest.mark.parametrize(("include", "exclude"), _FILTERS, ids=range(len(_FILTERS)))
@given(st.data())
@settings(max_examples=4)  # of sixteen groups each
def test_tag_filter_selects_what_the_guide_promises(
    tenant: Tenant,
    engine: QueryEngine,
    groups: list[str],
    include: dict[str, str],
    exclude: dict[str, str],
    data: st.DataObject,
) -> None:
    """Mixed-case values, quotes and missing tags each selected the wrong groups."""
    all_tags = [data.draw(_tags(include, exclude)) for _ in groups]
    for group_id, tags in zip(groups, all_tags, strict=True):
        tenant.retag_group(group_id, tags)
    scope = Scope.of(include_tags=include, exclude_tags=exclude)
    wanted = {
        group_id.lower() for group_id, tags in zip(groups, all_tags, strict=True) if _selected(tags, include, exclude)
    }

    containers = _run(engine, kql.containers(scope))
    subscriptions = [row for row in containers if row["type"] == "microsoft.resources/subscriptions"]
    assert all(row["inScope"] for row in subscriptions)
    assert {row["id"].lower() for row in containers if row["inScope"] and row not in subscriptions} == wanted
    assert len(containers) == len(groups) + len(subscriptions)

    resources = _run(engine, kql.resources(scope))
    assert {_group_of(row["id"]) for row in resources} == wanted
    assert all(row["inScope"] for row in resources)

    changes = _run(engine, kql.resource_changes(scope, WINDOW))
    assert {_group_of(row["rowId"]) for row in changes} == wanted
    assert all(row["inScope"] for row in changes)


def _group_of(azure_id: str) -> str:
    return azure_id.lower().partition("/providers/")[0]


def test_resources_asked_for_by_id_are_shown_out_of_scope_too() -> None:
    """Only a row that is shown, and flagged, proves that a resource left the scope and did not merely vanish."""
    clock = SandboxClock()
    clock.set(NOW)
    tenant = Tenant(clock, seed=1)
    subscription = tenant.add_subscription("one")
    inside, outside = (tenant.add_group(subscription, name, "westeurope", {"env": name}) for name in ("prod", "test"))
    ids = [tenant.create_resource(group_id, "Microsoft.Web/sites", "site").lower() for group_id in (inside, outside)]
    scope = Scope.of(include_tags={"Env": "PROD"})
    rows = _run(QueryEngine(tenant, clock), kql.resources(scope, ids=ids))
    assert {row["id"].lower(): row["inScope"] for row in rows} == dict(zip(ids, [True, False], strict=True))


def test_delete_records_are_never_filtered() -> None:
    """A resource deleted together with its tagged group stayed in the catalog for good."""
    clock = SandboxClock()
    clock.set(NOW)
    tenant = Tenant(clock, seed=1)
    group_id = tenant.add_group(tenant.add_subscription("one"), "Web", "westeurope", {"env": "prod"})
    tenant.create_resource(group_id, "Microsoft.Web/sites", "site")
    tenant.delete_group(group_id)
    scope = Scope.of(include_tags={"env": "prod"}, resource_types=["MICROSOFT.Web/Sites"])
    rows = _run(QueryEngine(tenant, clock), kql.resource_changes(scope, WINDOW))
    assert sorted(row["changeType"] for row in rows) == ["Create", "Delete"]
    assert [row["rowId"] for row in rows] == ["", ""]
    assert {row["targetType"] for row in rows} == {"microsoft.web/sites"}


def test_the_row_beside_a_record_is_the_resources_own() -> None:
    """After a join a bare `name` or `tags` is the change record's."""
    clock = SandboxClock()
    clock.set(NOW)
    tenant = Tenant(clock, seed=1)
    group_id = tenant.add_group(tenant.add_subscription("one"), "Web", "westeurope", {"team": "web"})
    tenant.create_resource(group_id, "Microsoft.Sql/servers", "Sql1", kind="v12.0", sku={"name": "S1"}, tags={"a": "b"})
    scope = Scope.of(extra_columns=["kind", "sku.name"])
    (row,) = _run(QueryEngine(tenant, clock), kql.resource_changes(scope, WINDOW))
    assert (row["rowName"], row["rowType"], row["rowLocation"]) == ("Sql1", "microsoft.sql/servers", "westeurope")
    assert (row["rowTags"], row["rgTags"]) == ({"a": "b"}, {"team": "web"})
    assert (row["extra0"], row["extra1"]) == ("v12.0", "S1")


def test_resource_types_and_exclusions_in_any_casing() -> None:
    clock = SandboxClock()
    clock.set(NOW)
    tenant = Tenant(clock, seed=1)
    kept, left_out = tenant.add_subscription("kept"), tenant.add_subscription("left out")
    for subscription in (kept, left_out):
        group_id = tenant.add_group(subscription, "Web", "westeurope")
        tenant.create_resource(group_id, "Microsoft.Web/sites", "site")
        tenant.create_resource(group_id, "Microsoft.Sql/servers", "sql")
    scope = Scope.of(resource_types=["MICROSOFT.WEB/Sites"], excluded_subscription_ids=[left_out.upper()])
    engine = QueryEngine(tenant, clock)
    for query in (kql.resources(scope), kql.resource_changes(scope, WINDOW)):
        (row,) = _run(engine, query)
        assert kept in row["id"]
        assert "Microsoft.Web/sites" in row["id"]
    assert not [row for row in _run(engine, kql.containers(scope)) if left_out in row["id"]]


@pytest.mark.parametrize(
    "query",
    [kql.containers(PLAIN, []), kql.resources(PLAIN, ids=[]), kql.resources(PLAIN, groups=[])],
    ids=["containers", "resources by id", "resources of groups"],
)
def test_an_empty_list_asks_for_nothing(query: str, engine: QueryEngine, groups: list[str]) -> None:
    """A part of nothing must not become a query for everything."""
    assert groups
    assert _run(engine, query) == []
