"""The way into Port that a run takes: by the setting, and by what the webhook's mapping is known to take."""

import dataclasses
from typing import Any

import pytest

from azure_port_sync.core.errors import PortError, SettingsError
from azure_port_sync.port import model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.responses import Webhook as KnownWebhook
from azure_port_sync.port.setup import merged
from azure_port_sync.port.sink_selection import API, BATCH, WEBHOOK, SinkSelection, find_webhook, select_sink
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import Webhook
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.leaks import shows_none_of
from azure_port_sync_tests.support.operator import Operator, failed_checks, failure, recorded

OURS = model.webhook()["mappings"]
SETTINGS = ("auto", WEBHOOK, BATCH)

#: A person's own mapping of single events to a blueprint of their own, of which our events say nothing.
SOMEBODYS = {
    "blueprint": "deployment",
    "operation": "create",
    "filter": '.body.kind == "deployment"',
    "entity": {"identifier": ".body.id"},
}


@pytest.fixture
def url(sandbox: Sandbox) -> str:
    return sandbox.environment()["PORT_WEBHOOK_INGEST_URL"]


@pytest.fixture
def webhook(sandbox: Sandbox) -> Webhook:
    """The webhook of the guide, as the sandbox's Port has it."""
    (one,) = sandbox.port.webhooks.values()
    return one


def _become(sandbox: Sandbox, webhook: Webhook, **parts: Any) -> None:
    """Change what Port keeps of its webhook."""
    kept = {field.name: getattr(webhook, field.name) for field in dataclasses.fields(webhook)}
    sandbox.port.add_webhook(Webhook(**{**kept, **parts}))


def _chosen(choice: SinkSelection) -> str:
    """The name of the sink, where the reason reads on after "delivery by ..., because"."""
    assert choice.reason
    assert choice.reason[0] == choice.reason[0].lower() or choice.reason.startswith("PORT_")
    assert not choice.reason.endswith(".")
    assert "\n" not in choice.reason
    return choice.sink


def _sentence(delivery: str, url: str | None, api: PortApi | None, *, signs: bool = True) -> str:
    """Return the sentence where there is no choice to make."""
    with pytest.raises(SettingsError) as error:
        select_sink(delivery, url, signs=signs, api=api)
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    if url:
        shows_none_of(error.value, url, url.rpartition("/")[2])
    return text


# -- without the API -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("delivery", "sink"), [("auto", WEBHOOK), (WEBHOOK, WEBHOOK), (BATCH, BATCH)])
def test_without_credentials_a_batch_is_sent_only_on_order(url: str, delivery: str, sink: str) -> None:
    choice = select_sink(delivery, url, signs=True, api=None)
    assert (_chosen(choice), choice.mappings) == (sink, None)


def test_the_api_needs_credentials(url: str) -> None:
    assert "PORT_DELIVERY=api needs PORT_CLIENT_ID and PORT_CLIENT_SECRET" in _sentence("api", url, None)


@pytest.mark.parametrize("delivery", [WEBHOOK, BATCH])
def test_a_webhook_needs_its_url(api: PortApi, delivery: str) -> None:
    assert f"PORT_DELIVERY={delivery} needs PORT_WEBHOOK_INGEST_URL" in _sentence(delivery, None, api)


# -- by the mapping --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["auto", API])
def test_without_a_url_the_api_is_used(sandbox: Sandbox, api: PortApi, delivery: str) -> None:
    assert _chosen(select_sink(delivery, None, signs=False, api=api)) == API
    assert not sandbox.rest.requests


def test_the_api_is_used_on_order_whatever_the_webhook(sandbox: Sandbox, api: PortApi, url: str) -> None:
    assert _chosen(select_sink(API, url, signs=False, api=api)) == API


@pytest.mark.parametrize("delivery", ["auto", WEBHOOK])
def test_the_guides_webhook_gets_single_events(api: PortApi, url: str, webhook: Webhook, delivery: str) -> None:
    choice = select_sink(delivery, url, signs=True, api=api)
    assert (_chosen(choice), choice.mappings) == (WEBHOOK, webhook.mappings)
    assert ("the job port_setup" in choice.reason) == (delivery == "auto")


@pytest.mark.parametrize(("delivery", "sink"), [("auto", BATCH), (WEBHOOK, WEBHOOK), (BATCH, BATCH)])
def test_our_mapping_gets_batches(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook, delivery: str, sink: str
) -> None:
    _become(sandbox, webhook, mappings=OURS)
    choice = select_sink(delivery, url, signs=True, api=api)
    assert (_chosen(choice), choice.mappings) == (sink, OURS)


#: Mappings of which at least a part would not see what is in a batch.
NO_BATCHES: dict[str, list[dict[str, Any]]] = {
    "ours, but for one that reads no items": [*OURS[1:], {**SOMEBODYS, "filter": OURS[0]["filter"]}],
    "a person's own for other events": [*OURS, SOMEBODYS],
    "ours, that reads only the first": [{**one, "itemsToParse": ".body.items[:1] // [.body]"} for one in OURS],
    "ours, of another key": [{**one, "itemsToParse": ".body.events // [.body]"} for one in OURS],
}


