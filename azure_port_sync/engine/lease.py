"""The lease of a run on its target: claimed before it delivers, and released at the end."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import StateError
from azure_port_sync.core.plan import Plan
from azure_port_sync.state import DeliveryLedger, StateStore

logger = logging.getLogger(__name__)

_LOOK_AGAIN_SECONDS = 1.0


@contextmanager
def claimed(store: StateStore, clock: Clock, plan: Plan) -> Iterator[DeliveryLedger]:
    """Claim the target of a plan, and release it at the end, however the run ends.

    A run that was killed cannot release it, so the end of its lease is waited for. Raises StateError when that run
    turns out to live, because it renews its lease.
    """
    first = expires = store.lease.claim(plan)
    if first is not None:
        logger.info("Another run has claimed this target; waiting until %s to see whether it renews its lease", first)
    while expires is not None:
        if first is not None and expires > first:
            raise StateError(
                "Another run is delivering to this target right now, so this one stops; nothing was sent. Run one "
                "sync at a time; the next tick reads everything that is missing."
            )
        clock.sleep(_LOOK_AGAIN_SECONDS)
        expires = store.lease.claim(plan)
    try:
        yield store.delivery(plan)
    finally:
        store.lease.release(plan)
