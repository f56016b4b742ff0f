"""The reads that a run makes, each giving observations: the snapshot, the inventory, the change records."""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa

from azure_port_sync.core.entities import observed_absence, observed_row, observed_subscription
from azure_port_sync.core.kinds import SUBSCRIPTION_TYPE
from azure_port_sync.core.rows import OBSERVATION, table_of, to_frame
from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window
from azure_port_sync.resource_graph import kql
from azure_port_sync.resource_graph.client import DataMovedError, NoAccessError, Page, QueryScope, ResourceGraph
from azure_port_sync.resource_graph.kql import Query

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")
Observe = Callable[[Mapping[str, Any]], dict[str, Any]]

#: The largest number of subscriptions that one request may name (learn.microsoft.com, Resource Graph
#: troubleshooting).
MAX_SUBSCRIPTIONS = 1000

#: Ids or groups that one query lists; Microsoft advises up to 1000, and half of it keeps the query text small.
_LISTED = 500

#: Parts by hash for each page that a moving query takes: with a fifth of a page to spare, no part is more than a page,
#: though hashes fall unevenly; what comes in one page cannot move between pages.
_PARTS_OF_A_PAGE = 1.25

#: How often a query is split by hash, and its parts again, before its data counts as moving too fast to be read.
_SPLITS = 3

#: Requests in flight: more would only wait for the quota of three requests a second.
_IN_FLIGHT = 4


#: A type that no resource has: an empty restriction would be none.
_NO_TYPE = ("none/none",)


@dataclass(frozen=True)
class ReadResult:
    """The observations of one kind of read, in the columns of OBSERVATION, and the query that gave them."""

    frame: pd.DataFrame
    query: str
    total_records: int  # that Azure says there are
    derived: int = 0  # observations that stand for no row of their own

    @property
    def rows(self) -> int:
        """Rows that were read."""
        return len(self.frame)