@pytest.mark.parametrize("mappings", NO_BATCHES.values(), ids=NO_BATCHES.keys())
def test_a_batch_never_goes_to_a_webhook_that_would_drop_it(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook, mappings: list[dict[str, Any]]
) -> None:
    """Port answers 202 and says nothing. A filter that none of our samples meets may meet a real event."""
    _become(sandbox, webhook, mappings=mappings)
    assert _chosen(select_sink("auto", url, signs=True, api=api)) == WEBHOOK
    assert "would drop them silently" in _sentence(BATCH, url, api)


@pytest.mark.parametrize("delivery", SETTINGS)
@pytest.mark.parametrize("mappings", [[], [SOMEBODYS], [{**OURS[0], "filter": ".nothing"}]], ids=len)
def test_a_mapping_that_drops_all_of_our_events_stops_the_run(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook, delivery: str, mappings: list[dict[str, Any]]
) -> None:
    _become(sandbox, webhook, mappings=mappings)
    said = _sentence(delivery, url, api)
    assert "azureIncremental turns none of our events into an entity" in said
    assert "port_setup" in said


#: Mappings of which nothing can be made.
ODD: list[Any] = [
    1,
    None,
    {},
    {"blueprint": "deployment"},
    {**SOMEBODYS, "blueprint": 5},
    {**SOMEBODYS, "entity": "x"},
    {**SOMEBODYS, "entity": {}},
    {**SOMEBODYS, "entity": {"identifier": ".x", "relations": ["x"]}},
    {**SOMEBODYS, "operation": {}},
    {**SOMEBODYS, "operation": 5},
    {**SOMEBODYS, "filter": {"x": "y"}, "itemsToParse": 5, "entity": {"identifier": ["x"]}},
    {**OURS[0], "entity": {"identifier": {"combinator": "and", "rules": []}, "properties": None}},
]


@pytest.mark.parametrize("odd", ODD, ids=str)
def test_an_odd_mapping_makes_nothing_and_stops_nothing(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook, odd: Any
) -> None:
    """It was a traceback, before anything was sent."""
    mappings = [*OURS, odd]
    _answer(sandbox, webhook, mappings=mappings)
    choice = select_sink("auto", url, signs=True, api=api)
    assert (_chosen(choice), choice.mappings) == (BATCH, mappings)
    _answer(sandbox, webhook, mappings=[odd])
    assert "turns none of our events into an entity" in _sentence("auto", url, api)
    assert merged(mappings, OURS) == mappings  # what a person wrote stays


@pytest.mark.parametrize("odd", [{"mappings": "x"}, {"mappings": {"a": 1}}, {"security": [1]}], ids=str)
def test_a_webhook_that_is_none_of_ports_is_one_sentence(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook, odd: dict[str, Any]
) -> None:
    _answer(sandbox, webhook, **odd)
    with pytest.raises(PortError, match="something that its specification does not have: check that PORT_BASE_URL"):
        select_sink("auto", url, signs=True, api=api)


def _answer(sandbox: Sandbox, webhook: Webhook, **parts: Any) -> None:
    """Have Port's API show the webhook with other parts, whatever its specification has."""
    shown = {"identifier": webhook.identifier, "webhookKey": webhook.key, **parts}
    body = {"ok": True, "integrations": [shown]}
    sandbox.faults.add(Fault("port", status=200, body=body, path="/v1/webhooks"))


def test_webhooks_that_may_not_be_read(sandbox: Sandbox, api: PortApi, url: str) -> None:
    """Only moderators and admins may."""
    refusal = {"ok": False, "error": "forbidden", "message": "no"}
    sandbox.faults.add(Fault("port", status=403, body=refusal, path="/v1/webhooks", times=None))
    for delivery, sink in (("auto", WEBHOOK), (WEBHOOK, WEBHOOK), (BATCH, BATCH)):
        assert _chosen(select_sink(delivery, url, signs=True, api=api)) == sink


def test_a_webhook_of_another_account(sandbox: Sandbox, api: PortApi) -> None:
    elsewhere = f"{sandbox.url}/another-key"
    assert _chosen(select_sink("auto", elsewhere, signs=True, api=api)) == WEBHOOK
    assert "no webhook of the account" in _sentence(BATCH, elsewhere, api)


def test_an_api_that_does_not_answer_is_no_reason_to_guess(sandbox: Sandbox, api: PortApi, url: str) -> None:
    sandbox.faults.add(Fault("port", status=500, path="/v1/webhooks", times=None))
    with pytest.raises(PortError, match="could not be used for 5 minutes"):
        select_sink("auto", url, signs=True, api=api)


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"webhookKey": "the-key"}, True),
        ({"url": "https://ingest.us.port.io/the-key"}, True),
        ({"webhookKey": "another", "url": "https://ingest.getport.io/the-key/"}, True),
        ({"webhookKey": "another", "url": None}, False),
        ({}, False),
    ],
)
def test_a_webhook_is_known_by_its_key_on_whichever_host(known: dict[str, Any], found: bool) -> None:
    other = {"identifier": "other", "webhookKey": "other", "url": "https://ingest.getport.io/other"}
    webhooks = [KnownWebhook.of(one) for one in (other, {"identifier": "it", **known})]
    assert (find_webhook(webhooks, "https://ingest.getport.io/the-key") == webhooks[1]) is found


