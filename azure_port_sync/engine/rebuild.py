"""Rebuilding the ledger from what Port really holds, as its REST API shows it.

Needed when somebody else has filled the catalog, or has edited it by hand: what is in Port and not in the ledger would
otherwise never be compared with Azure.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from azure_port_sync.core.entities import identity
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.identity import azure_id_of
from azure_port_sync.core.kinds import KINDS, Kind
from azure_port_sync.core.rows import OBSERVATION, concat, frame_of
from azure_port_sync.port.blueprints import BLUEPRINTS
from azure_port_sync.state import LedgerRebuild, StateStore


class Catalog(Protocol):
    """What Port really holds."""

    def entities(self, blueprint: str) -> Iterator[Sequence[Mapping[str, Any]]]:
        """The entities of a blueprint in pages of ``{identifier, title, properties}``."""
        ...


def rebuild_ledger(store: StateStore, target: str, catalog: Catalog | None) -> LedgerRebuild:
    """Make the ledger what Port holds, whoever put it there; the next run is then a full one."""
    if catalog is None:
        raise SettingsError(
            "`rebuild_ledger` reads from Port's API what it really holds, and PORT_CLIENT_ID and PORT_CLIENT_SECRET "
            "are not set: set them to the credentials from Port's menu (Credentials), or launch without it."
        )
    frames = [
        frame_of([_imported(kind, entity) for entity in page], OBSERVATION)
        for kind in Kind
        for page in catalog.entities(BLUEPRINTS[kind])
    ]
    return store.ledger.rebuild(target, concat(frames, OBSERVATION))


def _imported(kind: Kind, entity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity columns of an entity in Port; what cannot be known of one that was added by hand stays empty."""
    azure_id = azure_id_of(entity["identifier"], entity.get("title"))
    in_port = (entity.get("properties") or {}).get("type")
    arm_type = KINDS[kind].arm_type or (in_port.lower() if isinstance(in_port, str) else "")
    return {**identity(azure_id, arm_type, entity.get("title")), "kind": kind, "identifier": entity["identifier"]}
