"""The sandbox's REST API must behave as Port's does, or a client that passes here fails there."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import pytest
import requests

from azure_port_sync.sandbox.client import SandboxClient, SandboxError
from azure_port_sync.sandbox.compare import BLUEPRINTS
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import RefusedError, Throttle
from azure_port_sync.sandbox.rest import TOKEN_SECONDS
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.sandbox.shapes import MAX_BODY_BYTES
from azure_port_sync_tests.support.clocks import NOW

Json = dict[str, Any]
GROUP = "azureResourceGroup"
RESOURCE = "azureCloudResources"
SUBSCRIPTION = "azureSubscription"
WEBHOOK = "azureIncremental"
EVERYTHING = {"combinator": "and", "rules": []}


class Caller:
    """Speaks to the REST API as its specification says, with a token where it has one."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.environment = sandbox.api_environment()
        self.session = requests.Session()
        self.session.trust_env = False

    def ask(self, method: str, path: str, body: Any = None) -> requests.Response:
        data = body if isinstance(body, bytes) else None
        parsed = None if isinstance(body, bytes) else body
        url = f"{self.environment['PORT_BASE_URL']}/v1/{path}"
        return self.session.request(method, url, json=parsed, data=data, timeout=10)

    def sign_in(self, **other: Any) -> requests.Response:
        names = {"clientId": "PORT_CLIENT_ID", "clientSecret": "PORT_CLIENT_SECRET"}
        answer = self.ask(
            "POST", "auth/access_token", {name: self.environment[value] for name, value in names.items()} | other
        )
        if answer.ok:
            token = answer.json()
            self.session.headers["Authorization"] = f"{token['tokenType']} {token['accessToken']}"
        return answer

    def search(self, blueprint: str = RESOURCE, body: Any = None) -> requests.Response:
        return self.ask("POST", f"blueprints/{blueprint}/entities/search", body)

    def upsert(self, *entities: Any, blueprint: str = RESOURCE, query: str = "upsert=true") -> requests.Response:
        return self.ask("POST", f"blueprints/{blueprint}/entities/bulk?{query}", {"entities": list(entities)})

    def webhook(self, identifier: str) -> Json | None:
        """One of the webhooks that the account has."""
        webhooks: list[Json] = self.ask("GET", "webhooks").json()["integrations"]
        return next((one for one in webhooks if one["identifier"] == identifier), None)

    def delete(self, *identifiers: Any, blueprint: str = RESOURCE, dependents: str = "true") -> requests.Response:
        path = f"blueprints/{blueprint}/bulk/entities/delete?delete_dependents={dependents}"
        return self.ask("POST", path, {"entities": list(identifiers)})

    def send(self, webhook: Json, event: Any) -> int:
        """The status of an event that is sent to a webhook without a signature."""
        return requests.post(webhook["url"], json=event, timeout=10).status_code

    def found(self, blueprint: str = RESOURCE, **body: Any) -> list[Json]:
        """All entities, page by page."""
        entities: list[Json] = []
        while True:
            answer = self.search(blueprint, body)
            assert answer.status_code == 200, answer.text
            entities += answer.json()["entities"]
            if "next" not in answer.json():
                return entities
            body["from"] = answer.json()["next"]


@pytest.fixture
def anonymous(sandbox: Sandbox) -> Iterator[Caller]:
    caller = Caller(sandbox)
    yield caller
    caller.session.close()


@pytest.fixture
def caller(anonymous: Caller) -> Caller:
    assert anonymous.sign_in().ok
    return anonymous


@pytest.fixture(scope="module")
def refused() -> Iterator[Caller]:
    """Signed in to a sandbox of its own: for the many requests that are refused and leave it as it is."""
    with Sandbox(estate=False) as sandbox:
        caller = Caller(sandbox)
        assert caller.sign_in().ok
        yield caller
        caller.session.close()


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[SandboxClient]:
    with SandboxClient(sandbox.url) as client:
        yield client


def _is_error(answer: requests.Response, status: int) -> None:
    """An error has the shape that all of Port's errors have."""
    assert answer.status_code == status
    answered = answer.json()
    assert answered.keys() == {"ok", "error", "message"}
    assert answered["ok"] is False
    assert isinstance(answered["error"], str)
    assert isinstance(answered["message"], str)


# -- the token


def test_the_right_credentials_get_a_token(anonymous: Caller) -> None:
    answered = anonymous.sign_in().json()
    assert answered.keys() == {"ok", "accessToken", "expiresIn", "tokenType"}
    assert (answered["ok"], answered["expiresIn"], answered["tokenType"]) == (True, TOKEN_SECONDS, "Bearer")
    assert anonymous.search().status_code == 200


@pytest.mark.parametrize("wrong", [{"clientId": "x"}, {"clientSecret": "x"}, {"clientId": "x", "clientSecret": "y"}])
def test_wrong_credentials_get_none(refused: Caller, wrong: Json) -> None:
    _is_error(refused.sign_in(**wrong), 401)


