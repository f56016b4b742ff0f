"""What Port does not take for what it is: put aside, shown, and told as soon as there is a reason to try it again."""

import re
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.request import Mode, Request, Selection
from azure_port_sync.core.rows import CHANGE_SET, frame_of, records
from azure_port_sync.engine.deliver import DeliveryLimits
from azure_port_sync.engine.run import Outcome, deliver_changes
from azure_port_sync.engine.verify import expected_ledger_rows
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.sandbox.compare import identifier_of
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.operator import Operator, failed_checks, recorded
from azure_port_sync_tests.support.scenario import TICK, Scenario

SITES = "microsoft.web/sites"
POISON = {"poison": "yes"}
DELETES = '"operation":"delete"'
RESOURCES = "azureCloudResources"


def _refusing(world: Scenario, what: str = '"poison":"yes"') -> Fault:
    """Port refuses every event that holds this text; the fault counts them. (By default a tag that has the value.)"""
    fault = Fault("port", status=400, body={"message": "no"}, in_body=what, times=None)
    world.sandbox.faults.add(fault)
    return fault


def _quarantine(world: Scenario) -> dict[str, dict[str, Any]]:
    """What is in quarantine, by name."""
    return {row["azure_id"].rpartition("/")[2]: row for row in records(world.store.facts.quarantined("t"))}


def _titles(world: Scenario) -> set[str]:
    return {entity["title"] for entity in world.sandbox.held()[RESOURCES].values()}


def _settles(world: Scenario, mode: Mode = Mode.INCREMENTAL, **more: Any) -> Outcome:
    outcome = world.tick(mode, **more)
    assert (outcome.report.error, outcome.report.not_delivered) == (None, 0)
    assert world.store.targets.load("t").watermark == outcome.plan.window.end
    return outcome


def _agrees(world: Scenario, **more: Any) -> None:
    """A full run settles, and the ledger holds what was found or is held back."""
    world.clock.sleep(TICK)
    world.runs += 1
    change_set, _ = world.decide(Request(Mode.FULL, **more), run=str(world.runs))
    report = deliver_changes(change_set, world.sink, world.store, world.clock)
    assert report.not_delivered == 0
    assert change_set.kept is not None
    refused = frame_of([row._asdict() for row, _ in report.put_aside], CHANGE_SET)
    known = world.store.ledger.known_among("t", refused)
    assert world.store.targets.load("t").ledger_rows == expected_ledger_rows(change_set.kept, refused, known)


# -- each way in, and the ways out -----------------------------------------------------------------------------------

LONG = "(" * 320  # each of them three characters in an identifier

Way = Callable[[Scenario], str]


def _refused(world: Scenario) -> str:
    _refusing(world)
    return world.tenant.create_resource(world.group, SITES, "bad", tags=POISON)


def _too_large(world: Scenario) -> str:
    return world.tenant.create_resource(world.group, SITES, "bad", tags={"t": "x" * 600_000})


def _too_long(world: Scenario) -> str:
    return world.tenant.create_resource(world.group, SITES, f"bad{LONG}")


def _colliding(world: Scenario) -> str:
    """With a resource that was told before."""
    world.tenant.create_resource(world.group, SITES, "b ad")
    _settles(world)
    return world.tenant.create_resource(world.group, SITES, "b_ad")


WAYS: dict[str, tuple[Way, str]] = {
    "refused": (_refused, "Port answered 400.*no"),
    "too large": (_too_large, r"the event has 600,\d{3} bytes; Port takes 524,288"),
    "too long": (_too_long, "does not take its identifier: it has more than 1000 characters"),
    "colliding": (_colliding, "its identifier in Port is that of /subscriptions/.*/b ad, because"),
}
ways = pytest.mark.parametrize("way", WAYS)


def _with_one(world: Scenario, way: str) -> tuple[str, str]:
    """A world whose quarantine holds one resource: its id and its name."""
    world.begin()
    resource = WAYS[way][0](world)
    name = resource.rpartition("/")[2]
    _settles(world)
    assert _quarantine(world).keys() == {name}
    return resource, name


