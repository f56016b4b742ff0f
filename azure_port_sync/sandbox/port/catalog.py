"""Port's catalog: blueprints and their entities, who depends on whom, and what Port would not write.

An entity that does not fit its blueprint is refused, with the reason. What is refused after a webhook's 202 stands in
the audit log alone.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from threading import RLock
from typing import Literal

from azure_port_sync.sandbox.port.entity import (
    Clock,
    Entity,
    Json,
    Key,
    MissingTargetError,
    RefusedError,
    check_identifier,
    check_parts,
    check_required,
    iso,
    leads,
    targets_of,
)

Operation = Literal["created", "updated", "deleted"]


@dataclass(frozen=True, slots=True)
class Activity:
    """One change of the catalog, for the list of what arrived last."""

    at: datetime
    operation: Operation
    blueprint: str
    identifier: str
    title: str | None
    dependents: int = 0

    def as_json(self) -> Json:
        """Return it as the page and the control API have it."""
        return {**asdict(self), "at": iso(self.at)}


@dataclass(frozen=True, slots=True)
class Failure:
    """One line of the audit log with status FAILURE: what Port accepted with 202 and then did not write."""

    at: datetime
    blueprint: str
    operation: str
    identifier: object
    reason: str

    def as_json(self) -> Json:
        """Return it as the page and the control API have it."""
        return {**asdict(self), "at": iso(self.at)}


class Dependents:
    """The relations between entities, by the entity that they lead to."""

    def __init__(self) -> None:
        self._of: dict[Key, dict[Key, None]] = {}

    def clear(self) -> None:
        """Forget all relations."""
        self._of.clear()

    def link(self, key: Key, targets: Iterable[Key]) -> None:
        """Take note of the relations of an entity."""
        for target in targets:
            self._of.setdefault(target, {})[key] = None

    def unlink(self, key: Key, targets: Iterable[Key]) -> None:
        """Forget the relations of an entity."""
        for target in targets:
            siblings = self._of[target]
            siblings.pop(key, None)
            if not siblings:
                del self._of[target]

    def targets(self) -> list[Key]:
        """Return all that a relation leads to, there or not."""
        return list(self._of)

    def of(self, key: Key) -> list[Key]:
        """Return the entities with a relation to this one."""
        return list(self._of.get(key, ()))

    def count(self, key: Key) -> int:
        """Return how many entities have a relation to this one."""
        return len(self._of.get(key, ()))

    def all_of(self, key: Key) -> Iterator[Key]:
        """Yield this one and all that depend on it, however far."""
        seen = {key}
        queue = deque([key])
        while queue:
            one = queue.popleft()
            yield one
            new = [other for other in self._of.get(one, ()) if other not in seen]
            seen.update(new)
            queue.extend(new)


_BLUEPRINT_DEFAULTS: Json = {
    "calculationProperties": {},
    "mirrorProperties": {},
    "aggregationProperties": {},
    "relations": {},
}


class Catalog:
    """Blueprints and their entities.

    A webhook may write a relation whose target does not exist: Port's documentation leaves open what becomes of it, and
    the sandbox keeps it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lock = RLock()
        self.version = 0
        self.blueprints: dict[str, Json] = {}
        self.entities: dict[str, dict[str, Entity]] = {}
        self.counts: dict[str, Counter[str]] = {}
        self.activity: deque[Activity] = deque(maxlen=200)
        self.failures: deque[Failure] = deque(maxlen=500)
        self.failure_count = 0
        self._dependents = Dependents()

    def clear(self) -> None:
        """Remove all entities and every trace of them; the blueprints stay."""
        with self.lock:
            for entities in self.entities.values():
                entities.clear()
            for counts in self.counts.values():
                counts.clear()
            self.activity.clear()
            self.failures.clear()
            self._dependents.clear()
            self.failure_count = 0
            self.version += 1

    def remove_all(self) -> None:
        """Remove all blueprints, and so all entities too."""
        with self.lock:
            self.clear()
            for part in (self.blueprints, self.entities, self.counts):
                part.clear()

    def add_blueprint(self, blueprint: Json) -> None:
        """Add a blueprint, or put it in the place of the one there is.

        Entities lose the values of properties and relations that are no more, and of relations that now lead to
        another blueprint. What Port does with them is not documented.
        """
        with self.lock:
            identifier = blueprint["identifier"]
            now = iso(self._clock.now())
            old = self.blueprints.get(identifier)
            stamps = {"createdAt": old["createdAt"] if old else now, "updatedAt": now}
            new = {**_BLUEPRINT_DEFAULTS, **blueprint, **stamps, "createdBy": "sandbox", "updatedBy": "sandbox"}
            self.entities.setdefault(identifier, {})
            self.counts.setdefault(identifier, Counter())
            self.version += 1
            if old is not None:
                self._fit_entities(identifier, old, new)
            self.blueprints[identifier] = new

    def upsert(
        self,
        blueprint: str,
        identifier: object,
        title: object,
        properties: Json,
        relations: Json,
        *,
        merge: bool = True,
        missing_targets: Literal["keep", "refuse"] = "keep",
    ) -> bool:
        """Create the entity, or merge what is given into it (or put it in its place); return whether it is a new one.

        RefusedError when Port would not write it; with "refuse" also for a relation to what does not exist.
        """
        with self.lock:
            known = self._entities(blueprint)
            key = (blueprint, check_identifier(identifier))
            check_parts(self.blueprints[blueprint], properties, relations)
            if missing_targets == "refuse":
                self._check_targets(key, relations)
            old = known.get(key[1])
            if old is not None and merge:
                properties, relations = old.properties | properties, old.relations | relations
            check_required(self.blueprints[blueprint], properties, relations)
            title = title if isinstance(title, str) else None
            if old is not None and (title, properties, relations) == (old.title, old.properties, old.relations):
                self.counts[blueprint]["unchanged"] += 1
                return False
            now = self._clock.now()
            if old is not None:
                self._dependents.unlink(key, self._targets(old))
            created_at = now if old is None else old.created_at
            entity = known[key[1]] = Entity(blueprint, key[1], title, properties, relations, created_at, now)
            entity.index()
            self._dependents.link(key, self._targets(entity))
            self._note("created" if old is None else "updated", entity)
            return old is None

    def delete(self, blueprint: str, identifier: object, *, dependents: bool) -> None:
        """Delete the entity and, with `dependents`, all that depends on it, however far.

        RefusedError when something depends on it that may not go with it.
        """
        with self.lock:
            key = (blueprint, check_identifier(identifier))
            entity = self._entities(blueprint).get(key[1])
            if entity is None:
                self.counts[blueprint]["absent"] += 1
                return
            doomed = list(self._dependents.all_of(key))
            if len(doomed) > 1 and not dependents:
                # Said of the REST API's delete_dependents=false; that a webhook does the same is inferred.
                raise RefusedError(f"{len(doomed) - 1} entities depend on it and deleteDependents is false")
            self._drop(doomed, entity)

    def remove(self, blueprint: str, identifier: str) -> None:
        """Delete this one entity, as a person does who leaves what depends on it: its relations then lead to nothing.

        What becomes of them in Port is not documented. RefusedError when there is no such entity.
        """
        with self.lock:
            entity = self._entities(blueprint).get(identifier)
            if entity is None:
                raise RefusedError(f"there is no entity {identifier!r} of blueprint {blueprint!r}")
            self._drop([(blueprint, identifier)], entity)

    def refuse(self, blueprint: str, operation: str, identifier: object, reason: str) -> None:
        """Write a line into the audit log."""
        with self.lock:
            self.failures.append(Failure(self._clock.now(), blueprint, operation, identifier, reason))
            self.failure_count += 1
            self.version += 1

    # -- looking things up

    def dependents(self, key: Key) -> list[Entity]:
        """Return the entities with a relation to this one."""
        return [self.entities[blueprint][identifier] for blueprint, identifier in self._dependents.of(key)]

    def dependent_count(self, key: Key) -> int:
        """Return how many entities have a relation to this one."""
        return self._dependents.count(key)

    def exists(self, key: Key) -> bool:
        """Return whether the catalog holds this entity."""
        return key[1] in self.entities.get(key[0], {})

    def targets(self, entity: Entity) -> Iterator[tuple[str, Key]]:
        """Yield where the relations of an entity lead: (relation, target)."""
        return leads(self.blueprints[entity.blueprint], entity.relations)

    def unattached(self) -> Iterator[Entity]:
        """Yield the entities whose relation leads to nothing that the catalog holds."""
        for target in self._dependents.targets():
            if not self.exists(target):
                yield from self.dependents(target)

    def search(self, words: Iterable[str], blueprint: str | None = None) -> list[Entity]:
        """Return the entities, of one blueprint or of all, that hold every word."""
        wanted = [word.casefold() for word in words]
        return [
            entity
            for one in ([blueprint] if blueprint else self.entities)
            for entity in self.entities[one].values()
            if all(word in entity.search_text for word in wanted)
        ]

    # -- what changes have in common

    def _entities(self, blueprint: str) -> dict[str, Entity]:
        if blueprint not in self.blueprints:
            raise RefusedError(f"there is no blueprint {blueprint!r}")
        return self.entities[blueprint]

    def _targets(self, entity: Entity) -> Iterator[Key]:
        return (target for _, target in self.targets(entity))

    def _check_targets(self, key: Key, relations: Json) -> None:
        for name, target in leads(self.blueprints[key[0]], relations):
            if target != key and not self.exists(target):
                raise MissingTargetError(f"the relation {name!r} points to {target[1]}, which does not exist")

    def _fit_entities(self, identifier: str, old: Json, new: Json) -> None:
        lost = old["schema"]["properties"].keys() - new["schema"]["properties"].keys()
        cut = {name for name, target in targets_of(old).items() if targets_of(new).get(name) != target}
        if not lost and not cut:
            return
        for entity in self.entities[identifier].values():
            key = (identifier, entity.identifier)
            self._dependents.unlink(key, self._targets(entity))
            entity.properties = {name: value for name, value in entity.properties.items() if name not in lost}
            entity.relations = {name: value for name, value in entity.relations.items() if name not in cut}
            self._dependents.link(key, self._targets(entity))
            entity.index()

    def _drop(self, doomed: list[Key], cause: Entity) -> None:
        for blueprint, identifier in doomed:
            entity = self.entities[blueprint].pop(identifier)
            self._dependents.unlink((blueprint, identifier), self._targets(entity))
            self.counts[blueprint]["deleted"] += 1
        self._note("deleted", cause, dependents=len(doomed) - 1)

    def _note(self, operation: Operation, entity: Entity, *, dependents: int = 0) -> None:
        """Take note of one change; the deleted are counted one by one elsewhere."""
        if operation != "deleted":
            self.counts[entity.blueprint][operation] += 1
        self.version += 1
        at = self._clock.now()
        self.activity.append(Activity(at, operation, entity.blueprint, entity.identifier, entity.title, dependents))
