"""A tenant as it is read: the rows that Resource Graph shows at an instant, and those that are true.

The product reads the first over HTTP. The second are for oracles, which compare a catalog with what really exists.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

import duckdb

from azure_port_sync.sandbox.tenant.access import Access, Scope, condition, readable_subscriptions
from azure_port_sync.sandbox.tenant.rows import GROUP, MANAGEMENT_GROUP, SUBSCRIPTION, Row
from azure_port_sync.sandbox.tenant.store import Part, Store

CONTAINERS, RESOURCES = "container_versions", "resource_versions"


class TenantView:
    """A tenant that is only read."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._store = Store()
        self._access: dict[str, Access] = {}

    # -- what Resource Graph shows

    @contextmanager
    def shown(self, scope: Scope, now: datetime, part: Part | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield the tables as Resource Graph shows them to `scope` at `now`; nothing changes until the block ends."""
        with self._lock:
            self._store.show_at(now, condition(self._access, scope), part)
            yield self._store.db

    def calm_at(self, now: datetime) -> datetime:
        """Return from when on, if nothing is changed, what is shown is what is true: every delay has run out."""
        with self._lock:
            return self._store.calm_at(now)

    def readable_subscriptions(self, scope: Scope) -> frozenset[str]:
        """Return the subscriptions of `scope` of which anything can be read."""
        with self._lock:
            return readable_subscriptions(self._access, scope)

    def existing_management_groups(self, names: Sequence[str]) -> frozenset[str]:
        """Return those of these management groups (lower-cased) that exist."""
        with self._lock:
            rows = self._store.rows(CONTAINERS, "alive AND type = ?", [MANAGEMENT_GROUP])
        return frozenset(row["name"].lower() for row in rows) & {name.lower() for name in names}

    # -- what is true

    def containers(self, scope: Scope | None = None) -> list[Row]:
        """Return the subscriptions and groups that exist and are readable, whatever Resource Graph shows."""
        found = self._truth(CONTAINERS, f"type <> '{MANAGEMENT_GROUP}'", scope)
        return [{name: value for name, value in row.items() if name != "rgTags"} for row in found]

    def resources(self, scope: Scope | None = None) -> list[Row]:
        """Return the resources that exist and are readable, each with the tags of its group."""
        return self._truth(RESOURCES, "true", scope)

    def _truth(self, table: str, where: str, scope: Scope | None) -> list[Row]:
        with self._lock:
            return self._store.truth(table, f"{where} AND {condition(self._access, scope or Scope())}")

    def counts(self) -> dict[str, int]:
        """Return how much exists and is readable, and how many change records there are."""
        counts = {"subscriptions": 0, "groups": 0, "resources": 0, "records": 0}
        with self._lock:
            for what, number in self._store.counts(condition(self._access, Scope())):
                name = {SUBSCRIPTION: "subscriptions", GROUP: "groups"}.get(what, what)
                if name in counts:
                    counts[name] += number
        return counts
