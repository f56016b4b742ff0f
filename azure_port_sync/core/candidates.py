"""From many observations of an entity, in however many reads, to one candidate: its row and its newest change record.

A candidate has the columns of OBSERVATION. Its row is the last one that was read, and a row that exists wins over none;
its change record is the newest of all. Where records of one instant disagree, a Delete loses to a row that exists and
wins over one that does not.
"""

from typing import cast

import pandas as pd

from azure_port_sync.core.decisions import DELETE_RECORD
from azure_port_sync.core.rows import OBSERVATION, lowered

_KEY = ["kind", "key"]  # an identifier is not enough: a space and an underscore may meet in one
_RECORD = ["change_type", "change_time", "change"]


def candidates(observations: pd.DataFrame) -> pd.DataFrame:
    """Reduce observations to one row an entity.

    Their order matters only between two rows of one entity, of which the later read wins.
    """
    keyed = observations.assign(key=lowered(observations["azure_id"]))
    repeated = keyed.duplicated(_KEY, keep=False)
    once = observations[~repeated]
    if not repeated.any():
        return once.reset_index(drop=True)
    return pd.concat([once, _reduced(keyed[repeated])], ignore_index=True)


def _reduced(observations: pd.DataFrame) -> pd.DataFrame:
    rows = observations.sort_values("present", kind="stable").drop_duplicates(_KEY, keep="last")
    changes = observations[observations["change_type"].notna()]
    newest = changes["change_time"] == changes.groupby(_KEY)["change_time"].transform("max")
    changes = changes[newest].assign(is_delete=lambda f: f["change_type"] == DELETE_RECORD)
    changes = changes.sort_values("is_delete", kind="stable")
    live = changes.drop_duplicates(_KEY, keep="first").set_index(_KEY)[_RECORD]
    dead = changes.drop_duplicates(_KEY, keep="last").set_index(_KEY)[_RECORD]
    rows = rows.set_index(_KEY).drop(columns=_RECORD)
    present = rows["present"].astype(bool)
    joined = pd.concat([rows[present].join(live), rows[~present].join(dead)])
    return cast("pd.DataFrame", joined.reset_index()[OBSERVATION.names])
