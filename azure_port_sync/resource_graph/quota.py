"""Resource Graph's quota, shared by all threads of a run.

A principal may send 15 queries in 5 seconds; every answer says what is left and when it resets (learn.microsoft.com/
azure/governance/resource-graph/concepts/guidance-for-throttled-requests). The limiter starts from the documented
figure and then believes the answers, so a quota that support has raised is used without a setting.
"""

import re
import threading
from collections import deque
from collections.abc import Mapping
from datetime import datetime, timedelta

from azure_port_sync.sync.clock import Clock

DOCUMENTED_REQUESTS = 15
DOCUMENTED_PERIOD = timedelta(seconds=5)

#: Requests arrive later than they are sent, and not all by the same time.
_SLACK = timedelta(seconds=0.3)


class QuotaLimiter:
    """Lets a request go when the quota has room, and otherwise waits on the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._capacity = DOCUMENTED_REQUESTS
        self._sent: deque[datetime] = deque()
        self._closed_until: datetime | None = None
        #: Seconds that requests have waited here, summed over threads.
        self.waited_seconds = 0.0

    def acquire(self) -> None:
        """Return when one more request may be sent."""
        while (seconds := self._take_or_wait()) > 0:
            self._clock.sleep(seconds)

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take in what an answer says about the quota."""
        remaining, resets_after = quota_of(headers)
        if remaining is None:
            return
        with self._lock:
            now = self._clock.now()
            used = self._in_period(now)
            self._capacity = max(self._capacity, used + remaining)
            if remaining == 0 and used < self._capacity:  # somebody else uses the same principal
                self._closed_until = now + (resets_after or DOCUMENTED_PERIOD)

    def _take_or_wait(self) -> float:
        with self._lock:
            now = self._clock.now()
            opens = self._closed_until or now
            if self._in_period(now) >= self._capacity:
                opens = max(opens, self._sent[0] + DOCUMENTED_PERIOD + _SLACK)
            if opens <= now:
                self._sent.append(now)
                return 0.0
            seconds = (opens - now).total_seconds()
            self.waited_seconds += seconds
            return seconds

    def _in_period(self, now: datetime) -> int:
        while self._sent and self._sent[0] <= now - DOCUMENTED_PERIOD - _SLACK:
            self._sent.popleft()
        return len(self._sent)


def quota_of(headers: Mapping[str, str]) -> tuple[int | None, timedelta | None]:
    """What is left of the quota, and after which time it resets; None for what the headers do not say."""
    remaining = headers.get("x-ms-user-quota-remaining", "")
    return (int(remaining) if remaining.isdigit() else None), _hh_mm_ss(headers)


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """How long a throttled answer asks to wait: the longer of its two headers; None when it carries neither."""
    seconds = headers.get("Retry-After", "")
    asked = [timedelta(seconds=int(seconds))] if seconds.isdigit() else []
    resets_after = _hh_mm_ss(headers)
    return max([*asked, resets_after] if resets_after else asked, default=None)


def _hh_mm_ss(headers: Mapping[str, str]) -> timedelta | None:
    found = re.fullmatch(r"(\d+):(\d\d):(\d\d)", headers.get("x-ms-user-quota-resets-after", ""))
    if found is None:
        return None
    hours, minutes, seconds = map(int, found.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)
