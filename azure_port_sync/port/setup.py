"""Bringing the data model into Port: the three blueprints, and the webhook whose mapping fills them.

What is missing is added and what is ours is brought up to date; what a person added (properties, relations, mappings,
titles) stays. Doing it twice changes nothing the second time.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from azure_port_sync.core.errors import PortError, SettingsError
from azure_port_sync.port import model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.mapping import Target, WebhookMapping
from azure_port_sync.port.sink_selection import find_webhook, made, probes

Json = dict[str, Any]


@dataclass(frozen=True)
class Change:
    """What was done to a blueprint or webhook: nothing ("unchanged"), or what each line of the diff says."""

    identifier: str
    action: str
    diff: tuple[str, ...] = ()


def set_up_blueprints(api: PortApi) -> list[Change]:
    """Create or complete the three blueprints.

    Raises SettingsError for a property or relation that a person has made otherwise than we need it.
    """
    return [_set_up_blueprint(api, wanted) for wanted in model.blueprints()]


def _set_up_blueprint(api: PortApi, wanted: Json) -> Change:
    identifier = wanted["identifier"]
    path = f"blueprints/{quote(identifier, safe='')}"
    there = api.find(path)
    if there is None:
        api.write("POST", "blueprints?create_catalog_page=true", wanted)
        return Change(identifier, "created", tuple(_added(wanted, {"schema": {"properties": {}}, "relations": {}})))
    added = tuple(_added(wanted, there))
    if not added:
        return Change(identifier, "unchanged")
    schema, relations = there.get("schema") or {}, there.get("relations") or {}
    properties = {**wanted["schema"]["properties"], **(schema.get("properties") or {})}
    body = {"schema": {**schema, "properties": properties}, "relations": {**wanted["relations"], **relations}}
    api.write("PATCH", path, body)
    return Change(identifier, "updated", added)


def _added(wanted: Json, there: Json) -> list[str]:
    """What a blueprint lacks, as lines of a diff."""
    lines = []
    properties, relations = (there.get("schema") or {}).get("properties") or {}, there.get("relations") or {}
    for name, one in wanted["schema"]["properties"].items():
        if name not in properties:
            lines.append(f"+ property {name} ({one['type']})")
        else:
            _agree(wanted, f"property {name}", "type", one, properties[name])
    for name, one in wanted["relations"].items():
        if name not in relations:
            lines.append(f"+ relation {name} -> {one['target']}")
        else:
            _agree(wanted, f"relation {name}", "target", one, relations[name])
    return lines


def _agree(blueprint: Json, what: str, by: str, ours: Json, theirs: Json) -> None:
    if theirs.get(by) != ours[by]:
        raise SettingsError(
            f"In Port, the {what} of the blueprint {blueprint['identifier']} has the {by} {theirs.get(by)}, and the "
            f"sync needs {ours[by]}: rename yours in Port, and launch port_setup again."
        )


# -- the webhook ------------------------------------------------------------------------------------------------------


def set_up_webhook(api: PortApi, url: str | None, secret: str | None) -> tuple[Change, str]:
    """Create the webhook, or bring it up to date: the one behind `url`, else the one of our name.

    Returns what was done, and the webhook's URL, which is a secret. `secret` becomes its
    security; without one, the security that is there stays.
    """
    wanted = model.webhook()
    webhooks = api.webhooks()
    if webhooks is None:
        raise PortError("Port does not let PORT_CLIENT_ID read the webhooks: use the credentials of an admin.")
    there = find_webhook(webhooks, url) if url else None
    named = (one for one in webhooks if one.get("identifier") == wanted["identifier"])
    there = there or next(named, None)
    security = wanted["security"] | {"secret": secret} if secret else {}
    if there is None:
        webhook = api.write("POST", "webhooks", wanted | {"security": security})
        lines = [f"+ mapping {_name(mapping)}" for mapping in wanted["mappings"]]
        return Change(wanted["identifier"], "created", (*lines, *_security_line(secret))), _url(webhook)
    changes: Json = {}
    mappings = merged(there.get("mappings") or [], wanted["mappings"])
    lines = _mapping_lines(there.get("mappings") or [], mappings)
    if lines:
        changes["mappings"] = mappings
    kept = there.get("security") or {}
    if secret and {**kept, **security} != kept:
        changes["security"] = {**kept, **security}
        lines += _security_line(secret)
    if changes:
        api.write("PATCH", f"webhooks/{quote(there['identifier'], safe='')}", changes)
    return Change(there["identifier"], "updated" if changes else "unchanged", tuple(lines)), _url(there)


def merged(there: Sequence[Json], ours: Sequence[Json]) -> list[Json]:
    """Our mappings, with what a person added to them, and then a person's own.

    A mapping counts as ours, or as the guide's, when it makes of our events what ours makes. What was added to it reads
    an event as the whole body; ours have it as an item of a batch.
    """
    result, taken = [], list[Json]()
    for mapping in ours:
        same = [one for one in there if _does_the_same(one, mapping)]
        taken += same
        entity = {name: _of_the_item(value) for one in same for name, value in one["entity"].items()}
        entity |= mapping["entity"]
        for part in ("properties", "relations"):
            added = {
                name: _of_the_item(expression)
                for one in same
                for name, expression in (one["entity"].get(part) or {}).items()
                if name not in entity.get(part, {})
            }
            if added:
                entity[part] = {**entity.get(part, {}), **added}
        result.append({**mapping, "entity": entity})
    return result + [one for one in there if one not in taken]


def _does_the_same(mapping: Json, ours: Json) -> bool:
    if Target.of(mapping).blueprint != ours["blueprint"]:
        return False
    return _identified(mapping) == _identified(ours)


def _identified(mapping: Json) -> list[tuple[str, str, str]]:
    evaluated = WebhookMapping([mapping])
    return [
        (blueprint, operation, record["identifier"])
        for probe in probes()
        for blueprint, operation, record in made(evaluated, probe)
    ]


def _of_the_item(expression: Any) -> Any:
    """An expression, or a query made of some, that reads an item where it read the body."""
    return json.loads(re.sub(r"\.body\b", ".item", json.dumps(expression)))


def _mapping_lines(there: Sequence[Json], wanted: Sequence[Json]) -> list[str]:
    gone = [f"- mapping {_name(one)}" for one in there if one not in wanted]
    return gone + [f"+ mapping {_name(one)}" for one in wanted if one not in there]


def _name(mapping: Json) -> str:
    target = Target.of(mapping)
    batches = "events and batches" if "itemsToParse" in mapping else "single events"
    return f"{target.operation} {target.blueprint} ({batches})"


def _security_line(secret: str | None) -> list[str]:
    return ["+ security: events are signed with PORT_WEBHOOK_SECRET"] if secret else []


def _url(webhook: Mapping[str, Any]) -> str:
    url = webhook.get("url")
    if not isinstance(url, str) or not url:
        raise PortError(
            "Port did not show the URL of the webhook: copy it in Port, under Data sources, into "
            "PORT_WEBHOOK_INGEST_URL."
        )
    return url
