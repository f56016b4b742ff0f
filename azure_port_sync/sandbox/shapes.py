"""The shapes that Port's REST API takes for a blueprint, a webhook and an entity: those of its OpenAPI file.

A body that does not fit is answered 422. What the specification allows and the sandbox does not play is answered 501,
so that no client takes it for done.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from azure_port_sync.sandbox.port.answers import RestError, invalid, not_played
from azure_port_sync.sandbox.port.entity import Json, RefusedError, check_identifier

MAX_BODY_BYTES = 1024 * 1024
MAX_UPSERTED = 20
MAX_DELETED = 100

_PROPERTY_TYPES = ("string", "number", "boolean", "object", "array")
_PROPERTY_FORMATS = (
    *("date-time", "url", "email", "idn-email", "ipv4", "ipv6", "markdown", "yaml", "user", "blueprints", "team"),
    *("timer", "proto", "labeled-url"),
)
_PROPERTY_NAME = re.compile(r"[A-Za-z0-9@_=\\-]{1,100}")
_RELATION_KEYS = {"title", "target", "required", "many", "description", "type"}
_WEBHOOK_TEXTS = {"identifier": 30, "title": 30, "description": 200, "icon": None}
_WEBHOOK_KEYS = {*_WEBHOOK_TEXTS, "mappings", "enabled", "security", "integrationType"}
_SECURITY_KEYS = {*("secret", "signatureHeaderName", "signatureAlgorithm", "signaturePrefix"), "requestIdentifierPath"}
_ALGORITHMS = ("sha1", "sha256", "plain", None)
_MAPPING_KEYS = {"blueprint", "operation", "filter", "itemsToParse", "entity"}
_MAPPING_ENTITY_KEYS = {"identifier", "title", "icon", "team", "properties", "relations"}


def json_object(body: bytes) -> Json:
    """Return the object that a body is."""
    if len(body) > MAX_BODY_BYTES:
        raise RestError(413, "payload_too_large", f"The body is larger than {MAX_BODY_BYTES} bytes")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise invalid("the body is not JSON") from None
    return _object("the body", found)


def texts(name: str, value: object) -> list[str]:
    """Return `value`, which has to be a list of texts."""
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise invalid(f'"{name}" is a list of texts')
    return value


# -- blueprints


def check_blueprint(body: Json) -> None:
    """Refuse a body that is no whole blueprint; the targets of its relations are looked at elsewhere."""
    _check_blueprint_identifier(body.get("identifier"))
    _text(body, "title", 100, min_length=1, needed=True)
    _text(body, "description", 200)
    _text(body, "icon", None)
    schema = _object('"schema"', body.get("schema"), {"properties", "required"})
    properties = _object('"schema.properties"', schema.get("properties"))
    for name, definition in properties.items():
        _check_property(name, definition)
    for name in texts("schema.required", schema.get("required", [])):
        if name not in properties:
            raise invalid(f'"schema.required" names {name!r}, which is no property')
    for part in ("calculationProperties", "mirrorProperties", "aggregationProperties"):
        _object(f'"{part}"', body.get(part, {}))
    for name, relation in _object('"relations"', body.get("relations", {})).items():
        _check_relation(name, relation)


def _check_blueprint_identifier(identifier: object) -> None:
    try:
        # The pattern of an entity's identifier, but for the equals sign.
        fits = len(check_identifier(identifier)) <= 100 and "=" not in str(identifier)
    except RefusedError as reason:
        raise invalid(f'"identifier": {reason}') from None
    if not fits:
        raise invalid('"identifier" has at most 100 characters, and no equals sign')


def _check_property(name: str, definition: object) -> None:
    _check_name(name)
    definition = _object(f"the property {name!r}", definition)
    _text(definition, "title", 100)
    if definition.get("type") not in _PROPERTY_TYPES:
        raise invalid(f"the property {name!r} has one of the types {', '.join(_PROPERTY_TYPES)}")
    if "format" in definition and definition["format"] not in _PROPERTY_FORMATS:
        raise invalid(f"the property {name!r} has one of the formats {', '.join(_PROPERTY_FORMATS)}")


def _check_relation(name: str, relation: object) -> None:
    _check_name(name)
    relation = _object(f"the relation {name!r}", relation, _RELATION_KEYS)
    _text(relation, "title", 100)
    _text(relation, "target", None, needed=True)
    if not all(isinstance(relation.get(part), bool) for part in ("required", "many")):
        raise invalid(f'the relation {name!r} has "required" and "many", each true or false')
    if relation["required"] and relation["many"]:
        raise invalid(f"the relation {name!r} cannot be both many and required")


def _check_name(name: str) -> None:
    if not _PROPERTY_NAME.fullmatch(name):
        raise invalid(f"{name!r} cannot be the name of a property or a relation")


# -- webhooks


def check_webhook(body: Json) -> None:
    """Refuse a body that is no whole webhook."""
    _object("the body", body, _WEBHOOK_KEYS)
    for name, max_length in _WEBHOOK_TEXTS.items():
        _text(body, name, max_length, needed=name == "title")
    if not isinstance(body.get("enabled"), bool):
        raise invalid('"enabled" is true or false')
    if body.get("integrationType", "custom") not in ("custom", "template"):
        raise invalid('"integrationType" is custom or template')
    security = _object('"security"', body.get("security", {}), _SECURITY_KEYS)
    if not all(value is None or isinstance(value, str) for value in security.values()):
        raise invalid('"security" has texts')
    if security.get("signatureAlgorithm") not in _ALGORITHMS:
        raise invalid('"security.signatureAlgorithm" is sha1, sha256 or plain')
    mappings = body.get("mappings", [])
    if not isinstance(mappings, list):
        raise invalid('"mappings" is a list')
    for mapping in mappings:
        _check_mapping(mapping)


def _check_mapping(mapping: object) -> None:
    mapping = _object("a mapping", mapping, _MAPPING_KEYS)
    _text(mapping, "blueprint", None, needed=True)
    _text(mapping, "filter", None)
    _text(mapping, "itemsToParse", None)
    deletes = _operation(mapping.get("operation", "create")) == "delete"
    entity = _object("a mapping's entity", mapping.get("entity"), {"identifier"} if deletes else _MAPPING_ENTITY_KEYS)
    if isinstance(entity.get("identifier"), dict) and not deletes:
        raise not_played("a mapping that searches for its entity")
    _text(entity, "identifier", None, needed=True)
    _text(entity, "title", None)
    if unplayed := entity.keys() & {"icon", "team"}:
        raise not_played(f"a mapping's {', '.join(sorted(unplayed))}")
    for part in ("properties", "relations"):
        for value in _object(f"a mapping's {part}", entity.get(part, {})).values():
            if not isinstance(value, str):
                raise not_played(f"a mapping's {part} that are no texts")


def _operation(operation: object) -> str:
    kind = operation
    if isinstance(operation, dict):
        kind = operation.get("type")
        more = {"type", "deleteDependents"} if kind == "delete" else {"type"}
        _object("a mapping's operation", operation, more)
        if not isinstance(operation.get("deleteDependents", False), bool):
            raise invalid('"deleteDependents" is true or false')
    if kind not in ("create", "delete"):
        raise invalid("a mapping's operation is create or delete")
    return str(kind)


# -- entities


def check_entity(body: object) -> Json:
    """Return the entity of a body, which has to fit the specification as far as that goes without a blueprint.

    Port makes up the identifier that a body does not have; no client of ours could find such an entity again, so the
    sandbox refuses it.
    """
    entity = _object("an entity", body)
    if isinstance(entity.get("identifier"), dict):
        raise not_played("an entity that is searched for")
    _check_identifier("identifier", entity.get("identifier"))
    _text(entity, "title", None)
    _text(entity, "icon", None)
    _object('"properties"', entity.get("properties", {}))
    for name, value in _object('"relations"', entity.get("relations", {})).items():
        if isinstance(value, dict):
            raise not_played("a relation that is searched for")
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            _check_identifier(f"relations.{name}", one)
    return entity


def entities_of(body: Json, max_size: int) -> list[Any]:
    """Return the list that the body of a bulk route is."""
    entities = _object("the body", body, {"entities"}).get("entities")
    if not isinstance(entities, list) or not 1 <= len(entities) <= max_size:
        raise invalid(f'"entities" is a list of 1 to {max_size}')
    return entities


def _check_identifier(name: str, value: object) -> None:
    try:
        check_identifier(value)
    except RefusedError as reason:
        raise invalid(f'"{name}": {reason}') from None


# -- what all have in common


def _object(name: str, value: object, keys: Collection[str] | None = None) -> Json:
    if not isinstance(value, dict):
        raise invalid(f"{name} is not an object")
    if keys is not None and (unknown := value.keys() - set(keys)):
        raise invalid(f"{name} must not have {', '.join(sorted(unknown))}")
    return value


def _text(body: Json, name: str, max_length: int | None, *, min_length: int = 0, needed: bool = False) -> None:
    if name not in body and not needed:
        return
    value = body.get(name)
    if not isinstance(value, str) or len(value) < min_length or (max_length is not None and len(value) > max_length):
        raise invalid(f'"{name}" is a text' + (f" of {min_length} to {max_length} characters" if max_length else ""))
