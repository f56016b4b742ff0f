"""Plays Port's REST API, as far as the product asks it: blueprints, webhooks, entities, and a token to ask with.

Shapes are those of Port's OpenAPI file (github.com/port-labs/port-docs, `static/apispec.yaml`), published limits those
of docs.port.io ("Rate limits"). Where both leave something open, the sandbox chooses what is harder on a client.
"""

import base64
import json
import math
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Literal
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azure_port_sync.sandbox.port import (
    Allowance,
    Answer,
    Clock,
    Entity,
    Json,
    Limiter,
    MissingTargetError,
    Port,
    RefusedError,
    Throttle,
    Webhook,
    error_answer,
    iso,
)
from azure_port_sync.sandbox.shapes import MAX_BODY_BYTES as MAX_BODY_BYTES
from azure_port_sync.sandbox.shapes import (
    MAX_DELETED,
    MAX_UPSERTED,
    RestError,
    check_blueprint,
    check_entity,
    check_webhook,
    entities_of,
    invalid,
    json_object,
    not_played,
    texts,
)

TOKEN_SECONDS = 3 * 60 * 60  # how long Port's own last is not documented

#: What Port grants in five minutes, by kind of route.
PUBLISHED_THROTTLES = {
    # The burst of 10 is left out: many sign in at one instant where a test has frozen the clock.
    "unauthenticated": Throttle(100, 300),
    "entities": Throttle(35_000, 300, burst=3_500),
    "blueprints": Throttle(15_000, 300, burst=1_500),
    "search": Throttle(35_000, 300, burst=3_500),
    "upsert": Throttle(10_000, 300, burst=200),
    "bulk upsert": Throttle(35_000, 300, burst=3_500),
    "other": Throttle(15_000, 300, burst=1_500),
}

Predicate = Callable[[Entity], bool]
ResetForm = Literal["epoch", "seconds"]


@dataclass(frozen=True)
class Call:
    """One request to a route: what its path, its query and its body say."""

    body: bytes = b""
    authorization: str = ""
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    def flag(self, name: str, *, needed: bool = False) -> bool:
        """A query parameter that is true or false."""
        if needed and name not in self.query:
            raise invalid(f"the query must have {name}")
        value = self.query.get(name, "false")
        if value not in ("true", "false"):
            raise invalid(f"{name} is true or false")
        return value == "true"


@dataclass(frozen=True)
class _Route:
    """Where a request goes; `name` is how it is counted."""

    name: str
    method: str
    path: str
    throttle: str


_ROUTES = (
    _Route("token", "POST", "auth/access_token", "unauthenticated"),
    _Route("blueprints", "GET", "blueprints", "blueprints"),
    _Route("create_blueprint", "POST", "blueprints", "blueprints"),
    _Route("blueprint", "GET", "blueprints/{blueprint}", "blueprints"),
    _Route("put_blueprint", "PUT", "blueprints/{blueprint}", "blueprints"),
    _Route("patch_blueprint", "PATCH", "blueprints/{blueprint}", "blueprints"),
    _Route("delete_blueprint", "DELETE", "blueprints/{blueprint}", "blueprints"),
    _Route("webhooks", "GET", "webhooks", "other"),
    _Route("create_webhook", "POST", "webhooks", "other"),
    _Route("webhook", "GET", "webhooks/{webhook}", "other"),
    _Route("put_webhook", "PUT", "webhooks/{webhook}", "other"),
    _Route("patch_webhook", "PATCH", "webhooks/{webhook}", "other"),
    _Route("delete_webhook", "DELETE", "webhooks/{webhook}", "other"),
    _Route("search", "POST", "blueprints/{blueprint}/entities/search", "search"),
    _Route("count", "GET", "blueprints/{blueprint}/entities-count", "entities"),
    _Route("bulk_upsert", "POST", "blueprints/{blueprint}/entities/bulk", "bulk upsert"),
    _Route("bulk_delete", "POST", "blueprints/{blueprint}/bulk/entities/delete", "entities"),
    _Route("upsert", "POST", "blueprints/{blueprint}/entities", "upsert"),
    _Route("entity", "GET", "blueprints/{blueprint}/entities/{entity}", "entities"),
    _Route("delete", "DELETE", "blueprints/{blueprint}/entities/{entity}", "entities"),
)


