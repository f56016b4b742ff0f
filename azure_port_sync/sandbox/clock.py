"""The sandbox's time: one clock that a test can freeze and move, so that delays, windows and quotas need no waiting."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta


class SandboxClock:
    """The wall clock, shifted; or one frozen instant."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shift = timedelta(0)
        self._frozen: datetime | None = None

    def now(self) -> datetime:
        """Return the sandbox's instant, in UTC."""
        with self._lock:
            return self._now()

    def set(self, instant: datetime) -> None:
        """Freeze at `instant`."""
        if instant.tzinfo is None:
            raise ValueError(f"an instant needs a time zone, e.g. 2026-11-23T10:00:00Z; got {instant}")
        with self._lock:
            self._frozen = instant.astimezone(UTC)

    def advance(self, by: timedelta) -> None:
        """Move by `by`: a frozen clock stays frozen at the new instant, a running one runs on from there."""
        with self._lock:
            if self._frozen is not None:
                self._frozen += by
            else:
                self._shift += by

    def resume(self) -> None:
        """Run on from where the clock stands."""
        with self._lock:
            if self._frozen is not None:
                self._shift = self._frozen - datetime.now(UTC)
                self._frozen = None

    def _now(self) -> datetime:
        return self._frozen if self._frozen is not None else datetime.now(UTC) + self._shift
