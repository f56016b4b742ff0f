"""Rows as Resource Graph shows them: their columns, and how the ids of subscriptions, groups and resources are spelled.

Everything here is pure: it makes rows and knows nothing of when they are shown. The shapes are those of recorded
responses and of learn.microsoft.com/azure/governance/resource-graph/concepts/query-language.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

SUBSCRIPTION = "microsoft.resources/subscriptions"
GROUP = "microsoft.resources/subscriptions/resourcegroups"
MANAGEMENT_GROUP = "microsoft.management/managementgroups"

STRINGS = ("id", "name", "type", "tenantId", "kind", "location", "resourceGroup", "subscriptionId", "managedBy")
DYNAMICS = ("sku", "plan", "properties", "tags", "identity", "zones", "extendedLocation")
COLUMNS = STRINGS + DYNAMICS

Row = dict[str, Any]
Tags = Any  # a mapping of texts or nothing, as a rule

# Resource providers disagree about how the group is written in an id; these are habits seen in real tenants.
_GROUP_HABITS: dict[str, Callable[[str], str]] = {
    "microsoft.alertsmanagement": lambda group_id: group_id.replace("/resourceGroups/", "/resourcegroups/"),
    "microsoft.insights": str.lower,
    "microsoft.compute/disks": lambda group_id: group_id.removesuffix(last(group_id)) + last(group_id).upper(),
}


class TenantError(Exception):
    """The tenant cannot do this; the message says why."""


class RowMaker:
    """Makes the rows of one tenant."""

    def __init__(self, tenant_id: str) -> None:
        self._tenant_id = tenant_id

    def row(self, **columns: Any) -> Row:
        """Return a row with these columns; all others are empty."""
        return {**dict.fromkeys(STRINGS, ""), **dict.fromkeys(DYNAMICS), "tenantId": self._tenant_id, **columns}

    def subscription(self, subscription_id: str, name: str, chain: Sequence[str], tags: Tags = None) -> Row:
        """Return the row of a subscription below the management groups of `chain`, nearest first."""
        return self.row(
            id=f"/subscriptions/{subscription_id}",
            name=name,
            type=SUBSCRIPTION,
            subscriptionId=subscription_id,
            properties={
                "managedByTenants": [],
                "managementGroupAncestorsChain": self.ancestors(chain),
                "state": "Enabled",
                "subscriptionPolicies": {
                    "locationPlacementId": "Public_2014-09-01",
                    "quotaId": "EnterpriseAgreement_2014-09-01",
                    "spendingLimit": "Off",
                },
            },
            tags=as_dynamic(tags),
        )

    def management_group(self, name: str, above: Sequence[str]) -> Row:
        """Return the row of a management group below those of `above`, nearest first."""
        ((shown),) = self.ancestors([name])
        return self.row(
            id=f"/providers/Microsoft.Management/managementGroups/{name}",
            name=name,
            type=MANAGEMENT_GROUP,
            properties={
                "displayName": shown["displayName"],
                "tenantId": self._tenant_id,
                "details": {"managementGroupAncestorsChain": self.ancestors(above)},
            },
        )

    def ancestors(self, chain: Sequence[str]) -> list[dict[str, str]]:
        """Return a chain of management groups as rows have it."""
        return [
            {"displayName": "Tenant Root Group" if name == self._tenant_id else name, "name": name} for name in chain
        ]

    def group(self, subscription_id: str, name: str, location: str, tags: Tags) -> Row:
        """Return the row of a resource group."""
        return self.row(
            id=f"/subscriptions/{subscription_id}/resourceGroups/{name}",
            name=name,
            type=GROUP,
            location=location,
            resourceGroup=name.lower(),
            subscriptionId=subscription_id,
            properties={"provisioningState": "Succeeded"},
            tags=as_dynamic(tags),
        )

    def resource(
        self,
        group: Row,
        type: str,  # noqa: A002  (Azure's word for it)
        name: str,
        location: str | None = None,
        tags: Tags = None,
        properties: Mapping[str, Any] | None = None,
        sku: Mapping[str, Any] | None = None,
        kind: str | None = None,
    ) -> Row:
        """Return the row of a resource in this group; its id is spelled as its provider spells ids."""
        return self.row(
            id=_resource_id(group["id"], type, name),
            name=last(name),
            type=type.lower(),
            kind=kind or "",
            location=group["location"] if location is None else location,
            resourceGroup=group["resourceGroup"],
            subscriptionId=group["subscriptionId"],
            sku=as_dynamic(sku),
            properties={"provisioningState": "Succeeded", **without_nulls(properties or {})},
            tags=as_dynamic(tags),
        )


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


def group_key(resource_id: str) -> str:
    """Return the lower-cased id of the resource group that an id lies in, or is; "" where there is none."""
    parts = resource_id.lower().split("/")
    return "/".join(parts[:5]) if len(parts) > 4 and parts[3] == "resourcegroups" else ""


def last(path: str) -> str:
    """Return the last part of a path."""
    return path.rpartition("/")[2]


def as_dynamic(value: Any) -> Any:
    """Return a value as a dynamic column holds it: a mapping as a rule, and now and then something odd."""
    return without_nulls(value) if isinstance(value, Mapping) else value


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping without the properties that are null: Resource Graph keeps none, the KQL engine would."""
    return {
        key: without_nulls(inner) if isinstance(inner, Mapping) else inner
        for key, inner in value.items()
        if inner is not None
    }
