"""Builders of observations: what a read brings of one entity."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from azure_port_sync.core.entities import identity, observed_absence, observed_row

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
EARLIER, LATER = NOW - timedelta(hours=1), NOW + timedelta(hours=1)

SUBSCRIPTION = "/subscriptions/00000000-0000-0000-0000-00000000000a"


def resource_id(name: str) -> str:
    """Return the id of a site in the group Web."""
    return f"{SUBSCRIPTION}/resourceGroups/Web/providers/Microsoft.Web/sites/{name}"


def change(change_type: str, at: datetime) -> dict[str, Any]:
    """Return what a change record says."""
    return {"changeType": change_type, "changeTime": at.isoformat(), "changedProperties": None}


def row_of(
    azure_id: str,
    record: dict[str, Any] | None = None,
    *,
    in_scope: bool = True,
    location: str = "westeurope",
    kind: str = "microsoft.web/sites",
) -> dict[str, Any]:
    """Return the observation of a row, and of a change record where one is given."""
    row: dict[str, Any] = {
        "id": azure_id,
        "name": azure_id.rpartition("/")[2],
        "type": kind,
        "location": location,
        "tags": {},
        "rgTags": None,
        "inScope": in_scope,
    }
    return observed_row(row, change=record)


def no_row_of(azure_id: str, record: dict[str, Any] | None) -> dict[str, Any]:
    """Return the observation that there is no row, only a change record or not even that."""
    if record is not None:
        return observed_absence(azure_id, "microsoft.web/sites", record)
    return {**identity(azure_id, "microsoft.web/sites", None), "present": False, "in_scope": False}


CHANGES = st.none() | st.tuples(st.sampled_from(["Create", "Update", "Delete"]), st.sampled_from([EARLIER, NOW, LATER]))
