"""The sandbox as a whole: its oracle sees every difference, its faults strike, its doors open and shut."""

import hashlib
import hmac
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from azure_port_sync.sandbox.client import SandboxClient, SandboxError
from azure_port_sync.sandbox.compare import BLUEPRINTS, differences, expected_catalog, identifier_of
from azure_port_sync.sandbox.estate import seed
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port.guide import SIGNATURE_HEADER
from azure_port_sync.sandbox.server import Sandbox

Json = dict[str, Any]


@pytest.fixture(scope="module")
def estate() -> Iterator[Sandbox]:
    """A sandbox with its estate, for tests that leave it as it is."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Sandbox:
    """A sandbox whose tenant is one group with two resources, and whose clock runs."""
    shared_sandbox.reset(datetime.now(UTC))
    shared_sandbox.clock.resume()
    tenant = shared_sandbox.tenant
    subscription = tenant.add_subscription("Production", {"env": "prod"}, subscription_id="AAAA-1")
    group = tenant.add_group(subscription, "rg (web)", "westeurope", {"Env": "Prod"})
    tenant.create_resource(group, "Microsoft.Compute/virtualMachines", "vm one", tags={"owner": "Jürgen"})
    tenant.create_resource(group, "Microsoft.Storage/storageAccounts", "st1")
    return shared_sandbox


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[SandboxClient]:
    with SandboxClient(sandbox.url) as client:
        yield client


def escaped(text: str) -> str:
    """As the product sends it: the space is left to the mapping."""
    return " ".join(identifier_of(part) for part in text.split(" "))


def post(sandbox: Sandbox, event: Json) -> requests.Response:
    environment = sandbox.environment()
    body = json.dumps(event).encode()
    digest = hmac.new(environment["PORT_WEBHOOK_SECRET"].encode(), body, hashlib.sha256).hexdigest()
    headers = {SIGNATURE_HEADER: f"sha256={digest}"}
    return requests.post(environment["PORT_WEBHOOK_INGEST_URL"], data=body, headers=headers, timeout=10)


def send(sandbox: Sandbox, operation: str, row: Json) -> None:
    """Tell Port of one row of the tenant."""
    kind = "resourceContainer" if row["type"].startswith("microsoft.resources/") else "resource"
    data = {
        "resourceId": escaped(row["id"]),
        "name": row["name"],
        "type": row["type"],
        "location": row["location"],
        "tags": row["tags"],
        "subscriptionId": row["subscriptionId"].lower(),
        "resourceGroup": escaped(row["resourceGroup"]),
    }
    answer = post(sandbox, {"operation": operation, "type": kind, "data": data})
    assert answer.status_code == 202, answer.text


def fill(sandbox: Sandbox) -> None:
    """A perfect synchroniser."""
    for row in [*sandbox.tenant.containers(), *sandbox.tenant.resources()]:
        send(sandbox, "upsert", row)


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


# -- the oracle


def test_a_filled_catalog_equals_the_whole_estate(estate: Sandbox) -> None:
    fill(estate)
    found = estate.compare()
    assert found.sentences() == []
    assert found.equal
    assert found.counts["azureCloudResources"]["tenant"] == found.counts["azureCloudResources"]["catalog"] > 300
    assert list(estate.port.catalog.failures) == []


def test_what_the_catalog_lacks_is_missing(sandbox: Sandbox, client: SandboxClient) -> None:
    fill(sandbox)
    (row,) = [row for row in sandbox.tenant.resources() if row["name"] == "vm one"]
    send(sandbox, "delete", row)
    found = client.comparison()
    identifier = "/subscriptions/aaaa-1/resourcegroups/rg_=28web=29/providers/microsoft.compute/virtualmachines/vm_one"
    assert not found["equal"]
    assert found["missing"] == {"azureSubscription": [], "azureResourceGroup": [], "azureCloudResources": [identifier]}
    assert found["counts"]["azureCloudResources"] == {"tenant": 2, "catalog": 1}
    assert found["sentences"] == [f"azureCloudResources: missing: {identifier}"]


def test_what_the_tenant_lacks_is_extra(sandbox: Sandbox, client: SandboxClient) -> None:
    fill(sandbox)
    (row,) = [row for row in sandbox.tenant.resources() if row["name"] == "st1"]
    client.tenant("delete_resource", resource_id=row["id"])
    found = client.comparison()
    assert [name.rsplit("/", 1)[-1] for name in found["extra"]["azureCloudResources"]] == ["st1"]
    assert "not in the tenant" in found["sentences"][0]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "new"}, "title is 'new', should be 'st1'"),
        ({"tags": {"a": "b"}}, "tags is {'a': 'b'}, should be "),
        ({"location": "x"}, "location is 'x', should be 'westeurope'"),
        ({"resourceGroup": "g"}, "resourceGroup is '/subscriptions/aaaa-1/resourcegroups/g', should be "),
    ],
)
def test_what_is_not_the_same_is_different(sandbox: Sandbox, change: Json, sentence: str) -> None:
    fill(sandbox)
    (row,) = [row for row in sandbox.tenant.resources() if row["name"] == "st1"]
    send(sandbox, "upsert", row | change)
    found = sandbox.compare()
    assert (found.missing["azureCloudResources"], found.extra["azureCloudResources"]) == ([], [])
    assert not found.equal
    (said,) = found.sentences()
    assert sentence in said


def test_a_null_property_equals_an_absent_one_and_many_differences_are_counted() -> None:
    def entity(**properties: object) -> Json:
        return {"title": "t", "properties": properties, "relations": {}}

    assert differences({"b": {"i": entity(tags=None)}}, {"b": {"i": entity()}}).equal
    many = differences({"b": {str(n): entity() for n in range(9)}}, {})
    assert many.sentences(shown=2) == ["b: missing: 0", "b: missing: 1", "b: missing: and 7 more"]


@pytest.mark.parametrize(
    ("azure_id", "identifier"),
    [
        ("/subscriptions/AB/resourceGroups/RG-1", "/subscriptions/ab/resourcegroups/rg-1"),
        ("/a/rg(1)", "/a/rg=281=29"),
        ("/a/Failure Anomalies - app", "/a/failure_anomalies_-_app"),
        ("/a/x=y%", "/a/x=3dy=25"),
        ("/a/DATEN für ½", "/a/daten_für_=c2=bd"),
        ("/a/данные", "/a/данные"),
        ("/a/#&,~'*!$;|", "/a/=23=26=2c=7e=27=2a=21=24=3b=7c"),
        ("/a/b@c_d.e+f:g\\h-9", "/a/b@c_d.e+f:g\\h-9"),
    ],
)
def test_identifiers_follow_the_rule(azure_id: str, identifier: str) -> None:
    assert identifier_of(azure_id) == identifier


def rows() -> tuple[list[Json], list[Json]]:
    """Two subscriptions, the second without a row of its own; three groups; one resource in each."""
    subscription = {"id": "/subscriptions/S1", "name": "One", "type": "microsoft.resources/subscriptions"}
    containers: list[Json] = [
        subscription | {"location": "", "tags": None, "subscriptionId": "S1", "resourceGroup": ""}
    ]
    resources: list[Json] = []
    for sub, name, tags in [
        ("S1", "Prod", {"Env": "PROD", "team": "a"}),
        ("S1", "dev", {"env": "dev", "team": "a"}),
        ("S2", "bare", None),
    ]:
        group = f"/subscriptions/{sub}/resourceGroups/{name}"
        common: Json = {"location": "l", "subscriptionId": sub, "resourceGroup": name.lower()}
        kind = "microsoft.resources/subscriptions/resourcegroups"
        containers.append(common | {"id": group, "name": name, "type": kind, "tags": tags})
        vm = {"id": f"{group}/providers/P/T/{name}", "name": name, "type": "P/T", "tags": None, "rgTags": tags}
        resources.append(common | vm)
    return containers, resources


def test_a_subscription_seen_only_through_its_groups_is_expected_by_its_id() -> None:
    expected = expected_catalog(*rows())
    assert expected["azureSubscription"]["/subscriptions/s2"] == {
        "title": "s2",
        "properties": {"subscriptionId": "s2", "tags": None},
        "relations": {},
    }
    assert expected["azureSubscription"]["/subscriptions/s1"]["title"] == "One"


@pytest.mark.parametrize(
    ("scope", "groups"),
    [
        ({}, {"prod", "dev", "bare"}),
        ({"include": {"ENV": "prod"}}, {"prod"}),
        ({"include": {"team": "A"}}, {"prod", "dev"}),
        ({"include": {"team": "a", "env": "dev"}}, {"dev"}),
        ({"include": {"env": "pro"}}, set()),
        ({"exclude": {"Env": "Dev"}}, {"prod", "bare"}),
        ({"exclude": {"env": "dev", "TEAM": "a"}}, {"bare"}),
        ({"include": {"team": "a"}, "exclude": {"env": "dev"}}, {"prod"}),
    ],
)
def test_tag_filters_choose_groups_with_their_resources(scope: Json, groups: set[str]) -> None:
    expected = expected_catalog(*rows(), **scope)
    assert {one.rsplit("/", 1)[-1] for one in expected["azureResourceGroup"]} == groups
    assert {one.rsplit("/", 1)[-1] for one in expected["azureCloudResources"]} == groups
    assert set(expected["azureSubscription"]) == {"/subscriptions/s1", "/subscriptions/s2"}


def test_resource_types_choose_resources_only() -> None:
    containers, resources = rows()
    other = resources[0] | {"id": resources[0]["id"] + "x", "type": "other/type"}
    expected = expected_catalog(containers, [*resources, other], resource_types=["OTHER/Type"])
    assert [one["properties"]["type"] for one in expected["azureCloudResources"].values()] == ["other/type"]
    assert len(expected["azureResourceGroup"]) == 3


def test_of_two_ids_with_one_identifier_the_first_is_expected_and_too_long_ones_are_not() -> None:
    containers, resources = rows()
    pair = [resources[0] | {"id": "/x y", "name": "first"}, resources[0] | {"id": "/x_y", "name": "second"}]
    expected = expected_catalog(containers, [*pair, resources[0] | {"id": "/" + "z" * 1000}])
    assert {one: entity["title"] for one, entity in expected["azureCloudResources"].items()} == {"/x_y": "first"}


def test_the_scope_reaches_the_comparison_over_http(client: SandboxClient) -> None:
    counts = client.comparison(include={"env": "prod"})["counts"]
    assert [one["tenant"] for one in counts.values()] == [1, 1, 2]
    counts = client.comparison(exclude={"env": "prod"})["counts"]
    assert [one["tenant"] for one in counts.values()] == [1, 0, 0]
    counts = client.comparison(resource_types=["microsoft.storage/storageaccounts"])["counts"]
    assert [one["tenant"] for one in counts.values()] == [1, 1, 1]


# -- faults


def ask_azure(sandbox: Sandbox) -> requests.Response:
    environment = sandbox.environment()
    return requests.post(
        f"{sandbox.azure_url}/{environment['AZURE_TENANT_ID']}/oauth2/v2.0/token",
        data={
            "grant_type": "client_credentials",
            "client_id": environment["AZURE_CLIENT_ID"],
            "client_secret": environment["AZURE_CLIENT_SECRET"],
            "scope": "https://management.azure.com/.default",
        },
        verify=environment["REQUESTS_CA_BUNDLE"],
        timeout=10,
    )


def test_a_status_fault_fires_as_often_as_ordered_and_then_no_more(sandbox: Sandbox, client: SandboxClient) -> None:
    client.fault(Fault("port", status=429, headers={"Retry-After": "1"}, body={"why": "busy"}, skip=1, times=2))
    answers = [post(sandbox, {"n": n}) for n in range(4)]
    assert [answer.status_code for answer in answers] == [202, 429, 429, 202]
    assert (answers[1].headers["Retry-After"], answers[1].json()) == ("1", {"why": "busy"})
    (fault,) = client.faults()
    assert (fault.seen, fault.fired) == (4, 2)


def test_a_fault_can_pick_one_poison_item_for_good(sandbox: Sandbox, client: SandboxClient) -> None:
    client.fault(Fault("port", status=422, in_body='"vm one"', times=None))
    row = sandbox.tenant.resources()
    statuses = {one["name"]: post(sandbox, {"operation": "upsert", "data": one}).status_code for one in row * 2}
    assert statuses == {"vm one": 422, "st1": 202}
    client.clear_faults()
    assert post(sandbox, {"name": "vm one"}).status_code == 202


def test_faults_strike_the_side_path_and_method_they_name(sandbox: Sandbox, client: SandboxClient) -> None:
    client.fault(Fault("azure", status=500, path="/oauth2/", method="POST", times=None))
    client.fault(Fault("azure", status=501, path="/nowhere", times=None))
    client.fault(Fault("azure", status=502, method="PUT", times=None))
    assert post(sandbox, {}).status_code == 202
    assert ask_azure(sandbox).status_code == 500
    assert [fault.fired for fault in client.faults()] == [1, 0, 0]
    client.clear_faults()
    assert ask_azure(sandbox).status_code == 200


@pytest.mark.parametrize("side", ["azure", "port"])
def test_a_reset_closes_the_connection_without_an_answer(sandbox: Sandbox, client: SandboxClient, side: Any) -> None:
    client.fault(Fault(side, kind="reset"))
    with pytest.raises(requests.ConnectionError):
        ask_azure(sandbox) if side == "azure" else post(sandbox, {})
    assert [fault.fired for fault in client.faults()] == [1]
    assert ask_azure(sandbox).status_code == 200
    assert post(sandbox, {}).status_code == 202


def test_a_lost_answer_is_that_of_a_request_that_was_worked_off(sandbox: Sandbox, client: SandboxClient) -> None:
    (row, *_) = sandbox.tenant.resources()
    client.fault(Fault("port", kind="lost", skip=1))
    send(sandbox, "upsert", row)
    with pytest.raises(requests.ConnectionError):
        send(sandbox, "delete", row)
    assert client.entities("azureCloudResources") == {}
    assert [(fault.seen, fault.fired) for fault in client.faults()] == [(2, 1)]
    send(sandbox, "delete", row)

    headers = {"Authorization": f"Bearer {ask_azure(sandbox).json()['access_token']}"}
    address = f"{sandbox.azure_url}/providers/Microsoft.ResourceGraph/resources"
    verify = sandbox.environment()["REQUESTS_CA_BUNDLE"]
    client.fault(Fault("azure", kind="lost"))
    with pytest.raises(requests.ConnectionError):
        requests.post(address, json={"query": "resources"}, headers=headers, verify=verify, timeout=10)
    assert sandbox.graph.requests == 1
    assert requests.post(address, json={"query": "resources"}, headers=headers, verify=verify, timeout=10).ok


def test_a_reset_in_the_body_is_that_of_a_request_that_was_worked_off(sandbox: Sandbox, client: SandboxClient) -> None:
    (row, *_) = sandbox.tenant.resources()
    client.fault(Fault("port", kind="reset_mid_body"))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        send(sandbox, "upsert", row)
    assert len(client.entities("azureCloudResources")) == 1
    send(sandbox, "upsert", row)


def test_a_reset_in_the_body_comes_after_status_headers_and_half_of_the_body(
    sandbox: Sandbox, client: SandboxClient
) -> None:
    client.fault(Fault("azure", kind="reset_mid_body"))
    environment = sandbox.environment()
    with requests.get(
        f"{sandbox.azure_url}/nowhere", verify=environment["REQUESTS_CA_BUNDLE"], stream=True, timeout=10
    ) as answer:
        assert answer.status_code == 404
        length = int(answer.headers["Content-Length"])
        parts = answer.iter_content(1)
        assert len(b"".join(next(parts) for _ in range(length // 2))) == length // 2
        with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
            next(parts)


def test_a_dripping_answer_is_whole_and_takes_the_clock_along(sandbox: Sandbox, client: SandboxClient) -> None:
    began = client.set_clock(datetime(2026, 1, 1, tzinfo=UTC))
    client.fault(Fault("port", kind="drip", drip_seconds=60))
    answer = post(sandbox, {})
    assert (answer.status_code, answer.json()) == (202, {"ok": True})
    assert (sandbox.clock.now() - began).total_seconds() == 60 * len(answer.content)


def test_the_rest_of_a_dripping_answer_may_come_at_once(sandbox: Sandbox, client: SandboxClient) -> None:
    """An answer that drips to its end takes the clock along, far ahead of a client who gave up long ago."""
    began = client.set_clock(datetime(2026, 1, 1, tzinfo=UTC))
    client.fault(Fault("port", kind="drip", drip_seconds=60, drip_bytes=3))
    assert post(sandbox, {}).json() == {"ok": True}
    assert (sandbox.clock.now() - began).total_seconds() == 180


def test_a_hanging_request_is_not_answered_and_not_worked_off(sandbox: Sandbox, client: SandboxClient) -> None:
    client.fault(Fault("port", kind="hang"))
    with pytest.raises(requests.exceptions.ReadTimeout):
        requests.post(sandbox.environment()["PORT_WEBHOOK_INGEST_URL"], json={}, timeout=0.05)
    assert client.state()["port"]["requests"] == {}
    assert post(sandbox, {}).status_code == 202


@pytest.mark.parametrize(("ordered", "status"), [(None, 200), (202, 202)])
def test_an_answer_that_is_no_json_is_that_of_a_request_left_undone(
    sandbox: Sandbox, client: SandboxClient, ordered: int | None, status: int
) -> None:
    client.fault(Fault("port", "invalid_json", status=ordered))
    answer = post(sandbox, {})
    assert answer.status_code == status
    with pytest.raises(requests.exceptions.JSONDecodeError):
        answer.json()
    assert client.state()["port"]["requests"] == {}


def test_a_webhook_that_drops_accepts_and_does_nothing(sandbox: Sandbox, client: SandboxClient) -> None:
    (row, *_) = sandbox.tenant.resources()
    client.fault(Fault("port", kind="drop", method="POST", in_body='"upsert"', times=2))
    send(sandbox, "upsert", row)
    send(sandbox, "upsert", row)
    assert client.entities("azureCloudResources") == {}
    send(sandbox, "upsert", row)
    assert len(client.entities("azureCloudResources")) == 1


def test_a_fault_of_no_known_kind_is_refused(client: SandboxClient) -> None:
    with pytest.raises(SandboxError, match="no fault 'explode'"):
        client._ask("POST", "faults", {"side": "port", "kind": "explode"})


def test_the_sandbox_can_be_reached_while_everything_fails(sandbox: Sandbox, client: SandboxClient) -> None:
    client.fault(Fault("port", times=None))
    assert client.state()["port"]["requests"] == {}
    assert requests.get(f"{sandbox.url}/api/summary", timeout=10).status_code == 200
    assert post(sandbox, {}).status_code == 503


# -- control


def test_every_verb_reaches_the_tenant_and_comes_back(sandbox: Sandbox, client: SandboxClient) -> None:
    subscription = client.tenant("add_subscription", name="Two", tags={"a": "b"})
    group = client.tenant("add_group", subscription_id=subscription, name="new", location="westeurope")
    client.tenant("create_resource", group_id=group, type="Microsoft.Web/sites", name="site")
    assert "site" in {row["name"] for row in sandbox.tenant.resources()}
    assert client.state()["tenant"]["subscriptions"] == 2
    for name in ("explode", "clear", "counts"):  # nothing, what only `reset` does, and what only reads
        with pytest.raises(SandboxError, match=f"knows no verb '{name}'"):
            client.tenant(name)
    with pytest.raises(SandboxError, match="location"):
        client.tenant("add_group", subscription_id=subscription, name="x")
    with pytest.raises(SandboxError, match="TenantError"):
        client.tenant("delete_group", group_id="/subscriptions/none/resourceGroups/none")


def test_play_and_drift_change_the_tenant_and_say_how(sandbox: Sandbox, client: SandboxClient) -> None:
    seed(sandbox.tenant, groups=6, resources=20)
    for change in (client.play, client.drift):
        before = sandbox.tenant.version
        assert change()
        assert sandbox.tenant.version > before


def test_the_clock_is_frozen_moved_and_resumed(sandbox: Sandbox, client: SandboxClient) -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert client.set_clock(noon) == noon == sandbox.clock.now()
    assert client.advance_clock(90).timestamp() == noon.timestamp() + 90
    assert client.resume_clock().timestamp() == pytest.approx(noon.timestamp() + 90, abs=10)
    until(lambda: sandbox.clock.now().timestamp() > noon.timestamp() + 90)
    with pytest.raises(SandboxError, match="time zone"):
        client.set_clock(datetime(2026, 1, 1))  # noqa: DTZ001


def test_resources_come_and_go_on_order(sandbox: Sandbox, client: SandboxClient) -> None:
    headers = {"Authorization": f"Bearer {ask_azure(sandbox).json()['access_token']}"}
    address = f"{sandbox.azure_url}/providers/Microsoft.ResourceGraph/resources"
    verify = sandbox.environment()["REQUESTS_CA_BUNDLE"]

    def changes() -> int:
        before = sandbox.tenant.version
        assert requests.post(address, json={"query": "resources"}, headers=headers, verify=verify, timeout=10).ok
        return sandbox.tenant.version - before

    assert changes() == 0
    client.churn()
    assert [changes(), changes()] == [1, 1]
    client.set_clock(datetime(2026, 1, 1, tzinfo=UTC))
    client.churn(seconds=0.5)
    client.advance_clock(3)
    assert [changes(), changes()] == [6, 0]
    client.stop_churn()
    client.advance_clock(3)
    assert changes() == 0
    with pytest.raises(SandboxError, match=r"e\.g\. 0\.5"):
        client.churn(seconds=0)


def test_port_is_throttled_and_counts_on_order(sandbox: Sandbox, client: SandboxClient) -> None:
    client.set_clock(datetime(2026, 1, 1, tzinfo=UTC))
    client.throttle(1, 60, retry_after=False)
    assert [post(sandbox, {}).status_code for _ in range(2)] == [202, 429]
    client.lift_throttle()
    client.count_only()
    fill(sandbox)
    assert client.entities("azureCloudResources") == {}
    client.count_only(False)
    (row, _) = sandbox.tenant.resources()
    send(sandbox, "upsert", row | {"tags": "none"})
    (failure,) = client.failures()
    assert "is not of type object" in failure["reason"]
    assert client.state()["port"]["requests"] == {"202": 6, "429": 1}
    with pytest.raises(SandboxError, match="no blueprint 'x'"):
        client.entities("x")


def test_the_quota_of_resource_graph_is_set_on_order(sandbox: Sandbox, client: SandboxClient) -> None:
    client.quota(3, retry_after=False)
    assert (sandbox.graph.quota.limit, sandbox.graph.quota.retry_after) == (3, False)
    client.quota(None)
    assert (sandbox.graph.quota.limit, sandbox.graph.quota.retry_after) == (None, True)


def test_the_environment_names_both_servers_and_a_private_ca(sandbox: Sandbox, client: SandboxClient) -> None:
    environment = client.environment()
    assert environment == sandbox.environment()
    assert environment["AZURE_AUTHORITY_HOST"] == environment["AZURE_RESOURCE_MANAGER_URL"] == sandbox.azure_url
    assert environment["PORT_WEBHOOK_INGEST_URL"].startswith(f"{sandbox.url}/")
    assert ask_azure(sandbox).status_code == 200
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(sandbox.azure_url, verify=True, timeout=10)


# -- the page


def test_the_summary_is_read_again_only_when_it_changed(sandbox: Sandbox) -> None:
    first = requests.get(f"{sandbox.url}/api/summary", timeout=10)
    seen = {"If-None-Match": first.headers["ETag"]}
    again = requests.get(f"{sandbox.url}/api/summary", headers=seen, timeout=10)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["X-Sandbox-Clock"] >= first.headers["X-Sandbox-Clock"]
    assert not first.json()["comparison"]["equal"]
    fill(sandbox)
    changed = requests.get(f"{sandbox.url}/api/summary", headers=seen, timeout=10)
    assert changed.json()["comparison"]["equal"]
    assert [one["title"] for one in changed.json()["activity"]][-1] == "Production"
    sandbox.tenant.add_subscription("Two")
    seen = {"If-None-Match": changed.headers["ETag"]}
    changed = requests.get(f"{sandbox.url}/api/summary", headers=seen, timeout=10)
    assert changed.json()["comparison"]["sentences"][0].startswith("azureSubscription: missing: ")


def test_the_page_reads_tree_search_and_entity_in_pieces(sandbox: Sandbox) -> None:
    def read(path: str, **query: str | int) -> Json:
        answer = requests.get(f"{sandbox.url}/api/{path}", params=query, timeout=10)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    fill(sandbox)
    group = "/subscriptions/aaaa-1/resourcegroups/rg_=28web=29"
    (top,) = read("children")["rows"]
    assert (top["title"], top["children"]) == ("Production", 1)
    (below,) = read("children", blueprint="azureSubscription", identifier=top["identifier"])["rows"]
    assert (below["identifier"], below["children"]) == (group, 2)
    page = read("children", blueprint="azureResourceGroup", identifier=group, limit=1)
    assert (page["total"], [row["title"] for row in page["rows"]]) == (2, ["st1"])
    assert [row["title"] for row in read("search", q="JÜRGEN virtualm")["rows"]] == ["vm one"]
    assert read("search", q="rg", blueprint="azureResourceGroup")["total"] == 1
    found = read(
        "entity",
        blueprint="azureCloudResources",
        identifier=f"{group}/providers/microsoft.compute/virtualmachines/vm_one",
    )
    assert found["entity"]["properties"]["tags"] == {"owner": "Jürgen"}
    assert [one["title"] for one in found["parents"]] == ["rg (web)", "Production"]
    assert read("children", blueprint="unattached")["total"] == 0
    (row, _) = sandbox.tenant.resources()
    send(sandbox, "upsert", row | {"resourceGroup": "nowhere"})
    assert [one["title"] for one in read("children", blueprint="unattached")["rows"]] == [row["name"]]


def test_the_page_is_whole_without_any_other_host(sandbox: Sandbox) -> None:
    page = requests.get(sandbox.url, timeout=10)
    assert page.headers["Content-Type"].startswith("text/html")
    for path in ("/page/style.css", "/page/app.js"):
        assert path in page.text
        assert requests.get(sandbox.url + path, timeout=10).status_code == 200
    script = requests.get(f"{sandbox.url}/page/app.js", timeout=10).text
    assert "innerHTML" not in script  # tags are hostile
    for text in (page.text, script):
        assert "https://" not in text


# -- from start to stop


def test_a_reset_sandbox_is_as_new_at_its_old_addresses(sandbox: Sandbox, client: SandboxClient) -> None:
    before = sandbox.environment()
    fill(sandbox)
    client.fault(Fault("port", times=None))
    client.throttle(0, 60)
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    sandbox.reset(noon)
    assert sandbox.environment() == before
    state = client.state()
    assert (state["clock"], state["faults"]) == ("2026-01-01T12:00:00.000Z", [])
    assert set(state["tenant"].values()) == {0}
    assert state["azure"] == {"requests": 0, "rows": 0, "throttled": 0}
    assert (state["port"]["requests"], state["port"]["events"], state["port"]["failures_total"]) == ({}, 0, 0)
    assert {name: len(entities) for name, entities in sandbox.held().items()} == dict.fromkeys(BLUEPRINTS, 0)
    subscription = sandbox.tenant.add_subscription("Again")
    sandbox.tenant.add_group(subscription, "rg", "westeurope")
    assert sandbox.compare().missing["azureResourceGroup"] == [f"/subscriptions/{subscription}/resourcegroups/rg"]
    fill(sandbox)
    assert sandbox.compare().equal


def test_ports_are_as_ordered_and_free_again_after_the_end(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = one.getsockname()[1], two.getsockname()[1]
    for _ in range(2):
        with Sandbox(folder=tmp_path, azure_port=ports[0], port_port=ports[1], estate=False) as sandbox:
            assert sandbox.url == f"http://127.0.0.1:{ports[1]}"
            assert sandbox.azure_url == f"https://localhost:{ports[0]}"
            session = requests.Session()
            assert session.get(sandbox.url, timeout=10).status_code == 200
            # A connection that its client keeps open must not hold the end up.
            session.get(sandbox.azure_url, verify=str(tmp_path / "ca.pem"), timeout=10)
            began = time.monotonic()
        assert time.monotonic() - began < 2.5
        session.close()
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=1)


def test_a_drifting_sandbox_changes_by_itself_and_stops_with_the_rest() -> None:
    with Sandbox(drift_seconds=0.01) as sandbox:
        before = sandbox.tenant.version
        until(lambda: sandbox.tenant.version > before)
    assert "sandbox-drift" not in [thread.name for thread in threading.enumerate()]


def start(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "azure_port_sync.sandbox", "--folder", str(folder), *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.parametrize(
    ("how", "options"), [("stdin", ["--stop-with-stdin", "--empty-port"]), ("SIGTERM", []), ("SIGINT", [])]
)
def test_the_command_announces_itself_and_ends_when_asked_to(tmp_path: Path, how: str, options: list[str]) -> None:
    announced = tmp_path / "sandbox.json"
    with start(tmp_path, *options) as process:
        until(lambda: announced.exists() or process.poll() is not None)
        given = json.loads(announced.read_text())
        assert (given["pid"], announced.stat().st_mode & 0o077) == (process.pid, 0)
        with SandboxClient(given["url"]) as client:
            assert client.environment() == given["environment"]
            assert client.state()["tenant"]["resources"] > 100
        if how == "stdin":
            assert process.stdin is not None
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[how])
        assert process.wait(20) == 0
        assert process.stdout is not None
        said = process.stdout.read().decode()
    assert any(name.startswith("PORT_") for name in given["environment"]) is ("--empty-port" not in options)
    assert given["url"] in said
    assert all(f"export {name}={value}" in said for name, value in given["environment"].items())
    assert "Traceback" not in said
    assert not announced.exists()


def test_a_port_that_is_taken_is_said_in_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(tmp_path, "--port-port", str(taken.getsockname()[1]))
        said = process.communicate(timeout=20)[0].decode()
    assert process.returncode == 1
    assert said.startswith("The sandbox cannot start: ")
    assert "already in use" in said
    assert said.count("\n") == 1
