"""Plays Port: webhooks that map events with jq into a catalog, with Port's limits and Port's silences.

Port answers 202 and works later; here all the work is done before the 202 leaves, so a test may look right away.
An entity that Port would not write is not written here either: the audit log alone says so, the answer is 202.
Sources: docs.port.io (custom integration: webhook) and Port's OpenAPI file (github.com/port-labs/port-docs,
`static/apispec.yaml`).
"""

import hmac
import json
import math
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import RLock
from typing import Any, Literal, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azure_port_sync.sandbox.mapping import Mappings, Target, target_of

MAX_BODY_BYTES = 512 * 1024
MAX_IDENTIFIER_LENGTH = 1000

Json = dict[str, Any]
Key = tuple[str, str]  # blueprint, identifier


class Clock(Protocol):
    """The one thing Port needs of the sandbox's clock."""

    def now(self) -> datetime:
        """The sandbox's time, in UTC."""
        ...


class RefusedError(Exception):
    """Port does not write this entity, for the reason given."""


class MissingTargetError(RefusedError):
    """A relation of the entity leads to an entity that does not exist."""


# The pattern is ^(?!\.{1,2}$)[\p{L}0-9@_.+:\\/=-]+$ (`re` has no \p{L}: letters beyond ASCII are looked up).
_PLAIN_IDENTIFIER = re.compile(r"[A-Za-z0-9@_.+:\\/=-]+")
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9@_.+:\\/=-]")


def check_identifier(value: object) -> str:
    """`value` when Port takes it as an entity's identifier; RefusedError otherwise."""
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


