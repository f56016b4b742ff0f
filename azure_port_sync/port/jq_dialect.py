"""jq as Port evaluates it, so that a mapping which would fail at Port fails here too.

Port hands each expression to `@port-labs/jq-node-bindings`, which turns some single quotes into double quotes,
hides the environment, takes the first output only and answers `null` for every error
(github.com/port-labs/jq-node-bindings, `lib/jq.js`). Those four rules live here; everything else is stock jq.
"""

import re
from functools import lru_cache
from typing import Any

import jq

_NO_ENVIRONMENT = "def env: {}; {} as $ENV |"
_SINGLE_QUOTE = re.compile(r"""(^|\s)'(?!\s|")|(?<!\s|")'(\s|$)""")
_A_PATH = re.compile(r"(\.[A-Za-z_]\w*)+", re.ASCII).fullmatch


def format_filter(text: str) -> str:
    """Apply the single-quote rule: a quote counts only between whitespace (or an end of the text) and a word.

    So `.a == 'x'` works at Port, and `select(.a == 'x')` or `.tags['env']` do not.
    """
    return _SINGLE_QUOTE.sub(lambda found: f'{found[1] or ""}"{found[2] or ""}', text)


class Program:
    """One compiled jq program. PyPI `jq` gives each thread that runs it a state of its own, so all may share it."""

    def __init__(self, source: str) -> None:
        self._compiled = _compile(source)

    def first(self, text: str) -> Any:
        """Return the first output for the JSON in `text`, or None when there is none or the program fails."""
        try:
            return self._compiled.input_text(text).first()
        except (ValueError, StopIteration):
            return None


@lru_cache(maxsize=256)
def _compile(source: str) -> Any:
    return jq.compile(_NO_ENVIRONMENT + source)  # some 10 ms for the mappings of a webhook


@lru_cache(maxsize=4096)
def embed(expression: str) -> str:
    """Return the expression as part of a larger program, alone with its errors: it gives one value, null if it fails.

    It is compiled alone first, so that a broken one is null and can neither break nor see what is around it.
    """
    if _A_PATH(expression):
        return f"(try {expression} catch null)"  # gives one value; the array below costs as much again
    formatted = format_filter(expression)
    try:
        Program(formatted)
    except ValueError:
        return "null"
    return f"([try ({formatted}\n) catch null][0])"
