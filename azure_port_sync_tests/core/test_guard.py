"""The bounds of the guard, and its sentence."""

from dataclasses import replace

import pytest

from azure_port_sync.core.guard import Guard


@pytest.mark.parametrize(
    ("deletes", "known", "holds"),
    [
        (100, 101, True),  # of a small catalog nearly everything
        (90, 90, True),
        (50, 100, False),  # half of it is not more than half
        (51, 100, True),
        (10, 10, False),  # of a handful, all may go
        (11, 11, True),
        (100, 300, False),
        (101, 404, False),  # no more than a quarter
        (101, 403, True),
        (250_000, 1_000_000, False),
        (250_001, 1_000_000, True),
        (0, 0, False),
    ],
)
def test_its_bounds(deletes: int, known: int, holds: bool) -> None:
    guard = Guard(deletes, known)
    assert guard.holds is holds
    assert not replace(guard, allowed=True).holds
    assert not replace(guard, max_ratio=1.0).holds
    assert ("They are held" in str(guard)) is holds


@pytest.mark.parametrize(("deletes", "holds"), [(10, False), (45, False), (46, True)])
def test_its_bounds_for_one_kind(deletes: int, holds: bool) -> None:
    """All resources may go by a mistyped RESOURCE_TYPES, and be less than half of what there is."""
    guard = Guard(deletes, known=200, deletes_of={"resource": deletes}, known_of={"resource": 90, "resourceGroup": 110})
    assert guard.holds is holds
    assert not replace(guard, allowed=True).holds
    assert (f"Of 90 of the kind resource, {deletes} would go." in str(guard)) is holds


def test_deletes_with_a_record_count_for_nothing() -> None:
    assert not Guard(deletes=0, known=1000, proven=1000).holds


def test_its_sentence_says_where_the_deletes_come_from() -> None:
    sentence = str(Guard(deletes=90, known=90, out_of_scope=80))
    assert "90 of the 90 entities" in sentence
    assert "10 that Azure no longer shows, 80 that the settings no longer select" in sentence
    assert "`allow_mass_delete: true`" in sentence
