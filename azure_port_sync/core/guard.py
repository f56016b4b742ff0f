"""What must not be delivered without a person's word: deletions beyond measure.

Resource Graph has returned too few rows before, and automations have deleted by it (facts reported in
github.com/Azure/azure-sdk-for-net, issue 14403); Microsoft advises never to act destructively on its answer alone.
"""

#: Deletions up to this many are an ordinary day, however small the catalog.
FLOOR = 100

#: The share of what is known that a run may delete, unless the launchpad says otherwise.
MAX_DELETE_RATIO = 0.25


def is_mass_deletion(deletes: int, known: int, *, max_ratio: float) -> bool:
    """Whether to delete so many of `known` entities needs a person's word."""
    return deletes > FLOOR and deletes > max_ratio * known


def mass_deletion_sentence(deletes: int, known: int, *, max_ratio: float) -> str:
    """What is wrong and what to do, for the run and its check."""
    return (
        f"This run would delete {deletes:,} of the {known:,} entities that Port is known to hold "
        f"({deletes / max(known, 1):.0%}; the guard allows {max_ratio:.0%} beyond {FLOOR}). Nothing was sent. If that "
        "is what happened in Azure or in the scope settings, launch the job again with `allow_mass_delete: true` in "
        "the launchpad; otherwise check the identity's role assignments."
    )
