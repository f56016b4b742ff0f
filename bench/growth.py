"""Growth of Dagster's storage and ours with every tick, and what remains after the retention job.

Runs `incremental_sync` 96 times (one day, every quarter of an hour) on one Dagster instance, each time after a few
changes in the sandbox's tenant, and then `retention` with a clock that is 30 days ahead. Then it does all of this
again: what remains after retention must not have grown. The ticks of schedules and sensors, which a daemon writes and
Dagster deletes by itself, are not included.

    python -m bench.growth --ticks 96
"""

import argparse
import os
import sqlite3
import sys
import tempfile
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg

from azure_port_sync.core.clock import SystemClock
from azure_port_sync.definitions import definitions
from bench.sync import sandbox

_A_DAY, _A_YEAR = 96, 96 * 365
_CHANGES = 3
_PARTS = {
    "a database for each run (history/runs)": "history/runs/*",
    "events by asset (history/runs/index.db)": "history/runs/index.db*",
    "runs (history/runs.db)": "history/runs.db*",
    "compute logs (storage)": "storage/**/*",
    "values between assets (azure_port_sync/values)": "azure_port_sync/values/**/*",
    "watermark and ledger (azure_port_sync/state.sqlite)": "azure_port_sync/state.sqlite*",
}


class _Later(SystemClock):
    def now(self) -> datetime:
        return super().now() + timedelta(days=30)


def incremental() -> dg.JobDefinition:
    """Return the job to Dagster, which loads it again for each run."""
    return definitions(SystemClock()).resolve_job_def("incremental_sync")


def retention() -> dg.JobDefinition:
    """Return the job with a clock that is 30 days ahead."""
    return definitions(_Later()).resolve_job_def("retention")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=_A_DAY)
    ticks = parser.parse_args().ticks
    with tempfile.TemporaryDirectory() as folder, sandbox(Path(folder)) as client:
        home = Path(folder) / "home"
        home.mkdir()
        (home / "dagster.yaml").symlink_to(Path("dagster.yaml").resolve())
        os.environ.update(client.environment() | {"DAGSTER_HOME": str(home)})
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # Dagster's own log
        with dg.DagsterInstance.get() as instance:
            _run(incremental, instance)  # the first one is full
            before, rows_before = _sizes(home), _rows(home)
            for _ in range(ticks):
                for _ in range(_CHANGES):
                    client.drift()
                _run(incremental, instance)
            after, rows_after = _sizes(home), _rows(home)
            _run(retention, instance)
            kept, rows_kept = _sizes(home), _rows(home)
            for _ in range(ticks):
                client.drift()
                _run(incremental, instance)
            _run(retention, instance)
            rows_kept_again = _rows(home)
    print(f"{ticks} ticks with {_CHANGES} changes each, in bytes on disk")
    print(f"{'':52} {'per tick':>9} {'per day':>12} {'per year':>15} {'kept by retention':>18}")
    for part in (*_PARTS, "total"):
        each = (after[part] - before[part]) / ticks
        print(f"{part:52} {each:9,.0f} {each * _A_DAY:12,.0f} {each * _A_YEAR:15,.0f} {kept[part]:18,.0f}")
    rows = (rows_after - rows_before) / ticks
    print(f"{'rows':52} {rows:9,.0f} {rows * _A_DAY:12,.0f} {rows * _A_YEAR:15,.0f} {rows_kept:18,.0f}")
    print(f"rows after another {ticks} ticks and another retention: {rows_kept_again:,}")


def _run(job: object, instance: dg.DagsterInstance) -> None:
    with dg.execute_job(dg.reconstructable(job), instance=instance) as result:  # type: ignore[arg-type]
        if not result.success:
            sys.exit("a run failed")


def _sizes(home: Path) -> dict[str, int]:
    found = {part: {file for file in home.glob(which) if file.is_file()} for part, which in _PARTS.items()}
    found[next(iter(_PARTS))] -= found["events by asset (history/runs/index.db)"]
    sizes = {part: sum(file.stat().st_blocks * 512 for file in files) for part, files in found.items()}
    return {**sizes, "total": sum(sizes.values())}


def _rows(home: Path) -> int:
    """Return the number of rows in all tables of Dagster's databases."""
    total = 0
    for file in (home / "history").rglob("*.db"):
        with closing(sqlite3.connect(file)) as connection:
            for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                total += connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608
    return total


if __name__ == "__main__":
    main()
