"""The sink for Port's REST API: the entities that the webhook's mapping would make, written in bulk, each answered."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from azure_port_sync.core.errors import PortError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import Operation
from azure_port_sync.port import Json, model
from azure_port_sync.port.api import MAX_DELETED, MAX_UPSERTED, PortApi
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.port.failures import BULK_ENTITY, Body, RefusedError, TransientError, failure, shown
from azure_port_sync.port.flow import Flow, KeptFailingError
from azure_port_sync.port.mapping import Target, WebhookMapping
from azure_port_sync.port.responses import EntityError
from azure_port_sync.port.sinks import Outcome, OutgoingEvent

_BATCH_SIZES = {Operation.UPSERT: MAX_UPSERTED, Operation.DELETE: MAX_DELETED}


class ApiSink:
    """Writes entities by Port's REST API; its answers say what became of each. Safe to share between threads."""

    verifies = True
    max_bytes = 1024 * 1024 - 64  # the entities are shorter than their events; the rest is what is around them

    def __init__(self, api: PortApi, *, concurrency: int, deadline: timedelta) -> None:
        """`deadline` bounds the time in which Port accepts nothing at all, not the time of the whole delivery."""
        self._api = api
        self._blueprints = packaged_blueprints()
        # One for each blueprint: all events of a request are of one, and evaluating the others takes as long again.
        self._mappings = {
            target.blueprint: WebhookMapping([mapping])
            for mapping in model.webhook()["mappings"]
            if (target := Target.of(mapping)).operation == "create"
        }
        self.concurrency = concurrency
        self.flow = Flow(api.clock, deadline=deadline, name="Port's API")

    def close(self) -> None:
        """Nothing is open but the API, which is closed by whoever opened it."""

    def is_answered(self) -> bool:
        """Return whether Port counts entities for us."""
        try:
            self._api.count(self._blueprints[Kind.SUBSCRIPTION])
        except PortError:
            return False
        return True

    def max_batch_size(self, operation: Operation) -> int:
        """Entities in one request."""
        return _BATCH_SIZES[operation]

    def send(self, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        """Write all, of one operation and kind, in one request. Raises RefusedError, or PortError for all there are."""
        row = events[0].row
        blueprint = self._blueprints[Kind(row.kind)]
        write = self._delete if row.operation == Operation.DELETE else self._upsert
        return write(blueprint, events, heartbeat)

    def _upsert(self, blueprint: str, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        entities = self._entities(blueprint, events)
        left = {position: entity for position, entity in enumerate(entities) if entity is not None}
        outcomes: list[Outcome] = [
            None if entity else RefusedError("the mapping makes no entity of it") for entity in entities
        ]
        if not left:
            return outcomes
        try:
            self.flow.call(lambda: self._write(blueprint, left, outcomes), heartbeat, together=len(left) > 1)
        except KeptFailingError as error:
            if len(left) == len(events):
                raise
            for position in left:
                outcomes[position] = error
        return outcomes

    def _entities(self, blueprint: str, events: Sequence[OutgoingEvent]) -> list[Json | None]:
        """Return the entity of each event; None where the mapping makes none of it."""
        mapped = self._mapped(blueprint, events)
        if len(mapped) == len(events):
            return list(mapped)
        return [next(iter(self._mapped(blueprint, [event])), None) for event in events]

    def _mapped(self, blueprint: str, events: Sequence[OutgoingEvent]) -> list[Json]:
        items = b",".join(event.body for event in events).decode()
        return [entity.document for entity in self._mappings[blueprint].entities(f'{{"items": [{items}]}}')]

    def _write(self, blueprint: str, left: dict[int, Json], outcomes: list[Outcome]) -> None:
        """Write what is left, and take out of it what Port has answered for, with its outcome.

        Raises TransientError while something is left: Port says of single entities, too, that they may come again.
        """
        positions = list(left)
        response = self._api.upsert_entities(blueprint, list(left.values()), self.flow)
        again: TransientError | None = None
        for index, position in enumerate(positions):
            error = self._entity_error(response.errors.get(index))
            if isinstance(error, TransientError):
                again = again or error
                continue
            outcomes[position] = error
            del left[position]
        if again is None:
            return
        if len(left) < len(positions):
            self.flow.restart_deadline()
        raise again

    def _delete(self, blueprint: str, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        identifiers = [event.row.identifier for event in events]
        deleted = self.flow.call(
            lambda: self._api.delete_entities(blueprint, identifiers, self.flow), heartbeat, together=len(events) > 1
        )
        # What is not among them was absent already, or was left out: each is asked for once more.
        return [
            None if identifier in deleted else self._delete_one(blueprint, identifier, heartbeat)
            for identifier in identifiers
        ]

    def _delete_one(self, blueprint: str, identifier: str, heartbeat: Callable[[], None]) -> Outcome:
        try:
            self.flow.call(lambda: self._api.delete_entity(blueprint, identifier, self.flow), heartbeat)
        except (RefusedError, KeptFailingError) as error:  # one that fails alone must not have the others sent again
            return error
        return None

    def _entity_error(self, error: EntityError | None) -> TransientError | RefusedError | None:
        """Return what one entity's error in a bulk response means."""
        if error is None:
            return None
        message = shown(error.message, self._api.secrets())
        meaning = failure(BULK_ENTITY, error.status, Body.PORT, words={"message": message})
        if isinstance(meaning, PortError):  # which no row of that table says
            raise meaning
        return meaning
