"""The queries: their text, exactly; their literals; and what the tag filter selects.

The text of every query is kept, so that a change of one is seen in review: in ``snapshots/queries.kql`` one of each
kind with nothing and with everything set, and in ``snapshots/all_queries.kql`` every combination of settings. After a
change that is meant, write both anew with ``UPDATE_SNAPSHOTS=1 pytest`` and the path of this file.
"""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window
from azure_port_sync.resource_graph import kql
from azure_port_sync.resource_graph.kql import Query
from azure_port_sync.sandbox import tenant as sandbox_tenant
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.kql import QueryEngine, check, tokenize
from azure_port_sync.sandbox.tenant import Tenant

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
WINDOW = Window(NOW - timedelta(minutes=25), NOW)
_SNAPSHOTS = Path(__file__).parent / "snapshots"

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


def _queries(scope: Scope) -> dict[str, Query]:
    """One of each kind."""
    return {
        "containers": kql.containers(scope),
        "containers by id": kql.containers(scope, _IDS),
        "resources": kql.resources(scope),
        "resources of groups": kql.resources(scope, groups=_GROUPS),
        "resources by id": kql.resources(scope, ids=_IDS),
        "changes": kql.resource_changes(scope, WINDOW),
        "changes of ids": kql.resource_changes(scope, WINDOW, _IDS),
        "container changes": kql.container_changes(scope, WINDOW),
        "readable": kql.readable(),
        "readable of some": kql.readable([sub for sub, _ in _GROUPS]),
    }


def _distinct(queries: Mapping[str, Query]) -> dict[str, str]:
    """The texts by title; of those that are the same, the first."""
    texts: dict[str, str] = {}
    for title, query in queries.items():
        texts.setdefault(str(query), title)
    return {title: text for text, title in texts.items()}


_KINDS = _distinct(
    {
        f"{name}, {label}": query
        for label, scope in [("plain scope", PLAIN), ("everything set", EVERYTHING)]
        for name, query in _queries(scope).items()
    }
    | {f"{name}, plain scope, a part": query.split(4)[1] for name, query in _queries(PLAIN).items()}
    | {"containers, plain scope, a part of a part": kql.containers(PLAIN).split(4)[1].split(2)[1]}
)

#: Every setting that changes the text of a query, with the values that make a difference to it.
_SETTINGS: dict[str, Sequence[dict[str, Any]]] = {
    "tags": [
        {},
        {"include_tags": {"Env": "prod", "a'b": ""}},
        {"exclude_tags": {"tmp": "1", "o": "x"}},
        {"include_tags": {"env": "prod"}, "exclude_tags": {"tmp": "1"}},
    ],
    "types": [{}, {"resource_types": ["Microsoft.Web/sites", "Microsoft.Sql/servers"]}],
    "exclusions": [{}, {"excluded_subscription_ids": ["5A0C7E1D-3B52-4F0E-9D6A-8C41F27B9E10"]}],
    "extras": [{}, {"extra_columns": ["kind", "sku.name"]}],
}


def _combinations() -> dict[str, Query]:
    """Each kind of query under every combination of settings."""
    queries = {}
    for values in itertools.product(*_SETTINGS.values()):
        settings_ = {name: value for setting in values for name, value in setting.items()}
        for name, query in _queries(Scope.of(**settings_)).items():
            queries[f"{name}: {', '.join(settings_) or 'no settings'}"] = query
    return queries


_COMBINATIONS = _distinct(_combinations())


@pytest.mark.parametrize(("file", "queries"), [("queries.kql", _KINDS), ("all_queries.kql", _COMBINATIONS)])
def test_queries_are_those_of_the_snapshot(file: str, queries: Mapping[str, str]) -> None:
    text = "\n---\n".join(f"// {title}\n{query}" for title, query in queries.items()) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        (_SNAPSHOTS / file).write_text(text)
    assert text == (_SNAPSHOTS / file).read_text()


def test_a_part_is_its_query_with_one_step_more() -> None:
    """So the snapshot of every combination vouches for the parts of each."""
    for query in _combinations().values():
        table, *steps = str(query).split("\n")
        assert str(query.split(5)[3]).split("\n") == [table, "| where hash(tolower(id)) % 5 == 3", *steps]


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


def _run(engine: QueryEngine, query: Query | str) -> list[dict[str, Any]]:
    return [json.loads(row) for row in engine.run(str(query), sandbox_tenant.Scope()).rows]


