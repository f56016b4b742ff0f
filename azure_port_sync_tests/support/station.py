"""The product as random histories have it: at the doors of a sandbox, run by run, until it dies."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol, cast

import sqlalchemy as sa
from azure.identity import ClientSecretCredential

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.request import Mode, Selection
from azure_port_sync.core.request import Request as SyncRequest
from azure_port_sync.core.windows import Window
from azure_port_sync.engine.deliver import DeliveryLimits
from azure_port_sync.engine.run import Outcome, sync_once
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.setup import set_up_webhook
from azure_port_sync.port.sinks import Sink
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import WebhookBatchSink, WebhookSink
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.clocks import SteppedClock
from azure_port_sync_tests.support.histories import GROUPS, RESOURCES, SUBSCRIPTIONS, Kill, Launch, Setup, Side
from azure_port_sync_tests.support.postgres import emptied, server, unavailable, url_of
from azure_port_sync_tests.support.stores import behind_its_back


class Killed(BaseException):
    """The process is gone, as after SIGKILL."""


class Life:
    """One run: everything it does outside itself passes here, until it dies. After that nothing does."""

    def __init__(
        self,
        kill: Kill | None = None,
        *,
        before_read: Callable[[int], None] = lambda _: None,
        after_snapshot: Callable[[], None] = lambda: None,
        after_reading: Callable[[bool], None] = lambda _whole: None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.died_at = ""
        self.deletes: set[str] = set()  # identifiers
        self._kill = kill
        self._before_read = before_read
        self._after_snapshot = after_snapshot
        self._after_reading = after_reading
        self._lock = threading.RLock()

    def pass_on(self, side: Side, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """One call of the product's edges."""
        if side == "port" and call.__name__ != "send":
            return call(*arguments)  # nothing is sent
        with self._lock:
            number = self.calls[side]
            self._reach(side, number, call.__name__, after=False)
            self.calls[side] += 1
        if side == "azure":
            self._before_read(number)
        if side == "port" and arguments[0][0].row.operation == "delete":
            self.deletes.update(event.row.identifier for event in arguments[0])
        result = call(*arguments, **named)
        if side == "azure" and call.__name__ == "containers" and not arguments and not named:
            self._after_snapshot()
        if side == "azure" and call.__name__ == "readable" and "anywhere" not in named:
            self._after_reading(named.get("whole", False))
        with self._lock:
            self._reach(side, number, call.__name__, after=True)
        return result

    def reach_statement(self) -> None:
        """The product is about to have its database do something."""
        with self._lock:
            self._reach("statement", self.calls["statement"], "execute", after=False)
            self.calls["statement"] += 1

    def _reach(self, side: Side, number: int, name: str, *, after: bool) -> None:
        if not self.died_at and self._kill == Kill(side, number, after):
            self.died_at = f"{'after' if after else 'before'} {side}.{name}"
        if self.died_at:
            raise Killed(self.died_at)


#: The run that is under way, for what databases do.
_alive: list[Life] = []


@sa.event.listens_for(sa.Engine, "before_cursor_execute")
def _statement(*_: object) -> None:
    for life in _alive:
        life.reach_statement()


class _Mortal:
    """A store, reader or sink as one run has it; the parts of a store are mortal as the whole is."""

    def __init__(self, inner: object, side: Side, life: Life) -> None:
        self._inner = inner
        self._side = side
        self._life = life

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if self._side == "store" and name in ("targets", "lease", "ledger", "facts"):
            return _Mortal(value, self._side, self._life)
        if name.startswith("_") or not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            return self._life.pass_on(self._side, value, *arguments, **named)

        return call


