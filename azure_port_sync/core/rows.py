"""The row types that travel between the rooms, as Arrow schemas and the frames made of them.

An *observation* is what one read brought of one entity: its current row, a change record of it, or both. A *change
set* is one decided operation per entity. Both are columns and not objects, because a tenant may hold a million of
them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa

from azure_port_sync.core.kinds import KINDS, Kind

_AT_ONCE = 5_000


class Operation(StrEnum):
    """The operation that Port carries out on an entity."""

    UPSERT = "upsert"
    DELETE = "delete"


def _column(name: str, kind: pa.DataType, description: str) -> pa.Field:
    return pa.field(name, kind, metadata={"description": description})


_IDENTITY = [
    _column("kind", pa.string(), f"one of {', '.join(Kind)}"),
    _column("identifier", pa.string(), "the id as Port stores it"),
    _column("azure_id", pa.string(), "the id in Azure's spelling"),
    _column("type", pa.string(), "lower-case resource type"),
    _column("name", pa.string(), "name in Azure"),
    _column("subscription_id", pa.string(), "lower-case"),
    _column("resource_group", pa.string(), "lower-case name; empty where there is none"),
]
_CHANGE_TIME = _column("change_time", pa.timestamp("ns", tz="UTC"), "of the newest change record; null without one")
_CONTENT = [
    _column("hash", pa.string(), "of what Port shows; null where Azure shows no row"),
    _column("data", pa.string(), "what is sent, as canonical JSON; null where Azure shows no row"),
]

#: One observation a row.
OBSERVATION = pa.schema(
    [
        *_IDENTITY,
        _column("present", pa.bool_(), "whether Azure shows a row for it"),
        _column("in_scope", pa.bool_(), "whether that row is in scope; false where there is none"),
        *_CONTENT,
        _column("change_type", pa.string(), "Create, Update or Delete; null without a change record"),
        _CHANGE_TIME,
        _column("change", pa.string(), "what `data` says of that change, as JSON"),
    ]
)

#: One decided operation per entity, in the order in which they may be delivered.
CHANGE_SET = pa.schema(
    [
        _column("operation", pa.string(), "upsert or delete"),
        *_IDENTITY,
        _column("hash", pa.string(), "of what is sent; null for a delete"),
        _CHANGE_TIME,
        _column("data", pa.string(), "what is sent, as canonical JSON"),
    ]
)


class ChangeSetRow(NamedTuple):
    """One decided operation: a row of CHANGE_SET, as far as it is sent and recorded.

    `data` is canonical JSON text; `hash` is None for a delete.
    """

    operation: str
    kind: str
    identifier: str
    azure_id: str
    type: str
    name: str
    subscription_id: str
    resource_group: str
    hash: str | None
    data: str


def container_key(row: ChangeSetRow) -> tuple[str, ...]:
    """Return the key of a container: its kind, and the columns that it shares with all that lies in it."""
    return (row.kind, *(getattr(row, name) for name in KINDS[Kind(row.kind)].key))


def parent_of(row: ChangeSetRow) -> tuple[str, ...] | None:
    """Return the key of the container that an entity lies in; None for a subscription."""
    parent = KINDS[Kind(row.kind)].parent
    if parent is Kind.RESOURCE_GROUP and not row.resource_group:
        parent = KINDS[parent].parent
    return None if parent is None else container_key(row._replace(kind=parent))


def change_set_rows(change_set: pd.DataFrame) -> list[ChangeSetRow]:
    """Return the rows of a (part of a) change set, in its order."""
    return list(map(ChangeSetRow._make, tuples(change_set, ChangeSetRow._fields)))


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow-backed DataFrame over the table's own buffers."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def to_table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """The frame as an Arrow table of exactly this schema."""
    return pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)


def frame_of(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> pd.DataFrame:
    """An Arrow-backed DataFrame of these rows; a key that a row lacks becomes null."""
    return to_frame(pa.Table.from_pylist(list(rows), schema=schema))


def tuples(frame: pd.DataFrame, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield these columns of each row, None for a missing value; a few thousand rows at a time are Python objects."""
    for start in range(0, len(frame), _AT_ONCE):
        part = frame.iloc[start : start + _AT_ONCE]
        yield from zip(*(pa.array(part[name], from_pandas=True).to_pylist() for name in names), strict=True)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a (small, or cut to size) frame as dicts; missing values as pandas has them."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def lowered(texts: pd.Series) -> pd.Series:
    """Return the texts in lower case, as Python has it: Arrow folds some letters beyond ASCII otherwise."""
    return pd.Series([text.lower() for text in texts], index=texts.index, dtype=pd.ArrowDtype(pa.string()))


def subscriptions_of(frame: pd.DataFrame) -> set[str]:
    """Return the subscriptions (lower-case ids) that these rows lie in."""
    return set(frame["subscription_id"]) - {""}


def concat(frames: Sequence[pd.DataFrame], schema: pa.Schema) -> pd.DataFrame:
    """The frames, all of this schema, below each other; an empty one when there is none."""
    return pd.concat([frame_of([], schema), *frames], ignore_index=True)
