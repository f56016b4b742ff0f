"""The blueprints that a mapping puts each kind of entity into: what Port calls our kinds is the mapping's to say."""

from collections.abc import Mapping
from functools import cache

from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import Operation
from azure_port_sync.port import model
from azure_port_sync.port.events import probes
from azure_port_sync.port.mapping import WebhookMapping


def blueprints_of(mapping: WebhookMapping) -> Mapping[Kind, str]:
    """Return the blueprint of each kind, by what the mapping makes of an example; a kind that it drops has none."""
    return {
        probe.kind: entity.blueprint
        for probe in probes()
        if probe.operation is Operation.UPSERT
        for entity in mapping.entities(probe.body)
        if entity.operation == "create"
    }


@cache
def packaged_blueprints() -> Mapping[Kind, str]:
    """Return the blueprint of each kind by the packaged mapping, which is the guide's."""
    return blueprints_of(WebhookMapping(model.webhook()["mappings"]))
