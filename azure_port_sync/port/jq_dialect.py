"""jq as Port evaluates it, so that a mapping which would fail at Port fails here too.

Port hands each expression to `@port-labs/jq-node-bindings`, which turns some single quotes into double quotes,
hides the environment, takes the first output only and answers `null` for every error
(github.com/port-labs/jq-node-bindings, `lib/jq.js`). Those four rules live here; everything else is stock jq.
"""

import json
import logging
import re
import threading
from functools import lru_cache
from typing import Any

import jq

from azure_port_sync.port.jq_process import ProgramProcess

logger = logging.getLogger(__name__)

_NO_ENVIRONMENT = "def env: {}; {} as $ENV |"
_SINGLE_QUOTE = re.compile(r"""(^|\s)'(?!\s|")|(?<!\s|")'(\s|$)""")


def format_filter(text: str) -> str:
    """The single-quote rule: a quote counts only between whitespace (or an end of the text) and a word.

    So `.a == 'x'` works at Port, and `select(.a == 'x')` or `.tags['env']` do not.
    """
    return _SINGLE_QUOTE.sub(lambda found: f'{found[1] or ""}"{found[2] or ""}', text)


#: How many texts a busy program takes itself before it starts its process: about as long as the start takes.
_MANY_TEXTS = 50

_A_PATH = re.compile(r"(\.[A-Za-z_]\w*)+", re.ASCII).fullmatch


class Program:
    """One compiled jq program. PyPI `jq` gives each thread that runs it a state of its own, so all may share it."""

    def __init__(self, source: str) -> None:
        self.source = _NO_ENVIRONMENT + source
        self._compiled = jq.compile(self.source)

    def first(self, text: str) -> Any:
        """The first output for the JSON in `text`, or None when there is none or the program fails."""
        try:
            return self._compiled.input_text(text).first()
        except (ValueError, StopIteration):
            return None


class BusyProgram(Program):
    """A program that moves into a process of its own when there is much to do, and has to be closed.

    For a few texts, as in most runs, starting the process takes longer than they do.
    """

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self._here = 0
        self._process: ProgramProcess | None = None
        self._lock = threading.Lock()

    def first(self, text: str) -> Any:
        """As Program says; here again when the process dies."""
        try:
            process = self._elsewhere()
            if process is not None:
                return process.first(text)
        except OSError as error:  # it cannot be started, or has been killed: the machine is short of memory
            logger.debug("no jq process (%s); going on without it", error)
        return super().first(text)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()

    def _elsewhere(self) -> ProgramProcess | None:
        with self._lock:
            self._here += 1
            if self._here == _MANY_TEXTS + 1:  # once: one that cannot be started is not tried for each text
                self._process = ProgramProcess(self.source)
            return self._process


@lru_cache(maxsize=4096)
def _compiled(expression: str) -> Program | None:
    try:
        return Program(format_filter(expression))
    except ValueError:
        return None


def evaluate(expression: str, value: object) -> Any:
    """What Port makes of one expression: its first output, and None for every error."""
    program = _compiled(expression)
    return None if program is None else program.first(json.dumps(value))


def embed(expression: str) -> str:
    """The expression as part of a larger program, alone with its errors: it gives one value, null if it fails.

    It is compiled alone first, so that a broken one is null and can neither break nor see what is around it.
    """
    if _A_PATH(expression):
        return f"(try {expression} catch null)"  # gives one value; the array below costs as much again
    if _compiled(expression) is None:
        return "null"
    return f"([try ({format_filter(expression)}\n) catch null][0])"