@ways
def test_what_port_does_not_take_is_put_aside_and_not_tried_again_by_itself(world: Scenario, way: str) -> None:
    resource, name = _with_one(world, way)
    row = _quarantine(world)[name]
    assert re.search(WAYS[way][1], row["reason"])
    assert (row["azure_id"], row["identifier"]) == (resource, identifier_of(resource))
    assert row["first_at"] == row["last_at"] == world.clock.now()
    assert {"x1", "x2"} <= _titles(world)
    assert name not in _titles(world)

    tried = [fault.fired for fault in world.sandbox.faults]
    assert _settles(world).report.refused == []
    assert world.tick(only=Selection.of(resource_groups=["web"])).report.refused == []
    _agrees(world, force=True)
    assert [fault.fired for fault in world.sandbox.faults] == tried
    after = _quarantine(world)[name]
    assert {**after, "last_at": None} == {**row, "last_at": None}


def test_changed_content_is_tried_and_success_takes_it_out(world: Scenario) -> None:
    resource, name = _with_one(world, "refused")
    world.tenant.tag_resource(resource, {"fine": "yes"})
    assert _settles(world).report.accepted == {"upsert": 1}
    assert _quarantine(world) == {}
    assert name in _titles(world)
    assert world.sandbox.compare().sentences() == []


def test_changed_content_that_port_refuses_too_is_counted(world: Scenario) -> None:
    resource, name = _with_one(world, "refused")
    first = _quarantine(world)[name]
    world.tenant.tag_resource(resource, {**POISON, "more": "yes"})
    _settles(world)
    again = _quarantine(world)[name]
    assert (again["attempts"], again["first_at"]) == (2, first["first_at"])
    assert again["last_at"] == world.clock.now()
    assert again["hash"] != first["hash"]
    assert '"more"' in again["payload"]
    _agrees(world)


@pytest.mark.parametrize("way", ["refused", "too long", "colliding"])
def test_a_deleted_entity_leaves_quarantine(world: Scenario, way: str) -> None:
    resource, _ = _with_one(world, way)
    world.tenant.delete_resource(resource)
    _settles(world)
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []


@pytest.mark.parametrize("way", ["refused", "too long"])
def test_an_entity_out_of_scope_leaves_quarantine(world: Scenario, way: str) -> None:
    """At the latest in a full run: nothing tells of what was never told."""
    world.include = {"env": "p"}
    world.begin({"env": "p"})
    WAYS[way][0](world)
    _settles(world)
    assert len(_quarantine(world)) == 1
    world.tenant.retag_group(world.group, {"env": "d"})
    _settles(world)
    _agrees(world)
    assert _quarantine(world) == {}


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
def test_a_person_can_have_it_tried_again(world: Scenario, mode: Mode) -> None:
    """The reason lay in Port, so nothing changes in Azure."""
    _, name = _with_one(world, "refused")
    world.clock.sleep(timedelta(days=1).total_seconds())  # its record is long past
    _settles(world)
    assert _settles(world, mode, retry_quarantined=True).report.refused
    assert _quarantine(world)[name]["attempts"] == 2
    world.sandbox.faults.clear()
    assert _settles(world, mode, retry_quarantined=True).report.accepted["upsert"] >= 1
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []
    _agrees(world)


def test_a_rebuild_tries_all_of_it_again(world: Scenario, api: PortApi) -> None:
    """Who has fixed Port and rebuilt the ledger expects a catalog that is whole."""
    _with_one(world, "refused")
    world.sandbox.faults.clear()
    _settles(world, Mode.FULL, rebuild_ledger=True, catalog=api)
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
@pytest.mark.parametrize("way", ["refused", "given up"])
def test_another_sink_or_mapping_tries_it_again_once(world: Scenario, way: str, mode: Mode) -> None:
    """Whoever fixed the mapping had to know of `retry_quarantined`."""
    if way == "refused":
        _with_one(world, way)
    else:
        _given_up(world)
    world.clock.sleep(timedelta(days=1).total_seconds())  # its record is long past
    _settles(world)
    tried = _quarantine(world)["bad"]["attempts"]
    world.sink_fingerprint = "another"
    _settles(world, mode)
    _settles(world)
    assert _quarantine(world)["bad"]["attempts"] == tried + 1
    world.sandbox.faults.clear()
    world.sink_fingerprint = "fixed"
    _settles(world, mode)
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []


def test_another_mapping_that_does_not_help_fails_no_run(world: Scenario) -> None:
    world.begin()
    _refusing(world)
    _crowd(world, BAD["refused"], 3, good=10)
    _settles(world)
    world.sink_fingerprint = "another"
    assert len(_settles(world).report.refused) == 3
    assert _settles(world).report.total == 0


def test_a_refused_group_is_tried_again_with_what_is_in_it(world: Scenario) -> None:
    world.begin()
    fault = _refusing(world)
    group = world.tenant.add_group(world.subscription, "bad", "westeurope", POISON)
    world.tenant.create_resource(group, SITES, "within", tags=POISON)
    world.tenant.create_resource(world.group, SITES, "fine")
    _settles(world)
    _settles(world)
    assert (set(_quarantine(world)), fault.fired) == ({"bad", "within"}, 2)
    _agrees(world)
    world.sandbox.faults.clear()
    assert _settles(world, retry_quarantined=True).report.accepted == {"upsert": 2}
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []


def test_trying_again_in_vain_what_is_gone_releases_it(world: Scenario) -> None:
    """Nothing told of the deletion of what lay in a group that Azure deleted."""
    world.begin()
    group = world.tenant.add_group(world.subscription, "other", "westeurope")
    world.tenant.create_resource(group, SITES, f"bad{LONG}")
    _settles(world)
    world.tenant.delete_group(group)
    world.clock.sleep(timedelta(days=1).total_seconds())
    _settles(world, retry_quarantined=True)
    assert _quarantine(world) == {}


# -- deletes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def undeletable(world: Scenario) -> Scenario:
    """A world where Port has refused to delete the resource "x1"."""
    world.begin()
    _refusing(world, DELETES)
    world.tenant.delete_resource(world.one)
    _settles(world)
    row = _quarantine(world)["x1"]
    assert (row["operation"], row["hash"], row["attempts"]) == ("delete", None, 1)
    assert "x1" in _titles(world)
    return world


def test_a_refused_delete_is_not_tried_again_by_itself(undeletable: Scenario) -> None:
    world = undeletable
    (fault,) = world.sandbox.faults
    assert _settles(world).report.refused == []
    _agrees(world)
    assert (fault.fired, _quarantine(world)["x1"]["attempts"]) == (1, 1)


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
def test_a_person_can_have_a_delete_tried_again(undeletable: Scenario, mode: Mode) -> None:
    world = undeletable
    world.sandbox.faults.clear()
    world.clock.sleep(timedelta(days=1).total_seconds())
    assert _settles(world, mode, retry_quarantined=True).report.accepted["delete"] == 1
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []


def test_what_port_would_not_delete_is_told_when_it_comes_back(undeletable: Scenario) -> None:
    world = undeletable
    world.clock.sleep(60)
    world.tenant.recreate_resource(world.one)
    _settles(world)
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []


# -- too much to be the entities' fault ------------------------------------------------------------------------------


def _crowd(world: Scenario, bad: Callable[[int], dict[str, Any]], count: int, good: int = 40) -> None:
    world.tenant.create_resources(
        [
            *({"group_id": world.group, "type": SITES, **bad(n)} for n in range(count)),
            *({"group_id": world.group, "type": SITES, "name": f"good{n}"} for n in range(good)),
        ]
    )


BAD: dict[str, Callable[[int], dict[str, Any]]] = {
    "refused": lambda n: {"name": f"bad{n}", "tags": POISON},
    "too long": lambda n: {"name": f"bad{n}{LONG}"},
}


