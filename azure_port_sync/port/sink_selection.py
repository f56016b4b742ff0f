"""Which way into Port a run takes, and why: by PORT_DELIVERY, and by what the webhook's mapping can take.

Port answers 202 to a batch that a webhook's mapping does not understand, and drops it. So a batch is sent only where
the mapping is known to take it: it is read by Port's API and tried here, with jq as Port evaluates it, on one event of
each kind.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from azure_port_sync.core.entities import canonical, delete_data, identity, observed_row
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.kinds import KINDS
from azure_port_sync.core.rows import Operation
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.events import event_body
from azure_port_sync.port.mapping import WebhookMapping
from azure_port_sync.port.sinks.webhook import SIGNATURE_HEADER, SIGNATURE_PREFIX

Json = dict[str, Any]

WEBHOOK, BATCH, API = "webhook", "webhook_batch", "api"


@dataclass(frozen=True)
class Choice:
    """The name of the sink, the reason in a sentence, and the webhook's mappings where they are known."""

    sink: str
    reason: str
    mappings: Sequence[Json] | None = None


def choose(delivery: str, url: str | None, *, signs: bool, api: PortApi | None) -> Choice:
    """The sink for a webhook's `url`, API credentials, or both; `delivery` is the setting, `signs` whether we sign.

    Raises SettingsError, in one sentence, for a webhook that is known to drop what it accepts, and for a delivery that
    lacks what it needs; PortError when Port's API cannot be asked.
    """
    if delivery == API or (delivery == "auto" and url is None):
        if api is None:
            raise SettingsError(
                "PORT_DELIVERY=api needs PORT_CLIENT_ID and PORT_CLIENT_SECRET: set both from the credentials that "
                "Port shows."
            )
        return Choice(API, "PORT_DELIVERY asks for it" if delivery == API else "there is no webhook URL")
    if url is None:
        raise SettingsError(
            f"PORT_DELIVERY={delivery} needs PORT_WEBHOOK_INGEST_URL: set it to the URL of your Port webhook."
        )
    if api is None:
        if delivery == BATCH:
            return Choice(BATCH, "PORT_DELIVERY asks for it; without API credentials its mapping is not looked at")
        return Choice(
            WEBHOOK,
            "PORT_DELIVERY asks for it"
            if delivery == WEBHOOK
            else "any mapping takes single events, and without API credentials it is not known whether it takes more",
        )
    return _by_mapping(delivery, url, signs=signs, api=api)


def _by_mapping(delivery: str, url: str, *, signs: bool, api: PortApi) -> Choice:
    webhooks = api.webhooks()
    if webhooks is None:
        if delivery == BATCH:
            return Choice(BATCH, "PORT_DELIVERY asks for it; PORT_CLIENT_ID may not read its mapping")
        return Choice(WEBHOOK, "PORT_CLIENT_ID may not read the webhook's mapping, and any takes single events")
    found = find_webhook(webhooks, url)
    if found is None:
        if delivery == BATCH:
            raise SettingsError(
                "PORT_DELIVERY=webhook_batch, but PORT_WEBHOOK_INGEST_URL is no webhook of the account that "
                "PORT_CLIENT_ID belongs to, so whether it takes batches is not known: check both, or unset "
                "PORT_DELIVERY."
            )
        return Choice(WEBHOOK, "the webhook is not of the account that PORT_CLIENT_ID belongs to")
    name = found.get("identifier")
    _check(found, signs=signs)
    mappings = found.get("mappings") or []
    takes_single, takes_batches = what_it_takes(mappings)
    if not takes_single and not takes_batches:
        raise SettingsError(
            f"The mapping of the webhook {name} makes nothing of our events, and Port would drop them without a word: "
            "launch the job port_setup, or paste the mapping from the README."
        )
    if takes_batches and delivery != WEBHOOK:
        return Choice(BATCH, f"the mapping of the webhook {name} takes batches", mappings)
    if delivery == BATCH:
        raise SettingsError(
            f"PORT_DELIVERY=webhook_batch, but not all mappings of the webhook {name} take batches, and Port would "
            "drop them without a word: launch the job port_setup, which changes those of the guide, or unset "
            "PORT_DELIVERY."
        )
    return Choice(
        WEBHOOK,
        "PORT_DELIVERY asks for it"
        if delivery == WEBHOOK
        else f"not all mappings of the webhook {name} take batches; the job port_setup changes those of the guide",
        mappings,
    )


