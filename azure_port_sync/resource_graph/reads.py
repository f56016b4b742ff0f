"""The reads that a run makes, each giving observations: the snapshot, the inventory, the change records."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window
from azure_port_sync.resource_graph import kql
from azure_port_sync.resource_graph.client import QueryScope, ResourceGraph, Response
from azure_port_sync.resource_graph.failures import NoAccessError
from azure_port_sync.resource_graph.kql import Query
from azure_port_sync.resource_graph.parts import Part, read_in_parts
from azure_port_sync.resource_graph.rows import ReadResult, read_rows

T = TypeVar("T")

#: The largest number of subscriptions that one request may name (learn.microsoft.com, Resource Graph
#: troubleshooting).
MAX_SUBSCRIPTIONS = 1000

#: Ids or groups that one query lists; Microsoft advises up to 1000, and half of it keeps the query text small.
_LISTED = 500

#: A type that no resource has: an empty restriction would be none.
_NO_TYPE = ("none/none",)


class AzureReader:
    """Reads one scope. Every method raises AzureError as `ResourceGraph` does."""

    def __init__(self, graph: ResourceGraph, scope: Scope, *, batch_size: int = MAX_SUBSCRIPTIONS) -> None:
        """`batch_size` is the number of subscriptions that one query names."""
        self.graph = graph
        self.scope = scope
        self._batch_size = batch_size

    def now(self) -> datetime:
        """Return the time by Azure's clock."""
        return self.graph.now()

    def of_types(self, resource_types: Collection[str]) -> "AzureReader":
        """Return a reader of the part of the scope that is of these (lower-case) types."""
        wanted = set(resource_types) & set(self.scope.resource_types or resource_types)
        scope = replace(self.scope, resource_types=tuple(sorted(wanted)) or _NO_TYPE)
        return AzureReader(self.graph, scope, batch_size=self._batch_size)

    def containers(self, ids: Sequence[str] | None = None) -> ReadResult:
        """Read the snapshot: all subscriptions and resource groups, flagged `in_scope`; with `ids` only those.

        A subscription may show only through its groups (a Reader on a group).
        """
        listed = [None] if ids is None else _batches(ids)
        return self._read(self._everywhere(kql.containers(self.scope, some) for some in listed))

    def inventory(self, subscriptions: Sequence[str]) -> ReadResult:
        """Read every resource in scope in these subscriptions."""
        return self._read(self._within(subscriptions, kql.resources(self.scope)))

    def inventory_of_groups(self, groups: Sequence[tuple[str, str]]) -> ReadResult:
        """Read every resource in scope in these (subscription id, resource group name) pairs, spelled as Azure does."""
        shares = [
            share
            for some in _batches(sorted(groups))
            for share in self._within(_distinct(id_ for id_, _ in some), kql.resources(self.scope, groups=some))
        ]
        return self._read(shares)

    def resources(self, azure_ids: Iterable[str]) -> ReadResult:
        """Read the resources with these ids that Azure shows now, flagged `in_scope`."""
        queries = [kql.resources(self.scope, ids=some) for some in _batches(_distinct(azure_ids))]
        return self._read(self._everywhere(queries))

    def changes(self, window: Window, subscriptions: Sequence[str]) -> ReadResult:
        """Read the change records of the window, one observation a record."""
        return self._read(self._within(subscriptions, kql.resource_changes(self.scope, window)), changes=True)

    def changes_of(self, azure_ids: Iterable[str], window: Window) -> ReadResult:
        """Read the change records of these resources, also those of rows that are out of scope."""
        queries = [kql.resource_changes(self.scope, window, some) for some in _batches(_distinct(azure_ids))]
        return self._read(self._everywhere(queries), changes=True)

    def container_changes(self, window: Window) -> ReadResult:
        """Read the change records of subscriptions and groups in the window, one observation a record, without rows."""
        return self._read(self._everywhere([kql.container_changes(self.scope, window)]), changes=True)

    def readable(self, subscriptions: Collection[str], *, whole: bool = False, anywhere: bool = False) -> set[str]:
        """Return the subscriptions (lower-case ids) among these that show anything now: their own row, or a group.

        Azure silently leaves out subscriptions that may not be read (learn.microsoft.com/azure/governance/
        resource-graph/overview), so that one that was lost looks like one that is empty. With `whole`, a group is not
        enough. `anywhere` asks the whole tenant, whatever AZURE_MANAGEMENT_GROUPS says, which tells a subscription that
        was moved from one that was lost.
        """
        asked = _distinct(subscriptions)
        if anywhere:
            shares = [Part(kql.readable(some), QueryScope()) for some in _batches(asked)]
        else:
            shares = self._within(asked, kql.readable(whole=whole))
        return {row["id"] for response in self._responses(shares) for row in response.rows}

    def _everywhere(self, queries: Iterable[Query]) -> list[Part]:
        """Each query over all that is in scope."""
        if self.scope.subscription_ids:
            return [share for query in queries for share in self._within(self.scope.subscription_ids, query)]
        whole = QueryScope(management_groups=self.scope.management_groups or None)
        return [Part(query, whole) for query in queries]

    def _within(self, subscriptions: Sequence[str], query: Query) -> list[Part]:
        """A query over these subscriptions, a batch at a time."""
        return [Part(query, QueryScope(subscriptions=some)) for some in _batches(subscriptions, self._batch_size)]

    def _read(self, shares: Sequence[Part], *, changes: bool = False) -> ReadResult:
        return read_rows(
            self._responses(shares),
            changes=changes,
            extra_columns=self.scope.extra_columns,
            query=str(shares[0].query) if shares else "",
        )

    def _responses(self, shares: Sequence[Part]) -> Iterator[Response]:
        graph = self.graph
        return read_in_parts(self._query, shares, clock=graph.clock, max_rows=graph.max_rows, stop=graph.stop)

    def _query(self, query: str, scope: QueryScope) -> Response:
        """Ask Azure. Subscriptions of which not one can be read have no rows, as one beside others that can has none.

        Whoever needs to know that a subscription was lost and is not empty asks which are `readable`.
        """
        try:
            return self.graph.query(query, scope)
        except NoAccessError:
            if scope.subscriptions is None:
                raise
            return Response([], 0, complete=True, refused=scope.subscriptions)


def _distinct(ids: Iterable[str]) -> list[str]:
    """Each id once, whatever its casing, in one of the spellings that were given."""
    return sorted({id_.lower(): id_ for id_ in ids}.values())


def _batches(values: Sequence[T], size: int = _LISTED) -> list[Sequence[T]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
