"""The Azure half of the sandbox, through the real SDK and real TLS: what it shows must be what Azure would show."""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import trustme
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError
from azure.identity import ClientSecretCredential
from azure.mgmt.resourcegraph import ResourceGraphClient
from azure.mgmt.resourcegraph.models import QueryRequest, QueryRequestOptions

from azure_port_sync.sandbox import estate
from azure_port_sync.sandbox.azure import ResourceGraph, azure_app
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.serving import Server
from azure_port_sync.sandbox.tenant import Scope, Tenant, TenantError

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)
CLIENT, SECRET = "0a1b2c3d-0000-4000-8000-000000000001", "s3cret~with.signs"
CHANGES = "resourcechanges | order by id asc"
CONTAINER_CHANGES = "resourcecontainerchanges | order by id asc"
VM = "Microsoft.Compute/virtualMachines"


@dataclass
class Azure:
    """A running sandbox Azure and a real client for it."""

    tenant: Tenant
    clock: SandboxClock
    graph: ResourceGraph
    url: str
    ca: str
    client: Any = None  # ResourceGraphClient, with loose types

    def credential(self, tenant: str | None = None, client: str = CLIENT, secret: str = SECRET) -> Any:
        return ClientSecretCredential(
            tenant or self.tenant.tenant_id,
            client,
            secret,
            authority=self.url,
            disable_instance_discovery=True,
            connection_verify=self.ca,
        )

    def sdk(self, credential: Any) -> Any:
        # Without retries: what the sandbox refuses is to be seen, not waited for.
        scopes = ["https://management.azure.com/.default"]
        return ResourceGraphClient(
            credential, base_url=self.url, credential_scopes=scopes, connection_verify=self.ca, retry_total=0
        )

    def token(self) -> Any:
        with self.credential() as credential:
            return credential.get_token("https://management.azure.com/.default")

    def ask(self, query: str, *, top: int | None = None, **scope: Any) -> Any:
        options = QueryRequestOptions(top=top)
        return self.client.resources(QueryRequest(query=query, options=options, **scope))

    def rows(self, query: str, **scope: Any) -> list[dict[str, Any]]:
        answer = self.ask(query, **scope)
        assert answer.count == answer.total_records
        return list(answer.data)

    def ids(self, table: str = "resources", **scope: Any) -> set[str]:
        return {row["id"] for row in self.rows(f"{table} | project id | order by id asc", **scope)}

    def post(self, body: Any, token: str | None = None, **headers: str) -> requests.Response:
        token = token or self.token().token
        return requests.post(
            f"{self.url}/providers/Microsoft.ResourceGraph/resources?api-version=2021-03-01",
            data=json.dumps(body),
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers},
            verify=self.ca,
            timeout=10,
        )


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder / "ca.pem", folder / "server.pem"


@pytest.fixture(scope="module")
def served(certificates: tuple[Path, Path]) -> Iterator[Azure]:
    clock = SandboxClock()
    tenant = Tenant(clock)
    app = azure_app(tenant, clock, client_id=CLIENT, client_secret=SECRET, quota=None)
    server = Server(app, 0, certificates[1])
    server.start()
    running = Azure(tenant, clock, app.state.graph, f"https://localhost:{server.port}", str(certificates[0]))
    try:
        with running.credential() as credential, running.sdk(credential) as running.client:
            yield running
    finally:
        server.stop()


@pytest.fixture
def azure(served: Azure) -> Azure:
    """An empty tenant that nothing throttles, its clock frozen at START."""
    served.clock.set(START)
    served.tenant.clear()
    served.graph.clear()
    served.graph.quota.limit, served.graph.quota.retry_after = None, True
    return served


@pytest.fixture
def group(azure: Azure) -> str:
    return azure.tenant.add_group(
        azure.tenant.add_subscription("Production"), "RG-Shop (blue)", "westeurope", {"Env": "x"}
    )


def details(error: Any) -> list[str]:
    return [detail.code for detail in error.error.details]


# -- signing in --------------------------------------------------------------------------------------------------------