def find_webhook(webhooks: Sequence[Json], url: str) -> Json | None:
    """The webhook behind a URL. Port has several names for one host, so the key in the path decides."""
    key = urlsplit(url).path.strip("/")
    for webhook in webhooks:
        keys = {webhook.get("webhookKey"), urlsplit(str(webhook.get("url") or "")).path.strip("/")}
        if key in keys:
            return webhook
    return None


def _check(webhook: Json, *, signs: bool) -> None:
    """What makes Port drop everything that it accepts."""
    name = webhook.get("identifier")
    if webhook.get("enabled") is False:
        raise SettingsError(
            f"The webhook {name} is disabled in Port, which then drops what it accepts: enable it in Port, under "
            "Data sources."
        )
    security = webhook.get("security") or {}
    header = security.get("signatureHeaderName")
    if not (header and security.get("secret", True)):
        return
    if not signs:
        raise SettingsError(
            f"The webhook {name} wants its events signed, and PORT_WEBHOOK_SECRET is not set: set it to the secret of "
            "the webhook's security settings in Port."
        )
    ours = (SIGNATURE_HEADER.lower(), "sha256", SIGNATURE_PREFIX)
    theirs = (header.lower(), security.get("signatureAlgorithm") or "sha256", security.get("signaturePrefix") or "")
    if theirs != ours:
        raise SettingsError(
            f"The webhook {name} expects another signature than ours: launch the job port_setup, or enter the header "
            f"{SIGNATURE_HEADER}, the algorithm sha256 and the prefix {SIGNATURE_PREFIX} in its security settings."
        )


def what_it_takes(mappings: Sequence[Json]) -> tuple[bool, bool]:
    """Whether a mapping makes anything of single events, and whether it makes all the same of a batch of them.

    One without `itemsToParse` sees a batch as one event, and what it is for may be none of the events tried here.
    """
    mapping = WebhookMapping(mappings)
    of_each = probes()
    single = [record for probe in of_each for record in made(mapping, probe)]
    batch = made(mapping, f'{{"items": [{", ".join(of_each)}]}}')
    takes_items = all("itemsToParse" in one for one in mappings)
    return bool(single), bool(batch) and takes_items and _comparable(batch) == _comparable(single)


def made(mapping: WebhookMapping, body: str) -> list[tuple[str, str, Json]]:
    """What a mapping makes of an event: blueprint, operation and record of each entity."""
    return [
        (target.blueprint, target.operation, record)
        for target, record in mapping.records(f'{{"body": {body}, "headers": {{}}, "queryParams": {{}}}}')
        if record["identifier"] is not None
    ]


def _comparable(records: list[tuple[str, str, Json]]) -> list[str]:
    return sorted(json.dumps(record, sort_keys=True) for record in records)


@cache
def probes() -> tuple[str, ...]:
    """One event of each kind and operation."""
    events = []
    for kind, of_kind in KINDS.items():
        azure_id = of_kind.example
        name = azure_id.rpartition("/")[2]
        resource_type = of_kind.arm_type or "microsoft.web/sites"
        row = {"id": azure_id, "type": resource_type, "name": name, "location": "westeurope", "tags": {"a": "b"}}
        upsert = str(observed_row({**row, "rgTags": {}, "inScope": True})["data"])
        delete = canonical(delete_data(identity(azure_id, resource_type, name)))
        events += [event_body(Operation.UPSERT, kind, upsert), event_body(Operation.DELETE, kind, delete)]
    return tuple(event.decode() for event in events)
