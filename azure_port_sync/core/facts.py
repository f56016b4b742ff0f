"""Facts: what a run learned about Azure, to be remembered by the next ones whatever Port makes of its deliveries."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from azure_port_sync.core.cover import Group
from azure_port_sync.core.rows import ChangeSetRow
from azure_port_sync.core.subscriptions import Subscriptions


@dataclass(frozen=True)
class Facts:
    """The facts of one run; frames have (at least) the named columns.

    `pending` (identifier, azure_id, type) wait for their row or their parent, `no_longer_pending` are identifiers.
    `deleted` (identifier, azure_id, change_time) are entities whose newest record is a Delete. `conflicts` are upserts
    whose identifier is another entity's, with the reason. `released` are (kind, azure id) pairs that leave quarantine.
    `contents_due` are resource groups whose contents the next run has to read whole.
    """

    subscriptions: Subscriptions | None
    pending: pd.DataFrame
    no_longer_pending: Sequence[str]
    deleted: pd.DataFrame
    conflicts: Sequence[tuple[ChangeSetRow, str]]
    released: Sequence[tuple[str, str]]
    contents_due: Sequence[Group]
