"""Which subscriptions are new, and which have vanished and are given time: a pure comparison."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.subscriptions import (
    GRACE,
    Subscriptions,
    SubscriptionState,
    compare_subscriptions,
    lately_lost,
)
from azure_port_sync_tests.support.clocks import NOW

WHOLE, PART = SubscriptionState(True, True), SubscriptionState(False, True)


def _presence(
    remembered: dict[str, SubscriptionState],
    shown: dict[str, bool],
    *,
    given_up: tuple[str, ...] = (),
    now: datetime = NOW,
) -> Subscriptions:
    return compare_subscriptions(remembered, shown, given_up=given_up, now=now)


def test_what_is_shown_for_the_first_time_is_new() -> None:
    found = _presence({}, {"a": True, "b": False})
    assert found.new == {"a", "b"}
    assert found.seen == {"a": SubscriptionState(True, False), "b": SubscriptionState(False, False)}
    assert found.read == {"a", "b"}


def test_what_a_settled_run_has_read_is_not_new() -> None:
    assert _presence({"a": WHOLE, "b": WHOLE._replace(inventoried=False)}, {"a": True, "b": True}).new == {"b"}


@pytest.mark.parametrize("shown", [{}, {"a": False}], ids=["gone", "only a group of it is shown"])
def test_what_vanished_has_a_day_from_the_first_run_that_missed_it(shown: dict[str, bool]) -> None:
    """Not from the last run that saw it: after a pause of days, one lost hour would empty it."""
    first = _presence({"a": WHOLE}, shown)
    assert first.in_grace == {"a": NOW + GRACE}
    assert first.seen == {"a": WHOLE._replace(missing_since=NOW)}
    assert first.read == set()  # so that it is inventoried when it is whole again
    assert first.new == set(shown)
    last = _presence(first.seen, shown, now=NOW + GRACE - timedelta(seconds=1))
    assert last.in_grace == first.in_grace
    late = _presence(last.seen, shown, now=NOW + GRACE)
    assert late.in_grace == {}
    assert _presence(late.seen, shown, now=NOW + 3 * GRACE).in_grace == {}


def test_what_is_shown_by_a_group_alone_after_its_grace_is_read_as_such() -> None:
    found = _presence({"a": WHOLE._replace(missing_since=NOW - GRACE)}, {"a": False})
    assert found.seen == {"a": PART._replace(inventoried=False)}
    assert found.read == {"a"}


def test_what_was_never_whole_and_shows_another_group_has_no_grace() -> None:
    assert _presence({"a": PART}, {"a": False}).in_grace == {}


def test_what_returns_begins_anew() -> None:
    back = _presence({"a": SubscriptionState(True, False, NOW - timedelta(hours=1))}, {"a": True})
    assert back == Subscriptions({"a": SubscriptionState(True, False)}, frozenset("a"), {})
    again = _presence(back.seen, {}, now=NOW + timedelta(hours=30))
    assert again.in_grace == {"a": NOW + timedelta(hours=30) + GRACE}


def test_what_a_setting_leaves_out_has_no_grace_and_is_forgotten() -> None:
    found = _presence({"a": WHOLE, "b": WHOLE}, {"b": True}, given_up=("a",))
    assert found.in_grace == {}
    assert found.seen == {"b": WHOLE}


def test_only_what_may_get_grace_is_in_question() -> None:
    remembered = {"here": WHOLE, "gone": WHOLE, "long gone": WHOLE._replace(missing_since=NOW - GRACE), "less": WHOLE}
    assert lately_lost(remembered, {"here": True, "less": False}, NOW) == ["gone", "less"]


def test_a_clock_that_jumps_back_does_not_prolong_the_grace() -> None:
    found = _presence({"a": WHOLE._replace(missing_since=NOW + timedelta(days=400))}, {})
    assert found.in_grace == {"a": NOW + GRACE}


_SEEN = st.builds(
    SubscriptionState,
    st.booleans(),
    st.booleans(),
    st.none() | st.datetimes().map(lambda d: d.replace(tzinfo=NOW.tzinfo)),
)
_IDS = st.sampled_from("abcde")


@given(st.dictionaries(_IDS, _SEEN), st.dictionaries(_IDS, st.booleans()), st.sets(_IDS))
def test_nothing_is_both_read_and_held(
    remembered: dict[str, SubscriptionState], shown: dict[str, bool], given_up: set[str]
) -> None:
    found = compare_subscriptions(remembered, shown, given_up=given_up, now=NOW)
    assert not found.read & found.in_grace.keys()
    assert found.read == shown.keys() - found.in_grace.keys()
    assert found.new <= shown.keys()
    assert set(found.in_grace) <= set(lately_lost(remembered, shown, NOW)) - given_up
    assert all(NOW < until <= NOW + GRACE for until in found.in_grace.values())


def test_one_that_stops_answering_has_grace_and_is_inventoried_when_it_is_back() -> None:
    found = _presence({"a": WHOLE, "b": WHOLE}, {"a": True, "b": True}).without([], {"a"}, NOW)
    assert found.in_grace == {"a": NOW + GRACE}
    assert found.silent == {"a"}
    assert found.read == {"b"}
    assert _presence(found.seen, {"a": True, "b": True}).new == {"a"}
    later = _presence(found.seen, {"b": True}, now=NOW + GRACE - timedelta(seconds=1))
    assert later.in_grace == {"a": NOW + GRACE}  # which counts from the run that missed it


def test_one_with_a_delete_record_has_no_grace_and_is_forgotten() -> None:
    found = _presence({"a": WHOLE, "b": WHOLE}, {"b": True})
    assert found.in_grace.keys() == {"a"}
    assert found.without(["a"], (), NOW).in_grace == {}
    assert found.without(["a"], (), NOW).seen.keys() == {"b"}
