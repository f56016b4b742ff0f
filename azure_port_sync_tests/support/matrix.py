"""The fault matrix as data: what may go wrong on the way to Port, and what must come of it with each sink.

A cell is one of four: "delivered" (the catalog is right and the watermark has moved), "quarantined" (so it is but for
one item, which is in quarantine with its reason), "fails: <sentence>" (nothing is lost: the watermark stays, the run
says so in this sentence, and one more run makes the catalog right), or "n/a: <reason>".
"""

import re
from collections.abc import Mapping
from typing import Any

SINKS = ("webhook", "webhook_batch", "api")

_REFUSAL = {"ok": False, "error": "no", "message": "no"}
_NOT_PORTS, _PAGE = "400, and not in Port's JSON", "403 with a web page"

#: How each fault is ordered from the sandbox; for those that are empty, the sink is sent elsewhere.
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "400": {"status": 400, "body": _REFUSAL},
    _NOT_PORTS: {"status": 400, "body": "no"},
    "401": {"status": 401, "body": _REFUSAL},
    "403": {"status": 403, "body": _REFUSAL},
    _PAGE: {"status": 403, "body": "<html>no</html>"},
    **{str(status): {"status": status, "body": _REFUSAL} for status in (404, 407, 408, 409, 410, 413, 422)},
    "429 with Retry-After": {"status": 429, "headers": {"Retry-After": "40"}},
    "429 without": {"status": 429},
    **{str(status): {"status": status} for status in (500, 502, 503, 504, 520)},
    "connection refused": {},
    "reset": {"kind": "reset"},
    "reset mid-body": {"kind": "reset_mid_body"},
    "time-out": {"kind": "hang"},
    "slow drip": {"kind": "drip", "drip_seconds": 5, "drip_bytes": 5},
    "acknowledgement lost": {"kind": "lost"},
    "TLS failure": {},
    "invalid JSON answer": {"kind": "invalid_json"},
}

KINDS: Mapping[str, str] = {
    "once": "The first request meets the fault, and no other.",
    "always": "Every request meets the fault, until the run has ended.",
    "poison": "Every request that holds one certain item, a resource group, meets the fault; no other does.",
}

#: PORT_DELIVERY_DEADLINE_MINUTES: few, so that there are few requests to wait for.
MINUTES = 4

#: What stands for this item in the sentences below.
POISON = "…/resourceGroups/poisonous"

Row = tuple[str, str, str]
Key = tuple[str, str, str]  # kind, fault, sink

_DELIVERED, _QUARANTINED = "delivered", "quarantined"


def _all(cell: str) -> Row:
    return (cell, cell, cell)


def _webhooks(cell: str, api: str) -> Row:
    return (cell, cell, api)


def _away(reason: str) -> str:
    return (
        f"fails: Port accepted nothing for {MINUTES} minutes (PORT_DELIVERY_DEADLINE_MINUTES): {reason}. The "
        "watermark stays where it is, and the next run delivers what is missing."
    )


def _stuck(reason: str) -> str:
    return (
        f"fails: Port kept failing at n of m deliveries and took the others; the first is {POISON}: {reason}. The "
        "watermark stays where it is; the next run tries them again, and the third run in a row puts them into "
        "quarantine."
    )


def _refused(status: int) -> str:
    return (
        f"fails: Port refused n of m deliveries, the last one saying: Port answered {status}: no. So many are a "
        "mistake in the set-up and not in the entities: check the blueprints and the webhook's mapping in Port (the "
        "job port_setup does) and launch again. Nothing was put into quarantine."
    )