@pytest.mark.parametrize("body", [None, b"", b"{", [], {}, {"clientId": "x"}, {"clientId": "x", "clientSecret": 1}])
def test_credentials_that_are_none_do_not_fit_the_route(refused: Caller, body: Any) -> None:
    _is_error(refused.ask("POST", "auth/access_token", body), 422)


def test_credentials_with_more_do_not_fit_the_route(refused: Caller) -> None:
    _is_error(refused.sign_in(grant="all"), 422)


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer x", "Basic x", "x"])
def test_nothing_is_answered_without_a_token(
    refused: Caller, header: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(refused.session.headers, "Authorization", header)
    _is_error(refused.search(), 401)
    _is_error(refused.search("nowhere", {"limit": 0}), 401)
    _is_error(refused.ask("GET", f"blueprints/{RESOURCE}/entities-count"), 401)


def test_a_token_ends_by_the_clock_or_when_it_is_revoked(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.clock.advance(timedelta(seconds=TOKEN_SECONDS - 1))
    assert caller.search().status_code == 200
    sandbox.clock.advance(timedelta(seconds=1))
    _is_error(caller.search(), 401)
    caller.sign_in()
    assert caller.search().status_code == 200
    sandbox.rest.revoke_tokens()
    _is_error(caller.search(), 401)


# -- a search


def _fill(sandbox: Sandbox, count: int) -> list[str]:
    for n in range(count):
        sandbox.put_entity(RESOURCE, f"/r{n:04d}", f"R {n}", {"type": "t", "location": "x", "tags": {"a": "b"}})
    return [f"/r{n:04d}" for n in range(count)]


def test_an_entity_has_what_the_specification_names_and_nothing_else(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.put_entity(RESOURCE, "/a", "A", {"type": "t"}, {"resourceGroup": "/g"})
    sandbox.put_entity(RESOURCE, "/b")
    answer = caller.search(body={"query": EVERYTHING}).json()
    assert answer == {
        "ok": True,
        "entities": [
            {"identifier": "/a", "title": "A", "properties": {"type": "t"}, "relations": {"resourceGroup": "/g"}},
            {"identifier": "/b"},
        ],
    }


def test_an_empty_blueprint_has_no_entities_and_no_next(caller: Caller) -> None:
    assert caller.search().json() == {"ok": True, "entities": []}


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            {"include": ["$identifier", "$title", "type"]},
            {"identifier": "/a", "title": "A", "properties": {"type": "t"}},
        ),
        ({"include": ["$identifier"]}, {"identifier": "/a"}),
        ({"include": ["resourceGroup"]}, {"relations": {"resourceGroup": "/g"}}),
        ({"include": ["$createdAt", "$blueprint"]}, {"createdAt": "2026-11-23T10:00:00.000Z", "blueprint": RESOURCE}),
        ({"include": []}, {}),
    ],
)
def test_only_what_is_included_is_shown(sandbox: Sandbox, caller: Caller, body: Json, shown: Json) -> None:
    sandbox.put_entity(RESOURCE, "/a", "A", {"type": "t", "tags": {}}, {"resourceGroup": "/g"})
    assert caller.search(body=body).json()["entities"] == [shown]


@pytest.mark.parametrize(("body", "pages"), [({"limit": 1000}, 1), ({}, 2), ({"limit": 100}, 3), ({"limit": 1}, 201)])
def test_pages_are_as_large_as_asked_and_come_to_an_end(
    sandbox: Sandbox, caller: Caller, body: Json, pages: int
) -> None:
    there = _fill(sandbox, 201)
    assert [entity["identifier"] for entity in caller.found(**body)] == there
    assert sandbox.rest.requests["search 200"] == pages


def test_a_last_page_that_is_full_has_no_next(sandbox: Sandbox, caller: Caller) -> None:
    _fill(sandbox, 4)
    caller.found(limit=2)
    assert sandbox.rest.requests["search 200"] == 2


def test_what_changes_between_pages_moves_nothing_else(sandbox: Sandbox, caller: Caller) -> None:
    """An entity that is there all the time is seen once, whatever is added and deleted before it."""
    _fill(sandbox, 6)
    first = caller.search(body={"limit": 2}).json()
    for gone in ("/r0000", "/r0001", "/r0003"):
        sandbox.delete_entity(RESOURCE, gone)
    sandbox.put_entity(RESOURCE, "/a-first")
    sandbox.put_entity(RESOURCE, "/z-last")
    rest = caller.found(limit=2, **{"from": first["next"]})
    assert [entity["identifier"] for entity in rest] == ["/r0002", "/r0004", "/r0005", "/z-last"]


