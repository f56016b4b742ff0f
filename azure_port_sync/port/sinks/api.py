"""The sink for Port's REST API: the entities that the webhook's mapping would make, written in bulk, each answered.

Routes, shapes and limits are those of Port's OpenAPI file (github.com/port-labs/port-docs, `static/apispec.yaml`):
20 entities in a bulk upsert, 100 identifiers in a bulk delete, 1 MiB in a request. Entities are merged, as a webhook
does, so that what a person added to one in Port stays. Missing targets of relations are not created: containers go
first, and what Port made up itself nobody would ever remove.
"""

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import PortError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import Operation
from azure_port_sync.port import model
from azure_port_sync.port.api import PortApi, parsed
from azure_port_sync.port.blueprints import BLUEPRINTS
from azure_port_sync.port.flow import Flow, StubbornError
from azure_port_sync.port.jq_dialect import BusyProgram
from azure_port_sync.port.mapping import Target, WebhookMapping
from azure_port_sync.port.sinks import Outcome, OutgoingEvent, RefusedError
from azure_port_sync.port.transport import TRANSIENT_STATUS, TransientError, until_reset

Json = dict[str, Any]

_MOST = {Operation.UPSERT: 20, Operation.DELETE: 100}
_UPSERT = "upsert=true&merge=true&create_missing_related_entities=false&validation_only=false"
_DELETE = "delete_dependents=true"


class ApiSink:
    """Writes entities by Port's REST API; its answers say what became of each. Safe to share between threads."""

    name = "api"
    verifies = True
    max_bytes = 1024 * 1024 - 64  # the entities are shorter than their events; the rest is what is around them

    def __init__(self, api: PortApi, *, concurrency: int, deadline: timedelta, clock: Clock) -> None:
        """`deadline` bounds the time in which Port accepts nothing at all, not the time of the whole delivery."""
        self._api = api
        self._clock = clock
        self._programs: list[BusyProgram] = []
        self._mappings = {
            target.blueprint: WebhookMapping([mapping], self._program)
            for mapping in model.webhook()["mappings"]
            if (target := Target.of(mapping)).operation == "create"
        }
        self.flow = Flow(clock, concurrency=concurrency, deadline=deadline, name="Port's API")

    def close(self) -> None:
        """Ends what evaluates the mapping; the API is closed by whoever opened it."""
        for program in self._programs:
            program.close()

    def _program(self, source: str) -> BusyProgram:
        self._programs.append(BusyProgram(source))
        return self._programs[-1]

    def max_batch_size(self, operation: Operation) -> int:
        """Entities in one request."""
        return _MOST[operation]

    def send(self, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        """Write all, of one operation and kind, in one request. Raises RefusedError, or PortError for all there are."""
        first = events[0].row
        blueprint = quote(BLUEPRINTS[Kind(first.kind)], safe="")
        if first.operation == Operation.DELETE:
            return self._delete(blueprint, events, heartbeat)
        return self._upsert(blueprint, events, heartbeat)

    def _upsert(self, blueprint: str, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        entities = self._entities(events)
        outcomes: list[Outcome] = [
            None if entity else RefusedError("the mapping makes no entity of it") for entity in entities
        ]
        left = [position for position, entity in enumerate(entities) if entity]

        def write() -> None:
            """Write what is left. Answers about one entity that say "later" leave it, and are tried again."""
            nonlocal left
            errors = self._bulk(blueprint, [entities[position] for position in left])
            later = {left[index]: error for index, error in errors.items() if error["statusCode"] in TRANSIENT_STATUS}
            for index, error in errors.items():
                if left[index] not in later:
                    outcomes[left[index]] = RefusedError(f"Port answered {error['statusCode']}: {error.get('message')}")
            if later and len(later) < len(left):
                self.flow.succeed()
            left = list(later)
            if left:
                status = later[left[0]]["statusCode"]
                raise TransientError(f"it answered {status} to {len(left)} of its entities", status=status)

        if left:
            try:
                self.flow.call(write, heartbeat, together=len(left) > 1)
            except StubbornError as error:
                if len(left) == len(events):
                    raise
                for position in left:
                    outcomes[position] = error
        return outcomes

    def _entities(self, events: Sequence[OutgoingEvent]) -> list[Json | None]:
        """The entity of each event; None where the mapping makes none of it."""
        made = self._made(events)
        if len(made) == len(events):
            return list(made)
        return [next(iter(self._made([event])), None) for event in events]

    def _made(self, events: Sequence[OutgoingEvent]) -> list[Json]:
        items = b",".join(event.body for event in events).decode()
        mapping = self._mappings[BLUEPRINTS[Kind(events[0].row.kind)]]
        return [record for _, record in mapping.records(f'{{"body": {{"items": [{items}]}}}}')]

    def _bulk(self, blueprint: str, entities: Sequence[Json | None]) -> dict[int, Json]:
        """What Port says of each entity that it did not write, by its position."""
        said = self._ask(f"blueprints/{blueprint}/entities/bulk?{_UPSERT}", {"entities": entities})
        errors, written = said.get("errors") or [], said.get("entities") or []
        by_index = {error.get("index"): error for error in errors if isinstance(error.get("statusCode"), int)}
        if len(written) + len(by_index) != len(entities) or not by_index.keys() <= set(range(len(entities))):
            raise TransientError("it did not answer for each of the entities")
        return by_index

    def _delete(self, blueprint: str, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        identifiers = [event.row.identifier for event in events]
        path = f"blueprints/{blueprint}/bulk/entities/delete?{_DELETE}"
        said = self.flow.call(lambda: self._ask(path, {"entities": identifiers}), heartbeat, together=len(events) > 1)
        gone = {one.get("identifier") if isinstance(one, dict) else one for one in said.get("deletedEntities") or []}
        # What is not among them was absent already, or was left out: each is asked for once more.
        return [
            None if identifier in gone else self._delete_one(blueprint, identifier, heartbeat)
            for identifier in identifiers
        ]

    def _delete_one(self, blueprint: str, identifier: str, heartbeat: Callable[[], None]) -> Outcome:
        path = f"blueprints/{blueprint}/entities/{quote(identifier, safe='')}?{_DELETE}"
        answer = self.flow.call(lambda: self._api.ask("DELETE", path), heartbeat)
        if answer.status == 404 or 200 <= answer.status < 300:
            return None
        return RefusedError(f"Port answered {answer.status}: {self._api.said(answer)}")

    def _ask(self, path: str, body: Json) -> Json:
        """One request for many entities, and the object that answers it."""
        answer = self._api.ask("POST", path, body)
        self.flow.count_bytes(answer.sent)
        if answer.headers.get("x-ratelimit-remaining") == "0":
            self.flow.hold_back(until_reset(answer, self._clock.now()))
        if answer.status == 404:
            raise PortError(
                f"Port has no blueprint {path.split('/')[1]}: launch the job port_setup, or check that PORT_CLIENT_ID "
                "belongs to the account that is meant."
            )
        if answer.status == 403:
            raise PortError(
                "Port's API answered 403: PORT_CLIENT_ID may not write entities. Use the credentials of a user who may."
            )
        if not 200 <= answer.status < 300:
            raise RefusedError(f"Port answered {answer.status}: {self._api.said(answer)}")
        said = parsed(answer)
        if not isinstance(said, dict):
            raise TransientError("its answer is no JSON object, so it is not from Port's API (PORT_BASE_URL)")
        return said
