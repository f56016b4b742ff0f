"""Runs the KQL that a client sends over the tenant's tables, and refuses what Resource Graph refuses.

The product's queries are half of its logic: a stand-in that only recognised them would prove nothing. They run on
duckdb-kql, which translates KQL to DuckDB's SQL. What this module adds is the difference between Kusto and Resource
Graph: its subset of operators, its default table and its errors (learn.microsoft.com/azure/governance/resource-graph/
concepts/query-language), and the few forms that the translator does not know.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

import duckdb
import duckdb_kql
import pyarrow as pa
from duckdb_kql.translate import functions

from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.tenant import COLUMNS, STRINGS, TABLES, Scope, Tenant

Layout = Literal["objectArray", "table"]

OPERATORS = frozenset(
    {
        "count",
        "distinct",
        "extend",
        "join",
        "limit",
        "mv-expand",
        "mvexpand",
        "order",
        "parse",
        "project",
        "project-away",
        "sort",
        "summarize",
        "take",
        "top",
        "union",
        "where",
    }
)
JOIN_KINDS = frozenset({"innerunique", "inner", "leftouter", "fullouter"})
MOST_JOINS, MOST_EXPANDS, MOST_UNION_LEGS = 3, 2, 3

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
_SCHEMA: dict[str, list[str]] = {table: list(COLUMNS) for table in TABLES}
_KEPT_PLANS, _KEPT_RESULTS = 256, 16
_FETCHED_TOGETHER = 100_000

# The translator leaves hash() out because DuckDB has no xxhash64. Resource Graph's clients use it only to part rows
# into equal shares (`hash(id) % n == i`), for which any hash that is never negative serves.
functions.SCALAR_FUNCTIONS["hash"] = functions.FunctionSpec(
    "hash", "template", "CAST(hash(CAST({0} AS VARCHAR)) >> 1 AS BIGINT)", (1,)
)


class QueryError(Exception):
    """Resource Graph's answer to a query it does not take: an inner code, a message, and where in the text."""

    def __init__(self, code: str, message: str, **place: Any) -> None:
        super().__init__(message)
        self.code = code
        self.detail = {"code": code, "message": message, **place}


@dataclass(frozen=True)
class Token:
    """A piece of a query: `kind` is string, name, number or sign; comments and blanks are left out."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True)
class Plan:
    """A translated query: its SQL, its columns with Resource Graph's types, whether its result can be paged."""

    sql: str
    columns: tuple[tuple[str, str], ...]
    pageable: bool
    timeless: bool


@dataclass(frozen=True)
class Result:
    """A finished result: each row is JSON text, ready to be sent."""

    columns: tuple[tuple[str, str], ...]
    rows: pa.ChunkedArray
    pageable: bool

    def page(self, skip: int, top: int) -> list[str]:
        rows: list[str] = self.rows.slice(skip, top).to_pylist()
        return rows


@dataclass
class _Kept:
    """A result and how long it holds: while nothing is changed, and no delay runs out (worked out when asked for)."""

    result: Result
    version: int
    since: datetime
    until: datetime | None


class QueryEngine:
    """Executes queries; keeps finished results, so that the pages of one need not be computed again.

    A kept result is used only as long as a new execution would give the same: what changed between two pages shifts
    the rows of the second one, as in Resource Graph, whose skip token is an offset.
    """

    def __init__(self, tenant: Tenant, clock: SandboxClock) -> None:
        self.executions = 0
        self._tenant = tenant
        self._clock = clock
        self._lock = threading.Lock()
        self._results: OrderedDict[tuple[str, Scope, Layout], _Kept] = OrderedDict()

    def run(self, query: str, scope: Scope, layout: Layout = "objectArray") -> Result:
        """The whole result of `query`; raises QueryError as Resource Graph would answer 400."""
        with self._lock:
            now = self._clock.now()
            key = (query, scope, layout)
            kept = self._results.get(key)
            if kept and kept.version == self._tenant.version and kept.since <= now < self._end_of(kept):
                self._results.move_to_end(key)
                return kept.result
            result = self._execute(key, now)
            while len(self._results) > _KEPT_RESULTS:
                self._results.popitem(last=False)
            return result

    def _execute(self, key: tuple[str, Scope, Layout], now: datetime) -> Result:
        query, scope, layout = key
        with self._tenant.shown(scope, now) as db:
            plan = _plan(query, now, db)
            try:
                values = {} if plan.timeless else {"kqlnow": now.replace(tzinfo=None)}
                rows = _fetched(db.execute(_as_json(plan, layout), values))
            except duckdb.Error as error:
                raise _semantic(error) from error
            self.executions += 1
            result = Result(plan.columns, rows, plan.pageable)
            until = None if plan.timeless else now + timedelta.resolution
            self._results = OrderedDict(
                (other, kept) for other, kept in self._results.items() if kept.version == self._tenant.version
            )
            self._results[key] = _Kept(result, self._tenant.version, now, until)
            return result

    def _end_of(self, kept: _Kept) -> datetime:
        if kept.until is None:
            kept.until = self._tenant.next_edge(kept.since)
        return kept.until