@pytest.mark.parametrize("title", _KINDS)
def test_every_query_runs(title: str, engine: QueryEngine, groups: list[str]) -> None:
    """And says when rows are left: a result of nothing but dynamic columns has no next page, and names none."""
    assert groups
    result = engine.run(_KINDS[title], sandbox_tenant.Scope())
    assert dict(result.columns)["id"] == "string"
    assert result.pageable


def test_every_query_keeps_to_the_documented_subset() -> None:
    outside = {"let", "summarize", "ago", "now", "limit", "take", "serialize", "arg_max", "lookup", "order", "sort"}
    for query in [*_KINDS.values(), *_COMBINATIONS.values()]:
        tokens = tokenize(query)
        check(query, tokens)  # as the sandbox does, which refuses what Resource Graph refuses
        assert not {token.text for token in tokens if token.kind == "name"} & outside
        assert query.count("join kind=") <= 3


# -- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["containers", "resources", "changes", "readable"])
def test_parts_hold_each_row_once(name: str, engine: QueryEngine, groups: list[str]) -> None:
    """A part that missed a row would be a hole, and one that shared it a row too many."""
    assert groups
    query = _queries(PLAIN)[name]
    first, *others = query.split(3)
    parts = [*first.split(2), *others]
    rows = [json.dumps(row) for part in parts for row in _run(engine, part)]
    wanted = [json.dumps(row) for row in _run(engine, query)]
    if name == "readable":  # one subscription may show rows of several parts
        assert set(rows) == set(wanted)
    else:
        assert sorted(rows) == sorted(wanted)
        assert all(_run(engine, part) for part in others)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(-(2**63), 2**63 - 1))
def test_parts_of_parts_divide_a_part(numbers: list[int], hashed: int) -> None:
    """The hash of an id is the same in both, so halves of a half must not ask for the same half again."""
    parts = [kql.containers(PLAIN)]
    for number in numbers:
        parts = [part for whole in parts for part in whole.split(number)]
    assert sum(hashed % part.parts == part.part for part in parts) == 1


# -- literals --------------------------------------------------------------------------------------------------------


_TEXT = st.text(
    alphabet=st.one_of(st.sampled_from("'\"\\\n\r\t`$@;|/*-{}[]()=~ aZ"), st.characters(exclude_categories=["Cs"])),
    max_size=20,
).filter(lambda text: "\0" not in text)


@given(_TEXT)
@settings(max_examples=100)
def test_literal_is_the_text(engine: QueryEngine, groups: list[str], text: str) -> None:
    """Doubling the quote, as SQL does, silently turned `O'Brien` into `OBrien`."""
    assert groups
    query = f"resourcecontainers | project id, text = {kql.literal(text)}"
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

# Upper and lower case are taken for the same where letters come in pairs. For the few that do not (a final `ς`, `ſ`,
# the Kelvin sign, `İ`, `ı`, a capital `ẞ`) it is nowhere written what Azure does, so nothing is promised but that a
# tag that is spelled as in the setting is found; `ß` and `SS` are two things to everybody.
_KEYS = [
    *("env", "Env", "ENV", "owner's", "OWNER'S", 'quo"te', "back\\slash", "größe", "GRÖẞE", "GRÖSSE", "ключ", "ΟΔΟΣ"),
    *("x[0]", "$y", "a.b", "a b", "1", "true", "null", "type", "kind", "名前", "\t"),
]
_VALUES = [
    *("", " ", "prod", "PROD", "prod ", "O'Brien", "o'brien", 'say "HI"', 'say "hi"', "C:\\temp", "\\", "ГРУППА"),
    *("группа", "Οδοσ", "straße", "STRASSE", "*", "true", "True", "1", "01", "1.0", "null", "[]", '{"a":1}', "名前"),
]
_SPELLINGS: list[Callable[[str], str]] = [
    lambda text: "".join(map(_lower, text)),
    lambda text: "".join(map(_upper, text)),
    lambda text: "".join(map(_upper, text[:1])) + text[1:],
    str,
]


def _lower(letter: str) -> str:
    return letter.lower() if len(letter.lower()) == 1 else letter


def _upper(letter: str) -> str:
    """Only where it comes back: the upper case of `ß` is two letters."""
    return letter.upper() if letter.upper().lower() == letter else letter


def _same(one: str, other: str) -> bool:
    return len(one) == len(other) and all(_lower(a) == _lower(b) for a, b in zip(one, other, strict=True))


