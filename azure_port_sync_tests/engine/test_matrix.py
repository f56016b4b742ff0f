"""The fault matrix: each fault on the way to Port, with each sink, ends as the table in `matrix.py` says."""

import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import dagster as dg
import pytest
from azure.identity import ClientSecretCredential

from azure_port_sync.core.request import Request
from azure_port_sync.core.scope import Scope
from azure_port_sync.definitions import definitions
from azure_port_sync.engine.containers import read_snapshot
from azure_port_sync.engine.decide import ChangeSet
from azure_port_sync.engine.deliver import DeliveryLimits, DeliveryReport
from azure_port_sync.engine.run import decide_changes, deliver_changes, sync_once
from azure_port_sync.port import model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.sinks import Sink
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import WebhookBatchSink, WebhookSink
from azure_port_sync.port.transport import Timeouts
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import Webhook
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support import matrix
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.matrix import FAULTS, SINKS
from azure_port_sync_tests.support.operator import failed_checks, failure

DEADLINE = timedelta(minutes=matrix.MINUTES)
TICK = timedelta(minutes=15)
THREADS = 2

#: What one wait can add: the longest that was asked for. The last of these may be several, one after the other.
WAITS = 4 * timedelta(seconds=40)

#: So few operations are too many to refuse.
LIMITS = DeliveryLimits(max_refused=3)

#: So short that no test waits long for an answer.
TIMEOUTS = Timeouts(whole=timedelta(seconds=20))
SHORT_TIMEOUTS = Timeouts(connect_seconds=1, read_seconds=0.1, whole=TIMEOUTS.whole)

TARGET = "t"
POISON = "poisonous"


