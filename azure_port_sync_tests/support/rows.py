"""Builders of the rows of a change set: operations on a subscription, a group in it, and resources in that."""

from typing import Any

import pandas as pd

from azure_port_sync.core.entities import canonical, delete_data, identity, observed_row
from azure_port_sync.core.rows import CHANGE_SET, ChangeSetRow, Operation, frame_of
from azure_port_sync_tests.support.entities import SUB

#: An Azure id and its type.
Entity = tuple[str, str]

SUBSCRIPTION: Entity = (f"/subscriptions/{SUB}", "microsoft.resources/subscriptions")
GROUP: Entity = (f"/subscriptions/{SUB}/resourceGroups/Web (old) 1", "microsoft.resources/subscriptions/resourcegroups")


def resource(name: str) -> Entity:
    """Return a site in the group."""
    return (f"{GROUP[0]}/providers/Microsoft.Web/sites/{name}", "microsoft.web/sites")


def upsert(entity: Entity, **columns: Any) -> ChangeSetRow:
    """Return the upsert of an entity, of which Azure's row has these columns beyond the usual."""
    azure_id, resource_type = entity
    row = {
        "id": azure_id,
        "name": azure_id.rpartition("/")[2],
        "type": resource_type,
        "location": "westeurope",
        "tags": {"Team": "wêb"},
        "rgTags": {},
        "inScope": True,
    }
    return _row(Operation.UPSERT, observed_row({**row, **columns}))


def delete(entity: Entity) -> ChangeSetRow:
    """Return the delete of an entity."""
    columns = identity(*entity, None)
    return _row(Operation.DELETE, {**columns, "data": canonical(delete_data(columns))})


def _row(operation: Operation, columns: dict[str, Any]) -> ChangeSetRow:
    known = {**columns, "operation": str(operation)}
    return ChangeSetRow._make(known.get(name) for name in ChangeSetRow._fields)


def change_set(*rows: ChangeSetRow) -> pd.DataFrame:
    """Return a change set of these rows, in this order."""
    return frame_of([row._asdict() for row in rows], CHANGE_SET)


def upserts_of(*names: str) -> pd.DataFrame:
    """Return a change set that upserts resources of these names."""
    return change_set(*[upsert(resource(name)) for name in names])
