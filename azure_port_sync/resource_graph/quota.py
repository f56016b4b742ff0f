"""Resource Graph's quota, shared by all threads of a run.

A principal may send 15 queries in 5 seconds; every answer says what is left and when it resets (learn.microsoft.com/
azure/governance/resource-graph/concepts/guidance-for-throttled-requests). The limiter starts from the documented
figure and then believes the answers, so a quota that support has raised is used without a setting.
"""

import logging
import re
import threading
from collections import deque
from collections.abc import Mapping
from datetime import timedelta

from azure_port_sync.core.clock import NOTABLE_SECONDS, Clock, wait_in_words

logger = logging.getLogger(__name__)

DOCUMENTED_REQUESTS = 15
DOCUMENTED_PERIOD = timedelta(seconds=5)

#: The longest that an answer keeps all others waiting; a service that says more is asked again, and may say so again.
_LONGEST_WAIT = timedelta(minutes=1)

#: How long to wait for an answer when every request that the quota has room for is in flight.
_A_MOMENT = timedelta(seconds=0.1)


class QuotaLimiter:
    """Lets a request go when the quota has room, and otherwise waits on the clock.

    A request counts from its start until a period after its answer, because Azure counts it when it arrives, which is
    somewhere in between.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._capacity = DOCUMENTED_REQUESTS
        self._in_flight = 0
        self._answered: deque[timedelta] = deque()
        self._closed_until: timedelta | None = None
        #: Seconds that requests have waited here, summed over threads.
        self.waited_seconds = 0.0

    def acquire(self) -> None:
        """Return when one more request may be sent; `answered` must follow it."""
        while (seconds := self._take_or_wait()) > 0:
            self._clock.sleep(seconds)

    def answered(self, headers: Mapping[str, str]) -> None:
        """Count an answer (or the failure of a request: no headers), and take in what it says about the quota."""
        remaining, resets_after = quota_of(headers)
        with self._lock:
            now = self._clock.elapsed()
            self._in_flight -= 1
            self._answered.append(now)
            if remaining is None:
                return
            self._capacity = max(self._capacity, remaining + 1)
            if remaining == 0 and self._used(now) < self._capacity:  # somebody else uses the same principal
                wait = min(resets_after or DOCUMENTED_PERIOD, _LONGEST_WAIT)
                was_open = self._closed_until is None or self._closed_until <= now
                self._closed_until = now + wait
                if was_open and wait.total_seconds() > NOTABLE_SECONDS:  # one line, however many threads wait
                    words = wait_in_words(self._clock, wait.total_seconds())
                    logger.warning("Azure: the quota of this principal is used up; waiting %s", words)

    def _take_or_wait(self) -> float:
        with self._lock:
            now = self._clock.elapsed()
            opens = self._closed_until or now
            if self._used(now) >= self._capacity:
                opens = max(opens, self._answered[0] + DOCUMENTED_PERIOD if self._answered else now + _A_MOMENT)
            if opens <= now:
                self._in_flight += 1
                return 0.0
            seconds = (opens - now).total_seconds()
            self.waited_seconds += seconds
            return seconds

    def _used(self, now: timedelta) -> int:
        while self._answered and self._answered[0] <= now - DOCUMENTED_PERIOD:
            self._answered.popleft()
        return self._in_flight + len(self._answered)


def quota_of(headers: Mapping[str, str]) -> tuple[int | None, timedelta | None]:
    """Return the rest of the quota and the time until it resets; None for a figure that the headers do not give."""
    return _number(headers, "x-ms-user-quota-remaining"), _hh_mm_ss(headers)


def retry_after(headers: Mapping[str, str]) -> timedelta | None:
    """Return the wait that a throttled answer asks for: the longer of its two headers; None if it carries neither."""
    seconds = _number(headers, "Retry-After")
    asked = [] if seconds is None else [timedelta(seconds=seconds)]
    resets_after = _hh_mm_ss(headers)
    return max([*asked, resets_after] if resets_after else asked, default=None)


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else None  # what is longer fits into no timedelta


def _hh_mm_ss(headers: Mapping[str, str]) -> timedelta | None:
    found = re.fullmatch(r"(\d{1,6}):(\d\d):(\d\d)", headers.get("x-ms-user-quota-resets-after", ""))
    if found is None:
        return None
    hours, minutes, seconds = map(int, found.groups())
    return timedelta(hours=hours, minutes=minutes, seconds=seconds)
