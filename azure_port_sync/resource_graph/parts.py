"""Results that do not fit into one response, read as parts that each do.

A response is of one instant; the pages of a longer result are not, because Resource Graph pages by offset over live
data: a row that goes shifts one that stays past its reader. So a result that one response does not hold whole is read
as parts by a hash of the row's id, each of which fits (learn.microsoft.com/azure/governance/resource-graph/concepts/
paging-results). A row that is there throughout lies in one part, whatever comes and goes around it.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import timedelta
from typing import Any, NamedTuple

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import AzureError
from azure_port_sync.resource_graph.client import MAX_ROWS, QueryScope, Response
from azure_port_sync.resource_graph.kql import Query

logger = logging.getLogger(__name__)

#: How full the response to a part is meant to be. Hashes fall unevenly: of parts of 850 rows, one in three million is
#: larger than the 1000 rows of a response (five standard deviations), and is split again.
FILL = 0.85

#: The number of parts at which a result that still does not fit is given up: more would be fewer than one row each in
#: a tenant of fifty million.
MAX_PARTS = 2**16

#: Requests in flight. Each counts against the quota from its start until five seconds after its answer (`quota`), so
#: with answers that take two seconds, 15 in 5 seconds keep four or five busy.
IN_FLIGHT = 6

#: How long a whole read may take: the quota allows a million rows in six minutes.
DEADLINE = timedelta(hours=2)

_PROGRESS = timedelta(seconds=10)


class Part(NamedTuple):
    """One request's share of a read: a query, or a part of one, over some subscriptions."""

    query: Query
    scope: QueryScope

    def split(self, number: int) -> "list[Part]":
        """Return the same share in so many smaller ones."""
        if self.query.parts * number > MAX_PARTS:
            raise AzureError(
                "Azure Resource Graph gives no whole result, in however small parts it is asked for; nothing was "
                "sent. If one row is too large for a response, take columns out of EXTRA_RESOURCE_COLUMNS; where there "
                "are none, ask Azure's support."
            )
        logger.info("Azure: a result does not fit into one response; reading it in %s parts", number)
        return [Part(query, self.scope) for query in self.query.split(number)]


def read_in_parts(
    ask: Callable[[str, QueryScope], Response],
    shares: Sequence[Part],
    *,
    clock: Clock,
    max_rows: int = MAX_ROWS,
    in_flight: int = IN_FLIGHT,
    stop: Callable[[], None] = lambda: None,
) -> Iterator[Response]:
    """Yield complete responses that together hold all rows of these shares, in any order, as they come in.

    The newest parts are asked for first, so that what can never fit is found out soon. When the run is cancelled,
    `stop` has to end what is being asked, and nobody waits for it.
    """
    waiting = list(shares)[::-1]
    asked: dict[Future[Response], Part] = {}
    progress = _Progress(clock)
    pool = ThreadPoolExecutor(in_flight, thread_name_prefix="azure")
    try:
        while waiting or asked:
            while waiting and len(asked) < in_flight:
                part = waiting.pop()
                asked[pool.submit(ask, str(part.query), part.scope)] = part
            for future in wait(asked, return_when=FIRST_COMPLETED).done:
                part = asked.pop(future)
                response = future.result()
                if response.complete:
                    progress.report(len(response.rows), len(waiting) + len(asked))
                    yield response
                elif filling := _rows_of_one_id(response, max_rows, part.query.left_out):
                    yield Response(filling, len(filling), complete=True)
                    waiting.append(Part(part.query.without(_row_id(filling[0])), part.scope))
                else:
                    waiting += part.split(max(2, math.ceil(response.total_records / (max_rows * FILL))))
    except Exception:
        pool.shutdown(cancel_futures=True)
        raise
    except BaseException:
        stop()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _rows_of_one_id(response: Response, max_rows: int, left_out: Sequence[str]) -> list[Any]:
    """Return the rows of the id that more than half of a full response is about; none where there is no such id.

    They all lie in one part, however small. Hundreds of rows are all that anything can need of one id, so the rest is
    asked for without it.
    """
    by_id: dict[str, list[Any]] = defaultdict(list)
    for row in response.rows:
        by_id[_row_id(row).lower()].append(row)
    most = max(by_id.items(), key=lambda item: len(item[1]), default=("", []))
    if not most[0] or len(most[1]) <= max_rows / 2 or _row_id(most[1][0]) in left_out:
        return []  # one that comes although it was left out is of a service that heeds nothing
    return most[1]


def _row_id(row: Any) -> str:
    """The id, as Azure spells it, of the table's row that a row was made of; "" where it has none."""
    id_ = (row.get("recordId") or row.get("id")) if isinstance(row, dict) else None
    return id_ if isinstance(id_, str) else ""


class _Progress:
    """Logs every ten seconds how far a long read has come, and ends it at its deadline."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began_at = self._reported_at = clock.elapsed()
        self._rows = 0

    def report(self, rows: int, left: int) -> None:
        self._rows += rows
        now = self._clock.elapsed()
        if left and now - self._began_at > DEADLINE:
            raise AzureError(
                f"One read of Azure Resource Graph was not whole after {DEADLINE // timedelta(hours=1)} hours "
                f"({self._rows:,} rows, {left:,} requests to go); nothing was sent. The quota of this principal is "
                "used up by others, or Azure is slow: give the sync a principal of its own; the next run tries again."
            )
        if now - self._reported_at >= _PROGRESS:
            self._reported_at = now
            logger.info("Azure: %s rows read, %s requests to go", f"{self._rows:,}", f"{left:,}")
