"""Rows of Azure in, entities of the catalog out: identity, the `data` that is sent to Port, and its hash.

`data` keeps the keys of the guide's script, so that its webhook mapping and anybody's own mapping read it
unchanged. It is canonical JSON text (sorted keys, no spaces), because text is what is compared, stored and sent.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from azure_port_sync.core.identity import containers_of, escape, port_identifier
from azure_port_sync.core.kinds import SUBSCRIPTION_TYPE, Kind, kind_of

#: Keys of `data` that do not say what the entity is: tags that belong to another entity, and a spelling that resource
#: providers vary at will. An entity that differs only in them, or in how it last changed, is `unchanged`.
_NOT_HASHED = frozenset({"rgTags", "id"})

#: The most bytes of `changedProperties`, as canonical JSON; Azure puts values of 300 kB into a change record
#: (github.com/microsoft/ARI/issues/195), and Port refuses an event that is too large.
MAX_CHANGED_PROPERTIES = 16 * 1024

#: Return a value as canonical JSON text.
canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


def content_hash(data: Mapping[str, Any]) -> str:
    """Return 128 bits over what Port shows of an entity."""
    shown = {key: value for key, value in data.items() if key not in _NOT_HASHED}
    return hashlib.blake2b(canonical(shown).encode(), digest_size=16).hexdigest()


def identity(azure_id: str, resource_type: str, name: str | None) -> dict[str, Any]:
    """Return the identity columns of an entity; a missing name is read from the end of its id."""
    subscription_id, resource_group = containers_of(azure_id)
    return {
        "kind": kind_of(resource_type),
        "identifier": port_identifier(escape(azure_id)),
        "azure_id": azure_id,
        "type": resource_type,
        "name": name or azure_id.rpartition("/")[2],
        "subscription_id": subscription_id,
        "resource_group": resource_group,
    }


def observed_row(
    row: Mapping[str, Any],
    *,
    extra_columns: Sequence[str] = (),
    change: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the observation of a row that Azure shows.

    `row` has the keys ``id name type location tags inScope``, for resources also ``rgTags`` and one ``extra<n>`` per
    extra column; `change` the keys ``changeType changeTime changedProperties``.
    """
    columns = identity(row["id"], row["type"].lower(), row["name"])
    data: dict[str, Any] = {
        **delete_data(columns),
        "id": row["id"],
        "sourceResourceId": row["id"].lower(),
        "name": columns["name"],
        "location": row["location"] or None,
        "tags": row["tags"],
    }
    if columns["kind"] == Kind.RESOURCE:
        data["rgTags"] = row["rgTags"]
        for position, path in enumerate(extra_columns):
            _set_path(data, path.split("."), row[f"extra{position}"])
    return {
        **columns,
        "present": True,
        "in_scope": bool(row["inScope"]),
        "hash": content_hash(data),
        "data": canonical(data),
        **(_change_columns(change) if change is not None else {}),
    }


def observed_subscription(subscription_id: str, name: str) -> dict[str, Any]:
    """Return the observation of a subscription that shows no row of its own, only some of its groups."""
    row = {"id": f"/subscriptions/{subscription_id}", "name": name, "type": SUBSCRIPTION_TYPE, "location": None}
    return observed_row({**row, "tags": None, "inScope": True})


def observed_absence(azure_id: str, resource_type: str, change: Mapping[str, Any]) -> dict[str, Any]:
    """Return the observation of a change record whose entity Azure shows no row for."""
    return {
        **identity(azure_id, resource_type, None),
        "present": False,
        "in_scope": False,
        **_change_columns(change),
    }


def _change_columns(change: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "change_type": change["changeType"],
        # As Azure writes it: 0 to 7 fractional digits, ``Z`` or an offset. Microseconds are kept.
        "change_time": datetime.fromisoformat(change["changeTime"]),
        "change": canonical({**change, **_cut_to_size(change["changedProperties"])}),
    }


def _cut_to_size(changed: Any) -> dict[str, Any]:
    """Return `changedProperties` without their values, or without their names too, where they are large."""
    if _fits(changed):
        return {"changedProperties": changed}
    names = dict.fromkeys(changed) if isinstance(changed, dict) else {}
    return {"changedProperties": names if _fits(names) else {}, "changedPropertiesTruncated": True}


def _fits(changed: Any) -> bool:
    return len(canonical(changed).encode()) <= MAX_CHANGED_PROPERTIES


def delete_data(identity_columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of `data` that says who an entity is and where it lies; a delete carries nothing else."""
    resource_id = escape(identity_columns["azure_id"])
    if port_identifier(resource_id) != identity_columns["identifier"]:
        resource_id = identity_columns["identifier"]  # imported from Port and never sent by us: its id is a guess
    return {
        "resourceId": resource_id,
        "type": identity_columns["type"],
        "subscriptionId": identity_columns["subscription_id"],
        # Escaped like the identifier, so that the guide's relation meets the group.
        "resourceGroup": escape(identity_columns["resource_group"]),
    }


def _set_path(data: dict[str, Any], path: Sequence[str], value: Any) -> None:
    *parents, last = path
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            return  # a part of a column that was also asked for as a whole, and has no parts here
    data[last] = value
