"""The newest run as `make run` prints it, read from what the run recorded: in figures, or why it failed."""

import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from azure_port_sync.defs.failures import reason


def newest_run() -> str:
    """Return a few lines about the newest sync of the instance in DAGSTER_HOME."""
    with dg.DagsterInstance.get() as instance:
        return _summary(_recorded(instance, "azure_change_set"), _recorded(instance, "port_deliveries"))


def failed_run(run_id: str) -> str:
    """Return why a run failed, in the instance in DAGSTER_HOME."""
    with dg.DagsterInstance.get() as instance:
        return f"The sync failed. {reason(instance, run_id)}"


def _summary(changes: Mapping[str, Any], deliveries: Mapping[str, Any]) -> str:
    """Return a few lines about a run, from the metadata of its change set and of its deliveries."""
    window = f"{_time(changes['window_start'])} to {_time(changes['window_end'])} UTC"
    rows = changes["rows_read"] - changes["records_read"]
    lines = (
        ("window", f"{window} ({changes['window_minutes']:,} minutes)"),
        ("mode", f"{changes['mode']}: {changes['mode_reason']}"),
        ("subscriptions", f"{changes['subscriptions']:,}"),
        ("groups", f"{changes['resource_groups']:,}, of which {changes['resource_groups_in_scope']:,} are in scope"),
        ("read", f"{changes['records_read']:,} change records, {rows:,} rows"),
        (
            "decided",
            f"{changes['upserts']:,} upserts, {changes['deletes']:,} deletes, {changes['unchanged']:,} unchanged",
        ),
        ("Port accepted", f"{deliveries['accepted']:,} in {deliveries['seconds']:,} s"),
    )
    return "\n".join(f"  {label:<14}{text}" for label, text in lines)


def _recorded(instance: dg.DagsterInstance, asset: str) -> Mapping[str, Any]:
    """Return the metadata of an asset's newest materialization."""
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    if event is None or event.asset_materialization is None:
        raise LookupError(f"{asset} was never materialized in this Dagster instance")
    return {name: entry.value for name, entry in event.asset_materialization.metadata.items()}


def _time(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(timestamp))
