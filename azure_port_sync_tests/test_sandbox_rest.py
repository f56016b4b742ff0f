"""The sandbox's REST API must behave as Port's does, or a client that passes here fails there."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import requests

from azure_port_sync.sandbox.client import SandboxClient, SandboxError
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import RefusedError, Throttle
from azure_port_sync.sandbox.rest import MAX_BODY_BYTES, TOKEN_SECONDS
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.conftest import NOW

Json = dict[str, Any]
GROUP = "azureResourceGroup"
RESOURCE = "azureCloudResources"
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
    said = answer.json()
    assert said.keys() == {"ok", "error", "message"}
    assert said["ok"] is False
    assert isinstance(said["error"], str)
    assert isinstance(said["message"], str)


# -- the token


def test_the_right_credentials_get_a_token(anonymous: Caller) -> None:
    said = anonymous.sign_in().json()
    assert said.keys() == {"ok", "accessToken", "expiresIn", "tokenType"}
    assert (said["ok"], said["expiresIn"], said["tokenType"]) == (True, TOKEN_SECONDS, "Bearer")
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
def test_nothing_is_told_without_a_token(refused: Caller, header: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(refused.session.headers, "Authorization", header)
    _is_error(refused.search(), 401)
    _is_error(refused.search("nowhere", {"limit": 0}), 401)
    _is_error(refused.ask("GET", f"blueprints/{RESOURCE}/entities-count"), 401)


def test_a_token_ends_by_the_clock_or_when_it_is_revoked(
    sandbox: Sandbox, client: SandboxClient, caller: Caller
) -> None:
    sandbox.clock.advance(timedelta(seconds=TOKEN_SECONDS - 1))
    assert caller.search().status_code == 200
    sandbox.clock.advance(timedelta(seconds=1))
    _is_error(caller.search(), 401)
    caller.sign_in()
    assert caller.search().status_code == 200
    client.revoke_tokens()
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
        ({"exclude": ["tags", "resourceGroup"]}, {"identifier": "/a", "title": "A", "properties": {"type": "t"}}),
        ({"include": ["$identifier", "type"], "exclude": ["type"]}, {"identifier": "/a"}),
        ({"include": []}, {}),
    ],
)
def test_only_what_is_included_and_not_excluded_is_shown(
    sandbox: Sandbox, caller: Caller, body: Json, shown: Json
) -> None:
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


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"combinator": "or", "rules": []}, "abc"),
        ({"combinator": "and", "rules": [{"property": "type", "operator": "=", "value": "vm"}]}, "ab"),
        ({"combinator": "and", "rules": [{"property": "type", "operator": "!=", "value": "vm"}]}, "c"),
        ({"combinator": "and", "rules": [{"property": "$title", "operator": "contains", "value": "orl"}]}, "b"),
        ({"combinator": "and", "rules": [{"property": "$title", "operator": "doesNotContains", "value": "l"}]}, "c"),
        ({"combinator": "and", "rules": [{"property": "$identifier", "operator": "beginsWith", "value": "/b"}]}, "b"),
        ({"combinator": "and", "rules": [{"property": "$identifier", "operator": "in", "value": ["/a", "/c"]}]}, "ac"),
        ({"combinator": "and", "rules": [{"property": "$identifier", "operator": "notIn", "value": ["/a"]}]}, "bc"),
        (
            {
                "combinator": "and",
                "rules": [
                    {"property": "type", "operator": "=", "value": "vm"},
                    {"property": "$title", "operator": "endsWith", "value": "ld"},
                ],
            },
            "b",
        ),
        (
            {
                "combinator": "or",
                "rules": [
                    {"property": "type", "operator": "=", "value": "disk"},
                    {"combinator": "and", "rules": [{"property": "$title", "operator": "=", "value": "hello"}]},
                ],
            },
            "ac",
        ),
    ],
)
def test_rules_on_texts(sandbox: Sandbox, caller: Caller, query: Json, found: str) -> None:
    sandbox.put_entity(RESOURCE, "/a", "hello", {"type": "vm"})
    sandbox.put_entity(RESOURCE, "/b", "world", {"type": "vm"})
    sandbox.put_entity(RESOURCE, "/c", None, {"type": "disk"})
    for limit in (1, 10):
        entities = caller.found(query=query, limit=limit)
        assert "".join(entity["identifier"][1:] for entity in entities) == found


def test_a_rule_that_the_sandbox_does_not_play_is_no_empty_answer(refused: Caller) -> None:
    rule = {"operator": "relatedTo", "blueprint": GROUP, "value": "/g"}
    _is_error(refused.search(body={"query": {"combinator": "and", "rules": [rule]}}), 501)


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
        {"exclude": {}},
        {"exclude": ["$colour"]},
        {"query": []},
        {"query": {}},
        {"query": {"combinator": "and"}},
        {"query": {"combinator": "xor", "rules": []}},
        {"query": {"combinator": "and", "rules": {}}},
        {"query": {"combinator": "and", "rules": ["type"]}},
        {"query": {"combinator": "and", "rules": [], "limit": 1}},
        {"combinator": "and", "rules": []},
        {"page": 1},
    ],
)
def test_a_search_that_does_not_fit_the_route(refused: Caller, body: Any) -> None:
    _is_error(refused.search(body=body), 422)


def test_a_body_may_have_one_mebibyte(refused: Caller) -> None:
    empty = len(b'{"exclude": []}')
    fits = b'{"exclude": [' + b" " * (MAX_BODY_BYTES - empty) + b"]}"
    assert refused.search(body=fits).status_code == 200
    _is_error(refused.search(body=fits + b" "), 413)


def test_a_blueprint_that_is_not_there(refused: Caller) -> None:
    _is_error(refused.search("nowhere"), 404)
    _is_error(refused.ask("GET", "blueprints/nowhere/entities-count"), 404)


def test_the_count(sandbox: Sandbox, caller: Caller) -> None:
    _fill(sandbox, 3)
    assert caller.ask("GET", f"blueprints/{RESOURCE}/entities-count").json() == {"ok": True, "count": 3}
    assert caller.ask("GET", f"blueprints/{GROUP}/entities-count").json() == {"ok": True, "count": 0}


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


@pytest.mark.parametrize("told", [True, False])
def test_a_throttle_ends_with_its_window(sandbox: Sandbox, client: SandboxClient, caller: Caller, told: bool) -> None:
    client.throttle_api(1, 10, retry_after=told)
    assert caller.search().status_code == 200
    sandbox.clock.advance(timedelta(seconds=4))
    refused = caller.search()
    _is_error(refused, 429)
    assert refused.headers.get("Retry-After") == ("6" if told else None)
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
    for method, path in [("POST", "blueprints"), ("DELETE", f"blueprints/{RESOURCE}/entities/x"), ("POST", "")]:
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


def test_what_port_refuses_a_person_is_said(sandbox: Sandbox, client: SandboxClient) -> None:
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