class Station:
    """A running sandbox with credentials for it, made once for many worlds."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(estate=False).start()
        self.clock = SteppedClock(self.sandbox.clock)
        self.environment = self.sandbox.environment()
        self._folder = folder
        self._opened = 0
        self.credential = ClientSecretCredential(
            self.environment["AZURE_TENANT_ID"],
            self.environment["AZURE_CLIENT_ID"],
            self.environment["AZURE_CLIENT_SECRET"],
            authority=self.environment["AZURE_AUTHORITY_HOST"],
            connection_verify=self.environment["REQUESTS_CA_BUNDLE"],
            disable_instance_discovery=True,
        )

        self._ends = ExitStack()
        self._postgres: str | None = None

    def close(self) -> None:
        self._ends.close()
        self.credential.close()
        self.sandbox.stop()

    def new_database(self, kind: str = "sqlite") -> str:
        """The URL of an empty database; of the Postgres there is one, which is started when it is first asked for."""
        self._opened += 1
        if kind == "sqlite" or unavailable():
            return f"sqlite:///{self._folder / f'state-{self._opened}.sqlite'}"
        self._postgres = self._postgres or url_of(self._ends.enter_context(server()))
        return emptied(self._postgres)


@dataclass(frozen=True)
class Request:
    """What is asked of a run."""

    mode: Mode
    force: bool
    setup: Setup  # the settings that are in force
    allow: bool  # of the guard
    floor: int  # of the guard
    launch: Launch = ""
    concurrency: int = 1


@dataclass(frozen=True)
class Ran:
    """What a run that ended in order says of itself."""

    mode: str
    operations: int
    not_delivered: int
    held: int
    known_before: int
    summary: str


class Product(Protocol):
    """The product, at the doors of a sandbox."""

    def run(self, life: Life, request: Request) -> Ran:
        """One run. Raises Killed, SyncError as the product does, and what is a defect."""
        ...

    def come_back(self) -> None:
        """What was killed is started again."""
        ...

    def back_up(self) -> None:
        """Keep a copy of the state as it is."""
        ...

    def restore(self) -> bool:
        """Put the copy in place of the state, where there is one."""
        ...

    def remembered(self) -> list[str]:
        """Everything that is in the state."""
        ...

    def quarantined(self) -> set[str]:
        """The identifiers of what is in quarantine."""
        ...

    def close(self) -> None: ...


class Syncer:
    """The product without Dagster: the one place that knows how it is called."""

    def __init__(self, station: Station, setup: Setup) -> None:
        self._station = station
        self._clock = station.clock
        self._url = station.new_database(setup.database)
        self._backup: sqlite3.Connection | None = None
        self._runs = 0
        environment = station.environment
        self.graph = ResourceGraph(
            station.credential,
            self._clock,
            base_url=environment["AZURE_RESOURCE_MANAGER_URL"],
            credential_scopes=["https://management.azure.com/.default"],
            connection_verify=environment["REQUESTS_CA_BUNDLE"],
        )
        self._open()
        if setup.delivery == "webhook_batch":  # whose mapping stays until the sandbox is reset
            set_up_webhook(self.api, environment["PORT_WEBHOOK_INGEST_URL"], environment["PORT_WEBHOOK_SECRET"])

    def _open(self) -> None:
        """All that ends with a process."""
        rest = self._station.sandbox.rest
        self.api = PortApi(self._station.sandbox.url, rest.client_id, rest.client_secret, clock=self._clock)
        self.store = StateStore(self._url, self._clock)

    def come_back(self) -> None:
        self._end()
        self._open()
        if self._file is None:  # the minute of its lease passes, of which Postgres has a clock of its own
            with behind_its_back(self._url) as connection:
                connection.exec_driver_sql("UPDATE azure_port_sync_target SET lease_expires = '2000-01-01'")

    @property
    def _file(self) -> Path | None:
        file = self._url.partition("sqlite:///")[2]
        return Path(file) if file else None

    def back_up(self) -> None:
        """Keep a copy of the state as it is."""
        if self._file is not None:
            self._backup = sqlite3.connect(":memory:")
            with closing(sqlite3.connect(self._file)) as state:
                state.backup(self._backup)

    def restore(self) -> bool:
        """Put the copy in place of the state, where there is one."""
        if self._file is None or self._backup is None:
            return False
        with closing(sqlite3.connect(self._file)) as state:
            self._backup.backup(state)
        return True

    def remembered(self) -> list[str]:
        """Everything that is in the state."""
        if self._file is None:
            return []
        with closing(sqlite3.connect(self._file)) as state:
            return list(state.iterdump())

    def quarantined(self) -> set[str]:
        """The identifiers of what is in quarantine."""
        return set(self.store.facts.quarantined("t")["identifier"])

    def _end(self) -> None:
        self.store.close()
        self.api.close()

    def close(self) -> None:
        self._end()
        self.graph.close()
        if self._file is not None:
            self._file.unlink()

    def run(self, life: Life, request: Request) -> Ran:
        setup = request.setup
        reader = AzureReader(self.graph, setup.scope, batch_size=setup.batch_size)
        self._runs += 1
        _alive[:] = [life]
        with closing(self._make_sink(setup.delivery, request.concurrency)) as sink:
            try:
                outcome = sync_once(
                    cast("AzureReader", _Mortal(reader, "azure", life)),
                    cast("Sink", _Mortal(sink, "port", life)),
                    cast("StateStore", _Mortal(self.store, "store", life)),
                    self._clock,
                    target="t",
                    run=f"run-{self._runs}",
                    request=self._asked(request),
                    sink_fingerprint=setup.delivery,
                    catalog=self.api if request.launch == "rebuild" else None,
                    limits=DeliveryLimits(sent_together=3),  # a death between two groups is a case of its own
                )
            finally:
                _alive.clear()
        plan, report = outcome.plan, outcome.report
        held = outcome.stats.verdicts[Verdict.HELD]
        return Ran(plan.mode, report.total, report.not_delivered, held, plan.known_before, _summary(outcome))

    def _asked(self, request: Request) -> SyncRequest:
        now = self._station.sandbox.clock.now()
        overrides: dict[Launch, dict[str, Any]] = {
            "": {},
            "dry run": {"dry_run": True},
            "one subscription": {"only": Selection.of(subscriptions=[SUBSCRIPTIONS["s0"]])},
            "one group": {"only": Selection.of(resource_groups=[GROUPS["g0"]])},
            "one type": {"only": Selection.of(resource_types=[RESOURCES["r0"][0]])},
            "backfill": {"backfill": Window(now - timedelta(hours=6), now - timedelta(minutes=30))},
            "retry": {"retry_quarantined": True},
            "rebuild": {"rebuild_ledger": True},
        }
        return SyncRequest(
            request.mode,
            force=request.force,
            allow_mass_delete=request.allow,
            min_guarded_deletes=request.floor,
            **overrides[request.launch],
        )

    def _make_sink(self, delivery: str, concurrency: int) -> Sink:
        flow: dict[str, Any] = {
            "concurrency": concurrency,
            "deadline": timedelta(minutes=10),
        }
        if delivery == "api":
            return ApiSink(self.api, **flow)
        environment = self._station.environment
        url, secret = environment["PORT_WEBHOOK_INGEST_URL"], environment["PORT_WEBHOOK_SECRET"]
        make = WebhookBatchSink if delivery == "webhook_batch" else WebhookSink
        return make(url, secret=secret, clock=self._clock, **flow)


def _summary(outcome: Outcome) -> str:
    report = outcome.report
    sent = ", ".join(f"{number} {name}s" for name, number in sorted(report.accepted.items())) or "nothing"
    rest = f", {report.not_delivered} not_delivered ({report.error or report.refused})" if report.not_delivered else ""
    verdicts = {str(verdict): number for verdict, number in outcome.stats.verdicts.items() if number}
    return f"over {outcome.plan.window}: {sent}{rest}; {verdicts}"
