"""The names of entities: Azure ids in, Port identifiers out, one to one but for space and underscore.

Azure compares ids without regard to case and lets resource providers spell them as they like, so identity is the
lower-cased id. Port accepts letters, digits and ``@_.+:\\/=-`` (Port's OpenAPI specification, entity identifier);
everything else is written as ``=hh``, one per UTF-8 byte, and ``=`` itself as ``=3d``, so that two ids never meet in
one identifier. The space is the exception: the guide's webhook mapping turns it into ``_`` itself.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

#: Port's limit for an entity identifier (Port's OpenAPI specification).
MAX_IDENTIFIER_LENGTH = 1000

#: The form of a subscription's id; Azure refuses a whole query that names one of another form.
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

_NOTHING_TO_ESCAPE = re.compile(r"[a-z0-9@_.+:\\/ -]*").fullmatch
_PLAIN_IDENTIFIER = re.compile(r"[a-z0-9@_.+:\\/=-]+").fullmatch
_SAFE = frozenset("0123456789@_.+:\\/- ")
_ESCAPES = re.compile(r"(?:=[0-9a-f]{2})+")
_CONTAINERS_IN_ID = re.compile(r"/subscriptions/([^/]+)(?:/resourcegroups/([^/]+))?", re.IGNORECASE)


def target_name(tenant_id: str, destination: str) -> str:
    """Return the name of a (tenant, Port destination) pair in the state; the destination may be secret."""
    name = hashlib.blake2b(f"{tenant_id.lower()}\n{destination}".encode(), key=b"azure_port_sync", digest_size=16)
    return name.hexdigest()


def escape(text: str) -> str:
    """Return `text` lower-cased, with what Port's identifiers refuse written as ``=hh``; spaces stay.

    >>> escape("/x/RG (old)")
    '/x/rg =28old=29'
    """
    lowered = text.lower()
    if _NOTHING_TO_ESCAPE(lowered):
        return lowered
    return "".join(c if _is_legal(c) else "".join(f"={b:02x}" for b in c.encode()) for c in lowered)


def port_identifier(escaped: str) -> str:
    """Return the identifier that Port stores for an escaped id: the guide's mapping makes each space a ``_``."""
    return escaped.replace(" ", "_")


def azure_id_of(identifier: str, title: str | None) -> str:
    """Return the Azure id that an entity of Port was made from.

    The mapping made ``_`` of spaces; the entity's title, which is the resource's name in Azure's spelling, tells them
    apart in the last segment. In the segments before it they stay ``_``, and letters stay lower-case: such an id still
    leads to the same identifier. An identifier that was not made from an Azure id (a person can add entities) is
    returned as it is.

    >>> azure_id_of("/subscriptions/a/resourcegroups/rg_=28old=29/providers/p/t/my_app", "My App")
    '/subscriptions/a/resourcegroups/rg_(old)/providers/p/t/My App'
    >>> azure_id_of("My-Thing", "My Thing")
    'My-Thing'
    """

    def unescaped(found: re.Match[str]) -> str:
        return bytes.fromhex(found[0].replace("=", "")).decode(errors="replace")

    azure_id = _ESCAPES.sub(unescaped, identifier)
    if not (identifier.startswith("/") and _is_made_from(azure_id, identifier)):
        return identifier
    named = f"{azure_id.rpartition('/')[0]}/{title}"
    return named if title and _is_made_from(named, identifier) else azure_id


def _is_made_from(azure_id: str, identifier: str) -> bool:
    try:
        return port_identifier(escape(azure_id)) == identifier
    except UnicodeEncodeError:  # half of a character, which JSON can carry
        return False


def group_id_of(azure_id: str) -> str:
    """Return the id of the resource group that an id lies in, in the id's spelling; "" where it lies in none.

    >>> group_id_of("/subscriptions/A1/resourceGroups/Web/providers/Microsoft.Web/sites/x")
    '/subscriptions/A1/resourceGroups/Web'
    """
    found = _CONTAINERS_IN_ID.match(azure_id)
    return found[0] if found and found[2] else ""


def _is_legal(character: str) -> bool:
    return character in _SAFE or unicodedata.category(character).startswith("L")


def illegal_identifiers(identifiers: Iterable[str]) -> list[str]:
    """Return the identifiers that Port would refuse: too long, or with a character outside its set."""
    return [
        text
        for text in identifiers
        if len(text) > MAX_IDENTIFIER_LENGTH
        or not (_PLAIN_IDENTIFIER(text) or all((_is_legal(c) and c != " ") or c == "=" for c in text))
    ]


def containers_of(azure_id: str) -> tuple[str, str]:
    """Return the subscription and the resource group that an id lies in, lower-cased; "" where it lies in none.

    >>> containers_of("/subscriptions/A1/resourceGroups/Web/providers/Microsoft.Web/sites/x")
    ('a1', 'web')
    """
    found = _CONTAINERS_IN_ID.match(azure_id)
    return (found[1].lower(), (found[2] or "").lower()) if found else ("", "")
