"""The request that a run answers, beyond the settings: its mode, its overrides, and the part that is meant.

A part or a past window is delivered beside the schedule: such a run moves no watermark, so it can be launched at any
time and takes nothing away from the runs that do.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

import pandas as pd

from azure_port_sync.core import guard
from azure_port_sync.core.windows import Window


class Mode(StrEnum):
    """How a run finds its candidates."""

    INCREMENTAL = "incremental"
    FULL = "full"
    PARTIAL = "partial"
    BACKFILL = "backfill"


@dataclass(frozen=True)
class Selection:
    """A part of the catalog: what lies in all that is named. Lower-case; an empty tuple means "no restriction"."""

    subscriptions: tuple[str, ...] = ()
    resource_groups: tuple[str, ...] = ()
    resource_types: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        subscriptions: Iterable[str] = (),
        resource_groups: Iterable[str] = (),
        resource_types: Iterable[str] = (),
    ) -> "Selection":
        """Build a part from ids, names and types in any casing."""
        return cls(*(tuple(sorted({v.lower() for v in x})) for x in (subscriptions, resource_groups, resource_types)))

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def __str__(self) -> str:
        named = {name.replace("_", " "): values for name, values in vars(self).items() if values}
        return "; ".join(f"{name} {', '.join(values)}" for name, values in named.items())

    def covers(self, entities: pd.DataFrame) -> pd.Series:
        """Return which of these rows (identity columns of OBSERVATION) lie in the part, as a boolean mask.

        A subscription lies in no resource group, and a container is of its own type, so that naming groups or types
        leaves out the containers around them.
        """
        mask = pd.Series(True, index=entities.index)
        for column, values in (
            ("subscription_id", self.subscriptions),
            ("resource_group", self.resource_groups),
            ("type", self.resource_types),
        ):
            if values:
                mask &= entities[column].isin(values)
        return mask


@dataclass(frozen=True)
class Request:
    """The mode and the overrides that a person, or a job, asks of a run.

    `force` also sends what Port has already. `only` sends one part again, whole; `backfill` reads the change records
    of a past window again, of that part where one is named. `rebuild_ledger` first reads from Port what it really
    holds. `retry_quarantined` sends again what Port has refused. `dry_run` decides, and neither sends nor remembers
    anything.
    """

    mode: Mode = Mode.INCREMENTAL
    force: bool = False
    allow_mass_delete: bool = False
    max_delete_ratio: float = guard.MAX_DELETE_RATIO
    min_guarded_deletes: int = field(default_factory=lambda: guard.MIN_DELETES)
    only: Selection = Selection()
    backfill: Window | None = None
    rebuild_ledger: bool = False
    retry_quarantined: bool = False
    dry_run: bool = False

    @property
    def is_partial(self) -> bool:
        """Whether the run reads less than the scope, and so proves nothing about the rest of it."""
        return bool(self.only) or self.backfill is not None