def iso(instant: datetime) -> str:
    """An instant as Port writes it."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
        """The entity as Port's REST API shows it."""
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
        """For the page and the control API."""
        return {
            "at": iso(self.at),
            "operation": self.operation,
            "blueprint": self.blueprint,
            "identifier": self.identifier,
            "title": self.title,
            "dependents": self.dependents,
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """One line of the audit log with status FAILURE: what Port accepted with 202 and then did not write."""

    at: datetime
    blueprint: str
    operation: str
    identifier: object
    reason: str

    def as_json(self) -> Json:
        """For the page and the control API."""
        return {
            "at": iso(self.at),
            "blueprint": self.blueprint,
            "operation": self.operation,
            "identifier": self.identifier,
            "reason": self.reason,
        }


_JSON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


MissingTargets = Literal["keep", "refuse", "create"]


class Catalog:
    """Blueprints and their entities, and who depends on whom.

    `missing_targets` says what becomes of a relation whose target does not exist, which Port's documentation leaves
    open for webhooks: "keep" (the default) keeps the relation, "refuse" refuses the entity, "create" adds the target,
    with nothing but its identifier and the same as its title.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.lock = RLock()
        self.version = 0
        self.missing_targets: MissingTargets = "keep"
        self.blueprints: dict[str, Json] = {}
        self.entities: dict[str, dict[str, Entity]] = {}
        self.counts: dict[str, Counter[str]] = {}
        self.activity: deque[Activity] = deque(maxlen=200)
        self.failures: deque[Failure] = deque(maxlen=500)
        self.failure_count = 0
        self._dependents: dict[Key, dict[Key, None]] = {}

    def clear(self) -> None:
        """No entity and no trace of any; the blueprints stay."""
        with self.lock:
            for entities in self.entities.values():
                entities.clear()
            for counts in self.counts.values():
                counts.clear()
            self.activity.clear()
            self.failures.clear()
            self.failure_count = 0
            self._dependents.clear()
            self.version += 1

    def remove_all(self) -> None:
        """No blueprint, and so no entity either."""
        with self.lock:
            self.clear()
            for part in (self.blueprints, self.entities, self.counts):
                part.clear()

    def add_blueprint(self, blueprint: Json) -> None:
        """Take a blueprint as `POST` and `PUT /v1/blueprints` would.

        Where it takes the place of another, entities lose the values of properties and relations that are no more,
        and of relations that now lead to another blueprint. What Port does with them is not documented.
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

    def remove_blueprint(self, identifier: str) -> None:
        """Take a blueprint away; RefusedError while it has entities or another's relation leads to it."""
        with self.lock:
            if self._entities(identifier):
                raise RefusedError(f"the blueprint has {len(self.entities[identifier])} entities")
            for other in self.blueprints.values():
                if other["identifier"] != identifier and identifier in _targets_of(other).values():
                    raise RefusedError(f"a relation of {other['identifier']!r} leads to the blueprint")
            for part in (self.blueprints, self.entities, self.counts):
                del part[identifier]
            self.version += 1

    def upsert(
        self,
        blueprint: str,
        identifier: object,
        title: object,
        properties: Json,
        relations: Json,
        *,
        merge: bool = True,
        missing_targets: MissingTargets | None = None,
        validation_only: bool = False,
    ) -> bool:
        """Create the entity, or merge what is given into it (or put it in its place); whether it is a new one.

        RefusedError when Port would not write it. `missing_targets` goes before the catalog's own.
        """
        with self.lock:
            rule = missing_targets or self.missing_targets
            known = self._check(blueprint, identifier, properties, relations)
            key = (blueprint, check_identifier(identifier))
            title = title if isinstance(title, str) else None
            old = known.get(key[1])
            missing = [] if rule == "keep" else self._missing(key, relations)
            if old is not None and merge:
                properties, relations = old.properties | properties, old.relations | relations
            self._check_required(blueprint, properties, relations)
            if missing and rule == "refuse":
                name, target = missing[0]
                raise MissingTargetError(f"the relation {name!r} points to {target[1]}, which does not exist")
            for _, target in missing:
                self.upsert(*target, target[1], {}, {}, validation_only=validation_only)
            if validation_only:
                return old is None
            now = self._clock.now()
            if old is None:
                entity = Entity(blueprint, key[1], title, properties, relations, now, now)
                known[key[1]] = entity
                operation: Operation = "created"
            else:
                entity = old
                if (title, properties, relations) == (old.title, old.properties, old.relations):
                    self.counts[blueprint]["unchanged"] += 1
                    return False
                self._unlink(entity)
                entity.title, entity.properties, entity.relations = title, properties, relations
                entity.updated_at = now
                operation = "updated"
            entity.index()
            self._link(entity)
            self.counts[blueprint][operation] += 1
            self.version += 1
            self.activity.append(Activity(now, operation, blueprint, key[1], entity.title))
            return old is None

    def delete(self, blueprint: str, identifier: object, *, dependents: bool) -> None:
        """Delete the entity and, unless told not to, all that depends on it, however far."""
        with self.lock:
            self._entities(blueprint)
            key = (blueprint, check_identifier(identifier))
            entity = self.entities[blueprint].get(key[1])
            if entity is None:
                self.counts[blueprint]["absent"] += 1
                return
            doomed = list(self._with_dependents(key))
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

    def dependents(self, key: Key) -> list[Entity]:
        """The entities with a relation to this one."""
        return [self.entities[blueprint][identifier] for blueprint, identifier in self._dependents.get(key, {})]

    def dependent_count(self, key: Key) -> int:
        """How many entities have a relation to this one."""
        return len(self._dependents.get(key, {}))

    def exists(self, key: Key) -> bool:
        """Whether the catalog holds this entity."""
        return key[1] in self.entities.get(key[0], {})

    def targets(self, entity: Entity) -> Iterator[tuple[str, Key]]:
        """The relations of an entity that point somewhere: (relation, target)."""
        return self._leads(entity.blueprint, entity.relations)

    def unattached(self) -> Iterator[Entity]:
        """The entities whose relation leads to nothing the catalog holds."""
        for target in list(self._dependents):
            if not self.exists(target):
                yield from self.dependents(target)

    def search(self, words: Iterable[str], blueprint: str | None = None) -> list[Entity]:
        """The entities, of one blueprint or of all, that hold every word."""
        wanted = [word.casefold() for word in words]
        return [
            entity
            for one in ([blueprint] if blueprint else self.entities)
            for entity in self.entities[one].values()
            if all(word in entity.search_text for word in wanted)
        ]

    def _leads(self, blueprint: str, relations: Json) -> Iterator[tuple[str, Key]]:
        targets = _targets_of(self.blueprints[blueprint])
        for name, value in relations.items():
            for identifier in value if isinstance(value, list) else [value]:
                if identifier is not None:
                    yield name, (targets[name], identifier)

    def _missing(self, key: Key, relations: Json) -> list[tuple[str, Key]]:
        found = self._leads(key[0], relations)
        return [(name, target) for name, target in found if target != key and not self.exists(target)]

    def _fit_entities(self, identifier: str, old: Json, new: Json) -> None:
        lost = old["schema"]["properties"].keys() - new["schema"]["properties"].keys()
        cut = {name for name, target in _targets_of(old).items() if _targets_of(new).get(name) != target}
        if not lost and not cut:
            return
        for entity in self.entities[identifier].values():
            self._unlink(entity)
            entity.properties = {name: value for name, value in entity.properties.items() if name not in lost}
            entity.relations = {name: value for name, value in entity.relations.items() if name not in cut}
            self._link(entity)
            entity.index()

    def _drop(self, doomed: list[Key], cause: Entity) -> None:
        for blueprint, identifier in doomed:
            self._unlink(self.entities[blueprint].pop(identifier))
            self.counts[blueprint]["deleted"] += 1
        self.version += 1
        key = (cause.blueprint, cause.identifier)
        self.activity.append(Activity(self._clock.now(), "deleted", *key, cause.title, dependents=len(doomed) - 1))

    def _targets(self, entity: Entity) -> Iterator[Key]:
        return (target for _, target in self.targets(entity))

    def _entities(self, blueprint: str) -> dict[str, Entity]:
        if blueprint not in self.blueprints:
            raise RefusedError(f"there is no blueprint {blueprint!r}")
        return self.entities[blueprint]

    def _check(self, blueprint: str, identifier: object, properties: Json, relations: Json) -> dict[str, Entity]:
        known = self._entities(blueprint)
        check_identifier(identifier)
        schema = self.blueprints[blueprint]["schema"]["properties"]
        for name, value in properties.items():
            if name not in schema:
                raise RefusedError(f"the blueprint has no property {name!r}")
            if value is not None and not isinstance(value, _JSON_TYPES[schema[name]["type"]]):
                raise RefusedError(f"the property {name!r} is not of type {schema[name]['type']}")
        for name, value in relations.items():
            self._check_relation(blueprint, name, value)
        return known

    def _check_relation(self, blueprint: str, name: str, value: object) -> None:
        relation = self.blueprints[blueprint].get("relations", {}).get(name)
        if relation is None:
            raise RefusedError(f"the blueprint has no relation {name!r}")
        if value is None and not relation.get("required"):
            return
        for identifier in value if isinstance(value, list) and relation.get("many") else [value]:
            try:
                check_identifier(identifier)
            except RefusedError as reason:
                raise RefusedError(f"the relation {name!r}: {reason}") from None

    def _check_required(self, blueprint: str, properties: Json, relations: Json) -> None:
        schema = self.blueprints[blueprint]
        for name in schema["schema"].get("required", []):
            if properties.get(name) is None:
                raise RefusedError(f"the blueprint wants the property {name!r}")
        for name, relation in schema.get("relations", {}).items():
            if relation.get("required") and relations.get(name) is None:
                raise RefusedError(f"the blueprint wants the relation {name!r}")

    def _link(self, entity: Entity) -> None:
        for target in self._targets(entity):
            self._dependents.setdefault(target, {})[entity.blueprint, entity.identifier] = None

    def _unlink(self, entity: Entity) -> None:
        key = (entity.blueprint, entity.identifier)
        for target in self._targets(entity):
            siblings = self._dependents[target]
            siblings.pop(key, None)
            if not siblings:
                del self._dependents[target]

    def _with_dependents(self, key: Key) -> Iterator[Key]:
        seen = {key}
        queue = deque([key])
        while queue:
            one = queue.popleft()
            yield one
            new = [other for other in self._dependents.get(one, {}) if other not in seen]
            seen.update(new)
            queue.extend(new)


_BLUEPRINT_DEFAULTS: Json = {
    "calculationProperties": {},
    "mirrorProperties": {},
    "aggregationProperties": {},
    "relations": {},
}


def _targets_of(blueprint: Json) -> dict[str, str]:
    """The blueprints that the relations of one lead to."""
    return {name: relation["target"] for name, relation in blueprint.get("relations", {}).items()}


_MAPPING_KEYS = {"blueprint", "operation", "filter", "itemsToParse", "entity"}
_ENTITY_KEYS = {"identifier", "title", "properties", "relations"}


@dataclass
class Webhook:
    """A webhook as Port keeps it: where it is reached, what it makes of an event, how events are signed.

    One that is not `enabled` accepts events and drops them. `about` is the rest of what Port keeps and only shows.
    """

    key: str
    mappings: list[Json]
    security: Mapping[str, str | None] = field(default_factory=dict)
    identifier: str = ""
    enabled: bool = True
    about: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identifier = self.identifier or self.key
        for mapping in self.mappings:
            _check_mapping(mapping)
        self._made = Mappings(self.mappings)

    def records(self, context: str) -> Iterator[tuple[Target, Json]]:
        """What the mappings make of an event, in the order of the mappings."""
        return self._made.records(context)

    def signed(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Whether the event carries the signature this webhook asks for; without a secret it asks for none.

        What Port does with a secret and no header's name is not documented; here no event is the right one then.
        """
        secret = self.security.get("secret")
        if not secret:
            return True
        algorithm = self.security.get("signatureAlgorithm") or "sha256"
        given = headers.get((self.security.get("signatureHeaderName") or "").lower(), "")
        wanted = secret if algorithm == "plain" else hmac.new(secret.encode(), body, algorithm).hexdigest()
        return hmac.compare_digest(given.encode(), ((self.security.get("signaturePrefix") or "") + wanted).encode())


def _check_mapping(mapping: Json) -> None:
    unknown = (mapping.keys() - _MAPPING_KEYS) | (mapping["entity"].keys() - _ENTITY_KEYS)
    if unknown:
        raise ValueError(f"the sandbox does not play these parts of a mapping: {', '.join(sorted(unknown))}")
    operation = target_of(mapping).operation
    if operation not in {"create", "delete"}:
        raise ValueError(f"a mapping's operation is create or delete, not {operation!r}")
    if operation == "delete" and mapping["entity"].keys() != {"identifier"}:
        raise ValueError("a mapping that deletes gives the entity's identifier and nothing else")


@dataclass(frozen=True)
class Throttle:
    """So many requests in a window of the sandbox's clock; what goes beyond is answered 429.

    With `burst` there are never more than so many at once: they come back evenly over the window. What Port means by
    its "burst" is not documented.
    """

    limit: int
    window_seconds: float
    retry_after: bool = True
    burst: int | None = None


@dataclass(frozen=True)
class Answer:
    """What goes back over HTTP."""

    status: int
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


# The body of Port's 202 is not documented, so nothing should read this one.
_ACCEPTED = Answer(202, {"ok": True})


def error_answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Answer:
    """An error as Port's specification shapes it."""
    return Answer(status, {"ok": False, "error": code, "message": message}, headers or {})


@dataclass(frozen=True)
class Allowance:
    """What a throttle says to one request: its number in the window, and the seconds until that window ends.

    `wait` is how long a request that came too soon after many others has to wait.
    """

    throttle: Throttle
    number: int
    seconds: float
    wait: float = 0

    @property
    def refusal(self) -> Answer | None:
        """The 429 of a request that is one too many."""
        wait = self.wait if self.number <= self.throttle.limit else self.seconds
        if not wait:
            return None
        told = {"Retry-After": str(math.ceil(wait))} if self.throttle.retry_after else {}
        return error_answer(429, "too_many_requests", "Too many requests", told)


class Limiter:
    """Counts requests against a throttle; a window opens with the first request after the last one closed."""

    def __init__(self, clock: Clock, throttle: Throttle) -> None:
        self._clock = clock
        self._throttle = throttle
        self._start: datetime | None = None
        self._count = 0
        self._at_once = 0.0
        self._last: datetime | None = None

    def take(self) -> Allowance:
        """Count one request."""
        now = self._clock.now()
        window = timedelta(seconds=self._throttle.window_seconds)
        if self._start is None or now >= self._start + window:
            self._start, self._count = now, 0
        self._count += 1
        seconds = (self._start + window - now).total_seconds()
        return Allowance(self._throttle, self._count, seconds, self._wait(now))

    def _wait(self, now: datetime) -> float:
        if self._throttle.burst is None:
            return 0
        per_second = self._throttle.limit / self._throttle.window_seconds
        if self._last is not None:
            self._at_once = max(0, self._at_once - (now - self._last).total_seconds() * per_second)
        self._last = now
        if self._at_once + 1 > self._throttle.burst:
            return (self._at_once + 1 - self._throttle.burst) / per_second
        self._at_once += 1
        return 0


class Port:
    """Port's ingest host and the catalog behind it. With `count_only` it acknowledges, counts and maps nothing.

    `items` counts what `events` counts, but each of a batch (`{"items": [...]}`) by itself.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.catalog = Catalog(clock)
        self.webhooks: dict[str, Webhook] = {}
        self.count_only = False
        self.requests: Counter[int] = Counter()  # by status
        self.events = 0
        self.items = 0
        self.bytes = 0
        self.last_arrival: datetime | None = None
        self._limiter: Limiter | None = None

    def add_webhook(self, webhook: Webhook) -> None:
        """Take a webhook as `POST` and `PUT /v1/webhooks` would."""
        self.webhooks[webhook.key] = webhook

    def webhook(self, identifier: str) -> Webhook | None:
        """The webhook of this identifier."""
        return next((one for one in self.webhooks.values() if one.identifier == identifier), None)

    def clear(self) -> None:
        """An empty catalog, nothing counted, settings as at the start; blueprints and webhooks stay."""
        with self.catalog.lock:
            self.catalog.clear()
            self.catalog.missing_targets = "keep"
            self.count_only = False
            self.requests.clear()
            self.events = self.items = self.bytes = 0
            self.last_arrival = None
            self.throttle(None)

    def remove_all(self) -> None:
        """No blueprint, no entity and no webhook."""
        with self.catalog.lock:
            self.catalog.remove_all()
            self.webhooks.clear()

    def throttle(self, throttle: Throttle | None) -> None:
        """Answer 429 beyond this limit from now on; None lifts it."""
        self._limiter = Limiter(self._clock, throttle) if throttle else None

    def ingest(self, key: str, body: bytes, headers: Mapping[str, str], query: Mapping[str, str]) -> Answer:
        """One `POST /{key}`."""
        with self.catalog.lock:
            answer = self._ingest(key, body, headers, query)
            self.requests[answer.status] += 1
            self.bytes += len(body)
            return answer

    def counters(self) -> Json:
        """What arrived and what became of it."""
        with self.catalog.lock:
            return {
                "requests": {str(status): number for status, number in sorted(self.requests.items())},
                "events": self.events,
                "items": self.items,
                "bytes": self.bytes,
                "last_arrival": iso(self.last_arrival) if self.last_arrival else None,
                "failures_total": self.catalog.failure_count,
                "blueprints": {
                    blueprint: {"entities": len(entities), **self.catalog.counts[blueprint]}
                    for blueprint, entities in self.catalog.entities.items()
                },
            }

    def _ingest(self, key: str, body: bytes, headers: Mapping[str, str], query: Mapping[str, str]) -> Answer:
        if len(body) > MAX_BODY_BYTES:
            return error_answer(413, "payload_too_large", f"The payload is larger than {MAX_BODY_BYTES} bytes")
        webhook = self.webhooks.get(key)
        if webhook is None:
            return error_answer(404, "not_found", "There is no webhook at this address")
        if self._limiter and (refusal := self._limiter.take().refusal):
            return refusal
        if not webhook.signed(body, headers):
            # Which status Port gives here is not documented; 401 is the sandbox's choice.
            return error_answer(401, "invalid_signature", "The signature does not match the payload")
        if not webhook.enabled:
            return _ACCEPTED
        self.last_arrival = self._clock.now()
        self.events += 1
        try:
            text = body.decode()
            event = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            return error_answer(400, "invalid_json", "The payload is not JSON")
        batch = event.get("items") if isinstance(event, dict) else None
        self.items += len(batch) if isinstance(batch, list) else 1
        if self.count_only:
            return _ACCEPTED
        # Port's context also has the headers in their original case; ASGI hands them on in lower case only.
        others = json.dumps({"headers": dict(headers), "queryParams": dict(query)})
        self._write(webhook, f'{{"body": {text}, {others[1:]}')
        return _ACCEPTED

    def _write(self, webhook: Webhook, context: str) -> None:
        for target, record in webhook.records(context):
            identifier = record["identifier"]
            try:
                if target.operation == "delete":
                    self.catalog.delete(target.blueprint, identifier, dependents=target.dependents)
                else:
                    self.catalog.upsert(
                        target.blueprint,
                        identifier,
                        record.get("title"),
                        record["properties"],
                        record["relations"],
                    )
            except RefusedError as reason:
                self.catalog.refuse(target.blueprint, target.operation, identifier, str(reason))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def port_app(port: Port) -> Starlette:
    """Port's ingest host over HTTP."""

    async def ingest(request: Request) -> Response:
        answer = port.ingest(request.path_params["key"], await request.body(), request.headers, request.query_params)
        return JSONResponse(answer.body, answer.status, answer.headers)

    return Starlette(routes=[Route("/{key}", ingest, methods=["POST"])])