def test_refusals_beyond_the_limit_stop_the_run_and_put_nothing_aside(world: Scenario) -> None:
    world.begin()
    fault = _refusing(world)
    watermark = world.store.targets.load("t").watermark
    _crowd(world, BAD["refused"], 21)
    outcome = world.tick()
    assert "Port refused 21 of 61 deliveries" in str(outcome.report.error)
    assert "check the blueprints and the webhook's mapping" in str(outcome.report.error)
    assert outcome.report.not_delivered > 0
    assert _quarantine(world) == {}
    assert world.store.targets.load("t").watermark == watermark
    assert fault.fired <= 21
    world.sandbox.faults.clear()
    world.ends_right()


def test_ids_that_are_too_long_stop_nothing_however_many(world: Scenario) -> None:
    world.begin()
    _crowd(world, BAD["too long"], 21)
    assert _settles(world).report.accepted == {"upsert": 40}
    assert len(_quarantine(world)) == 21
    _agrees(world)


def test_a_tick_that_port_refuses_whole_is_sent_again_with_its_deletes(world: Scenario) -> None:
    """400 to all of an ordinary tick: all of it went to quarantine, and the delete was never tried again."""
    world.begin()
    world.sandbox.faults.add(Fault("port", status=400, body={"ok": False, "message": "no"}, times=None))
    world.tenant.delete_resource(world.one)
    world.tenant.create_resource(world.group, SITES, "x3")
    outcome = world.tick()
    assert "Port refused 2 of 2 deliveries" in str(outcome.report.error)
    assert _quarantine(world) == {}
    world.sandbox.faults.clear()
    assert _settles(world).report.accepted == {"delete": 1, "upsert": 1}
    assert world.sandbox.compare().sentences() == []


def test_twenty_refusals_are_put_aside(world: Scenario) -> None:
    world.begin()
    _refusing(world)
    _crowd(world, BAD["refused"], 20)
    assert len(_settles(world).report.refused) == len(_quarantine(world)) == 20
    _agrees(world)


def test_of_a_large_run_five_percent_are_put_aside(world: Scenario) -> None:
    world.limits = DeliveryLimits(max_refused=2)
    world.begin()
    _refusing(world)
    _crowd(world, BAD["refused"], 3, good=57)
    assert len(_settles(world).report.refused) == len(_quarantine(world)) == 3


# -- one at which Port keeps failing ---------------------------------------------------------------------------------


def _failing(world: Scenario, what: str = '"poison":"yes"') -> Fault:
    """Port answers 500 to every event that holds this text."""
    fault = Fault("port", status=500, in_body=what, times=None)
    world.sandbox.faults.add(fault)
    return fault


def _keeps_failing(world: Scenario, mode: Mode = Mode.INCREMENTAL) -> Outcome:
    """A run that Port fails at one operation of, while it takes another; the watermark stays."""
    before = world.store.targets.load("t").watermark
    world.tenant.create_resource(world.group, SITES, f"fine{world.runs}")
    outcome = world.tick(mode)
    assert (outcome.report.error, len(outcome.report.failed), outcome.report.not_delivered) == (None, 1, 1)
    assert "the third run in a row puts them into quarantine" in outcome.report.summary
    assert world.store.targets.load("t").watermark == before
    assert _quarantine(world) == {}
    return outcome


def _given_up(world: Scenario, *, deleted: bool = False) -> str:
    """A world in which three runs in a row have failed at one resource: its id."""
    world.begin()
    resource = world.one if deleted else world.tenant.create_resource(world.group, SITES, "bad", tags=POISON)
    if deleted:
        world.tenant.delete_resource(resource)
    _failing(world, DELETES if deleted else '"poison":"yes"')
    for _ in range(2):
        _keeps_failing(world)
    world.tenant.create_resource(world.group, SITES, "another")
    outcome = _settles(world)
    assert (outcome.report.quarantined, outcome.report.failed) == (1, [])
    (row,) = _quarantine(world).values()
    assert (row["azure_id"], row["cause"], row["attempts"]) == (resource, "failing", 3)
    assert "500" in row["reason"]
    return resource


