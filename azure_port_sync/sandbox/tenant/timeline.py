"""The changes of rows over time: each is recorded, and shown by Resource Graph, after delays of its own."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from azure_port_sync.sandbox.tenant.records import Action, change_record, differences
from azure_port_sync.sandbox.tenant.rows import COLUMNS, Row, RowMaker, TenantError
from azure_port_sync.sandbox.tenant.store import Store, records_of

Delay = tuple[float, float]


class Timeline:
    """Writes the versions and the change records of a tenant. Whoever calls it opens the transaction."""

    def __init__(self, store: Store, make: RowMaker, rng: random.Random) -> None:
        self._store = store
        self._make = make
        self._rng = rng
        self.clear()

    def clear(self) -> None:
        """Delay nothing, and leave no row a twin."""
        #: By the key of a row: what each of its twins has in place of its columns.
        self.twins: dict[str, list[Mapping[str, Any]]] = {}
        self._record_delay: Delay = (0, 0)
        self._row_delay: Delay = (0, 0)
        self._linger: Delay = (0, 0)

    def set_delays(
        self, record_delay: Sequence[float] | None, row_delay: Sequence[float] | None, linger: Sequence[float] | None
    ) -> dict[str, list[float]]:
        """Set those delays that are given; return all three."""
        self._record_delay = _delay(record_delay, self._record_delay)
        self._row_delay = _delay(row_delay, self._row_delay)
        self._linger = _delay(linger, self._linger)
        return {
            "record_delay": list(self._record_delay),
            "row_delay": list(self._row_delay),
            "linger": list(self._linger),
        }

    def create(self, table: str, rows: Sequence[Row], action: Action) -> None:
        """Begin rows whose ids nothing has that exists."""
        keys = [row["id"].lower() for row in rows]
        taken = self._store.rows(table, "alive AND key IN (SELECT unnest(?))", [keys])
        if taken or len(set(keys)) < len(keys):
            raise TenantError(f"{taken[0]['id'] if taken else 'one of these'} exists already")
        self.supersede(table, rows, action)
        self.record(table, rows, "Create", action)

    def update(self, table: str, row_id: str, action: Action, **columns: Any) -> None:
        """Give the living row of an id these columns."""
        before = self._store.existing(table, row_id)
        after = {**before, **columns}
        self.supersede(table, [after], action)
        self.record(table, [after], "Update", action, differences(before, after))

    def supersede(self, table: str, rows: Sequence[Row], action: Action) -> None:
        """Make `rows` what exists under their ids from here on; what was there before is shown until they are."""
        shown_from = [_later(action.at, self._row_delay, self._rng) for _ in rows]
        self._store.retire(table, [row["id"] for row in rows], shown_from)
        self._store.show(table, rows, shown_from)
        for row, instant in zip(rows, shown_from, strict=True):
            for own in self.twins.get(row["id"].lower(), ()):
                self._store.show(table, [{**row, **own}], [instant], twins=True)

    def end(self, table: str, rows: Sequence[Row], action: Action) -> None:
        """End `rows`, and their twins; they are shown a while still."""
        shown_to = [_later(action.at, self._linger, self._rng) for _ in rows]
        self._store.retire(table, [row["id"] for row in rows], shown_to)
        self.record(table, rows, "Delete", action)
        for row in rows:
            self.twins.pop(row["id"].lower(), None)

    def record(
        self, table: str, rows: Sequence[Row], kind: str, action: Action, changes: dict[str, Any] | None = None
    ) -> None:
        """Leave a change record of each of `rows`; only an Update has `changes`."""
        records = [change_record(self._make, row, kind, changes, action, self._rng) for row in rows]
        shown_from = [_later(action.at, self._record_delay, self._rng) for _ in rows]
        self._store.record(records_of(table), records, action.at, shown_from)

    def add_twin(self, table: str, row_id: str, own: Mapping[str, Any], action: Action) -> None:
        """Show a second row of an id, with columns of its own, as long as the row exists."""
        row = self._store.existing(table, row_id)
        if str(own.get("id", row_id)).lower() != row["key"]:
            raise TenantError(f"a twin has the id of its row, in any casing, not {own['id']}")
        if unknown := own.keys() - set(COLUMNS):
            raise TenantError(f"Resource Graph has no column {min(unknown)}")
        self._store.show(table, [{**row, **own}], [action.at], twins=True)
        self.twins[row["key"]] = [*self.twins.get(row["key"], []), own]

    def remove_twins(self, table: str, row_id: str, action: Action) -> None:
        """Show one row of an id again."""
        self._store.retire(table, [row_id], [action.at], where="twin")
        self.twins.pop(row_id.lower(), None)


def _later(at: datetime, delay: Delay, rng: random.Random) -> datetime:
    return at + timedelta(seconds=rng.uniform(*delay))


def _delay(given: Sequence[float] | None, otherwise: Delay) -> Delay:
    if given is None:
        return otherwise
    least, most = given
    if not 0 <= least <= most:
        raise TenantError(f"a delay is (least, most) seconds, e.g. (0, 300); got {given}")
    return (float(least), float(most))