def _fetched(cursor: duckdb.DuckDBPyConnection) -> pa.ChunkedArray:
    """The one column of a result, in Arrow because there may be a million rows; a relation would plan them twice."""
    chunks = []
    while rows := cursor.fetchmany(_FETCHED_TOGETHER):
        chunks.append(pa.array((row for (row,) in rows), pa.large_string()))
    return pa.chunked_array(chunks, pa.large_string())


#: A plan rests on the query and on columns that all tenants share, so all engines of a process share the plans.
_plans: OrderedDict[str, Plan] = OrderedDict()
_checked: set[str] = set()
_planning = threading.Lock()

# Queries of a client that polls differ in nothing but the instants of their windows, so they are planned with stand-ins
# of the same length, which stand for the instants in the SQL as well.
_INSTANT = re.compile(r"(?<=\bdatetime\()\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z(?=\))")
_STAND_IN = "1900-01-01T00:00:00.{:06d}Z"


def _plan(query: str, now: datetime, db: duckdb.DuckDBPyConnection) -> Plan:
    instants = sorted(set(_INSTANT.findall(query)))
    places = {instant: _STAND_IN.format(number) for number, instant in enumerate(instants)}
    plan = _plan_of(_INSTANT.sub(lambda found: places[found[0]], query), now, db)
    sql = plan.sql
    for instant, place in places.items():
        sql = sql.replace(place, instant)
    return replace(plan, sql=sql)


def _plan_of(query: str, now: datetime, db: duckdb.DuckDBPyConnection) -> Plan:
    with _planning:
        if query in _plans:
            _plans.move_to_end(query)
            return _plans[query]
        tokens = tokenize(query)
        check(query, tokens)
        plain = rewrite(query, tokens)
        plan = translate(plain, now, db)
        # Types do not depend on what literals say, so queries that differ in nothing else are looked at once.
        shape = _shape(plain)
        if (family := re.sub(r"\d+", "0", shape)) not in _checked:
            _check_keys(shape, now, db)
            _checked.add(family)
        _plans[query] = plan
        if len(_plans) > _KEPT_PLANS:
            _plans.popitem(last=False)
        return plan


def translate(query: str, now: datetime, db: duckdb.DuckDBPyConnection) -> Plan:
    """`query`, in the translator's forms, as SQL over the four tables of `db`."""
    translated = _to_sql(query, now)
    tokens = tokenize(query)
    sql = shortened(str(translated), tokens)
    columns = _columns(sql, translated.parameters, db)
    limited = not {"limit", "take"}.isdisjoint(_operators(tokens))
    dynamic = all(kind == "object" for _, kind in columns)
    return Plan(sql, columns, pageable=not limited and not dynamic, timeless=not translated.parameters)


def _columns(sql: str, parameters: Mapping[str, Any], db: duckdb.DuckDBPyConnection) -> tuple[tuple[str, str], ...]:
    """The columns of a query with Resource Graph's types for them."""
    try:
        described = db.execute(f"DESCRIBE {sql}", dict(parameters)).fetchall()
    except duckdb.Error as error:
        raise _semantic(error) from error
    return tuple((str(row[0]), _TYPES.get(str(row[1]), "string")) for row in described)


