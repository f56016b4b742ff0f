"""What a run sets out to do: the mode that the state of its target allows, the window, and the reasons for both."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.windows import OLDEST_WATERMARK, RETENTION, Window, next_window


@dataclass(frozen=True)
class TargetState:
    """What the store knows of a target before a run.

    `generation` counts the settled runs: a ledger row of the current generation was told by a run that has not
    settled. `full_runs` counts those of them that were full. `needs_full_run`: a migration of the store asks for one.
    """

    watermark: datetime | None
    fingerprint: str | None
    generation: int
    ledger_rows: int
    full_runs: int = 0
    needs_full_run: bool = False


@dataclass(frozen=True)
class Plan:
    """What a run set out to do; travels with its change set, so that no other run delivers it by mistake."""

    target: str
    run: str
    request: Request
    mode: Mode
    reasons: tuple[str, ...]
    window: Window
    fingerprint: str
    base_watermark: datetime | None
    generation: int
    known_before: int
    full_runs: int = 0

    @property
    def advances_watermark(self) -> bool:
        """Whether the watermark moves to the end of the window when all is delivered."""
        return self.mode is not Mode.PARTIAL

    @property
    def resends_all(self) -> bool:
        """Whether what Port has been told already is delivered as well."""
        return self.request.force or (bool(self.request.only) and self.request.backfill is None)


def plan(
    *,
    target: str,
    run: str,
    state: TargetState,
    request: Request,
    fingerprint: str,
    now: datetime,
    change_window: timedelta,
) -> Plan:
    """Choose the mode, and the window that leaves no gap behind the watermark.

    Raises SettingsError for a past window that Azure has no records of.
    """
    mode, reasons = _mode(request, reasons_for_full(state, fingerprint=fingerprint, now=now))
    window = next_window(state.watermark, now, at_least=change_window)
    if mode is Mode.PARTIAL:
        window = _past(request.backfill, now) if request.backfill is not None else Window(now, now)
    return Plan(
        target=target,
        run=run,
        request=request,
        mode=mode,
        reasons=reasons,
        window=window,
        fingerprint=fingerprint,
        base_watermark=state.watermark,
        generation=state.generation,
        known_before=state.ledger_rows,
        full_runs=state.full_runs,
    )


def _mode(request: Request, for_full: tuple[str, ...]) -> tuple[Mode, tuple[str, ...]]:
    if request.is_partial:
        asked = f"only {request.only}" if request.only else "all that is in scope"
        how = "a past window was asked for again" if request.backfill else "a part was asked for again"
        return Mode.PARTIAL, (f"{how}: {asked}; the watermark stays",)
    if request.mode is Mode.FULL:
        return Mode.FULL, ("a full sync was asked for", *for_full)
    if for_full:
        return Mode.FULL, for_full
    return Mode.INCREMENTAL, ("the watermark is recent and the scope is unchanged",)


def reasons_for_full(state: TargetState, *, fingerprint: str, now: datetime) -> tuple[str, ...]:
    """Why change records are not enough; empty when they are."""
    if state.watermark is None:
        filled = state.generation and state.ledger_rows
        return ("the ledger was filled from what Port holds" if filled else "no run has settled for this target yet",)
    reasons = []
    if state.needs_full_run:
        reasons.append("an upgrade has changed what the state means")
    if state.ledger_rows == 0:
        reasons.append("the ledger is empty")
    if state.watermark > now:
        reasons.append(f"the watermark {state.watermark:%Y-%m-%d %H:%M:%S} UTC lies in the future")
    if now - state.watermark > OLDEST_WATERMARK:
        reasons.append(f"the watermark is older than {OLDEST_WATERMARK.days} days")
    if state.fingerprint != fingerprint:
        reasons.append("the scope settings have changed")
    return tuple(reasons)


def _past(window: Window, now: datetime) -> Window:
    if not now - RETENTION <= window.start < window.end <= now:
        raise SettingsError(
            f"The window {window} that `backfill` names cannot be read again: it must begin before it ends, end in the "
            f"past, and begin no earlier than {RETENTION.days} days ago, because Azure keeps change records no longer. "
            f"Write e.g. reread: {{start: {now - timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}, "
            f"end: {now:%Y-%m-%dT%H:%M:%SZ}}}."
        )
    return window
