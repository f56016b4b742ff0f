"""The oracle: the catalog that a tenant must lead to, worked out from the rules and not from the product's code.

It reads the tenant's rows directly and knows nothing of queries, windows or ledgers, and so it can say that the
product is wrong. Nothing here may import the product.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SUBSCRIPTION = "azureSubscription"
GROUP = "azureResourceGroup"
RESOURCE = "azureCloudResources"
BLUEPRINTS = (SUBSCRIPTION, GROUP, RESOURCE)

_SUBSCRIPTION_TYPE = "microsoft.resources/subscriptions"
_GROUP_TYPE = "microsoft.resources/subscriptions/resourcegroups"
_NOT_PLAIN = re.compile(r"[^a-z0-9@_.+:\\/-]")
_MAX_IDENTIFIER_LENGTH = 1000
_SHOWN = 5

Row = Mapping[str, Any]
Tags = Mapping[str, str]
Entity = dict[str, Any]
Catalog = dict[str, dict[str, Entity]]


def identifier_of(azure_id: str) -> str:
    """The identifier Port ends up with: lower case, =hh (UTF-8) for what Port refuses, _ for a space."""
    return _NOT_PLAIN.sub(lambda found: _escaped(found[0]), azure_id.lower())


def _escaped(character: str) -> str:
    if character == " ":
        return "_"
    if character.isalpha():  # Port takes the letters of every script
        return character
    return "".join(f"={byte:02x}" for byte in character.encode())


def expected_catalog(
    tenant_containers: Iterable[Row],
    tenant_resources: Iterable[Row],
    *,
    include: Tags | None = None,
    exclude: Tags | None = None,
    resource_types: Iterable[str] | None = None,
) -> Catalog:
    """Return what the catalog must hold: every subscription, and all else that is in scope, as the guide maps it.

    Where two ids meet in one identifier the first row has it. Ids too long for Port are nowhere.
    """
    types = None if resource_types is None else {one.lower() for one in resource_types}
    containers = list(tenant_containers)
    groups = [row for row in containers if row["type"].lower() == _GROUP_TYPE]
    subscriptions = [row for row in containers if row["type"].lower() == _SUBSCRIPTION_TYPE]
    named = {row["subscriptionId"].lower() for row in subscriptions}
    # A Reader on a group sees the group's subscription id, and not the subscription.
    nameless = {row["subscriptionId"].lower() for row in groups} - named
    expected: Catalog = {
        SUBSCRIPTION: _by_identifier([_subscription(row) for row in subscriptions]),
        GROUP: _by_identifier([_group(row) for row in groups if _in_scope(row["tags"], include, exclude)]),
        RESOURCE: _by_identifier(
            [
                _resource(row)
                for row in tenant_resources
                if _in_scope(row["rgTags"], include, exclude) and (types is None or row["type"].lower() in types)
            ]
        ),
    }
    for one in nameless:
        row = {"id": f"/subscriptions/{one}", "name": one, "subscriptionId": one, "tags": None}
        expected[SUBSCRIPTION] |= _by_identifier([_subscription(row)])
    return expected


def _in_scope(tags: Tags | None, include: Tags | None, exclude: Tags | None) -> bool:
    present = {(key.lower(), str(value).lower()) for key, value in (_tags(tags) or {}).items()}
    wanted = {(key.lower(), value.lower()) for key, value in (include or {}).items()}
    unwanted = {(key.lower(), value.lower()) for key, value in (exclude or {}).items()}
    return wanted <= present and not unwanted & present


def _tags(tags: Any) -> Tags | None:
    """The tags of a row; what is no object is none."""
    return tags if isinstance(tags, Mapping) else None


def _by_identifier(entities: Iterable[tuple[str, Entity]]) -> dict[str, Entity]:
    found: dict[str, Entity] = {}
    for azure_id, entity in entities:
        identifier = identifier_of(azure_id)
        if len(identifier) <= _MAX_IDENTIFIER_LENGTH:
            found.setdefault(identifier, entity)
    return found


def _subscription(row: Row) -> tuple[str, Entity]:
    properties = {"subscriptionId": row["subscriptionId"].lower(), "tags": _tags(row["tags"])}
    return row["id"], {"title": row["name"], "properties": properties, "relations": {}}


def _group(row: Row) -> tuple[str, Entity]:
    properties = {"location": row["location"], "tags": _tags(row["tags"])}
    relations = {"subscription": identifier_of(f"/subscriptions/{row['subscriptionId']}")}
    return row["id"], {"title": row["name"], "properties": properties, "relations": relations}


def _resource(row: Row) -> tuple[str, Entity]:
    properties = {"type": row["type"].lower(), "location": row["location"], "tags": _tags(row["tags"])}
    group = identifier_of(f"/subscriptions/{row['subscriptionId']}/resourcegroups/{row['resourceGroup']}")
    return row["id"], {"title": row["name"], "properties": properties, "relations": {"resourceGroup": group}}


@dataclass(frozen=True)
class Differences:
    """The differences between a catalog and what it must be, by blueprint."""

    missing: dict[str, list[str]]
    extra: dict[str, list[str]]
    different: dict[str, dict[str, str]]
    counts: dict[str, dict[str, int]]

    @property
    def equal(self) -> bool:
        """True where there is no difference."""
        return not any(any(part.values()) for part in (self.missing, self.extra, self.different))

    def sentences(self, shown: int = _SHOWN) -> list[str]:
        """The differences for a person, at most `shown` of each kind and blueprint by name."""
        lines = []
        for blueprint in self.counts:
            lines += _listed(f"{blueprint}: missing", self.missing[blueprint], shown)
            lines += _listed(f"{blueprint}: in the catalog, not in the tenant", self.extra[blueprint], shown)
            changed = [f"{one} ({how})" for one, how in self.different[blueprint].items()]
            lines += _listed(f"{blueprint}: different", changed, shown)
        return lines


def _listed(heading: str, items: list[str], shown: int) -> list[str]:
    lines = [f"{heading}: {item}" for item in items[:shown]]
    if len(items) > shown:
        lines.append(f"{heading}: and {len(items) - shown} more")
    return lines


def differences(expected: Mapping[str, Mapping[str, Row]], actual: Mapping[str, Mapping[str, Row]]) -> Differences:
    """Return the differences of `actual`; both are {blueprint: {identifier: {title, properties, relations}}}."""
    missing, extra, different, counts = {}, {}, {}, {}
    for blueprint in sorted(expected.keys() | actual.keys(), key=blueprint_position):
        wanted, found = expected.get(blueprint, {}), actual.get(blueprint, {})
        missing[blueprint] = sorted(wanted.keys() - found.keys())
        extra[blueprint] = sorted(found.keys() - wanted.keys())
        different[blueprint] = {
            one: how for one in sorted(wanted.keys() & found.keys()) if (how := _how(wanted[one], found[one]))
        }
        counts[blueprint] = {"tenant": len(wanted), "catalog": len(found)}
    return Differences(missing, extra, different, counts)


def blueprint_position(blueprint: str) -> tuple[int, str]:
    """Return the position of a blueprint in a list: the guide's in their order, then all others."""
    return (BLUEPRINTS.index(blueprint) if blueprint in BLUEPRINTS else len(BLUEPRINTS), blueprint)


def _how(wanted: Row, found: Row) -> str:
    """Return the first difference of two entities; an empty text where there is none."""
    if wanted["title"] != found["title"]:
        return f"title is {found['title']!r}, should be {wanted['title']!r}"
    for part in ("properties", "relations"):
        if wanted[part] == found[part]:
            continue
        for name in sorted(wanted[part].keys() | found[part].keys()):
            should, is_ = wanted[part].get(name), found[part].get(name)
            if should != is_:
                return f"{name} is {is_!r}, should be {should!r}"
    return ""
