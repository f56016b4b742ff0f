"""Time as a dependency: every instant and every wait goes through a `Clock`, so that tests own both."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

#: A wait beyond this is a line of the log, with its reason and its end.
NOTABLE_SECONDS = 10

_SLICE_SECONDS = 1.0


class Clock(Protocol):
    """The time and the waiting that a sync depends on."""

    def now(self) -> datetime:
        """The present instant, timezone-aware, in UTC; it jumps when somebody sets the machine's clock."""
        ...

    def elapsed(self) -> timedelta:
        """The time since some fixed instant, which never jumps: for pauses and deadlines."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def elapsed(self) -> timedelta:
        return timedelta(seconds=time.monotonic())

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class StoppedError(Exception):
    """The run has ended, so nothing more is sent."""


class StoppableClock:
    """A clock whose waits end within a second after `stop`, in a StoppedError. Safe to share between threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End all waits, for good."""
        self._stopped.set()

    def raise_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError

    def now(self) -> datetime:
        return self._clock.now()

    def elapsed(self) -> timedelta:
        return self._clock.elapsed()

    def sleep(self, seconds: float) -> None:
        while seconds > 0:
            self.raise_if_stopped()
            self._clock.sleep(min(seconds, _SLICE_SECONDS))
            seconds -= _SLICE_SECONDS
        self.raise_if_stopped()


def wait_in_words(clock: Clock, seconds: float) -> str:
    """Return how long a wait that begins now is and when it ends, e.g. "65 s, until 10:01:05 UTC"."""
    return f"{seconds:.0f} s, until {clock.now() + timedelta(seconds=seconds):%H:%M:%S} UTC"
