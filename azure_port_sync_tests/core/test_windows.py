"""Which change records a run reads: no gap behind the watermark, and full when change records prove nothing."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.plan import Plan, TargetState, plan
from azure_port_sync.core.request import Mode, Request, Selection
from azure_port_sync.core.windows import Window

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
RECENT = TargetState(NOW - timedelta(minutes=15), "scope", generation=3, ledger_rows=10)
OVERLAP, RETENTION = timedelta(minutes=10), timedelta(days=14)


def _plan(
    state: TargetState = RECENT,
    *,
    requested: Mode = Mode.INCREMENTAL,
    request: Request | None = None,
    fingerprint: str = "scope",
    now: datetime = NOW,
    change_window: timedelta = timedelta(minutes=15),
) -> Plan:
    return plan(
        target="t",
        run="r",
        state=state,
        request=request or Request(requested),
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
    for pause, advances_watermark, minutes in runs:
        now += pause
        made = _plan(state, now=now, change_window=timedelta(minutes=minutes))
        if made.mode is Mode.INCREMENTAL:
            assert made.window.start <= settled_until - OVERLAP
        assert made.window.end == now
        if advances_watermark:
            settled_until = now
            state = replace(state, watermark=made.window.end)


@given(
    st.timedeltas(timedelta(days=-30), timedelta(days=30)) | st.none(),
    st.integers(1, 60 * 24 * 7),
    st.sampled_from([Mode.INCREMENTAL, Mode.FULL]),
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
    assert (made.base_watermark, made.generation, made.known_before) == (RECENT.watermark, 3, 10)


_TURNS_FULL = {
    "never been synced": TargetState(None, None, 0, 0),
    "the ledger is empty": replace(RECENT, ledger_rows=0),
    "in the future": replace(RECENT, watermark=NOW + timedelta(seconds=1)),
    "older than 7 days": replace(RECENT, watermark=NOW - timedelta(days=7, seconds=1)),
    "scope settings have changed": replace(RECENT, fingerprint="another"),
    "an upgrade has changed what the state means": replace(RECENT, needs_full_run=True),
    "rebuilt from what Port holds": replace(RECENT, watermark=None),
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
    made = _plan(request=Request(force=force))
    assert (made.resends_all, made.mode) == (force, Mode.INCREMENTAL)


def test_a_window_reads_as_text() -> None:
    assert str(_plan().window) == "(2026-11-23 09:35:00, 2026-11-23 10:00:00] UTC"


# -- a part, and a past window ---------------------------------------------------------------------------------------

PAST = Window(NOW - timedelta(hours=6), NOW - timedelta(hours=5))


def test_a_part_moves_no_watermark_and_is_sent_again() -> None:
    made = _plan(request=Request(Mode.FULL, only=Selection.of(resource_groups=["Web"])))
    assert (made.mode, made.advances_watermark, made.resends_all) == (Mode.PARTIAL, False, True)
    assert made.reasons == ("a part is sent again: only resource groups web; the watermark stays",)


@pytest.mark.parametrize("only", [Selection(), Selection.of(subscriptions=["A"])])
def test_a_past_window_moves_no_watermark_and_tells_only_what_differs(only: Selection) -> None:
    made = _plan(request=Request(only=only, backfill=PAST))
    assert (made.mode, made.advances_watermark, made.resends_all, made.window) == (Mode.BACKFILL, False, False, PAST)


@pytest.mark.parametrize(
    "window",
    [
        Window(PAST.end, PAST.start),
        Window(PAST.start, NOW + timedelta(seconds=1)),
        Window(NOW - timedelta(days=15), PAST.end),
    ],
    ids=["backwards", "in the future", "older than the records"],
)
def test_a_window_that_cannot_be_read_again_is_one_sentence(window: Window) -> None:
    with pytest.raises(SettingsError, match=r"`backfill`.*14 days ago.*Write e\.g\. backfill: {start: "):
        _plan(request=Request(backfill=window))