def test_what_the_sandbox_does_not_play_is_no_empty_answer(refused: Caller) -> None:
    rule = {"property": "type", "operator": "=", "value": "vm"}
    _is_error(refused.search(body={"query": {"combinator": "and", "rules": [rule]}}), 501)
    _is_error(refused.search(body={"exclude": ["type"]}), 501)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"[" * 100_000,
        {"limit": 0},
        {"limit": 1001},
        {"limit": "10"},
        {"limit": True},
        {"limit": None},
        {"from": 1},
        {"from": ""},
        {"from": "no cursor"},
        {"from": "/w=="},
        {"include": "type"},
        {"include": [1]},
        {"include": ["colour"]},
        {"query": []},
        {"query": {}},
        {"query": {"combinator": "and"}},
        {"query": {"combinator": "xor", "rules": []}},
        {"query": {"combinator": "and", "rules": {}}},
        {"query": {"combinator": "and", "rules": [], "limit": 1}},
        {"combinator": "and", "rules": []},
        {"page": 1},
    ],
)
def test_a_search_that_does_not_fit_the_route(refused: Caller, body: Any) -> None:
    _is_error(refused.search(body=body), 422)


def test_a_body_may_have_one_mebibyte(refused: Caller) -> None:
    empty = len(b'{"include": []}')
    fits = b'{"include": [' + b" " * (MAX_BODY_BYTES - empty) + b"]}"
    assert refused.search(body=fits).status_code == 200
    _is_error(refused.search(body=fits + b" "), 413)


def test_a_blueprint_that_is_not_there(refused: Caller) -> None:
    _is_error(refused.search("nowhere"), 404)
    _is_error(refused.ask("GET", "blueprints/nowhere/entities-count"), 404)


def test_the_count(sandbox: Sandbox, caller: Caller) -> None:
    _fill(sandbox, 3)
    assert caller.ask("GET", f"blueprints/{RESOURCE}/entities-count").json() == {"ok": True, "count": 3}
    assert caller.ask("GET", f"blueprints/{GROUP}/entities-count").json() == {"ok": True, "count": 0}


# -- blueprints


def _blueprint(**parts: Any) -> Json:
    properties = {"size": {"type": "number"}, "name": {"type": "string", "title": "Name", "format": "url"}}
    return {"identifier": "disk", "title": "Disk", "schema": {"properties": properties}} | parts


def _relation(**parts: Any) -> Json:
    return {"host": {"target": RESOURCE, "required": False, "many": False} | parts}


def test_the_blueprints_of_the_guide_are_there(refused: Caller) -> None:
    for identifier in (SUBSCRIPTION, GROUP, RESOURCE):
        answer = refused.ask("GET", f"blueprints/{identifier}")
        assert (answer.status_code, answer.json()["ok"]) == (200, True)
        blueprint = answer.json()["blueprint"]
        assert blueprint["identifier"] == identifier
        names = {"title", "schema", "relations", "createdAt", "createdBy", "updatedAt", "updatedBy"}
        assert names <= blueprint.keys()


def test_a_created_blueprint_takes_entities_at_once(caller: Caller) -> None:
    answer = caller.ask("POST", "blueprints?create_catalog_page=false", _blueprint(relations=_relation(target="disk")))
    assert answer.status_code == 201
    assert answer.json()["blueprint"].items() >= _blueprint().items()
    assert caller.upsert({"identifier": "a", "properties": {"size": 1}}, blueprint="disk").status_code == 200
    assert caller.ask("GET", "blueprints/disk/entities-count").json()["count"] == 1


def test_a_blueprint_that_is_there_is_not_created_again(refused: Caller) -> None:
    _is_error(refused.ask("POST", "blueprints", _blueprint(identifier=RESOURCE)), 409)


@pytest.mark.parametrize(
    "parts",
    [
        {"identifier": ""},
        {"identifier": ".."},
        {"identifier": "a b"},
        {"identifier": "a=b"},
        {"identifier": "x" * 101},
        {"title": ""},
        {"title": "x" * 101},
        {"title": None},
        {"description": "x" * 201},
        {"schema": None},
        {"schema": {}},
        {"schema": {"properties": {}, "more": 1}},
        {"schema": {"properties": {"a": {}}}},
        {"schema": {"properties": {"a": {"type": "date"}}}},
        {"schema": {"properties": {"a": {"type": "string", "format": "colour"}}}},
        {"schema": {"properties": {"a b": {"type": "string"}}}},
        {"schema": {"properties": {}, "required": ["a"]}},
        {"relations": {"host": {"target": RESOURCE}}},
        {"relations": _relation(required=True, many=True)},
        {"relations": _relation(target="nowhere")},
        {"relations": _relation(colour="red")},
    ],
)
def test_a_blueprint_that_does_not_fit_the_route(refused: Caller, parts: Json) -> None:
    _is_error(refused.ask("POST", "blueprints", _blueprint(**parts)), 422)
    _is_error(refused.ask("GET", "blueprints/disk"), 404)


def test_what_a_blueprint_has_no_more_its_entities_have_no_more(sandbox: Sandbox, caller: Caller) -> None:
    caller.ask("POST", "blueprints", _blueprint(relations=_relation()))
    sandbox.put_entity("disk", "a", None, {"size": 1, "name": "x"}, {"host": "/h"})
    less = {"schema": {"properties": {"size": {"type": "number"}}}, "relations": {}}
    assert caller.ask("PATCH", "blueprints/disk", less).status_code == 200
    assert sandbox.held()["disk"]["a"] == {"title": None, "properties": {"size": 1}, "relations": {}}


