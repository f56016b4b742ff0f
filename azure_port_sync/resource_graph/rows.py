"""The door at which rows of Azure become observations: each entity, or change record, once, or counted as odd.

Azure shows one id in several rows, or in several casings, now and then (github.com/microsoft/finops-toolkit issues
1154, 1499, 1541, 1643), and rows of which no entity can be made. Neither may stop anything else.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from azure_port_sync.core.entities import observed_absence, observed_row, parse_instant
from azure_port_sync.core.kinds import KINDS
from azure_port_sync.core.rows import OBSERVATION, table_of, to_frame

Row = dict[str, Any]
Observe = Callable[[Row, Sequence[str]], dict[str, Any]]

#: Odd rows of one read that are kept to be shown.
MAX_SAMPLES = 5

#: `record` is the id of the change record that a row stands for; `placed`, whether its columns place it as its id does.
_READ = pa.schema([*OBSERVATION, pa.field("record", pa.string()), pa.field("placed", pa.bool_())])
_IN_SUBSCRIPTIONS = frozenset(kind for kind, row in KINDS.items() if not row.arm_type or "subscription_id" in row.key)
_YEARS = range(1970, 2262)  # nanoseconds since 1970 hold no others
_EXCERPT = 120


class UnreadableError(ValueError):
    """A row of which no entity can be made; the text says what is odd about it."""


class Observations:
    """The observations of one read, added response by response."""

    def __init__(self, observe: Observe, extra_columns: Sequence[str]) -> None:
        self.rows = 0
        self.unreadable = 0
        self.duplicates = 0
        self.samples: list[str] = []
        self._observe = observe
        self._extra_columns = extra_columns
        self._tables = [_READ.empty_table()]

    def add(self, rows: Sequence[Any]) -> None:
        """Add the rows of a response; what cannot be understood is left out and counted."""
        self.rows += len(rows)
        self._tables.append(table_of(self._observed(rows), _READ))

    def _observed(self, rows: Sequence[Any]) -> Iterable[dict[str, Any]]:
        for row in rows:
            if not isinstance(row, dict):
                self._note(row, "it is no object")
                continue
            odd = _drop_odd_tags(row)
            try:
                yield self._observe(row, self._extra_columns)
            except UnreadableError as error:
                self._note(row, str(error))
            else:
                if odd:
                    self._note(row, f"its {' and '.join(odd)} are not names and values, and were left out")

    def _note(self, row: Any, what: str) -> None:
        self.unreadable += 1
        self._sample(_excerpt(row), what)

    def _sample(self, which: str, what: str) -> None:
        if len(self.samples) < MAX_SAMPLES:
            self.samples.append(f"{which}: {what}")

    def frame(self) -> pd.DataFrame:
        """Return them, each entity or change record once."""
        table = pa.concat_tables(self._tables)
        dropped: list[int] = []
        for rows in _of_one_thing(table):
            best = max(rows, key=lambda position: _preference(rows[position]))
            dropped += rows.keys() - {best}
            self._sample(rows[best]["azure_id"], f"{len(rows)} rows of one id")
        self.duplicates = len(dropped)
        frame = to_frame(table.select(OBSERVATION.names))
        return frame.drop(index=dropped).reset_index(drop=True) if dropped else frame


def _drop_odd_tags(row: Row) -> list[str]:
    """Empty the columns of tags that hold something else; their names."""
    odd = [column for column in ("tags", "rgTags") if not isinstance(row.get(column), dict | None)]
    row.update(dict.fromkeys(odd))
    return odd


def observe_row(row: Row, extra_columns: Sequence[str], change: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the observation of a current row."""
    _check_texts(row, "id", "type")
    if row.get("inScope") is None:
        raise UnreadableError("it does not say whether it is in scope")
    if not isinstance(row.get("name"), str):
        row["name"] = None  # the end of the id says it
    observed = _in_a_subscription(observed_row(row, extra_columns=extra_columns, change=change))
    observed["placed"] = bool(row["placed"])
    return observed


def observe_change(row: Row, extra_columns: Sequence[str]) -> dict[str, Any]:
    """Return the observation of a change record, with the current row of its resource where there is one."""
    _check_texts(row, "recordId", "targetId", "targetType", "changeType")
    _check_instant(row)
    change = {name: row[name] for name in ("changeType", "changeTime", "changedProperties")}
    if row["id"]:
        observed = observe_row(row, extra_columns, change)
    else:
        observed = _in_a_subscription(observed_absence(row["targetId"], row["targetType"], change))
    observed["record"] = row["recordId"]
    return observed


def _check_texts(row: Row, *columns: str) -> None:
    for column in columns:
        if not isinstance(row.get(column), str) or not row[column]:
            raise UnreadableError(f"it has no {column}")


def _check_instant(row: Row) -> None:
    try:
        known = parse_instant(row["changeTime"]).year in _YEARS
    except (ValueError, TypeError):
        known = False
    if not known:
        raise UnreadableError("its changeTime is no instant")


def _in_a_subscription(observed: dict[str, Any]) -> dict[str, Any]:
    if not observed["subscription_id"] and observed["kind"] in _IN_SUBSCRIPTIONS:
        raise UnreadableError("it lies in no subscription")
    return observed


def _of_one_thing(table: pa.Table) -> list[dict[int, dict[str, Any]]]:
    """The rows of each entity, or change record, that has several; each row by its position in the table."""
    keys = table.column("record" if table.column("record").null_count == 0 else "identifier")
    repeated = np.flatnonzero(to_frame(pa.table({"key": keys})).duplicated(keep=False))
    found: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for position, row in zip(repeated.tolist(), table.take(repeated).to_pylist(), strict=True):
        found[row["record"] or row["azure_id"].lower()][position] = row
    return [rows for rows in found.values() if len(rows) > 1]


def _preference(row: Mapping[str, Any]) -> tuple[int, str]:
    """What makes one row of an entity win over another: agreement with the id, and then a fixed order of contents."""
    return _agreement(row), json.dumps(row, sort_keys=True, default=str)


def _agreement(row: Mapping[str, Any]) -> int:
    """The number of columns that say the same as the id: name, type, and where the row lies."""
    azure_id = row["azure_id"].lower()
    segments = azure_id.rpartition("/providers/")[2].split("/")
    provider = segments[0] or "microsoft.resources"  # of the containers, whose ids name none
    said = {"name": segments[-1], "type": "/".join([provider, *segments[1::2]])}
    return sum([row["placed"] is True, *(row[column].lower() == text for column, text in said.items())])


def _excerpt(row: Any) -> str:
    found = [row.get(name) for name in ("id", "targetId", "recordId")] if isinstance(row, dict) else []
    named = [text for text in found if text and isinstance(text, str)]
    return named[0] if named else json.dumps(row, ensure_ascii=False)[:_EXCERPT]