@pytest.mark.parametrize("deleted", [False, True])
def test_what_three_runs_in_a_row_fail_at_goes_to_quarantine_and_each_full_run_tries_it(
    world: Scenario, deleted: bool
) -> None:
    """It held the watermark up for good."""
    _given_up(world, deleted=deleted)
    (fault,) = world.sandbox.faults
    tried = fault.fired
    _settles(world)
    assert fault.fired == tried
    _settles(world, Mode.FULL)
    assert fault.fired > tried
    (row,) = _quarantine(world).values()
    assert row["attempts"] == 4
    _agrees(world)
    world.sandbox.faults.clear()
    _settles(world, Mode.FULL)
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []
    _agrees(world)


def test_what_port_fails_at_for_one_or_two_runs_is_sent_by_the_next(world: Scenario) -> None:
    world.begin()
    world.tenant.create_resource(world.group, SITES, "bad", tags=POISON)
    for _ in range(2):
        _failing(world)
        _keeps_failing(world)
        world.sandbox.faults.clear()
    assert _settles(world).report.accepted == {"upsert": 1}
    assert world.store.facts.put_aside("t").empty
    assert world.sandbox.compare().sentences() == []


def test_a_success_begins_the_count_anew(world: Scenario) -> None:
    world.begin()
    resource = world.tenant.create_resource(world.group, SITES, "bad", tags=POISON)
    _failing(world)
    for _ in range(2):
        _keeps_failing(world)
    world.sandbox.faults.clear()
    _settles(world)
    world.tenant.tag_resource(resource, {**POISON, "more": "yes"})
    _failing(world)
    for _ in range(2):
        _keeps_failing(world)


def test_refusals_before_are_no_failures(world: Scenario) -> None:
    resource, _ = _with_one(world, "refused")
    for n in range(2):
        world.tenant.tag_resource(resource, {**POISON, "more": str(n)})
        _settles(world)
    world.sandbox.faults.clear()
    _failing(world)
    world.tenant.tag_resource(resource, {**POISON, "more": "again"})
    _keeps_failing(world)


def test_what_a_full_run_failed_at_is_met_again_though_no_record_names_it(world: Scenario) -> None:
    """What a full run only sends again, no change record names: the next run has to look for it."""
    world.begin()
    world.tenant.tag_resource(world.one, POISON)
    _settles(world)
    world.clock.sleep(timedelta(days=1).total_seconds())
    _settles(world)
    _failing(world)
    outcome = world.tick(Mode.FULL, force=True)
    assert [row.name for row, _ in outcome.report.failed] == ["x1"]
    world.sandbox.faults.clear()
    assert _settles(world).report.accepted == {"upsert": 1}


def test_a_part_that_was_sent_again_and_failed_is_sent_by_the_next_run(world: Scenario) -> None:
    world.begin()
    world.tenant.tag_resource(world.one, POISON)
    _settles(world)
    world.clock.sleep(timedelta(days=1).total_seconds())
    _settles(world)
    _failing(world)
    assert world.tick(only=Selection.of(resource_groups=["web"])).report.failed
    world.sandbox.faults.clear()
    assert _settles(world).report.accepted == {"upsert": 1}


def test_an_entity_given_up_that_is_gone_leaves_quarantine(world: Scenario) -> None:
    resource = _given_up(world)
    world.tenant.delete_resource(resource)
    _settles(world)
    assert world.store.facts.put_aside("t").empty


def test_a_port_that_takes_nothing_never_counts(world: Scenario) -> None:
    world.begin()
    world.tenant.create_resource(world.group, SITES, "bad", tags=POISON)
    _failing(world)
    for _ in range(4):
        assert "Port accepted nothing" in str(world.tick().report.error)
    assert world.store.facts.put_aside("t").empty
    _refusing(world, "other")  # an answer, which takes nothing either
    world.tenant.create_resource(world.group, SITES, "other")
    assert len(world.tick().report.failed) == 1
    assert list(_quarantine(world)) == ["other"]
    assert len(world.store.facts.put_aside("t")) == 1


