"""The door at which rows of Azure become observations: each entity, or change record, once, or counted as odd.

Azure shows one id in several rows, or in several casings, now and then (github.com/microsoft/finops-toolkit issues
1154, 1499, 1541, 1643), and rows of which no entity can be made. Neither may stop anything else.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from azure_port_sync.core.entities import observed_absence, observed_row
from azure_port_sync.core.errors import one_line
from azure_port_sync.core.identity import GUID, containers_of
from azure_port_sync.core.rows import OBSERVATION, concat, to_frame
from azure_port_sync.resource_graph.client import Response

#: Odd rows of one read that are kept to be shown.
MAX_SAMPLES = 5

#: `record` is the id of the change record that a row stands for; `placed`, whether its columns place it as its id does.
_READ = pa.schema([*OBSERVATION, pa.field("record", pa.string()), pa.field("placed", pa.bool_())])
_ROW_TEXTS = ("id", "type")
_RECORD_TEXTS = ("recordId", "targetId", "targetType", "changeType")
_SENT = {"tags": dict, "rgTags": dict, "location": str}  # Port drops an event in which they are of another type
_YEARS = range(1970, 2262)  # nanoseconds since 1970 hold no others
_EXCERPT = 120
_LONGEST_ID = 250


@dataclass(frozen=True)
class ReadResult:
    """The observations of one read, and what was odd about the rows that they were made of."""

    frame: pd.DataFrame  # in the columns of OBSERVATION: one row an entity; of changes() one row a change record
    query: str = ""  # text of the (first) query
    total_records: int = 0  # that Azure says there are, summed over the responses that were used
    rows: int = 0  # that were read, duplicates and unreadable ones included
    duplicates: int = 0  # rows beyond the first of one entity, or of one change record
    unreadable: int = 0  # rows that could not be understood: left out, or kept without what could not be
    samples: tuple[str, ...] = ()  # a few of those, with what is odd about them
    refused: frozenset[str] = frozenset()  # subscriptions that Azure refused, so that nothing was read of them

    @classmethod
    def sum(cls, results: "Sequence[ReadResult]") -> "ReadResult":
        """Return several results as one: their rows below each other, their numbers added up."""
        return cls(
            frame=concat([one.frame for one in results], OBSERVATION),
            query=next((one.query for one in results if one.query), ""),
            total_records=sum(one.total_records for one in results),
            rows=sum(one.rows for one in results),
            duplicates=sum(one.duplicates for one in results),
            unreadable=sum(one.unreadable for one in results),
            samples=tuple(sample for one in results for sample in one.samples),
            refused=frozenset().union(*(one.refused for one in results)),
        )


def read_rows(
    responses: Iterable[Response], *, changes: bool = False, extra_columns: Sequence[str] = (), query: str = ""
) -> ReadResult:
    """Return the observations of these current rows, or (`changes`) change records.

    A row that cannot be understood is left out and counted; a column that Port would not take is emptied and counted.
    """
    tables = [_READ.empty_table()]
    samples: list[str] = []
    refused: set[str] = set()
    total_records = rows = unreadable = 0
    for response in responses:
        total_records += response.total_records
        rows += len(response.rows)
        refused.update(response.refused)
        observations = []
        for row in response.rows:
            odd = _objection(row, changes=changes)
            if odd is None:
                if odd_columns := [name for name, kind in _SENT.items() if not isinstance(row.get(name), kind | None)]:
                    row.update(dict.fromkeys(odd_columns))
                    odd = f"without its {' and '.join(odd_columns)}, because Port takes nothing of that type"
                observed = _observation(row, extra_columns, changes=changes)
                observations.append(observed)
                if odd is None and any(isinstance(text, str) and "\ufffd" in text for text in observed.values()):
                    odd = "with U+FFFD (\ufffd) in place of text that is no Unicode"
            if odd is not None:
                unreadable += 1
                if len(samples) < MAX_SAMPLES:
                    samples.append(f"{_excerpt(row)}: {odd}")
        tables.append(pa.Table.from_pylist(observations, schema=_READ))
    table = pa.concat_tables(tables)
    frame, repeated = _each_once(table)
    return ReadResult(
        frame=frame,
        query=query,
        total_records=total_records,
        rows=rows,
        duplicates=len(table) - len(frame),
        unreadable=unreadable,
        samples=tuple([*samples, *repeated][:MAX_SAMPLES]),
        refused=frozenset(refused),
    )


def _objection(row: Any, *, changes: bool) -> str | None:
    """Say why no observation can be made of a row; None where one can."""
    if not isinstance(row, dict):
        return "it is no object"
    shown = not changes or row.get("id")
    for column in (_RECORD_TEXTS if changes else ()) + (_ROW_TEXTS if shown else ()):
        text = row.get(column)
        if not text or not isinstance(text, str):
            return f"it has no {column}"
    if changes:
        try:
            year = datetime.fromisoformat(row["changeTime"]).year
        except (ValueError, TypeError):
            year = 0
        if year not in _YEARS:
            return "its changeTime is no instant"
    if shown and row.get("inScope") is None:
        return "it does not say whether it is in scope"
    subscription_id, _ = containers_of(row["id" if shown else "targetId"])
    return None if GUID.fullmatch(subscription_id) else "it lies in no subscription"


def _observation(row: dict[str, Any], extra_columns: Sequence[str], *, changes: bool) -> dict[str, Any]:
    """Return the observation of a current row, or of a change record with the current row that it may have."""
    change = None
    if changes:
        change = {name: row[name] for name in ("changeTime", "changedProperties")}
        change["changeType"] = row["changeType"].capitalize()  # the casing of Azure's own texts varies
    if change and not row.get("id"):
        observed = observed_absence(row["targetId"], row["targetType"], change)
    else:
        if not isinstance(row.get("name"), str):
            row["name"] = None  # the end of the id says it
        observed = observed_row(row, extra_columns=extra_columns, change=change)
        observed["placed"] = bool(row["placed"])
    observed["record"] = row["recordId"] if changes else None
    return observed


def _each_once(table: pa.Table) -> tuple[pd.DataFrame, list[str]]:
    """Return the observations, each entity or change record once, and a line about each that came more than once."""
    frame = to_frame(table)
    repeated = np.flatnonzero(frame["record"].fillna(frame["identifier"]).duplicated(keep=False))
    rows = zip(repeated.tolist(), table.take(repeated).to_pylist(), strict=True)
    alike: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for position, row in sorted(rows, key=lambda one: _preference(one[1])):
        alike[row["record"] or row["azure_id"].lower()].append((position, row["azure_id"]))
    surplus = [position for group in alike.values() for position, _ in group[:-1]]
    frame = frame[OBSERVATION.names]
    return (
        frame.drop(index=surplus).reset_index(drop=True) if surplus else frame,
        [
            f"{one_line(group[-1][1], _LONGEST_ID)}: {len(group)} rows of one id"
            for group in alike.values()
            if len(group) > 1
        ],
    )


def _preference(row: Mapping[str, Any]) -> tuple[int, str]:
    """Rank a row among those of one entity: by the columns that agree with its id, and then by its contents."""
    segments = row["azure_id"].lower().rpartition("/providers/")[2].split("/")
    provider = segments[0] or "microsoft.resources"  # of the containers, whose ids name none
    agreement = (
        row["placed"] is True,
        row["name"].lower() == segments[-1],
        row["type"].lower() == "/".join([provider, *segments[1::2]]),
    )
    return sum(agreement), json.dumps(row, sort_keys=True, default=str)


def _excerpt(row: Any) -> str:
    found = [row.get(name) for name in ("id", "targetId", "recordId")] if isinstance(row, dict) else []
    named = [text for text in found if text and isinstance(text, str)]
    return one_line(named[0], _LONGEST_ID) if named else one_line(json.dumps(row, ensure_ascii=False), _EXCERPT)
