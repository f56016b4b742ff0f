"""The plan of a run: the mode that the state of its target allows, the window, and the reasons for both."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.windows import OLDEST_WATERMARK, RETENTION, Window, next_window

#: The reason for a full run that the guard repeats.
SCOPE_CHANGED = "the scope settings have changed"


@dataclass(frozen=True)
class TargetState:
    """The state of a target before a run; the defaults are those of a target that no run has reached yet.

    `watermark` is the end of the last window of which every delivery is confirmed, `fingerprint` that of the scope
    which filled the ledger. `generation` counts the runs that have moved the watermark, `full_runs` those of them that
    were full. `needs_full_run`: a newer version of this project asks for one.
    """

    watermark: datetime | None = None
    fingerprint: str | None = None
    generation: int = 0
    ledger_rows: int = 0
    full_runs: int = 0
    needs_full_run: bool = False


@dataclass(frozen=True)
class Plan:
    """The plan of one run; travels with its change set, so that no other run delivers it by mistake.

    `sink` is the fingerprint of the way into Port and of the mapping in force there.
    """

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
    sink: str = ""

    @property
    def advances_watermark(self) -> bool:
        """Whether the watermark moves to the end of the window when all is delivered."""
        return self.mode in (Mode.INCREMENTAL, Mode.FULL)

    @property
    def scope_changed(self) -> bool:
        """Whether the last run that delivered everything had another scope."""
        return SCOPE_CHANGED in self.reasons

    @property
    def resends_all(self) -> bool:
        """Whether what Port has already is sent as well."""
        return self.request.force or self.mode is Mode.PARTIAL


def plan(
    *,
    target: str,
    run: str,
    state: TargetState,
    request: Request,
    fingerprint: str,
    now: datetime,
    change_window: timedelta,
    sink: str = "",
) -> Plan:
    """Choose the mode, and the window that leaves no gap behind the watermark.

    Raises SettingsError for a past window that Azure has no records of.
    """
    mode, reasons = _mode(request, reasons_for_full(state, fingerprint=fingerprint, now=now))
    match mode:
        case Mode.BACKFILL if request.backfill is not None:
            window = _past(request.backfill, now)
        case Mode.PARTIAL:
            window = Window(now, now)
        case _:
            window = next_window(state.watermark, now, at_least=change_window)
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
        sink=sink,
    )


def _mode(request: Request, for_full: tuple[str, ...]) -> tuple[Mode, tuple[str, ...]]:
    if request.backfill is not None:
        part = f"only {request.only}" if request.only else "all that is in scope"
        return Mode.BACKFILL, (f"a past window is read again: {part}; the watermark stays",)
    if request.only:
        return Mode.PARTIAL, (f"a part is sent again: only {request.only}; the watermark stays",)
    if request.mode is Mode.FULL:
        return Mode.FULL, ("a full sync was asked for", *for_full)
    if for_full:
        return Mode.FULL, for_full
    return Mode.INCREMENTAL, ("the watermark is recent and the scope is unchanged",)


def reasons_for_full(state: TargetState, *, fingerprint: str, now: datetime) -> tuple[str, ...]:
    """Return why change records are not enough; nothing when they are."""
    if state.watermark is None:
        imported = state.generation and state.ledger_rows
        return ("the ledger was rebuilt from what Port holds" if imported else "this target has never been synced",)
    age = now - state.watermark
    reasons = (
        (state.needs_full_run, "an upgrade has changed what the state means"),
        (state.ledger_rows == 0, "the ledger is empty"),
        (state.watermark > now, f"the watermark {state.watermark:%Y-%m-%d %H:%M:%S} UTC lies in the future"),
        (age > OLDEST_WATERMARK, f"the watermark is older than {OLDEST_WATERMARK.days} days"),
        (state.fingerprint != fingerprint, SCOPE_CHANGED),
    )
    return tuple(reason for applies, reason in reasons if applies)


def _past(window: Window, now: datetime) -> Window:
    if not now - RETENTION <= window.start < window.end <= now:
        raise SettingsError(
            f"The window {window} that `backfill` names cannot be read again: it must begin before it ends, end in the "
            f"past, and begin no earlier than {RETENTION.days} days ago, because Azure keeps change records no longer. "
            f"Write e.g. backfill: {{start: {now - timedelta(hours=6):%Y-%m-%dT%H:%M:%SZ}, "
            f"end: {now:%Y-%m-%dT%H:%M:%SZ}}}."
        )
    return window
