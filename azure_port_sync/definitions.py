"""The code location: everything that Dagster is told about, in one screen."""

import dagster as dg

from azure_port_sync import alerts, assets, automation, setup_assets, upkeep
from azure_port_sync.resources import AzureResource, PortResource, StateResource
from azure_port_sync.storage import RunValues
from azure_port_sync.sync.clock import Clock, SystemClock


def definitions(clock: Clock) -> dg.Definitions:
    """All definitions, on one clock."""
    return dg.Definitions(
        assets=[
            assets.azure_snapshot,
            assets.azure_change_set,
            assets.port_deliveries,
            setup_assets.port_blueprints,
            setup_assets.port_webhook,
        ],
        jobs=[automation.incremental_sync, automation.full_sync, automation.port_setup, upkeep.retention],
        schedules=[
            automation.incremental_sync_schedule,
            automation.full_sync_schedule,
            upkeep.retention_schedule,
        ],
        sensors=[alerts.sync_alerts],
        resources={
            "azure": AzureResource(clock=clock),
            "port": PortResource(clock=clock),
            "state": StateResource(),
            "clock": clock,
            "io_manager": RunValues(),
        },
        # Steps take seconds and share clients: a process each would only cost time. Also for the Materialize button.
        executor=dg.in_process_executor,
    )


defs = definitions(SystemClock())
