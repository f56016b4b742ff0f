"""A query as text: its tokens, its stages, and the parts of those. Nothing inside a string or a comment is language."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

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


@dataclass(frozen=True)
class Token:
    """A piece of a query: `kind` is string, name, number or sign; comments and blanks are left out."""

    kind: str
    text: str
    start: int


@dataclass(frozen=True)
class Stage:
    """One operator with its arguments, and where in the tokens its pipeline begins and the operator stands."""

    tokens: tuple[Token, ...]
    begin: int
    start: int


def tokenize(query: str) -> list[Token]:
    """Return the tokens of a query."""
    return [
        Token(match.lastgroup or "", match.group(), match.start())
        for match in _TOKEN.finditer(query)
        if match.lastgroup not in {"comment", "blank"}
    ]


def operators(tokens: Sequence[Token]) -> list[str]:
    """Return the tabular operators, at any depth, in order: the names that stand behind a pipe."""
    return [token.text for before, token in pairwise(tokens) if token.kind == "name" and before.text == "|"]


def stages(tokens: Sequence[Token]) -> Iterator[Stage]:
    """Yield the stages of all pipelines, those in parentheses included; a table that leads a pipeline is one too."""
    open_at: list[list[int]] = [[0, 0]]  # for each depth: the tokens where its pipeline and its stage begin
    for index, token in enumerate(tokens):
        if token.text in ("(", "[", "{"):
            open_at.append([index + 1, index + 1])
        elif token.text in (")", "]", "}", "|") and open_at:
            begin, start = open_at[-1]
            if index > start:
                yield Stage(tuple(tokens[start:index]), begin, start)
            if token.text == "|":
                open_at[-1][1] = index + 1
            else:
                open_at.pop()
    if open_at and len(tokens) > open_at[-1][1]:
        yield Stage(tuple(tokens[open_at[-1][1] :]), *open_at[-1])


def flat(tokens: Sequence[Token]) -> list[Token]:
    """Return the tokens that stand in no parenthesis."""
    depth, found = 0, []
    for token in tokens:
        depth -= token.text in (")", "]", "}")
        if depth == 0:
            found.append(token)
        depth += token.text in ("(", "[", "{")
    return found


def split(tokens: Sequence[Token]) -> list[list[Token]]:
    """Return `tokens` divided at the commas that stand in no parenthesis."""
    commas = {id(token) for token in flat(tokens) if token.text == ","}
    parts: list[list[Token]] = [[]]
    for token in tokens:
        if id(token) in commas:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def until_end_of_item(tokens: Sequence[Token]) -> Sequence[Token]:
    """Return the tokens before the comma, pipe or parenthesis that ends what they begin."""
    depth = 0
    for index, token in enumerate(tokens):
        depth -= token.text in (")", "]")
        if depth < 0 or (depth == 0 and token.text in (",", "|")):
            return tokens[:index]
        depth += token.text in ("(", "[")
    return tokens


def slice_of(query: str, tokens: Sequence[Token]) -> str:
    """Return the text from the first of these tokens to the last."""
    return query[tokens[0].start : tokens[-1].start + len(tokens[-1].text)]


def replaced(query: str, tokens: Sequence[Token], pieces: Iterable[str]) -> str:
    """Return the query with each token replaced by a piece, laid out as it was."""
    text, end = [], 0
    for token, piece in zip(tokens, pieces, strict=True):
        text += [query[end : token.start], piece]
        end = token.start + len(token.text)
    return "".join([*text, query[end:]])
