"""The ways a run can fail that a person can fix: one sentence each, naming the setting and the remedy.

Failures are classified where they enter (settings, Azure, Port, state) and are never re-interpreted further up; a
run shows the sentence as it is. Anything that is not a `SyncError` is a defect and keeps its traceback.
"""

import re
from collections.abc import Iterable

#: A JSON Web Token, which a bearer token of Azure's or Port's is, or a part of one (RFC 7519: `{"` in base64).
_TOKEN = re.compile(r"eyJ[\w.-]{20,}")

#: Look-alikes of the characters that mean something in Markdown, in HTML and in a chat.
_INERT = str.maketrans("<>[]`|", "‹›()'¦")


def one_line(text: str, longest: int, secrets: Iterable[str] = ()) -> str:
    """Return somebody else's words on one line of bounded length, without credentials, and as mere text.

    They end up in logs, in Markdown and in alerts, where a channel takes `<!channel>` for a call to everybody.
    They may repeat a request, with the token in it, and those `secrets` that it has.
    """
    for secret in filter(None, secrets):
        text = text.replace(secret, "(secret)")
    line = " ".join(_TOKEN.sub("(secret)", text)[: 20 * longest].split()).rstrip(".")[:longest]
    return "".join(one for one in line if one.isprintable()).translate(_INERT)


class SyncError(Exception):
    """A failure whose text is meant for the person who runs the sync."""


class SettingsError(SyncError):
    """A setting is missing, malformed or contradicts another one."""


class AzureError(SyncError):
    """Azure refused to answer, or its answer cannot be trusted."""


class PortError(SyncError):
    """Port refused a delivery, or could not be reached."""


class StateError(SyncError):
    """The state store cannot be used, or is not the one that this run planned from."""