def test_what_is_the_only_operation_of_three_runs_goes_to_quarantine_while_the_api_answers(strict: Scenario) -> None:
    """It held the watermark up for as long as nothing else changed."""
    strict.tenant.create_resource(strict.group, SITES, "bad", tags=POISON)
    strict.sandbox.faults.add(Fault("port", status=500, times=None))
    assert "Port accepted nothing" in str(strict.tick().report.error)  # it answers nothing at all
    strict.sandbox.faults.clear()
    _failing(strict)
    for _ in range(2):
        assert len(strict.tick().report.failed) == 1
    assert _settles(strict).report.quarantined == 1
    assert _quarantine(strict).keys() == {"bad"}


def test_a_port_that_fails_at_many_never_counts(world: Scenario) -> None:
    """Nobody keeps failing at one operation alone who fails at more than 5 % and 20."""
    world.limits = DeliveryLimits(max_refused=2)
    world.begin()
    _failing(world)
    _crowd(world, BAD["refused"], 3, good=3)
    for _ in range(4):
        world.tenant.create_resource(world.group, SITES, f"fine{world.runs}")
        assert len(world.tick().report.failed) == 3
    assert world.store.facts.put_aside("t").empty


@pytest.mark.parametrize("status", [500, 429])
def test_a_full_run_that_has_nothing_else_to_send_settles(world: Scenario, status: int) -> None:
    """By the API, an ordinary full run sends nothing but what is in quarantine."""
    _given_up(world)
    world.sandbox.faults.clear()
    for _ in range(7):  # until one sends nothing else
        world.sandbox.faults.add(Fault("port", status=status, in_body="poison", times=None))
        outcome = _settles(world, Mode.FULL)
        assert outcome.report.quarantined == 1
        world.sandbox.faults.clear()
    assert _quarantine(world)["bad"]["attempts"] == 10


def test_what_is_refused_again_out_of_quarantine_is_no_mistake_in_the_set_up(world: Scenario) -> None:
    """A person who has them tried again in vain had a failed run, although all of it was known."""
    world.begin()
    _refusing(world)
    _crowd(world, BAD["refused"], 3, good=10)
    _settles(world)
    assert len(_settles(world, retry_quarantined=True).report.refused) == 3
    assert [row["attempts"] for row in _quarantine(world).values()] == [2, 2, 2]


# -- whose parent Port does not hold ---------------------------------------------------------------------------------

GROUPS, SUBSCRIPTIONS = "azureResourceGroup", "azureSubscription"


@pytest.fixture
def strict(world: Scenario, api: PortApi) -> Scenario:
    """Delivers by Port's API, which refuses a relation to nothing."""
    deadline = timedelta(minutes=10)
    world.sink = ApiSink(api, concurrency=4, deadline=deadline)  # type: ignore[assignment]
    return world.begin()


def _someone_deletes(world: Scenario, *blueprints: str) -> None:
    """In Port, all of these containers, as a person does."""
    for blueprint in blueprints:
        for identifier in list(world.sandbox.held()[blueprint]):
            world.sandbox.delete_entity(blueprint, identifier)


@pytest.mark.parametrize("mode", [Mode.INCREMENTAL, Mode.FULL])
@pytest.mark.parametrize("crowd", [0, 30])
def test_a_group_that_someone_deleted_in_port_is_sent_again_before_what_waits_for_it(
    strict: Scenario, mode: Mode, crowd: int
) -> None:
    """Its resources stayed in quarantine for good; more than 20 of them failed every run."""
    world = strict
    _someone_deletes(world, GROUPS)
    for resource in (world.one, world.two):
        world.tenant.tag_resource(resource, {"a": "b"})
    _crowd(world, lambda n: {"name": f"new{n}"}, crowd, good=0)
    outcome = _settles(world)
    assert (outcome.report.accepted, len(outcome.report.orphaned)) == ({}, 2 + crowd)
    assert {row["cause"] for row in _quarantine(world).values()} == {"parent"}
    world.clock.sleep(timedelta(days=1).total_seconds())  # the records are long past
    assert _settles(world, mode).report.accepted == {"upsert": 3 + crowd}
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []
    _agrees(world)


