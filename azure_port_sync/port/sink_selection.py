"""The way into Port that a run takes, and why: by PORT_DELIVERY, and by what the webhook's mapping can take.

Port answers 202 to a batch that a webhook's mapping does not understand, and drops it. So a batch is sent only where
the mapping is known to take it: it is read by Port's API and tried here, with jq as Port evaluates it, on one event of
each kind.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.port import Json, model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.events import probes
from azure_port_sync.port.mapping import MappedEntity, WebhookMapping
from azure_port_sync.port.responses import Signature, Webhook
from azure_port_sync.port.sinks.webhook import SIGNATURE_HEADER, SIGNATURE_PREFIX

WEBHOOK, BATCH, API = "webhook", "webhook_batch", "api"

#: How our events are signed.
SIGNATURE = Signature(SIGNATURE_HEADER.lower(), "sha256", SIGNATURE_PREFIX)

_ASKED_FOR = "PORT_DELIVERY asks for it"


@dataclass(frozen=True)
class SinkSelection:
    """The name of the sink, the reason in a sentence, and the webhook's mappings where they are known."""

    sink: str
    reason: str
    mappings: Sequence[Json] | None = None

    @property
    def mappings_in_force(self) -> Sequence[Json]:
        """The webhook's own mappings where they are known, otherwise ours."""
        return self.mappings or model.webhook()["mappings"]

    @property
    def fingerprint(self) -> str:
        """A short text that changes with the sink and with the mappings in force."""
        text = json.dumps([self.sink, self.mappings_in_force], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def select_sink(delivery: str, url: str | None, *, signs: bool, api: PortApi | None) -> SinkSelection:
    """Choose the sink for a webhook's `url`, API credentials, or both.

    `delivery` is the setting, `signs` whether we sign. Raises SettingsError, in one sentence, for a webhook that is
    known to drop what it accepts, and for a delivery that lacks what it needs; PortError when Port's API cannot be
    asked.
    """
    if delivery == API or (delivery == "auto" and url is None):
        if api is None:
            raise SettingsError(
                "PORT_DELIVERY=api needs PORT_CLIENT_ID and PORT_CLIENT_SECRET: set both from the credentials that "
                "Port shows."
            )
        return SinkSelection(API, _ASKED_FOR if delivery == API else "there is no webhook URL")
    if url is None:
        raise SettingsError(
            f"PORT_DELIVERY={delivery} needs PORT_WEBHOOK_INGEST_URL: set it to the URL of your Port webhook."
        )
    webhooks = None if api is None else api.webhooks()
    if webhooks is None:
        why = "without API credentials its mapping is not known"
        if api is not None:
            why = "PORT_CLIENT_ID may not read its mapping"
        if delivery == "auto":
            return SinkSelection(WEBHOOK, f"any webhook takes single events, and {why}")
        return SinkSelection(delivery, _ASKED_FOR if delivery == WEBHOOK else f"{_ASKED_FOR}; {why}")
    webhook = find_webhook(webhooks, url)
    if webhook is None and delivery == BATCH:
        raise SettingsError(
            "PORT_DELIVERY=webhook_batch, but PORT_WEBHOOK_INGEST_URL is no webhook of the account that "
            "PORT_CLIENT_ID belongs to, so whether it takes batches is not known: check both, or unset PORT_DELIVERY."
        )
    if webhook is None:
        return SinkSelection(WEBHOOK, "the webhook is not of the account that PORT_CLIENT_ID belongs to")
    _check(webhook, signs=signs)
    return _by_mapping(delivery, webhook)


def _by_mapping(delivery: str, webhook: Webhook) -> SinkSelection:
    name, mappings = webhook.identifier, webhook.mappings
    takes_single, takes_batches = what_it_takes(mappings)
    if not takes_single and not takes_batches:
        raise SettingsError(
            f"The mapping of the webhook {name} turns none of our events into an entity, and Port would drop them "
            "silently: launch the job port_setup, or paste the mapping from the README."
        )
    if takes_batches and delivery != WEBHOOK:
        return SinkSelection(BATCH, f"the mapping of the webhook {name} takes batches", mappings)
    if delivery == BATCH:
        raise SettingsError(
            f"PORT_DELIVERY=webhook_batch, but not all mappings of the webhook {name} take batches, and Port would "
            "drop them silently: launch the job port_setup, which changes those of the guide, or unset "
            "PORT_DELIVERY."
        )
    single = f"not all mappings of the webhook {name} take batches; the job port_setup changes those of the guide"
    return SinkSelection(WEBHOOK, _ASKED_FOR if delivery == WEBHOOK else single, mappings)


def find_webhook(webhooks: Sequence[Webhook], url: str) -> Webhook | None:
    """Return the webhook behind a URL. Port has several names for one host, so the key in the path decides."""
    key = _key(url)
    return next((webhook for webhook in webhooks if key in {webhook.key, _key(webhook.url or "")}), None)


def _key(url: str) -> str:
    return urlsplit(url).path.strip("/")


def _check(webhook: Webhook, *, signs: bool) -> None:
    """Raise SettingsError for a webhook that drops everything that it accepts."""
    name, expected = webhook.identifier, webhook.signature
    if not webhook.enabled:
        raise SettingsError(
            f"The webhook {name} is disabled in Port, which then drops what it accepts: enable it in Port, under "
            "Data sources."
        )
    if expected is None:
        return
    if not signs:
        raise SettingsError(
            f"The webhook {name} wants its events signed, and PORT_WEBHOOK_SECRET is not set: set it to the secret of "
            "the webhook's security settings in Port."
        )
    if expected != SIGNATURE:
        raise SettingsError(
            f"The webhook {name} expects another signature than ours: launch the job port_setup, or enter the header "
            f"{SIGNATURE_HEADER}, the algorithm sha256 and the prefix {SIGNATURE_PREFIX} in its security settings."
        )


def what_it_takes(mappings: Sequence[Json]) -> tuple[bool, bool]:
    """Return whether a mapping makes any entity of single events, and whether it makes all the same of a batch of them.

    One without `itemsToParse` sees a batch as one event, and what it is for may be none of the events tried here.
    """
    mapping = WebhookMapping(mappings)
    events = [probe.body for probe in probes()]
    single = [entity for event in events for entity in mapping.entities(event)]
    batch = mapping.entities(f'{{"items": [{", ".join(events)}]}}')
    takes_items = all("itemsToParse" in one for one in mapping.mappings)
    return bool(single), bool(batch) and takes_items and _comparable(batch) == _comparable(single)


def _comparable(entities: Sequence[MappedEntity]) -> list[str]:
    return sorted(json.dumps(entity, sort_keys=True) for entity in entities)