def test_a_patched_blueprint_keeps_what_is_not_named(caller: Caller) -> None:
    before = caller.ask("GET", f"blueprints/{GROUP}").json()["blueprint"]
    answer = caller.ask("PATCH", f"blueprints/{GROUP}", {"title": "Groups", "schema": {"properties": {}}})
    assert answer.status_code == 200
    patched = caller.ask("GET", f"blueprints/{GROUP}").json()["blueprint"]
    changed = {"title": "Groups", "schema": {"properties": {}}, "updatedAt": "2026-11-23T10:00:00.000Z"}
    assert patched == before | changed
    _is_error(caller.ask("PATCH", f"blueprints/{GROUP}", {"title": ""}), 422)
    _is_error(caller.ask("PATCH", "blueprints/nowhere", {}), 404)


def test_an_identifier_with_slashes_is_one_part_of_the_path(caller: Caller) -> None:
    assert caller.ask("POST", "blueprints", _blueprint(identifier="a/b")).status_code == 201
    assert caller.ask("GET", f"blueprints/{quote('a/b', safe='')}").status_code == 200
    _is_error(caller.ask("GET", "blueprints/a/b"), 404)


# -- webhooks


def _hook(**parts: Any) -> Json:
    mapping = {"blueprint": RESOURCE, "entity": {"identifier": ".body.id", "title": ".body.name"}}
    return {"identifier": "mine", "title": "Mine", "enabled": True, "mappings": [mapping]} | parts


def test_a_created_webhook_works_at_its_address_at_once(sandbox: Sandbox, caller: Caller) -> None:
    answer = caller.ask("POST", "webhooks", _hook(description="d", integrationType="custom", security={}))
    assert answer.status_code == 201
    webhook = answer.json()["integration"]
    assert webhook.items() >= _hook(description="d", integrationType="custom", security={}).items()
    assert webhook["url"] == f"{sandbox.url}/{webhook['webhookKey']}"
    assert caller.send(webhook, {"id": "a", "name": "A"}) == 202
    assert sandbox.held()[RESOURCE]["a"]["title"] == "A"
    assert caller.webhook("mine") == webhook


def test_a_webhook_without_an_identifier_gets_one(caller: Caller) -> None:
    webhook = caller.ask("POST", "webhooks", {"title": "T", "enabled": True}).json()["integration"]
    assert caller.webhook(webhook["identifier"]) == webhook


def test_the_webhook_of_the_guide_is_listed_with_what_it_was_made_of(sandbox: Sandbox, caller: Caller) -> None:
    (webhook,) = caller.ask("GET", "webhooks").json()["integrations"]
    environment = sandbox.environment()
    assert (webhook["identifier"], webhook["enabled"]) == (WEBHOOK, True)
    assert webhook["url"] == environment["PORT_WEBHOOK_INGEST_URL"]
    assert webhook["security"]["secret"] == environment["PORT_WEBHOOK_SECRET"]
    assert len(webhook["mappings"]) == 6


def test_patched_mappings_are_in_force_at_once(sandbox: Sandbox, caller: Caller) -> None:
    before = caller.webhook(WEBHOOK)
    assert before is not None
    answer = caller.ask("PATCH", f"webhooks/{WEBHOOK}", {"mappings": _hook()["mappings"], "security": {}})
    assert answer.status_code == 200
    after = answer.json()["integration"]
    assert after == before | {"mappings": _hook()["mappings"], "security": {}}
    assert caller.send(after, {"id": "a"}) == 202
    assert list(sandbox.held()[RESOURCE]) == ["a"]


def test_a_disabled_webhook_accepts_events_and_drops_them(sandbox: Sandbox, caller: Caller) -> None:
    webhook = caller.ask("POST", "webhooks", _hook(enabled=False)).json()["integration"]
    assert caller.send(webhook, {"id": "a"}) == 202
    assert (sandbox.held()[RESOURCE], sandbox.port.events) == ({}, 0)
    caller.ask("PATCH", "webhooks/mine", {"enabled": True})
    assert caller.send(webhook, {"id": "a"}) == 202
    assert list(sandbox.held()[RESOURCE]) == ["a"]


def test_a_secret_without_the_name_of_a_header_fits_no_event(caller: Caller) -> None:
    webhook = caller.ask("POST", "webhooks", _hook(security={"secret": "s", "signaturePrefix": None})).json()
    assert caller.send(webhook["integration"], {"id": "a"}) == 401


def test_a_webhook_that_is_there_is_not_created_again(refused: Caller) -> None:
    _is_error(refused.ask("POST", "webhooks", _hook(identifier=WEBHOOK)), 409)


def test_a_webhook_that_is_not_there(refused: Caller) -> None:
    _is_error(refused.ask("PATCH", "webhooks/nobody", _hook(identifier="nobody")), 404)


def _mapped(**parts: Any) -> Json:
    return {"mappings": [_hook()["mappings"][0] | parts]}


