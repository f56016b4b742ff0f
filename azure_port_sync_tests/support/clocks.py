"""Clocks for tests of what has no sandbox."""

import threading
from datetime import datetime, timedelta

from azure_port_sync_tests.conftest import NOW


class StillClock:
    """A clock that stands still but for sleeping; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = NOW

    def now(self) -> datetime:
        with self._lock:
            return self._now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += timedelta(seconds=seconds)
