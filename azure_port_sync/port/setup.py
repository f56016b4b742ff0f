"""Bringing the data model into Port: the blueprints of the guide, and the webhook whose mapping fills them.

What is missing is added and what is ours is brought up to date; what a person added (properties, relations, mappings,
titles) stays. Doing it twice changes nothing the second time.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from azure_port_sync.core.errors import PortError, SettingsError
from azure_port_sync.port import Json, model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.events import probes
from azure_port_sync.port.mapping import MappedEntity, Target, WebhookMapping
from azure_port_sync.port.responses import Blueprint, Webhook
from azure_port_sync.port.sink_selection import find_webhook


@dataclass(frozen=True)
class Change:
    """The action on a blueprint or webhook ("created", "updated" or "unchanged"), and the lines of its diff."""

    identifier: str
    action: str
    diff: tuple[str, ...] = ()


def set_up_blueprints(api: PortApi) -> list[Change]:
    """Create or complete the blueprints of the data model.

    Raises SettingsError for a property or relation that a person has made otherwise than we need it.
    """
    return [_set_up_blueprint(api, wanted) for wanted in model.blueprints()]


def _set_up_blueprint(api: PortApi, wanted: Json) -> Change:
    identifier, ours = wanted["identifier"], Blueprint.of(wanted)
    existing = api.blueprint(identifier)
    if existing is None:
        api.create_blueprint(wanted)
        return Change(identifier, "created", tuple(_missing(identifier, ours, Blueprint({"properties": {}}, {}))))
    missing = tuple(_missing(identifier, ours, existing))
    if not missing:
        return Change(identifier, "unchanged")
    schema = {**existing.schema, "properties": {**ours.properties, **existing.properties}}
    api.update_blueprint(identifier, {"schema": schema, "relations": {**ours.relations, **existing.relations}})
    return Change(identifier, "updated", missing)


def _missing(identifier: str, ours: Blueprint, existing: Blueprint) -> list[str]:
    """Return what a blueprint lacks, as lines of a diff."""
    lines = []
    for name, one in ours.properties.items():
        if name not in existing.properties:
            lines.append(f"+ property {name} ({one['type']})")
        else:
            _check_same(identifier, f"property {name}", "type", one, existing.properties[name])
    for name, one in ours.relations.items():
        if name not in existing.relations:
            lines.append(f"+ relation {name} -> {one['target']}")
        else:
            _check_same(identifier, f"relation {name}", "target", one, existing.relations[name])
    return lines


def _check_same(blueprint: str, what: str, by: str, ours: Json, theirs: Json) -> None:
    if theirs.get(by) != ours[by]:
        raise SettingsError(
            f"In Port, the {what} of the blueprint {blueprint} has the {by} {theirs.get(by)}, and the sync needs "
            f"{ours[by]}: rename yours in Port, and launch port_setup again."
        )


# -- the webhook ------------------------------------------------------------------------------------------------------


def set_up_webhook(api: PortApi, url: str | None, secret: str | None) -> tuple[Change, str]:
    """Create the webhook, or bring it up to date: the one behind `url`, else the one of our name.

    Returns what was done, and the webhook's URL, which is a secret. `secret` becomes its security; without one, the
    security that is there stays.
    """
    ours = model.webhook()
    security = ours["security"] | {"secret": secret} if secret else {}
    existing = _existing_webhook(api, url, ours["identifier"])
    if existing is None:
        created = api.create_webhook(ours | {"security": security})
        lines = [f"+ mapping {_name(mapping)}" for mapping in ours["mappings"]]
        return Change(ours["identifier"], "created", (*lines, *_security_line(secret))), _url(created)
    changes: Json = {}
    mappings = merged(existing.mappings, ours["mappings"])
    lines = [f"- mapping {_name(one)}" for one in existing.mappings if one not in mappings]
    lines += [f"+ mapping {_name(one)}" for one in mappings if one not in existing.mappings]
    if lines:
        changes["mappings"] = mappings
    if {**existing.security, **security} != existing.security:
        changes["security"] = {**existing.security, **security}
        lines += _security_line(secret)
    if changes:
        api.update_webhook(existing.identifier, changes)
    return Change(existing.identifier, "updated" if changes else "unchanged", tuple(lines)), _url(existing)


def _existing_webhook(api: PortApi, url: str | None, identifier: str) -> Webhook | None:
    webhooks = api.webhooks()
    if webhooks is None:
        raise PortError("Port does not let PORT_CLIENT_ID read the webhooks: use the credentials of an admin.")
    behind_url = find_webhook(webhooks, url) if url else None
    return behind_url or next((webhook for webhook in webhooks if webhook.identifier == identifier), None)


def merged(existing: Sequence[Json], ours: Sequence[Json]) -> list[Json]:
    """Return our mappings, with what a person added to them, and then a person's own.

    A mapping counts as ours, or as the guide's, when it makes of our events what ours makes. What was added to it reads
    an event as the whole body; ours have it as an item of a batch.
    """
    result, taken = [], list[Json]()
    for mapping in ours:
        identities = _identities(mapping)
        same = [one for one in existing if _identities(one) == identities]
        taken += same
        result.append({**mapping, "entity": _merged_entity(mapping["entity"], [one["entity"] for one in same])})
    return result + [one for one in existing if one not in taken]


def _merged_entity(ours: Json, theirs: Sequence[Json]) -> Json:
    entity = {name: _of_the_item(value) for one in theirs for name, value in one.items()} | ours
    for part in ("properties", "relations"):
        added = {
            name: _of_the_item(expression)
            for one in theirs
            for name, expression in (one.get(part) or {}).items()
            if name not in entity.get(part, {})
        }
        if added:
            entity[part] = {**entity.get(part, {}), **added}
    return entity


def _identities(mapping: Json) -> list[tuple[str, str, str]]:
    """Return what a mapping makes of our events, without what it shows of them."""
    evaluated = WebhookMapping([mapping])
    made: list[MappedEntity] = [entity for probe in probes() for entity in evaluated.entities(probe.body)]
    return [(entity.blueprint, entity.operation, entity.identifier) for entity in made]


def _of_the_item(expression: Any) -> Any:
    """Return an expression, or a query made of some, that reads an item where it read the body."""
    return json.loads(re.sub(r"\.body\b", ".item", json.dumps(expression)))


def _name(mapping: Json) -> str:
    target = Target.of(mapping)
    batches = "events and batches" if "itemsToParse" in mapping else "single events"
    return f"{target.operation} {target.blueprint} ({batches})"


def _security_line(secret: str | None) -> list[str]:
    return ["+ security: events are signed with PORT_WEBHOOK_SECRET"] if secret else []


def _url(webhook: Webhook) -> str:
    if not webhook.url:
        raise PortError(
            "Port did not show the URL of the webhook: copy it in Port, under Data sources, into "
            "PORT_WEBHOOK_INGEST_URL."
        )
    return webhook.url
