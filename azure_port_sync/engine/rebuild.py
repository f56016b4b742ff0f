"""Rebuilding the ledger from what Port really holds, as its REST API shows it.

Needed when somebody else has filled the catalog, or has edited it by hand: what is in Port and not in the ledger would
otherwise never be compared with Azure.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from azure_port_sync.core.entities import identity
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.identity import azure_id_of
from azure_port_sync.core.kinds import KINDS, Kind
from azure_port_sync.core.rows import OBSERVATION, concat, frame_of
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.port.responses import FoundEntity
from azure_port_sync.state import LedgerRebuild, StateStore


class Catalog(Protocol):
    """The entities that Port really holds."""

    def entities(self, blueprint: str, *, with_type: bool = False) -> Iterator[Sequence[FoundEntity]]:
        """The entities of a blueprint in pages; with the property `type` where it has one."""
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
        for page in catalog.entities(packaged_blueprints()[kind], with_type=not KINDS[kind].arm_type)
    ]
    return store.ledger.rebuild(target, concat(frames, OBSERVATION))


def _imported(kind: Kind, entity: FoundEntity) -> dict[str, Any]:
    """The identity columns of an entity in Port; what cannot be known of one that was added by hand stays empty."""
    azure_id = azure_id_of(entity.identifier, entity.title)
    arm_type = KINDS[kind].arm_type or (entity.type or "").lower()
    return {**identity(azure_id, arm_type, entity.title), "kind": kind, "identifier": entity.identifier}
