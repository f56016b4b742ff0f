"""Fixtures for all tests: the sandbox over real HTTP, and the product's clients wired to it on one clock."""

import os
import socket
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from azure.identity import ClientSecretCredential
from hypothesis import HealthCheck, settings

from azure_port_sync.core.clock import SystemClock
from azure_port_sync.core.scope import Scope
from azure_port_sync.port.sinks.webhook import WebhookSink
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore

if TYPE_CHECKING:
    from azure_port_sync_tests.support.worlds import Station

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)

#: Nothing is timed: two loaded cores must not turn a slow example into a failure.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.register_profile("fast", settings(_UNTIMED, max_examples=60))
settings.register_profile("thorough", settings(_UNTIMED, max_examples=1000))
settings.register_profile("soak", settings(_UNTIMED, max_examples=int(os.environ.get("SOAK_HISTORIES", "5000"))))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

ReaderOf = Callable[..., AzureReader]


def _told(terminalreporter: pytest.TerminalReporter, name: str) -> list[Any]:
    """What tests have recorded under this name."""
    return [
        what
        for reports in terminalreporter.stats.values()
        for report in reports
        for given, what in getattr(report, "user_properties", ())
        if given == name and report.when == "call"
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the random histories did, with the seeds that would draw them again; the page of the fault matrix."""
    if page := os.environ.get("FAULT_MATRIX"):
        from azure_port_sync_tests.support.matrix import rendered

        happened = {(kind, fault, sink): cell for kind, fault, sink, cell in _told(terminalreporter, "matrix")}
        Path(page).write_text(rendered(happened), encoding="utf-8")
    told = _told(terminalreporter, "soak")
    if not told:
        return
    terminalreporter.section("random histories")
    total: Counter[str] = Counter()
    for one in told:
        seed, name, longest = one.pop("seed"), one.pop("name"), one.pop("longest")
        terminalreporter.write_line(f"{name}: {one['histories']:,} histories (seed {seed})")
        total.update(one)
        total["longest"] = max(total["longest"], longest)
    terminalreporter.write_line("in all: " + ", ".join(f"{what} {number:,}" for what, number in total.items()))


class SteppedClock:
    """The sandbox's clock as the product's: sleeping moves it, so that no test waits."""

    def __init__(self, clock: SandboxClock) -> None:
        self._clock = clock
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self._clock.advance(timedelta(seconds=seconds))


class Later(SystemClock):
    """The machine's clock, ahead of itself: by it, what Dagster has stamped is old."""

    def __init__(self, by: timedelta) -> None:
        self._by = by

    def now(self) -> datetime:
        return super().now() + self._by


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: the tests of real processes mostly wait for them."""
    return (os.cpu_count() or 1) + 1


@sa.event.listens_for(sa.Engine, "connect")
def _without_fsync(connection: Any, _record: object) -> None:
    """No test pulls the plug of the machine, and the disk would be half of the time."""
    if type(connection).__module__ == "sqlite3":
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(scope="session")
def in_background() -> Iterator[Executor]:
    """Takes the work that no test needs to wait for; it is done when the session ends."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Station"]:
    """A sandbox for the worlds of random histories, one after the other."""
    from azure_port_sync_tests.support.worlds import Station  # which imports this module

    made = Station(tmp_path_factory.mktemp("worlds"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def _servers() -> Iterator[Sandbox]:
    """The one sandbox of this process, for one test after the other: two servers take half a second to stop."""
    with Sandbox(estate=False) as running:
        yield running


@pytest.fixture
def sandbox(_servers: Sandbox) -> Sandbox:
    """An empty Azure and an empty Port, their clock frozen at NOW."""
    _servers.reset(NOW)
    return _servers


@pytest.fixture
def clock(sandbox: Sandbox) -> SteppedClock:
    return SteppedClock(sandbox.clock)


@pytest.fixture
def reader_of(sandbox: Sandbox, clock: SteppedClock) -> Iterator[ReaderOf]:
    """Makes readers of the sandbox: `reader_of(scope, batch_size=...)`."""
    made: list[ResourceGraph] = []
    environment = sandbox.environment()
    verify = environment["REQUESTS_CA_BUNDLE"]
    with ClientSecretCredential(
        environment["AZURE_TENANT_ID"],
        environment["AZURE_CLIENT_ID"],
        environment["AZURE_CLIENT_SECRET"],
        authority=environment["AZURE_AUTHORITY_HOST"],
        connection_verify=verify,
        disable_instance_discovery=True,
    ) as credential:

        def make(scope: Scope | None = None, *, batch_size: int = 1000) -> AzureReader:
            graph = ResourceGraph(
                credential,
                clock,
                base_url=environment["AZURE_RESOURCE_MANAGER_URL"],
                credential_scopes=["https://management.azure.com/.default"],
                connection_verify=verify,
            )
            made.append(graph)
            return AzureReader(graph, scope or Scope(), batch_size=batch_size)

        yield make
        for graph in made:
            graph.close()


@pytest.fixture
def reader(reader_of: ReaderOf) -> AzureReader:
    """Reads everything in the sandbox's tenant."""
    return reader_of()


@pytest.fixture
def sink(sandbox: Sandbox, clock: SteppedClock) -> Iterator[WebhookSink]:
    """Delivers to the sandbox's webhook, signed, with four requests in flight."""
    environment = sandbox.environment()
    webhook = WebhookSink(
        environment["PORT_WEBHOOK_INGEST_URL"],
        secret=environment["PORT_WEBHOOK_SECRET"],
        concurrency=4,
        deadline=timedelta(minutes=10),
        clock=clock,
    )
    yield webhook
    webhook.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    """An empty state store."""
    opened = StateStore(f"sqlite:///{tmp_path / 'state.sqlite'}")
    yield opened
    opened.close()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it was raised from or while handling, suppressed or not."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shows_none_of(error: BaseException, *secrets: str) -> None:
    """Neither what a traceback prints, nor what a tool that walks the chain would find."""
    printed = "".join(traceback.format_exception(error))
    walked = " ".join(f"{one!r} {one}" for one in _chain(error))
    for secret in secrets:
        assert secret not in printed
        assert secret not in walked


@contextmanager
def speaking(answer: bytes) -> Iterator[str]:
    """The base URL of a server that gives these bytes to every request and closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