def _to_sql(query: str, now: datetime) -> duckdb_kql.TranslationResult:
    try:
        return duckdb_kql.to_sql(query, schema=_SCHEMA, allow_write=False, query_now=now.replace(tzinfo=None))
    except duckdb_kql.KqlSyntaxError as error:
        raise _parser_failure(query, error.diagnostics) from error
    except duckdb_kql.KqlError as error:
        raise QueryError("InvalidQueryLanguage", str(error), line=-1, characterPositionInLine=-1) from error


# -- shorter SQL -----------------------------------------------------------------------------------------------------

# Where Kusto wants a text, the translator, who knows no types, asks for the type of the expression at run time and
# writes the expression a dozen times; nested, that makes 50 kB of SQL, over which DuckDB ponders for half a second.
# Of an expression that is known to be a string, only itself is left.
_STRING_CALLS = frozenset({"tostring", "tolower", "strcat"})


def _form() -> re.Pattern[str]:
    """What the translator writes for the text of a column, a lowered column or a string literal."""
    translated = str(duckdb_kql.to_sql("T | project tostring(it)", schema={"T": ["it"]}))
    written = re.search(r"SELECT (coalesce\(.*\)) AS ", translated)
    if written is None:
        raise AssertionError(f"the translator writes another form: {translated}")
    first, *others = (re.escape(part) for part in written[1].split('"it"'))
    it = r"""(?P<it>"(?P<column>\w+)"|lower\(coalesce\("\w+", ''\)\)|'[^']*')"""
    return re.compile(f"{first}{it}{'(?P=it)'.join(others)}")


_FORM = _form()


def shortened(sql: str, tokens: Sequence[Token]) -> str:
    """`sql`, translated from `tokens`, without asking for types that are known."""
    strings = _string_columns(tokens)

    def plain(found: re.Match[str]) -> str:
        known = found["column"] is None or found["column"] in strings
        return f"coalesce({found['it']}, '')" if known else found[0]

    while (shorter := _FORM.sub(plain, sql)) != sql:
        sql = shorter
    return sql


def _string_columns(tokens: Sequence[Token]) -> set[str]:
    """The names that mean a string wherever the query uses them: columns of the tables, and what is made of such."""
    made: dict[str, list[str]] = {"kind": ["?"]}  # also a word of the language
    for index, (name, sign) in enumerate(itertools.pairwise(tokens)):
        if name.kind == "name" and sign.text == "=":
            made.setdefault(name.text, []).append(_made_of(_item(tokens[index + 2 :])))
    known = {*STRINGS, "''"} - made.keys()
    while new := {name for name, sources in made.items() if known.issuperset(sources)} - known:
        known |= new
    return known


def _item(tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens before the comma, pipe or parenthesis that ends what they begin."""
    depth = 0
    for index, token in enumerate(tokens):
        depth -= token.text in (")", "]")
        if depth < 0 or (depth == 0 and token.text in (",", "|")):
            return tokens[:index]
        depth += token.text in ("(", "[")
    return tokens


def _made_of(value: Sequence[Token]) -> str:
    """The column that an expression copies, '' where it makes a string, ? where neither can be told."""
    if len(value) == 1 and value[0].kind == "name":
        return value[0].text
    called = [token.text for token in _flat(value)]
    return "''" if called[1:] == ["(", ")"] and called[0] in _STRING_CALLS else "?"


# -- text ------------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""
    (?P<comment>//[^\n]*)
  | (?P<string>[hH]?(?:
        @"(?:[^"]|"")*" | @'(?:[^']|'')*' | "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' | ```.*?```
    ))
  | (?P<name>[A-Za-z_$][A-Za-z0-9_]*(?:-(?:expand|away|keep|rename|reorder|series|apply|sort|hits|union)\b)?~?)
  | (?P<number>\d[\w.]*)
  | (?P<blank>\s+)
  | (?P<sign>==|!=|=~|!~|<=|>=|\.\.|.)
    """,
    re.VERBOSE | re.DOTALL,
)


def tokenize(query: str) -> list[Token]:
    """The pieces of `query`, so that nothing inside a string literal or a comment is taken for language."""
    return [
        Token(match.lastgroup or "", match.group(), match.start())
        for match in _TOKEN.finditer(query)
        if match.lastgroup not in {"comment", "blank"}
    ]


