"""Port's entities: what one has, and what a blueprint demands of it.

Sources: docs.port.io and Port's OpenAPI file (github.com/port-labs/port-docs, `static/apispec.yaml`).
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

MAX_IDENTIFIER_LENGTH = 1000

Json = dict[str, Any]
Key = tuple[str, str]  # blueprint, identifier


class Clock(Protocol):
    """The one thing that Port needs of the sandbox's clock."""

    def now(self) -> datetime:
        """Return the sandbox's time, in UTC."""
        ...


class RefusedError(Exception):
    """Port does not write this entity, for the reason given."""


class MissingTargetError(RefusedError):
    """A relation of the entity leads to an entity that does not exist."""


@dataclass(slots=True)
class Entity:
    """One row of the catalog."""

    blueprint: str
    identifier: str
    title: str | None
    properties: Json
    relations: Json
    created_at: datetime
    updated_at: datetime
    search_text: str = ""

    def as_json(self) -> Json:
        """Return the entity as the page and the control API have it."""
        return {
            "blueprint": self.blueprint,
            "identifier": self.identifier,
            "title": self.title,
            "properties": self.properties,
            "relations": self.relations,
            "createdAt": iso(self.created_at),
            "updatedAt": iso(self.updated_at),
        }

    def index(self) -> None:
        """Make the text that a search runs over: everything a person could type to find this entity."""
        self.search_text = json.dumps([self.title, self.identifier, self.properties], ensure_ascii=False).casefold()


def iso(instant: datetime) -> str:
    """Return an instant as Port writes it."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# -- identifiers

# The pattern is ^(?!\.{1,2}$)[\p{L}0-9@_.+:\\/=-]+$ (`re` has no \p{L}: letters beyond ASCII are looked up).
_PLAIN_IDENTIFIER = re.compile(r"[A-Za-z0-9@_.+:\\/=-]+")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9@_.+:\\/=-]")


def check_identifier(value: object) -> str:
    """Return `value` when Port takes it as an entity's identifier; raise RefusedError otherwise."""
    if not isinstance(value, str) or not value:
        raise RefusedError(f"the identifier is {json.dumps(value)}, not a text")
    if len(value) > MAX_IDENTIFIER_LENGTH:
        raise RefusedError(f"the identifier is {len(value)} characters long, Port takes {MAX_IDENTIFIER_LENGTH}")
    if value in {".", ".."}:
        raise RefusedError(f"the identifier may not be {value!r}")
    if not _PLAIN_IDENTIFIER.fullmatch(value):
        for character in _NOT_PLAIN.findall(value):
            if not character.isalpha():
                raise RefusedError(f"the identifier holds {character!r}, which Port does not take")
    return value


# -- what a blueprint demands

_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


def check_parts(blueprint: Json, properties: Json, relations: Json) -> None:
    """Raise RefusedError where a blueprint has no such property or relation, or not of such a type."""
    schema = blueprint["schema"]["properties"]
    for name, value in properties.items():
        if name not in schema:
            raise RefusedError(f"the blueprint has no property {name!r}")
        if value is not None and not isinstance(value, _JSON_TYPES[schema[name]["type"]]):
            raise RefusedError(f"the property {name!r} is not of type {schema[name]['type']}")
    for name, value in relations.items():
        _check_relation(blueprint, name, value)


def _check_relation(blueprint: Json, name: str, value: object) -> None:
    relation = blueprint["relations"].get(name)
    if relation is None:
        raise RefusedError(f"the blueprint has no relation {name!r}")
    if value is None and not relation.get("required"):
        return
    for identifier in value if isinstance(value, list) and relation.get("many") else [value]:
        try:
            check_identifier(identifier)
        except RefusedError as reason:
            raise RefusedError(f"the relation {name!r}: {reason}") from None


def check_required(blueprint: Json, properties: Json, relations: Json) -> None:
    """Raise RefusedError where an entity would lack what its blueprint requires."""
    for name in blueprint["schema"].get("required", []):
        if properties.get(name) is None:
            raise RefusedError(f"the blueprint wants the property {name!r}")
    for name, relation in blueprint["relations"].items():
        if relation.get("required") and relations.get(name) is None:
            raise RefusedError(f"the blueprint wants the relation {name!r}")


def targets_of(blueprint: Json) -> dict[str, str]:
    """Return the blueprints that the relations of one lead to."""
    return {name: relation["target"] for name, relation in blueprint["relations"].items()}


def leads(blueprint: Json, relations: Json) -> Iterator[tuple[str, Key]]:
    """Yield where relations lead: (relation, target)."""
    targets = targets_of(blueprint)
    for name, value in relations.items():
        for identifier in value if isinstance(value, list) else [value]:
            if identifier is not None:
                yield name, (targets[name], identifier)
