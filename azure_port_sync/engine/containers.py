"""The snapshot of all subscriptions and resource groups, compared with what earlier runs saw of them.

Every run reads the containers whole, because a lost permission leaves no change record. A subscription that is shown
no longer keeps its entities for a grace period; one that a setting leaves out does not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from azure_port_sync.core.decisions import CONFIRMED
from azure_port_sync.core.entities import observed_subscription
from azure_port_sync.core.errors import AzureError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import OBSERVATION, concat, frame_of, records, subscriptions_of
from azure_port_sync.core.subscriptions import Subscriptions, SubscriptionState, in_question, presence
from azure_port_sync.resource_graph import AzureReader, ReadResult


@dataclass(frozen=True)
class Containers:
    """The containers that Azure shows (`frame`, columns of OBSERVATION), and those in the ledger (`known`).

    `subscriptions` is the comparison of the two; `unreadable` are subscriptions that the settings name and that were
    never readable.
    """

    frame: pd.DataFrame
    known: pd.DataFrame
    subscriptions: Subscriptions
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
    own = snapshot[snapshot["kind"] == Kind.SUBSCRIPTION]
    whole = set(own.loc[own["name"] != own["subscription_id"], "subscription_id"])  # the others stand in for a row
    shown = {id_: id_ in whole for id_ in subscriptions_of(snapshot)}
    vanished = [id_ for id_ in in_question(remembered, shown, now) if id_ not in shown]
    found = presence(remembered, shown, given_up=_given_up(reader, vanished), now=now)
    return Containers(
        frame=_with_sent_names(snapshot, known, found.in_grace),
        known=known,
        subscriptions=found,
        unreadable=tuple(sorted(set(reader.scope.subscription_ids) - shown.keys() - remembered.keys())),
    )


def unanswered(reader: AzureReader, subscriptions: Sequence[str]) -> tuple[str, ...]:
    """Return those of the subscriptions that Azure has stopped answering for: it leaves them out silently."""
    return tuple(sorted(set(subscriptions) - reader.readable(subscriptions)))


def _given_up(reader: AzureReader, vanished: Sequence[str]) -> set[str]:
    """Those of the subscriptions no longer shown that a setting leaves out; nobody has lost them."""
    scope = reader.scope
    left_out = {id_ for id_ in vanished if scope.leaves_out(id_)}
    if scope.management_groups and vanished:
        left_out |= reader.readable(vanished, anywhere=True)
    return left_out


def _with_sent_names(snapshot: pd.DataFrame, known: pd.DataFrame, in_grace: Collection[str]) -> pd.DataFrame:
    """The snapshot, without the stand-ins of subscriptions in grace whose own row Port has.

    Such a subscription shows only through its groups now; its stand-in would rename it. Where it is not certain that
    Port has it, it is sent under the name that was sent last, because groups need something to relate to.
    """
    sent = known[(known["kind"] == Kind.SUBSCRIPTION) & known["subscription_id"].isin(list(in_grace))]
    stands_in = (snapshot["kind"] == Kind.SUBSCRIPTION) & snapshot["identifier"].isin(sent["identifier"])
    shown = set(snapshot.loc[stands_in, "subscription_id"])
    in_doubt = sent[(sent["state"] != CONFIRMED) & sent["subscription_id"].isin(shown)]
    again = [observed_subscription(row["subscription_id"], row["name"]) for row in records(in_doubt)]
    return concat([snapshot[~stands_in], frame_of(again, OBSERVATION)], OBSERVATION)
