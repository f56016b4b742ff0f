"""Time as a dependency: every instant and every wait goes through a `Clock`, so that tests own both."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

#: A wait beyond this is a line of the log, with its reason and its end.
NOTABLE_SECONDS = 10


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


def wait_in_words(clock: Clock, seconds: float) -> str:
    """Return how long a wait that begins now is and when it ends, e.g. "65 s, until 10:01:05 UTC"."""
    return f"{seconds:.0f} s, until {clock.now() + timedelta(seconds=seconds):%H:%M:%S} UTC"
