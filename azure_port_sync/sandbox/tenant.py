"""The Azure tenant behind the sandbox: what exists, and what Resource Graph shows of it and when.

Azure itself and its Resource Graph disagree for minutes at a time, and a synchroniser lives or dies by how it takes
that. So every row here is a version with the span of time in which Resource Graph shows it, apart from whether it
really exists; and every change leaves a record that is published after a delay of its own. The shapes are those of
learn.microsoft.com/azure/governance/resource-graph/changes/get-resource-changes and of recorded responses.
"""

from __future__ import annotations

import json
import random
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import duckdb
import duckdb_kql

from azure_port_sync.sandbox.clock import SandboxClock

TENANT_ID = "5a0c7e1d-3b52-4f0e-9d6a-8c41f27b9e10"
SUBSCRIPTION = "microsoft.resources/subscriptions"
GROUP = "microsoft.resources/subscriptions/resourcegroups"
MANAGEMENT_GROUP = "microsoft.management/managementgroups"

# Change records are kept 14 days: learn.microsoft.com/azure/governance/resource-graph/changes/resource-graph-changes
RETENTION = timedelta(days=14)

STRINGS = (
    "id",
    "name",
    "type",
    "tenantId",
    "kind",
    "location",
    "resourceGroup",
    "subscriptionId",
    "managedBy",
)
DYNAMICS = ("sku", "plan", "properties", "tags", "identity", "zones", "extendedLocation")
COLUMNS = STRINGS + DYNAMICS

# What a query may name, and where it is kept.
TABLES = {
    "resources": "resource_versions",
    "resourcecontainers": "container_versions",
    "resourcechanges": "resource_records",
    "resourcecontainerchanges": "container_records",
}

# Beside Resource Graph's columns, rows carry what the sandbox itself looks things up by: `key` is the id, `grp` the id
# of the resource group and `sub` the subscription, all lower-cased.
_VERSION_EXTRAS = {
    "key": "VARCHAR",
    "grp": "VARCHAR",
    "sub": "VARCHAR",
    "seq": "BIGINT",
    "alive": "BOOLEAN",
    "shown_from": "TIMESTAMP",
    "shown_to": "TIMESTAMP",
}
_RECORD_EXTRAS = {"grp": "VARCHAR", "sub": "VARCHAR", "happened": "TIMESTAMP", "shown_from": "TIMESTAMP"}
_SCHEMA = {
    table: dict.fromkeys(STRINGS, "VARCHAR")
    | dict.fromkeys(DYNAMICS, "JSON")
    | (_VERSION_EXTRAS if table.endswith("versions") else _RECORD_EXTRAS)
    for table in TABLES.values()
}
_FOREVER = datetime.fromisoformat("9999-12-31")

# Resource providers disagree about how the group is written in an id; these are habits seen in real tenants.
_GROUP_HABITS: dict[str, Callable[[str], str]] = {
    "microsoft.alertsmanagement": lambda group_id: group_id.replace("/resourceGroups/", "/resourcegroups/"),
    "microsoft.insights": str.lower,
    "microsoft.compute/disks": lambda group_id: group_id.removesuffix(_last(group_id)) + _last(group_id).upper(),
}

_PEOPLE = ("ada.novak@contoso.example", "jürgen.groß@contoso.example", "mei.tanaka@contoso.example")
_CLIENTS = ("Azure Portal", "ARM Template", "CLI", "PowerShell", "Unspecified")

Row = dict[str, Any]
Delay = tuple[float, float]


class TenantError(Exception):
    """What was asked of the tenant cannot be; the message says why."""


@dataclass(frozen=True)
class Scope:
    """What a request looks at: these subscriptions, what is below these management groups, or (neither) everything."""

    subscriptions: tuple[str, ...] | None = None
    management_groups: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Access:
    """How much of a subscription the principal can read, and the management groups above it, nearest first."""

    management_groups: tuple[str, ...]
    readable: bool = True
    only_group: str | None = None


@dataclass(frozen=True)
class _Deed:
    """Who did it, when, and through what: shared by all records of one action."""

    at: datetime
    changed_by: str
    by_type: str
    client: str
    correlation: str