def test_real_credential_gets_rows(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm 1", tags={"a": "b"})
    assert azure.rows("resources | project id, name, tags, kind") == [
        {"id": made, "name": "vm 1", "tags": {"a": "b"}, "kind": ""}
    ]


@pytest.mark.parametrize(
    ("wrong", "code"), [({"secret": "no"}, "AADSTS7000215"), ({"client": "nobody"}, "AADSTS700016")]
)
def test_wrong_credentials_are_refused_in_entras_words(azure: Azure, wrong: dict[str, str], code: str) -> None:
    with azure.credential(**wrong) as credential, pytest.raises(ClientAuthenticationError, match=code):
        credential.get_token("https://management.azure.com/.default")


def test_unknown_tenant_is_refused_in_entras_words(azure: Azure) -> None:
    other = "11111111-2222-4333-8444-555555555555"
    url = f"{azure.url}/{other}/v2.0/.well-known/openid-configuration"
    answer = requests.get(url, verify=azure.ca, timeout=10)
    assert answer.status_code == 400
    assert answer.json()["error_description"].startswith(f"AADSTS90002: Tenant '{other}' not found.")
    with azure.credential(tenant=other) as credential, pytest.raises(ClientAuthenticationError):
        credential.get_token("https://management.azure.com/.default")


def test_bearer_token_is_checked(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(token: str) -> tuple[int, str]:
        answer = azure.post({"query": "resources"}, token)
        return answer.status_code, answer.json()["error"]["code"] if answer.status_code != 200 else ""

    good = azure.token()
    assert refusal(good.token) == (200, "")
    assert refusal("forged") == (401, "InvalidAuthenticationToken")
    headers = {"Content-Type": "application/json"}
    bare = requests.post(
        f"{azure.url}/providers/Microsoft.ResourceGraph/resources", verify=azure.ca, headers=headers, timeout=10
    )
    assert (bare.status_code, bare.json()["error"]["code"]) == (401, "AuthenticationFailed")
    later = SimpleNamespace(time=lambda: good.expires_on + 1)
    monkeypatch.setattr("azure_port_sync.sandbox.entra.time", later)
    assert refusal(good.token) == (401, "ExpiredAuthenticationToken")


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("group")
def test_an_answer_that_leaves_rows_out_has_a_token(azure: Azure) -> None:
    azure.tenant.grow(2500)
    query = "resources | project id | order by id asc"
    first = azure.ask(query)
    assert (first.count, first.total_records, first.result_truncated) == (1000, 2500, "false")
    inner = json.loads(base64.b64decode(first.skip_token))
    assert (inner["MaxRows"], inner["RowsToSkip"]) == (1000, 1000)
    assert azure.ask(query, top=3).count == 3


def test_an_answer_has_the_sandboxs_time(azure: Azure) -> None:
    """A client whose own clock is wrong can go by Azure's."""
    azure.clock.advance(timedelta(days=3, seconds=7))
    assert azure.post({"query": "resources"}).headers["Date"] == "Thu, 26 Nov 2026 10:00:07 GMT"


@pytest.mark.usefixtures("group")
def test_what_happens_before_an_answer_is_in_it(azure: Azure) -> None:
    azure.graph.before_answer = lambda: azure.tenant.grow(1)
    assert [azure.ask("resources").total_records for _ in range(3)] == [1, 2, 3]
    azure.graph.clear()
    assert azure.ask("resources").total_records == 3


@pytest.mark.usefixtures("group")
def test_no_token_where_azure_gives_none(azure: Azure) -> None:
    azure.tenant.grow(1200)
    limited = azure.ask("resources | project id | limit 1100")
    assert (limited.count, limited.total_records, limited.skip_token) == (1000, 1100, None)
    assert limited.result_truncated == "true"
    dynamic = azure.ask("resources | project tags, properties")
    assert (dynamic.count, dynamic.skip_token, dynamic.result_truncated) == (1000, None, "true")


def test_payload_over_16_mib_is_refused_page_by_page(azure: Azure, group: str) -> None:
    wide = {"group_id": group, "type": VM, "properties": {"blob": "x" * 1024 * 1024}}
    azure.tenant.create_resources([{**wide, "name": f"vm-{number:02d}"} for number in range(17)])
    with pytest.raises(HttpResponseError) as caught:
        azure.ask("resources | order by id asc")
    assert caught.value.status_code == 400
    assert details(caught.value) == ["ResponsePayloadTooLarge"]
    assert "exceeded the limit of 16777216" in str(caught.value)
    assert azure.ask("resources | order by id asc", top=10).count == 10


# -- the quota ---------------------------------------------------------------------------------------------------------


def test_sixteenth_request_in_five_seconds_is_throttled(azure: Azure) -> None:
    azure.graph.quota.limit = 15
    remaining = [azure.post({"query": "resources"}).headers["x-ms-user-quota-remaining"] for _ in range(15)]
    assert remaining == [str(left) for left in range(14, -1, -1)]
    azure.clock.advance(timedelta(seconds=2))
    refused = azure.post({"query": "resources"})
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "3"
    assert refused.headers["x-ms-user-quota-resets-after"] == "00:00:03"
    assert refused.json()["error"]["details"][0]["code"] == "RateLimiting"
    azure.graph.quota.retry_after = False
    assert "Retry-After" not in azure.post({"query": "resources"}).headers
    azure.clock.advance(timedelta(seconds=3))
    assert azure.post({"query": "resources"}).status_code == 200
    assert (azure.graph.requests, azure.graph.quota.refused) == (16, 2)


def test_throttling_reaches_the_sdk_as_its_error(azure: Azure) -> None:
    azure.graph.quota.limit = 0
    azure.graph.quota.retry_after = False
    with pytest.raises(HttpResponseError) as caught:
        azure.ask("resources")
    assert (caught.value.status_code, details(caught.value)) == (429, ["RateLimiting"])


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_bad_query_has_the_recorded_body(azure: Azure) -> None:
    answer = azure.post({"query": "resources | where name =="})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "BadRequest")
    assert re.fullmatch(
        r"Please provide below info when asking for support: timestamp = \S{27}Z, correlationId = \S{36}\.",
        error["message"],
    )
    assert error["details"][0]["code"] == "InvalidQuery"
    assert error["details"][1] == {
        "code": "ParserFailure",
        "message": "ParserFailure",
        "line": 1,
        "characterPositionInLine": 25,
        "token": "<EOF>",
        "expectedToken": "Ǐ",
    }


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"query": ""},
        {"query": "resources", "subscriptions": ["a"], "managementGroups": ["b"]},
        {"query": "resources", "subscriptions": [str(n) for n in range(1001)]},
        {"query": "resources", "options": {"$top": 1001}},
        {"query": "resources", "options": {"$top": 0}},
        {"query": "resources", "options": {"$top": "7"}},
        {"query": "resources", "options": {"$skip": 0}},
        {"query": "resources", "options": {"$skipToken": "bogus"}},
        {"query": "resources", "options": {"resultFormat": "table"}},
    ],
)
def test_malformed_requests_are_refused(azure: Azure, body: dict[str, Any]) -> None:
    answer = azure.post(body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "BadRequest")


