"""Too many deletes without evidence wait for a person's word, and nothing else does."""

from contextlib import closing
from pathlib import Path

import pytest

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.core.scope import Scope
from azure_port_sync.engine.run import Outcome, deliver_changes
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.scenario import Scenario, titles

NOT_SELECTED = {"env": "none"}


@pytest.fixture
def crowd(crowd: Scenario) -> Scenario:
    """The crowd, with a tag filter that leaves out nothing yet."""
    crowd.reader = crowd.reader_of(Scope.of(exclude_tags=NOT_SELECTED))
    crowd.tick()
    return crowd


def _leaves_the_scope(crowd: Scenario) -> None:
    """The group of 19 resources leaves the scope, which Azure has no Delete record of."""
    crowd.tenant.retag_group(crowd.crowd, NOT_SELECTED)


def _held(outcome: Outcome) -> int:
    return outcome.stats.verdicts[Verdict.HELD]


def test_deletes_without_a_record_are_held_and_everything_else_is_delivered(crowd: Scenario) -> None:
    before, watermark = titles(crowd), crowd.store.targets.load("t").watermark
    _leaves_the_scope(crowd)
    new = crowd.tenant.create_resource(crowd.group, "microsoft.web/sites", "new")
    crowd.tenant.delete_resource(crowd.one)
    first = crowd.tick()
    assert (first.report.accepted["upsert"], first.report.accepted["delete"], _held(first)) == (1, 1, 20)
    before["azureCloudResources"] ^= {"x1", "new"}
    assert titles(crowd) == before
    assert set(crowd.store.facts.held("t")["identifier"]) == set(first.stats.held["identifier"])
    assert crowd.store.targets.load("t").watermark == watermark
    crowd.tenant.delete_resource(new)
    second = crowd.tick()  # tries them again, and goes on with the rest
    assert (second.report.accepted["delete"], _held(second)) == (1, 20)


def test_held_deletes_pass_with_a_persons_word(crowd: Scenario) -> None:
    _leaves_the_scope(crowd)
    assert _held(crowd.tick()) == 20
    assert crowd.tick(allow_mass_delete=True).report.accepted["delete"] == 20
    assert crowd.store.facts.held("t").empty
    assert crowd.sandbox.compare(exclude=NOT_SELECTED).sentences() == []
    assert crowd.tick().report.total == 0  # the word was for one run


def test_held_deletes_are_forgotten_when_what_they_are_of_is_back(crowd: Scenario) -> None:
    _leaves_the_scope(crowd)
    assert _held(crowd.tick()) == 20
    crowd.tenant.retag_group(crowd.crowd, None)
    assert _held(crowd.tick()) == 0
    assert crowd.store.facts.held("t").empty
    crowd.ends_right()


def test_deletes_that_a_full_run_finds_stay_held_in_the_runs_after_it(crowd: Scenario) -> None:
    """Only a full run reads the whole scope again; the others must not call it settled without a person's word."""
    crowd.reader = crowd.reader_of(Scope.of(resource_types=["microsoft.web/serverfarms"]))
    watermark = crowd.store.targets.load("t").watermark
    assert _held(crowd.tick(Mode.FULL)) == 21
    assert _held(crowd.tick()) == 21
    assert crowd.store.targets.load("t").watermark == watermark


@pytest.mark.parametrize("changed", [True, False])
def test_a_change_of_scope_is_said_even_where_azure_is_not_asked_for_what_it_left_out(
    crowd: Scenario, changed: bool
) -> None:
    """A mistyped type made it "21 that Azure no longer shows, 0 that the settings no longer select"."""
    if changed:
        crowd.reader = crowd.reader_of(Scope.of(resource_types=["microsoft.web/serverfarms"]))
    else:
        _leaves_the_scope(crowd)
    for _ in range(2):
        crowd.clock.sleep(60)
        change_set, _ = crowd.decide(Request())
        assert ("The scope settings have changed" in str(change_set.guard)) is changed
        assert change_set.guard.holds
        crowd.tick()


def test_deletes_with_a_record_are_evidence_enough(crowd: Scenario) -> None:
    crowd.tenant.delete_group(crowd.crowd)
    assert crowd.tick().report.accepted["delete"] == 20
    crowd.ends_right()


@pytest.mark.parametrize(("deletes", "holds"), [(5, False), (8, False), (9, True)])
def test_the_guard_allows_a_quarter_beyond_its_floor(crowd: Scenario, deletes: int, holds: bool) -> None:
    """Of 24 entities and as many others as the setting then leaves out."""
    for n in range(deletes):
        crowd.tenant.create_resource(crowd.crowd, "microsoft.compute/disks", f"d{n}")
    crowd.tick()
    crowd.reader = crowd.reader_of(Scope.of(resource_types=["microsoft.web/sites"]))
    outcome = crowd.tick()
    assert (_held(outcome), outcome.report.accepted["delete"]) == ((deletes, 0) if holds else (0, deletes))


def test_another_ratio_can_be_asked_for(crowd: Scenario) -> None:
    _leaves_the_scope(crowd)
    assert crowd.tick(max_delete_ratio=0.9).report.accepted["delete"] == 20


def test_a_change_set_with_held_deletes_does_not_move_the_watermark(crowd: Scenario) -> None:
    """The guard travels with the change set, whoever delivers it."""
    _leaves_the_scope(crowd)
    crowd.clock.sleep(60)
    change_set, _ = crowd.decide(Request())
    before = crowd.store.targets.load("t").watermark
    deliver_changes(change_set, crowd.sink, crowd.store, crowd.clock)
    assert crowd.store.targets.load("t").watermark == before


def test_deletes_of_what_nobody_knows_do_not_count(crowd: Scenario, tmp_path: Path) -> None:
    """A first run sends the deletes of a fortnight, so that stale entities of a script go, groups as well."""
    crowd.tenant.delete_group(crowd.crowd)
    with closing(StateStore(f"sqlite:///{tmp_path / 'another.sqlite'}", crowd.clock)) as crowd.store:
        assert crowd.tick().report.accepted["delete"] == 20


def test_all_resources_are_held_though_they_are_few_beside_their_groups(crowd: Scenario) -> None:
    """A mistyped RESOURCE_TYPES deleted them all, as long as there were as many groups."""
    crowd.min_guarded_deletes = 100
    for number in range(25):
        crowd.tenant.add_group(crowd.subscription, f"empty{number}", "westeurope")
    crowd.tick()
    crowd.reader = crowd.reader_of(Scope.of(resource_types=["microsoft.web/site"]))
    outcome = crowd.tick()
    assert _held(outcome) == 21
    assert len(titles(crowd)["azureCloudResources"]) == 21