def rewrite(query: str, tokens: Sequence[Token]) -> str:
    """`query` in the forms that the translator knows, laid out as it was."""
    text = _replaced(query, tokens, _pieces(tokens))
    first = tokens[0].text
    if first == "|":
        return f"resources {text}"
    return f"resources | {text}" if first in OPERATORS and first != "union" else text


def _shape(query: str) -> str:
    """`query` with empty string literals, and one for each list of them: its types, without its thousand ids."""
    tokens = tokenize(query)
    values = (
        "''" if token.kind == "string" and before.text != "[" else token.text  # ['kind'] is a name, not a value
        for before, token in zip([tokens[0], *tokens], tokens, strict=False)
    )
    return re.sub(r"(\bin~?\s*\(\s*'')(?:\s*,\s*'')+", r"\1", _replaced(query, tokens, values))


def _replaced(query: str, tokens: Sequence[Token], pieces: Iterable[str]) -> str:
    text, end = [], 0
    for token, piece in zip(tokens, pieces, strict=True):
        text += [query[end : token.start], piece]
        end = token.start + len(token.text)
    return "".join([*text, query[end:]])


def _pieces(tokens: Sequence[Token]) -> Iterator[str]:
    """What each token becomes: tables are lower-case, a column named kind is quoted, join keys are parted by commas."""
    on_depth, depth = None, 0
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text if index else ""
        after = tokens[index + 1].text if index + 1 < len(tokens) else ""
        text = token.text
        if text in "([{":
            depth += 1
        elif text in ")]}":
            depth -= 1
        if (text == "|" and on_depth == depth) or (on_depth is not None and depth < on_depth):
            on_depth = None
        if token.kind == "name":
            if text == "on":
                on_depth = depth
            elif text == "and" and on_depth == depth:
                text = ","
            elif text == "kind" and before not in {"join", "union", "parse", ".", "mv-expand"}:
                text = "['kind']"
            elif text.lower() in TABLES and before in {"", "(", ",", "union"} and after in {"", "|", ")", ","}:
                text = text.lower()
        yield text


# -- Resource Graph's subset -----------------------------------------------------------------------------------------


def check(query: str, tokens: Sequence[Token]) -> None:
    """Refuses what Resource Graph refuses although Kusto takes it."""
    if not tokens:
        raise _parser_failure(query, [])
    for token in tokens:
        if token.text == ";" or (token.kind == "name" and token.text == "let"):
            raise _outside_the_subset(token.text)
    operators = _operators(tokens)
    for name in operators:
        if name not in OPERATORS:
            raise _outside_the_subset(name)
    if operators.count("join") > MOST_JOINS:
        raise QueryError("DisallowedMaxNumberOfJoins", f"a query may hold {MOST_JOINS} joins at most")
    if operators.count("mv-expand") + operators.count("mvexpand") > MOST_EXPANDS:
        raise QueryError("DisallowedMaxNumberOfMvExpands", f"a query may hold {MOST_EXPANDS} mv-expand at most")
    _check_joins(tokens)
    _check_unions(tokens)
    _check_tables(tokens)
    _check_spelling(tokens)


def _operators(tokens: Sequence[Token]) -> list[str]:
    """The tabular operators, at any depth, in order: what stands behind a pipe, or at the start."""
    return [
        token.text
        for before, token in zip([None, *tokens], tokens, strict=False)
        if token.kind == "name"
        and ((before is not None and before.text == "|") or (before is None and token.text in OPERATORS))
    ]


def _check_joins(tokens: Sequence[Token]) -> None:
    for index, token in enumerate(tokens):
        if token.text == "join" and tokens[index + 1 : index + 3] and tokens[index + 1].text == "kind":
            flavour = tokens[index + 3].text if index + 3 < len(tokens) else ""
            if flavour not in JOIN_KINDS:
                raise QueryError("UnsupportedJoinFlavor", f'The join kind "{flavour}" is not supported or not allowed.')


def _check_unions(tokens: Sequence[Token]) -> None:
    for stage in _stages(tokens):
        if stage.tokens[0].text == "union":
            legs = 1 + sum(token.text == "," for token in _flat(stage.tokens)) + bool(stage.start)
            if legs > MOST_UNION_LEGS:
                raise QueryError("DisallowedMaxNumberOfUnionLegs", f"a union may have {MOST_UNION_LEGS} legs at most")