class AzureReader:
    """Reads one scope. Every method raises AzureError as `ResourceGraph` does."""

    def __init__(self, graph: ResourceGraph, scope: Scope, *, batch_size: int = MAX_SUBSCRIPTIONS) -> None:
        """`batch_size` is the number of subscriptions that one query names."""
        self.graph = graph
        self.scope = scope
        self._batch_size = batch_size

    def of_types(self, resource_types: Collection[str]) -> "AzureReader":
        """Reads the part of the scope that is of these (lower-case) types."""
        wanted = set(resource_types) & set(self.scope.resource_types or resource_types)
        scope = replace(self.scope, resource_types=tuple(sorted(wanted)) or _NO_TYPE)
        return AzureReader(self.graph, scope, batch_size=self._batch_size)

    def containers(self, ids: Sequence[str] | None = None) -> ReadResult:
        """The snapshot: all subscriptions and resource groups, flagged `in_scope`; with `ids` only those.

        A subscription that shows only through its groups (a Reader on a group) is observed with its id as name.
        """
        if ids is not None:
            return self._read(
                [kql.containers(self.scope, part) for part in _listed(ids)], self._everywhere(), observed_row
            )
        reading = self._read([kql.containers(self.scope)], self._everywhere(), observed_row)
        frame = reading.frame
        shown = set(frame.loc[frame["type"] == SUBSCRIPTION_TYPE, "subscription_id"])
        hidden = sorted(set(frame["subscription_id"]) - shown)
        extra = to_frame(table_of((observed_subscription(id_, id_) for id_ in hidden), OBSERVATION))
        return (
            replace(reading, frame=pd.concat([frame, extra], ignore_index=True), derived=len(hidden))
            if hidden
            else reading
        )

    def inventory(self, subscriptions: Sequence[str]) -> ReadResult:
        """Every resource in scope in these subscriptions."""
        return self._read([kql.resources(self.scope)], self._batches_of(subscriptions), self._resource)

    def inventory_of_groups(self, groups: Sequence[tuple[str, str]]) -> ReadResult:
        """Every resource in scope in these (subscription id, resource group) pairs, lower-case."""
        subscriptions = sorted({subscription for subscription, _ in groups})
        queries = [kql.resources(self.scope, groups=part) for part in _listed(groups)]
        return self._read(queries, self._batches_of(subscriptions), self._resource)

    def resources(self, azure_ids: Iterable[str]) -> ReadResult:
        """The resources with these ids that Azure shows now, flagged `in_scope`."""
        queries = [kql.resources(self.scope, ids=part) for part in _listed(_distinct(azure_ids))]
        return self._read(queries, self._everywhere(), self._resource)

    def changes(self, window: Window, subscriptions: Sequence[str]) -> ReadResult:
        """The change records of the window, one observation a record."""
        query = kql.resource_changes(self.scope, window)
        return self._read([query], self._batches_of(subscriptions), self._change)

    def changes_of(self, azure_ids: Iterable[str], window: Window) -> ReadResult:
        """The change records of these resources, also those of rows that are out of scope."""
        queries = [kql.resource_changes(self.scope, window, part) for part in _listed(_distinct(azure_ids))]
        return self._read(queries, self._everywhere(), self._change)

    def readable(self, subscriptions: Sequence[str], *, anywhere: bool = False) -> set[str]:
        """Those of these subscriptions (lower-case ids) that show anything now: their own row, or one of their groups.

        Asked for subscriptions of which it may not read all, Azure leaves those out without a word
        (learn.microsoft.com/azure/governance/resource-graph/overview), so that one that was lost looks like one that
        is empty. `anywhere` asks the whole tenant, whatever AZURE_MANAGEMENT_GROUPS says, which tells a subscription
        that was moved from one that was lost.
        """
        asked = _distinct(subscriptions)
        if anywhere:
            shown = _in_threads(self._shown, [(kql.readable(part), QueryScope()) for part in _listed(asked)])
        else:
            shown = _in_threads(self._shown_if_any, [(kql.readable(), where) for where in self._batches_of(asked)])
        return {subscription for part in shown for subscription in part}

    def _shown(self, query: Query, where: QueryScope) -> set[str]:
        pages, _ = self.graph.read(str(query), where, _ids)
        return {str(subscription) for page in pages for subscription in page["id"].to_pylist()}

    def _shown_if_any(self, query: Query, where: QueryScope) -> set[str]:
        try:
            return self._shown(query, where)
        except NoAccessError:  # said only when none of the subscriptions that a request lists can be read
            return set()

    def _everywhere(self) -> list[QueryScope]:
        if self.scope.subscription_ids:
            return self._batches_of(self.scope.subscription_ids)
        return [QueryScope(management_groups=list(self.scope.management_groups) or None)]

    def _batches_of(self, subscriptions: Sequence[str]) -> list[QueryScope]:
        return [QueryScope(subscriptions=list(batch)) for batch in _batches(subscriptions, self._batch_size)]

    def _read(self, queries: Sequence[Query], places: Sequence[QueryScope], observe: Observe) -> ReadResult:
        convert = partial(_convert, observe)
        work = [(query, where) for query in queries for where in places]
        parts = _in_threads(lambda query, where: self._read_whole(query, where, convert), work)
        tables = [table for pages, _ in parts for table in pages]
        frame = to_frame(pa.concat_tables([OBSERVATION.empty_table(), *tables]))
        return ReadResult(frame, str(queries[0]) if queries else "", sum(total for _, total in parts))

    def _read_whole(
        self, query: Query, where: QueryScope, convert: Callable[[Page], pa.Table], splits: int = _SPLITS
    ) -> tuple[list[pa.Table], int]:
        """Read a query, in ever smaller parts where the data moves faster than its pages come.

        First over fewer subscriptions at a time, and then, for one of them or where none are named, in parts by hash
        that should fit a page each.
        """
        try:
            return self.graph.read(str(query), where, convert)
        except DataMovedError as error:
            subscriptions = where.subscriptions or []
            if len(subscriptions) > 1:
                middle = len(subscriptions) // 2
                halves = subscriptions[:middle], subscriptions[middle:]
                smaller = [(query, QueryScope(subscriptions=half)) for half in halves]
            elif splits > 0:
                splits -= 1
                number = max(2, math.ceil(error.pages * _PARTS_OF_A_PAGE))
                smaller = [(part, where) for part in query.split(number)]
            else:
                raise
        logger.info("Azure: the data moves while it is read; reading it in %s parts", len(smaller))
        read = [self._read_whole(part, place, convert, splits) for part, place in smaller]
        return [table for tables, _ in read for table in tables], sum(total for _, total in read)

    def _resource(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return observed_row(row, extra_columns=self.scope.extra_columns)

    def _change(self, row: Mapping[str, Any]) -> dict[str, Any]:
        change = {name: row[name] for name in ("changeType", "changeTime", "changedProperties")}
        if not row["rowId"]:
            return observed_absence(row["targetId"], row["targetType"], change)
        current = {
            **row,
            "id": row["rowId"],  # in place of the record's own
            "name": row["rowName"],
            "type": row["rowType"],
            "location": row["rowLocation"],
            "tags": row["rowTags"],
        }
        return observed_row(current, extra_columns=self.scope.extra_columns, change=change)


def _in_threads(task: Callable[[Query, QueryScope], R], work: Sequence[tuple[Query, QueryScope]]) -> list[R]:
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        return list(pool.map(lambda item: task(*item), work))


def _convert(observe: Observe, page: Page) -> pa.Table:
    return table_of(map(observe, page), OBSERVATION)


def _ids(page: Page) -> pa.Table:
    return pa.table({"id": [row["id"] for row in page]})


def _distinct(ids: Iterable[str]) -> list[str]:
    """Each id once, whatever its casing, in one of the spellings that were given."""
    return sorted({id_.lower(): id_ for id_ in ids}.values())


def _batches(values: Sequence[T], size: int) -> list[Sequence[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _listed(values: Sequence[T]) -> list[Sequence[T]]:
    return _batches(values, _LISTED)
