"""Fixtures for all tests: a sandbox that answers over HTTP, and the product's clients wired to it on one clock."""

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from azure.identity import ClientSecretCredential
from hypothesis import HealthCheck, settings

from azure_port_sync.core.scope import Scope
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.sinks.webhook import WebhookSink
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.clocks import NOW, SteppedClock

if TYPE_CHECKING:
    from azure_port_sync_tests.support.operator import Operator
    from azure_port_sync_tests.support.station import Station

#: Nothing is timed: two loaded cores must not turn a slow example into a failure.
_UNTIMED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
settings.register_profile("quick", settings(_UNTIMED, max_examples=10))
settings.register_profile("fast", settings(_UNTIMED, max_examples=60))
settings.register_profile("thorough", settings(_UNTIMED, max_examples=1000))
settings.register_profile("soak", settings(_UNTIMED, max_examples=int(os.environ.get("SOAK_HISTORIES", "5000"))))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# The libraries alone are a million objects that never die: Python's own thresholds spend an eighth of all time on them.
gc.set_threshold(100_000, 50, 100)

ReaderOf = Callable[..., AzureReader]
SinkOf = Callable[..., WebhookSink]

# Fixtures import Dagster, and what imports it, only when they are used: most tests do without it.


# -- the session -----------------------------------------------------------------------------------------------------


def _recorded(terminalreporter: pytest.TerminalReporter, name: str) -> list[Any]:
    """Return what tests have recorded under this name."""
    return [
        what
        for reports in terminalreporter.stats.values()
        for report in reports
        for given, what in getattr(report, "user_properties", ())
        if given == name and report.when == "call"
    ]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report what the random histories did, with the seeds that would draw them again; write the fault matrix."""
    if page := os.environ.get("FAULT_MATRIX"):
        from azure_port_sync_tests.support.matrix import rendered

        happened = {(kind, fault, sink): cell for kind, fault, sink, cell in _recorded(terminalreporter, "matrix")}
        Path(page).write_text(rendered(happened), encoding="utf-8")
    tallies = _recorded(terminalreporter, "soak")
    if not tallies:
        return
    terminalreporter.section("random histories")
    total: Counter[str] = Counter()
    for one in tallies:
        seed, name, longest = one.pop("seed"), one.pop("name"), one.pop("longest")
        terminalreporter.write_line(f"{name}: {one['histories']:,} histories (seed {seed})")
        total.update(one)
        total["longest"] = max(total["longest"], longest)
    terminalreporter.write_line("in all: " + ", ".join(f"{what} {number:,}" for what, number in total.items()))


def pytest_xdist_auto_num_workers() -> int:
    """Return one more than there are cores: the tests of real processes mostly wait for them."""
    return (os.cpu_count() or 1) + 1


@sa.event.listens_for(sa.Engine, "connect")
def _without_fsync(connection: Any, _record: object) -> None:
    """No test pulls the plug of the machine, and the disk would be half of the time."""
    if type(connection).__module__ == "sqlite3":
        connection.execute("PRAGMA synchronous=OFF")


# -- the sandbox -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[Sandbox]:
    """The sandbox of this worker: starting one for each test would take longer than most tests do."""
    with Sandbox(estate=False) as running:
        yield running


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Sandbox:
    """An empty Azure and an empty Port, their clock frozen at NOW."""
    shared_sandbox.reset(NOW)
    return shared_sandbox


@pytest.fixture(scope="session")
def shared_empty_sandbox() -> Iterator[Sandbox]:
    with Sandbox(estate=False, guide=False) as running:
        yield running


@pytest.fixture
def empty(shared_empty_sandbox: Sandbox) -> Sandbox:
    """An account of Port without the guide's blueprints and webhook, beside an empty Azure."""
    shared_empty_sandbox.reset(NOW)
    return shared_empty_sandbox


@pytest.fixture
def seeded() -> Iterator[Sandbox]:
    """A sandbox with its estate, on the machine's own clock."""
    with Sandbox() as running:
        yield running


@pytest.fixture(scope="session")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Station"]:
    """A sandbox for the worlds of random histories, one after the other."""
    from azure_port_sync_tests.support.station import Station

    made = Station(tmp_path_factory.mktemp("worlds"))
    yield made
    made.close()


@pytest.fixture
def clock(sandbox: Sandbox) -> SteppedClock:
    return SteppedClock(sandbox.clock)


@pytest.fixture
def estate(sandbox: Sandbox) -> dict[str, str]:
    """Two subscriptions with three groups and four resources; ids by short names. Older than any change record."""
    from azure_port_sync_tests.support.operator import small_estate

    return small_estate(sandbox)


# -- the product -----------------------------------------------------------------------------------------------------


@pytest.fixture
def reader_of(sandbox: Sandbox, clock: SteppedClock) -> Iterator[ReaderOf]:
    """Makes readers of the sandbox: `reader_of(scope, batch_size=...)`; further options go to `ResourceGraph`."""
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

        def make(scope: Scope | None = None, *, batch_size: int = 1000, **options: Any) -> AzureReader:
            graph = ResourceGraph(
                credential,
                clock,
                base_url=environment["AZURE_RESOURCE_MANAGER_URL"],
                credential_scopes=["https://management.azure.com/.default"],
                connection_verify=verify,
                **options,
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
def sink_of(sandbox: Sandbox, clock: SteppedClock) -> Iterator[SinkOf]:
    """Makes sinks of a kind: one for each process, because after a delivery was killed its own sends nothing more."""
    environment = sandbox.environment()
    opened = []

    def make(kind: type[WebhookSink] = WebhookSink) -> WebhookSink:
        webhook = kind(
            environment["PORT_WEBHOOK_INGEST_URL"],
            secret=environment["PORT_WEBHOOK_SECRET"],
            concurrency=4,
            deadline=timedelta(minutes=10),
            clock=clock,
        )
        opened.append(webhook)
        return webhook

    yield make
    for webhook in opened:
        webhook.close()


@pytest.fixture
def sink(sink_of: SinkOf) -> WebhookSink:
    """Delivers to the sandbox's webhook, signed, with four requests in flight."""
    return sink_of()


@pytest.fixture
def api(sandbox: Sandbox, clock: SteppedClock) -> Iterator[PortApi]:
    """Port's REST API, with credentials of an admin."""
    settings = sandbox.api_environment()
    opened = PortApi(
        settings["PORT_BASE_URL"],
        settings["PORT_CLIENT_ID"],
        settings["PORT_CLIENT_SECRET"],
        clock=clock,
        connections=4,
    )
    yield opened
    opened.close()


@pytest.fixture
def store(tmp_path: Path, clock: SteppedClock) -> Iterator[StateStore]:
    """An empty state store."""
    opened = StateStore(f"sqlite:///{tmp_path / 'state.sqlite'}", clock)
    yield opened
    opened.close()


@pytest.fixture
def operator(
    sandbox: Sandbox, clock: SteppedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator["Operator"]:
    """Runs the jobs in this process, on a Dagster instance without a disk."""
    import dagster as dg

    from azure_port_sync_tests.support.operator import Operator

    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_PORT_SYNC_STATE_URL", f"sqlite:///{tmp_path / 'state.sqlite'}")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Operator(sandbox, instance, clock)


@pytest.fixture
def credentials(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the jobs credentials of Port's API."""
    for name, value in sandbox.api_environment().items():
        monkeypatch.setenv(name, value)
