"""From KQL to SQL. A translation takes some 20 ms, so what differs in its numbers alone is translated once."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import duckdb
import duckdb_kql
from duckdb_kql.translate import functions

from azure_port_sync.sandbox.kql.errors import QueryError, parser_failure, semantic
from azure_port_sync.sandbox.kql.shorter import shortened
from azure_port_sync.sandbox.kql.subset import check
from azure_port_sync.sandbox.kql.text import Stage, Token, flat, operators, replaced, slice_of, split, stages, tokenize
from azure_port_sync.sandbox.tenant.rows import COLUMNS
from azure_port_sync.sandbox.tenant.store import HASH_SQL, TABLES, Part

_PARTED = "parted"  # the view of one part of a table
_TYPES = {
    "VARCHAR": "string",
    "JSON": "object",
    "BOOLEAN": "boolean",
    "TIMESTAMP": "datetime",
    "DOUBLE": "number",
    "BIGINT": "integer",
    "INTEGER": "integer",
    "HUGEINT": "integer",
    "UBIGINT": "integer",
}
_SCHEMA: dict[str, list[str]] = {table: list(COLUMNS) for table in (*TABLES, _PARTED)}
_KEPT_PLANS = 256

# The translator leaves hash() out because DuckDB has no xxhash64.
functions.SCALAR_FUNCTIONS["hash"] = functions.FunctionSpec("hash", "template", HASH_SQL, (1,))


@dataclass(frozen=True)
class Plan:
    """A translated query: its SQL, its columns with Resource Graph's types, whether its result can be paged.

    The SQL of a query that begins with a part reads the view of that part in place of the table.
    """

    sql: str
    columns: tuple[tuple[str, str], ...]
    pageable: bool
    timeless: bool


#: A plan rests on the query and on columns that all tenants share, so all engines of a process share the plans.
_plans: OrderedDict[str, Plan] = OrderedDict()
_checked: set[str] = set()
_planning = threading.Lock()

# Queries of a client that polls differ in nothing but the instants of their windows, so they are planned with stand-ins
# of the same length, which stand for the instants in the SQL as well.
_INSTANT = re.compile(r"(?<=\bdatetime\()\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z(?=\))")
_STAND_IN = "1900-01-01T00:00:00.{:06d}Z"

# The parts of a table differ in two numbers, and rows know in which part they lie: this step becomes a view's.
_PART = re.compile(
    r"\A(?P<table>\s*\w+)(?P<gap>\s*\|\s*where\s+)hash\(tolower\(id\)\)\s*%\s*(?P<count>\d+)\s*==\s*(?P<number>\d+)(?=\s*(?:\||\Z))"
)
_ANY_PART = r"\g<table>\g<gap>hash(tolower(id)) % 1 == 0"


def part_of(query: str) -> Part | None:
    """Return the part of a table that the first step of a query asks for, where it asks for one."""
    found = _PART.match(query)
    if found is None or (table := found["table"].strip()) not in TABLES or not int(found["count"]):
        return None
    return Part(table, int(found["count"]), int(found["number"]))


def plan_of(query: str, now: datetime, db: duckdb.DuckDBPyConnection) -> Plan:
    """Return the plan of a query over the views of `db`; raise QueryError where Resource Graph would answer 400."""
    parted = part_of(query) is not None
    instants = sorted(set(_INSTANT.findall(query)))
    places = {instant: _STAND_IN.format(number) for number, instant in enumerate(instants)}
    family = _INSTANT.sub(lambda found: places[found[0]], _PART.sub(_ANY_PART, query) if parted else query)
    with _planning:
        plan = _plans.get(family) or _new_plan(family, now, db, parted=parted)
        _plans[family] = plan
        _plans.move_to_end(family)
        if len(_plans) > _KEPT_PLANS:
            _plans.popitem(last=False)
    sql = plan.sql
    for instant, place in places.items():
        sql = sql.replace(place, instant)
    return replace(plan, sql=sql)


def _new_plan(query: str, now: datetime, db: duckdb.DuckDBPyConnection, *, parted: bool) -> Plan:
    tokens = tokenize(query)
    check(query, tokens)
    plain = replaced(query, tokens, _pieces(tokens))
    if parted:
        plain = _PART.sub(rf"{_PARTED}\g<gap>true", plain)
    plan = _translate(plain, now, db)
    # Types do not depend on what literals say, so queries that differ in nothing else are looked at once.
    shape = _shape(plain)
    if (family := re.sub(r"\d+", "0", shape)) not in _checked:
        _check_keys(shape, now, db)
        _checked.add(family)
    return plan


def _translate(query: str, now: datetime, db: duckdb.DuckDBPyConnection) -> Plan:
    translated = _to_sql(query, now)
    tokens = tokenize(query)
    sql = shortened(str(translated), tokens)
    columns = _columns(sql, translated.parameters, db)
    limited = not {"limit", "take"}.isdisjoint(operators(tokens))
    dynamic = all(kind == "object" for _, kind in columns)
    return Plan(sql, columns, pageable=not limited and not dynamic, timeless=not translated.parameters)


def _columns(sql: str, parameters: Mapping[str, Any], db: duckdb.DuckDBPyConnection) -> tuple[tuple[str, str], ...]:
    """Return the columns of a query with Resource Graph's types for them."""
    try:
        described = db.execute(f"DESCRIBE {sql}", dict(parameters)).fetchall()
    except duckdb.Error as error:
        raise semantic(error) from error
    return tuple((str(row[0]), _TYPES.get(str(row[1]), "string")) for row in described)


