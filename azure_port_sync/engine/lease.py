"""The lease of a run on its target, and with it the right to write to the ledger while it delivers."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import StateError
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.rows import ChangeSetRow
from azure_port_sync.state import StateStore
from azure_port_sync.state.lease import LEASE

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 1.0


@contextmanager
def claimed(store: StateStore, clock: Clock, plan: Plan) -> Iterator["TargetLease"]:
    """Claim the target of a plan, and release it at the end, however the run ends.

    Raises StateError when another run is delivering to it.
    """
    lease = TargetLease(store, clock, plan)
    lease.claim()
    try:
        yield lease
    finally:
        store.lease.release(plan)


class TargetLease:
    """A target that this run may deliver to, and the ledger as far as a delivery writes to it.

    Whoever delivers renews the lease as it goes along. Every verb raises StateError when another run has taken over, so
    that no further request is sent. Safe to share between threads.
    """

    def __init__(self, store: StateStore, clock: Clock, plan: Plan) -> None:
        self._store = store
        self._clock = clock
        self._plan = plan
        self._lock = threading.Lock()
        self._renewed_at = clock.now()

    def claim(self) -> None:
        """Claim the target. A run that was killed cannot release it, so the end of its lease is waited for.

        Raises StateError when the other run turns out to live: it renews its lease.
        """
        self._renewed_at = self._clock.now()
        first = expires = self._store.lease.claim(self._plan)
        if first is not None:
            logger.info(
                "Another run has claimed this target; waiting until %s to see whether it renews its lease",
                first,
            )
        while expires is not None:
            if first is not None and expires > first:
                raise StateError(
                    "Another run is delivering to this target right now, so this one stops; nothing was sent. Run one "
                    "sync at a time; the next tick reads everything that is missing."
                )
            self._clock.sleep(_LOOK_AGAIN_SECONDS)
            self._renewed_at = self._clock.now()
            expires = self._store.lease.claim(self._plan)

    def renew_lease(self) -> None:
        """Renew the lease when half of it has passed. To be called before each request."""
        with self._lock:
            now = self._clock.now()
            if not timedelta(0) <= now - self._renewed_at < LEASE / 2:  # less than nothing: the clock has jumped back
                self._store.lease.renew(self._plan)
                self._renewed_at = now

    def begin_deleting_containers(self, rows: Sequence[ChangeSetRow]) -> None:
        self._store.ledger.begin_deleting_containers(self._plan, rows)

    def begin_sending(self, rows: Sequence[ChangeSetRow]) -> None:
        self._store.ledger.begin_sending(self._plan, rows)

    def confirm(self, rows: Sequence[ChangeSetRow]) -> None:
        self._store.ledger.confirm(self._plan, rows)

    def quarantine(self, refused: Sequence[tuple[ChangeSetRow, str]]) -> None:
        self._store.facts.quarantine(self._plan, refused)
