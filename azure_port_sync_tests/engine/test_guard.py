"""Deletions beyond measure wait for a person's word."""

from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from azure_port_sync.core.errors import GuardError
from azure_port_sync.core.request import Request
from azure_port_sync.engine.run import deliver_changes
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.scenario import Scenario, titles


def test_a_mass_deletion_waits_for_a_persons_word(crowd: Scenario) -> None:
    before = titles(crowd)
    crowd.tenant.delete_group(crowd.crowd)
    for _ in range(2):
        with pytest.raises(GuardError, match=r"would delete 20 of the 24 entities .*allow_mass_delete: true"):
            crowd.tick()
    assert titles(crowd) == before
    assert crowd.tick(allow_mass_delete=True).report.accepted["delete"] == 20
    assert crowd.sandbox.compare().sentences() == []
    assert crowd.tick().report.total == 0  # the word was for one run


@pytest.mark.parametrize(("deletes", "stops"), [(5, False), (6, False), (7, True)])
def test_the_guard_allows_a_quarter_beyond_its_floor(crowd: Scenario, deletes: int, stops: bool) -> None:
    for n in range(deletes):
        crowd.tenant.delete_resource(f"{crowd.crowd}/providers/microsoft.web/sites/s{n}")
    with pytest.raises(GuardError) if stops else nullcontext():
        crowd.tick()


def test_another_ratio_can_be_asked_for(crowd: Scenario) -> None:
    crowd.tenant.delete_group(crowd.crowd)
    assert crowd.tick(max_delete_ratio=0.9).report.accepted["delete"] == 20


def test_delivering_enforces_the_guard_of_the_change_set(crowd: Scenario) -> None:
    """The guard travels with the change set, so none is waved through, however it was come by."""
    crowd.tenant.delete_group(crowd.crowd)
    change_set, _ = crowd.decide(Request(allow_mass_delete=True))
    assert change_set.blocked_by == ""
    smuggled = replace(change_set, guard=replace(change_set.guard, allowed=False))
    with pytest.raises(GuardError, match="would delete 20 of the 24"):
        deliver_changes(smuggled, crowd.sink, crowd.store, crowd.clock)


def test_deletes_of_what_nobody_knows_do_not_count(crowd: Scenario, tmp_path: Path) -> None:
    """A first run sends the deletes of a fortnight, so that ghosts of the script go."""
    crowd.tenant.delete_group(crowd.crowd)
    with closing(StateStore(f"sqlite:///{tmp_path / 'another.sqlite'}", crowd.clock)) as crowd.store:
        assert crowd.tick().report.accepted["delete"] == 19  # the resources; no record of the group is read
