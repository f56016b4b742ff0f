"""A summary of the newest run for the page that GitHub shows of a job, because a runner has no Dagster UI.

It repeats what the run's own events say, and adds nothing. It needs no settings, and gets none.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from azure_port_sync.defs.failures import problems

_NUMBERS = (
    "subscriptions",
    "resource_groups",
    "resource_groups_in_scope",
    "records_read",
    "rows_read",
    "upserts",
    "deletes",
    "unchanged",
    "pending",
    "resent",
    "accepted",
    "refused",
    "failed",
    "not_sent",
    "in_quarantine",
    "seconds",
)
_TEXTS = ("mode", "mode_reason", "delivery", "delivery_reason", "next_step")
#: The metadata in which each asset of port_setup records what it changed.
_DIFF = "diff"


def report(instance: dg.DagsterInstance) -> str:
    """Return the newest run in Markdown."""
    runs = instance.get_runs(limit=1)
    if not runs:
        return "No run was started. The log of the job says why.\n"
    metadata: dict[str, Any] = {}
    for entry in instance.all_logs(runs[0].run_id):
        if entry.dagster_event is not None:
            metadata |= _metadata(entry.dagster_event)
    found = [
        f"**{problem.name}** ({'failed' if problem.stops else 'warning'}): {problem.sentence}"
        for problem in problems(instance, runs[0].run_id)
    ]
    return "\n\n".join([f"### {runs[0].job_name}: {runs[0].status.value.lower()}", *_parts(metadata, found)]) + "\n"


def _metadata(event: dg.DagsterEvent) -> dict[str, Any]:
    """Return the metadata of an asset; a dry run records it as an observation."""
    if event.event_type is dg.DagsterEventType.ASSET_MATERIALIZATION:
        metadata = event.step_materialization_data.materialization.metadata
    elif event.event_type is dg.DagsterEventType.ASSET_OBSERVATION:
        metadata = event.asset_observation_data.asset_observation.metadata
    else:
        return {}
    return {f"{event.step_key} {name}" if name == _DIFF else name: value.value for name, value in metadata.items()}


def _parts(metadata: Mapping[str, Any], found: Sequence[str]) -> Iterator[str]:
    yield from (f"{name}: {metadata[name]}" for name in _TEXTS if name in metadata)
    yield from (text for name, text in metadata.items() if name.endswith(f" {_DIFF}"))
    rows = [f"| {name} | {metadata[name]:,} |" for name in _NUMBERS if name in metadata]
    if rows:
        yield "\n".join(["| | |", "|---|---:|", *rows])
    if found:
        yield "\n".join(f"- {' '.join(sentence.split())}" for sentence in found)


def main() -> None:
    with dg.DagsterInstance.get() as instance, Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a") as page:
        page.write(report(instance))


if __name__ == "__main__":
    main()