_SIGNATURE = (
    "fails: Port's webhook answered 401: it refused the signature: check PORT_WEBHOOK_SECRET against the webhook's "
    "security settings in Port."
)
_REFUSES = (
    "fails: Port's webhook answered 403: it refused the request: check PORT_WEBHOOK_SECRET against the webhook's "
    "security settings in Port."
)
_NO_WEBHOOK = "fails: Port's webhook answered 404: there is no such webhook: check PORT_WEBHOOK_INGEST_URL."
_GONE = "fails: Port's webhook answered 410: the webhook is gone: check PORT_WEBHOOK_INGEST_URL."
_NO_TOKEN = (
    "fails: Port's API answered 401 to an access token that it had just given out: check that PORT_BASE_URL is the "
    "API of the account that PORT_CLIENT_ID belongs to."
)
_NOT_ALLOWED = (
    "fails: Port's API answered 403: PORT_CLIENT_ID may not write entities of azureCloudResources. Use the credentials "
    "of a user who may, or of an admin."
)
_NO_BLUEPRINT = (
    "fails: Port has no blueprint azureCloudResources: launch the job port_setup, or check that PORT_CLIENT_ID belongs "
    "to the account that is meant."
)
_NO_API = (
    "fails: Port's API could not be used for 5 minutes: there is no connection to it, or it breaks before the answer. "
    "Check the network and PORT_BASE_URL; the next run tries again."
)
_CERTIFICATE = (
    "fails: Port's certificate was not accepted. Behind a private certificate authority, name its file in "
    "REQUESTS_CA_BUNDLE."
)


def _not_from_port(what: str, remedy: str) -> Row:
    settings = ("PORT_WEBHOOK_INGEST_URL", "PORT_WEBHOOK_INGEST_URL", "PORT_BASE_URL")
    webhook, batch, api = (f"it answered {what}: check {setting}, {remedy}" for setting in settings)
    return (webhook, batch, api)


_LET_THROUGH = "and that every proxy or firewall on the way lets requests through to it"
_IN_PLACE = "and whether a proxy or firewall on the way answers in Port's place"
_PROXY_ASKS = "a proxy on the way asks for a user name and password (407): put them into HTTPS_PROXY"

#: The troubles that pass, with the words for each.
_PASSING: Mapping[str, Row] = {
    **{status: _all(f"it answered {status}") for status in ("408", "409", "500", "502", "503", "504", "520")},
    **dict.fromkeys(
        ("reset", "acknowledgement lost"), _all("there is no connection to it, or it breaks before the answer")
    ),
    "reset mid-body": _all("its answer breaks off"),
    "time-out": _all("it did not answer in time"),
    "slow drip": _all("its answer came too slowly"),
    "invalid JSON answer": _not_from_port("200 with a web page, which is not from Port", _LET_THROUGH),
    _PAGE: _not_from_port("403 with a web page, which is not from Port", _LET_THROUGH),
    _NOT_PORTS: _not_from_port("400 with something that is not Port's JSON", _IN_PLACE),
}

_ONCE: Mapping[str, Row] = {
    **dict.fromkeys(("400", "413", "422"), (_QUARANTINED, _DELIVERED, _DELIVERED)),
    "401": _webhooks(_SIGNATURE, _DELIVERED),
    "403": _webhooks(_REFUSES, _NOT_ALLOWED),
    "404": _webhooks(_NO_WEBHOOK, _NO_BLUEPRINT),
    "410": _webhooks(_GONE, _DELIVERED),
    **dict.fromkeys(("407", "429 with Retry-After", "429 without", "connection refused"), _all(_DELIVERED)),
    **dict.fromkeys(_PASSING, _all(_DELIVERED)),
    "TLS failure": _all("n/a: a certificate is not wrong once"),
}

_ALWAYS: Mapping[str, Row] = {
    **{str(status): _all(_refused(status)) for status in (400, 413, 422)},
    "401": _webhooks(_SIGNATURE, _NO_TOKEN),
    "403": _webhooks(_REFUSES, _NOT_ALLOWED),
    "404": _webhooks(_NO_WEBHOOK, _NO_BLUEPRINT),
    "410": _webhooks(_GONE, _refused(410)),
    "407": _all(_away(_PROXY_ASKS)),
    **dict.fromkeys(("429 with Retry-After", "429 without"), _all(_away("it answered 429"))),
    "connection refused": _webhooks(_away(_PASSING["reset"][0]), _NO_API),
    **{fault: (_away(first), _away(second), _away(third)) for fault, (first, second, third) in _PASSING.items()},
    "TLS failure": _all(_CERTIFICATE),
}

