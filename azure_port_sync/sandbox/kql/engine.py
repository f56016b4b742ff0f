"""Executes queries: rows as JSON text, ready to be sent.

Nothing is kept between requests, so an answer is always of the instant in which it is asked for. A part of a table
(`where hash(tolower(id)) % n == i`) takes about 13 ms of processor time of 40,000 rows, 16 ms of 200,000 and 32 ms of a
million, whatever `n` is.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.kql.errors import semantic
from azure_port_sync.sandbox.kql.translation import Plan, part_of, plan_of
from azure_port_sync.sandbox.tenant import Scope, Tenant


@dataclass(frozen=True)
class Result:
    """The rows that were asked for, each as JSON text, and of how many they are."""

    columns: tuple[tuple[str, str], ...]
    rows: list[str]
    total: int
    pageable: bool


class QueryEngine:
    """Executes queries over a tenant."""

    def __init__(self, tenant: Tenant, clock: SandboxClock) -> None:
        self._tenant = tenant
        self._clock = clock

    def run(self, query: str, scope: Scope, *, top: int | None = None) -> Result:
        """Return all rows of a query, or `top` of them; raise QueryError where Resource Graph would answer 400."""
        now = self._clock.now()
        with self._tenant.shown(scope, now, part_of(query)) as db:
            plan = plan_of(query, now, db)
            values = {} if plan.timeless else {"kqlnow": now.replace(tzinfo=None)}
            limit = "" if top is None else f" LIMIT {top}"
            try:
                rows = [row for (row,) in db.execute(_as_json(plan) + limit, values).fetchall()]
                total = len(rows)
                if total == top:  # counting costs as much as a small query does
                    ((total,),) = db.execute(f"SELECT count(*) FROM ({plan.sql})", values).fetchall()
            except duckdb.Error as error:
                raise semantic(error) from error
        return Result(plan.columns, rows, total, plan.pageable)


def _as_json(plan: Plan) -> str:
    """SQL that gives each row of `plan` as a JSON object."""
    pairs = ", ".join(f"{_text(name)}, {_value(name, kind)}" for name, kind in plan.columns)
    return f"SELECT CAST(json_object({pairs}) AS VARCHAR) FROM ({plan.sql})"


def _value(name: str, kind: str) -> str:
    column = '"' + name.replace('"', '""') + '"'
    if kind == "string":  # Kusto's strings are never null
        return f"coalesce(CAST({column} AS VARCHAR), '')"
    if kind == "datetime":
        return f"regexp_replace(strftime({column}, '%Y-%m-%dT%H:%M:%S.%fZ'), '\\.?0+Z$', 'Z')"
    return column


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
