"""A webhook's mapping, evaluated as Port evaluates it: which entities become of an event.

Several need it: the sink for Port's REST API, which makes entities of our events itself; the selection of a sink, which
has to know what a webhook makes of a batch before it sends one; and whoever compares Port with what was sent.
Source: docs.port.io (custom integration: webhook).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from azure_port_sync.port import Json
from azure_port_sync.port.jq_dialect import Program, embed

#: Of a batch, Port works off so many items and drops the rest silently (docs.port.io, "Custom webhooks").
MAX_ITEMS = 500


@dataclass(frozen=True)
class Target:
    """The blueprint that the records of one mapping go to, and the operation on them there."""

    blueprint: str
    operation: Literal["create", "delete"]

    @classmethod
    def of(cls, mapping: Json) -> "Target":
        """Return the target of one mapping."""
        operation: Any = mapping.get("operation", "create")
        return cls(mapping["blueprint"], operation["type"] if isinstance(operation, dict) else operation)


def is_mapping(mapping: Any) -> bool:
    """Return whether this has the shape of a mapping; one that has not makes nothing, and is in nobody's way."""
    match mapping:
        case {"blueprint": str(), "entity": {"identifier": _, **others}}:
            parts = (others.get(name) or {} for name in ("properties", "relations"))
            operation = mapping.get("operation", "create")
            return all(isinstance(part, dict) for part in parts) and (
                isinstance(operation, str) or (isinstance(operation, dict) and "type" in operation)
            )
    return False


class MappedEntity(NamedTuple):
    """One entity that a mapping makes of an event, and what is done with it; `document` is as Port's API takes it."""

    blueprint: str
    operation: Literal["create", "delete"]
    document: Json

    @property
    def identifier(self) -> str:
        """The identifier that Port stores it under."""
        return str(self.document["identifier"])

    @property
    def shown(self) -> Json:
        """Title (where it is mapped), properties and relations by name."""
        title = {"title": self.document["title"]} if "title" in self.document else {}
        return {**title, **self.document["properties"], **self.document["relations"]}


class WebhookMapping:
    """All mappings of a webhook as one jq program, so that an event is parsed once. Safe to share between threads."""

    def __init__(self, mappings: Sequence[Json]) -> None:
        self.mappings = [mapping for mapping in mappings if is_mapping(mapping)]
        self.targets = [Target.of(mapping) for mapping in self.mappings]
        parts = ", ".join(f"[{_records(mapping)}]" for mapping in self.mappings)
        self._program = Program(f". as $context | [{parts}]")

    def entities(self, body: str) -> list[MappedEntity]:
        """Return what becomes of an event, or of a batch, in the order of the mappings. No identifier, no entity."""
        context = f'{{"body": {body}, "headers": {{}}, "queryParams": {{}}}}'
        return [
            MappedEntity(target.blueprint, target.operation, record)
            for target, record in self.records(context)
            if record["identifier"] is not None
        ]

    def records(self, context: str) -> Iterator[tuple[Target, Json]]:
        """Yield the records of an event, in the order of the mappings: ``{identifier, title, properties, relations}``.

        `context` is the JSON text ``{"body": ..., "headers": ..., "queryParams": ...}``. What fails is null.
        """
        for target, records in zip(self.targets, self._program.first(context) or [], strict=False):
            for record in records:
                yield target, record


def _records(mapping: Json) -> str:
    """Return the jq that makes the records of one mapping from `$context`; the filter goes before the entity."""
    entity = mapping["entity"]
    fields = {name: _expression(entity[name]) for name in ("identifier", "title") if name in entity}
    for name in ("properties", "relations"):
        fields[name] = _object({key: _expression(value) for key, value in (entity.get(name) or {}).items()})
    record = f"if {_expression(mapping.get('filter', 'true'))} == true then {_object(fields)} else empty end"
    if "itemsToParse" not in mapping:
        return f"$context | {record}"
    items = f'{_expression(mapping["itemsToParse"])} | if type == "array" then .[:{MAX_ITEMS}][] else empty end'
    return f"$context | {items} | . as $item | $context + {{item: $item}} | {record}"


def _expression(value: object) -> str:
    """Return the jq of an expression; of anything else, such as a relation that is a query, null."""
    return embed(value) if isinstance(value, str) else "null"


def _object(members: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in members.items()) + "}"