def test_all_parents_that_someone_deleted_are_sent_again_from_the_top_down(strict: Scenario) -> None:
    world = strict
    _someone_deletes(world, GROUPS, SUBSCRIPTIONS)
    world.tenant.tag_resource(world.one, {"a": "b"})
    for _ in range(2):
        _settles(world)
    assert _quarantine(world).keys() == {"x1", "web"}
    _settles(world)
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []


def test_what_waits_for_a_parent_at_which_port_keeps_failing_goes_on_waiting(strict: Scenario) -> None:
    world = strict
    world.tenant.tag_resource(world.one, {"a": "b"})
    _someone_deletes(world, GROUPS)
    _settles(world)
    world.sandbox.faults.add(Fault("port", status=500, path=f"{GROUPS}/entities/bulk", times=None))
    for _ in range(4):
        world.tenant.retag_subscription(world.subscription, {"n": str(world.runs)})
        world.tick()
    assert {name: row["cause"] for name, row in _quarantine(world).items()} == {"web": "failing", "x1": "parent"}
    world.sandbox.faults.clear()
    _settles(world, Mode.FULL)
    assert _quarantine(world) == {}
    assert world.sandbox.compare().sentences() == []


def test_a_relation_to_nothing_beside_a_parent_that_port_holds_is_an_ordinary_refusal(strict: Scenario) -> None:
    """The mapping may have relations of its owner's: to send the group again in every run would help nobody."""
    world = strict
    missing = {"statusCode": 404, "index": 0, "identifier": "x1", "error": "not_found", "message": "no team"}
    body = {"ok": False, "entities": [], "errors": [missing]}
    world.sandbox.faults.add(Fault("port", status=207, body=body, path=f"{RESOURCES}/entities/bulk", times=None))
    world.tenant.tag_resource(world.one, {"a": "b"})
    _settles(world)
    assert _quarantine(world)["x1"]["cause"] == "parent"
    assert _settles(world).report.accepted == {"upsert": 1}  # the group
    assert _quarantine(world)["x1"]["cause"] == "refused"
    assert _settles(world).report.total == 0


# -- two ids in one identifier ---------------------------------------------------------------------------------------


def test_the_second_of_two_ids_is_told_as_soon_as_the_first_is_gone(world: Scenario) -> None:
    world.begin()
    spaced = world.tenant.create_resource(world.group, SITES, "a b")
    _settles(world)
    world.tenant.create_resource(world.group, SITES, "a_b")
    _settles(world)
    world.clock.sleep(timedelta(days=1).total_seconds())
    world.tenant.delete_resource(spaced)
    _settles(world)
    assert "a_b" not in _titles(world)

    outcome = _settles(world)

    assert (outcome.plan.mode, outcome.report.accepted) == (Mode.INCREMENTAL, {"upsert": 1})
    assert _quarantine(world) == {}
    assert "a_b" in _titles(world)
    _agrees(world)


def test_a_full_run_finds_out_that_the_first_of_two_ids_is_gone(world: Scenario) -> None:
    """Its Delete record is long past, and its identifier was seen: that of the other one."""
    world.begin()
    spaced = world.tenant.create_resource(world.group, SITES, "a b")
    _settles(world)
    world.tenant.create_resource(world.group, SITES, "a_b")
    _settles(world)
    world.tenant.delete_resource(spaced)
    world.clock.sleep(timedelta(days=20).total_seconds())
    assert _settles(world).plan.mode is Mode.FULL
    _settles(world)
    assert _quarantine(world) == {}
    assert _titles(world) == {"x1", "x2", "a_b"}


