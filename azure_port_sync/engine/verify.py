"""Comparing after a delivery: the ledger with what was found, and Port with the ledger (numbers, a few in full).

Port works events off after it has accepted them, so a difference counts only when it stays for a while.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pandas as pd

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import Operation
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.port.events import event_body
from azure_port_sync.port.mapping import WebhookMapping

#: How long Port is given to work off what it has accepted.
PATIENCE = timedelta(seconds=60)

_COMPARE_AGAIN_SECONDS = 5.0

#: Keys of `data` that come with a change record alone, or do not make an entity count as changed.
_NOT_ALWAYS_SENT = ("changeType", "changeTime", "changedProperties", "changedPropertiesTruncated", "rgTags", "id")


@dataclass(frozen=True)
class Verification:
    """The numbers of entities in Port and in the ledger, and what differs in those that were `compared` in full."""

    in_port: Counter[Kind]
    in_ledger: Counter[Kind]
    compared: int
    differences: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether Port holds what was sent."""
        return self.in_port == self.in_ledger and not self.differences


def expected_ledger_rows(kept: int, refused: pd.DataFrame, known: int) -> int:
    """Return how many rows the ledger must have after a full run that delivered everything.

    `kept` is their number where Port refuses nothing. Of the `refused` operations the ledger has `known`, because Port
    may show an older version of these, also of one that it refused to delete.
    """
    return kept - int((refused["operation"] == Operation.UPSERT).sum()) + known


def verify(
    api: PortApi,
    mapping: WebhookMapping,
    in_ledger: Mapping[Kind, int],
    sample: Sequence[Mapping[str, str]],
    clock: Clock,
) -> Verification:
    """Compare, again and again until all is equal or Port's patience is used up.

    `in_ledger` is the number of entities in the ledger by kind, `sample` rows with `kind`, `identifier` and `data`.
    Raises PortError when Port's API cannot be asked.
    """
    ends = clock.elapsed() + PATIENCE
    while True:
        in_port = Counter({kind: api.count(blueprint) for kind, blueprint in packaged_blueprints().items()})
        differences = [line for row in sample for line in _differences(api, mapping, row)]
        found = Verification(in_port, Counter(in_ledger), len(sample), differences)
        if found.equal or clock.elapsed() >= ends:
            return found
        clock.sleep(_COMPARE_AGAIN_SECONDS)


def _differences(api: PortApi, mapping: WebhookMapping, row: Mapping[str, str]) -> list[str]:
    """Return where an entity is not what the webhook's mapping makes of its event, a line each."""
    stored = api.entity(packaged_blueprints()[Kind(row["kind"])], row["identifier"])
    if stored is None:
        return [f"{row['identifier']} is missing"]
    wanted = _wanted(mapping, row)
    # What comes out otherwise when only that changes which is not always sent, may lag behind.
    lagging = {**json.loads(row["data"]), **dict.fromkeys(_NOT_ALWAYS_SENT, "another")}
    steady = _wanted(mapping, {**row, "data": json.dumps(lagging)})
    return [
        f"{row['identifier']}: {name} is {stored.shown.get(name)!r} and should be {value!r}"
        for name, value in wanted.items()
        if value != stored.shown.get(name) and value == steady.get(name)
    ]


def _wanted(mapping: WebhookMapping, row: Mapping[str, str]) -> dict[str, Any]:
    """Return title, properties and relations of the entity that the mapping makes of a row."""
    blueprint = packaged_blueprints()[Kind(row["kind"])]
    wanted: dict[str, Any] = {}
    for entity in mapping.entities(event_body(Operation.UPSERT, row["kind"], row["data"]).decode()):
        if (entity.blueprint, entity.identifier) == (blueprint, row["identifier"]):
            wanted |= entity.shown
    return wanted
