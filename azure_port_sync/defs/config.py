"""What a person may ask of one sync in the launchpad; the jobs and the schedules set the mode and nothing else."""

from datetime import UTC, datetime
from enum import Enum

import dagster as dg
from pydantic import Field

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.guard import MAX_DELETE_RATIO
from azure_port_sync.core.request import Mode, Request, Selection
from azure_port_sync.core.windows import Window


class RequestedMode(Enum):
    """`incremental` delivers what changed since the last settled run; `full` compares everything."""

    incremental = "incremental"
    full = "full"


class Only(dg.Config):
    """A part of the catalog: what lies in all that is named. Ids, names and types in any casing."""

    subscriptions: list[str] = Field(default=[], description="Subscription ids; empty: all of them.")
    resource_groups: list[str] = Field(
        default=[], description="Names of resource groups, in whichever of the subscriptions; empty: all of them."
    )
    resource_types: list[str] = Field(
        default=[],
        description="Resource types, e.g. Microsoft.KeyVault/vaults; empty: all of them, and the containers too.",
    )


class Backfill(dg.Config):
    """A past window of change records, in UTC."""

    start: str = Field(description="E.g. 2026-11-23T10:00:00Z; Azure keeps change records for 14 days.")
    end: str = Field(description="E.g. 2026-11-23T16:00:00Z.")


class SyncConfig(dg.Config):
    """How a run goes about it. The jobs set `mode`; there is no default that could turn one into the other."""

    mode: RequestedMode = Field(
        description="incremental: what changed since the last run. full: everything is read and compared. "
        "An incremental run turns full by itself where change records are not enough, and says why."
    )
    force: bool = Field(
        default=False, description="Deliver everything that is in scope, also what Port has been told already."
    )
    allow_mass_delete: bool = Field(
        default=False,
        description="Allow this one run to delete however much it finds gone. Set it after a run was stopped by "
        "deletes_within_guard, and you know why so much is gone.",
    )
    max_delete_ratio: float = Field(
        default=MAX_DELETE_RATIO,
        ge=0,
        le=1,
        description="The share of what Port is known to hold that this run may delete (beyond 100 entities).",
    )
    only: Only = Field(
        default=Only(),
        description="Deliver this part again, whole, whether or not Port has been told. The watermark stays.",
    )
    backfill: Backfill | None = Field(
        default=None,
        description="Read the change records of a past window again and deliver what Port has not been told (of `only`,"
        " where that names a part). The watermark stays.",
    )
    retry_quarantined: bool = Field(
        default=False,
        description="Tell once more what Port has refused and is in quarantine. Set it after you mended the reason.",
    )
    dry_run: bool = Field(
        default=False,
        description="Decide and show the change set; send nothing, and remember nothing. What it shows is an "
        "observation of azure_change_set, and port_deliveries is skipped.",
    )
    rebuild_ledger: bool = Field(
        default=False,
        description="First read from Port's API what it really holds, then compare everything: finds what is missing "
        "in Port, was edited or was added there by hand. Needs PORT_CLIENT_ID and PORT_CLIENT_SECRET.",
    )

    def request(self) -> Request:
        """Raises SettingsError for a window that is none."""
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
            f"`backfill` holds {text!r}, which is not an instant. Write e.g. 2026-11-23T10:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
