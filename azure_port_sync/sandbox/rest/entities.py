"""The routes of Port's REST API for entities: bulks, searches, one entity."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import islice

from azure_port_sync.sandbox.port.answers import Answer, RestError, fine, invalid, not_found, not_played
from azure_port_sync.sandbox.port.entity import Entity, Json, MissingTargetError, RefusedError
from azure_port_sync.sandbox.port.webhooks import Port
from azure_port_sync.sandbox.rest.call import Call, RestRoute, known_blueprint
from azure_port_sync.sandbox.rest.search import Search, cursor_of, search_of
from azure_port_sync.sandbox.shapes import MAX_DELETED, MAX_UPSERTED, check_entity, entities_of, json_object, texts


class EntityRoutes:
    """Answers about entities.

    `items` counts those that were "upserted", "refused" and "deleted". With `Port.count_only` counting is all that
    becomes of them, and nothing is refused.
    """

    def __init__(self, port: Port) -> None:
        self.items: Counter[str] = Counter()
        self._port = port
        self._catalog = port.catalog
        self._ordered: dict[str, tuple[int, list[str]]] = {}

    def routes(self) -> tuple[RestRoute, ...]:
        """Return the routes for entities."""
        below = "blueprints/{blueprint}"
        return (
            RestRoute("search", "POST", f"{below}/entities/search", "search", self._search),
            RestRoute("count", "GET", f"{below}/entities-count", "entities", self._count),
            RestRoute("bulk_upsert", "POST", f"{below}/entities/bulk", "bulk upsert", self._bulk_upsert),
            RestRoute("bulk_delete", "POST", f"{below}/bulk/entities/delete", "entities", self._bulk_delete),
            RestRoute("entity", "GET", f"{below}/entities/{{entity}}", "entities", self._entity),
            RestRoute("delete", "DELETE", f"{below}/entities/{{entity}}", "entities", self._delete),
        )

    def _bulk_upsert(self, call: Call) -> Answer:
        """One body that does not fit the specification makes all of them a 422; what a blueprint refuses, only 207."""
        merge = _merges(call)
        bodies = [check_entity(body) for body in entities_of(json_object(call.body), MAX_UPSERTED)]
        blueprint = known_blueprint(self._catalog.blueprints, call)
        entities: list[Json] = []
        errors: list[Json] = []
        for index, body in enumerate(bodies):
            known = {"identifier": body["identifier"], "index": index}
            try:
                entities.append({"created": self._write(blueprint, body, merge=merge), **known})
            except RestError as error:
                self.items["refused"] += 1
                errors.append(known | {"statusCode": error.status, "error": error.code, "message": str(error)})
        answer = {"ok": not errors, "entities": entities, "errors": errors}
        return Answer(207 if errors else 200, answer)

    def _write(self, blueprint: str, body: Json, *, merge: bool) -> bool:
        """Write one entity, and return whether it is a new one."""
        identifier = body["identifier"]
        old = self._catalog.entities[blueprint].get(identifier)
        created = old is None
        if not self._port.count_only:
            title = old.title if old is not None and merge and "title" not in body else body.get("title")
            properties, relations = body.get("properties", {}), body.get("relations", {})
            try:
                created = self._catalog.upsert(
                    blueprint, identifier, title, properties, relations, merge=merge, missing_targets="refuse"
                )
            except MissingTargetError as reason:
                raise not_found(str(reason)) from None
            except RefusedError as reason:
                raise invalid(str(reason)) from None
        self.items["upserted"] += 1
        return created

    def _entity(self, call: Call) -> Answer:
        entity = self._found(call)
        shown = {"identifier": entity.identifier, "properties": entity.properties, "relations": entity.relations}
        return fine(entity=shown if entity.title is None else shown | {"title": entity.title})

    def _found(self, call: Call) -> Entity:
        entity = self._catalog.entities[known_blueprint(self._catalog.blueprints, call)].get(call.path["entity"])
        if entity is None:
            raise not_found(f"There is no entity {call.path['entity']!r}")
        return entity

    def _delete(self, call: Call) -> Answer:
        dependents = call.flag("delete_dependents", needed=True)
        entity = self._found(call)
        self._delete_all(entity.blueprint, [entity.identifier], dependents=dependents)
        return fine()

    def _bulk_delete(self, call: Call) -> Answer:
        dependents = call.flag("delete_dependents", needed=True)
        asked = texts("entities", entities_of(json_object(call.body), MAX_DELETED))
        blueprint = known_blueprint(self._catalog.blueprints, call)
        if self._port.count_only:
            self.items["deleted"] += len(asked)
            return fine(deletedEntities=asked)
        there = [one for one in dict.fromkeys(asked) if one in self._catalog.entities[blueprint]]
        self._delete_all(blueprint, there, dependents=dependents)
        return fine(deletedEntities=there)

    def _delete_all(self, blueprint: str, identifiers: list[str], *, dependents: bool) -> None:
        """Delete all, or none where one has dependents that may not go with it."""
        for identifier in identifiers:
            if not dependents and self._catalog.dependent_count((blueprint, identifier)):
                raise RestError(422, "has_dependents", f"Other entities depend on {identifier!r}")
        for identifier in identifiers:
            # A dependent of the one before may be gone with it.
            if self._catalog.exists((blueprint, identifier)):
                self._catalog.delete(blueprint, identifier, dependents=True)
        self.items["deleted"] += len(identifiers)

    def _count(self, call: Call) -> Answer:
        return fine(count=len(self._catalog.entities[known_blueprint(self._catalog.blueprints, call)]))

    def _search(self, call: Call) -> Answer:
        search, blueprint = search_of(json_object(call.body or b"{}")), known_blueprint(self._catalog.blueprints, call)
        chosen = search.chosen(self._catalog.blueprints[blueprint])
        # Pages go by identifier, so that what is added or removed meanwhile moves nothing from one page to another.
        page = list(islice(self._after(blueprint, search.after), search.limit + 1))
        answer: Json = {"entities": [Search.shown(entity, chosen) for entity in page[: search.limit]]}
        if len(page) > search.limit:
            answer["next"] = cursor_of(page[search.limit - 1].identifier)
        return fine(**answer)

    def _after(self, blueprint: str, identifier: str) -> Iterator[Entity]:
        version, ordered = self._ordered.get(blueprint, (-1, []))
        entities = self._catalog.entities[blueprint]
        if version != self._catalog.version:
            ordered = sorted(entities)
            self._ordered[blueprint] = (self._catalog.version, ordered)
        return (entities[ordered[at]] for at in range(bisect_right(ordered, identifier), len(ordered)))


def _merges(call: Call) -> bool:
    """Return whether an upsert merges into the entity there is; otherwise it replaces it."""
    upsert, merge = call.flag("upsert", needed=True), call.flag("merge")
    create, validate = call.flag("create_missing_related_entities"), call.flag("validation_only")
    if not upsert or create or validate:
        raise not_played("an upsert that does not update, that creates what is missing, or that only validates")
    return merge