class Tenant:
    """One tenant, changed by its verbs. All of them take and return what JSON can carry."""

    VERBS: ClassVar[tuple[str, ...]] = (
        "add_subscription",
        "rename_subscription",
        "retag_subscription",
        "move_subscription",
        "remove_subscription",
        "lose_subscription",
        "regain_subscription",
        "limit_subscription_to_group",
        "add_group",
        "retag_group",
        "delete_group",
        "create_resource",
        "create_resources",
        "tag_resource",
        "update_resource",
        "touch_resource",
        "delete_resource",
        "recreate_resource",
        "respell_resource",
        "move_resource",
        "grow",
        "set_delays",
    )

    def __init__(self, clock: SandboxClock, *, tenant_id: str = TENANT_ID, seed: int = 0) -> None:
        self.clock = clock
        self.tenant_id = tenant_id
        self.version = 0  # counts the changes of data and of access
        self._lock = threading.RLock()
        self._rng = random.Random(seed)  # noqa: S311  (believable, not secret)
        self._access: dict[str, _Access] = {}
        self._seq = 0
        self._grown = 0
        self._views: tuple[str, datetime] | None = None
        self._record_delay: Delay = (0, 0)
        self._row_delay: Delay = (0, 0)
        self._linger: Delay = (0, 0)
        self._db = duckdb_kql.connect()
        self._db.execute("SET arrow_large_buffer_size = true")
        self._make_tables()

    def clear(self, *, seed: int = 0) -> None:
        """Everything is gone, and the tenant as new."""
        with self._lock:
            self._rng.seed(seed)
            self._access.clear()
            self._seq = self._grown = 0
            self._record_delay = self._row_delay = self._linger = (0, 0)
            self._views = None
            self._make_tables()
            self.version += 1

    def _make_tables(self) -> None:
        for table, columns in _SCHEMA.items():
            spec = ", ".join(f'"{name}" {kind}' for name, kind in columns.items())
            self._db.execute(f"CREATE OR REPLACE TABLE {table} ({spec})")

    # -- what Resource Graph shows -----------------------------------------------------------------------------------

    @contextmanager
    def shown(self, scope: Scope, now: datetime) -> Iterator[duckdb.DuckDBPyConnection]:
        """The four tables as Resource Graph shows them to `scope` at `now`; nothing changes until the block ends."""
        with self._lock:
            readable = self._predicate(scope)
            columns = ", ".join(f'"{name}"' for name in COLUMNS)
            at = _literal(now)
            views = {} if self._views == (readable, now) else TABLES  # a client asks several times in one instant
            self._views = (readable, now)
            for name, table in views.items():
                if table.endswith("versions"):
                    visible = f"shown_from <= {at} AND shown_to > {at}"
                else:
                    visible = f"shown_from <= {at} AND happened > {_literal(now - RETENTION)}"
                self._db.execute(
                    f"CREATE OR REPLACE TEMP VIEW {name} AS "
                    f"SELECT {columns} FROM {table} WHERE {visible} AND {readable}"
                )
            yield self._db

    def next_edge(self, now: datetime) -> datetime:
        """When, after `now`, what is shown changes by the passing of time alone."""
        at = _literal(now)
        edges = []
        for table in TABLES.values():
            edges.append(f"SELECT min(shown_from) AS e FROM {table} WHERE shown_from > {at}")
            if table.endswith("versions"):
                edges.append(f"SELECT min(shown_to) FROM {table} WHERE shown_to > {at}")
            else:
                days = f"INTERVAL {RETENTION.days} DAY"
                edges.append(f"SELECT min(happened) + {days} FROM {table} WHERE happened > {at} - {days}")
        with self._lock:
            (edge,) = self._fetch(f"SELECT min(e) FROM ({' UNION ALL '.join(edges)})")[0]
        return _aware(edge) if edge is not None else datetime.max.replace(tzinfo=UTC)

    def calm_at(self, now: datetime) -> datetime:
        """From when on, if nothing is changed, what is shown is what is true: every delay has run out."""
        ends = [f"SELECT max(shown_from) AS e FROM {table}" for table in TABLES.values()]
        ends += [
            f"SELECT max(shown_to) FROM {table} WHERE shown_to < {_literal(_FOREVER.replace(tzinfo=UTC))}"
            for table in TABLES.values()
            if table.endswith("versions")
        ]
        with self._lock:
            (end,) = self._fetch(f"SELECT max(e) FROM ({' UNION ALL '.join(ends)})")[0]
        return max(now, _aware(end)) if end is not None else now

    def readable_subscriptions(self, scope: Scope) -> frozenset[str]:
        """The subscriptions of `scope` of which anything can be read."""
        with self._lock:
            return frozenset(sub for sub, access in self._in_scope(scope) if access.readable)

    def readable_management_groups(self, names: Iterable[str]) -> frozenset[str]:
        """Those of these management groups (lower-cased) that exist."""
        wanted = {f"/providers/microsoft.management/managementgroups/{name}".lower() for name in names}
        with self._lock:
            found = self._fetch(f"SELECT key FROM container_versions WHERE alive AND type = '{MANAGEMENT_GROUP}'")
        return frozenset(_last(key) for (key,) in found if key in wanted)

    # -- what is true ------------------------------------------------------------------------------------------------

    def containers(self, scope: Scope | None = None) -> list[Row]:
        """The subscriptions and resource groups that exist and are readable, whatever Resource Graph shows."""
        return self._truth("container_versions", f"v.type <> '{MANAGEMENT_GROUP}'", scope)

    def resources(self, scope: Scope | None = None) -> list[Row]:
        """The resources that exist and are readable, each with the tags of its group."""
        return self._truth("resource_versions", "true", scope)

    def counts(self) -> dict[str, int]:
        """How much exists and is readable, and how many change records there are."""
        with self._lock:
            readable = self._predicate(Scope())
            found = self._fetch(
                f"SELECT type, count(*) FROM container_versions WHERE alive AND {readable} GROUP BY type"
                f" UNION ALL SELECT 'resources', count(*) FROM resource_versions WHERE alive AND {readable}"
                f" UNION ALL SELECT 'records', count(*) FROM resource_records WHERE {readable}"
                f" UNION ALL SELECT 'records', count(*) FROM container_records WHERE {readable}"
            )
        counts = {"subscriptions": 0, "groups": 0, "resources": 0, "records": 0}
        for what, number in found:
            name = {SUBSCRIPTION: "subscriptions", GROUP: "groups"}.get(what, what)
            if name in counts:
                counts[name] += number
        return counts

    # -- subscriptions -----------------------------------------------------------------------------------------------

    def add_subscription(
        self,
        name: str,
        tags: Mapping[str, str] | None = None,
        subscription_id: str | None = None,
        management_groups: Sequence[str] | None = None,
    ) -> str:
        """A new subscription below these management groups (nearest first, the tenant's root always last)."""
        with self._change() as deed:
            chain = (*(management_groups or ()), self.tenant_id)
            self._show_management_groups(chain)
            row = self._subscription_row(name, chain, subscription_id, tags)
            self._supersede("container_versions", [row], deed)
            self._record("container_records", [(row, "Create", None)], deed)
            return str(row["subscriptionId"])

    def rename_subscription(self, subscription_id: str, name: str) -> None:
        """Another display name; the id stays."""
        with self._change() as deed:
            row = self._existing("container_versions", f"/subscriptions/{subscription_id}")
            self._update("container_versions", row, {**row, "name": name}, deed)

    def retag_subscription(self, subscription_id: str, tags: Mapping[str, str] | None) -> None:
        """These tags in place of those it had."""
        with self._change() as deed:
            row = self._existing("container_versions", f"/subscriptions/{subscription_id}")
            self._update("container_versions", row, {**row, "tags": _mapping(tags)}, deed)

    def move_subscription(self, subscription_id: str, management_groups: Sequence[str]) -> None:
        """Below these management groups (nearest first, the tenant's root always last) instead."""
        with self._change() as deed:
            sub = self._subscription(subscription_id)
            chain = (*management_groups, self.tenant_id)
            self._show_management_groups(chain)
            row = self._existing("container_versions", f"/subscriptions/{subscription_id}")
            above = [self._management_group(group) for group in chain]
            after = {**row, "properties": {**row["properties"], "managementGroupAncestorsChain": above}}
            self._update("container_versions", row, after, deed)
            self._access[sub] = replace(self._access[sub], management_groups=tuple(map(str.lower, chain)))

    def remove_subscription(self, subscription_id: str) -> None:
        """Deleted for good, with all in it and with its change records."""
        with self._change():
            sub = self._subscription(subscription_id)
            del self._access[sub]
            for table in _SCHEMA:
                self._db.execute(f"DELETE FROM {table} WHERE sub = ?", [sub])

    def lose_subscription(self, subscription_id: str) -> None:
        """The principal's role assignment is gone: neither rows nor change records can be read."""
        self._grant(subscription_id, readable=False, only_group=None)

    def regain_subscription(self, subscription_id: str) -> None:
        """The principal can read the whole subscription (again)."""
        self._grant(subscription_id, readable=True, only_group=None)

    def limit_subscription_to_group(self, subscription_id: str, group_id: str) -> None:
        """The principal is Reader on one group only: the subscription's own row is not readable."""
        self._grant(subscription_id, readable=True, only_group=group_id.lower())

    # -- resource groups ---------------------------------------------------------------------------------------------

    def add_group(self, subscription_id: str, name: str, location: str, tags: Mapping[str, str] | None = None) -> str:
        """A new resource group; its id."""
        with self._change() as deed:
            self._subscription(subscription_id)
            row = self._group_row(subscription_id, name, location, tags)
            self._create("container_versions", [row], deed)
            return str(row["id"])

    def retag_group(self, group_id: str, tags: Mapping[str, str] | None) -> None:
        """These tags in place of those it had."""
        with self._change() as deed:
            row = self._existing("container_versions", group_id)
            self._update("container_versions", row, {**row, "tags": _mapping(tags)}, deed)

    def delete_group(self, group_id: str) -> None:
        """Gone with all in it; each resource leaves a Delete record of its own."""
        with self._change() as deed:
            group = self._existing("container_versions", group_id)
            children = self._rows("resource_versions", "alive AND grp = ?", [group_id.lower()])
            self._end("resource_versions", children, deed)
            self._end("container_versions", [group], deed)

    # -- resources ---------------------------------------------------------------------------------------------------

    def create_resource(
        self,
        group_id: str,
        type: str,  # noqa: A002  (Azure's word for it)
        name: str,
        location: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, Any] | None = None,
        sku: Mapping[str, Any] | None = None,
        kind: str | None = None,
    ) -> str:
        """A new resource (a child type's name is `parent/child`); its id, spelled as its provider spells ids."""
        item = {
            "group_id": group_id,
            "type": type,
            "name": name,
            "location": location,
            "tags": tags,
            "properties": properties,
            "sku": sku,
            "kind": kind,
        }
        return self.create_resources([item])[0]

    def create_resources(self, items: Sequence[Mapping[str, Any]]) -> list[str]:
        """Many new resources in one go; each item has the arguments of `create_resource`."""
        with self._change() as deed:
            keys = sorted({item["group_id"].lower() for item in items})
            groups = {row["key"]: row for row in self._living("container_versions", keys)}
            rows = [self._resource_row(groups, **item) for item in items]
            self._create("resource_versions", rows, deed)
            return [str(row["id"]) for row in rows]

    def tag_resource(self, resource_id: str, tags: Mapping[str, str] | None) -> None:
        """These tags in place of those it had."""
        with self._change() as deed:
            row = self._existing("resource_versions", resource_id)
            self._update("resource_versions", row, {**row, "tags": _mapping(tags)}, deed)

    def update_resource(
        self,
        resource_id: str,
        properties: Mapping[str, Any] | None = None,
        sku: Mapping[str, Any] | None = None,
    ) -> None:
        """These properties (a null removes one) and this sku over what it had."""
        with self._change() as deed:
            row = self._existing("resource_versions", resource_id)
            after = {
                **row,
                "properties": _without_nulls({**(row["properties"] or {}), **(properties or {})}),
                "sku": row["sku"] if sku is None else _mapping(sku),
            }
            self._update("resource_versions", row, after, deed)

    def touch_resource(self, resource_id: str) -> None:
        """An Update record by the system itself, of which the row shows nothing."""
        with self._change() as deed:
            row = self._existing("resource_versions", resource_id)
            background = replace(
                deed,
                changed_by="System",
                by_type="System",
                client="Unspecified",
                correlation=str(uuid.UUID(int=0)),
            )
            settled = {"properties.provisioningState": {"previousValue": "Updating", "newValue": "Succeeded"}}
            self._record("resource_records", [(row, "Update", settled)], background)

    def delete_resource(self, resource_id: str) -> None:
        """Gone, with a Delete record."""
        with self._change() as deed:
            self._end("resource_versions", [self._existing("resource_versions", resource_id)], deed)

    def recreate_resource(self, resource_id: str) -> str:
        """What was deleted exists again as it was, its id now spelled as given here."""
        with self._change() as deed:
            versions = self._rows("resource_versions", "key = ?", [resource_id.lower()])
            if not versions:
                raise TenantError(f"there never was a resource {resource_id}")
            row = {**max(versions, key=lambda version: int(version["seq"])), "id": resource_id}
            self._existing("container_versions", row["grp"])
            self._create("resource_versions", [row], deed)
            return resource_id

    def respell_resource(self, resource_id: str) -> None:
        """From here on its provider spells the id as given here; the resource is the same, and no record tells."""
        with self._change() as deed:
            row = self._existing("resource_versions", resource_id)
            self._supersede("resource_versions", [{**row, "id": resource_id}], deed)

    def move_resource(self, resource_id: str, group_id: str) -> str:
        """The resource goes to another group: its old id ends, and a new id, returned here, begins."""
        with self._change() as deed:
            row = self._existing("resource_versions", resource_id)
            group = self._existing("container_versions", group_id)
            there = {
                **row,
                "id": group["id"] + row["id"][row["id"].lower().index("/providers/") :],
                "resourceGroup": group["resourceGroup"],
                "subscriptionId": group["subscriptionId"],
            }
            self._create("resource_versions", [there], deed)
            self._end("resource_versions", [row], deed)
            return str(there["id"])

    # -- scale and delays --------------------------------------------------------------------------------------------

    def grow(self, resources: int, groups: int = 0, subscriptions: int = 0, records: bool = False) -> dict[str, int]:
        """Many at once: new subscriptions, new groups spread over them, resources spread over those groups.

        Without new subscriptions or groups they go to those there are. Shown at once, whatever the delays.
        """
        with self._change() as deed:
            first = self._grown
            root = (self.tenant_id,)
            self._show_management_groups(root)
            new = [self._subscription_row(f"Landing zone {first + i:05d}", root) for i in range(subscriptions)]
            self._show("container_versions", new, [deed.at] * len(new))
            if groups:
                homes = new or self._rows("container_versions", f"alive AND type = '{SUBSCRIPTION}'")
                if not homes:
                    raise TenantError("there is no subscription to put groups in: ask for some with subscriptions=")
                new = [self._grown_group(first + i, homes[i % len(homes)]) for i in range(groups)]
                self._show("container_versions", new, [deed.at] * len(new))
            homes = new if groups else self._rows("container_versions", f"alive AND type = '{GROUP}'")
            if resources and not homes:
                raise TenantError("there is no resource group to put resources in: ask for some with groups=")
            keys = [row["id"].lower() for row in homes]
            self._db.execute(
                _GROW,
                {"homes": keys, "first": first, "seq": self._seq, "count": resources, "at": deed.at},
            )
            if records:
                self._db.execute(
                    _GROW_RECORDS,
                    {"seq": self._seq, "at": deed.at, "ticks": _ticks(deed.at), "stamp": _stamp(deed.at, 7)},
                )
            self._seq += resources
            self._grown += max(resources, groups, subscriptions)
            return {"subscriptions": subscriptions, "groups": groups, "resources": resources}

    def set_delays(
        self,
        record_delay: Sequence[float] | None = None,
        row_delay: Sequence[float] | None = None,
        linger: Sequence[float] | None = None,
    ) -> dict[str, list[float]]:
        """(least, most) seconds from here on; what is not given stays. All three as they are now.

        `record_delay`: until a change record is published. `row_delay`: until a new or changed row is shown.
        `linger`: how long a deleted row is shown still.
        """
        with self._lock:
            self._record_delay = _delay(record_delay, self._record_delay)
            self._row_delay = _delay(row_delay, self._row_delay)
            self._linger = _delay(linger, self._linger)
            return {
                "record_delay": list(self._record_delay),
                "row_delay": list(self._row_delay),
                "linger": list(self._linger),
            }

    # -- rows --------------------------------------------------------------------------------------------------------

    def _row(self, **columns: Any) -> Row:
        return {
            **dict.fromkeys(STRINGS, ""),
            **dict.fromkeys(DYNAMICS),
            "tenantId": self.tenant_id,
            **columns,
        }

    def _subscription_row(
        self,
        name: str,
        chain: Sequence[str],
        subscription_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Row:
        """The row of a new subscription, which the principal can read from here on."""
        subscription_id = subscription_id or self._guid()
        if subscription_id.lower() in self._access:
            raise TenantError(f"subscription {subscription_id} exists already")
        self._access[subscription_id.lower()] = _Access(tuple(group.lower() for group in chain))
        return self._row(
            id=f"/subscriptions/{subscription_id}",
            name=name,
            type=SUBSCRIPTION,
            subscriptionId=subscription_id,
            properties={
                "managedByTenants": [],
                "managementGroupAncestorsChain": [self._management_group(group) for group in chain],
                "state": "Enabled",
                "subscriptionPolicies": {
                    "locationPlacementId": "Public_2014-09-01",
                    "quotaId": "EnterpriseAgreement_2014-09-01",
                    "spendingLimit": "Off",
                },
            },
            tags=_mapping(tags),
        )

    def _group_row(self, subscription_id: str, name: str, location: str, tags: Mapping[str, str] | None) -> Row:
        return self._row(
            id=f"/subscriptions/{subscription_id}/resourceGroups/{name}",
            name=name,
            type=GROUP,
            location=location,
            resourceGroup=name.lower(),
            subscriptionId=subscription_id,
            properties={"provisioningState": "Succeeded"},
            tags=_mapping(tags),
        )

    def _resource_row(
        self,
        groups: Mapping[str, Row],
        group_id: str,
        type: str,  # noqa: A002  (Azure's word for it)
        name: str,
        location: str | None = None,
        tags: Mapping[str, str] | None = None,
        properties: Mapping[str, Any] | None = None,
        sku: Mapping[str, Any] | None = None,
        kind: str | None = None,
    ) -> Row:
        group = groups[group_id.lower()]
        return self._row(
            id=_resource_id(group["id"], type, name),
            name=_last(name),
            type=type.lower(),
            kind=kind or "",
            location=group["location"] if location is None else location,
            resourceGroup=group["resourceGroup"],
            subscriptionId=group["subscriptionId"],
            sku=_mapping(sku),
            properties={"provisioningState": "Succeeded", **_without_nulls(properties or {})},
            tags=_mapping(tags),
        )

    def _grown_group(self, number: int, subscription: Row) -> Row:
        tags = {
            "environment": ("production", "staging", "development")[number % 3],
            "team": f"team-{number % 40}",
        }
        return self._group_row(subscription["subscriptionId"], f"rg-grown-{number:05d}", "westeurope", tags)

    def _management_group(self, name: str) -> dict[str, str]:
        return {"displayName": "Tenant Root Group" if name == self.tenant_id else name, "name": name}

    def _show_management_groups(self, chain: Sequence[str]) -> None:
        """The rows of those management groups that are new, each with those above it."""
        known = self.readable_management_groups(chain)
        rows = [
            self._row(
                id=f"/providers/Microsoft.Management/managementGroups/{name}",
                name=name,
                type=MANAGEMENT_GROUP,
                properties={
                    "displayName": self._management_group(name)["displayName"],
                    "tenantId": self.tenant_id,
                    "details": {
                        "managementGroupAncestorsChain": [self._management_group(above) for above in chain[index + 1 :]]
                    },
                },
            )
            for index, name in enumerate(chain)
            if name.lower() not in known
        ]
        self._show("container_versions", rows, [_naive(self.clock.now())] * len(rows))

    # -- writing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[_Deed]:
        """One change of the tenant, all or nothing."""
        with self._lock:
            access = dict(self._access)
            self._db.execute("BEGIN")
            try:
                yield self._deed()
            except BaseException:
                self._db.execute("ROLLBACK")
                self._access = access
                raise
            self._db.execute("COMMIT")
            self.version += 1

    def _deed(self) -> _Deed:
        # Resource Graph stamps to the millisecond; a row and its record are of one instant.
        now = _naive(self.clock.now())
        return _Deed(
            at=now.replace(microsecond=now.microsecond // 1000 * 1000),
            changed_by=self._rng.choice(_PEOPLE),
            by_type="User",
            client=self._rng.choice(_CLIENTS),
            correlation=self._guid(),
        )

    def _create(self, table: str, rows: Sequence[Row], deed: _Deed) -> None:
        keys = [row["id"].lower() for row in rows]
        taken = self._fetch(f"SELECT id FROM {table} WHERE alive AND key IN (SELECT unnest(?))", [keys])
        if taken or len(set(keys)) < len(keys):
            raise TenantError(f"{taken[0][0] if taken else 'one of these'} exists already")
        self._supersede(table, rows, deed)
        self._record(_records_of(table), [(row, "Create", None) for row in rows], deed)

    def _update(self, table: str, before: Row, after: Row, deed: _Deed) -> None:
        self._supersede(table, [after], deed)
        self._record(_records_of(table), [(after, "Update", _differences(before, after))], deed)

    def _supersede(self, table: str, rows: Sequence[Row], deed: _Deed) -> None:
        """`rows` are what exists under their ids from here on; what was there before is shown until they are."""
        shown_from = [self._later(deed, self._row_delay) for _ in rows]
        self._retire(table, rows, shown_from)
        self._show(table, rows, shown_from)

    def _end(self, table: str, rows: Sequence[Row], deed: _Deed) -> None:
        """`rows` exist no longer; they are shown a while still."""
        self._retire(table, rows, [self._later(deed, self._linger) for _ in rows])
        self._record(_records_of(table), [(row, "Delete", None) for row in rows], deed)

    def _retire(self, table: str, rows: Sequence[Row], shown_to: Sequence[datetime]) -> None:
        # Versions that were to be shown later, or longer, than what replaces them must not reappear.
        self._db.execute(
            f"UPDATE {table} SET alive = false, shown_to = least({table}.shown_to, new.shown_to) "
            "FROM (SELECT unnest(?) AS key, unnest(?::TIMESTAMP[]) AS shown_to) new "
            f"WHERE {table}.key = new.key",
            [[row["id"].lower() for row in rows], list(shown_to)],
        )

    def _show(self, table: str, rows: Sequence[Row], shown_from: Sequence[datetime]) -> None:
        """New versions of `rows`, each shown from its instant on."""
        versions = [
            {
                **row,
                "key": row["id"].lower(),
                "grp": _group_key(row["id"]),
                "sub": row["subscriptionId"].lower(),
                "seq": self._seq + number,
                "alive": True,
                "shown_from": instant,
                "shown_to": _FOREVER,
            }
            for number, (row, instant) in enumerate(zip(rows, shown_from, strict=True), start=1)
        ]
        self._seq += len(versions)
        self._insert(table, versions)

    def _record(self, table: str, changes: Sequence[tuple[Row, str, dict[str, Any] | None]], deed: _Deed) -> None:
        self._insert(table, [self._change_record(row, kind, what, deed) for row, kind, what in changes])

    def _change_record(self, target: Row, kind: str, changes: dict[str, Any] | None, deed: _Deed) -> Row:
        name = f"{_ticks(deed.at)}_{self._guid()}"
        verb = "delete" if kind == "Delete" else "write"
        attributes = {
            "timestamp": _stamp(deed.at, self._rng.randint(2, 7)),
            "changesCount": len(changes or {}),
            "correlationId": deed.correlation,
            "changedBy": deed.changed_by,
            "changedByType": deed.by_type,
            "clientType": deed.client,
            "operation": "Unspecified" if deed.by_type == "System" else f"{target['type']}/{verb}",
        }
        if kind != "Create":
            attributes["previousResourceSnapshotId"] = f"{_ticks(deed.at)}_{self._guid()}"
        if kind != "Delete":
            attributes["newResourceSnapshotId"] = f"{_ticks(deed.at)}_{self._guid()}"
        properties = {
            "targetResourceId": target["id"],
            "targetResourceType": target["type"],
            "changeType": kind,
            "changeAttributes": attributes,
        }
        if kind == "Update":
            properties["changes"] = changes
        return {
            **self._row(
                id=f"{target['id']}/providers/Microsoft.Resources/changes/{name}",
                name=name,
                type="microsoft.resources/changes",
                location=target["location"],
                resourceGroup=target["resourceGroup"].lower(),
                subscriptionId=target["subscriptionId"],
                properties=properties,
            ),
            "grp": _group_key(target["id"]),
            "sub": target["subscriptionId"].lower(),
            "happened": deed.at,
            "shown_from": self._later(deed, self._record_delay),
        }

    def _later(self, deed: _Deed, delay: Delay) -> datetime:
        return deed.at + timedelta(seconds=self._rng.uniform(*delay))

    def _guid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))

    def _grant(self, subscription_id: str, *, readable: bool, only_group: str | None) -> None:
        with self._change():
            sub = self._subscription(subscription_id)
            if only_group is not None:
                self._existing("container_versions", only_group)
            self._access[sub] = replace(self._access[sub], readable=readable, only_group=only_group)

    # -- looking things up -------------------------------------------------------------------------------------------

    def _subscription(self, subscription_id: str) -> str:
        sub = subscription_id.lower()
        if sub not in self._access:
            raise TenantError(f"there is no subscription {subscription_id}")
        return sub

    def _existing(self, table: str, resource_id: str) -> Row:
        return self._living(table, [resource_id.lower()])[0]

    def _living(self, table: str, keys: Sequence[str]) -> list[Row]:
        rows = self._rows(table, "alive AND key IN (SELECT unnest(?))", [list(keys)])
        if missing := set(keys) - {row["key"] for row in rows}:
            raise TenantError(f"there is no {min(missing)}")
        return rows

    def _rows(self, table: str, where: str, values: Sequence[Any] = ()) -> list[Row]:
        found = self._fetch(f"SELECT * FROM {table} WHERE {where} ORDER BY seq", values)
        return [_parsed(dict(zip(_SCHEMA[table], row, strict=True))) for row in found]

    def _truth(self, table: str, where: str, scope: Scope | None) -> list[Row]:
        names = ("id", "name", "type", "location", "tags", "subscriptionId", "resourceGroup", "rgTags")
        columns = ", ".join(f'v."{name}"' for name in names[:-1])
        with self._lock:
            readable = self._predicate(scope or Scope())
            found = self._fetch(
                f"SELECT {columns}, g.tags FROM (SELECT * FROM {table} WHERE alive AND {readable}) v "
                f"LEFT JOIN container_versions g ON g.key = v.grp AND g.alive WHERE {where} ORDER BY v.key"
            )
        rows = [_parsed(dict(zip(names, row, strict=True))) for row in found]
        if table == "container_versions":
            for row in rows:
                del row["rgTags"]
        return rows

    def _in_scope(self, scope: Scope) -> Iterator[tuple[str, _Access]]:
        if scope.subscriptions is not None:
            wanted = {sub.lower() for sub in scope.subscriptions}
            yield from ((sub, self._access[sub]) for sub in wanted & self._access.keys())
        elif scope.management_groups is not None:
            above = {group.lower() for group in scope.management_groups}
            yield from (item for item in self._access.items() if above & set(item[1].management_groups))
        else:
            yield from self._access.items()

    def _predicate(self, scope: Scope) -> str:
        """The rows and records of `scope` that can be read, as SQL."""
        readable = [(sub, access) for sub, access in self._in_scope(scope) if access.readable]
        whole = [sub for sub, access in readable if access.only_group is None]
        if scope == Scope() and len(whole) == len(self._access):
            return "true"
        parts = [
            _among("sub", whole),
            _among("grp", [access.only_group for _, access in readable if access.only_group is not None]),
        ]
        if scope.subscriptions is None:
            parts.append(self._management_groups_below(scope))
        return f"({' OR '.join(parts)})"

    def _management_groups_below(self, scope: Scope) -> str:
        if scope.management_groups is None:
            return "sub = ''"
        return (
            f"sub = '' AND ({_among('lower(name)', [group.lower() for group in scope.management_groups])} OR "
            "list_has_any(CAST(lower(CAST(json_extract(properties, "
            "'$.details.managementGroupAncestorsChain[*].name') AS VARCHAR)) AS VARCHAR[]), "
            f"[{', '.join(_quoted(group.lower()) for group in scope.management_groups)}]))"
        )

    # -- the store ---------------------------------------------------------------------------------------------------

    def _fetch(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, list(values)).fetchall()

    def _insert(self, table: str, rows: Sequence[Row]) -> None:
        columns = _SCHEMA[table].items()
        with self._db.appender(table) as appender:
            appender.append_rows(
                [_text(row[name]) if kind == "JSON" else row[name] for name, kind in columns] for row in rows
            )


