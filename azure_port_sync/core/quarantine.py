"""Quarantine: the causes for which an operation is put aside, and in one table, who tries it again and when.

Whatever the cause, an operation leaves when Port takes it, when its entity ends, and with a rebuild of the ledger. It
is tried again when its content changes, when the sink or the mapping in force does, and when `retry_quarantined` asks.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import pandas as pd

from azure_port_sync.core.plan import Plan
from azure_port_sync.core.request import Mode


class Cause(StrEnum):
    """A cause for which an operation is put aside."""

    REFUSED = "refused"  # Port refuses it for what it is
    CONFLICT = "conflict"  # its identifier is another entity's
    PARENT = "parent"  # Port refuses it because it does not hold its parent, which is then due again
    FAILING = "failing"  # Port keeps failing at it, and takes others


class CauseRow(NamedTuple):
    """One row of the table.

    An operation counts as quarantined, and so as settled, when `settled_after` runs in a row have put it aside; until
    then each run fails for it and tries it again. From then on, runs of the modes `tried_by` do. `way_out` is the end
    of a sentence for the operator.
    """

    settled_after: int
    tried_by: frozenset[Mode]
    way_out: str


_EVERY_RUN = frozenset(Mode)

CAUSES: Mapping[Cause, CauseRow] = {
    Cause.REFUSED: CauseRow(
        1,
        frozenset(),
        "when it changes in Azure, or by a run with `retry_quarantined: true` once the reason is fixed",
    ),
    Cause.CONFLICT: CauseRow(0, _EVERY_RUN, "by itself, as soon as its identifier is free"),
    Cause.PARENT: CauseRow(1, _EVERY_RUN, "by itself, after its parent, which the next run sends again"),
    Cause.FAILING: CauseRow(
        3, frozenset({Mode.FULL}), "by the next full run, when it changes in Azure, or with `retry_quarantined: true`"
    ),
}


def is_settled(cause: str, attempts: int) -> bool:
    """Whether what so many runs in a row have put aside counts as quarantined."""
    return attempts >= CAUSES[Cause(cause)].settled_after


def settled(put_aside: pd.DataFrame) -> pd.DataFrame:
    """Return the operations that count as quarantined; `put_aside` has the columns of the store."""
    mask = map(is_settled, put_aside["cause"], put_aside["attempts"])
    return put_aside[pd.Series(list(mask), index=put_aside.index, dtype=bool)]


def tried_again(put_aside: pd.DataFrame, plan: Plan) -> pd.Series:
    """Return which of these operations the run sends again although nothing has changed, as a mask."""
    return pd.Series(
        [
            plan.request.retry_quarantined
            or sink != plan.sink
            or not is_settled(cause, attempts)
            or plan.mode in CAUSES[Cause(cause)].tried_by
            for cause, attempts, sink in zip(put_aside["cause"], put_aside["attempts"], put_aside["sink"], strict=True)
        ],
        index=put_aside.index,
        dtype=bool,
    )
