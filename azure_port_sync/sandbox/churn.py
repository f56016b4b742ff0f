"""Churn: resources that come and go while a client reads, by the sandbox's clock or with each request.

A tenant of any size changes while it is read. A reader by offsets loses rows by that and does not notice; one by parts
must give every row that was there throughout, once, in as many requests as of a calm tenant.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.tenant import Tenant, TenantError

#: Changes before one answer at most, so that a clock that is moved by a day does not take hours.
MAX_AT_ONCE = 200


class Churn:
    """Makes changes before answers of Resource Graph, once it has been started."""

    def __init__(self, tenant: Tenant, clock: SandboxClock, rng: random.Random) -> None:
        self._tenant = tenant
        self._clock = clock
        self._rng = rng
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Stop, and forget all changes."""
        self.changes = 0
        self._change: Callable[[], object] | None = None
        self._every: timedelta | None = None
        self._since = self._clock.now()
        self._resources: list[str] = []
        self._groups: list[str] = []

    def start(self, seconds: float | None = None, change: Callable[[], object] | None = None) -> None:
        """Make a change for every so many seconds that pass on the clock; without `seconds` one before each answer.

        A change creates or deletes a resource, unless another one is given.
        """
        if seconds is not None and seconds <= 0:
            raise ValueError(f"changes happen every so many seconds, e.g. 0.5; got {seconds}")
        with self._lock:
            self._change = change or self._create_or_delete
            self._every = None if seconds is None else timedelta(seconds=seconds)
            self._since = self._clock.now()
            self._resources = [str(row["id"]) for row in self._tenant.resources()]
            self._groups = [str(row["id"]) for row in self._tenant.containers() if row["resourceGroup"]]

    def stop(self) -> None:
        """Make no more changes."""
        self._change = None

    def happen(self) -> None:
        """Make the changes that are due."""
        with self._lock:
            change = self._change
            if change is None:
                return
            for _ in range(self._due()):
                change()
                self.changes += 1

    def _due(self) -> int:
        if self._every is None:
            return 1
        due = max(0, (self._clock.now() - self._since) // self._every)
        self._since += due * self._every
        return min(due, MAX_AT_ONCE)

    def _create_or_delete(self) -> None:
        if self._groups and (not self._resources or self._rng.random() < 0.5):
            home, name = self._rng.choice(self._groups), f"churn-{self._rng.randrange(10**12):012d}"
            with suppress(TenantError):  # somebody else has deleted the group
                self._resources.append(self._tenant.create_resource(home, "Microsoft.Web/sites", name))
        elif self._resources:
            gone = self._resources.pop(self._rng.randrange(len(self._resources)))
            with suppress(TenantError):  # somebody else has deleted it
                self._tenant.delete_resource(gone)