class Scene:
    """A tenant that has changed since it was synced, so that each of the six phases has something to deliver.

    All of it is made once; `begin` takes Port and the ledger back to where they were after the first sync.
    """

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(estate=False).start()
        self.sandbox.clock.set(NOW)
        self.stranger = Sandbox(estate=False).start()  # nobody here knows its certificate authority
        self.clock = SteppedClock(self.sandbox.clock)
        self._environment = self.sandbox.environment()
        self._folder = folder
        self._stores = 0
        (webhook,) = self.sandbox.port.webhooks.values()
        self.sandbox.port.add_webhook(Webhook(webhook.key, model.webhook()["mappings"], webhook.security))
        self._credential = ClientSecretCredential(
            self._environment["AZURE_TENANT_ID"],
            self._environment["AZURE_CLIENT_ID"],
            self._environment["AZURE_CLIENT_SECRET"],
            authority=self._environment["AZURE_AUTHORITY_HOST"],
            connection_verify=self._environment["REQUESTS_CA_BUNDLE"],
            disable_instance_discovery=True,
        )
        self._graph = ResourceGraph(
            self._credential,
            self.clock,
            base_url=self._environment["AZURE_RESOURCE_MANAGER_URL"],
            credential_scopes=["https://management.azure.com/.default"],
            connection_verify=self._environment["REQUESTS_CA_BUNDLE"],
        )
        self.reader = AzureReader(self._graph, Scope())
        self._template = self._new_database()
        change = self._tenant()
        with closing(self._open(self._template)) as store, self.sink("webhook") as sink:
            self._sync(store, sink, Request())
            catalog = self.sandbox.port.catalog
            self._held = [entity for entities in catalog.entities.values() for entity in entities.values()]
            change()
            self.sandbox.clock.advance(TICK)
            self.change_set = self._decide(store)
        self.began = self.clock.now()

    def close(self) -> None:
        self._graph.close()
        self._credential.close()
        self.stranger.stop()
        self.sandbox.stop()

    def _tenant(self) -> Callable[[], None]:
        """Fill the tenant; what is returned changes it."""
        tenant = self.sandbox.tenant
        here, there = (tenant.add_subscription(name=name) for name in ("Here", "There"))
        groups = {
            name: tenant.add_group(subscription_id=here, name=name, location="westeurope")
            for name in ("web", "data", POISON, "old", "older")
        }
        sites = tenant.create_resources(
            items=[{"group_id": groups["web"], "type": "Microsoft.Web/sites", "name": f"site {n}"} for n in range(3)]
        )
        self.sandbox.clock.advance(timedelta(days=30))

        def change() -> None:
            for site in sites[:2]:
                tenant.delete_resource(resource_id=site)
            for name in ("old", "older"):
                tenant.delete_group(group_id=groups[name])
            for subscription in (here, there):
                tenant.retag_subscription(subscription_id=subscription, tags={"new": "yes"})
            for name in ("data", POISON):
                tenant.retag_group(group_id=groups[name], tags={"new": "yes"})
            tenant.create_resources(
                items=[{"group_id": groups["data"], "type": "Microsoft.Web/sites", "name": f"n{n}"} for n in range(5)]
            )

        return change

    def _decide(self, store: StateStore) -> ChangeSet:
        change_set, _ = decide_changes(
            self.reader,
            store,
            target=TARGET,
            run="second",
            snapshot=read_snapshot(self.reader).frame,
            request=Request(),
            change_window=TICK,
        )
        return change_set

    def _new_database(self) -> Path:
        self._stores += 1
        return self._folder / f"state-{self._stores}.sqlite"

    def _open(self, database: Path) -> StateStore:
        return StateStore(f"sqlite:///{database}", self.clock)

    def begin(self) -> StateStore:
        """The ledger as it was after the first sync, as Port and the clock are again."""
        self.sandbox.faults.clear()
        self.sandbox.clock.set(self.began)
        self.clock.slept.clear()
        self.sandbox.port.clear()
        self.sandbox.rest.clear()
        for one in self._held:
            self.sandbox.put_entity(one.blueprint, one.identifier, one.title, one.properties, one.relations)
        return self._open(Path(shutil.copy(self._template, self._new_database())))

    def fix(self, store: StateStore, name: str, report: DeliveryReport) -> None:
        """One more delivery without a fault; where it says that all is settled, of what is in quarantine."""
        self.sandbox.faults.clear()
        self.sandbox.clock.advance(TICK)
        with self.sink(name) as sink:
            if report.not_delivered:
                assert deliver_changes(self.change_set, sink, store, self.clock).not_delivered == 0
            else:
                self._sync(store, sink, Request(retry_quarantined=True))

    def _sync(self, store: StateStore, sink: Sink, request: Request) -> None:
        run = f"run at {self.clock.now()}"
        outcome = sync_once(self.reader, sink, store, self.clock, target=TARGET, run=run, request=request)
        assert outcome.report.not_delivered == 0

    def wrong(self) -> list[str]:
        """Where the catalog is not what it must be."""
        return self.sandbox.compare().sentences(shown=100)

    @contextmanager
    def sink(
        self,
        name: str,
        base_url: str | None = None,
        clock: SteppedClock | None = None,
        threads: int = THREADS,
        timeouts: Timeouts = TIMEOUTS,
    ) -> Iterator[Sink]:
        """A way into Port; at another address, and by another clock, where they are given."""
        variables = self.variables(name, base_url)
        clock = clock or self.clock
        if name == "api":
            credentials = (variables[one] for one in ("PORT_BASE_URL", "PORT_CLIENT_ID", "PORT_CLIENT_SECRET"))
            with closing(PortApi(*credentials, clock=clock, connections=threads, timeouts=timeouts)) as api:
                yield ApiSink(api, concurrency=threads, deadline=DEADLINE)
            return
        webhook = (WebhookBatchSink if name == "webhook_batch" else WebhookSink)(
            variables["PORT_WEBHOOK_INGEST_URL"],
            secret=variables["PORT_WEBHOOK_SECRET"],
            concurrency=threads,
            deadline=DEADLINE,
            clock=clock,
            timeouts=timeouts,
        )
        with closing(webhook):
            yield webhook

    def variables(self, name: str, base_url: str | None = None) -> dict[str, str]:
        """The environment with which the product delivers this way, with a state of its own."""
        url, port = self._environment["PORT_WEBHOOK_INGEST_URL"], self.sandbox.api_environment()
        address: dict[str, str] = {}
        if base_url:
            address = {"PORT_BASE_URL": base_url, "PORT_WEBHOOK_INGEST_URL": f"{base_url}{urlsplit(url).path}"}
        return {
            **self._environment,
            **(port if name == "api" else dict.fromkeys(port, "")),
            **address,
            "PORT_DELIVERY": name,
            "PORT_MAX_CONCURRENCY": str(THREADS),
            "PORT_DELIVERY_DEADLINE_MINUTES": str(matrix.MINUTES),
            "AZURE_PORT_SYNC_STATE_URL": f"sqlite:///{self._new_database()}",
        }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("matrix"))
    yield made
    made.close()


class Relay:
    """A port where nobody listens, until `listen` is called; then it leads to the sandbox."""

    def __init__(self, url: str) -> None:
        self._there = urlsplit(url).port or 0
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def listen(self) -> None:
        if not self._threads:
            self._listener.listen()
            self._do(self._accept)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()

    def _do(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._there))
                self._connections += [near, far]
                self._do(self._pump, near, far)
                self._do(self._pump, far, near)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)