@pytest.mark.parametrize(
    "parts",
    [
        {"identifier": "x" * 31},
        {"title": "x" * 31},
        {"title": None},
        {"description": "x" * 201},
        {"enabled": None},
        {"colour": "red"},
        {"integrationType": "other"},
        {"security": {"signatureAlgorithm": "md5"}},
        {"security": {"password": "x"}},
        {"security": {"secret": 1}},
        {"mappings": {}},
        {"mappings": [1]},
        {"mappings": [{"blueprint": RESOURCE}]},
        {"mappings": [{"entity": {"identifier": ".a"}}]},
        _mapped(colour="red"),
        _mapped(filter=True),
        _mapped(entity={"title": ".a"}),
        _mapped(entity={"identifier": ".a", "colour": "red"}),
        _mapped(operation="replace"),
        _mapped(operation={"type": "create", "deleteDependents": True}),
        _mapped(operation={"type": "delete", "deleteDependents": 1}),
        _mapped(operation="delete", entity={"identifier": ".a", "title": ".b"}),
    ],
)
def test_a_webhook_that_does_not_fit_the_route(refused: Caller, parts: Json) -> None:
    _is_error(refused.ask("POST", "webhooks", _hook(**parts)), 422)
    assert refused.webhook("mine") is None


@pytest.mark.parametrize(
    "entity",
    [
        {"identifier": ".a", "icon": "Azure"},
        {"identifier": {"combinator": "and", "rules": []}},
        {"identifier": ".a", "relations": {"resourceGroup": {"combinator": "and", "rules": []}}},
    ],
)
def test_a_mapping_that_the_sandbox_does_not_play_is_not_taken(refused: Caller, entity: Json) -> None:
    _is_error(refused.ask("POST", "webhooks", _hook(**_mapped(entity=entity))), 501)


@pytest.mark.parametrize("path", [f"blueprints/{GROUP}", f"webhooks/{WEBHOOK}"])
def test_a_new_identifier_for_what_there_is_is_not_played(refused: Caller, path: str) -> None:
    _is_error(refused.ask("PATCH", path, {"identifier": "other"}), 501)


# -- entities


def _path(identifier: str, blueprint: str = RESOURCE) -> str:
    return f"blueprints/{blueprint}/entities/{quote(identifier, safe='')}"


def test_an_entity_is_found_again(caller: Caller) -> None:
    entity = {"identifier": "/a", "title": "A", "properties": {"type": "t", "tags": {}}, "relations": {}}
    assert caller.upsert(entity).status_code == 200
    assert caller.ask("GET", _path("/a")).json() == {"ok": True, "entity": entity}
    _is_error(caller.ask("GET", f"blueprints/{RESOURCE}/entities//a"), 404)  # its slash is not encoded
    _is_error(caller.ask("GET", _path("/b")), 404)


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("upsert=true", {"title": None, "properties": {"tags": {}}, "relations": {}}),
        (
            "upsert=true&merge=true",
            {"title": "A", "properties": {"type": "t", "tags": {}}, "relations": {"resourceGroup": "/g"}},
        ),
    ],
)
def test_an_upsert_replaces_the_entity_or_merges_into_it(
    sandbox: Sandbox, caller: Caller, query: str, left: Json
) -> None:
    sandbox.put_entity(RESOURCE, "/a", "A", {"type": "t"}, {"resourceGroup": "/g"})
    assert caller.upsert({"identifier": "/a", "properties": {"tags": {}}}, query=query).status_code == 200
    assert sandbox.held()[RESOURCE]["/a"] == left


@pytest.mark.parametrize(
    "query", ["upsert=false", "upsert=true&create_missing_related_entities=true", "upsert=true&validation_only=true"]
)
def test_an_upsert_that_the_sandbox_does_not_play_is_not_done(sandbox: Sandbox, caller: Caller, query: str) -> None:
    _is_error(caller.upsert({"identifier": "/a"}, query=query), 501)
    assert sandbox.held()[RESOURCE] == {}


def test_what_a_blueprint_requires_an_entity_must_have(sandbox: Sandbox, caller: Caller) -> None:
    schema = {"properties": {"size": {"type": "number"}}, "required": ["size"]}
    caller.ask("POST", "blueprints", _blueprint(schema=schema, relations=_relation(required=True)))
    sandbox.put_entity(RESOURCE, "/h")
    whole = {"identifier": "a", "properties": {"size": 1}, "relations": {"host": "/h"}}
    without = [whole | {"properties": {}}, whole | {"relations": {}}]
    answered = caller.upsert(*without, whole, blueprint="disk").json()
    assert [one["statusCode"] for one in answered["errors"]] == [422, 422]
    assert len(answered["entities"]) == 1
    assert caller.upsert({"identifier": "a"}, blueprint="disk", query="upsert=true&merge=true").status_code == 200


@pytest.mark.parametrize(
    "query", ["", "upsert=1", "merge=true", "upsert=true&merge=yes", "upsert=true&validation_only="]
)
def test_a_query_that_does_not_fit_an_upsert(refused: Caller, query: str) -> None:
    _is_error(refused.upsert({"identifier": "a"}, query=query), 422)