def test_content_type_must_be_json(azure: Azure) -> None:
    assert azure.post({"query": "resources"}, **{"Content-Type": "text/plain"}).status_code == 500


# -- scope and access --------------------------------------------------------------------------------------------------


def test_scopes(azure: Azure) -> None:
    tenant = azure.tenant
    shop = tenant.add_subscription("Shop", management_groups=["retail", "contoso"])
    lab = tenant.add_subscription("Lab", management_groups=["research", "contoso"])
    of_shop = {f"/subscriptions/{shop}", tenant.add_group(shop, "rg", "westeurope")}
    of_lab = {f"/subscriptions/{lab}", tenant.add_group(lab, "Retail", "westeurope")}  # no kin of the management group
    groups = {f"/providers/Microsoft.Management/managementGroups/{name}" for name in ("retail", "contoso", "research")}
    root = {f"/providers/Microsoft.Management/managementGroups/{tenant.tenant_id}"}
    table = "resourcecontainers"
    assert azure.ids(table) == of_shop | of_lab | groups | root
    assert azure.ids(table, subscriptions=[shop.upper()]) == of_shop
    assert azure.ids(table, management_groups=["Contoso"]) == of_shop | of_lab | groups
    assert azure.ids(table, management_groups=["retail"]) == of_shop | {
        "/providers/Microsoft.Management/managementGroups/retail"
    }
    assert azure.ids(table, management_groups=["research"]) == of_lab | {
        "/providers/Microsoft.Management/managementGroups/research"
    }


def test_lost_subscription_is_silently_missing_or_denied(azure: Azure) -> None:
    tenant = azure.tenant
    kept, lost = tenant.add_subscription("Kept"), tenant.add_subscription("Lost")
    for subscription in (kept, lost):
        tenant.create_resource(tenant.add_group(subscription, "rg", "westeurope"), VM, "vm")
    tenant.lose_subscription(lost)
    for table in ("resources", "resourcechanges", "resourcecontainerchanges"):
        assert {row["subscriptionId"] for row in azure.rows(table, subscriptions=[kept, lost])} == {kept}
    assert {row["subscriptionId"] for row in tenant.containers() + tenant.resources()} == {kept}
    with pytest.raises(HttpResponseError) as caught:
        azure.ask("resources", subscriptions=[lost])
    assert (caught.value.status_code, details(caught.value)) == (403, ["AccessDenied"])
    with pytest.raises(HttpResponseError) as caught:
        azure.ask("resources", management_groups=["nowhere"])
    assert caught.value.status_code == 403
    tenant.regain_subscription(lost)
    assert {row["subscriptionId"] for row in azure.rows("resourcechanges")} == {kept, lost}


@pytest.mark.parametrize(
    ("scope", "code"),
    [
        ({"subscriptions": ["production"]}, "SubscriptionsContainInvalidGuids"),
        ({"management_groups": ["Contoso root"]}, "ManagementGroupsContainInvalidIds"),
        ({"subscriptions": ["00000000-0000-0000-0000-000000000000"]}, "NoValidSubscriptionsInQueryRequest"),
        ({}, "NoValidSubscriptionsInQueryRequest"),
    ],
    ids=str,
)
def test_scopes_that_are_refused_by_name(azure: Azure, scope: dict[str, Any], code: str) -> None:
    azure.graph.names_no_access = True
    with pytest.raises(HttpResponseError) as caught:
        azure.ask("resources", **scope)
    assert (caught.value.status_code, details(caught.value)) == (400, [code])


def test_reader_on_one_group_sees_only_that_group(azure: Azure) -> None:
    tenant = azure.tenant
    subscription = tenant.add_subscription("Shared")
    mine, theirs = (tenant.add_group(subscription, name, "westeurope") for name in ("Mine", "Theirs"))
    made = tenant.create_resource(mine, VM, "vm")
    tenant.create_resource(theirs, VM, "vm")
    tenant.limit_subscription_to_group(subscription, mine)
    assert azure.ids("resourcecontainers", subscriptions=[subscription]) == {mine}
    assert azure.ids(subscriptions=[subscription]) == {made}
    assert {row["properties"]["targetResourceId"] for row in azure.rows(CHANGES)} == {made}
    assert [row["id"] for row in tenant.containers()] == [mine]
    assert tenant.counts() == {"subscriptions": 0, "groups": 1, "resources": 1, "records": 2}


