"""Shorter SQL than the translator writes.

Where Kusto wants a text, the translator, which knows no types, asks for the type of the expression at run time and
writes the expression a dozen times; nested, that makes 50 kB of SQL, which DuckDB takes half a second to plan. Of an
expression that is known to be a string, only itself is left.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import duckdb_kql

from azure_port_sync.sandbox.kql.text import Token, flat, until_end_of_item
from azure_port_sync.sandbox.tenant.rows import STRINGS

_STRING_CALLS = frozenset({"tostring", "tolower", "strcat"})


def _form() -> re.Pattern[str]:
    """Return the form in which the translator writes the text of a column, a lowered column or a string literal."""
    translated = str(duckdb_kql.to_sql("T | project tostring(it)", schema={"T": ["it"]}))
    written = re.search(r"SELECT (coalesce\(.*\)) AS ", translated)
    if written is None:
        raise AssertionError(f"the translator writes another form: {translated}")
    first, *others = (re.escape(part) for part in written[1].split('"it"'))
    it = r"""(?P<it>"(?P<column>\w+)"|lower\(coalesce\("\w+", ''\)\)|'[^']*')"""
    return re.compile(f"{first}{it}{'(?P=it)'.join(others)}")


_FORM = _form()


def shortened(sql: str, tokens: Sequence[Token]) -> str:
    """Return `sql`, translated from `tokens`, without asking for types that are known."""
    strings = _string_columns(tokens)

    def plain(found: re.Match[str]) -> str:
        known = found["column"] is None or found["column"] in strings
        return f"coalesce({found['it']}, '')" if known else found[0]

    while (shorter := _FORM.sub(plain, sql)) != sql:
        sql = shorter
    return sql


def _string_columns(tokens: Sequence[Token]) -> set[str]:
    """Return the names that mean a string wherever the query uses them: columns of tables, and copies of such."""
    made: dict[str, list[str]] = {"kind": ["?"]}  # also a word of the language
    for index, (name, sign) in enumerate(itertools.pairwise(tokens)):
        if name.kind == "name" and sign.text == "=":
            made.setdefault(name.text, []).append(_made_of(until_end_of_item(tokens[index + 2 :])))
    known = {*STRINGS, "''"} - made.keys()
    while new := {name for name, sources in made.items() if known.issuperset(sources)} - known:
        known |= new
    return known


def _made_of(value: Sequence[Token]) -> str:
    """Return the column that an expression copies, '' if it makes a string, otherwise ?."""
    if len(value) == 1 and value[0].kind == "name":
        return value[0].text
    called = [token.text for token in flat(value)]
    return "''" if called[1:] == ["(", ")"] and called[0] in _STRING_CALLS else "?"
