"""Access: the subscriptions and groups that the principal can read, and those of them that a request looks at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scope:
    """The scope of a request: these subscriptions, all below these management groups, or (neither) everything."""

    subscriptions: tuple[str, ...] | None = None
    management_groups: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Access:
    """The readable part of a subscription, and the management groups above it (lower-cased, nearest first)."""

    management_groups: tuple[str, ...]
    readable: bool = True
    only_group: str | None = None


#: Of each subscription, by its lower-cased id.
Accesses = Mapping[str, Access]


def readable_subscriptions(accesses: Accesses, scope: Scope) -> frozenset[str]:
    """Return the subscriptions of `scope` of which anything can be read."""
    return frozenset(sub for sub, access in _in_scope(accesses, scope) if access.readable)


def condition(accesses: Accesses, scope: Scope) -> str:
    """Return the SQL condition of the rows and records of `scope` that can be read."""
    readable = [(sub, access) for sub, access in _in_scope(accesses, scope) if access.readable]
    whole = [sub for sub, access in readable if access.only_group is None]
    if scope == Scope() and len(whole) == len(accesses):
        return "true"
    parts = [
        among("sub", whole),
        among("grp", [access.only_group for _, access in readable if access.only_group is not None]),
    ]
    if scope.subscriptions is None:
        parts.append(_management_groups_below(scope))
    return f"({' OR '.join(parts)})"


def _in_scope(accesses: Accesses, scope: Scope) -> Iterator[tuple[str, Access]]:
    if scope.subscriptions is not None:
        wanted = {sub.lower() for sub in scope.subscriptions}
        yield from ((sub, accesses[sub]) for sub in wanted & accesses.keys())
    elif scope.management_groups is not None:
        above = {group.lower() for group in scope.management_groups}
        yield from (item for item in accesses.items() if above & set(item[1].management_groups))
    else:
        yield from accesses.items()


def _management_groups_below(scope: Scope) -> str:
    """Return the condition of the rows of management groups, which lie in no subscription."""
    if scope.management_groups is None:
        return "sub = ''"
    return (
        f"sub = '' AND ({among('lower(name)', [group.lower() for group in scope.management_groups])} OR "
        "list_has_any(CAST(lower(CAST(json_extract(properties, "
        "'$.details.managementGroupAncestorsChain[*].name') AS VARCHAR)) AS VARCHAR[]), "
        f"[{', '.join(_quoted(group.lower()) for group in scope.management_groups)}]))"
    )


def among(column: str, values: Iterable[str]) -> str:
    """Return the SQL condition that `column` is one of `values`."""
    listed = ", ".join(map(_quoted, values))
    return f"{column} IN ({listed})" if listed else "false"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