def test_of_two_new_ids_in_one_identifier_one_is_told_and_the_other_named(world: Scenario) -> None:
    world.begin()
    for name in ("a_b", "a b"):
        world.tenant.create_resource(world.group, SITES, name)
    _settles(world)
    assert _titles(world) == {"x1", "x2", "a b"}
    assert "/sites/a b, because Port takes no space" in _quarantine(world)["a_b"]["reason"]
    _agrees(world)


def test_a_guess_at_an_id_found_in_port_takes_no_identifier(world: Scenario, api: PortApi, tmp_path: Path) -> None:
    """Who begins with what Port holds guesses the ids of it; a run that was cut off then made one count for good."""
    world.begin()
    spaced = world.tenant.create_resource(world.group, SITES, "a b")
    _settles(world)
    held = world.sandbox.held()[RESOURCES][identifier_of(spaced)]
    world.sandbox.put_entity(RESOURCES, identifier_of(spaced), "Mine", held["properties"], held["relations"])
    with closing(StateStore(f"sqlite:///{tmp_path / 'another.sqlite'}", world.clock)) as world.store:
        world.sandbox.faults.add(Fault("port", status=503, in_body='"a b"', times=None))
        assert world.tick(catalog=api).report.not_delivered
        world.sandbox.faults.clear()

        outcome = _settles(world)

        assert outcome.stats.verdicts[Verdict.ID_CONFLICT] == 0
        assert _quarantine(world) == {}
        assert world.sandbox.compare().sentences() == []


# -- in a job --------------------------------------------------------------------------------------------------------


def test_the_quarantine_is_a_table_and_a_warning(operator: Operator, estate: dict[str, str]) -> None:
    tenant = operator.sandbox.tenant
    tenant.create_resource(estate["lab"], SITES, "a b")
    tenant.create_resource(estate["lab"], SITES, "a_b")
    tenant.create_resource(estate["lab"], SITES, f"long{LONG}")
    tenant.create_resource(estate["lab"], SITES, "bad", tags={**POISON, "large": "x" * 1000})
    operator.sandbox.faults.add(Fault("port", status=422, body={"message": "no"}, in_body="poison", times=None))

    result = operator.run("full_sync")

    assert result.success
    figures, checks = recorded(result), failed_checks(result)
    assert (figures["in_quarantine"], figures["refused"], figures["accepted"]) == (3, 2, len(estate) + 1)
    assert checks.keys() == {"quarantine_empty", "identifiers_valid", "no_stale_entities"}
    assert re.match(r"3 entities are in quarantine, the oldest since 2026-1.*: /subs", checks["quarantine_empty"])
    assert "; all are when the webhook's mapping changes." in checks["quarantine_empty"]
    table = {row.data["azure_id"].rpartition("/")[2]: row.data for row in figures["quarantine"].records}
    assert {name: (row["cause"], row["operation"], row["attempts"]) for name, row in table.items()} == {
        "a_b": ("conflict", "upsert", 0),
        f"long{LONG}": ("refused", "upsert", 1),
        "bad": ("refused", "upsert", 1),
    }
    assert all(len(row["payload"]) <= 300 and row["first"] == row["last"] for row in table.values())
    assert "ledger_matches_inventory" not in failed_checks(operator.run("full_sync"))


@pytest.mark.usefixtures("credentials")
def test_another_mapping_of_the_webhook_tries_the_quarantine_again(operator: Operator, estate: dict[str, str]) -> None:
    operator.sandbox.tenant.create_resource(estate["lab"], SITES, "bad", tags=POISON)
    operator.sandbox.faults.add(Fault("port", status=422, body={"message": "no"}, in_body="poison", times=None))
    assert operator.sync()["in_quarantine"] == 1
    operator.sandbox.faults.clear()
    operator.clock.sleep(timedelta(days=1).total_seconds())
    assert operator.sync()["in_quarantine"] == 1
    assert operator.run("port_setup").success
    figures = operator.sync()
    assert (figures["delivery"], figures["in_quarantine"]) == ("webhook_batch", 0)
    assert operator.sandbox.compare().sentences() == []