# -- what makes Port drop everything ---------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", SETTINGS)
def test_a_disabled_webhook_stops_the_run(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook, delivery: str
) -> None:
    _become(sandbox, webhook, enabled=False)
    assert "azureIncremental is disabled" in _sentence(delivery, url, api)


@pytest.mark.parametrize("delivery", SETTINGS)
def test_a_webhook_that_wants_a_signature_and_gets_none_stops_the_run(api: PortApi, url: str, delivery: str) -> None:
    assert "PORT_WEBHOOK_SECRET is not set" in _sentence(delivery, url, api, signs=False)


@pytest.mark.parametrize(
    "another",
    [
        {"signatureHeaderName": "X-Hub-Signature-256"},
        {"signatureAlgorithm": "sha1"},
        {"signatureAlgorithm": "plain", "signaturePrefix": ""},
        {"signaturePrefix": ""},
        {"signatureHeaderName": 5},
        {"signatureAlgorithm": ["sha256"]},
    ],
    ids=str,
)
def test_a_webhook_that_expects_another_signature_stops_the_run(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook, another: dict[str, str]
) -> None:
    _become(sandbox, webhook, security={**webhook.security, **another})
    said = _sentence("auto", url, api)
    assert "expects another signature than ours" in said
    assert "X-Port-Signature" in said


@pytest.mark.parametrize("security", [{}, {"secret": None, "signatureHeaderName": "x"}, {"signatureHeaderName": None}])
def test_a_webhook_that_looks_at_no_signature_takes_any(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook, security: dict[str, str | None]
) -> None:
    _become(sandbox, webhook, security=security)
    for signs in (True, False):
        assert _chosen(select_sink("auto", url, signs=signs, api=api)) == WEBHOOK


def test_a_webhook_whose_secret_port_does_not_show_wants_a_signature(
    sandbox: Sandbox, api: PortApi, url: str, webhook: Webhook
) -> None:
    hidden = {name: value for name, value in webhook.security.items() if name != "secret"}
    _become(sandbox, webhook, security=hidden)
    assert "PORT_WEBHOOK_SECRET is not set" in _sentence("auto", url, api, signs=False)
    assert _chosen(select_sink("auto", url, signs=True, api=api)) == WEBHOOK


# -- in a run --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("delivery", "sink", "ours"),
    [
        ("auto", WEBHOOK, False),
        ("auto", BATCH, True),
        (WEBHOOK, WEBHOOK, True),
        (BATCH, BATCH, True),
        (API, API, False),
    ],
)
def test_a_run_shows_its_delivery_and_the_catalog_is_right(
    operator: Operator,
    estate: dict[str, str],
    webhook: Webhook,
    credentials: None,
    monkeypatch: pytest.MonkeyPatch,
    delivery: str,
    sink: str,
    ours: bool,
) -> None:
    sandbox = operator.sandbox
    if ours:
        _become(sandbox, webhook, mappings=OURS)
    monkeypatch.setenv("PORT_DELIVERY", delivery)

    first = operator.run()

    assert failed_checks(first) == {}
    figures = recorded(first)
    assert figures["delivery"] == sink
    assert figures["delivery_reason"]
    assert sandbox.compare().sentences() == []
    assert (sandbox.port.events, sandbox.port.items) == {
        WEBHOOK: (len(estate), len(estate)),
        BATCH: (3, len(estate)),  # one request for each kind
        API: (0, 0),
    }[sink]
    assert sandbox.rest.items["upserted"] == (len(estate) if sink == API else 0)

    sandbox.tenant.delete_group(estate["web"])
    sandbox.tenant.tag_resource(estate["sql"], {"tier": "gold"})
    operator.sync()
    assert sandbox.compare().sentences() == []


def test_a_webhook_that_would_drop_all_fails_the_run_before_anything_is_read(
    operator: Operator, estate: dict[str, str], webhook: Webhook, credentials: None
) -> None:
    _become(operator.sandbox, webhook, enabled=False)
    failed = operator.run()
    (message,) = failure(failed).strip().splitlines()
    assert "azureIncremental is disabled in Port" in message
    assert operator.sandbox.graph.requests == 0


def test_the_fingerprint_changes_with_the_sink_and_with_the_mapping() -> None:
    ours = model.webhook()["mappings"]
    another = [{**ours[0], "filter": "true"}, *ours[1:]]
    batch = SinkSelection("webhook_batch", "why", ours)
    others = [SinkSelection("webhook", "why", ours), SinkSelection("webhook_batch", "why", another)]
    assert len({batch.fingerprint, *(one.fingerprint for one in others)}) == 3
    assert SinkSelection("webhook_batch", "for another reason").fingerprint == batch.fingerprint
