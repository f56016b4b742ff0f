"""Run config of a sync: the overrides that a person can give one run. Jobs and schedules set the mode, nothing else."""

from datetime import UTC, datetime
from enum import Enum

import dagster as dg
from pydantic import Field

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.guard import MAX_DELETE_RATIO
from azure_port_sync.core.request import Mode, Request, Selection
from azure_port_sync.core.windows import Window


class RequestedMode(Enum):
    """`incremental` delivers what changed since the last successful run; `full` compares everything."""

    incremental = "incremental"
    full = "full"


class Only(dg.Config):
    """A part of the catalog: what matches every field that is set. Ids, names and types in any casing."""

    subscriptions: list[str] = Field(default=[], description="Subscription ids; empty: all.")
    resource_groups: list[str] = Field(
        default=[], description="Names of resource groups, in any of the subscriptions; empty: all."
    )
    resource_types: list[str] = Field(
        default=[],
        description="Resource types, e.g. Microsoft.KeyVault/vaults; empty: all, and subscriptions and groups too.",
    )


class Backfill(dg.Config):
    """A past window of change records, in UTC."""

    start: str = Field(description="E.g. 2026-11-23T10:00:00Z; Azure keeps change records for 14 days.")
    end: str = Field(description="E.g. 2026-11-23T16:00:00Z.")


class SyncConfig(dg.Config):
    """Run config of `azure_change_set`. The jobs set `mode`; without a default, none can turn into the other."""

    mode: RequestedMode = Field(
        description="incremental: deliver what changed since the last run. full: read and compare everything. "
        "An incremental run turns full by itself where change records are not enough, and says why."
    )
    force: bool = Field(
        default=False, description="Deliver everything in scope, even what was delivered before and is unchanged."
    )
    allow_mass_delete: bool = Field(
        default=False,
        description="Allow this one run to delete however much is gone from Azure. Set it when deletes_within_guard "
        "says that deletes are held, and you know why so much is gone.",
    )
    max_delete_ratio: float = Field(
        default=MAX_DELETE_RATIO,
        ge=0,
        le=1,
        description="The share of the known entities that this run may delete (beyond 100 entities).",
    )
    only: Only = Field(
        default=Only(),
        description="Deliver all of this part again, whether or not it was delivered before. The watermark stays.",
    )
    backfill: Backfill | None = Field(
        default=None,
        description="Read the change records of a past window again and deliver what was not delivered (of `only`, "
        "where that is set). The watermark stays.",
    )
    retry_quarantined: bool = Field(
        default=False,
        description="Send again what Port refused and is in quarantine. Set it after you fixed the reason.",
    )
    dry_run: bool = Field(
        default=False,
        description="Only decide: nothing is sent and nothing is stored. The change set is recorded as an observation "
        "of azure_change_set, and port_deliveries is skipped.",
    )
    rebuild_ledger: bool = Field(
        default=False,
        description="First read from Port's API what it really contains, then compare everything: finds what was "
        "deleted from Port, edited there or added there by hand. Needs PORT_CLIENT_ID and PORT_CLIENT_SECRET.",
    )

    def request(self) -> Request:
        """Return it as the engine takes it. Raises SettingsError for a window that is not one."""
        return Request(
            mode=Mode(self.mode.value),
            force=self.force,
            allow_mass_delete=self.allow_mass_delete,
            max_delete_ratio=self.max_delete_ratio,
            only=Selection.of(
                subscriptions=self.only.subscriptions,
                resource_groups=self.only.resource_groups,
                resource_types=self.only.resource_types,
            ),
            backfill=Window(_instant(self.backfill.start), _instant(self.backfill.end)) if self.backfill else None,
            rebuild_ledger=self.rebuild_ledger,
            retry_quarantined=self.retry_quarantined,
            dry_run=self.dry_run,
        )


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"`backfill` contains {text!r}, which is not an instant. Write e.g. 2026-11-23T10:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
