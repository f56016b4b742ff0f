"""Port's rate limits, by the sandbox's clock."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from azure_port_sync.sandbox.port.entity import Clock


@dataclass(frozen=True)
class Throttle:
    """So many requests in a window of the sandbox's clock; what goes beyond is answered 429.

    With `burst` there are never more than so many at once: they come back evenly over the window. What Port means by
    its "burst" is not documented.
    """

    limit: int
    window_seconds: float
    retry_after: bool = True
    burst: int | None = None


@dataclass(frozen=True)
class Allowance:
    """A throttle's verdict on one request: its number in the window, and the seconds until that window ends.

    `wait` is how long a request that came too soon after many others has to wait.
    """

    throttle: Throttle
    number: int
    seconds: float
    wait: float = 0

    @property
    def retry_after(self) -> int:
        """Seconds after which a request that is one too many may be sent again; 0 for one that passes."""
        return math.ceil(self.wait if self.number <= self.throttle.limit else self.seconds)


class Limiter:
    """Counts requests against a throttle; a window opens with the first request after the last one closed."""

    def __init__(self, clock: Clock, throttle: Throttle) -> None:
        self._clock = clock
        self._throttle = throttle
        self._start: datetime | None = None
        self._count = 0
        self._at_once = 0.0
        self._last: datetime | None = None

    def take(self) -> Allowance:
        """Count one request."""
        now = self._clock.now()
        window = timedelta(seconds=self._throttle.window_seconds)
        if self._start is None or now >= self._start + window:
            self._start, self._count = now, 0
        self._count += 1
        seconds = (self._start + window - now).total_seconds()
        return Allowance(self._throttle, self._count, seconds, self._wait(now))

    def _wait(self, now: datetime) -> float:
        if self._throttle.burst is None:
            return 0
        per_second = self._throttle.limit / self._throttle.window_seconds
        if self._last is not None:
            self._at_once = max(0, self._at_once - (now - self._last).total_seconds() * per_second)
        self._last = now
        if self._at_once + 1 > self._throttle.burst:
            return (self._at_once + 1 - self._throttle.burst) / per_second
        self._at_once += 1
        return 0
