"""A sandbox that was reset is as new: the tests of a worker share one, and none may notice what another one did."""

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import requests

from azure_port_sync.sandbox.client import SandboxClient
from azure_port_sync.sandbox.estate import play, seed
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import Webhook
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.clocks import NOW

#: What outlives a reset: tokens that were given out stay valid, versions and caches only say that something changed,
#: and a frozen clock does not look at its shift.
_KEPT = {"version", "_tokens", "_expiry", "_ordered", "_shift"}


def _values(what: Any, path: str = "", seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, object]]:
    """Yield all plain values that are reachable from an object of the sandbox's, by their paths."""
    if isinstance(what, random.Random):
        yield path, what.getstate()
    elif isinstance(what, dict):
        yield path, sorted(map(str, what))
        for key, value in what.items():
            yield from _values(value, f"{path}[{key!r}]", seen)
    elif isinstance(what, list | tuple | set | deque):
        yield path, len(what)
        for number, value in enumerate(what):
            yield from _values(value, f"{path}[{number}]", seen)
    elif what.__class__.__module__.startswith("azure_port_sync.sandbox"):
        if id(what) not in seen:
            for name in getattr(what, "__dict__", {}).keys() - _KEPT:
                yield from _values(vars(what)[name], f"{path}.{name}", seen | {id(what)})
    elif isinstance(what, str | int | float | timedelta) or what.__class__.__module__ == "datetime" or what is None:
        yield path, what


def _use(sandbox: Sandbox) -> None:
    """Leave traces wherever a test can."""
    seed(sandbox.tenant)
    play(sandbox.tenant)
    sandbox.tenant.set_delays(record_delay=[1, 2], row_delay=[1, 2], linger=[1, 2])
    subscription = sandbox.tenant.add_subscription("Lost")
    sandbox.tenant.lose_subscription(subscription_id=subscription)
    sandbox.rng.random()
    sandbox.graph.quota.take()
    requests.post(sandbox.environment()["PORT_WEBHOOK_INGEST_URL"], json={"unsigned": True}, timeout=10)
    webhook = next(iter(sandbox.port.webhooks.values()))
    sandbox.port.add_webhook(replace(webhook, enabled=False))
    sandbox.port.add_webhook(Webhook("another", []))
    sandbox.put_entity("azureSubscription", "by-hand")
    with SandboxClient(sandbox.url) as control:
        control.fault(Fault("azure", times=None))
        control.fault(Fault("port", status=400, times=None))
        control.count_only()
        control.throttle(1, 60)
        control.throttle_api(1, 60)
        control.quota(1, retry_after=False)
        control.tenant("add_twin", row_id=sandbox.tenant.resources()[0]["id"])
        control.churn(seconds=0.5)
        control.resume_clock()
        control.advance_clock(1000)
    sandbox.graph.before_answer()


def test_nothing_of_a_test_is_left_after_a_reset(sandbox: Sandbox) -> None:
    before = dict(_values(sandbox))
    assert len(before) > 200
    _use(sandbox)
    used = dict(_values(sandbox))
    for changed in (".graph.quota.limit", ".graph.quota.retry_after", ".port.count_only", ".churn.changes"):
        assert used[changed] != before[changed]

    sandbox.reset(NOW)

    after = dict(_values(sandbox))
    assert {path: after.get(path) for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == {}
