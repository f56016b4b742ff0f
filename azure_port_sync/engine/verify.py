"""Asking Port whether it really holds what it was told: how many entities of each blueprint, and a few in full.

Port works events off after it has accepted them, so a difference counts only when it stays for a while.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import Operation
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.blueprints import BLUEPRINTS
from azure_port_sync.port.events import event_body
from azure_port_sync.port.mapping import WebhookMapping
from azure_port_sync.port.sink_selection import made

#: How long Port is given to work off what it has accepted.
PATIENCE = timedelta(seconds=60)

_LOOK_AGAIN_SECONDS = 5.0

#: Keys of `data` that come with a change record alone, or do not make an entity count as changed.
_NOT_ALWAYS_TOLD = ("changeType", "changeTime", "changedProperties", "rgTags", "id")


@dataclass(frozen=True)
class Verification:
    """What Port shows beside what it was told: the numbers of entities, and what differs in those looked at."""

    held: Counter[Kind]
    told: Counter[Kind]
    looked_at: int
    differences: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether Port shows what it was told."""
        return self.held == self.told and not self.differences


def verify(
    api: PortApi,
    mapping: WebhookMapping,
    told: Mapping[Kind, int],
    sample: Sequence[Mapping[str, str]],
    clock: Clock,
) -> Verification:
    """Compare, and look again until all is equal or Port's patience is used up.

    `told` is the number of entities in the ledger by kind, `sample` rows with `kind`, `identifier` and `data`. Raises
    PortError when Port's API cannot be asked.
    """
    ends = clock.now() + PATIENCE
    while True:
        held = Counter({kind: api.count(BLUEPRINTS[kind]) for kind in Kind})
        differences = [line for row in sample for line in _differences(api, mapping, row)]
        found = Verification(held, Counter(told), len(sample), differences)
        if found.holds or clock.now() >= ends:
            return found
        clock.sleep(_LOOK_AGAIN_SECONDS)


def _differences(api: PortApi, mapping: WebhookMapping, row: Mapping[str, str]) -> list[str]:
    """Where an entity is not what the webhook's mapping makes of its event."""
    blueprint = BLUEPRINTS[Kind(row["kind"])]
    shown = api.entity(blueprint, row["identifier"])
    if shown is None:
        return [f"{row['identifier']} is missing"]
    there = {"title": shown.get("title"), **(shown.get("properties") or {}), **(shown.get("relations") or {})}
    wanted = _wanted(mapping, row)
    # What comes out otherwise when only that changes which Port is not always told of, may lag behind.
    lagging = {**json.loads(row["data"]), **dict.fromkeys(_NOT_ALWAYS_TOLD, "another")}
    steady = _wanted(mapping, {**row, "data": json.dumps(lagging)})
    return [
        f"{row['identifier']}: {name} is {there.get(name)!r} and should be {value!r}"
        for name, value in wanted.items()
        if value != there.get(name) and value == steady.get(name)
    ]


def _wanted(mapping: WebhookMapping, row: Mapping[str, str]) -> dict[str, Any]:
    """Title, properties and relations of the entity that the mapping makes of a row."""
    wanted: dict[str, Any] = {}
    for target, _, record in made(mapping, event_body(Operation.UPSERT, row["kind"], row["data"]).decode()):
        if target == BLUEPRINTS[Kind(row["kind"])] and record["identifier"] == row["identifier"]:
            title = {"title": record["title"]} if "title" in record else {}
            wanted |= {**title, **record["properties"], **record["relations"]}
    return wanted
