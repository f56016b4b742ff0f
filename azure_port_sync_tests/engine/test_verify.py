"""Asking Port after a full run whether it holds what was sent: what people did shows, what is late is waited for."""

import copy
from typing import Any

import pytest

from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.request import Mode, Request
from azure_port_sync.engine.run import deliver_changes
from azure_port_sync.engine.verify import PATIENCE, Verification, verify
from azure_port_sync.port import model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.mapping import WebhookMapping
from azure_port_sync.sandbox.compare import identifier_of
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import Webhook
from azure_port_sync_tests.support.clocks import SteppedClock
from azure_port_sync_tests.support.operator import Operator, failed_checks
from azure_port_sync_tests.support.scenario import TICK, Scenario

SITES = "microsoft.web/sites"
RESOURCES = "azureCloudResources"
REFUSAL = {"ok": False, "error": "invalid", "message": "no"}


def _mappings(world: Scenario) -> list[dict[str, Any]]:
    (webhook,) = world.sandbox.port.webhooks.values()
    return webhook.mappings


def _sample(world: Scenario) -> tuple[dict[str, str], ...]:
    """A full run, and what of it is looked at afterwards."""
    world.clock.sleep(TICK)
    world.runs += 1
    change_set, _ = world.decide(Request(Mode.FULL), run=str(world.runs))
    assert deliver_changes(change_set, world.sink, world.store, world.clock).not_delivered == 0
    return change_set.sample


def _verified(world: Scenario, api: PortApi, sample: Any, mappings: Any = None) -> Verification:
    mapping = WebhookMapping(mappings or _mappings(world))
    return verify(api, mapping, world.store.ledger.counts("t"), sample, world.clock)


def test_a_port_that_holds_what_was_sent_is_believed_at_once(world: Scenario, api: PortApi) -> None:
    """Whichever of the two mappings is the webhook's."""
    sample = _sample(world.begin())
    slept = len(world.clock.slept)
    for mappings in (_mappings(world), model.webhook()["mappings"]):
        found = _verified(world, api, sample, mappings)
        assert (found.equal, found.differences, found.compared) == (True, [], 4)
        assert found.in_port == found.in_ledger == {Kind.SUBSCRIPTION: 1, Kind.RESOURCE_GROUP: 1, Kind.RESOURCE: 2}
    assert len(world.clock.slept) == slept


def test_what_people_did_in_port_is_named(world: Scenario, api: PortApi) -> None:
    sample = _sample(world.begin())
    edited, gone = identifier_of(world.one), identifier_of(world.two)
    hands, started = world.sandbox, world.clock.now()
    entity = hands.held()[RESOURCES][edited]
    hands.put_entity(RESOURCES, edited, "Mine", {**entity["properties"], "location": "nowhere"}, {})
    hands.delete_entity(RESOURCES, gone)
    hands.put_entity("azureSubscription", "by-hand", "By hand", {}, {})

    found = _verified(world, api, sample)

    group = identifier_of(world.group)
    assert sorted(found.differences) == sorted(
        [
            f"{edited}: title is 'Mine' and should be 'x1'",
            f"{edited}: location is 'nowhere' and should be 'westeurope'",
            f"{edited}: resourceGroup is None and should be '{group}'",
            f"{gone} is missing",
        ]
    )
    assert (found.equal, found.in_port[Kind.SUBSCRIPTION], found.in_ledger[Kind.SUBSCRIPTION]) == (False, 2, 1)
    assert (found.in_port[Kind.RESOURCE], found.in_ledger[Kind.RESOURCE]) == (1, 2)
    assert world.clock.now() - started >= PATIENCE


def test_an_entity_too_many_alone_is_a_difference(world: Scenario, api: PortApi) -> None:
    sample = _sample(world.begin())
    world.sandbox.put_entity(RESOURCES, "by-hand", None, {}, {})
    found = _verified(world, api, sample)
    assert (found.equal, found.differences) == (False, [])


