"""Plays Port's webhooks: they map events with jq into a catalog, with Port's limits and Port's silences.

Port answers 202 and works later; here all the work is done before the 202 leaves, so a test may look right away.
An entity that Port would not write is not written here either: the audit log alone says so, the answer is 202.
Source: docs.port.io (custom integration: webhook).
"""

import hmac
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azure_port_sync.sandbox.port.answers import Answer, error_answer, too_many_requests
from azure_port_sync.sandbox.port.catalog import Catalog
from azure_port_sync.sandbox.port.entity import Clock, Json, RefusedError, iso
from azure_port_sync.sandbox.port.limits import Limiter, Throttle
from azure_port_sync.sandbox.port.mapping import Mappings, Target, target_of

MAX_BODY_BYTES = 512 * 1024

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
        """Yield the records that the mappings make of an event, in their order."""
        return self._made.records(context)

    def signed(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """Return whether the event carries the signature this webhook asks for; without a secret it asks for none.

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


# The body of Port's 202 is not documented, so nothing should read this one.
_ACCEPTED = Answer(202, {"ok": True})


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
        """Return the webhook of this identifier."""
        return next((one for one in self.webhooks.values() if one.identifier == identifier), None)

    def clear(self) -> None:
        """Empty the catalog, set the counters to zero and lift the limit; blueprints and webhooks stay."""
        with self.catalog.lock:
            self.catalog.clear()
            self.requests.clear()
            self.events = self.items = self.bytes = 0
            self.last_arrival = None
            self.count_only = False
            self.throttle(None)

    def remove_all(self) -> None:
        """Remove all blueprints, entities and webhooks."""
        with self.catalog.lock:
            self.catalog.remove_all()
            self.webhooks.clear()

    def throttle(self, throttle: Throttle | None) -> None:
        """Answer 429 beyond this limit from now on; None lifts it."""
        self._limiter = Limiter(self._clock, throttle) if throttle else None

    def ingest(self, key: str, body: bytes, headers: Mapping[str, str], query: Mapping[str, str]) -> Answer:
        """Answer one `POST /{key}`."""
        with self.catalog.lock:
            answer = self._ingest(key, body, headers, query)
            self.requests[answer.status] += 1
            self.bytes += len(body)
            return answer

    def counters(self) -> Json:
        """Return the numbers of what arrived, and of what became of it."""
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
        if self._limiter and (refusal := too_many_requests(self._limiter.take())):
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
                        target.blueprint, identifier, record.get("title"), record["properties"], record["relations"]
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
