"""Change records: one for each create, update or delete, as Resource Graph has it.

The shapes are those of learn.microsoft.com/azure/governance/resource-graph/changes/get-resource-changes and of recorded
responses; the records of containers have the same.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from azure_port_sync.sandbox.tenant.rows import Row, RowMaker

# Change records are kept 14 days: learn.microsoft.com/azure/governance/resource-graph/changes/resource-graph-changes
RETENTION = timedelta(days=14)

_PEOPLE = ("ada.novak@contoso.example", "jürgen.groß@contoso.example", "mei.tanaka@contoso.example")
_CLIENTS = ("Azure Portal", "ARM Template", "CLI", "PowerShell", "Unspecified")


@dataclass(frozen=True)
class Action:
    """One action: its instant, its author and the client that it came through, shared by all of its records."""

    at: datetime
    changed_by: str
    by_type: str
    client: str
    correlation: str

    def in_background(self) -> Action:
        """Return the same as Azure's own doing."""
        nil = str(uuid.UUID(int=0))
        return replace(self, changed_by="System", by_type="System", client="Unspecified", correlation=nil)


def new_action(at: datetime, rng: random.Random) -> Action:
    """Return an action of somebody at this instant, to the millisecond: a row and its record are of one instant."""
    return Action(
        at=at.replace(microsecond=at.microsecond // 1000 * 1000),
        changed_by=rng.choice(_PEOPLE),
        by_type="User",
        client=rng.choice(_CLIENTS),
        correlation=new_guid(rng),
    )


def new_guid(rng: random.Random) -> str:
    """Return a GUID that `rng` draws."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def change_record(
    make: RowMaker, target: Row, kind: str, changes: dict[str, Any] | None, action: Action, rng: random.Random
) -> Row:
    """Return the record of one change of `target`; only an Update has `changes`."""
    name = f"{ticks(action.at)}_{new_guid(rng)}"
    verb = "delete" if kind == "Delete" else "write"
    attributes = {
        "timestamp": stamp(action.at, rng.randint(2, 7)),
        "changesCount": len(changes or {}),
        "correlationId": action.correlation,
        "changedBy": action.changed_by,
        "changedByType": action.by_type,
        "clientType": action.client,
        "operation": "Unspecified" if action.by_type == "System" else f"{target['type']}/{verb}",
    }
    if kind != "Create":
        attributes["previousResourceSnapshotId"] = f"{ticks(action.at)}_{new_guid(rng)}"
    if kind != "Delete":
        attributes["newResourceSnapshotId"] = f"{ticks(action.at)}_{new_guid(rng)}"
    properties = {
        "targetResourceId": target["id"],
        "targetResourceType": target["type"],
        "changeType": kind,
        "changeAttributes": attributes,
    }
    if kind == "Update":
        properties["changes"] = changes
    return make.row(
        id=f"{target['id']}/providers/Microsoft.Resources/changes/{name}",
        name=name,
        type="microsoft.resources/changes",
        location=target["location"],
        resourceGroup=target["resourceGroup"].lower(),
        subscriptionId=target["subscriptionId"],
        properties=properties,
    )


def differences(before: Row, after: Row) -> dict[str, Any]:
    """Return the `changes` of a record: a new path has the text "null" before, one that went has a null after."""
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


def ticks(at: datetime) -> str:
    """Return the twenty digits that begin a change's name: .NET ticks, counted down, so that the newest sort first."""
    past = (at - datetime.fromisoformat("0001-01-01")) // timedelta(microseconds=1) * 10
    return f"{2**63 - 1 - past:020d}"


def stamp(at: datetime, digits: int) -> str:
    """Return `at` with about this many fractional digits (2 to 7 are seen), as many as it takes to lose nothing."""
    fraction = f"{at.microsecond:06d}0"
    needed = len(fraction.rstrip("0"))
    return f"{at:%Y-%m-%dT%H:%M:%S}.{fraction[: max(digits, needed)]}Z"
