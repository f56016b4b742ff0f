"""The tenant and its verbs: what tests, the launcher and the estate do to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.tenant.rows import GROUP, SUBSCRIPTION, Row, Tags, TenantError, as_dynamic, without_nulls
from azure_port_sync.sandbox.tenant.subscriptions import Subscriptions
from azure_port_sync.sandbox.tenant.view import CONTAINERS, RESOURCES, TenantView


class Tenant(Subscriptions):
    """One tenant, changed by its verbs. All of them take and return what JSON can carry."""

    def __init__(self, clock: SandboxClock, *, seed: int = 0) -> None:
        super().__init__(clock, seed=seed)
        self._grown = 0

    def clear(self, *, seed: int = 0) -> None:
        """Make the tenant empty, as new."""
        with self._lock:
            self._rng.seed(seed)
            self._store.clear()
            self._timeline.clear()
            self._access.clear()
            self._grown = 0
            self.version += 1

    # -- resource groups

    def add_group(self, subscription_id: str, name: str, location: str, tags: Tags = None) -> str:
        """Add a resource group; return its id."""
        with self._change() as action:
            self._subscription(subscription_id)
            row = self._make.group(subscription_id, name, location, tags)
            self._timeline.create(CONTAINERS, [row], action)
            return str(row["id"])

    def retag_group(self, group_id: str, tags: Tags) -> None:
        """Give it these tags in place of those it had."""
        with self._change() as action:
            self._timeline.update(CONTAINERS, group_id, action, tags=as_dynamic(tags))

    def delete_group(self, group_id: str) -> None:
        """Delete it with all in it; each resource leaves a Delete record of its own."""
        with self._change() as action:
            group = self._store.existing(CONTAINERS, group_id)
            children = self._store.rows(RESOURCES, "alive AND grp = ?", [group_id.lower()])
            self._timeline.end(RESOURCES, children, action)
            self._timeline.end(CONTAINERS, [group], action)

    # -- resources

    def create_resource(self, group_id: str, type: str, name: str, **columns: Any) -> str:  # noqa: A002  (Azure's word)
        """Create a resource; return its id as its provider spells it.

        A child type's name is `parent/child`. `columns` may be location, tags, properties, sku and kind.
        """
        return self.create_resources([{"group_id": group_id, "type": type, "name": name, **columns}])[0]

    def create_resources(self, items: Sequence[Mapping[str, Any]]) -> list[str]:
        """Create many resources in one go; each item has the arguments of `create_resource`."""
        with self._change() as action:
            groups = self._store.living(CONTAINERS, sorted({item["group_id"].lower() for item in items}))
            homes = {row["key"]: row for row in groups}
            rows = [
                self._make.resource(
                    homes[item["group_id"].lower()], **{name: item[name] for name in item if name != "group_id"}
                )
                for item in items
            ]
            self._timeline.create(RESOURCES, rows, action)
            return [str(row["id"]) for row in rows]

    def tag_resource(self, resource_id: str, tags: Tags) -> None:
        """Give it these tags in place of those it had."""
        with self._change() as action:
            self._timeline.update(RESOURCES, resource_id, action, tags=as_dynamic(tags))

    def update_resource(
        self, resource_id: str, properties: Mapping[str, Any] | None = None, sku: Mapping[str, Any] | None = None
    ) -> None:
        """Put these properties (a null removes one) and this sku over what it had."""
        with self._change() as action:
            row = self._store.existing(RESOURCES, resource_id)
            merged = without_nulls({**(row["properties"] or {}), **(properties or {})})
            new_sku = row["sku"] if sku is None else as_dynamic(sku)
            self._timeline.update(RESOURCES, resource_id, action, properties=merged, sku=new_sku)

    def touch_resource(self, resource_id: str) -> None:
        """Leave an Update record of the system itself, of which the row shows nothing."""
        with self._change() as action:
            row = self._store.existing(RESOURCES, resource_id)
            settled = {"properties.provisioningState": {"previousValue": "Updating", "newValue": "Succeeded"}}
            self._timeline.record(RESOURCES, [row], "Update", action.in_background(), settled)

    def delete_resource(self, resource_id: str) -> None:
        """Delete it, with a Delete record."""
        with self._change() as action:
            self._timeline.end(RESOURCES, [self._store.existing(RESOURCES, resource_id)], action)

    def recreate_resource(self, resource_id: str) -> str:
        """Create what was deleted as it was, its id now spelled as given here."""
        with self._change() as action:
            versions = self._store.rows(RESOURCES, "key = ? AND NOT twin", [resource_id.lower()])
            if not versions:
                raise TenantError(f"there never was a resource {resource_id}")
            row = {**versions[-1], "id": resource_id}
            self._store.existing(CONTAINERS, row["grp"])
            self._timeline.create(RESOURCES, [row], action)
            return resource_id

    def respell_resource(self, resource_id: str) -> None:
        """Have its provider spell the id as given here; the resource is the same, and no record shows it."""
        with self._change() as action:
            row = self._store.existing(RESOURCES, resource_id)
            self._timeline.supersede(RESOURCES, [{**row, "id": resource_id}], action)

    def move_resource(self, resource_id: str, group_id: str) -> str:
        """Move it to another group: its old id ends, and a new id, returned here, begins."""
        with self._change() as action:
            row = self._store.existing(RESOURCES, resource_id)
            group = self._store.existing(CONTAINERS, group_id)
            there = {
                **row,
                "id": group["id"] + row["id"][row["id"].lower().index("/providers/") :],
                "resourceGroup": group["resourceGroup"],
                "subscriptionId": group["subscriptionId"],
            }
            self._timeline.create(RESOURCES, [there], action)
            self._timeline.end(RESOURCES, [row], action)
            return str(there["id"])

    # -- what only Resource Graph makes up

    def add_twin(self, row_id: str, columns: Mapping[str, Any] | None = None) -> None:
        """Have Resource Graph show a second row of a subscription, group or resource, as long as that exists.

        The twin has these columns in place of the row's own: another spelling of the `id`, or the `name` and `type` of
        an extension resource, which do not agree with it. It exists nowhere but in Resource Graph.
        """
        with self._change() as action:
            self._timeline.add_twin(self._table_of(row_id), row_id, columns or {}, action)

    def remove_twins(self, row_id: str) -> None:
        """Have Resource Graph show one row of it again."""
        with self._change() as action:
            self._timeline.remove_twins(self._table_of(row_id), row_id, action)

    def set_delays(
        self,
        record_delay: Sequence[float] | None = None,
        row_delay: Sequence[float] | None = None,
        linger: Sequence[float] | None = None,
    ) -> dict[str, list[float]]:
        """Set delays of (least, most) seconds from here on; what is not given stays. Return all three as they are now.

        `record_delay`: until a change record is published. `row_delay`: until a new or changed row is shown.
        `linger`: how long a deleted row is shown still.
        """
        with self._lock:
            return self._timeline.set_delays(record_delay, row_delay, linger)

    # -- many at once

    def grow(self, resources: int, groups: int = 0, subscriptions: int = 0, records: bool = False) -> dict[str, int]:
        """Add new subscriptions, new groups spread over them, resources spread over those groups.

        Without new subscriptions or groups they go to those there are. Shown at once, whatever the delays.
        """
        with self._change() as action:
            first = self._grown
            new = [self._new_subscription(f"Landing zone {first + i:05d}", (), action) for i in range(subscriptions)]
            self._store.show(CONTAINERS, new, [action.at] * len(new))
            if groups:
                homes = new or self._homes(SUBSCRIPTION, "subscription")
                new = [self._grown_group(first + i, homes[i % len(homes)]) for i in range(groups)]
                self._store.show(CONTAINERS, new, [action.at] * len(new))
            if resources:
                homes = new if groups else self._homes(GROUP, "group")
                self._store.grow([row["id"] for row in homes], first, resources, action.at, records=records)
            self._grown += max(resources, groups, subscriptions)
            return {"subscriptions": subscriptions, "groups": groups, "resources": resources}

    def _homes(self, type_: str, name: str) -> list[Row]:
        homes = self._store.rows(CONTAINERS, "alive AND type = ?", [type_])
        if not homes:
            raise TenantError(f"there is no {name} to put anything in: ask for some with {name}s=")
        return homes

    def _grown_group(self, number: int, subscription: Row) -> Row:
        tags = {"environment": ("production", "staging", "development")[number % 3], "team": f"team-{number % 40}"}
        return self._make.group(subscription["subscriptionId"], f"rg-grown-{number:05d}", "westeurope", tags)

    def _table_of(self, row_id: str) -> str:
        return CONTAINERS if self._store.rows(CONTAINERS, "alive AND key = ?", [row_id.lower()]) else RESOURCES


#: What the control API may do to a tenant.
VERBS = frozenset(name for name in dir(Tenant) if not name.startswith("_")) - {*dir(TenantView), "clear"}