def test_a_moved_subscription_is_below_other_management_groups(azure: Azure) -> None:
    tenant = azure.tenant
    moving = tenant.add_subscription("Moving", management_groups=["retail"])
    tenant.create_resource(tenant.add_group(moving, "rg", "westeurope"), VM, "vm")
    azure.clock.advance(timedelta(seconds=1))
    tenant.move_subscription(moving, ["Research", "contoso"])
    assert azure.ids(management_groups=["retail"]) == set()
    assert len(azure.ids(management_groups=["research"])) == len(azure.ids(management_groups=["contoso"])) == 1
    assert tenant.resources(Scope(management_groups=("retail",))) == []
    assert len(tenant.resources(Scope(management_groups=("research",)))) == 1
    (row,) = azure.rows("resourcecontainers | where type == 'microsoft.resources/subscriptions'")
    chain = [group["name"] for group in row["properties"]["managementGroupAncestorsChain"]]
    assert chain == ["Research", "contoso", tenant.tenant_id]
    assert record(azure, CONTAINER_CHANGES)["properties"]["changeType"] == "Update"


def test_a_removed_subscription_can_be_added_again(azure: Azure, group: str) -> None:
    azure.tenant.create_resource(group, VM, "vm")
    subscription = group.split("/")[2]
    azure.tenant.remove_subscription(subscription)
    assert azure.tenant.add_subscription("Again", subscription_id=subscription) == subscription
    assert azure.ids("resourcecontainers", subscriptions=[subscription]) == {f"/subscriptions/{subscription}"}
    assert azure.ids() == set()


def test_removed_subscription_leaves_nothing(azure: Azure, group: str) -> None:
    azure.tenant.create_resource(group, VM, "vm")
    subscription = group.split("/")[2]
    azure.tenant.remove_subscription(subscription)
    for table in ("resources", "resourcechanges", "resourcecontainerchanges"):
        assert azure.rows(table) == []
    assert azure.tenant.containers() == []
    with pytest.raises(TenantError, match="no subscription"):
        azure.tenant.regain_subscription(subscription)


# -- the verbs and their records ---------------------------------------------------------------------------------------


def record(azure: Azure, table: str = CHANGES) -> dict[str, Any]:
    """The one record that the last change left; the clock moves on so that the next has an instant of its own."""
    azure.clock.advance(timedelta(seconds=1))
    (newest,) = azure.rows(
        table.replace(" |", " | where todatetime(properties.changeAttributes.timestamp) > ago(1500ms) |")
    )
    return newest


def test_record_has_the_recorded_shape(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, "Microsoft.Sql/servers/databases", "Sql1/Db 1", location="northeurope")
    row = record(azure)
    name = row["name"]
    assert made == f"{group}/providers/Microsoft.Sql/servers/Sql1/databases/Db 1"
    assert row["id"] == f"{made}/providers/Microsoft.Resources/changes/{name}"
    assert re.fullmatch(r"\d{20}_[0-9a-f-]{36}", name)
    assert (row["type"], row["location"]) == ("microsoft.resources/changes", "northeurope")
    assert (row["resourceGroup"], row["tags"]) == ("rg-shop (blue)", None)
    properties = row["properties"]
    assert properties.keys() == {"targetResourceId", "targetResourceType", "changeType", "changeAttributes"}
    assert properties["targetResourceId"] == made
    assert properties["targetResourceType"] == "microsoft.sql/servers/databases"
    assert properties["changeType"] == "Create"
    attributes = properties["changeAttributes"]
    assert re.fullmatch(r"2026-11-23T10:00:00\.0{2,7}Z", attributes["timestamp"])
    assert attributes["changesCount"] == 0
    assert attributes.keys() == {
        "timestamp",
        "changesCount",
        "correlationId",
        "changedBy",
        "changedByType",
        "clientType",
        "operation",
        "newResourceSnapshotId",
    }