def _to_sql(query: str, now: datetime) -> duckdb_kql.TranslationResult:
    try:
        return duckdb_kql.to_sql(query, schema=_SCHEMA, allow_write=False, query_now=now.replace(tzinfo=None))
    except duckdb_kql.KqlSyntaxError as error:
        raise parser_failure(query, error.diagnostics) from error
    except duckdb_kql.KqlError as error:
        raise QueryError("InvalidQueryLanguage", str(error), line=-1, characterPositionInLine=-1) from error


def _pieces(tokens: Sequence[Token]) -> Iterator[str]:
    """Yield the tokens in the forms that the translator knows: a column named kind is quoted."""
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        column = token.kind == "name" and token.text == "kind" and before not in {"join", "."}
        yield "['kind']" if column else token.text


def _shape(query: str) -> str:
    """Return `query` with empty string literals, and one for each list of them: its types, without its thousand ids."""
    tokens = tokenize(query)
    values = (
        "''" if token.kind == "string" and before.text != "[" else token.text  # ['kind'] is a name, not a value
        for before, token in zip([tokens[0], *tokens], tokens, strict=False)
    )
    return re.sub(r"(\bin~?\s*\(\s*'')(?:\s*,\s*'')+", r"\1", replaced(query, tokens, values))


# -- what only types can show


def _check_keys(query: str, now: datetime, db: duckdb.DuckDBPyConnection) -> None:
    """Refuse keys that are no scalars, or of two types in a join, as Kusto does; the translator takes them."""
    tokens = tokenize(query)

    def kinds(pipeline: str, keys: Sequence[str]) -> list[str]:
        named = ", ".join(f"key{number} = {key}" for number, key in enumerate(keys))
        try:
            translated = _to_sql(f"{pipeline} project {named}", now)
            sql = shortened(str(translated), tokenize(pipeline))
            return [kind for _, kind in _columns(sql, translated.parameters, db)]
        except QueryError:  # the query as a whole runs, so this form is beyond the check, not wrong
            return ["string"] * len(keys)

    for stage in stages(tokens):
        before = query[tokens[stage.begin].start : tokens[stage.start].start]
        operator = stage.tokens[0].text
        if operator == "join":
            left, right, leg = _join_keys(query, stage)
            ours, theirs = kinds(before, left), kinds(f"{leg} |", right)
            if "object" in [*ours, *theirs] or ours != theirs:
                raise QueryError("Default", "join: the keys of both sides must be scalars of one type")
        elif (keys := _keys(query, stage)) and "object" in kinds(before, keys):
            raise QueryError("Default", f"{operator} operator: a key of type dynamic cannot be used; cast it first")


def _keys(query: str, stage: Stage) -> list[str]:
    """Return the keys that a stage sorts or groups by, as text."""
    operator = stage.tokens[0].text
    if operator == "distinct":
        first = 1
    elif operator in {"order", "sort", "top", "summarize"} and any(token.text == "by" for token in flat(stage.tokens)):
        first = 1 + max(index for index, token in enumerate(stage.tokens) if token.text == "by")
    else:
        return []
    keys = []
    for part in split(stage.tokens[first:]):
        words = list(part)
        while words and words[-1].text in {"asc", "desc", "nulls", "first", "last"}:
            words.pop()
        if len(words) > 2 and words[1].text == "=":
            words = words[2:]
        if words and words[0].text != "*":
            keys.append(slice_of(query, words))
    return keys


def _join_keys(query: str, stage: Stage) -> tuple[list[str], list[str], str]:
    """Return the keys of both sides of a join, and its right side, as text."""
    opening = next(index for index, token in enumerate(stage.tokens) if token.text == "(")
    on = max(index for index, token in enumerate(stage.tokens) if token.text == "on")
    left, right = [], []
    for part in split(stage.tokens[on + 1 :]):
        by_side = {
            part[index].text: slice_of(query, part[index + 2 : index + 3])
            for index in range(len(part))
            if part[index].text in {"$left", "$right"}
        }
        left.append(by_side.get("$left", slice_of(query, part)))
        right.append(by_side.get("$right", slice_of(query, part)))
    return left, right, slice_of(query, stage.tokens[opening + 1 : on - 1])
