"""Rows for tests: a few entities of Azure, as observations of them and as operations on them."""

from typing import Any

import pandas as pd

from azure_port_sync.core.entities import identity
from azure_port_sync.core.kinds import RESOURCE_GROUP_TYPE, SUBSCRIPTION_TYPE
from azure_port_sync.core.rows import OBSERVATION, ChangeSetRow, frame_of

#: Columns of an entity, and what was observed of it.
Row = dict[str, Any]

SUB = "0b1f6471-1bf0-4dda-aec3-cb9272f09590"
OTHER_SUB = "1b1f6471-1bf0-4dda-aec3-cb9272f09590"


def subscription(subscription_id: str = SUB) -> Row:
    return identity(f"/subscriptions/{subscription_id}", SUBSCRIPTION_TYPE, None)


def group(name: str, subscription_id: str = SUB) -> Row:
    return identity(f"/subscriptions/{subscription_id}/resourceGroups/{name}", RESOURCE_GROUP_TYPE, None)


def resource(name: str, group_name: str = "Web", subscription_id: str = SUB) -> Row:
    group_id = f"/subscriptions/{subscription_id}/resourceGroups/{group_name}"
    return identity(f"{group_id}/providers/Microsoft.Web/sites/{name}", "microsoft.web/sites", None)


def upsert(entity: Row, content: str = "h") -> ChangeSetRow:
    return ChangeSetRow(operation="upsert", **entity, hash=content, data="{}")


def delete(entity: Row) -> ChangeSetRow:
    return ChangeSetRow(operation="delete", **entity, hash=None, data="{}")


def shown(entity: Row, content: str = "h", **more: Any) -> Row:
    """A row that Azure shows, in scope unless `more` says otherwise."""
    return {**entity, "present": True, "in_scope": True, "hash": content, "data": "{}", **more}


def not_shown(entity: Row, **more: Any) -> Row:
    return {**entity, "present": False, "in_scope": False, **more}


def frame(*rows: Row) -> pd.DataFrame:
    return frame_of(rows, OBSERVATION)


def names(entities: pd.DataFrame) -> set[str]:
    return set(entities["name"])