_NOT_OF_AN_ITEM = "n/a: it is about the settings, whatever is sent"
_NOT_OF_PORT = "n/a: it is about the proxy, whatever is sent"
_TOO_MANY = "n/a: it is about how many requests there are, whatever is in them"

_POISON: Mapping[str, Row] = {
    **dict.fromkeys(("400", "413", "422"), _all(_QUARANTINED)),
    **dict.fromkeys(("401", "403", "404"), _all(_NOT_OF_AN_ITEM)),
    "407": _all(_NOT_OF_PORT),
    "410": _webhooks(_NOT_OF_AN_ITEM, _QUARANTINED),
    **dict.fromkeys(("429 with Retry-After", "429 without"), _all(_TOO_MANY)),
    **dict.fromkeys(("connection refused", "TLS failure"), _all("n/a: it comes before anything is sent")),
    **{fault: (_stuck(first), _stuck(second), _stuck(third)) for fault, (first, second, third) in _PASSING.items()},
}

EXPECTED: Mapping[Key, str] = {
    (kind, fault, sink): rows[fault][position]
    for kind, rows in (("once", _ONCE), ("always", _ALWAYS), ("poison", _POISON))
    for fault in FAULTS
    for position, sink in enumerate(SINKS)
}

#: The cells that can happen.
CELLS = [key for key, cell in EXPECTED.items() if not cell.startswith("n/a: ")]

_COUNTS = re.compile(r"\d[\d,]* of \d[\d,]*(?= deliveries)")
_PREFIX = re.compile(r"/subscriptions/[0-9a-f-]{36}(?=/)")


def plain(sentence: str) -> str:
    """Return a sentence without what differs from run to run: how far the threads came, and the ids of the tenant."""
    return _PREFIX.sub("…", _COUNTS.sub("n of m", sentence))


# -- docs/fault-matrix.md ----------------------------------------------------------------------------------------------

_INTRODUCTION = f"""\
# What a fault on the way to Port does

`make matrix` wrote this page from what happened: each cell is one delivery over HTTP to the sandbox, with each of the
three ways to deliver (`PORT_DELIVERY`), of a change set that has something in all six phases. The deadline
(`PORT_DELIVERY_DEADLINE_MINUTES`) was {MINUTES} minutes. Statuses up to 422 come with Port's own JSON, unless the fault
says otherwise.

- **delivered**: the catalog is right, and the watermark has moved.
- **quarantined**: the one item that Port refused is in quarantine with its reason; all others are delivered, and the
  watermark has moved.
- **fails**: the run fails with the sentence of that number. Nothing is lost: the watermark stays, and the next run made
  the catalog right, with no fault any more.
- **n/a**: this cannot happen, or not in a way of its own.
"""


def rendered(happened: Mapping[Key, str]) -> str:
    """Return the page, from what happened in each cell that can happen."""
    numbers: dict[str, int] = {}
    parts = [_INTRODUCTION]
    for kind, meaning in KINDS.items():
        parts += [
            f"\n## {kind.capitalize()}\n\n{meaning}\n\n",
            _line("fault", *SINKS),
            "|---" * (len(SINKS) + 1) + "|\n",
        ]
        for fault in FAULTS:
            keys = [(kind, fault, sink) for sink in SINKS]
            parts.append(_line(fault, *(_shown(_cell(key, happened), numbers) for key in keys)))
    parts.append("\n## The sentences\n\n")
    parts.append("n of m stands for the numbers, … for the subscription.\n\n")
    parts += [f"{number}. {sentence}\n" for sentence, number in numbers.items()]
    return "".join(parts)


def _cell(key: Key, happened: Mapping[Key, str]) -> str:
    return happened.get(key, "did not run") if key in CELLS else EXPECTED[key]


def _shown(cell: str, numbers: dict[str, int]) -> str:
    outcome, _, sentence = cell.partition(": ")
    if outcome != "fails":
        return cell
    return f"fails ({numbers.setdefault(sentence, len(numbers) + 1)})"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |\n"
