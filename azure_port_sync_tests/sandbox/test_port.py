"""The sandbox's Port must behave as Port does, or a product that passes here fails there."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from azure_port_sync import sandbox
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.port import MAX_BODY_BYTES, Port, RefusedError, Throttle, Webhook, port_app
from azure_port_sync.sandbox.port.entity import check_identifier
from azure_port_sync.sandbox.serving import Server

GUIDE = Path(sandbox.__file__).parent / "guide"
BLUEPRINTS = json.loads((GUIDE / "blueprints.json").read_text())
IDENTIFIERS = json.loads((Path(__file__).parent / "identifier_cases.json").read_text(encoding="utf-8"))
MAPPING = json.loads((GUIDE / "webhook_mapping.json").read_text())
SUB = "/subscriptions/11111111-2222-3333-4444-555555555555"
GROUP = f"{SUB}/resourcegroups/rg-web"
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC)
VM = f"{GROUP}/providers/microsoft.compute/virtualmachines/vm-1"

Json = dict[str, Any]


class Served:
    """A Port with the guide's blueprints and a webhook `guide` with the guide's mapping, reached over HTTP."""

    def __init__(self) -> None:
        self.clock = SandboxClock()
        self.port = Port(self.clock)
        self.server = Server(port_app(self.port), 0)
        self.session = requests.Session()
        self.session.trust_env = False

    def set_up(self) -> None:
        """Begin anew."""
        self.clock.set(NOW)
        self.port.remove_all()
        self.port.clear()
        for blueprint in BLUEPRINTS:
            self.port.catalog.add_blueprint(blueprint)
        self.port.add_webhook(Webhook("guide", MAPPING))

    def post(self, body: bytes | Json, key: str = "guide", **headers: str) -> requests.Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.server.port}/{key}"
        return self.session.post(url, data=data, headers=headers, timeout=10)

    def accept(self, *events: Json, key: str = "guide") -> None:
        for event in events:
            assert self.post(event, key).status_code == 202

    def hook(self, *mappings: Json, **security: str) -> None:
        """Another webhook, `other`."""
        self.port.add_webhook(Webhook("other", list(mappings), security))

    def entities(self, blueprint: str) -> dict[str, Json]:
        entities = self.port.catalog.entities[blueprint]
        return {identifier: entity.as_json() for identifier, entity in entities.items()}

    def reasons(self) -> list[str]:
        return [failure.reason for failure in self.port.catalog.failures]


@pytest.fixture(scope="module")
def started() -> Iterator[Served]:
    it = Served()
    it.server.start()
    yield it
    it.session.close()
    it.server.stop()


@pytest.fixture
def served(started: Served) -> Served:
    started.set_up()
    return started


def event(kind: str, operation: str, **data: Any) -> Json:
    return {"operation": operation, "type": kind, "data": {"subscriptionId": SUB.split("/")[2]} | data}


def subscription(operation: str = "upsert", **data: Any) -> Json:
    usual = {"resourceId": SUB, "name": "Production", "type": "microsoft.resources/subscriptions", "tags": None}
    return event("resourceContainer", operation, **usual | data)


def group(operation: str = "upsert", **data: Any) -> Json:
    usual = {
        "resourceId": GROUP,
        "name": "rg-Web",
        "type": "microsoft.resources/subscriptions/resourcegroups",
        "location": "westeurope",
        "resourceGroup": "rg-web",
        "tags": {"env": "prod"},
    }
    return event("resourceContainer", operation, **usual | data)


def vm(operation: str = "upsert", **data: Any) -> Json:
    usual = {
        "resourceId": VM,
        "name": "VM-1",
        "type": "microsoft.compute/virtualmachines",
        "location": "northeurope",
        "resourceGroup": "rg-web",
        "tags": {"owner": "Jürgen"},
    }
    return event("resource", operation, **usual | data)


# -- the guide's mapping


def test_upserts_of_all_three_kinds_are_mapped_as_the_guide_says(served: Served) -> None:
    served.accept(subscription(), group(), vm())
    now = "2026-11-23T10:00:00.000Z"
    assert served.entities("azureSubscription")[SUB] == {
        "blueprint": "azureSubscription",
        "identifier": SUB,
        "title": "Production",
        "properties": {"subscriptionId": SUB.split("/")[2], "tags": None},
        "relations": {},
        "createdAt": now,
        "updatedAt": now,
    }
    assert served.entities("azureResourceGroup")[GROUP] == {
        "blueprint": "azureResourceGroup",
        "identifier": GROUP,
        "title": "rg-Web",
        "properties": {"location": "westeurope", "tags": {"env": "prod"}},
        "relations": {"subscription": SUB},
        "createdAt": now,
        "updatedAt": now,
    }
    assert served.entities("azureCloudResources")[VM] == {
        "blueprint": "azureCloudResources",
        "identifier": VM,
        "title": "VM-1",
        "properties": {
            "location": "northeurope",
            "tags": {"owner": "Jürgen"},
            "type": "microsoft.compute/virtualmachines",
        },
        "relations": {"resourceGroup": GROUP},
        "createdAt": now,
        "updatedAt": now,
    }
    assert served.reasons() == []


def test_spaces_become_underscores_in_identifier_and_relation(served: Served) -> None:
    served.accept(vm(resourceId=f"{SUB}/resourcegroups/my rg/x y", resourceGroup="my rg"))
    (entity,) = served.entities("azureCloudResources").values()
    assert entity["identifier"] == f"{SUB}/resourcegroups/my_rg/x_y"
    assert entity["relations"] == {"resourceGroup": f"{SUB}/resourcegroups/my_rg"}


@pytest.mark.parametrize(
    ("event", "left"), [(vm("delete"), [1, 2, 1]), (group("delete"), [1, 1, 0]), (subscription("delete"), [0, 1, 0])]
)
def test_a_delete_takes_all_dependents_and_nothing_else(served: Served, event: Json, left: list[int]) -> None:
    another = group(resourceId="/subscriptions/other/resourcegroups/g", subscriptionId="other")
    served.accept(subscription(), group(), vm(), vm(resourceId=VM + "2"), another)
    served.accept(event)
    blueprints = ("azureSubscription", "azureResourceGroup", "azureCloudResources")
    assert [len(served.entities(blueprint)) for blueprint in blueprints] == left
    assert served.reasons() == []


def test_dependents_follow_a_relation_that_moved(served: Served) -> None:
    elsewhere = f"{SUB}/resourcegroups/rg-else"
    served.accept(group(), group(resourceId=elsewhere), vm(), vm(resourceGroup="rg-else"))
    served.accept(group("delete"))
    assert VM in served.entities("azureCloudResources")
    served.accept(group("delete", resourceId=elsewhere))
    assert served.entities("azureCloudResources") == {}


def test_a_delete_of_what_is_not_there_is_no_failure(served: Served) -> None:
    served.accept(vm("delete"))
    assert served.reasons() == []
    assert served.port.catalog.counts["azureCloudResources"] == {"absent": 1}


def test_delete_without_dependents_is_refused_while_there_are_some(served: Served) -> None:
    served.hook(
        {
            "blueprint": "azureResourceGroup",
            "operation": {"type": "delete", "deleteDependents": False},
            "entity": {"identifier": ".body.data.resourceId"},
        }
    )
    served.accept(group(), vm())
    served.accept(group("delete"), key="other")
    assert GROUP in served.entities("azureResourceGroup")
    assert served.reasons() == ["1 entities depend on it and deleteDependents is false"]
    served.accept(vm("delete"))
    served.accept(group("delete"), key="other")
    assert served.entities("azureResourceGroup") == {}


def test_an_upsert_merges_what_is_given_and_keeps_the_rest(served: Served) -> None:
    entity = {"identifier": ".body.data.resourceId", "title": ".body.data.name", "properties": {"tags": "{a: 1}"}}
    served.hook({"blueprint": "azureCloudResources", "entity": entity})
    served.accept(vm())
    served.clock.advance(timedelta(minutes=1))
    served.accept(vm(name="other"), key="other")
    merged = served.entities("azureCloudResources")[VM]
    assert merged["title"] == "other"
    assert merged["properties"] == {
        "tags": {"a": 1},
        "type": "microsoft.compute/virtualmachines",
        "location": "northeurope",
    }
    assert merged["relations"] == {"resourceGroup": GROUP}
    assert (merged["createdAt"], merged["updatedAt"]) == ("2026-11-23T10:00:00.000Z", "2026-11-23T10:01:00.000Z")


def test_counts_tell_created_updated_unchanged_and_deleted_apart(served: Served) -> None:
    served.accept(vm(), vm(), vm(name="x"), group(), group("delete"))
    assert served.port.catalog.counts["azureCloudResources"] == {
        "created": 1,
        "unchanged": 1,
        "updated": 1,
        "deleted": 1,
    }
    noted = [(one.operation, one.identifier, one.dependents) for one in served.port.catalog.activity]
    assert noted == [("created", VM, 0), ("updated", VM, 0), ("created", GROUP, 0), ("deleted", GROUP, 1)]


# -- what Port refuses after its 202


@pytest.mark.parametrize("identifier", IDENTIFIERS["accepted"])
def test_an_identifier_that_fits_ports_pattern_is_taken(identifier: str) -> None:
    assert check_identifier(identifier) == identifier


@pytest.mark.parametrize("identifier", IDENTIFIERS["rejected"])
def test_an_identifier_that_does_not_fit_ports_pattern_is_refused(identifier: str) -> None:
    with pytest.raises(RefusedError):
        check_identifier(identifier)


def test_identifiers_that_port_takes(served: Served) -> None:
    taken = ["/s/rg/данные", "a", "...", "a@b_c.d+e:f\\g/h=i-j", "x" * 1000, "/s/r=28g=29"]
    served.accept(*(vm(resourceId=identifier) for identifier in taken))
    assert list(served.entities("azureCloudResources")) == taken
    assert served.reasons() == []


def test_identifiers_that_port_refuses_are_accepted_and_only_logged(served: Served) -> None:
    refused = {
        **{f"a{bad}b": f"the identifier holds {bad!r}" for bad in "()&#,~'%*!$;|\t\"[]{}<>?^`½"},
        ".": "the identifier may not be '.'",
        "..": "the identifier may not be '..'",
        "": 'the identifier is "", not a text',
        "x" * 1001: "the identifier is 1001 characters long",
    }
    served.accept(*(vm(resourceId=identifier) for identifier in refused), vm(resourceId=None))
    assert served.entities("azureCloudResources") == {}
    for said, reason in zip(served.reasons(), [*refused.values(), "the identifier is null"], strict=True):
        assert said.startswith(reason)


def test_an_identifier_that_is_no_text_is_refused(served: Served) -> None:
    served.hook({"blueprint": "azureCloudResources", "entity": {"identifier": ".body.id"}})
    served.accept({"id": 5}, key="other")
    assert served.reasons() == ["the identifier is 5, not a text"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"resourceGroup": "rg(1)"}, "the relation 'resourceGroup': the identifier holds '('"),
        ({"tags": '{"a": "b"}'}, "the property 'tags' is not of type object"),
        ({"location": ["westeurope"]}, "the property 'location' is not of type string"),
    ],
)
def test_entities_that_do_not_fit_the_blueprint_are_only_logged(served: Served, data: Json, reason: str) -> None:
    served.accept(vm(**data))
    assert served.entities("azureCloudResources") == {}
    (said,) = served.reasons()
    assert reason in said


@pytest.mark.parametrize(
    ("mapping", "reason"),
    [
        ({"blueprint": "nowhere", "entity": {"identifier": "'x'"}}, "there is no blueprint 'nowhere'"),
        (
            {"blueprint": "azureCloudResources", "entity": {"identifier": "'x'", "properties": {"sku": "1"}}},
            "the blueprint has no property 'sku'",
        ),
        (
            {"blueprint": "azureCloudResources", "entity": {"identifier": "'x'", "relations": {"owner": "'y'"}}},
            "the blueprint has no relation 'owner'",
        ),
    ],
)
def test_mappings_that_do_not_fit_the_blueprints_are_only_logged(served: Served, mapping: Json, reason: str) -> None:
    served.hook(mapping)
    served.accept({}, key="other")
    assert served.reasons() == [reason]


def test_a_relation_to_nothing_is_kept(served: Served) -> None:
    served.accept(vm())
    assert served.entities("azureCloudResources")[VM]["relations"] == {"resourceGroup": GROUP}
    assert [entity.identifier for entity in served.port.catalog.unattached()] == [VM]
    assert served.reasons() == []


# -- mappings


def test_of_many_items_only_the_first_500_are_read(served: Served) -> None:
    served.hook(
        {
            "blueprint": "azureCloudResources",
            "filter": ".item.keep and .body.source == 'test'",
            "itemsToParse": ".body.items",
            "entity": {"identifier": ".item.id", "title": ".body.source"},
        }
    )
    items = [{"id": f"i{n}", "keep": n != 3} for n in range(501)]
    served.accept({"source": "test", "items": items}, key="other")
    entities = served.entities("azureCloudResources")
    assert set(entities) == {f"i{n}" for n in range(500) if n != 3}
    assert entities["i499"]["title"] == "test"
    assert served.reasons() == []


def test_items_that_are_no_list_make_nothing(served: Served) -> None:
    mapping = {"blueprint": "azureCloudResources", "itemsToParse": ".body.items", "entity": {"identifier": "'x'"}}
    served.hook(mapping)
    served.accept({"items": {"id": "x"}}, {}, key="other")
    assert served.entities("azureCloudResources") == {}


def test_a_broken_expression_is_null_and_harms_no_other(served: Served) -> None:
    entity = {
        "identifier": ".body.id",
        "title": ".body | error('boom')",
        "properties": {"type": ".tags['env']", "location": '"x") | ("y"', "tags": "$item"},
    }
    served.hook(
        {"blueprint": "azureCloudResources", "filter": "select(.a == 'b')", "entity": entity},
        {"blueprint": "azureCloudResources", "filter": '.body.id == "a" # only a', "entity": entity},
    )
    served.accept({"id": "a"}, key="other")
    assert served.entities("azureCloudResources")["a"]["title"] is None
    assert served.entities("azureCloudResources")["a"]["properties"] == {"type": None, "location": None, "tags": None}
    assert served.reasons() == []


def test_headers_and_query_are_part_of_what_a_mapping_sees(served: Served) -> None:
    entity = {"identifier": '.headers."x-source" + .queryParams.more'}
    served.hook({"blueprint": "azureCloudResources", "entity": entity})
    assert served.post({}, "other?more=-two", **{"X-Source": "one"}).status_code == 202
    assert list(served.entities("azureCloudResources")) == ["one-two"]


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"blueprint": "b", "operation": "replace", "entity": {"identifier": "1"}}, "create or delete, not 'replace'"),
        ({"blueprint": "b", "operation": "delete", "entity": {"identifier": "1", "title": "2"}}, "nothing else"),
        ({"blueprint": "b", "entity": {"identifier": "1", "icon": "2"}}, "does not play these parts"),
    ],
)
def test_a_mapping_that_port_or_the_sandbox_does_not_know_is_an_error(mapping: Json, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Webhook("key", [mapping])


def test_concurrent_posts_are_all_mapped(served: Served) -> None:
    def send(lot: int) -> None:
        with requests.Session() as session:
            for n in range(40):
                url = f"http://127.0.0.1:{served.server.port}/guide"
                assert session.post(url, json=vm(resourceId=f"{VM}-{lot}-{n}"), timeout=10).status_code == 202

    threads = [threading.Thread(target=send, args=(lot,)) for lot in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(served.entities("azureCloudResources")) == {f"{VM}-{lot}-{n}" for lot in range(8) for n in range(40)}


# -- what Port answers


def test_bodies_up_to_512_kib_are_taken(served: Served) -> None:
    empty = len(json.dumps(vm(name="")))
    assert served.post(vm(name="x" * (MAX_BODY_BYTES - empty))).status_code == 202
    assert served.post(vm(name="y" * (MAX_BODY_BYTES - empty + 1))).status_code == 413
    assert served.entities("azureCloudResources")[VM]["title"] == "x" * (MAX_BODY_BYTES - empty)


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b'{"a": Infinity}', b"\xff", b"{} {}", b'{"a": "\n"}'])
def test_what_is_not_json_is_answered_400(served: Served, body: bytes) -> None:
    assert served.post(body).status_code == 400
    assert served.port.requests == {400: 1}


def test_an_unknown_webhook_is_answered_404(served: Served) -> None:
    assert served.post(vm(), key="nobody").status_code == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
def test_a_signed_webhook_takes_only_the_right_signature(served: Served, algorithm: str) -> None:
    served.hook(
        *MAPPING,
        secret="s3cret",
        signatureHeaderName="X-Signature",
        signatureAlgorithm=algorithm,
        signaturePrefix="v1=",
    )
    body = json.dumps(vm()).encode()
    right = hmac.new(b"s3cret", body, algorithm).hexdigest()
    wrong = hashlib.new(algorithm, body).hexdigest()
    for value in (f"v1={wrong}", right, "", "v1="):
        assert served.post(body, "other", **{"X-Signature": value}).status_code == 401
    assert served.post(body, "other").status_code == 401
    assert served.entities("azureCloudResources") == {}
    assert served.post(body, "other", **{"X-Signature": f"v1={right}"}).status_code == 202
    assert list(served.entities("azureCloudResources")) == [VM]


def test_a_plain_signature_is_the_secret(served: Served) -> None:
    served.hook(*MAPPING, secret="s3cret", signatureHeaderName="X-Signature", signatureAlgorithm="plain")
    assert served.post(vm(), "other", **{"X-Signature": "other"}).status_code == 401
    assert served.post(vm(), "other", **{"X-Signature": "s3cret"}).status_code == 202


@pytest.mark.parametrize("retry_after", ["7", None])
def test_throttling_follows_the_sandbox_clock(served: Served, retry_after: str | None) -> None:
    served.port.throttle(Throttle(limit=2, window_seconds=10, retry_after=retry_after is not None))
    assert [served.post(vm()).status_code for _ in range(2)] == [202, 202]
    served.clock.advance(timedelta(seconds=3))
    refused = served.post(vm(resourceId="x"))
    assert (refused.status_code, refused.headers.get("Retry-After")) == (429, retry_after)
    served.clock.advance(timedelta(seconds=7))
    assert [served.post(vm()).status_code for _ in range(3)] == [202, 202, 429]
    served.port.throttle(None)
    assert served.post(vm()).status_code == 202
    assert "x" not in served.entities("azureCloudResources")


def test_count_only_acknowledges_and_maps_nothing(served: Served) -> None:
    served.port.count_only = True
    served.accept(vm(), vm())
    assert served.entities("azureCloudResources") == {}
    counters = served.port.counters()
    assert (counters["events"], counters["bytes"]) == (2, 2 * len(json.dumps(vm())))


def test_the_items_of_a_batch_are_counted_each(served: Served) -> None:
    served.accept({"items": [vm(), vm()]}, vm(), {"items": "none"}, {"items": []})
    counters = served.port.counters()
    assert (counters["events"], counters["items"]) == (4, 4)
    served.port.count_only = True
    served.accept({"items": [vm()] * 3})
    assert (served.port.events, served.port.items) == (5, 7)
    assert served.entities("azureCloudResources").keys() == {VM}


def test_count_only_still_wants_json(served: Served) -> None:
    served.port.count_only = True
    assert served.post(b"{").status_code == 400
    assert served.port.items == 0
