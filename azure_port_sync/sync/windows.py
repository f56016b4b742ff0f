"""Which change records a run reads, and whether change records are enough.

A window ends at one reading of the clock and starts before the watermark, so that a record published late is still
read; the ledger makes sure that reading a record twice does not deliver it twice.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

#: Azure publishes a change record up to five minutes late (learn.microsoft.com, "Get resource changes"); twice that.
OVERLAP = timedelta(minutes=10)

#: Change records are kept for 14 days, and for 7 in times of trouble (same page): an older watermark proves nothing.
OLDEST_WATERMARK = timedelta(days=7)
RETENTION = timedelta(days=14)


class Mode(StrEnum):
    """How a run finds its candidates."""

    INCREMENTAL = "incremental"
    FULL = "full"


@dataclass(frozen=True)
class Window:
    """The half-open interval ``(start, end]`` of change records."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"({self.start:%Y-%m-%d %H:%M:%S}, {self.end:%Y-%m-%d %H:%M:%S}] UTC"


@dataclass(frozen=True)
class TargetState:
    """What the store knows of a target before a run.

    `generation` counts the settled runs: a ledger row of the current generation was told by a run that has not
    settled.
    """

    watermark: datetime | None
    fingerprint: str | None
    generation: int
    ledger_rows: int
    schema_is_current: bool = True


@dataclass(frozen=True)
class Plan:
    """What a run set out to do; travels with its change set, so that no other run delivers it by mistake."""

    target: str
    mode: Mode
    reasons: tuple[str, ...]
    window: Window
    fingerprint: str
    planned_from: datetime | None
    generation: int
    force: bool
    known_before: int


def plan(
    *,
    target: str,
    state: TargetState,
    requested: Mode,
    force: bool,
    fingerprint: str,
    now: datetime,
    change_window: timedelta,
) -> Plan:
    """Choose the mode, and the window that leaves no gap behind the watermark."""
    turned = reasons_for_full(state, fingerprint=fingerprint, now=now)
    full = requested is Mode.FULL or bool(turned)
    if requested is Mode.FULL:
        turned = ("a full sync was asked for", *turned)
    return Plan(
        target=target,
        mode=Mode.FULL if full else Mode.INCREMENTAL,
        reasons=turned or ("the watermark is recent and the scope is unchanged",),
        window=Window(_start(state.watermark, now, change_window), now),
        fingerprint=fingerprint,
        planned_from=state.watermark,
        generation=state.generation,
        force=force,
        known_before=state.ledger_rows,
    )


def reasons_for_full(state: TargetState, *, fingerprint: str, now: datetime) -> tuple[str, ...]:
    """Why change records are not enough; empty when they are."""
    if state.watermark is None:
        return ("no run has settled for this target yet",)
    reasons = []
    if not state.schema_is_current:
        reasons.append("the state was written by another version")
    if state.ledger_rows == 0:
        reasons.append("the ledger is empty")
    if state.watermark > now:
        reasons.append(f"the watermark {state.watermark:%Y-%m-%d %H:%M:%S} UTC lies in the future")
    if now - state.watermark > OLDEST_WATERMARK:
        reasons.append(f"the watermark is older than {OLDEST_WATERMARK.days} days")
    if state.fingerprint != fingerprint:
        reasons.append("the scope settings have changed")
    return tuple(reasons)


def _start(watermark: datetime | None, now: datetime, change_window: timedelta) -> datetime:
    if watermark is None:
        return now - RETENTION
    return max(min(watermark - OVERLAP, now - change_window), now - RETENTION)
