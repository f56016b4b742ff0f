"""The code location: everything that Dagster is told about, in one screen."""

import dagster as dg

from azure_port_sync.core.clock import Clock, SystemClock
from azure_port_sync.defs import (
    alerts,
    assets,  # was upkeep
    jobs,
    port_setup,
    retention,
)
from azure_port_sync.defs.io_manager import RunValues
from azure_port_sync.defs.resources import AzureResource, PortResource, StateResource


def definitions(clock: Clock) -> dg.Definitions:
    """All definitions, on one clock."""
    return dg.Definitions(
        assets=[
            assets.azure_snapshot,
            assets.azure_change_set,
            assets.port_deliveries,
            port_setup.port_blueprints,
            port_setup.port_webhook,
        ],
        jobs=[jobs.incremental_sync, jobs.full_sync, jobs.port_setup, retention.retention],
        schedules=[
            jobs.incremental_sync_schedule,
            jobs.full_sync_schedule,
            retention.retention_schedule,
        ],
        sensors=[alerts.sync_alerts],
        resources={
            "azure": AzureResource(clock=clock),
            "port": PortResource(clock=clock),
            "state": StateResource(clock=clock),
            "clock": clock,
            "io_manager": RunValues(),
        },
        # Steps take seconds and share clients: a process each would only cost time. Also for the Materialize button.
        executor=dg.in_process_executor,
    )


defs = definitions(SystemClock())
