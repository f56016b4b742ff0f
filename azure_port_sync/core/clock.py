"""Time as a dependency: every instant and every wait goes through a `Clock`, so that tests own both."""

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """The time and the waiting that a sync depends on."""

    def now(self) -> datetime:
        """The present instant, timezone-aware, in UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after `seconds`."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
