"""The job that brings the data model into Port: what is missing is added, what a person made stays, no secret shows."""

import copy
import logging
import re
import stat
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dotenv import dotenv_values

from azure_port_sync.core.errors import PortError, SettingsError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.definitions import definitions
from azure_port_sync.port import model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.events import probes
from azure_port_sync.port.mapping import WebhookMapping
from azure_port_sync.port.setup import Change, merged, set_up_blueprints, set_up_webhook
from azure_port_sync.port.sink_selection import BATCH, select_sink
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.clocks import SteppedClock
from azure_port_sync_tests.support.leaks import shows_none_of
from azure_port_sync_tests.support.operator import failure

RESOURCE = "azureCloudResources"
SECRET = "a-secret-0123456789"
OURS = model.webhook()["mappings"]


@pytest.fixture
def url(sandbox: Sandbox) -> str:
    """That of the guide's webhook."""
    return sandbox.environment()["PORT_WEBHOOK_INGEST_URL"]


# -- the job ---------------------------------------------------------------------------------------------------------


class Setup:
    """Runs port_setup on an account, and keeps all that anybody could read of it."""

    def __init__(self, sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = SteppedClock(sandbox.clock)
        self.shown = ""
        self._caplog = caplog

    def run(self, **config: Any) -> dg.ExecuteInProcessResult:
        job = definitions(self.clock).resolve_job_def("port_setup")
        run_config = {"ops": {"port_webhook": {"config": config}}}
        with dg.DagsterInstance.ephemeral() as instance, self._caplog.at_level(logging.DEBUG):
            result = job.execute_in_process(run_config=run_config, instance=instance, raise_on_error=False)
            recorded = [*map(repr, result.all_events), *map(repr, instance.all_logs(result.run_id))]
        self.shown += "\n".join([*recorded, *(record.getMessage() for record in self._caplog.records)])
        return result

    def done(self, **config: Any) -> dict[str, dict[str, Any]]:
        """The metadata of each of the two assets."""
        result = self.run(**config)
        assert result.success, failure(result)
        return {
            node: {name: value.value for name, value in event.metadata.items()}
            for node in ("port_blueprints", "port_webhook")
            for event in result.asset_materializations_for_node(node)
        }


@pytest.fixture
def setup(empty: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Setup:
    for name, value in {**empty.api_environment(), "PORT_WEBHOOK_SECRET": SECRET}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PORT_WEBHOOK_INGEST_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return Setup(empty, caplog)


def test_an_empty_account_gets_the_data_model_once(empty: Sandbox, setup: Setup) -> None:
    first = setup.done()

    assert list(empty.port.catalog.blueprints) == [one["identifier"] for one in model.blueprints()]
    (webhook,) = empty.port.webhooks.values()
    assert webhook.mappings == OURS
    assert webhook.security == {**model.webhook()["security"], "secret": SECRET}
    diff = first["port_blueprints"]["diff"]
    assert "azureSubscription: created" in diff
    assert "+ property tags (object)" in diff
    assert "+ relation resourceGroup -> azureResourceGroup" in diff
    assert first["port_webhook"]["diff"].count("+ mapping") == 6
    assert "+ security: events are signed with PORT_WEBHOOK_SECRET" in first["port_webhook"]["diff"]
    assert first["port_webhook"]["action"] == "created"
    assert "write_env" in first["port_webhook"]["next_step"]

    written, blueprints = _writes(empty), copy.deepcopy(empty.port.catalog.blueprints)
    again = setup.done()
    assert _writes(empty) == written == 4
    assert empty.port.catalog.blueprints == blueprints
    assert again["port_webhook"]["action"] == "unchanged"
    assert not any(sign in again[node]["diff"] for node in again for sign in ("+ ", "- "))
    assert len(empty.port.webhooks) == 1
    assert not Path(".env").exists()
    _shows_no_secret(empty, setup)


def _writes(sandbox: Sandbox) -> int:
    """The number of times that blueprints and webhooks were created or changed."""
    return sum(n for request, n in sandbox.rest.requests.items() if re.match("(create|put|patch)_", request))


def _shows_no_secret(sandbox: Sandbox, setup: Setup) -> None:
    (key,) = sandbox.port.webhooks
    assert setup.shown
    for secret in (key, SECRET, sandbox.rest.client_secret):
        assert secret not in setup.shown


def test_the_url_is_written_where_only_the_owner_reads_it(
    empty: Sandbox, setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = Path(".env")
    file.write_text("# mine\nRESOURCE_TYPES='[\"a/b\"]'\nPORT_WEBHOOK_INGEST_URL=\n")
    file.chmod(0o644)

    next_step = setup.done(write_env=True)["port_webhook"]["next_step"]

    (key,) = empty.port.webhooks
    written = dotenv_values(file)
    assert written == {"RESOURCE_TYPES": '["a/b"]', "PORT_WEBHOOK_INGEST_URL": f"{empty.url}/{key}"}
    assert file.read_text().startswith("# mine\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert str(file.resolve()) in next_step
    _shows_no_secret(empty, setup)

    monkeypatch.setenv("PORT_WEBHOOK_INGEST_URL", f"{empty.url}/{key}")
    file.unlink()
    assert "already" in setup.done(write_env=True)["port_webhook"]["next_step"]
    assert not file.exists()
    _shows_no_secret(empty, setup)


@pytest.mark.parametrize("url", [None, "https://ingest.getport.io/key-0123456789"])
def test_without_credentials_it_says_so_in_one_sentence(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    for name in ("PORT_CLIENT_ID", "PORT_CLIENT_SECRET"):
        monkeypatch.setenv(name, "")
    if url:
        monkeypatch.setenv("PORT_WEBHOOK_INGEST_URL", url)
    failed = setup.run()
    (message,) = failure(failed).strip().splitlines()
    assert "PORT_CLIENT_ID and PORT_CLIENT_SECRET" in message
    assert "key-0123456789" not in setup.shown


# -- blueprints ------------------------------------------------------------------------------------------------------


def _change(sandbox: Sandbox, identifier: str = RESOURCE, **parts: Any) -> dict[str, Any]:
    """Change a blueprint as a person does in Port."""
    blueprint = {**sandbox.port.catalog.blueprints[identifier], **parts}
    sandbox.port.catalog.add_blueprint(blueprint)
    return blueprint


def test_the_guides_blueprints_are_complete(sandbox: Sandbox, api: PortApi) -> None:
    assert [change.action for change in set_up_blueprints(api)] == ["unchanged"] * 3


def test_what_a_blueprint_lacks_is_added_and_what_a_person_made_stays(sandbox: Sandbox, api: PortApi) -> None:
    own = {"owner": {"type": "string", "title": "Owner"}, "type": {"type": "string", "title": "My type"}}
    lead = {"lead": {"target": "azureSubscription", "required": False, "many": True}}
    schema = {"properties": own, "required": ["owner"]}
    mine = _change(sandbox, title="My resources", icon="Star", schema=schema, relations=lead)
    sandbox.put_entity(RESOURCE, "/a", "A", {"owner": "me"}, {"lead": ["/s"]})

    changes = {change.identifier: change for change in set_up_blueprints(api)}

    assert changes[RESOURCE] == Change(
        RESOURCE,
        "updated",
        ("+ property tags (object)", "+ property location (string)", "+ relation resourceGroup -> azureResourceGroup"),
    )
    now = sandbox.port.catalog.blueprints[RESOURCE]
    assert (now["title"], now["icon"], now["schema"]["required"]) == (mine["title"], mine["icon"], ["owner"])
    assert now["schema"]["properties"] == {**model.blueprints()[2]["schema"]["properties"], **own}
    assert now["relations"] == {**model.blueprints()[2]["relations"], **lead}
    assert sandbox.held()[RESOURCE]["/a"]["properties"] == {"owner": "me"}
    assert {change.action for change in set_up_blueprints(api)} == {"unchanged"}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        (
            {"schema": {"properties": {"tags": {"type": "array"}}}},
            "the property tags of the blueprint azureCloudResources has the type array, and the sync needs object",
        ),
        (
            {"relations": {"resourceGroup": {"target": "azureSubscription", "required": False, "many": False}}},
            "the relation resourceGroup of the blueprint azureCloudResources has the target azureSubscription",
        ),
    ],
    ids=["property", "relation"],
)
def test_what_a_person_made_otherwise_is_one_sentence(
    sandbox: Sandbox, api: PortApi, parts: dict[str, Any], sentence: str
) -> None:
    mine = _change(sandbox, **parts)
    with pytest.raises(SettingsError, match=sentence) as error:
        set_up_blueprints(api)
    assert "\n" not in str(error.value)
    assert sandbox.port.catalog.blueprints[RESOURCE]["schema"] == mine["schema"]


@pytest.mark.parametrize(
    "odd", [{"schema": {"properties": {"tags": "object"}}}, {"relations": {"resourceGroup": ["x"]}}], ids=str
)
def test_a_blueprint_that_is_none_of_ports_is_one_sentence(sandbox: Sandbox, api: PortApi, odd: dict[str, Any]) -> None:
    body = {"ok": True, "blueprint": odd}
    sandbox.faults.add(Fault("port", status=200, body=body, path=f"/v1/blueprints/{RESOURCE}"))
    with pytest.raises(PortError, match="something that its specification does not have: check that PORT_BASE_URL"):
        set_up_blueprints(api)


@pytest.mark.parametrize(("path", "what"), [("/v1/blueprints", "blueprints"), ("/v1/webhooks", "webhooks")])
def test_credentials_that_may_not_change_the_account_are_named(empty: Sandbox, path: str, what: str) -> None:
    given = empty.api_environment()
    clock = SteppedClock(empty.clock)
    api = PortApi(given["PORT_BASE_URL"], given["PORT_CLIENT_ID"], given["PORT_CLIENT_SECRET"], clock=clock)
    body = {"ok": False, "error": "forbidden", "message": "no"}
    empty.faults.add(Fault("port", status=403, body=body, path=path, method="POST", times=None))
    with pytest.raises(PortError, match=f"PORT_CLIENT_ID may not change {what}. Use the credentials of .* an admin"):
        set_up_blueprints(api) if what == "blueprints" else set_up_webhook(api, None, None)
    api.close()


# -- the webhook -----------------------------------------------------------------------------------------------------


def _with_own_parts(sandbox: Sandbox) -> list[dict[str, Any]]:
    """The guide's webhook, to which a person has added a property, a relation and a mapping."""
    (webhook,) = sandbox.port.webhooks.values()
    mappings = copy.deepcopy(webhook.mappings)
    entity = mappings[0]["entity"]
    entity["properties"]["owner"] = ".body.data.tags.owner // 'nobody' | ascii_upcase"
    entity["relations"]["lead"] = '"/subscriptions/" + .body.data.subscriptionId'
    mappings.append({"blueprint": "other", "filter": ".body.kind == 'x'", "entity": {"identifier": ".body.id"}})
    webhook = type(webhook)(webhook.key, mappings, webhook.security, webhook.identifier, about=webhook.about)
    sandbox.port.add_webhook(webhook)
    return mappings


def test_the_guides_webhook_is_found_by_its_url_and_takes_batches_then(
    sandbox: Sandbox, api: PortApi, url: str
) -> None:
    secret = sandbox.environment()["PORT_WEBHOOK_SECRET"]
    change, shown = set_up_webhook(api, url, secret)
    assert (change.identifier, change.action, shown) == ("azureIncremental", "updated", url)
    assert sum(line.startswith("- mapping") for line in change.diff) == 6
    assert sum(line.startswith("+ mapping") for line in change.diff) == 6
    (webhook,) = sandbox.port.webhooks.values()
    assert webhook.mappings == OURS
    assert webhook.about["title"] == "Azure incremental"
    assert select_sink("auto", url, signs=True, api=api).sink == BATCH
    assert set_up_webhook(api, url, secret)[0] == Change("azureIncremental", "unchanged")
    shows_none_of(ValueError(repr(change)), secret, url, webhook.key)


def test_what_a_person_added_to_the_webhook_keeps_working(sandbox: Sandbox, api: PortApi, url: str) -> None:
    before = _with_own_parts(sandbox)
    set_up_webhook(api, url, None)
    (webhook,) = sandbox.port.webhooks.values()
    assert webhook.mappings[-1] == before[-1]

    (example,) = (probe.body for probe in probes() if (probe.kind, probe.operation) == (Kind.RESOURCE, "upsert"))
    tagged = example.replace('"a":"b"', '"owner":"me"')
    of_guides = WebhookMapping(before).entities(tagged)
    mapping = WebhookMapping(webhook.mappings)
    for body in (tagged, f'{{"items": [{tagged}]}}'):
        assert mapping.entities(body) == of_guides
    assert of_guides[0].document["properties"]["owner"] == "ME"
    assert of_guides[0].document["relations"]["lead"].startswith("/subscriptions/0")
    own_event = '{"kind": "x", "id": "1"}'
    assert mapping.entities(own_event) == WebhookMapping(before).entities(own_event)

    assert set_up_webhook(api, url, None)[0].action == "unchanged"
    assert select_sink("auto", url, signs=True, api=api).sink == "webhook"  # the mapping of one's own takes no batches


def test_parts_of_a_mapping_that_the_sandbox_does_not_play_stay_too() -> None:
    query = {"combinator": '"and"', "rules": [{"property": '"$title"', "operator": '"="', "value": ".body.data.name"}]}
    create = next(one for one in OURS if one["blueprint"] == RESOURCE and one["operation"] == "create")
    guides = {
        "blueprint": RESOURCE,
        "operation": "create",
        "filter": '.body.type == "resource" and .body.operation == "upsert"',
        "entity": {"identifier": '.body.data.resourceId | gsub(" "; "_")', "icon": '"Azure"', "team": query},
    }
    (now,) = merged([guides], [create])
    rules = [{"property": '"$title"', "operator": '"="', "value": ".item.data.name"}]
    assert now["entity"] == {**create["entity"], "icon": '"Azure"', "team": {**query, "rules": rules}}


@pytest.mark.parametrize("url", [None, "https://ingest.getport.io/elsewhere"])
def test_without_the_url_of_a_webhook_of_this_account_there_is_one_of_our_name(
    sandbox: Sandbox, api: PortApi, url: str | None
) -> None:
    guides = set(sandbox.port.webhooks)
    created, shown = set_up_webhook(api, url, SECRET)
    assert (created.identifier, created.action) == ("azure_port_sync", "created")
    (key,) = sandbox.port.webhooks.keys() - guides
    assert shown == f"{sandbox.url}/{key}"
    assert set_up_webhook(api, url, SECRET) == (Change("azure_port_sync", "unchanged"), shown)


def test_the_secret_becomes_the_security_and_nothing_takes_one_away(sandbox: Sandbox, api: PortApi, url: str) -> None:
    set_up_webhook(api, url, SECRET)
    (webhook,) = sandbox.port.webhooks.values()
    assert webhook.security == {**model.webhook()["security"], "secret": SECRET}
    set_up_webhook(api, url, None)
    assert next(iter(sandbox.port.webhooks.values())).security == webhook.security


def test_without_a_secret_a_new_webhook_takes_any_event(sandbox: Sandbox, api: PortApi) -> None:
    set_up_webhook(api, None, None)
    webhook = sandbox.port.webhook("azure_port_sync")
    assert webhook is not None
    assert webhook.security == {}
