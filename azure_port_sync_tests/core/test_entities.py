"""Rows of Azure as entities: what the hash sees, what is sent, how instants are read."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.entities import (
    MAX_CHANGED_PROPERTIES,
    canonical,
    content_hash,
    delete_data,
    identity,
    observed_absence,
    observed_row,
)
from azure_port_sync.core.kinds import Kind, kind_of

_SUB = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
_ID = f"/subscriptions/{_SUB}/resourceGroups/Web (old)/providers/Microsoft.Web/sites/Shop"
_ROW: dict[str, Any] = {
    "id": _ID,
    "name": "Shop",
    "type": "Microsoft.Web/sites",
    "location": "westeurope",
    "tags": {"env": "prod"},
    "rgTags": {"team": "web"},
    "inScope": True,
}
_CHANGE = {"changeType": "Update", "changeTime": "2026-11-23T09:59:59.1234567Z", "changedProperties": {"a": 1}}


def _hash(change: dict[str, Any] | None = None, extra: tuple[str, ...] = (), **columns: Any) -> str:
    return str(observed_row({**_ROW, **columns}, extra_columns=extra, change=change)["hash"])


@pytest.mark.parametrize(
    "columns",
    [
        {"change": _CHANGE},
        {"rgTags": {"team": "another"}},
        {"rgTags": None},
        {"id": _ID.upper()},
        {"id": _ID.lower()},
        {"type": "microsoft.web/SITES"},
        {"tags": {"env": "prod"}},
    ],
    ids=str,
)
def test_hash_ignores(columns: dict[str, Any]) -> None:
    """Resource providers change the spelling of ids at will; each change was a delivery of nothing."""
    assert _hash(**columns) == _hash()


@pytest.mark.parametrize(
    "columns",
    [
        {"tags": {"env": "test"}},
        {"tags": {"Env": "prod"}},
        {"tags": {}},
        {"tags": None},
        {"location": "northeurope"},
        {"location": ""},
        {"name": "shop"},
        {"type": "Microsoft.Web/serverFarms"},
        {"id": _ID + "2"},
        {"extra": ("sku",), "extra0": {"name": "S1"}},
        {"extra": ("sku",), "extra0": None},
    ],
    ids=str,
)
def test_hash_differs(columns: dict[str, Any]) -> None:
    assert _hash(**columns) != _hash()


def test_hash_differs_with_the_value_of_an_extra_column() -> None:
    assert _hash(extra=("sku",), extra0="S1") != _hash(extra=("sku",), extra0="S2")


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), _JSON, max_size=5), st.randoms(use_true_random=False))
def test_canonical_text_is_one_text_for_one_value(data: dict[str, Any], rng: Any) -> None:
    shuffled = dict(rng.sample(sorted(data.items()), len(data)))
    assert canonical(shuffled) == canonical(data)
    assert content_hash(shuffled) == content_hash(data)
    assert json.loads(canonical(data)) == data


def test_canonical_text_is_compact_and_readable() -> None:
    assert canonical({"b": [1, {"d": None, "c": "ü"}], "a": ""}) == '{"a":"","b":[1,{"c":"ü","d":null}]}'


def test_data_has_the_keys_of_the_guide() -> None:
    seen = observed_row(_ROW, change=_CHANGE)
    escaped = f"/subscriptions/{_SUB}/resourcegroups/web =28old=29/providers/microsoft.web/sites/shop"
    assert json.loads(seen["data"]) == {
        "resourceId": escaped,
        "id": _ID,
        "sourceResourceId": _ID.lower(),
        "name": "Shop",
        "type": "microsoft.web/sites",
        "location": "westeurope",
        "tags": {"env": "prod"},
        "subscriptionId": _SUB,
        "resourceGroup": "web =28old=29",
        "rgTags": {"team": "web"},
    }
    assert json.loads(seen["change"]) == _CHANGE
    assert seen["identifier"] == escaped.replace(" ", "_")
    assert (seen["azure_id"], seen["resource_group"]) == (_ID, "web (old)")
    assert (seen["present"], seen["in_scope"], seen["change_type"]) == (True, True, "Update")
    assert seen["change_time"] == datetime(2026, 11, 23, 9, 59, 59, 123456, tzinfo=UTC)


_LARGE = MAX_CHANGED_PROPERTIES


@pytest.mark.parametrize(
    ("changed", "kept", "is_cut"),
    [
        (None, None, False),
        ({"a": {"newValue": "x" * (_LARGE - len('{"a":{"newValue":""}}'))}}, ..., False),
        ({"a": {"newValue": "x" * (_LARGE + 1 - len('{"a":{"newValue":""}}'))}}, {"a": None}, True),
        ({"a": {"newValue": "ü" * (_LARGE // 2)}, "b": 1}, {"a": None, "b": None}, True),
        ({"tags.a": {"newValue": "x" * 300_000}, "b": {"newValue": "y"}}, {"tags.a": None, "b": None}, True),
        ({f"properties.{n}": n for n in range(10_000)}, {}, True),
        ({"x" * _LARGE: 1}, {}, True),
        (["x" * _LARGE], {}, True),
        ("x" * _LARGE, {}, True),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("absent", [False, True])
def test_a_large_change_loses_its_values_and_then_its_names(
    changed: Any, kept: Any, is_cut: bool, absent: bool
) -> None:
    """Two values of 300 kB beside a tag change put the entity into quarantine, and its tags stayed stale."""
    change = {**_CHANGE, "changedProperties": changed}
    seen = observed_absence(_ID, "microsoft.web/sites", change) if absent else observed_row(_ROW, change=change)
    cut = {"changedPropertiesTruncated": True} if is_cut else {}
    assert json.loads(seen["change"]) == {**change, "changedProperties": changed if kept is ... else kept, **cut}
    assert len(seen["change"].encode()) < _LARGE + 200


def test_a_container_needs_and_has_no_group_tags() -> None:
    row = {
        "id": f"/subscriptions/{_SUB.upper()}",
        "name": "Production",
        "type": "microsoft.resources/subscriptions",
        "location": "",
        "tags": None,
        "inScope": True,
    }
    data = json.loads(observed_row(row)["data"])
    assert "rgTags" not in data
    assert (data["location"], data["resourceGroup"], data["subscriptionId"]) == (None, "", _SUB)


def test_without_a_change_record_data_names_none() -> None:
    assert not {"changeType", "changeTime", "changedProperties"} & json.loads(observed_row(_ROW)["data"]).keys()


def test_extra_columns_go_under_their_own_path() -> None:
    extra = ("kind", "properties.a.b", "properties.c")
    seen = observed_row({**_ROW, "extra0": "app", "extra1": 1, "extra2": None}, extra_columns=extra)
    data = json.loads(seen["data"])
    assert (data["kind"], data["properties"]) == ("app", {"a": {"b": 1}, "c": None})


@pytest.mark.parametrize(
    ("whole", "part"),
    [(None, None), ("app", None), ({"name": "S1", "tier": "Standard"}, "S1")],
    ids=["null", "text", "object"],
)
def test_a_column_and_a_part_of_it_go_together(whole: Any, part: Any) -> None:
    """EXTRA_RESOURCE_COLUMNS may name `sku` and `sku.name`; a resource without a sku must not stop the run."""
    seen = observed_row({**_ROW, "extra0": whole, "extra1": part}, extra_columns=("sku", "sku.name"))
    assert "sku" in json.loads(seen["data"])


def test_delete_data_is_identity_alone() -> None:
    columns = identity(_ID, "microsoft.web/sites", None)
    assert delete_data(columns) == {
        "resourceId": f"/subscriptions/{_SUB}/resourcegroups/web =28old=29/providers/microsoft.web/sites/shop",
        "type": "microsoft.web/sites",
        "subscriptionId": _SUB,
        "resourceGroup": "web =28old=29",
    }


def test_absence_takes_its_type_from_the_record() -> None:
    """The type of a deleted resource group was read from a row that was gone, and the delete matched no mapping."""
    group = f"/subscriptions/{_SUB}/resourceGroups/Web"
    seen = observed_absence(group, "microsoft.resources/subscriptions/resourcegroups", {**_CHANGE})
    assert (seen["kind"], seen["name"], seen["present"]) == (Kind.RESOURCE_GROUP, "Web", False)


@pytest.mark.parametrize(
    ("resource_type", "kind"),
    [
        ("microsoft.resources/subscriptions", Kind.SUBSCRIPTION),
        ("microsoft.resources/subscriptions/resourcegroups", Kind.RESOURCE_GROUP),
        ("microsoft.web/sites", Kind.RESOURCE),
    ],
)
def test_kinds(resource_type: str, kind: Kind) -> None:
    assert kind_of(resource_type) is kind


@given(st.datetimes(timezones=st.just(UTC)).filter(lambda moment: moment.year >= 1000), st.integers(0, 7))
def test_instants_of_every_length_are_read(moment: datetime, digits: int) -> None:
    """Azure writes two, three and seven fractional digits."""
    fraction = f"{moment.microsecond:06d}0"[:digits]
    text = f"{moment:%Y-%m-%dT%H:%M:%S}" + (f".{fraction}" if digits else "")
    kept = moment.replace(microsecond=int(fraction.ljust(6, "0")[:6]) if digits else 0)
    ahead = kept.replace(tzinfo=timezone(timedelta(hours=2)))
    for written, meant in ((f"{text}Z", kept), (f"{text}+00:00", kept), (f"{text}+02:00", ahead)):
        assert observed_row(_ROW, change={**_CHANGE, "changeTime": written})["change_time"] == meant
