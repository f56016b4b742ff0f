"""The door: what becomes of rows that are odd, and which of several rows of one id is the entity."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import product
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.rows import OBSERVATION, records, to_table
from azure_port_sync.core.windows import Window
from azure_port_sync.resource_graph import AzureReader, ReadResult
from azure_port_sync.resource_graph.client import Response
from azure_port_sync.resource_graph.rows import MAX_SAMPLES, read_rows
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.azure import response_body
from azure_port_sync_tests.support.clocks import NOW

_GROUP = "/subscriptions/0b1f6471-1bf0-4dda-aec3-cb9272f09590/resourceGroups/Web"
_ID = f"{_GROUP}/providers/Microsoft.Web/sites/Shop"
_ROW: dict[str, Any] = {
    "id": _ID,
    "name": "Shop",
    "type": "microsoft.web/sites",
    "location": "westeurope",
    "tags": {"env": "prod"},
    "placed": True,
    "rgTags": None,
    "inScope": True,
}
_RECORD: dict[str, Any] = {
    **_ROW,
    "recordId": f"{_ID}/providers/Microsoft.Resources/changes/1",
    "targetId": _ID,
    "targetType": "microsoft.web/sites",
    "changeType": "Update",
    "changeTime": "2026-11-23T09:59:59.12Z",
    "changedProperties": None,
}


def _read(*responses: Sequence[Any], changes: bool = False) -> ReadResult:
    """Read responses of these rows, which stay as they are."""
    copies = [[dict(row) if isinstance(row, dict) else row for row in rows] for rows in responses]
    return read_rows([Response(rows, len(rows), complete=True) for rows in copies], changes=changes)


def _observed(*rows: Any, changes: bool = False) -> tuple[ReadResult, pd.DataFrame]:
    result = _read(rows, changes=changes)
    return result, result.frame


# -- rows that cannot be understood -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "sample"),
    [
        ({**_ROW, "id": None}, '{"id": null, "name": "Shop"'),
        ({**_ROW, "id": ""}, "it has no id"),
        ({**_ROW, "id": 5}, "it has no id"),
        ({**_ROW, "id": ["/subscriptions/a"]}, "it has no id"),
        ({**_ROW, "id": "/providers/Microsoft.Web/sites/Shop"}, "/providers/Microsoft.Web/sites/Shop: it lies in no"),
        ({**_ROW, "id": "a\n<!channel>" + "x" * 9999}, "a ‹!channel›xxx"),
        ({**_ROW, "id": "Shop"}, "Shop: it lies in no subscription"),
        ({**_ROW, "id": "/subscriptions/x/resourceGroups/y"}, "/resourceGroups/y: it lies in no subscription"),
        ({**_ROW, "type": None}, f"{_ID}: it has no type"),
        ({**_ROW, "inScope": None}, f"{_ID}: it does not say whether it is in scope"),
        (None, "null: it is no object"),
        (["x" * 1000], "xxx: it is no object"),
    ],
    ids=str,
)
def test_a_row_that_is_no_entity_is_left_out_and_counted(row: Any, sample: str) -> None:
    other = {**_ROW, "id": f"{_ID}2"}
    observations, frame = _observed(row, other)
    assert list(frame["azure_id"]) == [f"{_ID}2"]
    assert (observations.rows, observations.unreadable, observations.duplicates) == (2, 1, 0)
    (shown,) = observations.samples
    assert sample in shown
    assert len(shown) < 300


_MISSING = {"recordId": None, "id": "", "name": "", "type": "", "location": "", "tags": None, "placed": False}


@pytest.mark.parametrize("row", [_RECORD, {**_RECORD, **_MISSING, "recordId": "r"}], ids=["with a row", "without"])
@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"targetId": None}, "it has no targetId"),
        ({"targetId": ""}, "it has no targetId"),
        ({"targetId": {"a": 1}}, "it has no targetId"),
        ({"targetType": ""}, "it has no targetType"),
        ({"changeType": ""}, "it has no changeType"),
        ({"changeTime": None}, "its changeTime is no instant"),
        ({"changeTime": ""}, "its changeTime is no instant"),
        ({"changeTime": "yesterday"}, "its changeTime is no instant"),
        ({"changeTime": "2026-13-01T00:00:00Z"}, "its changeTime is no instant"),
        ({"changeTime": 5}, "its changeTime is no instant"),
        ({"changeTime": "9999-12-31T23:59:59Z"}, "its changeTime is no instant"),
    ],
    ids=str,
)
def test_a_record_that_says_not_what_changed_is_left_out_and_counted(
    row: dict[str, Any], columns: dict[str, Any], what: str
) -> None:
    """Such records were skipped silently."""
    observations, frame = _observed({**row, **columns}, {**_RECORD, "recordId": "another"}, changes=True)
    assert len(frame) == 1
    assert (observations.rows, observations.unreadable) == (2, 1)
    assert what in observations.samples[0]


def test_a_record_of_what_lies_in_no_subscription_is_left_out_and_counted() -> None:
    record = {**_RECORD, **_MISSING, "recordId": "r", "targetId": "/providers/Microsoft.Web/sites/Shop"}
    observations, frame = _observed(record, changes=True)
    assert (len(frame), observations.unreadable) == (0, 1)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *product(["tags", "rgTags"], ["env=prod", ["env"], 5, True]),
        *product(["location"], [{"name": "westeurope"}, ["westeurope"], 5, True]),
    ],
    ids=str,
)
def test_a_column_of_another_type_is_left_out_and_the_row_is_kept(column: str, value: Any) -> None:
    """Port drops an event whose tags are no object, and the ledger said that it was delivered."""
    observations, frame = _observed({**_ROW, column: value})
    (row,) = records(frame)
    assert json.loads(row["data"])[column] is None
    assert (observations.rows, observations.unreadable) == (1, 1)
    assert observations.samples == (f"{_ID}: without its {column}, because Port takes nothing of that type",)


@pytest.mark.parametrize(
    "columns",
    [{"tags": {"mood": "a\ufffdb"}}, {"tags": {"\ufffd": "x"}}, {"id": f"{_ID}\ufffd"}, {"rgTags": {"x": "\ufffd"}}],
    ids=str,
)
def test_a_row_whose_text_came_damaged_is_kept_and_counted(columns: dict[str, Any]) -> None:
    """Half of a surrogate pair is U+FFFD by then; nobody learnt of it."""
    observations, frame = _observed({**_ROW, **columns}, {**_ROW, "id": f"{_ID}2"})
    assert (len(frame), observations.unreadable) == (2, 1)
    assert observations.samples[0].endswith(": with U+FFFD (\ufffd) in place of text that is no Unicode")


@pytest.mark.parametrize(
    "columns",
    [{"changedProperties": {"tags.mood": {"newValue": "\ufffd"}}}, {**_MISSING, "targetId": f"{_ID}\ufffd"}],
    ids=["with a row", "without"],
)
def test_a_record_whose_text_came_damaged_is_kept_and_counted(columns: dict[str, Any]) -> None:
    observations, frame = _observed({**_RECORD, **columns, "recordId": "1"}, _RECORD, changes=True)
    assert (len(frame), observations.unreadable) == (2, 1)


@pytest.mark.parametrize("spelled", ["Delete", "delete", "DELETE"])
def test_a_delete_is_a_delete_in_any_casing(spelled: str) -> None:
    """In another one it was no proof, so the guard counted the delete as unproven."""
    records = [
        {**_RECORD, "recordId": "1", "changeType": spelled},
        {**_RECORD, **_MISSING, "recordId": "2", "changeType": spelled},
    ]
    _, frame = _observed(*records, changes=True)
    assert set(frame["change_type"]) == {"Delete"}
    assert {json.loads(change)["changeType"] for change in frame["change"]} == {"Delete"}


def test_a_missing_name_is_the_end_of_the_id() -> None:
    for name in ("", None, 5):
        observations, frame = _observed({**_ROW, "name": name})
        assert list(frame["name"]) == ["Shop"]
        assert observations.unreadable == 0


def test_samples_are_few() -> None:
    observations, _ = _observed(*[{**_ROW, "id": f"x{n}"} for n in range(100)])
    assert (observations.unreadable, len(observations.samples)) == (100, MAX_SAMPLES)
    observations, _ = _observed(*[{**_ROW, "id": f"{_ID}{n}"} for n in range(100)] * 2)
    assert (observations.duplicates, len(observations.samples)) == (100, MAX_SAMPLES)


# -- several rows of one id -------------------------------------------------------------------------------------------

_VARIANTS: dict[str, list[dict[str, Any]]] = {
    "id": [{}, {"id": _ID.upper().replace("/SUBSCRIPTIONS", "/subscriptions")}, {"id": _ID.lower()}],
    "name": [{}, {}, {"name": "shop"}, {"name": "another"}],
    "type": [{}, {}, {"type": "microsoft.web/sites/slots"}],
    "place": [{}, {}, {"placed": False}],
    "content": [{}, {"tags": None}, {"tags": {"a": "b"}}, {"location": "northeurope"}, {"inScope": False}],
}
_TWINS = st.tuples(*map(st.sampled_from, _VARIANTS.values())).map(
    lambda parts: {**_ROW, **{key: value for part in parts for key, value in part.items()}}
)
_OTHERS = st.lists(st.integers(0, 5), max_size=4, unique=True).map(
    lambda numbers: [{**_ROW, "id": f"{_ID}-{n}", "name": f"Shop-{n}"} for n in numbers]
)


@given(twins=st.lists(_TWINS, min_size=1, max_size=5), others=_OTHERS, changes=st.booleans(), data=st.data())
def test_one_row_of_each_id_whatever_their_order(
    twins: list[dict[str, Any]], others: list[dict[str, Any]], changes: bool, data: st.DataObject
) -> None:
    """The same one in each read, or the entity would change with every run, and be delivered each time."""
    rows = [*twins, *others]
    if changes:
        rows = [{**_RECORD, **row, "recordId": f"r {row['id'].lower()}", "targetId": row["id"]} for row in rows]
    _, expected = _observed(*rows, changes=changes)
    shuffled = data.draw(st.permutations(rows))
    cut = data.draw(st.integers(0, len(rows)))
    observations = _read(shuffled[:cut], shuffled[cut:], changes=changes)
    assert _sorted(observations.frame) == _sorted(expected)
    assert len(observations.frame) == 1 + len(others)
    assert (observations.rows, observations.duplicates) == (len(rows), len(twins) - 1)
    assert len(observations.samples) == (len(twins) > 1)
    assert observations.unreadable == 0


@given(twins=st.lists(_TWINS, min_size=2, max_size=5))
def test_the_same_row_wins_in_every_kind_of_read(twins: list[dict[str, Any]]) -> None:
    _, inventory = _observed(*twins)
    _, changes = _observed(*[{**_RECORD, **row} for row in twins], changes=True)
    same = ["azure_id", "name", "type", "in_scope", "hash", "data"]
    assert inventory[same].equals(changes[same])


@given(twins=st.lists(_TWINS, max_size=4), data=st.data())
def test_the_row_that_agrees_with_its_id_wins(twins: list[dict[str, Any]], data: st.DataObject) -> None:
    """Whatever the others hold; among several that agree, one of them."""
    agreeing = [row for row in twins if (row["name"].lower(), row["type"], row["placed"]) == _agreed()]
    rows = data.draw(st.permutations([*twins, _ROW]))
    _, frame = _observed(*rows)
    (row,) = records(frame)
    assert row["data"] in {records(_observed(one)[1])[0]["data"] for one in [*agreeing, _ROW]}


def test_ids_that_share_an_identifier_are_not_one_entity() -> None:
    """Port cannot tell them apart, which is for the run to report; here one would be lost silently."""
    twins = [{**_ROW, "id": f"{_GROUP}/providers/Microsoft.Web/sites/{name}"} for name in ("a b", "a_b")]
    observations, frame = _observed(*twins)
    assert frame["identifier"].nunique() == 1
    assert (list(frame["azure_id"]), observations.duplicates) == ([row["id"] for row in twins], 0)


def test_each_record_of_an_entity_stays() -> None:
    records_twice = [{**_RECORD, "recordId": record} for record in ("1", "2")] * 2
    observations, frame = _observed(*records_twice, changes=True)
    assert (len(frame), observations.duplicates) == (2, 2)


def _agreed() -> tuple[str, str, bool]:
    return "shop", "microsoft.web/sites", True


@pytest.mark.parametrize(
    ("azure_id", "name", "arm_type"),
    [
        (f"{_GROUP}", "Web", "microsoft.resources/subscriptions/resourcegroups"),
        (f"{_ID}/slots/Blue", "Blue", "microsoft.web/sites/slots"),
        (f"{_ID}/providers/Microsoft.Insights/metrics/Cpu", "Cpu", "microsoft.insights/metrics"),
    ],
)
def test_ids_of_every_shape_agree_with_their_columns(azure_id: str, name: str, arm_type: str) -> None:
    good = {**_ROW, "id": azure_id, "name": name, "type": arm_type, "location": "a"}
    odd = [{**good, "location": "z", **columns} for columns in ({"name": "zzz"}, {"type": "zzz/z"}, {"placed": False})]
    for row in odd:
        for rows in ([good, row], [row, good]):
            _, frame = _observed(*rows)
            assert [json.loads(one["data"])["location"] for one in records(frame)] == ["a"]


def _sorted(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return sorted(to_table(frame, OBSERVATION).to_pylist(), key=lambda row: row["azure_id"])


# -- over HTTP --------------------------------------------------------------------------------------------------------

_WINDOW = Window(datetime(2026, 11, 1, tzinfo=UTC), NOW)
_SUBSCRIPTION = {
    **_ROW,
    "id": _GROUP.partition("/resourceGroups")[0],
    "name": "one",
    "type": "microsoft.resources/subscriptions",
}


def test_duplicates_and_odd_rows_stop_nothing(sandbox: Sandbox, reader: AzureReader) -> None:
    """The same id twice failed every run for good, with the advice to wait for the next."""
    bodies = [
        response_body(_ROW, {**_ROW, "id": _ID.lower()}, {**_ROW, "id": None}),
        response_body(_RECORD, {**_RECORD, "id": _ID.lower()}, {**_RECORD, "recordId": "2"}),
        response_body(_SUBSCRIPTION, {**_SUBSCRIPTION, "name": "two"}),
    ]
    for body in bodies:
        sandbox.faults.add(Fault("azure", status=200, body=body, path="/resources"))
    inventory, changes, snapshot = reader.inventory(["a"]), reader.changes(_WINDOW, ["a"]), reader.containers()
    assert [len(inventory.frame), len(changes.frame), len(snapshot.frame)] == [1, 2, 1]
    assert [inventory.rows, changes.rows, snapshot.rows] == [3, 3, 2]
    assert [inventory.duplicates, changes.duplicates, snapshot.duplicates] == [1, 1, 1]
    assert [inventory.unreadable, changes.unreadable, snapshot.unreadable] == [1, 0, 0]
    assert any("it has no id" in sample for sample in inventory.samples)
    assert inventory.samples[1].lower() == f"{_ID}: 2 rows of one id".lower()
    assert snapshot.samples == (f"{_SUBSCRIPTION['id']}: 2 rows of one id",)
    assert list(inventory.frame.columns) == OBSERVATION.names
    assert reader.graph.usage.requests == 3
