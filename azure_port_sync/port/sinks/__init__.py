"""The ways into Port: what each of them promises, and the events that it is given."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from azure_port_sync.core.rows import ChangeSetRow, Operation
from azure_port_sync.port.failures import RefusedError
from azure_port_sync.port.flow import Flow, KeptFailingError

#: What became of one operation: Port took it (None), refused it, or kept failing at it.
Outcome = RefusedError | KeptFailingError | None


class OutgoingEvent(NamedTuple):
    """One operation, ready to be sent: the row of the change set, and the event that is made of it."""

    row: ChangeSetRow
    body: bytes


class Sink(Protocol):
    """A way into Port.

    `verifies`: its answers say what became of each entity, not only that it was accepted. `max_bytes` bounds the
    events of one request, and what a single event may have. `concurrency` is how many requests may be in flight.
    """

    verifies: bool
    max_bytes: int
    concurrency: int
    flow: Flow

    def close(self) -> None: ...

    def is_answered(self) -> bool:
        """Return whether Port answers other requests just now, so that one at which it fails is its own trouble."""
        ...

    def max_batch_size(self, operation: Operation) -> int:
        """Return how many operations one request takes."""
        ...

    def send(self, events: Sequence[OutgoingEvent], heartbeat: Callable[[], None]) -> list[Outcome]:
        """Send these, all of one phase, and return what became of each. `heartbeat` comes before each attempt.

        Raises RefusedError when Port refuses the request and does not say for which of the events, KeptFailingError
        when it keeps failing at it, TransientError when it takes nothing until the deadline, and PortError when
        nothing at all can be delivered.
        """
        ...
