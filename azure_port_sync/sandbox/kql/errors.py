"""Resource Graph's answers to queries that it does not take.

ParserFailure, InvalidQueryLanguage and UnsupportedJoinFlavor are on record (azure-cli-extensions' recordings,
github.com/Azure/azure-powershell/issues/13762, github.com/MicrosoftDocs/azure-docs/issues/45495). The inner codes of
the other refusals, and the wording of Kusto's semantic errors, are guesses: do not rely on them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import duckdb
import duckdb_kql

from azure_port_sync.sandbox.kql.text import tokenize


class QueryError(Exception):
    """Resource Graph's answer to a query it does not take: an inner code, a message, and where in the text."""

    def __init__(self, code: str, message: str, **place: Any) -> None:
        super().__init__(message)
        self.code = code
        self.detail = {"code": code, "message": message, **place}


def not_played(what: str) -> QueryError:
    """Return the error of what Resource Graph takes and the sandbox does not play."""
    return QueryError("NotPlayed", f"the sandbox does not play {what}")


def outside_the_subset(token: str) -> QueryError:
    """Return the error of what Kusto takes and Resource Graph does not."""
    return QueryError("InvalidQueryLanguage", "InvalidQueryLanguage", line=-1, characterPositionInLine=-1, token=token)


def parser_failure(query: str, diagnostics: Sequence[duckdb_kql.Diagnostic]) -> QueryError:
    """Return a syntax error as recorded: the place, the token there, and an expected token that is never of any use."""
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


def unresolved(name: str) -> QueryError:
    """Return the error of a name that means nothing."""
    return QueryError("Default", f"Failed to resolve scalar expression named '{name}'")


def semantic(error: duckdb.Error) -> QueryError:
    """Return the error of a query that the database does not take."""
    if missing := re.search(r'(?:column|named) "([^"]+)"', str(error)):
        return unresolved(missing.group(1))
    return QueryError("Default", str(error).splitlines()[0])
