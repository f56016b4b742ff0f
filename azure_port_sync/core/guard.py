"""The guard against mass deletion: decided once, shown by a check, enforced by delivery.

Resource Graph has returned too few rows before, and automations have deleted by it (facts reported in
github.com/Azure/azure-sdk-for-net, issue 14403); Microsoft advises never to act destructively on its answer alone.
"""

from dataclasses import dataclass

#: Deletions up to this many are an ordinary day, however small the catalog.
MIN_DELETES = 100

#: The share of what is known that a run may delete, unless a person allows more.
MAX_DELETE_RATIO = 0.25


@dataclass(frozen=True)
class Guard:
    """The deletes of a run, and how many a person or the defaults allow.

    `deletes` counts those of `known` entities, which Port is known to hold. Up to `min_deletes` are never too many.
    """

    deletes: int
    known: int
    max_ratio: float = MAX_DELETE_RATIO
    min_deletes: int = MIN_DELETES
    allowed: bool = False

    @property
    def exceeded(self) -> bool:
        """Whether the run deletes more than passes without a person's word."""
        return self.deletes > self.min_deletes and self.deletes > self.max_ratio * self.known

    @property
    def blocks(self) -> bool:
        """Whether the change set must not be delivered."""
        return self.exceeded and not self.allowed

    def __str__(self) -> str:
        if not self.exceeded:
            return f"{self.deletes:,} of {self.known:,} known entities are to be deleted."
        sentence = (
            f"This run would delete {self.deletes:,} of the {self.known:,} entities that Port is known to hold "
            f"({self.deletes / max(self.known, 1):.0%}; the guard allows {self.max_ratio:.0%} beyond "
            f"{self.min_deletes:,})."
        )
        if self.allowed:
            return f"{sentence} Allowed by a person (allow_mass_delete)."
        return (
            f"{sentence} Nothing was sent. If that is what happened in Azure or in the scope settings, launch the job "
            "again with `allow_mass_delete: true`; otherwise check the identity's role assignments."
        )
