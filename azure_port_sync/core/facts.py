"""Facts: what a run learned about Azure, to be remembered whatever becomes of its deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from azure_port_sync.core.cover import Group
from azure_port_sync.core.rows import OBSERVATION, ChangeSetRow, frame_of
from azure_port_sync.core.subscriptions import Subscriptions


def _none() -> pd.DataFrame:
    return frame_of([], OBSERVATION)


@dataclass(frozen=True)
class Facts:
    """The knowledge about Azure that a run has gained.

    `pending` wait for a row or for their parent (columns `identifier`, `azure_id`, `type`), `no_longer_pending` are
    identifiers that wait no more and need no delivery. `deleted` are those of which the newest change record is a
    Delete (`identifier`, `azure_id`, `change_time`), `held` those whose deletes the guard holds (identity columns and
    `present`). `conflicts` have an identifier that is another entity's, each with the reason; `released` (kind, azure
    id) pairs leave quarantine. The next run has to read all that is in the groups `contents_due`. `subscriptions` is
    None where nothing new is known of them.
    """

    subscriptions: Subscriptions | None = None
    pending: pd.DataFrame = field(default_factory=_none)
    no_longer_pending: Sequence[str] = ()
    deleted: pd.DataFrame = field(default_factory=_none)
    held: pd.DataFrame = field(default_factory=_none)
    conflicts: Sequence[tuple[ChangeSetRow, str]] = ()
    released: Sequence[tuple[str, str]] = ()
    contents_due: Sequence[Group] = ()
