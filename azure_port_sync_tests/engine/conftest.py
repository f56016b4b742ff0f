"""Fixtures for the engine's tests: scenarios of a small tenant."""

from collections.abc import Iterator

import pytest

from azure_port_sync.port.api import PortApi
from azure_port_sync.port.sinks.webhook import WebhookSink
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync_tests.conftest import ReaderOf
from azure_port_sync_tests.support.clocks import SteppedClock
from azure_port_sync_tests.support.scenario import Scenario


@pytest.fixture
def world(sandbox: Sandbox, clock: SteppedClock, sink: WebhookSink, store: StateStore, reader_of: ReaderOf) -> Scenario:
    return Scenario(sandbox, clock, sink, store, reader_of)


@pytest.fixture
def two(world: Scenario) -> Scenario:
    """A scenario with a second subscription, "Other", that has one group and one resource."""
    world.begin()
    world.other = world.tenant.add_subscription("Other")
    group = world.tenant.add_group(world.other, "far", "westeurope")
    world.far = world.tenant.create_resource(group, "microsoft.web/sites", "z")
    world.tick()
    return world


@pytest.fixture
def crowd(world: Scenario) -> Scenario:
    """A scenario of 24 entities, whose guard begins at 5 deletions."""
    world.min_guarded_deletes = 5
    world.begin()
    world.crowd = world.tenant.add_group(world.subscription, "crowd", "westeurope")
    world.tenant.create_resources(
        [{"group_id": world.crowd, "type": "microsoft.web/sites", "name": f"s{n}"} for n in range(19)]
    )
    world.tick()
    assert world.store.targets.load("t").ledger_rows == 24
    return world


@pytest.fixture
def api(sandbox: Sandbox, clock: SteppedClock) -> Iterator[PortApi]:
    """Asks the sandbox's Port what it holds."""
    settings = sandbox.api_environment()
    opened = PortApi(settings["PORT_BASE_URL"], settings["PORT_CLIENT_ID"], settings["PORT_CLIENT_SECRET"], clock=clock)
    yield opened
    opened.close()
