"""Throughput of each way into Port, in entities per second, compared with a plain loop of one POST per event.

All of them send the same upserts to a sandbox in another process, which counts events and maps none: the plain loop (25
requests in flight, nothing recorded, nothing retried, as in the guide's script), and our delivery through each sink,
with its ledger on SQLite. They run one after the other, each in a process of its own, so that their memory peaks can be
compared. What the API has to reach is Port's own limit: 35,000 bulk requests of 20 entities
in 5 minutes, 2,333 entities/s.

    python -m bench.delivery --upserts 20000
    python -m bench.delivery --upserts 200000
"""

import argparse
import hashlib
import hmac
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import requests
from requests.adapters import HTTPAdapter

from azure_port_sync.core.clock import SystemClock
from azure_port_sync.core.entities import observed_row
from azure_port_sync.core.guard import Guard
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.rows import CHANGE_SET, ChangeSetRow, change_set_rows, concat, frame_of
from azure_port_sync.core.windows import Window
from azure_port_sync.engine.decide import ChangeSet
from azure_port_sync.engine.run import deliver_changes
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.events import event_body
from azure_port_sync.port.sinks import Sink
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import SIGNATURE_HEADER, SIGNATURE_PREFIX, WebhookBatchSink, WebhookSink
from azure_port_sync.sandbox.client import SandboxClient
from azure_port_sync.state import StateStore
from bench.sync import sandbox

_IN_FLIGHT = 25
_AT_ONCE = 10_000
_WAYS = ("plain loop", "webhook", "webhook_batch", "api")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upserts", type=int, default=20_000)
    parser.add_argument("--way", choices=_WAYS, help=argparse.SUPPRESS)  # in the process of one way
    options = parser.parse_args()
    if options.way:
        _deliver(options.way, options.upserts)
        return
    row = change_set_rows(_change_set(1))[0]
    size = len(event_body(row.operation, row.kind, row.data))
    print(f"{options.upserts:,} upserts of resources, {size:,} bytes per event")
    plain = 0.0
    for way in _WAYS:
        with tempfile.TemporaryDirectory() as folder, sandbox(Path(folder)) as client:
            client.count_only()
            client.throttle_api(limit=10**9, window_seconds=300)
            environment = {**os.environ, **client.environment(), **client.api_environment(), "BENCH_FOLDER": folder}
            command = [sys.executable, "-m", "bench.delivery", "--way", way, "--upserts", str(options.upserts)]
            figures = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
            _check(client, way, options.upserts)
        rate = options.upserts / figures["seconds"]
        plain = plain or rate
        print(
            f"{way:>13}: {figures['seconds']:7.2f} s, {rate:8,.0f} entities/s, {rate / plain:5.1f} times the plain "
            f"loop, {figures['requests']:,} requests, {figures['megabytes']:,.0f} MB peak"
        )


def _check(client: SandboxClient, way: str, upserts: int) -> None:
    state = client.state()
    arrived = state["port_api_items"].get("upserted", 0) if way == "api" else state["port"]["items"]
    if arrived != upserts:
        sys.exit(f"{way}: {arrived:,} of {upserts:,} arrived")


def _deliver(way: str, number: int) -> None:
    """Measure one way in this process, and print the result as JSON."""
    change_set = _change_set(number)
    if way == "plain loop":
        seconds, sent = _plain_loop(change_set)
    else:
        seconds, sent = _our_delivery(way, change_set)
    with Path("/proc/self/status").open() as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "requests": sent, "megabytes": int(peak.split()[1]) / 1024}))


def _plain_loop(change_set: pd.DataFrame) -> tuple[float, int]:
    session = requests.Session()
    session.mount("http://", HTTPAdapter(pool_maxsize=_IN_FLIGHT))
    url, secret = os.environ["PORT_WEBHOOK_INGEST_URL"], os.environ["PORT_WEBHOOK_SECRET"].encode()

    def send(row: ChangeSetRow) -> None:
        body = event_body(row.operation, row.kind, row.data)
        signature = SIGNATURE_PREFIX + hmac.new(secret, body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", SIGNATURE_HEADER: signature}
        session.post(url, data=body, headers=headers, timeout=60).raise_for_status()

    rows = change_set_rows(change_set)
    started = time.monotonic()
    with ThreadPoolExecutor(_IN_FLIGHT) as pool:
        for _ in pool.map(send, rows):
            pass
    return time.monotonic() - started, len(rows)


def _our_delivery(way: str, change_set: pd.DataFrame) -> tuple[float, int]:
    clock = SystemClock()
    store = StateStore(f"sqlite:///{os.environ['BENCH_FOLDER']}/state.sqlite", clock)
    sink = _sink(way, clock)
    window = Window(clock.now() - timedelta(days=1), clock.now())
    state = store.targets.load("bench")
    plan = Plan("bench", "run", Request(Mode.FULL), Mode.FULL, (), window, "", None, state.generation, 0)
    started = time.monotonic()
    report = deliver_changes(ChangeSet(change_set, plan, Guard(deletes=0, known=0)), sink, store, clock)
    seconds = time.monotonic() - started
    sink.close()
    if report.not_delivered:
        sys.exit(f"{way}: {report.error}")
    return seconds, sink.flow.requests


def _sink(way: str, clock: SystemClock) -> Sink:
    flow: dict[str, Any] = {"concurrency": 10, "deadline": timedelta(minutes=10)}
    given = os.environ
    if way == "api":
        address, client_id = given["PORT_BASE_URL"], given["PORT_CLIENT_ID"]
        return ApiSink(PortApi(address, client_id, given["PORT_CLIENT_SECRET"], clock=clock, connections=10), **flow)
    kind = WebhookBatchSink if way == "webhook_batch" else WebhookSink
    return kind(given["PORT_WEBHOOK_INGEST_URL"], secret=given["PORT_WEBHOOK_SECRET"], clock=clock, **flow)


def _change_set(number: int) -> pd.DataFrame:
    parts = [
        frame_of([_row(n) for n in range(start, min(start + _AT_ONCE, number))], CHANGE_SET)
        for start in range(0, number, _AT_ONCE)
    ]
    return concat(parts, CHANGE_SET).sort_values("identifier", ignore_index=True)  # as a run lays it out


def _row(number: int) -> dict[str, Any]:
    group = f"/subscriptions/00000000-0000-4000-8000-000000000000/resourceGroups/group-{number % 500:03d}"
    row = {
        "id": f"{group}/providers/Microsoft.Compute/virtualMachines/vm-{number:07d}",
        "name": f"vm-{number:07d}",
        "type": "microsoft.compute/virtualmachines",
        "location": "westeurope",
        "tags": {"environment": "production", "team": f"team-{number % 40}", "cost-center": "4711"},
        "rgTags": {"environment": "production"},
        "inScope": True,
    }
    return {**observed_row(row), "operation": "upsert"}


if __name__ == "__main__":
    main()
