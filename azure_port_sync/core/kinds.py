"""The kinds of entity in the catalog, in one table from which types, parents, phases and cascades derive.

A new kind is a row here, a blueprint and a mapping in `port/model`, and a query that reads it.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple


class Kind(StrEnum):
    """A kind of entity, from the top of the hierarchy down: a parent stands before its children."""

    SUBSCRIPTION = "subscription"
    RESOURCE_GROUP = "resourceGroup"
    RESOURCE = "resource"


class KindRow(NamedTuple):
    """One row of the table.

    `arm_type` is the lower-case type in Azure Resource Manager, or "" for every type that no other row has.
    `key` are the identity columns that an entity of this kind shares with all that lies in it; none for a leaf.
    `event_type` is the `type` of its events, as the guide's webhook mapping filters by it. `example` is an Azure id
    of this kind, which shows what a mapping makes of one.
    """

    arm_type: str
    parent: Kind | None
    key: tuple[str, ...]
    event_type: str
    example: str


_EXAMPLE_SUBSCRIPTION = "/subscriptions/00000000-0000-4000-8000-000000000000"
_EXAMPLE_GROUP = f"{_EXAMPLE_SUBSCRIPTION}/resourceGroups/Some Group"

KINDS: Mapping[Kind, KindRow] = {
    Kind.SUBSCRIPTION: KindRow(
        arm_type="microsoft.resources/subscriptions",
        parent=None,
        key=("subscription_id",),
        event_type="resourceContainer",
        example=_EXAMPLE_SUBSCRIPTION,
    ),
    Kind.RESOURCE_GROUP: KindRow(
        arm_type="microsoft.resources/subscriptions/resourcegroups",
        parent=Kind.SUBSCRIPTION,
        key=("subscription_id", "resource_group"),
        event_type="resourceContainer",
        example=_EXAMPLE_GROUP,
    ),
    Kind.RESOURCE: KindRow(
        arm_type="",
        parent=Kind.RESOURCE_GROUP,
        key=(),
        event_type="resource",
        example=f"{_EXAMPLE_GROUP}/providers/Microsoft.Web/sites/Some Site",
    ),
}

SUBSCRIPTION_TYPE = KINDS[Kind.SUBSCRIPTION].arm_type
RESOURCE_GROUP_TYPE = KINDS[Kind.RESOURCE_GROUP].arm_type

_BY_TYPE = {row.arm_type: kind for kind, row in KINDS.items() if row.arm_type}

#: Kinds that hold others, from the top down.
CONTAINERS: tuple[Kind, ...] = tuple(kind for kind, row in KINDS.items() if row.arm_type)


def kind_of(arm_type: str) -> Kind:
    """Return the kind that a lower-case Azure type belongs to; a type that no container has is a resource's."""
    return _BY_TYPE.get(arm_type, Kind.RESOURCE)


def descendants(kind: Kind) -> tuple[Kind, ...]:
    """Return the kinds below this one, from the top down."""
    children = [child for child, row in KINDS.items() if row.parent is kind]
    return tuple(below for child in children for below in (child, *descendants(child)))
