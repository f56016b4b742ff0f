"""A row of the change set as the event that a Port webhook takes.

Shape: ``{"operation": "upsert"|"delete", "type": "resource"|"resourceContainer", "data": {...}}``, as the guide's
script sends it, so that a webhook that was set up by hand from the guide maps it unchanged.
"""

from collections.abc import Mapping
from typing import Any

from azure_port_sync.core.rows import Kind


def event_body(row: Mapping[str, Any]) -> bytes:
    """The request body for one row of CHANGE_SET. Its `data` already is JSON text and goes in as it is."""
    event_type = "resource" if row["kind"] == Kind.RESOURCE else "resourceContainer"
    return f'{{"operation":"{row["operation"]}","type":"{event_type}","data":{row["data"]}}}'.encode()