def test_a_port_that_writes_late_is_waited_for(world: Scenario, api: PortApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers 202 and works events off later."""
    sample = _sample(world.begin())
    late = identifier_of(world.one)
    entity = world.sandbox.held()[RESOURCES][late]
    world.sandbox.delete_entity(RESOURCES, late)
    sleep, naps = world.clock.sleep, list[float]()

    def sleeps(seconds: float) -> None:
        sleep(seconds)
        naps.append(seconds)
        if len(naps) == 3:
            world.sandbox.put_entity(RESOURCES, late, **entity)

    monkeypatch.setattr(world.clock, "sleep", sleeps)
    assert _verified(world, api, sample).equal
    assert len(naps) == 3


def test_a_persons_own_mapping_is_what_entities_are_compared_with(world: Scenario, api: PortApi) -> None:
    """Also where it maps what is sent with a change and not in a full run: that lags behind, and is no fault."""
    catalog = world.sandbox.port.catalog
    blueprint = catalog.blueprints[RESOURCES]
    own = {name: {"type": "string"} for name in ("changed", "spelling", "owner")}
    catalog.add_blueprint({**blueprint, "schema": {"properties": {**blueprint["schema"]["properties"], **own}}})
    (guides,) = world.sandbox.port.webhooks.values()
    mappings = copy.deepcopy(guides.mappings)
    mappings[0]["entity"]["title"] = '"My " + .body.data.name'
    mappings[0]["entity"]["properties"] |= {
        "changed": ".body.data.changeTime",
        "spelling": ".body.data.id",
        "owner": ".body.data.tags.owner",
    }
    world.sandbox.port.add_webhook(Webhook(guides.key, mappings, guides.security))
    world.begin()
    world.tenant.tag_resource(world.one, {"owner": "me"})
    world.tick()
    sample = _sample(world)
    entity = world.sandbox.held()[RESOURCES][identifier_of(world.one)]
    assert entity["properties"]["changed"]
    assert _verified(world, api, sample).differences == []

    world.sandbox.put_entity(
        RESOURCES, identifier_of(world.one), "x1", {**entity["properties"], "owner": "you"}, entity["relations"]
    )
    one = identifier_of(world.one)
    assert sorted(_verified(world, api, sample).differences) == [
        f"{one}: owner is 'you' and should be 'me'",
        f"{one}: title is 'x1' and should be 'My x1'",
    ]


def test_twenty_are_looked_at_and_other_ones_each_time(world: Scenario) -> None:
    world.begin()
    world.tenant.create_resources([{"group_id": world.group, "type": SITES, "name": f"n{n}"} for n in range(60)])
    first, second = ({row["identifier"] for row in _sample(world)} for _ in range(2))
    assert len(first) == len(second) == 20
    assert first != second


def test_what_azure_still_shows_of_what_it_deleted_is_not_looked_at(world: Scenario) -> None:
    world.begin()
    world.tenant.set_delays(linger=[36000, 36000])
    world.tenant.delete_resource(world.one)
    world.tick()
    world.clock.sleep(3600)
    assert identifier_of(world.one) not in {row["identifier"] for row in _sample(world)}


def test_a_port_that_lost_something_warns_after_a_full_run(
    operator: Operator, estate: dict[str, str], credentials: None
) -> None:
    sandbox = operator.sandbox
    operator.sync()
    sandbox.delete_entity(RESOURCES, identifier_of(estate["vm"]))
    sandbox.tenant.tag_resource(estate["sql"], {"poison": "yes"})
    sandbox.faults.add(Fault("port", status=400, body=REFUSAL, in_body='"poison":"yes"', times=None))

    assert "port_holds_ledger" not in failed_checks(operator.run())
    result = operator.run("full_sync")

    assert result.success
    sentence = failed_checks(result)["port_holds_ledger"]
    assert "3 of 4 azureCloudResources" in sentence
    assert f"1 differences, the first: {identifier_of(estate['vm'])} is missing. Launch full_sync with" in sentence
    assert failed_checks(operator.run("full_sync", mode="full", rebuild_ledger=True)).keys() == {"quarantine_empty"}


def test_a_refusal_in_this_very_run_is_no_difference(
    operator: Operator, estate: dict[str, str], credentials: None, clock: SteppedClock
) -> None:
    operator.sandbox.faults.add(Fault("port", status=400, body=REFUSAL, in_body='"name":"sql"', times=None))
    assert failed_checks(operator.run("full_sync")).keys() == {"quarantine_empty"}


def test_an_api_that_does_not_answer_is_reported_and_fails_nothing(
    operator: Operator, estate: dict[str, str], credentials: None
) -> None:
    operator.sandbox.faults.add(Fault("port", status=500, path="/entities-count", times=None))
    result = operator.run("full_sync")
    assert result.success
    assert "Port's API could not be used for 5 minutes" in failed_checks(result)["port_holds_ledger"]
