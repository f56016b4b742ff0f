"""A scenario for the engine: a small tenant in the sandbox, and a sync of it without Dagster."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pandas as pd

from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.scope import Scope
from azure_port_sync.engine.containers import read_snapshot
from azure_port_sync.engine.decide import ChangeSet
from azure_port_sync.engine.deliver import LIMITS, DeliveryLimits
from azure_port_sync.engine.run import Outcome, decide_changes, deliver_changes, sync_once
from azure_port_sync.engine.stats import RunStats
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.sinks.webhook import WebhookSink
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync_tests.conftest import ReaderOf
from azure_port_sync_tests.support.clocks import SteppedClock

TICK = timedelta(minutes=15).total_seconds()


@dataclass
class Scenario:
    """A tenant with one group of two resources, and a sync that has settled once."""

    sandbox: Sandbox
    clock: SteppedClock
    sink: WebhookSink
    store: StateStore
    reader_of: ReaderOf
    include: Mapping[str, str] | None = None
    exclude: Mapping[str, str] | None = None
    runs: int = 0
    other: str = ""  # the second subscription, where there is one
    far: str = ""  # its only resource
    min_guarded_deletes: int = 100
    limits: DeliveryLimits = LIMITS
    sink_fingerprint: str = ""
    crowd: str = ""  # the group of many resources, where there is one

    def begin(self, tags: Mapping[str, str] | None = None) -> "Scenario":
        self.reader = self.reader_of(Scope.of(include_tags=self.include, exclude_tags=self.exclude))
        self.tenant = self.sandbox.tenant
        self.subscription = self.tenant.add_subscription("S")
        self.group = self.tenant.add_group(self.subscription, "web", "westeurope", tags)
        self.one, self.two = (self.tenant.create_resource(self.group, "microsoft.web/sites", n) for n in ("x1", "x2"))
        self.tick()
        return self

    def tick(self, mode: Mode = Mode.INCREMENTAL, *, catalog: PortApi | None = None, **more: Any) -> Outcome:
        self.clock.sleep(TICK)
        self.runs += 1
        return sync_once(
            self.reader,
            self.sink,
            self.store,
            self.clock,
            target="t",
            run=str(self.runs),
            request=Request(mode, min_guarded_deletes=self.min_guarded_deletes, **more),
            sink_fingerprint=self.sink_fingerprint,
            catalog=catalog,
            limits=self.limits,
        )

    def tick_under(self, fault: Fault) -> None:
        """A run that a fault ends early."""
        self.sandbox.faults.add(fault)
        assert self.tick().report.not_delivered
        self.sandbox.faults.clear()

    def decide(
        self, request: Request, *, snapshot: pd.DataFrame | None = None, run: str = "decided"
    ) -> tuple[ChangeSet, RunStats]:
        """Decide and deliver nothing; on a snapshot that may have been taken earlier than the other reads."""
        return decide_changes(
            self.reader,
            self.store,
            target="t",
            run=run,
            snapshot=read_snapshot(self.reader).frame if snapshot is None else snapshot,
            request=replace(request, min_guarded_deletes=self.min_guarded_deletes),
            change_window=timedelta(minutes=15),
            sink=self.sink_fingerprint,
        )

    def deliver(self, snapshot: pd.DataFrame) -> RunStats:
        """A full run on a snapshot that was taken earlier than the other reads."""
        change_set, stats = self.decide(Request(Mode.FULL), snapshot=snapshot)
        deliver_changes(change_set, self.sink, self.store, self.clock)
        return stats

    def ends_right(self) -> None:
        self.tick()
        self.tick()
        assert self.sandbox.compare(include=plain(self.include), exclude=plain(self.exclude)).sentences() == []


def plain(tags: Mapping[str, str] | None) -> dict[str, str] | None:
    """Return the tags as the sandbox takes them."""
    return None if tags is None else dict(tags)


def titles(scenario: Scenario) -> dict[str, set[str]]:
    """Return the titles of what Port holds, by blueprint."""
    return {blueprint: {one["title"] for one in held.values()} for blueprint, held in scenario.sandbox.held().items()}
