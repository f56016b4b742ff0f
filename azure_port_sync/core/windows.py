"""The window of change records that a run reads.

A window ends at one reading of the clock and starts before the watermark, so that a record published late is still
read; the ledger makes sure that reading a record twice does not deliver it twice.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

#: Azure publishes a change record up to five minutes late (learn.microsoft.com, "Get resource changes"); twice that.
OVERLAP = timedelta(minutes=10)

#: Change records are kept for 14 days, and for 7 in times of trouble (same page): an older watermark proves nothing.
OLDEST_WATERMARK = timedelta(days=7)
RETENTION = timedelta(days=14)


@dataclass(frozen=True)
class Window:
    """The half-open interval ``(start, end]`` of change records."""

    start: datetime
    end: datetime

    def __str__(self) -> str:
        return f"({self.start:%Y-%m-%d %H:%M:%S}, {self.end:%Y-%m-%d %H:%M:%S}] UTC"


def next_window(watermark: datetime | None, now: datetime, *, at_least: timedelta) -> Window:
    """The window that leaves no gap behind the watermark, however long ago that is, and reads back `at_least` so far.

    Without a watermark, and beyond what Azure keeps, it holds all the records there are.
    """
    if watermark is None:
        return Window(now - RETENTION, now)
    return Window(max(min(watermark - OVERLAP, now - at_least), now - RETENTION), now)
