"""Resource Graph's subset of Kusto, and its refusals of what Kusto takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from azure_port_sync.sandbox.kql.errors import QueryError, not_played, outside_the_subset, parser_failure, unresolved
from azure_port_sync.sandbox.kql.text import Token, operators
from azure_port_sync.sandbox.tenant.rows import COLUMNS
from azure_port_sync.sandbox.tenant.store import TABLES

OPERATORS = frozenset(
    {
        "count",
        "distinct",
        "extend",
        "join",
        "limit",
        "order",
        "project",
        "project-away",
        "sort",
        "summarize",
        "take",
        "top",
        "where",
    }
)
#: Resource Graph takes them; the sandbox does not play them.
NOT_PLAYED = frozenset({"mv-expand", "mvexpand", "parse", "union"})
JOIN_KINDS = frozenset({"innerunique", "inner", "leftouter", "fullouter"})
MAX_JOINS = 3


def check(query: str, tokens: Sequence[Token]) -> None:
    """Raise QueryError for what Resource Graph refuses although Kusto takes it."""
    if not tokens:
        raise parser_failure(query, [])
    for token in tokens:
        if token.text == ";" or (token.kind == "name" and token.text == "let"):
            raise outside_the_subset(token.text)
    if (first := tokens[0].text) == "|" or first in OPERATORS | NOT_PLAYED:
        raise not_played("a query that names no table")
    used = operators(tokens)
    for name in used:
        if name not in OPERATORS:
            raise not_played(name) if name in NOT_PLAYED else outside_the_subset(name)
    if used.count("join") > MAX_JOINS:
        raise QueryError("DisallowedMaxNumberOfJoins", f"a query may hold {MAX_JOINS} joins at most")
    _check_joins(tokens)
    _check_tables(tokens)
    _check_spelling(tokens)


def _check_joins(tokens: Sequence[Token]) -> None:
    for index, token in enumerate(tokens):
        if token.text == "join" and tokens[index + 1 : index + 3] and tokens[index + 1].text == "kind":
            flavour = tokens[index + 3].text if index + 3 < len(tokens) else ""
            if flavour not in JOIN_KINDS:
                raise QueryError("UnsupportedJoinFlavor", f'The join kind "{flavour}" is not supported or not allowed.')


def _check_tables(tokens: Sequence[Token]) -> None:
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        leads = before is None or (before.text == "(" and after is not None and after.text == "|")
        if leads and token.kind == "name" and token.text not in TABLES:
            raise QueryError("DisallowedLogicalTableName", f"Table {token.text} is invalid, unsupported or disallowed.")


def _check_spelling(tokens: Sequence[Token]) -> None:
    """Refuse names in another casing: to Kusto, unlike DuckDB, Tags is not tags."""
    given = set(COLUMNS) | {
        token.text for token, after in itertools.pairwise(tokens) if token.kind == "name" and after.text == "="
    }
    folded = {name.lower() for name in given}
    for before, token, after in zip([None, *tokens], tokens, [*tokens[1:], None], strict=False):
        if token.kind != "name" or token.text in given or token.text.lower() not in folded:
            continue
        inner = before is not None and before.text == "."
        if not inner and (after is None or after.text not in {"(", "="}):
            raise unresolved(token.text)