@pytest.mark.parametrize(
    "entity",
    [
        [],
        {},
        {"identifier": None},
        {"identifier": "a b"},
        {"identifier": "x" * 1001},
        {"identifier": "a", "title": None},
        {"identifier": "a", "properties": []},
        {"identifier": "a", "relations": {"resourceGroup": 1}},
        {"identifier": "a", "relations": {"resourceGroup": "a b"}},
    ],
)
def test_an_entity_that_does_not_fit_the_route_takes_its_neighbours_along(refused: Caller, entity: Any) -> None:
    _is_error(refused.upsert({"identifier": "good"}, entity), 422)
    _is_error(refused.ask("GET", _path("good")), 404)


@pytest.mark.parametrize("entity", [{"identifier": {"combinator": "and", "rules": []}}])
def test_an_entity_that_is_searched_for_is_not_played(refused: Caller, entity: Json) -> None:
    _is_error(refused.upsert(entity), 501)


def test_a_bulk_says_of_each_entity_whether_it_is_new(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.put_entity(RESOURCE, "/a", "old")
    answer = caller.upsert({"identifier": "/a", "title": "A"}, {"identifier": "/b", "title": "B"})
    assert answer.status_code == 200
    assert answer.json() == {
        "ok": True,
        "entities": [
            {"created": False, "identifier": "/a", "index": 0},
            {"created": True, "identifier": "/b", "index": 1},
        ],
        "errors": [],
    }
    assert [one["title"] for one in sandbox.held()[RESOURCE].values()] == ["A", "B"]


def test_a_bulk_writes_what_it_can_and_says_what_it_cannot(sandbox: Sandbox, caller: Caller) -> None:
    answer = caller.upsert(
        {"identifier": "/a", "relations": {"resourceGroup": "/nowhere"}},
        {"identifier": "/b"},
        {"identifier": "/c", "properties": {"colour": "red"}},
        {"identifier": "/d", "properties": {"type": 1}},
    )
    assert answer.status_code == 207
    answered = answer.json()
    assert [(one["identifier"], one["index"]) for one in answered["entities"]] == [("/b", 1)]
    errors = [(one["identifier"], one["index"], one["statusCode"]) for one in answered["errors"]]
    assert errors == [("/a", 0, 404), ("/c", 2, 422), ("/d", 3, 422)]
    assert all(one.keys() == {"identifier", "index", "statusCode", "error", "message"} for one in answered["errors"])
    assert answered["ok"] is False
    assert list(sandbox.held()[RESOURCE]) == ["/b"]
    assert sandbox.rest.items == {"upserted": 1, "refused": 3}


@pytest.mark.parametrize(("count", "status"), [(0, 422), (20, 200), (21, 422)])
def test_a_bulk_has_1_to_20_entities(caller: Caller, count: int, status: int) -> None:
    assert caller.upsert(*({"identifier": f"/{n}"} for n in range(count))).status_code == status


@pytest.mark.parametrize("body", [b"", b"[]", {}, {"entities": {}}, {"entities": [{"identifier": "a"}], "more": 1}])
def test_a_bulk_that_does_not_fit_the_route(refused: Caller, body: Any) -> None:
    _is_error(refused.ask("POST", f"blueprints/{RESOURCE}/entities/bulk?upsert=true", body), 422)


def test_a_bulk_may_have_one_mebibyte(caller: Caller) -> None:
    empty = len(b'{"entities": [{"identifier": "a", "title": ""}]}')
    title = b"x" * (MAX_BODY_BYTES - empty)
    path = f"blueprints/{RESOURCE}/entities/bulk?upsert=true"
    fits = b'{"entities": [{"identifier": "a", "title": "' + title + b'"}]}'
    assert caller.ask("POST", path, fits).status_code == 200
    _is_error(caller.ask("POST", path, fits + b" "), 413)


def test_entities_of_no_blueprint(refused: Caller) -> None:
    _is_error(refused.upsert({"identifier": "a"}, blueprint="nowhere"), 404)
    _is_error(refused.delete("a", blueprint="nowhere"), 404)
    _is_error(refused.ask("GET", _path("a", "nowhere")), 404)


def test_one_entity_is_deleted_once(sandbox: Sandbox, caller: Caller) -> None:
    sandbox.put_entity(RESOURCE, "/a")
    _is_error(caller.ask("DELETE", _path("/a")), 422)
    assert caller.ask("DELETE", _path("/a") + "?delete_dependents=false").json() == {"ok": True}
    _is_error(caller.ask("DELETE", _path("/a") + "?delete_dependents=false"), 404)


@pytest.fixture
def family(sandbox: Sandbox) -> Sandbox:
    """A group with one resource, and one without any."""
    sandbox.put_entity(GROUP, "/g")
    sandbox.put_entity(GROUP, "/empty")
    sandbox.put_entity(RESOURCE, "/r", relations={"resourceGroup": "/g"})
    return sandbox


def test_a_delete_takes_dependents_only_when_asked_to(family: Sandbox, caller: Caller) -> None:
    _is_error(caller.ask("DELETE", _path("/g", GROUP) + "?delete_dependents=false"), 422)
    assert list(family.held()[RESOURCE]) == ["/r"]
    assert caller.ask("DELETE", _path("/g", GROUP) + "?delete_dependents=true").status_code == 200
    assert family.held()[RESOURCE] == {}


def test_a_bulk_delete_names_what_was_there(family: Sandbox, caller: Caller) -> None:
    answer = caller.delete("/empty", "/nowhere", "/g", "/g", blueprint=GROUP)
    assert (answer.status_code, answer.json()) == (200, {"ok": True, "deletedEntities": ["/empty", "/g"]})
    assert not any(family.held().values())


def test_a_bulk_delete_deletes_nothing_where_one_has_dependents(family: Sandbox, caller: Caller) -> None:
    _is_error(caller.delete("/empty", "/g", blueprint=GROUP, dependents="false"), 422)
    assert list(family.held()[GROUP]) == ["/g", "/empty"]


@pytest.mark.parametrize(("count", "status"), [(0, 422), (1, 200), (100, 200), (101, 422)])
def test_a_bulk_delete_has_1_to_100_identifiers(refused: Caller, count: int, status: int) -> None:
    assert refused.delete(*(f"/{n}" for n in range(count))).status_code == status


def test_a_bulk_delete_that_does_not_fit_the_route(refused: Caller) -> None:
    _is_error(refused.delete("a", dependents="maybe"), 422)
    _is_error(refused.delete(1), 422)
    _is_error(refused.ask("POST", f"blueprints/{RESOURCE}/bulk/entities/delete", {"entities": ["a"]}), 422)


def test_count_only_acknowledges_bulks_and_stores_nothing(
    sandbox: Sandbox, client: SandboxClient, caller: Caller
) -> None:
    client.count_only()
    answered = caller.upsert({"identifier": "/a", "relations": {"resourceGroup": "/g"}}, {"identifier": "/b"}).json()
    assert [one["created"] for one in answered["entities"]] == [True, True]
    assert caller.delete("/a", "/b", "/c").json() == {"ok": True, "deletedEntities": ["/a", "/b", "/c"]}
    assert client.state()["port_api_items"] == {"upserted": 2, "deleted": 3}
    assert not any(sandbox.held().values())


# -- limits, faults and neighbours


def test_every_answer_says_how_much_is_left(sandbox: Sandbox, anonymous: Caller) -> None:
    sandbox.rest.throttle(Throttle(limit=3, window_seconds=60))
    answers = [anonymous.sign_in(), anonymous.search(), anonymous.search("nowhere"), anonymous.search()]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 429]
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
    for answer in answers:
        assert answer.headers["x-ratelimit-limit"] == "3"
        assert answer.headers["x-ratelimit-period"] == "60"
        assert answer.headers["x-ratelimit-reset"] == str(int(NOW.timestamp()) + 60)


