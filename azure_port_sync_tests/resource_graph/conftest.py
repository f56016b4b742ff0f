"""One sandbox for each module of tests: two servers take longer to start and stop than most of these tests."""

from collections.abc import Iterator
from concurrent.futures import Executor

import pytest

from azure_port_sync.sandbox.azure import QUOTA
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.clocks import NOW


@pytest.fixture(scope="module")
def shared_sandbox(in_background: Executor) -> Iterator[Sandbox]:
    running = Sandbox(estate=False).start()
    yield running
    in_background.submit(running.stop)


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Sandbox:
    """An empty Azure, its clock frozen at NOW."""
    shared_sandbox.reset(NOW)
    shared_sandbox.graph.quota.limit, shared_sandbox.graph.quota.retry_after = QUOTA, True
    return shared_sandbox
