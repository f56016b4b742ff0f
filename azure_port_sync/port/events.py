"""The event that a Port webhook takes, in the shape of the guide's script.

Shape: ``{"operation": "upsert"|"delete", "type": "resource"|"resourceContainer", "data": {...}}``, so that a webhook
that was set up by hand from the guide maps it unchanged.
"""

from azure_port_sync.core.kinds import KINDS, Kind


def event_body(operation: str, kind: str, data: str) -> bytes:
    """Return the request body for one operation on an entity; `data` already is JSON text and goes in as it is."""
    return f'{{"operation":"{operation}","type":"{KINDS[Kind(kind)].event_type}","data":{data}}}'.encode()
