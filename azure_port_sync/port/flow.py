"""The shared patience of all requests to one door of Port: tried again one by one, paused together.

When Port asks one request to wait, all of them wait. There is nothing beside that to send fewer at once: measured
against a Port that throttles, halving the number in flight saved no request and took as long or longer.
"""

import logging
import random
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from azure_port_sync.core.clock import StoppableClock, wait_in_words
from azure_port_sync.port.failures import RefusedError, TransientError

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_LONGEST_BACKOFF_SECONDS = 30.0
_LOG_EVERY = timedelta(seconds=10)  # all threads meet the same trouble

#: How often one request may fail, while others succeed, before that is taken for something about this request.
KEPT_FAILING_AFTER = 6

#: The same for a request that carries several events, which may do better apart.
_TOGETHER_AFTER = 3

#: How many requests may fail until the deadline, one after the other, before that is taken for an outage.
_OUTAGE_AFTER = 3


class KeptFailingError(Exception):
    """Port keeps failing at this request, and answers others meanwhile."""


class Flow:
    """The requests to one door of Port, as they are counted, paused and tried again. Safe to share between threads.

    `deadline` bounds the time without one success, not the time of the whole. Flows that share a clock are stopped
    together.
    """

    def __init__(self, clock: StoppableClock, *, deadline: timedelta, name: str = "Port") -> None:
        self.deadline = deadline
        self.requests = 0
        self.bytes = 0
        self.retries = 0
        self.waited_seconds = 0.0
        self._name = name
        self._given_up = 0
        self._paused_because = ""
        self._clock = clock
        self._lock = threading.Lock()
        self._succeeded_at = self._paused_until = self._log_at = self._announced_until = clock.elapsed()

    def stop(self) -> None:
        """Begin no further request, for good; what waits for its turn ends within a second."""
        self._clock.stop()

    def restart_deadline(self) -> None:
        """Measure the time without a success from now on: requests begin, or Port has answered one."""
        with self._lock:
            self._succeeded_at = self._clock.elapsed()
            self._given_up = 0

    @property
    def time_left(self) -> float:
        """Seconds until the deadline."""
        return (self._succeeded_at + self.deadline - self._clock.elapsed()).total_seconds()

    def call(self, attempt: Callable[[], _T], heartbeat: Callable[[], None], *, together: bool = False) -> _T:
        """Return what `attempt` returns; it is called again after each TransientError, with jitter and as Port asks.

        `heartbeat` comes before each attempt, and stops all of them by raising. Raises KeptFailingError when Port keeps
        failing at this one request; soon when it carries many events `together`, which may do better apart. At the
        deadline that can be the request's own trouble too, so only when several requests in a row have come to it
        the last TransientError is raised. Raises StoppedError after `stop`.
        """
        number = failed = 0
        failed_first = self._clock.elapsed()
        while True:
            try:
                self._wait_for_pause()
                heartbeat()
                self._clock.raise_if_stopped()
                with self._lock:
                    self.requests += 1
                result = attempt()
            except RefusedError:  # which is an answer
                self.restart_deadline()
                raise
            except TransientError as caught:
                error = caught
            else:
                self.restart_deadline()
                return result
            if error.alone:
                failed += 1
                failed_first = self._clock.elapsed() if failed == 1 else failed_first
            if self._keeps_failing(failed, others_succeed=self._succeeded_at > failed_first, together=together):
                raise KeptFailingError(str(error))
            if self.time_left <= 0:
                raise error
            backoff = min(_backoff(number), max(self.time_left, 0.0))
            self._note_retry(error, backoff)
            self._clock.sleep(backoff)
            number += 1

    def _keeps_failing(self, failed: int, *, others_succeed: bool, together: bool) -> bool:
        """Return whether a request that has failed so often, for what may be its own trouble, is given up alone."""
        if failed >= _TOGETHER_AFTER if together else failed >= KEPT_FAILING_AFTER and others_succeed:
            return True
        if not failed or self.time_left > 0:
            return False
        with self._lock:
            self._given_up += 1
            return self._given_up <= _OUTAGE_AFTER

    def pause(self, seconds: float, why: str = "it asks for time") -> None:
        """Let all requests wait for so long, as Port asks; never past the deadline."""
        seconds = min(seconds, self.deadline.total_seconds())
        until = self._clock.elapsed() + timedelta(seconds=seconds)
        with self._lock:
            self._paused_until = max(self._paused_until, until)
            self._paused_because = why
        self._announce_wait(why, seconds)

    def _wait_for_pause(self) -> None:
        # In a loop: while this one slept, another may have been asked to wait for longer.
        while (left := (self._paused_until - self._clock.elapsed()).total_seconds()) > 0:
            left = min(left, self.time_left)
            if left <= 0:
                raise TransientError(self._paused_because)
            with self._lock:
                self.waited_seconds += left
            self._clock.sleep(left)

    def count_bytes(self, number: int) -> None:
        """Note that so many bytes have reached Port."""
        with self._lock:
            self.bytes += number

    def _note_retry(self, error: TransientError, backoff: float) -> None:
        if error.wait:
            self.pause(error.wait, str(error))
        self._announce_wait(str(error), backoff)
        now = self._clock.elapsed()
        with self._lock:
            self.retries += 1
            logs = now >= self._log_at
            if logs:
                self._log_at = now + _LOG_EVERY
        if logs:
            logger.warning("%s: %s; trying again", self._name, error)

    def _announce_wait(self, reason: str, seconds: float) -> None:
        """Log a long wait with its end; those of other requests that end about then need no line of their own."""
        now = self._clock.elapsed()
        until = now + timedelta(seconds=seconds)
        with self._lock:
            if until - max(now, self._announced_until) <= _LOG_EVERY:
                return
            self._announced_until = until
            self._log_at = max(self._log_at, now + _LOG_EVERY)
        logger.warning("%s: %s; waiting %s", self._name, reason, wait_in_words(self._clock, seconds))


def _backoff(number: int) -> float:
    """Return the seconds to wait after the attempt of this number (from 0): twice as long each time, with jitter."""
    return random.uniform(0, min(0.5 * 2.0 ** min(number, 10), _LONGEST_BACKOFF_SECONDS))  # noqa: S311