def test_the_reset_is_given_in_seconds_from_now_on_order(
    sandbox: Sandbox, client: SandboxClient, caller: Caller
) -> None:
    client.throttle_api(3, 60)
    sandbox.rest.reset_form = "seconds"
    assert caller.search().headers["x-ratelimit-reset"] == "60"
    client.advance_clock(20)
    assert caller.search().headers["x-ratelimit-reset"] == "40"
    sandbox.rest.reset_form = "epoch"
    assert caller.search().headers["x-ratelimit-reset"] == str(int(NOW.timestamp()) + 60)


def test_each_kind_of_route_has_its_published_limit(caller: Caller) -> None:
    limits = {
        "100": caller.sign_in(),
        "35000": caller.upsert({"identifier": "a"}),
        "15000": caller.ask("GET", "webhooks"),
    }
    for limit, answer in limits.items():
        assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-period"]) == (limit, "300")


@pytest.mark.parametrize("asks", [True, False])
def test_a_throttle_ends_with_its_window(sandbox: Sandbox, client: SandboxClient, caller: Caller, asks: bool) -> None:
    client.throttle_api(1, 10, retry_after=asks)
    assert caller.search().status_code == 200
    sandbox.clock.advance(timedelta(seconds=4))
    refused = caller.search()
    _is_error(refused, 429)
    assert refused.headers.get("Retry-After") == ("6" if asks else None)
    sandbox.clock.advance(timedelta(seconds=6))
    assert [caller.search().status_code for _ in range(2)] == [200, 429]
    client.lift_api_throttle()
    assert caller.search().status_code == 200


def test_both_of_ports_hosts_have_their_own_limit(client: SandboxClient, caller: Caller) -> None:
    client.throttle(0, 10)
    assert caller.search().status_code == 200


def test_faults_strike_the_rest_api(client: SandboxClient, caller: Caller) -> None:
    client.fault(Fault("port", status=502, path="/entities/search"))
    assert caller.ask("GET", f"blueprints/{RESOURCE}/entities-count").status_code == 200
    assert [caller.search().status_code for _ in range(2)] == [502, 200]
    assert client.state()["port_api"] == {"requests": {"token 200": 1, "count 200": 1, "search 200": 1}}


