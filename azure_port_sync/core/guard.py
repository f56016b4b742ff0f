"""The guard against mass deletion: too many deletes at once that Azure has no record of are held.

Resource Graph has returned too few rows before, and automations have deleted by it (facts reported in
github.com/Azure/azure-sdk-for-net, issue 14403); Microsoft advises never to act destructively on its answer alone. A
Delete record is evidence, of an entity and of all that lies in it. That a row is absent, or out of scope, may also be
the mistake of a role assignment or of a setting.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from azure_port_sync.core.decisions import DELETE_RECORD
from azure_port_sync.core.kinds import CONTAINERS, KINDS, descendants
from azure_port_sync.core.rows import tuples

#: A run holds deletes beyond this many and this share of the known entities, unless a person allows more.
MIN_DELETES = 100
MAX_DELETE_RATIO = 0.25

#: Of a small catalog, or of one kind, a hundred may be everything: it holds deletes beyond this many and this share.
MIN_DELETES_OF_FEW = 10
MAX_DELETE_RATIO_OF_FEW = 0.5


@dataclass(frozen=True)
class Guard:
    """The deletes of a run, and how many of them the defaults or a person allow.

    `deletes` counts those without evidence and `proven` the others, all of `known` entities, which Port is known to
    hold. `out_of_scope` of the `deletes` are of entities that Azure shows, and that the settings leave out;
    `scope_changed` says that these settings are new, and may be why others are not even looked for. `deletes_of` and
    `known_of` count by kind.
    """

    deletes: int = 0
    known: int = 0
    proven: int = 0
    out_of_scope: int = 0
    max_ratio: float = MAX_DELETE_RATIO
    min_deletes: int = MIN_DELETES
    allowed: bool = False
    scope_changed: bool = False
    deletes_of: Mapping[str, int] = field(default_factory=dict)
    known_of: Mapping[str, int] = field(default_factory=dict)

    @property
    def exceeded(self) -> bool:
        """Whether there are more deletes without evidence than pass without a person's word."""
        of_all = self.deletes > self.min_deletes and self.deletes > self.max_ratio * self.known
        return of_all or self._are_most(self.deletes, self.known) or bool(self._kinds)

    @property
    def _kinds(self) -> list[str]:
        """The kinds of which most would go: a mistake in RESOURCE_TYPES leaves the groups where they are.

        Whoever allows as much of everything allows it of a kind, too.
        """
        if self.max_ratio > MAX_DELETE_RATIO_OF_FEW:
            return []
        known = self.known_of
        return [kind for kind, deletes in self.deletes_of.items() if self._are_most(deletes, known.get(kind, 0))]

    def _are_most(self, deletes: int, known: int) -> bool:
        least, ratio = min(self.min_deletes, MIN_DELETES_OF_FEW), max(self.max_ratio, MAX_DELETE_RATIO_OF_FEW)
        return deletes > least and deletes > ratio * known

    @property
    def holds(self) -> bool:
        """Whether the deletes without evidence are held back."""
        return self.exceeded and not self.allowed

    def __str__(self) -> str:
        if not self.exceeded:
            return (
                f"{self.deletes + self.proven:,} of {self.known:,} known entities are to be deleted, "
                f"{self.proven:,} of them by a Delete record of Azure's."
            )
        sentence = (
            f"{self.deletes:,} of the {self.known:,} entities that Port is known to contain "
            f"({self.deletes / max(self.known, 1):.0%}) would be deleted without a Delete record of Azure's: "
            f"{self.deletes - self.out_of_scope:,} that Azure no longer shows, {self.out_of_scope:,} that the settings "
            "no longer select."
        )
        for kind in self._kinds:
            sentence += f" Of {self.known_of.get(kind, 0):,} of the kind {kind}, {self.deletes_of[kind]:,} would go."
        if self.scope_changed:
            sentence += " The scope settings have changed since the last run that delivered everything."
        if self.allowed:
            return f"{sentence} Allowed by a person (allow_mass_delete)."
        return (
            f"{sentence} They are held, and everything else is delivered. If they are right, launch the job again with "
            "`allow_mass_delete: true`; otherwise check the identity's role assignments and the settings that select "
            "(RESOURCE_GROUP_TAG_FILTERS, RESOURCE_TYPES, AZURE_SUBSCRIPTION_IDS, AZURE_MANAGEMENT_GROUPS). The stdout "
            "of the run lists them all, and so does the table azure_port_sync_held_delete of the state."
        )


def recorded_as_deleted(candidates: pd.DataFrame) -> pd.Series:
    """Return a mask of the candidates of which a Delete record is the newest, and all that lies in such a container."""
    recorded = (candidates["change_type"] == DELETE_RECORD).fillna(False).astype(bool)
    gone = candidates[recorded]
    for kind in CONTAINERS:
        key = KINDS[kind].key
        places = set(tuples(gone[gone["kind"] == kind], key))
        if places:
            lies_in = [place in places for place in tuples(candidates, key)]
            recorded |= candidates["kind"].isin(descendants(kind)) & pd.Series(lies_in, index=candidates.index)
    return recorded
