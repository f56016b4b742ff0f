"""The snapshot of all subscriptions and resource groups, compared with what earlier runs saw of them.

Every run reads the containers whole, because a lost permission leaves no change record. A subscription that is shown
no longer keeps its entities for a grace period; one that a setting leaves out does not.
"""

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from azure_port_sync.core.decisions import CONFIRMED
from azure_port_sync.core.entities import observed_subscription
from azure_port_sync.core.errors import AzureError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import OBSERVATION, concat, frame_of, records, subscriptions_of
from azure_port_sync.core.subscriptions import Subscriptions, SubscriptionState, compare_subscriptions, lately_lost
from azure_port_sync.resource_graph import AzureReader, ReadResult


@dataclass(frozen=True)
class Containers:
    """The containers that Azure shows (`frame`, columns of OBSERVATION), and those in the ledger (`known`).

    `subscriptions` is the comparison of the two; `whole` are those whose own row is shown, and one that shows only
    through its groups has a row here that stands for it. `unreadable` are subscriptions that the settings name and that
    were never readable.
    """

    frame: pd.DataFrame
    known: pd.DataFrame
    subscriptions: Subscriptions
    whole: frozenset[str]
    unreadable: tuple[str, ...] = ()


def read_snapshot(reader: AzureReader) -> ReadResult:
    """Read all subscriptions and resource groups that are readable now.

    Raises AzureError when there is none: an identity that has lost its role must not empty the catalog.
    """
    snapshot = reader.containers()
    if snapshot.frame.empty:
        raise AzureError(
            "Azure shows this identity no subscription at all; nothing was sent. Give it the role Reader on the "
            "subscriptions to sync, and check AZURE_SUBSCRIPTION_IDS, AZURE_EXCLUDED_SUBSCRIPTION_IDS and "
            "AZURE_MANAGEMENT_GROUPS."
        )
    return snapshot


def compare_containers(
    reader: AzureReader,
    snapshot: pd.DataFrame,
    *,
    known: pd.DataFrame,
    remembered: Mapping[str, SubscriptionState],
    now: datetime,
) -> Containers:
    """Compare a snapshot with the containers in the ledger and with what is remembered of the subscriptions."""
    whole = set(snapshot.loc[snapshot["kind"] == Kind.SUBSCRIPTION, "subscription_id"])
    shown = {id_: id_ in whole for id_ in subscriptions_of(snapshot)}
    vanished = [id_ for id_ in lately_lost(remembered, shown, now) if id_ not in shown]
    found = compare_subscriptions(remembered, shown, given_up=_given_up(reader, vanished), now=now)
    names = _names_of_hidden(shown.keys() - whole, known, found.in_grace)
    return Containers(
        frame=concat([snapshot, _stand_ins(names)], OBSERVATION),
        known=known,
        subscriptions=found,
        whole=frozenset(whole),
        unreadable=tuple(sorted(set(reader.scope.subscription_ids) - shown.keys() - remembered.keys())),
    )


def _given_up(reader: AzureReader, vanished: Sequence[str]) -> set[str]:
    """Return the vanished subscriptions that a setting now leaves out; nobody has lost them."""
    scope = reader.scope
    left_out = {id_ for id_ in vanished if scope.leaves_out(id_)}
    if scope.management_groups and vanished:
        left_out |= reader.readable(vanished, anywhere=True)
    return left_out


def with_hidden_subscriptions(snapshot: pd.DataFrame) -> pd.DataFrame:
    """Return the snapshot with a row for each subscription that shows only through its groups (a Reader on a group)."""
    own = set(snapshot.loc[snapshot["kind"] == Kind.SUBSCRIPTION, "subscription_id"])
    return concat([snapshot, _stand_ins({id_: id_ for id_ in subscriptions_of(snapshot) - own})], OBSERVATION)


def _names_of_hidden(hidden: Set[str], known: pd.DataFrame, in_grace: Collection[str]) -> dict[str, str]:
    """The names of the rows that stand for subscriptions of which only groups are shown.

    That is the id, which must not rename a subscription in grace that Port has by its own name: where it is certain
    that Port has it there is no row, and where it is not, the row has the name that was sent last.
    """
    names = {id_: id_ for id_ in hidden}
    sent = known[(known["kind"] == Kind.SUBSCRIPTION) & known["subscription_id"].isin(list(hidden & set(in_grace)))]
    for row in records(sent):
        if row["state"] == CONFIRMED:
            del names[row["subscription_id"]]
        else:
            names[row["subscription_id"]] = row["name"]
    return names


def _stand_ins(names: Mapping[str, str]) -> pd.DataFrame:
    return frame_of([observed_subscription(id_, name) for id_, name in sorted(names.items())], OBSERVATION)