def _check_tables(tokens: Sequence[Token]) -> None:
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        leads = before is None or (before.text == "(" and after is not None and after.text == "|")
        if not leads or token.kind != "name" or token.text.lower() in TABLES:
            continue
        if before is not None or token.text not in OPERATORS:
            raise QueryError("DisallowedLogicalTableName", f"Table {token.text} is invalid, unsupported or disallowed.")


def _check_spelling(tokens: Sequence[Token]) -> None:
    """Kusto tells Tags from tags; DuckDB does not."""
    given = set(COLUMNS) | {
        token.text for token, after in itertools.pairwise(tokens) if token.kind == "name" and after.text == "="
    }
    folded = {name.lower() for name in given}
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if token.kind != "name" or token.text in given or token.text.lower() not in folded:
            continue
        inner = before is not None and before.text == "."
        if not inner and (after is None or after.text not in {"(", "="}):
            raise _unresolved(token.text)


# -- what only types can tell ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """One operator with its arguments, and where in the text its pipeline began and the operator stands."""

    tokens: tuple[Token, ...]
    begin: int
    start: int


def _stages(tokens: Sequence[Token]) -> Iterator[_Stage]:
    """The stages of all pipelines, those in parentheses included; a table that leads a pipeline is a stage too."""
    open_at: list[list[int]] = [[0, 0]]  # for each depth: the tokens where its pipeline and its stage begin
    for index, token in enumerate(tokens):
        if token.text in ("(", "[", "{"):
            open_at.append([index + 1, index + 1])
        elif token.text in (")", "]", "}", "|") and open_at:
            begin, start = open_at[-1]
            if index > start:
                yield _Stage(tuple(tokens[start:index]), begin, start)
            if token.text == "|":
                open_at[-1][1] = index + 1
            else:
                open_at.pop()
    if open_at and len(tokens) > open_at[-1][1]:
        yield _Stage(tuple(tokens[open_at[-1][1] :]), *open_at[-1])


def _flat(tokens: Sequence[Token]) -> list[Token]:
    """The tokens that no parenthesis holds."""
    depth, flat = 0, []
    for token in tokens:
        depth -= token.text in (")", "]", "}")
        if depth == 0:
            flat.append(token)
        depth += token.text in ("(", "[", "{")
    return flat


def _check_keys(query: str, now: datetime, db: duckdb.DuckDBPyConnection) -> None:
    """Kusto sorts, groups and joins by scalars only, and joins like with like; the translator does not mind."""
    tokens = tokenize(query)

    def kinds(pipeline: str, keys: Sequence[str]) -> list[str]:
        named = ", ".join(f"key{number} = {key}" for number, key in enumerate(keys))
        try:
            translated = _to_sql(f"{pipeline} project {named}", now)
            sql = shortened(str(translated), tokenize(pipeline))
            return [kind for _, kind in _columns(sql, translated.parameters, db)]
        except QueryError:  # the query as a whole runs, so this form is beyond the check, not wrong
            return ["string"] * len(keys)

    for stage in _stages(tokens):
        before = query[tokens[stage.begin].start : tokens[stage.start].start]
        operator = stage.tokens[0].text
        if operator == "join":
            left, right, leg = _join_keys(query, stage)
            ours, theirs = kinds(before, left), kinds(f"{leg} |", right)
            if "object" in [*ours, *theirs] or ours != theirs:
                raise QueryError("Default", "join: the keys of both sides must be scalars of one type")
        elif (keys := _keys(query, stage)) and "object" in kinds(before, keys):
            raise QueryError("Default", f"{operator} operator: a key of type dynamic cannot be used; cast it first")