class Rest:
    """Port's API host. `requests` counts what it answered, by route and status, e.g. ``"search 200"``.

    `items` counts the entities that were "upserted", "validated", "refused" and "deleted". With `Port.count_only`
    counting is all that becomes of them, and nothing is refused. `reset_form` is how `x-ratelimit-reset` is given: in
    seconds since 1970, as Port documents it, or in seconds from now, as Port's own Terraform provider reads it.
    """

    def __init__(
        self, port: Port, clock: Clock, *, client_id: str, client_secret: str, ingest_url: Callable[[str], str]
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.requests: Counter[str] = Counter()
        self.items: Counter[str] = Counter()
        self.reset_form: ResetForm = "epoch"
        self._port = port
        self._catalog = port.catalog
        self._clock = clock
        self._ingest_url = ingest_url
        self._limiters: dict[str, Limiter] = {}
        self._tokens: dict[str, datetime] = {}
        self._ordered: dict[str, tuple[int, list[str]]] = {}
        self._handlers: dict[str, Callable[[Call], Answer]] = {
            route.name: getattr(self, f"_{route.name}") for route in _ROUTES
        }
        self.throttle(None)

    def throttle(self, throttle: Throttle | None) -> None:
        """Answer 429 beyond this limit from now on, for all routes together; None: beyond the published ones."""
        if throttle is None:
            self._limiters = {name: Limiter(self._clock, one) for name, one in PUBLISHED_THROTTLES.items()}
        else:
            self._limiters = dict.fromkeys(PUBLISHED_THROTTLES, Limiter(self._clock, throttle))

    @property
    def tokens(self) -> list[str]:
        """Those that have been given out, and are good."""
        return list(self._tokens)

    def revoke_tokens(self) -> None:
        """No token that was given out is good any more."""
        with self._catalog.lock:
            self._tokens.clear()

    def clear(self) -> None:
        """Nothing counted, the published limits; tokens stay good."""
        with self._catalog.lock:
            self.requests.clear()
            self.items.clear()
            self.reset_form = "epoch"
            self.throttle(None)

    def serve(self, route: _Route, call: Call) -> Answer:
        """One request."""
        with self._catalog.lock:
            allowance = self._limiters[route.throttle].take()
            answer = allowance.refusal or self._answer(route, call)
            self.requests[f"{route.name} {answer.status}"] += 1
            return Answer(answer.status, answer.body, answer.headers | self._rate_headers(allowance))

    def _rate_headers(self, allowance: Allowance) -> dict[str, str]:
        reset = self._clock.now() + timedelta(seconds=allowance.seconds)
        until = allowance.seconds if self.reset_form == "seconds" else reset.timestamp()
        return {
            "x-ratelimit-limit": str(allowance.throttle.limit),
            "x-ratelimit-period": str(math.ceil(allowance.throttle.window_seconds)),
            "x-ratelimit-remaining": str(max(allowance.throttle.limit - allowance.number, 0)),
            "x-ratelimit-reset": str(math.ceil(until)),
        }

    def _answer(self, route: _Route, call: Call) -> Answer:
        try:
            if route.name != "token":
                self._check_token(call.authorization)
            return self._handlers[route.name](call)
        except RestError as error:
            return error.answer

    # -- the token

    def _token(self, call: Call) -> Answer:
        body = json_object(call.body)
        if body.keys() != {"clientId", "clientSecret"} or not all(isinstance(text, str) for text in body.values()):
            raise invalid("the body has the texts clientId and clientSecret, and nothing else")
        if body != {"clientId": self.client_id, "clientSecret": self.client_secret}:
            raise RestError(401, "unauthorized", "The client id or the client secret is wrong")
        now = self._clock.now()
        self._tokens = {token: end for token, end in self._tokens.items() if end > now}
        token = secrets.token_urlsafe(32)
        self._tokens[token] = now + timedelta(seconds=TOKEN_SECONDS)
        return _fine(accessToken=token, expiresIn=TOKEN_SECONDS, tokenType="Bearer")

    def _check_token(self, authorization: str) -> None:
        scheme, _, token = authorization.partition(" ")
        end = self._tokens.get(token)
        if scheme.lower() != "bearer" or end is None or end <= self._clock.now():
            raise RestError(401, "unauthorized", "The access token is missing, wrong or expired")

    # -- blueprints

    def _known(self, call: Call) -> str:
        blueprint = call.path["blueprint"]
        if blueprint not in self._catalog.blueprints:
            raise RestError(404, "not_found", f"There is no blueprint {blueprint!r}")
        return blueprint

    def _blueprints(self, _: Call) -> Answer:
        return _fine(blueprints=list(self._catalog.blueprints.values()))

    def _blueprint(self, call: Call) -> Answer:
        return _fine(blueprint=self._catalog.blueprints[self._known(call)])

    def _create_blueprint(self, call: Call) -> Answer:
        call.flag("create_catalog_page")
        body = json_object(call.body)
        check_blueprint(body)
        if body["identifier"] in self._catalog.blueprints:
            raise _taken(f"There is a blueprint {body['identifier']!r} already")
        return self._take_blueprint(body, 201)

    def _put_blueprint(self, call: Call) -> Answer:
        """The body takes the blueprint's place."""
        identifier = self._known(call)
        return self._take_blueprint(_renamed_never({"identifier": identifier, **json_object(call.body)}, identifier))

    def _patch_blueprint(self, call: Call) -> Answer:
        """Each part that the body has takes the place of the blueprint's, whole: a `schema` loses what is not named.

        How deep Port merges is not documented; a client that always sends whole parts is right either way.
        """
        identifier = self._known(call)
        body = self._catalog.blueprints[identifier] | json_object(call.body)
        return self._take_blueprint(_renamed_never(body, identifier))

    def _take_blueprint(self, body: Json, status: int = 200) -> Answer:
        check_blueprint(body)
        for name, relation in body.get("relations", {}).items():
            if relation["target"] not in {body["identifier"], *self._catalog.blueprints}:
                raise invalid(f"the relation {name!r} leads to {relation['target']!r}, which is no blueprint")
        self._catalog.add_blueprint(body)
        return _fine(status, blueprint=self._catalog.blueprints[body["identifier"]])

    def _delete_blueprint(self, call: Call) -> Answer:
        call.flag("delete_actions")
        try:
            self._catalog.remove_blueprint(self._known(call))
        except RefusedError as reason:
            raise RestError(422, "blueprint_in_use", str(reason)) from None
        return _fine()

    # -- webhooks

    def _found_webhook(self, call: Call) -> Webhook:
        webhook = self._port.webhook(call.path["webhook"])
        if webhook is None:
            raise RestError(404, "not_found", f"There is no webhook {call.path['webhook']!r}")
        return webhook

    def _show_webhook(self, webhook: Webhook) -> Json:
        """A webhook with all that was sent of it, its secret too: that Port hides the secret is not documented."""
        return {**_sent(webhook), "webhookKey": webhook.key, "url": self._ingest_url(webhook.key)}

    def _webhooks(self, _: Call) -> Answer:
        # These names of Port's answers are not in its specification: the first is in its Terraform provider, the
        # second is made after the first.
        return _fine(integrations=[self._show_webhook(webhook) for webhook in self._port.webhooks.values()])

    def _webhook(self, call: Call) -> Answer:
        return _fine(integration=self._show_webhook(self._found_webhook(call)))

    def _create_webhook(self, call: Call) -> Answer:
        body = {"identifier": secrets.token_urlsafe(12), **json_object(call.body)}
        check_webhook(body)
        if self._port.webhook(body["identifier"]) is not None:
            raise _taken(f"There is a webhook {body['identifier']!r} already")
        return self._take_webhook(secrets.token_urlsafe(16), body, 201)

    def _put_webhook(self, call: Call) -> Answer:
        """The body takes the webhook's place; its key stays."""
        old = self._found_webhook(call)
        body = {"identifier": old.identifier, **json_object(call.body)}
        return self._take_webhook(old.key, _renamed_never(body, old.identifier))

    def _patch_webhook(self, call: Call) -> Answer:
        """Each part that the body has takes the place of the webhook's, whole: so `mappings`, so `security`.

        How deep Port merges is not documented; a client that always sends whole parts is right either way.
        """
        old = self._found_webhook(call)
        return self._take_webhook(old.key, _renamed_never(_sent(old) | json_object(call.body), old.identifier))

    def _take_webhook(self, key: str, body: Json, status: int = 200) -> Answer:
        """The status of a webhook that was created is not in the specification; 201 is that of all its neighbours."""
        check_webhook(body)
        about = {name: body[name] for name in _WEBHOOK_ABOUT if name in body}
        mappings, security = body.get("mappings", []), body.get("security", {})
        webhook = Webhook(key, mappings, security, body["identifier"], body["enabled"], about)
        self._port.add_webhook(webhook)
        return _fine(status, integration=self._show_webhook(webhook))

    def _delete_webhook(self, call: Call) -> Answer:
        del self._port.webhooks[self._found_webhook(call).key]
        return _fine()

    # -- entities

    def _upsert(self, call: Call) -> Answer:
        how, body = _How.of(call), check_entity(json_object(call.body))
        blueprint = self._known(call)
        try:
            self._write(blueprint, body, how)
        except RestError:
            self.items["refused"] += 1
            raise
        stored = self._catalog.entities[blueprint].get(body["identifier"])
        if how.validation_only or self._port.count_only or stored is None:
            return _fine(201, entity={name: body[name] for name in _ENTITY_PARTS if name in body})
        return _fine(201, entity=_whole(stored))

    def _bulk_upsert(self, call: Call) -> Answer:
        """One body that does not fit the specification makes all of them a 422; what a blueprint refuses, only 207."""
        how = _How.of(call)
        bodies = [check_entity(body) for body in entities_of(json_object(call.body), MAX_UPSERTED)]
        blueprint = self._known(call)
        entities: list[Json] = []
        errors: list[Json] = []
        for index, body in enumerate(bodies):
            known = {"identifier": body["identifier"], "index": index}
            try:
                entities.append({"created": self._write(blueprint, body, how), **known})
            except RestError as error:
                self.items["refused"] += 1
                errors.append(known | {"statusCode": error.status, "error": error.code, "message": str(error)})
        answer = {"ok": not errors, "entities": entities, "errors": errors}
        return Answer(207 if errors else 200, answer)

    def _write(self, blueprint: str, body: Json, how: "_How") -> bool:
        """Write one entity; whether it is a new one."""
        identifier = body["identifier"]
        old = self._catalog.entities[blueprint].get(identifier)
        created = old is None
        if not self._port.count_only:
            if old is not None and not how.upsert:
                raise _taken(f"There is an entity {identifier!r} already")
            title = old.title if old is not None and how.merge and "title" not in body else body.get("title")
            try:
                created = self._catalog.upsert(
                    blueprint,
                    identifier,
                    title,
                    body.get("properties", {}),
                    body.get("relations", {}),
                    merge=how.merge,
                    missing_targets="create" if how.create_missing else "refuse",
                    validation_only=how.validation_only,
                )
            except MissingTargetError as reason:
                raise RestError(404, "not_found", str(reason)) from None
            except RefusedError as reason:
                raise invalid(str(reason)) from None
        self.items["validated" if how.validation_only else "upserted"] += 1
        return created

    def _entity(self, call: Call) -> Answer:
        return _fine(entity=_whole(self._found(call)))

    def _found(self, call: Call) -> Entity:
        entity = self._catalog.entities[self._known(call)].get(call.path["entity"])
        if entity is None:
            raise RestError(404, "not_found", f"There is no entity {call.path['entity']!r}")
        return entity

    def _delete(self, call: Call) -> Answer:
        dependents = call.flag("delete_dependents", needed=True)
        self._delete_all(self._known(call), [self._found(call).identifier], dependents=dependents)
        return _fine()

    def _bulk_delete(self, call: Call) -> Answer:
        dependents = call.flag("delete_dependents", needed=True)
        asked = texts("entities", entities_of(json_object(call.body), MAX_DELETED))
        blueprint = self._known(call)
        if self._port.count_only:
            self.items["deleted"] += len(asked)
            return _fine(deletedEntities=asked)
        there = [one for one in dict.fromkeys(asked) if one in self._catalog.entities[blueprint]]
        self._delete_all(blueprint, there, dependents=dependents)
        return _fine(deletedEntities=there)

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
        return _fine(count=len(self._catalog.entities[self._known(call)]))

    def _search(self, call: Call) -> Answer:
        search, blueprint = _search(json_object(call.body or b"{}")), self._known(call)
        chosen = _chosen(search, self._catalog.blueprints[blueprint])
        # Pages go by identifier, so that what is added or removed meanwhile moves nothing from one page to another.
        found = (entity for entity in self._after(blueprint, search.after) if search.matches(entity))
        page = list(islice(found, search.limit + 1))
        answer: Json = {"entities": [_shown(entity, chosen) for entity in page[: search.limit]]}
        if len(page) > search.limit:
            answer["next"] = _cursor(page[search.limit - 1].identifier)
        return _fine(**answer)

    def _after(self, blueprint: str, identifier: str) -> Iterator[Entity]:
        version, ordered = self._ordered.get(blueprint, (-1, []))
        entities = self._catalog.entities[blueprint]
        if version != self._catalog.version:
            ordered = sorted(entities)
            self._ordered[blueprint] = (self._catalog.version, ordered)
        return (entities[ordered[at]] for at in range(bisect_right(ordered, identifier), len(ordered)))


_WEBHOOK_ABOUT: tuple[str, ...] = ("title", "description", "icon", "integrationType")
_ENTITY_PARTS = ("identifier", "title", "properties", "relations")


@dataclass(frozen=True)
class _How:
    """What the query of an upsert says."""

    upsert: bool
    merge: bool
    create_missing: bool
    validation_only: bool

    @classmethod
    def of(cls, call: Call) -> "_How":
        """Merging is of entities that are updated, so `merge` says nothing without `upsert`."""
        return cls(
            call.flag("upsert", needed=True),
            call.flag("merge"),
            call.flag("create_missing_related_entities"),
            call.flag("validation_only"),
        )


def _fine(status: int = 200, **body: Any) -> Answer:
    return Answer(status, {"ok": True, **body})


def _taken(message: str) -> RestError:
    """Port's status for this is not in its specification."""
    return RestError(409, "identifier_taken", message)


def _renamed_never(body: Json, identifier: str) -> Json:
    if body["identifier"] != identifier:
        raise not_played("a new identifier for what there is")
    return body


def _sent(webhook: Webhook) -> Json:
    """A webhook as it was sent."""
    return {
        "identifier": webhook.identifier,
        "title": webhook.identifier,
        **webhook.about,
        "enabled": webhook.enabled,
        "mappings": webhook.mappings,
        "security": dict(webhook.security),
    }


def _whole(entity: Entity) -> Json:
    shown = {"identifier": entity.identifier, "properties": entity.properties, "relations": entity.relations}
    return shown if entity.title is None else shown | {"title": entity.title}


# -- a search


@dataclass(frozen=True)
class _Search:
    """The body of a search, understood. `include` None: everything."""

    matches: Predicate
    include: list[str] | None
    exclude: list[str]
    limit: int
    after: str


def _search(body: Json) -> _Search:
    unknown = body.keys() - {"query", "include", "exclude", "limit", "from"}
    if unknown:
        raise invalid(f"the body must not have {', '.join(sorted(unknown))}")
    limit = body.get("limit", 200)
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not 1 <= limit <= 1000:
        raise invalid('"limit" is a number from 1 to 1000')
    return _Search(
        _matches(body["query"]) if "query" in body else lambda _: True,
        texts("include", body["include"]) if "include" in body else None,
        texts("exclude", body.get("exclude", [])),
        int(limit),
        _position(body["from"]) if "from" in body else "",
    )


def _cursor(identifier: str) -> str:
    return base64.urlsafe_b64encode(identifier.encode()).decode()


def _position(cursor: object) -> str:
    try:
        identifier = base64.b64decode(cursor, b"-_", validate=True).decode() if isinstance(cursor, str) else ""
    except ValueError:
        identifier = ""
    if not identifier:
        raise invalid('"from" is no `next` of an answer')
    return identifier


_META: dict[str, Callable[[Entity], Any]] = {
    "$identifier": lambda entity: entity.identifier,
    "$title": lambda entity: entity.title,
    "$blueprint": lambda entity: entity.blueprint,
    "$createdAt": lambda entity: iso(entity.created_at),
    "$updatedAt": lambda entity: iso(entity.updated_at),
}
#: What an answer has according to the specification; an example there asks for more by `include`.
_USUAL_META = frozenset({"$identifier", "$title"})


def _chosen(search: _Search, blueprint: Json) -> Collection[str]:
    """The names of what an answer shows. That Port refuses a name it does not know is not documented."""
    named = {*blueprint["schema"]["properties"], *blueprint.get("relations", {})}
    for name in [*(search.include or []), *search.exclude]:
        if name not in named and name not in _META:
            raise invalid(f"the blueprint has no property {name!r}")
    chosen = named | _USUAL_META if search.include is None else set(search.include)
    return chosen - set(search.exclude)


def _shown(entity: Entity, chosen: Collection[str]) -> Json:
    """The entity without what was not asked for; a title that is null is absent, as the specification wants it."""
    meta = {name.removeprefix("$"): value_of(entity) for name, value_of in _META.items() if name in chosen}
    shown = {name: value for name, value in meta.items() if value is not None}
    for part, values in {"properties": entity.properties, "relations": entity.relations}.items():
        if kept := {name: value for name, value in values.items() if name in chosen}:
            shown[part] = kept
    return shown


# -- the rules of a search: those on texts

_TESTS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda have, want: bool(have == want),
    "contains": lambda have, want: str(want) in str(have),
    "beginsWith": lambda have, want: str(have).startswith(str(want)),
    "endsWith": lambda have, want: str(have).endswith(str(want)),
    "in": lambda have, want: isinstance(want, list) and have in want,
}
_NEGATIONS = {
    "!=": "=",
    "doesNotContains": "contains",
    "doesNotBeginsWith": "beginsWith",
    "doesNotEndsWith": "endsWith",
    "notIn": "in",
}


