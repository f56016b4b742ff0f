"""The responses of Port's API as typed things: its JSON is read here, and nowhere else.

Each is made by `of`, which raises ShapeError for what Port's specification does not have (github.com/port-labs/
port-docs, `static/apispec.yaml`). What is in Port's own format and goes back as it is (mappings, the schema of a
blueprint, the security of a webhook) stays JSON.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from azure_port_sync.port import Json

_LONGEST_LIFE = 10**9  # seconds; what is longer is no number of seconds


class ShapeError(Exception):
    """A response does not have the shape that Port's specification gives it. The error has none of its text."""


@dataclass(frozen=True)
class Token:
    """An access token, as the header that it becomes, and the seconds for which it is good."""

    authorization: str = field(repr=False)
    expires_in: float

    @classmethod
    def of(cls, body: Json) -> Self:
        kind, token, seconds = body.get("tokenType"), body.get("accessToken"), body.get("expiresIn")
        authorization = f"{kind} {token}"
        # What is not printable ASCII is no header, and the error that says so would show it.
        if not (
            isinstance(kind, str) and isinstance(token, str) and authorization.isascii() and authorization.isprintable()
        ):
            raise ShapeError
        if not (isinstance(seconds, int | float) and 0 < seconds < _LONGEST_LIFE):
            raise ShapeError
        return cls(authorization, seconds)


class FoundEntity(NamedTuple):
    """One entity in a search; `type` is None where it has none, or where it was not asked for."""

    identifier: str
    title: str | None
    type: str | None

    @classmethod
    def of(cls, entity: object) -> Self:
        if not isinstance(entity, dict):
            raise ShapeError
        identifier, title, properties = entity.get("identifier"), entity.get("title"), entity.get("properties")
        if not (isinstance(identifier, str) and isinstance(title, str | None) and isinstance(properties, dict | None)):
            raise ShapeError
        resource_type = (properties or {}).get("type")
        return cls(identifier, title, resource_type if isinstance(resource_type, str) else None)


class SearchPage(NamedTuple):
    """One page of a search, and the cursor of the next one; None at the end."""

    entities: list[FoundEntity]
    next: str | None

    @classmethod
    def of(cls, body: Json) -> Self:
        entities, cursor = body.get("entities"), body.get("next") or None
        if not (isinstance(entities, list) and isinstance(cursor, str | None)):
            raise ShapeError
        return cls([FoundEntity.of(entity) for entity in entities], cursor)


@dataclass(frozen=True)
class StoredEntity:
    """One entity as Port shows it."""

    title: str | None
    properties: Json
    relations: Json

    @classmethod
    def of(cls, entity: Json) -> Self:
        return cls(entity.get("title"), _object(entity, "properties"), _object(entity, "relations"))

    @property
    def shown(self) -> Json:
        """Title, properties and relations by name."""
        return {"title": self.title, **self.properties, **self.relations}


@dataclass(frozen=True)
class Blueprint:
    """One blueprint: its schema and its relations, in Port's format."""

    schema: Json
    relations: Json

    @classmethod
    def of(cls, blueprint: Json) -> Self:
        schema = _object(blueprint, "schema")
        properties, relations = _object(schema, "properties"), _object(blueprint, "relations")
        if not all(isinstance(one, dict) for one in (*properties.values(), *relations.values())):
            raise ShapeError
        return cls({**schema, "properties": properties}, relations)

    @property
    def properties(self) -> Json:
        """The properties of the schema by name."""
        properties: Json = self.schema["properties"]
        return properties


class Signature(NamedTuple):
    """The signature that a webhook expects of its events: the header in lower case, the algorithm, and the prefix."""

    header: str
    algorithm: str
    prefix: str


@dataclass(frozen=True)
class Webhook:
    """One webhook of the account: `url` and `key` say where it takes events, each None where Port does not show it.

    `mappings` and `security` are in Port's format; a mapping may be an odd one, of which nothing is made.
    """

    identifier: str
    url: str | None
    key: str | None
    enabled: bool
    mappings: list[Any]
    security: Json

    @classmethod
    def of(cls, webhook: Json) -> Self:
        url, key, mappings = webhook.get("url"), webhook.get("webhookKey"), webhook.get("mappings") or []
        if not isinstance(mappings, list):
            raise ShapeError
        return cls(
            identifier=str(webhook.get("identifier")),
            url=url if isinstance(url, str) else None,
            key=key if isinstance(key, str) else None,
            enabled=webhook.get("enabled") is not False,
            mappings=mappings,
            security=_object(webhook, "security"),
        )

    @property
    def signature(self) -> Signature | None:
        """The signature that it expects; None where it takes any event. Port may not show the secret itself."""
        header = self.security.get("signatureHeaderName")
        if not header or not self.security.get("secret", True):
            return None
        algorithm, prefix = self.security.get("signatureAlgorithm"), self.security.get("signaturePrefix")
        return Signature(str(header).lower(), str(algorithm or "sha256"), str(prefix or ""))


class EntityError(NamedTuple):
    """Why Port did not write one entity of a bulk upsert; the message is Port's, as it came."""

    status: int
    message: str


@dataclass(frozen=True)
class BulkUpsert:
    """The response to a bulk upsert: the errors, by the position of their entity; all others were written."""

    errors: dict[int, EntityError]

    @classmethod
    def of(cls, body: Json, *, sent: int) -> Self:
        """Read the response to `sent` entities; one that does not account for each of them is none."""
        written, errors = body.get("entities") or [], body.get("errors") or []
        if not (isinstance(written, list) and isinstance(errors, list)):
            raise ShapeError
        by_position = dict(_errors(errors))
        if len(written) + len(by_position) != sent or not by_position.keys() <= set(range(sent)):
            raise ShapeError
        return cls(by_position)


def _errors(errors: list[Any]) -> Iterator[tuple[int, EntityError]]:
    for error in errors:
        if not isinstance(error, dict):
            raise ShapeError
        index, status = error.get("index"), error.get("statusCode")
        if isinstance(index, int) and isinstance(status, int):
            yield index, EntityError(status, str(error.get("message")))


def deleted_identifiers(body: Json) -> set[str]:
    """Return what a bulk delete says it has deleted; Port's specification and its own client differ on the form."""
    deleted = body.get("deletedEntities") or []
    if not isinstance(deleted, list):
        raise ShapeError
    return {str(one.get("identifier") if isinstance(one, dict) else one) for one in deleted}


def _object(json: Json, name: str) -> Json:
    """Return the object of that name; an empty one where there is none."""
    found = json.get(name) or {}
    if not isinstance(found, dict):
        raise ShapeError
    return found


def one_object(body: Json) -> Json:
    """Return the one object that a response holds, under whatever name."""
    for value in body.values():
        if isinstance(value, dict):
            return value
    raise ShapeError


def objects(body: Json) -> list[Json]:
    """Return the objects of the first list in a response, under whatever name: that of webhooks is not documented."""
    lists = [value for value in body.values() if isinstance(value, list)]
    return [one for one in (lists[0] if lists else []) if isinstance(one, dict)]