def _keys(query: str, stage: _Stage) -> list[str]:
    """What a stage sorts or groups by, as text."""
    operator = stage.tokens[0].text
    flat = _flat(stage.tokens)
    if operator == "distinct":
        first = 1
    elif operator in {"order", "sort", "top", "summarize"} and any(token.text == "by" for token in flat):
        first = 1 + max(index for index, token in enumerate(stage.tokens) if token.text == "by")
    else:
        return []
    keys = []
    for part in _split(stage.tokens[first:]):
        words = list(part)
        while words and words[-1].text in {"asc", "desc", "nulls", "first", "last"}:
            words.pop()
        if len(words) > 2 and words[1].text == "=":
            words = words[2:]
        if words and words[0].text != "*":
            keys.append(_slice(query, words))
    return keys


def _join_keys(query: str, stage: _Stage) -> tuple[list[str], list[str], str]:
    """The keys of both sides of a join, and its right side, as text."""
    opening = next(index for index, token in enumerate(stage.tokens) if token.text == "(")
    on = max(index for index, token in enumerate(stage.tokens) if token.text == "on")
    left, right = [], []
    for part in _split(stage.tokens[on + 1 :]):
        by_side = {
            part[index].text: _slice(query, part[index + 2 : index + 3])
            for index in range(len(part))
            if part[index].text in {"$left", "$right"}
        }
        left.append(by_side.get("$left", _slice(query, part)))
        right.append(by_side.get("$right", _slice(query, part)))
    return left, right, _slice(query, stage.tokens[opening + 1 : on - 1])


def _split(tokens: Sequence[Token]) -> list[list[Token]]:
    """`tokens` parted at the commas that no parenthesis holds."""
    commas = {id(token) for token in _flat(tokens) if token.text == ","}
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if id(token) in commas:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def _slice(query: str, tokens: Sequence[Token]) -> str:
    return query[tokens[0].start : tokens[-1].start + len(tokens[-1].text)]


# -- errors ----------------------------------------------------------------------------------------------------------


# ParserFailure, InvalidQueryLanguage and UnsupportedJoinFlavor are on record (azure-cli-extensions' recordings,
# github.com/Azure/azure-powershell/issues/13762, github.com/MicrosoftDocs/azure-docs/issues/45495). The inner codes of
# the other refusals, and the wording of Kusto's semantic errors, are guesses: do not rely on them.


def _outside_the_subset(token: str) -> QueryError:
    return QueryError("InvalidQueryLanguage", "InvalidQueryLanguage", line=-1, characterPositionInLine=-1, token=token)


def _parser_failure(query: str, diagnostics: Sequence[duckdb_kql.Diagnostic]) -> QueryError:
    """As recorded: the place, the token there, and an expected token that is never of any use."""
    line, column = (diagnostics[0].span.line, diagnostics[0].span.column) if diagnostics else (1, 0)
    lines = query.split("\n")
    rest = lines[line - 1][column:] if line <= len(lines) else ""
    found = tokenize(rest)
    return QueryError(
        "ParserFailure",
        "ParserFailure",
        line=line,
        characterPositionInLine=column,
        token=found[0].text if found else "<EOF>",
        expectedToken="Ǐ",
    )


def _unresolved(name: str) -> QueryError:
    return QueryError("Default", f"Failed to resolve scalar expression named '{name}'")


def _semantic(error: duckdb.Error) -> QueryError:
    if missing := re.search(r'(?:column|named) "([^"]+)"', str(error)):
        return _unresolved(missing.group(1))
    return QueryError("Default", str(error).splitlines()[0])


# -- rows ------------------------------------------------------------------------------------------------------------


def _as_json(plan: Plan, layout: Layout) -> str:
    """SQL that gives each row of `plan` as JSON text: an object, or an array of its values."""
    values = [_value(name, kind) for name, kind in plan.columns]
    if layout == "table":
        row = f"json_array({', '.join(values)})"
    else:
        row = f"json_object({', '.join(f'{_text(n)}, {v}' for (n, _), v in zip(plan.columns, values, strict=True))})"
    return f"SELECT CAST({row} AS VARCHAR) FROM ({plan.sql})"


def _value(name: str, kind: str) -> str:
    column = '"' + name.replace('"', '""') + '"'
    if kind == "string":  # Kusto's strings are never null
        return f"coalesce(CAST({column} AS VARCHAR), '')"
    if kind == "datetime":
        return f"regexp_replace(strftime({column}, '%Y-%m-%dT%H:%M:%S.%fZ'), '\\.?0+Z$', 'Z')"
    return column


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