def _matches(query: object) -> Predicate:
    if not isinstance(query, dict) or query.keys() != {"combinator", "rules"}:
        raise invalid('"query" has a combinator and rules')
    if query["combinator"] not in ("and", "or") or not isinstance(query["rules"], list):
        raise invalid('"query" has the combinator "and" or "or", and a list of rules')
    rules = [_rule(rule) for rule in query["rules"]]
    every = query["combinator"] == "and" or not rules
    return lambda entity: (all if every else any)(rule(entity) for rule in rules)


def _rule(rule: object) -> Predicate:
    if not isinstance(rule, dict):
        raise invalid("a rule is an object")
    if "combinator" in rule:
        return _matches(rule)
    operator = str(rule.get("operator"))
    test = _TESTS.get(_NEGATIONS.get(operator, operator))
    if test is None or rule.keys() != {"property", "operator", "value"}:
        raise not_played(f"the rule {json.dumps(rule)}")
    return lambda entity: test(_value(entity, rule["property"]), rule["value"]) is (operator not in _NEGATIONS)


def _value(entity: Entity, name: str) -> Any:
    return _META[name](entity) if name in _META else entity.properties.get(name)


# -- HTTP


def rest_app(rest: Rest) -> Starlette:
    """Port's API host over HTTP, below `/v1`."""

    async def serve(request: Request) -> Response:
        found = _find(request.method, request.scope["raw_path"].decode(errors="replace"))
        if found is None:
            answer = error_answer(404, "not_found", "There is no such route")
        else:
            route, path = found
            authorization = request.headers.get("authorization", "")
            answer = rest.serve(route, Call(await request.body(), authorization, path, request.query_params))
        return JSONResponse(answer.body, answer.status, answer.headers)

    return Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])])


def _find(method: str, raw_path: str) -> tuple[_Route, dict[str, str]] | None:
    """The route of a request. Its path is taken apart as it was sent: an identifier's own slashes must be encoded."""
    sent = raw_path.removeprefix("/v1/").split("/")
    for route in _ROUTES:
        wanted = route.path.split("/")
        if route.method != method or len(wanted) != len(sent):
            continue
        pairs = list(zip(wanted, sent, strict=True))
        if all(have and (want.startswith("{") or want == have) for want, have in pairs):
            return route, {want.strip("{}"): unquote(have) for want, have in pairs if want.startswith("{")}
    return None
