"""Clocks for tests: none of them waits."""

import threading
from datetime import UTC, datetime, timedelta

from azure_port_sync.core.clock import SystemClock
from azure_port_sync.sandbox.clock import SandboxClock

#: When tests take place, unless they say otherwise.
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


class SteppedClock:
    """The sandbox's clock as the product's, or one that is `ahead` of it: sleeping moves both."""

    def __init__(self, clock: SandboxClock) -> None:
        self._clock = clock
        self.ahead = timedelta(0)
        self.slept: list[float] = []

    @classmethod
    def frozen(cls) -> "SteppedClock":
        """Return one that stands at NOW, for tests without a sandbox."""
        clock = SandboxClock()
        clock.set(NOW)
        return cls(clock)

    def now(self) -> datetime:
        return self._clock.now() + self.ahead

    def elapsed(self) -> timedelta:
        return self._clock.now() - NOW

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._clock.advance(timedelta(seconds=seconds))


class Later(SystemClock):
    """The machine's clock, ahead of itself, so that what Dagster has just stamped is old."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


class StillClock:
    """A clock that stands still but for sleeping, for tests without a sandbox; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = NOW

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def elapsed(self) -> timedelta:
        return self.now() - NOW

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += timedelta(seconds=seconds)
