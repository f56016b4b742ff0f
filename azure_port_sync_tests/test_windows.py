"""Which change records a run reads: no gap behind the watermark, and full when change records prove nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.sync.windows import Mode, Plan, TargetState, plan

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
RECENT = TargetState(NOW - timedelta(minutes=15), "scope", generation=3, ledger_rows=10)
OVERLAP, RETENTION = timedelta(minutes=10), timedelta(days=14)


def _plan(
    state: TargetState = RECENT,
    *,
    requested: Mode = Mode.INCREMENTAL,
    force: bool = False,
    fingerprint: str = "scope",
    now: datetime = NOW,
    change_window: timedelta = timedelta(minutes=15),
) -> Plan:
    return plan(
        target="t",
        state=state,
        requested=requested,
        force=force,
        fingerprint=fingerprint,
        now=now,
        change_window=change_window,
    )


_RUNS = st.lists(
    st.tuples(st.timedeltas(timedelta(0), timedelta(days=6)), st.booleans(), st.integers(1, 60 * 24 * 7)),
    min_size=1,
    max_size=20,
)


@given(_RUNS)
def test_settled_windows_leave_no_gap(runs: list[tuple[timedelta, bool, int]]) -> None:
    """A fixed window of 15 minutes lost what changed while a tick was late."""
    state = replace(RECENT, watermark=NOW, ledger_rows=1)
    settled_until, now = NOW, NOW
    for pause, settles, minutes in runs:
        now += pause
        made = _plan(state, now=now, change_window=timedelta(minutes=minutes))
        if made.mode is Mode.INCREMENTAL:
            assert made.window.start <= settled_until - OVERLAP
        assert made.window.end == now
        if settles:
            settled_until = now
            state = replace(state, watermark=made.window.end)


@given(
    st.timedeltas(timedelta(days=-30), timedelta(days=30)) | st.none(),
    st.integers(1, 60 * 24 * 7),
    st.sampled_from(Mode),
)
def test_window_starts_before_the_watermark_and_within_retention(
    age: timedelta | None, minutes: int, requested: Mode
) -> None:
    watermark = None if age is None else NOW - age
    made = _plan(replace(RECENT, watermark=watermark), requested=requested, change_window=timedelta(minutes=minutes))
    assert NOW - RETENTION <= made.window.start < made.window.end == NOW
    assert made.window.start <= NOW - timedelta(minutes=minutes)
    if watermark is None:
        assert made.window.start == NOW - RETENTION
    elif made.mode is Mode.INCREMENTAL:
        assert made.window.start <= watermark - OVERLAP
    else:
        assert made.window.start <= max(watermark - OVERLAP, NOW - RETENTION)


def test_incremental_while_the_watermark_is_recent() -> None:
    made = _plan()
    assert made.mode is Mode.INCREMENTAL
    assert made.window.start == NOW - timedelta(minutes=25)
    assert (made.planned_from, made.generation, made.known_before) == (RECENT.watermark, 3, 10)


_TURNS_FULL = {
    "no run has settled": replace(RECENT, watermark=None),
    "the ledger is empty": replace(RECENT, ledger_rows=0),
    "in the future": replace(RECENT, watermark=NOW + timedelta(seconds=1)),
    "older than 7 days": replace(RECENT, watermark=NOW - timedelta(days=7, seconds=1)),
    "scope settings have changed": replace(RECENT, fingerprint="another"),
}


@pytest.mark.parametrize("reason", _TURNS_FULL)
def test_turns_full_and_says_why(reason: str) -> None:
    made = _plan(_TURNS_FULL[reason])
    assert made.mode is Mode.FULL
    assert len(made.reasons) == 1
    assert reason in made.reasons[0]


def test_a_watermark_of_seven_days_is_not_too_old() -> None:
    assert _plan(replace(RECENT, watermark=NOW - timedelta(days=7))).mode is Mode.INCREMENTAL


def test_several_reasons_are_all_told() -> None:
    made = _plan(TargetState(NOW - timedelta(days=8), "another", 1, 0))
    assert len(made.reasons) == 3


def test_full_when_asked_for() -> None:
    made = _plan(requested=Mode.FULL)
    assert (made.mode, made.reasons) == (Mode.FULL, ("a full sync was asked for",))
    assert made.window.start == NOW - timedelta(minutes=25)


def test_full_asked_for_hides_no_other_reason() -> None:
    made = _plan(replace(RECENT, fingerprint="another"), requested=Mode.FULL)
    assert len(made.reasons) == 2


@given(st.booleans())
def test_force_travels_and_leaves_the_mode_alone(force: bool) -> None:
    made = _plan(force=force)
    assert (made.force, made.mode) == (force, Mode.INCREMENTAL)


def test_a_window_reads_as_text() -> None:
    assert str(_plan().window) == "(2026-11-23 09:35:00, 2026-11-23 10:00:00] UTC"
