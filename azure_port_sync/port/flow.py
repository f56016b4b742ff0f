"""How requests flow to Port: so many at once, held back together where Port asks for time, tried again one by one.

Trouble is shared: when Port says "too many" or "later" to one request, all of them wait, and half as many are in
flight from then on. Each success in a row gives some of that back.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from azure_port_sync.core.clock import Clock
from azure_port_sync.port.transport import TransientError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_BACKOFF = wait_random_exponential(multiplier=0.5, max=30)
_QUIET = timedelta(seconds=10)

#: How often one request may fail, while others succeed, before that is taken for something about this request.
STUBBORN_AFTER = 6
_STUBBORN_TOGETHER = 3

#: How many requests may fail until the deadline, one after the other, before that is taken for an outage.
_STUBBORN_IN_A_ROW = 3

_TOO_MANY = 429  # the one trouble that is never about the request


class StubbornError(Exception):
    """Port goes on failing at this request, and answers others meanwhile."""


class Flow:
    """The shared patience of all requests to one host. Safe to share between threads.

    `deadline` bounds the time without one success, not the time of the whole.
    """

    def __init__(self, clock: Clock, *, concurrency: int, deadline: timedelta, name: str = "Port") -> None:
        self.concurrency = concurrency
        self.deadline = deadline
        self.requests = 0
        self.bytes = 0
        self.retries = 0
        self.waited_seconds = 0.0
        self._name = name
        self._given_up = 0
        self._quiet_because = ""
        self._clock = clock
        self._slots = _Slots(concurrency)
        self._lock = threading.Lock()
        self._succeeded_at = self._quiet_until = self._told_at = clock.now()

    def start(self) -> None:
        """Begin to measure the time without a success."""
        with self._lock:
            self._succeeded_at = self._clock.now()
            self._given_up = 0

    @property
    def time_left(self) -> float:
        """Seconds until the deadline."""
        return (self._succeeded_at + self.deadline - self._clock.now()).total_seconds()

    def call(self, attempt: Callable[[], _T], heartbeat: Callable[[], None], *, together: bool = False) -> _T:
        """What `attempt` returns; it is called again after each TransientError, with jitter and as Port asks.

        `heartbeat` comes before each attempt, and stops all of them by raising. Raises StubbornError when this
        one request goes on failing; soon when it carries many events `together`, which may do better apart. At the
        deadline that can be the request's own trouble too, so only when several requests in a row have come to it
        the last TransientError is raised.
        """
        failed_first = self._clock.now()
        failed = 0

        def once() -> _T:
            with self._slots.one():
                self._wait_until_quiet()
                heartbeat()
                with self._lock:
                    self.requests += 1
                result = attempt()
            self.succeed()
            return result

        def stop(state: RetryCallState) -> bool:
            nonlocal failed, failed_first
            error = state.outcome.exception() if state.outcome else None
            failed += isinstance(error, TransientError) and error.status != _TOO_MANY
            if failed == 1:
                failed_first = self._clock.now()
            if together:
                stubborn = failed >= _STUBBORN_TOGETHER
            else:
                stubborn = failed >= STUBBORN_AFTER and self._succeeded_at > failed_first
            if stubborn or (failed and self.time_left <= 0 and not self._is_outage()):
                raise StubbornError(str(error))
            return self.time_left <= 0

        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=lambda state: min(float(_BACKOFF(state)), max(self.time_left, 0.0)),
            stop=stop,
            sleep=self._clock.sleep,
            before_sleep=self._before_retry,
            reraise=True,
        )
        return retrying(once)

    def _is_outage(self) -> bool:
        with self._lock:
            self._given_up += 1
            return self._given_up > _STUBBORN_IN_A_ROW

    def hold_back(self, seconds: float, why: str = "it asks for time") -> None:
        """Let all requests wait for so long, as Port asks; never past the deadline."""
        until = self._clock.now() + timedelta(seconds=min(seconds, self.deadline.total_seconds()))
        with self._lock:
            self._quiet_until = max(self._quiet_until, until)
            self._quiet_because = why

    def _wait_until_quiet(self) -> None:
        # In a loop: while this one slept, another may have been asked to wait for longer.
        while (left := (self._quiet_until - self._clock.now()).total_seconds()) > 0:
            left = min(left, self.time_left)
            if left <= 0:
                raise TransientError(self._quiet_because, status=_TOO_MANY)
            with self._lock:
                self.waited_seconds += left
            self._clock.sleep(left)

    def succeed(self) -> None:
        """Port has taken something: the time without a success begins anew."""
        self._slots.widen()
        with self._lock:
            self._succeeded_at = self._clock.now()
            self._given_up = 0

    def count_bytes(self, number: int) -> None:
        """So many bytes have reached Port."""
        with self._lock:
            self.bytes += number

    def _before_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        now = self._clock.now()
        if isinstance(error, TransientError) and error.wait:
            self.hold_back(error.wait, str(error))
        with self._lock:
            self.retries += 1
            tell = now >= self._told_at  # all threads meet the same trouble
            if tell:
                self._told_at = now + _QUIET
        if tell:
            logger.warning("%s: %s; trying again", self._name, error)


class _Slots:
    """So many requests in flight at once: halved when Port says "too many", one more after each full round."""

    def __init__(self, most: int) -> None:
        self._most = self._limit = most
        self._in_use = self._good = self._halvings = 0
        self._free = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[None]:
        with self._free:
            while self._in_use >= self._limit:
                self._free.wait()
            self._in_use += 1
            halvings = self._halvings
        try:
            yield
        except TransientError as error:
            if error.status == 429:
                self._halve(halvings)
            raise
        finally:
            with self._free:
                self._in_use -= 1
                self._free.notify()

    def widen(self) -> None:
        with self._free:
            self._good += 1
            if self._limit < self._most and self._good >= self._limit:
                self._good = 0
                self._limit += 1
                self._free.notify()

    def _halve(self, halvings: int) -> None:
        """Those that were in flight together are refused together, and halve the number once."""
        with self._free:
            if halvings == self._halvings:
                self._halvings += 1
                self._good = 0
                self._limit = max(self._limit // 2, 1)
