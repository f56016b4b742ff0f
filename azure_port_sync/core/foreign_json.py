"""JSON that somebody else wrote, without what cannot be written again: in UTF-8, in JSON, or in a store."""

import json
import math
import re
from typing import Any

_HALF_A_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(body: bytes) -> Any:
    """Return the value of a body. Raises ValueError, which may carry the body, for what is no JSON.

    Half of a surrogate pair becomes U+FFFD, and a number that JSON has no word for becomes null.
    """
    text = body.decode("utf-8-sig", errors="replace")
    try:
        value = json.loads(text, parse_float=_finite, parse_constant=_finite, parse_int=_whole)
        if _HALF_A_PAIR.search(text):
            whole = json.dumps(value, ensure_ascii=False).encode("utf-16", errors="surrogatepass")
            value = json.loads(whole.decode("utf-16", errors="replace"))
    except RecursionError:
        raise ValueError("JSON that is nested without end") from None
    return value


def _finite(text: str) -> float | None:
    """Return a number; None for NaN and for what no double holds."""
    number = float(text)
    return number if math.isfinite(number) else None


def _whole(text: str) -> int | None:
    return None if _finite(text) is None else int(text)