def _selected(tags: Mapping[str, str] | None, include: Mapping[str, str], exclude: Mapping[str, str]) -> bool:
    """The guide's promise, in Python."""

    def has(key: str, value: str) -> bool:
        return any(_same(key, other) and _same(value, text) for other, text in (tags or {}).items())

    return all(has(*pair) for pair in include.items()) and not any(has(*pair) for pair in exclude.items())


def _one_casing(tags: Mapping[str, str]) -> dict[str, str]:
    """Azure keeps one tag for keys that differ in case only."""
    kept: dict[str, str] = {}
    for key, value in tags.items():
        if not any(_same(key, other) for other in kept):
            kept[key] = value
    return kept


_PAIRS = st.dictionaries(st.sampled_from(_KEYS), st.sampled_from(_VALUES), max_size=3).map(_one_casing)


@st.composite
def _tags(draw: st.DrawFn, include: Mapping[str, str], exclude: Mapping[str, str]) -> dict[str, str] | None:
    """Any tags or none, often near to what the filter is about, in another casing."""
    if draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from([None, {}]))
    near: dict[str, str] = {}
    for key, value in [*include.items(), *exclude.items()]:
        if draw(st.integers(0, 3)):
            respelled = draw(st.sampled_from(_SPELLINGS))
            near[respelled(key)] = draw(st.sampled_from([respelled(value), value, value, f"{value} ", "prod"]))
    return _one_casing(near | draw(_PAIRS))


def _retag(tenant: Tenant, groups: Sequence[str], all_tags: Sequence[Mapping[str, str] | None]) -> None:
    for group_id, tags in zip(groups, all_tags, strict=True):
        tenant.retag_group(group_id, tags)


def _groups_in_scope(engine: QueryEngine, scope: Scope) -> set[str]:
    rows = _run(engine, kql.containers(scope))
    subscriptions = [row for row in rows if row["type"] == "microsoft.resources/subscriptions"]
    assert all(row["inScope"] for row in subscriptions)  # tags select groups, not subscriptions
    return {row["id"].lower() for row in rows if row["inScope"] and row not in subscriptions}


@given(include=_PAIRS, exclude=_PAIRS, data=st.data())
@settings(max_examples=20)  # of sixteen groups each
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
    _retag(tenant, groups, all_tags)
    scope = Scope.of(include_tags=include, exclude_tags=exclude)
    assert _groups_in_scope(engine, scope) == {
        group_id.lower() for group_id, tags in zip(groups, all_tags, strict=True) if _selected(tags, include, exclude)
    }


#: (include, exclude) and the tags of a group, with whether that is in scope.
_CASES: list[tuple[dict[str, str], dict[str, str], list[tuple[dict[str, str] | None, bool]]]] = [
    (
        {"ENV": "Prod", "Owner's": "O'BRIEN"},
        {},
        [
            ({"env": "PROD", "OWNER'S": "o'brien"}, True),
            ({"env": "prod"}, False),  # of two included tags, one is not enough
            ({"env": "prod", "owner's": "OBrien"}, False),
            ({"env": "production", "owner's": "O'Brien"}, False),  # values are compared whole
            (None, False),
            ({}, False),
        ],
    ),
    (
        {"env": ""},
        {},
        [({"Env": ""}, True), (None, False), ({}, False), ({"env": " "}, False), ({"other": ""}, False)],
    ),
    (
        {},
        {"Back\\Slash": "c:\\TEMP", "tmp": "true"},
        [
            ({"back\\slash": "C:\\temp"}, False),  # of two excluded tags, one is enough
            ({"TMP": "True"}, False),
            ({"tmp": "1", "back\\slash": "c:temp"}, True),
            (None, True),
            ({}, True),
        ],
    ),
    (
        {'QUO"te': "1"},
        {"Größe": "Straße", "ключ": "ГРУППА"},
        [
            ({'quo"TE': "1"}, True),
            ({'quo"te': "1", "GRÖßE": "STRAßE"}, False),
            ({'quo"te': "1", "grösse": "strasse"}, True),  # `ß` is not `SS`
            ({'quo"te': "1", "Ключ": "группа"}, False),
            ({'quo"te': "01"}, False),  # values are texts, not numbers
            ({"größe": "x"}, False),
        ],
    ),
    (
        {"env": "prod"},
        {"env": "prod"},
        [({"env": "prod"}, False), ({"env": "test"}, False), ({}, False)],
    ),
]


