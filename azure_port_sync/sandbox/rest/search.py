"""A search for the entities of a blueprint: which of their parts it asks for, and from where on.

Rules are not played: the product reads all entities of a blueprint and chooses for itself.
"""

import base64
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from azure_port_sync.sandbox.port.answers import invalid, not_played
from azure_port_sync.sandbox.port.entity import Entity, Json, iso
from azure_port_sync.sandbox.shapes import texts

_META: dict[str, Callable[[Entity], Any]] = {
    "$identifier": lambda entity: entity.identifier,
    "$title": lambda entity: entity.title,
    "$blueprint": lambda entity: entity.blueprint,
    "$createdAt": lambda entity: iso(entity.created_at),
    "$updatedAt": lambda entity: iso(entity.updated_at),
}
#: What an answer has according to the specification; an example there asks for more by `include`.
_USUAL_META = frozenset({"$identifier", "$title"})


@dataclass(frozen=True)
class Search:
    """The body of a search, understood. `include` None: everything."""

    include: list[str] | None
    limit: int
    after: str

    def chosen(self, blueprint: Json) -> Collection[str]:
        """Return the names of what an answer shows. That Port refuses a name it does not know is not documented."""
        named = {*blueprint["schema"]["properties"], *blueprint["relations"]}
        if self.include is None:
            return named | _USUAL_META
        for name in self.include:
            if name not in named and name not in _META:
                raise invalid(f"the blueprint has no property {name!r}")
        return set(self.include)

    @staticmethod
    def shown(entity: Entity, chosen: Collection[str]) -> Json:
        """Return an entity without what was not asked for; a title that is null is absent, as it is specified."""
        meta = {name.removeprefix("$"): value_of(entity) for name, value_of in _META.items() if name in chosen}
        shown = {name: value for name, value in meta.items() if value is not None}
        for part, values in {"properties": entity.properties, "relations": entity.relations}.items():
            if kept := {name: value for name, value in values.items() if name in chosen}:
                shown[part] = kept
        return shown


def search_of(body: Json) -> Search:
    """Return the search that a body asks for."""
    if "exclude" in body:
        raise not_played('the "exclude" of a search')
    if unknown := body.keys() - {"query", "include", "limit", "from"}:
        raise invalid(f"the body must not have {', '.join(sorted(unknown))}")
    limit = body.get("limit", 200)
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not 1 <= limit <= 1000:
        raise invalid('"limit" is a number from 1 to 1000')
    if "query" in body:
        _check_query(body["query"])
    include = texts("include", body["include"]) if "include" in body else None
    return Search(include, int(limit), _position(body["from"]) if "from" in body else "")


def _check_query(query: object) -> None:
    if not isinstance(query, dict) or query.keys() != {"combinator", "rules"}:
        raise invalid('"query" has a combinator and rules')
    if query["combinator"] not in ("and", "or") or not isinstance(query["rules"], list):
        raise invalid('"query" has the combinator "and" or "or", and a list of rules')
    if query["rules"]:
        raise not_played("the rules of a search")


def cursor_of(identifier: str) -> str:
    """Return the `next` of a page that ends with this entity."""
    return base64.urlsafe_b64encode(identifier.encode()).decode()


def _position(cursor: object) -> str:
    try:
        identifier = base64.b64decode(cursor, b"-_", validate=True).decode() if isinstance(cursor, str) else ""
    except ValueError:
        identifier = ""
    if not identifier:
        raise invalid('"from" is no `next` of an answer')
    return identifier
