"""The sandbox's evaluator of mappings: Port's dialect of jq, and expressions that cannot harm each other."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from azure_port_sync.sandbox.port.mapping import MAX_ITEMS, Mappings, Target, evaluate, requoted

#: What the replacement in github.com/port-labs/jq-node-bindings (`lib/jq.js`) makes of them, run with node.
_QUOTES = json.loads((Path(__file__).parent / "single_quote_cases.json").read_text(encoding="utf-8"))


def _value(expression: str, body: object) -> Any:
    """Return the value of one expression for an event, in the context that Port gives it."""
    ((value,),) = evaluate([expression], json.dumps({"body": body, "headers": {}, "queryParams": {}}), [{}])
    return value


def _records(mapping: dict[str, Any], body: object) -> list[Any]:
    event = json.dumps({"body": body, "headers": {"x-n": "1"}, "queryParams": {"q": "2"}})
    return [record for _, record in Mappings([mapping]).records(event)]


@pytest.mark.parametrize("case", _QUOTES, ids=lambda case: case["input"])
def test_single_quotes_become_double_quotes_only_where_port_does_it(case: dict[str, str]) -> None:
    assert requoted(case["input"]) == case["after_formatFilter"]


@pytest.mark.parametrize(
    ("expression", "body", "value"),
    [
        (".body.a", {"a": 1}, 1),
        (".body[]", [7, 8], 7),
        ("(.body[], error)", [7], 7),  # what comes after the first output is not looked at
        ("empty", 1, None),
        ('error("no")', 1, None),
        (".body.a.b", {"a": "text"}, None),
        (".body.tags['env']", {"tags": {"env": "prod"}}, None),
        (".body == 'x'", "x", True),
        (".body // ''", None, ""),
        ("env | length", 1, 0),
        ("$ENV | length", 1, 0),
        ("def f: .body; f", 3, 3),
        (".body # the body", 3, 3),
        (".body | reduce .[] as $n (0; . + $n)", [1, 2, 3], 6),
    ],
)
def test_the_first_output_counts_and_an_error_is_null(expression: str, body: object, value: object) -> None:
    assert _value(expression, body) == value


@pytest.mark.parametrize("broken", ["", ".body)", '"x") | ("y"', ". |", "$context", "$event", "select(.a == 'b')"])
def test_what_is_no_jq_by_itself_is_null_and_harms_no_other(broken: str) -> None:
    entity = {"identifier": ".body.id", "title": broken, "properties": {"a": broken, "b": ".body.b"}}
    (record,) = _records({"blueprint": "x", "entity": entity}, {"id": "i", "b": 2})
    assert record == {"identifier": "i", "title": None, "properties": {"a": None, "b": 2}, "relations": {}}


def test_every_item_is_seen_with_the_event_it_came_in() -> None:
    entity = {"identifier": ".item.id", "properties": {"all": '.body.source + .headers."x-n" + .queryParams.q'}}
    mapping = {"blueprint": "x", "itemsToParse": ".body.items", "filter": ".item.id != 'b'", "entity": entity}
    body = {"source": "s", "items": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}
    found = [(one["identifier"], one["properties"]) for one in _records(mapping, body)]
    assert found == [("a", {"all": "s12"}), ("c", {"all": "s12"})]


def test_items_beyond_the_five_hundredth_are_dropped() -> None:
    mapping = {"blueprint": "x", "itemsToParse": ".body", "entity": {"identifier": ".item"}}
    assert [one["identifier"] for one in _records(mapping, list(range(501)))] == list(range(MAX_ITEMS))


@pytest.mark.parametrize("items", [None, {"id": "x"}, "x", []])
def test_items_that_are_no_list_make_nothing(items: object) -> None:
    mapping = {"blueprint": "x", "itemsToParse": ".body.items", "entity": {"identifier": ".body.id"}}
    assert _records(mapping, {"id": 1, "items": items}) == []


@pytest.mark.parametrize("passes", ["1", "null", '"true"', "[]", "error"])
def test_only_true_passes_a_filter(passes: str) -> None:
    assert _records({"blueprint": "x", "filter": passes, "entity": {"identifier": "1"}}, {}) == []


def test_records_come_in_the_order_of_the_mappings() -> None:
    """Whichever of them share what parses items."""
    mappings = [
        {"blueprint": "a", "itemsToParse": ".body", "entity": {"identifier": ".item"}},
        {"blueprint": "b", "entity": {"identifier": ".body | length"}},
        {"blueprint": "c", "itemsToParse": ".body", "filter": ".item > 1", "entity": {"identifier": ".item"}},
    ]
    event = json.dumps({"body": [1, 2]})
    found = [(target.blueprint, record["identifier"]) for target, record in Mappings(mappings).records(event)]
    assert found == [("a", 1), ("a", 2), ("b", 2), ("c", 2)]


@pytest.mark.parametrize(
    ("operation", "target"),
    [
        (None, Target("x", "create", dependents=True)),
        ("create", Target("x", "create", dependents=True)),
        ("delete", Target("x", "delete", dependents=True)),
        ({"type": "delete"}, Target("x", "delete", dependents=True)),
        ({"type": "delete", "deleteDependents": False}, Target("x", "delete", dependents=False)),
    ],
)
def test_a_delete_takes_dependents_along_unless_the_mapping_says_otherwise(operation: object, target: Target) -> None:
    given = {} if operation is None else {"operation": operation}
    assert Mappings([{"blueprint": "x", "entity": {"identifier": "1"}, **given}]).targets == [target]


def test_a_program_serves_many_threads_at_once() -> None:
    def values(name: str) -> list[Any]:
        return [_value('.body.name + "-" + (.body.i | tostring)', {"name": name, "i": i}) for i in range(100)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(values, (f"t{n}" for n in range(8))))
    assert found == [[f"t{n}-{i}" for i in range(100)] for n in range(8)]