def test_what_is_no_route_of_the_api_is_no_webhook_either(sandbox: Sandbox, caller: Caller) -> None:
    for method, path in [("POST", "pages"), ("DELETE", f"blueprints/{RESOURCE}"), ("PUT", "webhooks/x"), ("POST", "")]:
        _is_error(caller.ask(method, path), 404)
    assert sandbox.port.requests.total() == 0


# -- a person in Port


def test_a_person_adds_edits_and_deletes_entities(sandbox: Sandbox, client: SandboxClient) -> None:
    client.put_entity(RESOURCE, "/a-1", "A", {"type": "t", "tags": {}}, {"resourceGroup": "/g"})
    client.put_entity(RESOURCE, "/a-1", "B", {"type": "u"})
    (entity,) = client.entities(RESOURCE).values()
    assert (entity["title"], entity["properties"], entity["relations"]) == ("B", {"type": "u"}, {})
    client.delete_entity(RESOURCE, "/a-1")
    assert client.entities(RESOURCE) == {}
    assert sandbox.port.requests.total() == 0


def test_a_person_deletes_one_entity_and_nothing_that_depends_on_it(sandbox: Sandbox) -> None:
    sandbox.put_entity(GROUP, "/g", "G")
    sandbox.put_entity(RESOURCE, "/r", "R", relations={"resourceGroup": "/g"})
    sandbox.delete_entity(GROUP, "/g")
    held = sandbox.held()
    assert held[GROUP] == {}
    assert held[RESOURCE]["/r"]["relations"] == {"resourceGroup": "/g"}


def test_a_person_reads_what_port_refuses(sandbox: Sandbox, client: SandboxClient) -> None:
    with pytest.raises(SandboxError, match="does not take"):
        client.put_entity(RESOURCE, "a b")
    with pytest.raises(SandboxError, match="no property 'colour'"):
        client.put_entity(RESOURCE, "/a", properties={"colour": "red"})
    with pytest.raises(SandboxError, match="no entity '/a'"):
        client.delete_entity(RESOURCE, "/a")
    with pytest.raises(SandboxError, match="no blueprint 'nowhere'"):
        client.delete_entity("nowhere", "/a")
    with pytest.raises(RefusedError):
        sandbox.delete_entity(RESOURCE, "/a")


def test_the_settings_of_the_api_come_apart_from_the_others(sandbox: Sandbox, client: SandboxClient) -> None:
    """Most runs have no API credentials, so the usual environment has none either."""
    environment = sandbox.api_environment()
    assert environment.keys() == {"PORT_CLIENT_ID", "PORT_CLIENT_SECRET", "PORT_BASE_URL"}
    assert client.api_environment() == environment
    assert not environment.keys() & sandbox.environment().keys()


# -- an empty account


def test_an_empty_account_is_filled_over_the_api() -> None:
    with Sandbox(estate=False, guide=False) as sandbox, SandboxClient(sandbox.url) as client:
        assert not any(name.startswith("PORT_") for name in client.environment())
        caller = Caller(sandbox)
        assert caller.sign_in().ok
        assert sandbox.held() == {}
        assert caller.ask("GET", "webhooks").json() == {"ok": True, "integrations": []}
        for path in ("/api/summary", "/api/children"):
            assert requests.get(sandbox.url + path, timeout=10).status_code == 200
        caller.ask("POST", "blueprints", _blueprint())
        assert caller.upsert({"identifier": "a", "title": "A"}, blueprint="disk").status_code == 200
        found = requests.get(f"{sandbox.url}/api/search", params={"q": "a"}, timeout=10).json()
        assert [row["identifier"] for row in found["rows"]] == ["a"]
        sandbox.reset(NOW)
        assert sandbox.held() == {}
        caller.session.close()


def test_a_reset_sandbox_has_the_guide_as_it_was(sandbox: Sandbox, caller: Caller) -> None:
    def model() -> list[Json]:
        blueprints = [caller.ask("GET", f"blueprints/{one}").json()["blueprint"] for one in BLUEPRINTS]
        stamps = {"createdAt", "updatedAt"}
        return [{name: one[name] for name in one.keys() - stamps} for one in blueprints] + [
            caller.ask("GET", "webhooks").json()
        ]

    before = model()
    caller.ask("PATCH", f"blueprints/{SUBSCRIPTION}", {"title": "Other"})
    caller.ask("POST", "blueprints", _blueprint())
    caller.ask("PATCH", f"webhooks/{WEBHOOK}", {"mappings": []})
    caller.ask("POST", "webhooks", _hook())
    sandbox.port.webhooks[before[-1]["integrations"][0]["webhookKey"]].enabled = False
    sandbox.reset(NOW)
    assert sandbox.rest.requests.total() == 0
    assert [len(part) for part in (sandbox.port.catalog.blueprints, sandbox.port.webhooks)] == [3, 1]
    assert model() == before