def _records_of(table: str) -> str:
    return table.replace("versions", "records")


def _parsed(row: Row) -> Row:
    for name in (*DYNAMICS, "rgTags"):
        if row.get(name) is not None:
            row[name] = json.loads(row[name])
    return row


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _mapping(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if value is None else _without_nulls(value)


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    # The engine takes a JSON null inside a dynamic for a value; Resource Graph does not keep such properties.
    return {
        key: _without_nulls(inner) if isinstance(inner, Mapping) else inner
        for key, inner in value.items()
        if inner is not None
    }


def _differences(before: Row, after: Row) -> dict[str, Any]:
    """The `changes` of a record: a path that is new has the text "null" before, one that went has a null after."""
    old, new = (_leaves({name: row[name] for name in ("name", "sku", "properties", "tags")}) for row in (before, after))
    return {
        path: {"previousValue": old.get(path, "null"), "newValue": new.get(path)}
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    }


def _leaves(value: Mapping[str, Any], path: str = "") -> dict[str, str]:
    leaves: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            leaves |= _leaves(inner, f"{path}{key}.")
        elif inner is not None:
            leaves[f"{path}{key}"] = inner if isinstance(inner, str) else json.dumps(inner)
    return leaves


def _resource_id(group_id: str, type_: str, name: str) -> str:
    provider, *kinds = type_.split("/")
    names = name.split("/")
    if not kinds or len(kinds) != len(names):
        raise TenantError(
            f"type {type_!r} and name {name!r} do not fit: e.g. Microsoft.Sql/servers/databases, sql1/db1"
        )
    habit = _GROUP_HABITS.get(type_.lower()) or _GROUP_HABITS.get(provider.lower())
    tail = "/".join(f"{kind}/{part}" for kind, part in zip(kinds, names, strict=True))
    return f"{habit(group_id) if habit else group_id}/providers/{provider}/{tail}"


def _group_key(resource_id: str) -> str:
    """The lower-cased id of the resource group an id lies in, or is."""
    parts = resource_id.lower().split("/")
    return "/".join(parts[:5]) if len(parts) > 4 and parts[3] == "resourcegroups" else ""


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _ticks(at: datetime) -> str:
    """The twenty digits that begin a change's name: .NET ticks, counted down, so that the newest sort first."""
    ticks = (at - datetime.fromisoformat("0001-01-01")) // timedelta(microseconds=1) * 10
    return f"{2**63 - 1 - ticks:020d}"


def _stamp(at: datetime, digits: int) -> str:
    """`at` with about this many fractional digits (2 to 7 are seen): as many as it takes to lose nothing."""
    fraction = f"{at.microsecond:06d}0"
    needed = len(fraction.rstrip("0"))
    return f"{at:%Y-%m-%dT%H:%M:%S}.{fraction[: max(digits, needed)]}Z"


def _delay(given: Sequence[float] | None, otherwise: Delay) -> Delay:
    if given is None:
        return otherwise
    least, most = given
    if not 0 <= least <= most:
        raise TenantError(f"a delay is (least, most) seconds, e.g. (0, 300); got {given}")
    return (float(least), float(most))


def _naive(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(tzinfo=None)


def _aware(instant: datetime) -> datetime:
    return instant.replace(tzinfo=UTC)


def _literal(instant: datetime) -> str:
    return f"TIMESTAMP '{_naive(instant):%Y-%m-%d %H:%M:%S.%f}'"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _among(column: str, values: Iterable[str]) -> str:
    listed = ", ".join(map(_quoted, values))
    return f"{column} IN ({listed})" if listed else "false"


# Bulk growth stays in SQL: a million resources without a Python object each.
_GROW = """
INSERT INTO resource_versions BY NAME
WITH home AS (SELECT *, row_number() OVER () - 1 AS n FROM container_versions
              WHERE alive AND key IN (SELECT unnest($homes))),
numbered AS (
    SELECT
        i,
        home.*,
        [
            'Microsoft.Compute/virtualMachines', 'Microsoft.Storage/storageAccounts', 'Microsoft.KeyVault/vaults',
            'Microsoft.Network/networkInterfaces', 'Microsoft.Web/sites', 'Microsoft.Sql/servers'
        ][1 + i * 7919 % 6] AS spelled,
        printf('res-%07d', i) AS named
    FROM range($first, $first + $count) r(i) JOIN home ON home.n = i % len($homes)
)
SELECT
    id || '/providers/' || spelled || '/' || named AS id,
    named AS name,
    lower(spelled) AS type,
    "tenantId",
    '' AS kind,
    location,
    "resourceGroup",
    "subscriptionId",
    '' AS "managedBy",
    json_object('provisioningState', 'Succeeded', 'number', i) AS properties,
    [
        NULL, '{}', '{"environment":"production"}', '{"Environment":"Production","owner":"platform"}',
        json_object('environment', 'staging', 'costcenter', printf('cc-%03d', i % 200))
    ][1 + i * 104729 % 5]::JSON AS tags,
    lower(id || '/providers/' || spelled || '/' || named) AS key,
    lower(id) AS grp,
    lower("subscriptionId") AS sub,
    $seq + 1 + i - $first AS seq,
    true AS alive,
    $at::TIMESTAMP AS shown_from,
    TIMESTAMP '9999-12-31' AS shown_to
FROM numbered
ORDER BY i
"""

_GROW_RECORDS = """
INSERT INTO resource_records BY NAME
WITH named AS (SELECT *, $ticks || '_' || CAST(CAST(md5(key || $ticks) AS UUID) AS VARCHAR) AS record
               FROM resource_versions WHERE seq > $seq)
SELECT
    id || '/providers/Microsoft.Resources/changes/' || record AS id,
    record AS name,
    'microsoft.resources/changes' AS type,
    "tenantId",
    '' AS kind,
    location,
    "resourceGroup",
    "subscriptionId",
    '' AS "managedBy",
    json_object(
        'targetResourceId', id, 'targetResourceType', type, 'changeType', 'Create',
        'changeAttributes', json_object(
            'timestamp', $stamp, 'changesCount', 0, 'correlationId', '00000000-0000-0000-0000-000000000000',
            'changedBy', 'System', 'changedByType', 'System', 'clientType', 'Unspecified',
            'operation', 'Unspecified', 'newResourceSnapshotId', record
        )
    ) AS properties,
    grp,
    sub,
    $at::TIMESTAMP AS happened,
    $at::TIMESTAMP AS shown_from
FROM named
"""
