"""A jq program in a process of its own: jq holds Python's lock, and so would hold up the requests in flight.

The two talk in lines: first the program, then one JSON text a line, each answered by the program's first output. This
file is also what runs in that process.
"""

import json
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import IO, Any, cast

import jq


class ProgramProcess:
    """One compiled jq program, run elsewhere. Safe to share between threads.

    Many texts may be on their way at once, so that the process never waits for a thread to fetch its answer.
    """

    def __init__(self, source: str) -> None:
        # In a session of its own: Ctrl-C is for the run, and this process ends when its input does.
        self._process = subprocess.Popen(  # noqa: S603  (our own file)
            [sys.executable, "-P", __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._input, self._output = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        self._lock = threading.Lock()
        self._asked: deque[Future[bytes]] = deque()
        self._ended = False
        self._write(json.dumps(source))
        self._reader = threading.Thread(target=self._read, name="jq", daemon=True)
        self._reader.start()

    def first(self, text: str) -> Any:
        """The first output for the JSON in `text`, or None. Raises BrokenPipeError when the process is gone."""
        answer: Future[bytes] = Future()
        with self._lock:
            if self._ended:
                raise BrokenPipeError("the jq process has ended")
            self._asked.append(answer)
            with suppress(BrokenPipeError):  # the reader sees the end too, and answers
                self._write(text)
        return json.loads(answer.result())

    def close(self) -> None:
        """End the process; nothing may be asked any more."""
        with suppress(BrokenPipeError):
            self._input.close()
        self._process.wait()
        self._reader.join()
        self._output.close()

    def _write(self, line: str) -> None:
        self._input.write(line.encode() + b"\n")
        self._input.flush()

    def _read(self) -> None:
        try:
            # An answer without its end is the last thing that a killed process has said.
            while (line := self._output.readline()).endswith(b"\n"):
                self._asked.popleft().set_result(line)
        finally:
            with self._lock:
                self._ended = True
                for answer in self._asked:
                    answer.set_exception(BrokenPipeError("the jq process has ended"))


def _serve() -> None:
    lines = sys.stdin.buffer  # UTF-8, whatever the locale
    compiled = jq.compile(json.loads(lines.readline()))
    for line in lines:
        try:
            output = compiled.input_text(line.decode()).first()
        except (ValueError, StopIteration):
            output = None
        sys.stdout.write(json.dumps(output) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