class ListeningClock(SteppedClock):
    """A clock by whose first sleep somebody listens at last."""

    def __init__(self, scene: Scene, relay: Relay) -> None:
        super().__init__(scene.sandbox.clock)
        self._relay = relay

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self._relay.listen()


@contextmanager
def meeting(scene: Scene, kind: str, fault: str, name: str) -> Iterator[tuple[str | None, SteppedClock]]:
    """The fault in force for one sink; where the sink has to be sent to meet it, and with which clock."""
    if fault == "TLS failure":
        yield scene.stranger.azure_url, scene.clock
    elif fault == "connection refused":
        with closing(Relay(scene.sandbox.url)) as relay:
            yield relay.url, ListeningClock(scene, relay) if kind == "once" else scene.clock
    else:
        ordered = Fault(
            "port",
            path="/bulk" if name == "api" else "",  # what writes entities; the API has more
            in_body=POISON if kind == "poison" else "",
            times=1 if kind == "once" else None,
            **FAULTS[fault],
        )
        scene.sandbox.faults.add(ordered)
        yield None, scene.clock
        assert ordered.fired


def _cell(report: DeliveryReport) -> str:
    if report.not_delivered:
        return "fails: " + matrix.plain(str(report.error or report.summary))
    return "quarantined" if report.quarantined else "delivered"


@pytest.mark.parametrize(("kind", "fault", "name"), matrix.CELLS)
def test_a_fault_ends_as_the_table_says(
    scene: Scene, record_property: Callable[[str, object], None], kind: str, fault: str, name: str
) -> None:
    with closing(scene.begin()) as store:
        before = store.targets.load(TARGET).watermark
        # A drip moves the clock by which other answers, in flight beside it, would come too slowly as well.
        threads = 1 if fault == "slow drip" else THREADS
        timeouts = SHORT_TIMEOUTS if fault == "time-out" else TIMEOUTS
        with (
            meeting(scene, kind, fault, name) as (url, clock),
            scene.sink(name, url, clock, threads, timeouts) as sink,
        ):
            report = deliver_changes(scene.change_set, sink, store, clock, limits=LIMITS)
        passed = clock.now() - scene.began
        happened = _cell(report)
        record_property("matrix", (kind, fault, name, happened))

        assert happened == matrix.EXPECTED[kind, fault, name]
        fails = happened.startswith("fails")
        assert (store.targets.load(TARGET).watermark == before) == fails
        assert [fault in reason for reason in store.facts.quarantined(TARGET)["reason"]] == [True] * report.quarantined
        wrong = scene.wrong()
        assert report.quarantined == (happened == "quarantined")
        if happened == "delivered":
            assert wrong == []
        elif kind == "poison":
            assert all(POISON in one for one in wrong)
        elif not fails:
            assert len(wrong) == 1
        assert passed <= (WAITS if kind == "once" else DEADLINE + WAITS)
        if fails and not re.search("for .* minutes|kept failing", happened):
            assert clock.slept == []  # it stops at once

        if fails or report.quarantined:
            scene.fix(store, name, report)
            assert scene.wrong() == []
            assert store.targets.load(TARGET).watermark != before


# -- the job ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def job(scene: Scene) -> Iterator[Callable[[], dg.ExecuteInProcessResult]]:
    """Runs the job on an instance that is made once."""
    resolved = definitions(scene.clock).resolve_job_def("incremental_sync")
    with dg.DagsterInstance.ephemeral() as instance:
        yield lambda: resolved.execute_in_process(instance=instance, raise_on_error=False)


#: One fault for each way in which a delivery ends; the sentence of every fault is that of the cells above.
ENDS = [
    ("always", "401"),
    ("always", "503"),
    ("always", "connection refused"),
    ("always", "TLS failure"),
    ("poison", "500"),
]


@pytest.mark.parametrize("name", SINKS)
@pytest.mark.parametrize(("kind", "fault"), ENDS)
def test_a_run_fails_with_the_sentence_of_the_table(
    scene: Scene,
    job: Callable[[], dg.ExecuteInProcessResult],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    fault: str,
    name: str,
) -> None:
    scene.begin().close()
    with meeting(scene, kind, fault, name) as (base_url, _):
        for variable, value in scene.variables(name, base_url).items():
            monkeypatch.setenv(variable, value)
        failed = job()

    assert not failed.success
    sentence = matrix.EXPECTED[kind, fault, name].removeprefix("fails: ")
    assert sentence in matrix.plain(failed_checks(failed).get("deliveries_complete", failure(failed)))
