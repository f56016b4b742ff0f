"""From observations to candidates, in whatever order they come."""

import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.candidates import candidates
from azure_port_sync.core.rows import OBSERVATION, frame_of, records
from azure_port_sync_tests.support.observations import CHANGES, EARLIER, NOW, change, no_row_of, resource_id, row_of


def _reduced(*observations: dict[str, Any]) -> dict[str, dict[str, Any]]:
    frame = candidates(frame_of(observations, OBSERVATION))
    assert list(frame.columns) == OBSERVATION.names
    assert not frame.duplicated(["kind", "identifier"]).any()
    return {row["name"]: {k: None if pd.isna(v) else v for k, v in row.items()} for row in records(frame)}


def test_newest_record_wins() -> None:
    x = resource_id("x")
    found = _reduced(row_of(x, change("Update", NOW)), no_row_of(x, change("Delete", EARLIER)))["x"]
    assert (found["present"], found["change_type"], found["change_time"]) == (True, "Update", NOW)


@pytest.mark.parametrize("present", [True, False])
def test_tie_of_a_delete_goes_by_the_row(present: bool) -> None:
    """A resource that was deleted and created again within one instant disappeared, or a ghost stayed."""
    x = resource_id("x")
    see = row_of if present else no_row_of
    for order in [("Delete", "Create"), ("Create", "Delete")]:
        found = _reduced(*[see(x, change(one, NOW)) for one in order])["x"]
        assert (found["present"], found["change_type"]) == (present, "Create" if present else "Delete")


def test_a_row_outweighs_absence_in_whatever_order() -> None:
    x = resource_id("x")
    for order in ([row_of(x), no_row_of(x, None)], [no_row_of(x, None), row_of(x)]):
        assert _reduced(*order)["x"]["present"] is True


def test_later_read_of_a_row_wins() -> None:
    x = resource_id("x")
    found = _reduced(row_of(x, location="westeurope"), row_of(x, location="northeurope"))["x"]
    assert json.loads(found["data"])["location"] == "northeurope"


def test_ids_of_another_casing_are_one_entity() -> None:
    assert len(_reduced(row_of(resource_id("x")), row_of(resource_id("x").upper()))) == 1


@st.composite
def _observations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """What several reads brought of up to four entities; the rows of one entity are all alike."""
    found = []
    for name in draw(st.sets(st.sampled_from("abcd"), min_size=1)):
        in_scope = draw(st.booleans())
        for shown, drawn in draw(st.lists(st.tuples(st.booleans(), CHANGES), min_size=1, max_size=5)):
            record = None if drawn is None else change(*drawn)
            azure_id = resource_id(name)
            found.append(row_of(azure_id, record, in_scope=in_scope) if shown else no_row_of(azure_id, record))
    return found


@given(_observations(), st.randoms(use_true_random=False))
def test_order_of_observations_does_not_matter(observations: list[dict[str, Any]], rng: Any) -> None:
    shuffled = rng.sample(observations, len(observations))
    one, other = _reduced(*observations), _reduced(*shuffled)
    for row in (*one.values(), *other.values()):
        row.pop("change")  # which of two records of one instant is told does not matter
        row["change_type"] = row["change_type"] and row["change_type"] == "Delete"  # the others decide alike
    assert one == other


@given(_observations())
def test_reducing_follows_the_words_of_the_design(observations: list[dict[str, Any]]) -> None:
    for name, found in _reduced(*observations).items():
        mine = [one for one in observations if one["name"] == name]
        present = any(one["present"] for one in mine)
        changes = [(one["change_time"], one["change_type"]) for one in mine if one.get("change_type")]
        newest = {change for at, change in changes if at == max(changes)[0]}
        assert found["present"] is present
        assert found["change_time"] == (max(changes)[0] if changes else None)
        if "Delete" in newest and len(newest) > 1:
            assert (found["change_type"] == "Delete") is not present
        else:
            assert found["change_type"] in (newest or {None})
