"""The events that a Port webhook takes, in the shape of the guide's script, and one example of each.

Shape: ``{"operation": "upsert"|"delete", "type": "resource"|"resourceContainer", "data": {...}}``, so that a webhook
that was set up by hand from the guide maps it unchanged.
"""

from functools import cache
from typing import NamedTuple

from azure_port_sync.core.entities import canonical, delete_data, identity, observed_row
from azure_port_sync.core.kinds import KINDS, Kind
from azure_port_sync.core.rows import Operation


def event_body(operation: str, kind: str, data: str) -> bytes:
    """Return the request body for one operation on an entity; `data` already is JSON text and goes in as it is."""
    return f'{{"operation":"{operation}","type":"{KINDS[Kind(kind)].event_type}","data":{data}}}'.encode()


class Probe(NamedTuple):
    """One example of an event, which shows what a mapping makes of its like."""

    kind: Kind
    operation: Operation
    body: str


@cache
def probes() -> tuple[Probe, ...]:
    """Return one event of each kind and operation, of the example that the table of kinds has."""
    return tuple(
        Probe(kind, operation, event_body(operation, kind, _example_data(kind, operation)).decode())
        for kind in KINDS
        for operation in Operation
    )


def _example_data(kind: Kind, operation: Operation) -> str:
    azure_id = KINDS[kind].example
    name = azure_id.rpartition("/")[2]
    resource_type = KINDS[kind].arm_type or "microsoft.web/sites"
    if operation is Operation.DELETE:
        return canonical(delete_data(identity(azure_id, resource_type, name)))
    row = {"id": azure_id, "type": resource_type, "name": name, "location": "westeurope", "tags": {"a": "b"}}
    return str(observed_row({**row, "rgTags": {}, "inScope": True})["data"])