def test_newest_change_has_the_smallest_name(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm")
    older = record(azure)
    azure.tenant.touch_resource(made)
    assert record(azure)["name"] < older["name"]


@pytest.mark.parametrize(("fraction", "fewest"), [("12", 2), ("123", 3)])
def test_timestamps_have_two_to_seven_digits_and_lose_nothing(
    azure: Azure, group: str, fraction: str, fewest: int
) -> None:
    azure.clock.set(START + timedelta(seconds=float(f"0.{fraction}"), microseconds=700))
    made = azure.tenant.create_resource(group, VM, "vm")
    for _ in range(60):
        azure.tenant.touch_resource(made)
    stamps = {row["properties"]["changeAttributes"]["timestamp"] for row in azure.rows(CHANGES)}
    assert stamps == {f"2026-11-23T10:00:00.{fraction:0<{digits}}Z" for digits in range(fewest, 8)}
    instant = f"datetime(2026-11-23T10:00:00.{fraction}Z)"
    query = f"resourcechanges | where todatetime(properties.changeAttributes.timestamp) == {instant}"
    assert len(azure.rows(query)) == 61


def test_tags(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm", tags={"kept": "1", "changed": "1", "gone": "1"})
    record(azure)
    azure.tenant.tag_resource(made, {"kept": "1", "changed": "2", "new": "ž"})
    properties = record(azure)["properties"]
    assert properties["changeType"] == "Update"
    assert properties["changes"] == {
        "tags.changed": {"previousValue": "1", "newValue": "2"},
        "tags.gone": {"previousValue": "1", "newValue": None},
        "tags.new": {"previousValue": "null", "newValue": "ž"},
    }
    assert properties["changeAttributes"]["changesCount"] == 3
    assert azure.rows("resources")[0]["tags"] == {"kept": "1", "changed": "2", "new": "ž"}


def test_update(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm", properties={"a": {"b": 1}, "c": "x"}, sku={"name": "S1"})
    record(azure)
    azure.tenant.update_resource(made, properties={"a": {"b": 2}, "c": None}, sku={"name": "S2"})
    assert record(azure)["properties"]["changes"] == {
        "properties.a.b": {"previousValue": "1", "newValue": "2"},
        "properties.c": {"previousValue": "x", "newValue": None},
        "sku.name": {"previousValue": "S1", "newValue": "S2"},
    }
    (row,) = azure.rows("resources")
    assert row["properties"] == {"provisioningState": "Succeeded", "a": {"b": 2}}
    assert row["sku"] == {"name": "S2"}


def test_touch_changes_nothing_but_leaves_a_record(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm")
    record(azure)
    before = azure.rows("resources")
    azure.tenant.touch_resource(made)
    properties = record(azure)["properties"]
    attributes = properties["changeAttributes"]
    assert properties["changeType"] == "Update"
    assert (attributes["changedBy"], attributes["clientType"]) == ("System", "Unspecified")
    assert attributes["correlationId"] == "00000000-0000-0000-0000-000000000000"
    assert azure.rows("resources") == before


def test_delete_and_recreate_in_another_spelling(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm", tags={"a": "b"})
    record(azure)
    azure.tenant.delete_resource(made.upper())
    deleted = record(azure)["properties"]
    assert (deleted["changeType"], deleted["targetResourceId"]) == ("Delete", made)
    assert "newResourceSnapshotId" not in deleted["changeAttributes"]
    assert azure.ids() == set()
    with pytest.raises(TenantError, match="there is no"):
        azure.tenant.delete_resource(made)
    again = azure.tenant.recreate_resource(made.replace("resourceGroups", "resourcegroups"))
    assert record(azure)["properties"]["targetResourceId"] == again != made
    assert azure.rows("resources | project id, tags") == [{"id": again, "tags": {"a": "b"}}]
    with pytest.raises(TenantError, match="exists already"):
        azure.tenant.recreate_resource(made)


def test_another_spelling_of_a_living_resource_leaves_no_record(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm", tags={"a": "b"})
    records = azure.rows(CHANGES)
    azure.tenant.respell_resource(made.upper())
    (row,) = azure.rows("resources")
    assert (row["id"], row["name"], row["tags"]) == (made.upper(), "vm", {"a": "b"})
    assert azure.rows(CHANGES) == records
    azure.tenant.touch_resource(made)
    azure.clock.advance(timedelta(seconds=1))
    assert {row["properties"]["targetResourceId"] for row in azure.rows(CHANGES)} == {made, made.upper()}


def test_a_deleted_group_can_be_added_again_in_another_spelling(azure: Azure, group: str) -> None:
    azure.tenant.create_resource(group, VM, "vm")
    azure.tenant.delete_group(group)
    again = azure.tenant.add_group(group.split("/")[2], "RG-SHOP (BLUE)", "westeurope")
    assert again.lower() == group.lower() != again
    assert azure.ids("resourcecontainers | where isnotempty(resourceGroup)") == {again}
    assert azure.ids() == set()


def test_move_is_a_delete_and_a_create(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm 1")
    there = azure.tenant.add_group(azure.tenant.add_subscription("Other"), "rg2", "japaneast")
    azure.clock.advance(timedelta(minutes=1))
    moved = azure.tenant.move_resource(made, there)
    assert moved == f"{there}/providers/Microsoft.Compute/virtualMachines/vm 1"
    at = "where todatetime(properties.changeAttributes.timestamp) > ago(1s)"
    kinds = {
        row["properties"]["targetResourceId"]: row["properties"]["changeType"]
        for row in azure.rows(f"resourcechanges | {at}")
    }
    assert kinds == {made: "Delete", moved: "Create"}
    (row,) = azure.rows("resources")
    assert (row["id"], row["resourceGroup"], row["location"]) == (moved, "rg2", "westeurope")


def test_deleted_group_takes_its_resources_each_with_a_record(azure: Azure, group: str) -> None:
    within = {azure.tenant.create_resource(group, VM, f"vm{number}") for number in range(3)}
    other = azure.tenant.add_group(group.split("/")[2], "rg-shop (blue)2", "westeurope")
    outside = azure.tenant.create_resource(other, VM, "vm0")
    azure.clock.advance(timedelta(minutes=1))
    azure.tenant.delete_group(group)
    assert azure.ids() == {outside}
    deleted = [
        row["properties"]["targetResourceId"]
        for row in azure.rows("resourcechanges | where tostring(properties.changeType) == 'Delete'")
    ]
    assert sorted(deleted) == sorted(within)
    gone = record(azure, CONTAINER_CHANGES)
    assert (gone["properties"]["changeType"], gone["properties"]["targetResourceId"]) == ("Delete", group)
    assert group not in azure.ids("resourcecontainers")


def test_containers_change_with_records_of_their_own(azure: Azure, group: str) -> None:
    subscription = group.split("/")[2]
    azure.clock.advance(timedelta(minutes=1))
    azure.tenant.retag_group(group, {"env": "prod"})
    retagged = record(azure, CONTAINER_CHANGES)
    assert retagged["properties"]["targetResourceType"] == "microsoft.resources/subscriptions/resourcegroups"
    assert retagged["properties"]["changes"].keys() == {"tags.Env", "tags.env"}
    azure.tenant.rename_subscription(subscription, "Prod 2")
    renamed = record(azure, CONTAINER_CHANGES)
    assert renamed["id"].startswith(f"/subscriptions/{subscription}/providers/Microsoft.Resources/changes/")
    assert (renamed["location"], renamed["resourceGroup"]) == ("", "")
    azure.tenant.retag_subscription(subscription, None)
    record(azure, CONTAINER_CHANGES)
    assert azure.rows(CHANGES) == []
    rows = {row["id"]: row for row in azure.rows("resourcecontainers")}
    assert rows[group]["tags"] == {"env": "prod"}
    assert rows[f"/subscriptions/{subscription}"]["name"] == "Prod 2"


def test_subscription_row_has_the_recorded_shape(azure: Azure) -> None:
    subscription = azure.tenant.add_subscription("Prod", {"a": "b"}, management_groups=["near", "far"])
    (row,) = azure.rows("resourcecontainers | where type == 'microsoft.resources/subscriptions'")
    assert row["id"] == f"/subscriptions/{subscription}"
    assert (row["name"], row["location"], row["resourceGroup"], row["tags"]) == ("Prod", "", "", {"a": "b"})
    chain = row["properties"]["managementGroupAncestorsChain"]
    assert [above["name"] for above in chain] == ["near", "far", azure.tenant.tenant_id]
    assert chain[-1]["displayName"] == "Tenant Root Group"


def test_many_at_once(azure: Azure) -> None:
    azure.tenant.grow(900, groups=40, subscriptions=4, records=True)
    assert azure.tenant.counts() == {"subscriptions": 4, "groups": 40, "resources": 900, "records": 900}
    azure.tenant.grow(5, groups=1)
    assert azure.tenant.counts()["resources"] == 905
    rows = azure.tenant.resources()
    assert len({row["id"].lower() for row in rows}) == 905
    assert all(row["rgTags"]["environment"] for row in rows)
    targets = azure.rows(
        "resourcechanges | project id, target = tolower(properties.targetResourceId) | order by id asc"
    )
    assert len({row["target"] for row in targets}) == 900
    page = azure.ask("resourcechanges | order by id asc", top=1)
    azure.tenant.create_resource(azure.tenant.containers()[1]["id"], VM, "one more")
    assert page.data[0].keys() == azure.rows("resourcechanges | limit 1")[0].keys()
    with pytest.raises(TenantError, match="groups="):
        Tenant(azure.clock).grow(1)


def test_impossible_wishes_change_nothing(azure: Azure, group: str) -> None:
    version = azure.tenant.version
    with pytest.raises(TenantError, match="there is no"):
        azure.tenant.create_resource(f"{group}x", VM, "vm")
    with pytest.raises(TenantError, match="do not fit"):
        azure.tenant.create_resource(group, "Microsoft.Sql/servers/databases", "db")
    with pytest.raises(TenantError, match="there never was"):
        azure.tenant.recreate_resource(f"{group}/providers/{VM}/vm")
    with pytest.raises(TenantError, match="least, most"):
        azure.tenant.set_delays(linger=(5, 1))
    item = {"group_id": group, "type": VM, "name": "vm"}
    with pytest.raises(TenantError, match="exists already"):
        azure.tenant.create_resources([item, {**item, "name": "VM"}])
    assert azure.tenant.version == version
    assert azure.ids() == set()


# -- rows that only Resource Graph has ---------------------------------------------------------------------------------


def test_a_second_row_of_an_id(azure: Azure, group: str) -> None:
    """As of extension resources and private endpoints (github.com/microsoft/finops-toolkit issue 1154)."""
    made = azure.tenant.create_resource(group, VM, "vm", tags={"v": "1"})
    extension = {"name": "default", "type": "microsoft.security/pricings", "resourceGroup": "", "tags": None}
    azure.tenant.add_twin(made, extension)
    azure.tenant.add_twin(made.upper())
    rows = azure.rows("resources | project id, name, type, resourceGroup, tags | order by name asc")
    own = {"id": made, "name": "vm", "type": VM.lower(), "resourceGroup": "rg-shop (blue)", "tags": {"v": "1"}}
    assert rows == [own | extension, own, own]
    assert [row["id"] for row in azure.tenant.resources()] == [made]
    assert azure.tenant.counts()["resources"] == 1
    azure.tenant.remove_twins(made)
    assert azure.rows("resources | project id, name, type, resourceGroup, tags") == [own]


def test_a_second_row_lives_as_long_as_the_first(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm", tags={"v": "1"})
    azure.tenant.add_twin(made, {"id": made.upper()})
    azure.tenant.tag_resource(made, {"v": "2"})
    shown = {row["id"]: row["tags"] for row in azure.rows("resources")}
    assert shown == {made: {"v": "2"}, made.upper(): {"v": "2"}}
    azure.tenant.delete_resource(made)
    assert azure.ids() == set()
    azure.tenant.recreate_resource(made)
    assert azure.ids() == {made}


def test_a_record_of_an_id_with_two_rows_comes_twice_where_it_is_joined(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm")
    azure.tenant.add_twin(made, {"id": made.upper(), "name": "twin"})
    assert len(azure.rows(CHANGES)) == 1
    joined = azure.rows(
        "resourcechanges | project id, targetKey = tolower(properties.targetResourceId)"
        " | join kind=leftouter (resources | project rowKey = tolower(id), rowName = name)"
        " on $left.targetKey == $right.rowKey | order by rowName asc"
    )
    assert [row["rowName"] for row in joined] == ["twin", "vm"]
    assert len({row["id"] for row in joined}) == 1


def test_a_subscription_or_a_group_in_two_rows(azure: Azure, group: str) -> None:
    subscription = f"/subscriptions/{group.split('/')[2]}"
    azure.tenant.add_twin(subscription, {"name": "other"})
    azure.tenant.add_twin(group, {"id": group.lower()})
    shown = azure.rows("resourcecontainers | where isnotempty(subscriptionId) | project id, name")
    assert sorted((row["id"], row["name"]) for row in shown) == sorted(
        [
            (subscription, "Production"),
            (subscription, "other"),
            (group, "RG-Shop (blue)"),
            (group.lower(), "RG-Shop (blue)"),
        ]
    )
    azure.tenant.delete_group(group)
    assert len(azure.rows("resourcecontainers | where isnotempty(subscriptionId)")) == 2


def test_what_can_be_no_second_row(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm")
    with pytest.raises(TenantError, match="in any casing"):
        azure.tenant.add_twin(made, {"id": f"{made}2"})
    with pytest.raises(TenantError, match="no column colour"):
        azure.tenant.add_twin(made, {"colour": "red"})
    with pytest.raises(TenantError, match="there is no"):
        azure.tenant.add_twin(f"{made}2")


# -- delays ------------------------------------------------------------------------------------------------------------


def test_records_are_published_late(azure: Azure, group: str) -> None:
    azure.tenant.set_delays(record_delay=(60, 60))
    azure.tenant.create_resource(group, VM, "vm")
    assert (len(azure.ids()), azure.rows(CHANGES)) == (1, [])
    azure.clock.advance(timedelta(seconds=59, milliseconds=999))
    assert azure.rows(CHANGES) == []
    azure.clock.advance(timedelta(milliseconds=1))
    (row,) = azure.rows(CHANGES)
    assert row["properties"]["changeAttributes"]["timestamp"].startswith("2026-11-23T10:00:00")


def test_delays_are_drawn_so_records_overtake_each_other(azure: Azure, group: str) -> None:
    azure.tenant.set_delays(record_delay=(0, 300))
    made = [azure.tenant.create_resource(group, VM, f"vm{number}") for number in range(10)]
    seen: list[str] = []
    for _ in range(60):
        azure.clock.advance(timedelta(seconds=5))
        targets = [row["properties"]["targetResourceId"] for row in azure.rows(CHANGES)]
        seen += [target for target in targets if target not in seen]
    assert sorted(seen) == sorted(made) != seen


def test_rows_are_shown_late_and_linger(azure: Azure, group: str) -> None:
    azure.tenant.set_delays(row_delay=(30, 30), linger=(90, 90))
    made = azure.tenant.create_resource(group, VM, "vm", tags={"v": "1"})
    query = "resources | project v = tostring(tags.v)"

    def shown_after(seconds: int) -> list[str]:
        azure.clock.advance(timedelta(seconds=seconds))
        return [row["v"] for row in azure.rows(query)]

    assert [shown_after(29), shown_after(1)] == [[], ["1"]]
    azure.tenant.tag_resource(made, {"v": "2"})
    assert [shown_after(29), shown_after(1)] == [["1"], ["2"]]
    azure.tenant.delete_resource(made)
    assert azure.tenant.resources() == []
    assert [shown_after(89), shown_after(1)] == [["2"], []]
    azure.tenant.recreate_resource(made)
    assert [shown_after(29), shown_after(1)] == [[], ["2"]]


def test_overtaken_versions_never_reappear(azure: Azure, group: str) -> None:
    made = azure.tenant.create_resource(group, VM, "vm", tags={"v": "0"})
    azure.tenant.set_delays(row_delay=(300, 300))
    azure.tenant.tag_resource(made, {"v": "1"})
    azure.tenant.set_delays(row_delay=(10, 10))
    azure.tenant.tag_resource(made, {"v": "2"})
    shown = []
    for _ in range(32):
        azure.clock.advance(timedelta(seconds=10))
        shown.append([row["tags"]["v"] for row in azure.rows("resources")])
    assert shown == [["2"]] * 32
    azure.tenant.set_delays(row_delay=(300, 300), linger=(0, 0))
    azure.tenant.tag_resource(made, {"v": "3"})
    azure.tenant.delete_resource(made)
    azure.clock.advance(timedelta(seconds=300))
    assert azure.rows("resources") == []


def test_it_is_calm_when_the_last_delay_has_run_out(azure: Azure, group: str) -> None:
    tenant, now = azure.tenant, azure.clock.now
    assert tenant.calm_at(now()) == now()
    tenant.set_delays(record_delay=(60, 60), row_delay=(90, 90), linger=(1800, 1800))
    made = tenant.create_resource(group, VM, "vm")
    assert tenant.calm_at(now()) == START + timedelta(seconds=90)
    tenant.delete_resource(made)
    assert tenant.calm_at(now()) == START + timedelta(seconds=1800)
    azure.clock.advance(timedelta(days=2))
    assert tenant.calm_at(now()) == now()


def test_a_cleared_tenant_is_as_new(azure: Azure, group: str) -> None:
    tenant = azure.tenant
    tenant.set_delays(linger=(60, 60))
    made = tenant.create_resource(group, VM, "vm")
    assert azure.ids() == {made}
    tenant.lose_subscription(group.split("/")[2])
    tenant.clear()
    assert azure.ids() == azure.ids("resourcecontainers") == azure.ids("resourcechanges") == set()
    assert set(tenant.counts().values()) == {0}
    assert tenant.add_subscription("Production") == group.split("/")[2]  # the same draws
    assert tenant.set_delays()["linger"] == [0, 0]


def test_records_are_kept_fourteen_days(azure: Azure, group: str) -> None:
    azure.tenant.create_resource(group, VM, "vm")
    azure.clock.advance(timedelta(days=14) - timedelta(seconds=1))
    assert len(azure.rows(CHANGES)) == 1
    azure.clock.advance(timedelta(seconds=1))
    assert azure.rows(CHANGES) == []
    assert len(azure.ids()) == 1


# -- the estate --------------------------------------------------------------------------------------------------------


def test_estate_is_believable_and_the_same_every_time(azure: Azure) -> None:
    estate.seed(azure.tenant)
    twin = Tenant(azure.clock)
    estate.seed(twin)
    containers, resources = azure.tenant.containers(), azure.tenant.resources()
    assert (containers, resources) == (twin.containers(), twin.resources())
    assert azure.tenant.counts() == {"subscriptions": 6, "groups": 40, "resources": 400, "records": 446}
    text = json.dumps([containers, resources], ensure_ascii=False)
    for odd in (
        "Failure Anomalies - ",
        "(",
        "O'Brien",
        "C:\\\\deploy",
        '\\"do not delete',
        "Účetní",
        "田中",
        "🚀",
        "Köln",
    ):
        assert odd in text
    segments = {row["id"].split("/")[3] for row in resources}
    assert segments == {"resourceGroups", "resourcegroups"}
    assert {type(row["tags"]) for row in resources} == {dict, type(None)}
    assert {} in [row["tags"] for row in resources]
    keys = {key for row in containers for key in row["tags"] or {}}
    assert {"environment", "Environment", "ENVIRONMENT", "team", "Team"} <= keys


def test_resource_graph_shows_the_truth_when_nothing_is_delayed(azure: Azure) -> None:
    estate.seed(azure.tenant, groups=20, resources=100)
    rng = random.Random(3)  # noqa: S311
    sentences = estate.play(azure.tenant) + [estate.drift(azure.tenant, rng) for _ in range(100)]
    assert all(sentences)
    query = "resources | project id, name, type, location, tags, subscriptionId, resourceGroup | order by id asc"
    shown = {row["id"]: row for row in azure.rows(query)}
    true = {row["id"]: {key: row[key] for key in row if key != "rgTags"} for row in azure.tenant.resources()}
    assert shown == true
    assert azure.ids("resourcecontainers | where type has 'subscriptions'") == {
        row["id"] for row in azure.tenant.containers()
    }


# -- threads and time --------------------------------------------------------------------------------------------------


def test_threads_write_and_read_at_once(azure: Azure, group: str) -> None:
    def write(number: int) -> str:
        return azure.tenant.create_resource(group, VM, f"vm{number}")

    def read(_: int) -> int:
        return len(azure.rows("resources | project id | order by id asc"))

    with ThreadPoolExecutor(8) as pool:
        made, seen = pool.map(write, range(60)), pool.map(read, range(60))
        assert len(set(made)) == 60
        assert max(seen) <= 60
    assert len(azure.ids()) == 60


def test_clock_freezes_moves_and_runs_on() -> None:
    clock = SandboxClock()
    clock.set(START)
    clock.advance(timedelta(days=2))
    assert clock.now() == clock.now() == START + timedelta(days=2)
    clock.resume()
    running = clock.now()
    assert timedelta(0) <= running - (START + timedelta(days=2)) < timedelta(minutes=1)
    clock.advance(timedelta(hours=1))
    assert timedelta(hours=1) <= clock.now() - running < timedelta(hours=1, minutes=1)
    with pytest.raises(ValueError, match="time zone"):
        clock.set(datetime(2026, 1, 1))  # noqa: DTZ001