@pytest.mark.parametrize(("include", "exclude", "cases"), _CASES, ids=range(len(_CASES)))
def test_tag_filter_is_the_same_for_groups_resources_and_changes(
    tenant: Tenant,
    engine: QueryEngine,
    groups: list[str],
    include: dict[str, str],
    exclude: dict[str, str],
    cases: list[tuple[dict[str, str] | None, bool]],
) -> None:
    some = groups[: len(cases)]
    _retag(tenant, some, [tags for tags, _ in cases])
    scope = Scope.of(include_tags=include, exclude_tags=exclude)
    wanted = {group_id.lower() for group_id, (_, selected) in zip(some, cases, strict=True) if selected}
    assert _groups_in_scope(engine, scope) & {group_id.lower() for group_id in some} == wanted

    for query in [kql.resources(scope), kql.resource_changes(scope, WINDOW)]:
        rows = _run(engine, query)
        assert {_group_of(row["id"]) for row in rows} & {group_id.lower() for group_id in some} == wanted
        assert all(row["inScope"] for row in rows)


_VALUE = st.text(st.characters(exclude_categories=["C"]), max_size=8)
#: What Azure takes for the name of a tag (learn.microsoft.com/azure/azure-resource-manager/management/tag-resources).
_NAME = st.text(st.characters(exclude_categories=["C"], exclude_characters="<>%&\\?/"), min_size=1, max_size=8)


@given(_NAME, _VALUE)
@settings(max_examples=25)
def test_a_tag_spelled_as_in_the_setting_is_found(
    tenant: Tenant, engine: QueryEngine, groups: list[str], key: str, value: str
) -> None:
    """Python's lower case of `ΟΔΟΣ` is not Kusto's: no group with that tag was ever in scope."""
    _retag(tenant, groups[:2], [{key: value}, {key: f"{value}x"}])
    included = _groups_in_scope(engine, Scope.of(include_tags={key: value}))
    excluded = _groups_in_scope(engine, Scope.of(exclude_tags={key: value}))
    assert [group.lower() in included for group in groups[:2]] == [True, False]
    assert [group.lower() in excluded for group in groups[:2]] == [False, True]


@pytest.mark.parametrize("letter", ["Σ", "ς", "ſ", "\N{KELVIN SIGN}", "İ", "ı", "ẞ", "ß", "ǅ", "Å"])
def test_letters_without_a_pair_are_found_as_they_are_spelled(
    tenant: Tenant, engine: QueryEngine, groups: list[str], letter: str
) -> None:
    _retag(tenant, groups[:2], [{f"a{letter}": f"A{letter}"}, {"a": "A"}])
    scope = Scope.of(include_tags={f"A{letter}": f"a{letter}"})
    assert _groups_in_scope(engine, scope) & {group.lower() for group in groups[:2]} == {groups[0].lower()}


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
    assert [row["id"] for row in rows] == ["", ""]
    assert {row["targetType"] for row in rows} == {"microsoft.web/sites"}


@pytest.mark.parametrize("attributes", ["", '"timestamp": ""', '"timestamp": "yesterday"'])
@pytest.mark.parametrize("scope", [PLAIN, Scope.of(resource_types=["microsoft.web/sites"])], ids=["all", "one type"])
def test_records_that_say_not_what_changed_are_read(
    engine: QueryEngine, groups: list[str], scope: Scope, attributes: str
) -> None:
    """A query that dropped them itself left nothing to count: they were skipped silently."""
    spoiled = kql.literal(f'{{"changeType": "Update", "changeAttributes": {{{attributes}}}}}')
    table, *steps = str(kql.resource_changes(scope, WINDOW)).split("\n")
    rows = _run(engine, "\n".join([table, f"| extend properties = parse_json({spoiled})", *steps]))
    assert [(row["targetType"], row["changeTime"]) for row in rows] == [("", None)] * len(groups)


def test_the_row_beside_a_record_is_the_resources_own() -> None:
    """After a join a bare `name` or `tags` is the change record's."""
    clock = SandboxClock()
    clock.set(NOW)
    tenant = Tenant(clock, seed=1)
    group_id = tenant.add_group(tenant.add_subscription("one"), "Web", "westeurope", {"team": "web"})
    tenant.create_resource(group_id, "Microsoft.Sql/servers", "Sql1", kind="v12.0", sku={"name": "S1"}, tags={"a": "b"})
    scope = Scope.of(extra_columns=["kind", "sku.name"])
    (row,) = _run(QueryEngine(tenant, clock), kql.resource_changes(scope, WINDOW))
    assert (row["name"], row["type"], row["location"]) == ("Sql1", "microsoft.sql/servers", "westeurope")
    assert (row["tags"], row["rgTags"]) == ({"a": "b"}, {"team": "web"})
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
