"""Duration, memory and requests to Azure of a first sync, an idle tick and an unchanged full sync, as whole processes.

Runs the jobs as an operator would, with `dagster job execute`, against a sandbox in another process: `incremental_sync`
once over a tenant of N resources, with an empty catalog, then a few times with nothing to do, then `full_sync`.

    python -m bench.sync --resources 20000
    python -m bench.sync --resources 0 --subscriptions 3000 --groups 3000 --idle-runs 3
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from azure_port_sync.sandbox.client import SandboxClient

_EXECUTE = [sys.executable, "-m", "dagster", "job", "execute", "-m", "azure_port_sync.definitions", "-j"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resources", type=int, default=20_000)
    parser.add_argument("--subscriptions", type=int, default=0, help="in addition to those of the sandbox's tenant")
    parser.add_argument("--groups", type=int, default=0, help="spread over these subscriptions")
    parser.add_argument("--idle-runs", type=int, default=5)
    parser.add_argument("--delivery", choices=("webhook", "webhook_batch", "api"), default="webhook")
    parser.add_argument("--no-quota", action="store_true", help="lift Resource Graph's 15 requests in 5 seconds")
    parser.add_argument("--count-only", action="store_true", help="the sandbox's Port counts events and maps none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sandbox(Path(folder)) as client:
        client.tenant("grow", resources=options.resources, subscriptions=options.subscriptions, groups=options.groups)
        client.count_only(options.count_only)
        if options.no_quota:
            client.quota(None)
        counts = client.state()["tenant"]
        entities = counts["subscriptions"] + counts["groups"] + counts["resources"]
        environment = {**os.environ, **client.environment(), "DAGSTER_HOME": folder, "PYTHONWARNINGS": "ignore"}
        if options.delivery != "webhook":
            _run("port_setup", {**environment, **client.api_environment()}, folder)  # a mapping that takes batches
        if options.delivery == "api":
            environment |= client.api_environment()
        environment["PORT_DELIVERY"] = options.delivery
        print(
            f"{counts['subscriptions']:,} subscriptions, {counts['groups']:,} groups, {counts['resources']:,} resources"
        )

        def run(job: str) -> tuple[float, float, int]:
            before = client.state()["azure"]["requests"]
            seconds, megabytes = _run(job, environment, folder)
            return seconds, megabytes, client.state()["azure"]["requests"] - before

        seconds, megabytes, requests = run("incremental_sync")
        rate = entities / seconds
        print(
            f"first sync of {entities:,} entities: {seconds:.1f} s, {rate:,.0f} entities/s, {megabytes:,.0f} MB, "
            f"{requests} requests to Azure"
        )
        idle = [run("incremental_sync") for _ in range(options.idle_runs)]
        times = sorted(seconds for seconds, _, _ in idle)
        print(
            f"idle tick, {len(idle)} runs: median {median(times):.2f} s (min {times[0]:.2f}, max {times[-1]:.2f}), "
            f"{max(megabytes for _, megabytes, _ in idle):,.0f} MB, {idle[-1][2]} requests to Azure"
        )
        seconds, megabytes, requests = run("full_sync")
        print(
            f"full sync with nothing changed: {seconds:.1f} s, {megabytes:,.0f} MB, {requests} requests to Azure "
            "(a seventh of the catalog is resent)"
        )
        if not options.count_only and not client.comparison()["equal"]:
            sys.exit("the catalog differs from the tenant")


def _run(job: str, environment: dict[str, str], folder: str) -> tuple[float, float]:
    """Return the seconds of the whole process and its peak resident megabytes, for one run."""
    started = time.monotonic()
    process = subprocess.Popen(
        [*_EXECUTE, job], cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("a run failed")
    return time.monotonic() - started, usage.ru_maxrss / 1024


@contextmanager
def sandbox(folder: Path) -> Iterator[SandboxClient]:
    """Start a sandbox in a process of its own."""
    command = [sys.executable, "-m", "azure_port_sync.sandbox", "--folder", str(folder), "--stop-with-stdin"]
    announcement = folder / "sandbox.json"
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        while not announcement.exists():
            if process.poll() is not None:
                sys.exit("the sandbox did not start")
            time.sleep(0.1)
        with SandboxClient(json.loads(announcement.read_text())["url"]) as client:
            yield client
        process.terminate()


if __name__ == "__main__":
    main()
