"""Every query that we send to Azure Resource Graph, built from typed values.

Each query projects a unique scalar `id` and orders by it last, because Resource Graph pages by offset and rows of
equal rank may otherwise come twice or never (learn.microsoft.com/azure/governance/resource-graph/concepts/
paging-results). Right sides of joins rename all their columns: after a join a bare `name` or `tags` would silently
be the left side's. Only operators of the documented subset are used (same site, concepts/query-language). Ids may
be given in any casing: Resource Graph compares them, because Python lower-cases some letters differently.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from azure_port_sync.core.kinds import RESOURCE_GROUP_TYPE, SUBSCRIPTION_TYPE
from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window

_CONTAINERS = f"where type in~ ('{SUBSCRIPTION_TYPE}', '{RESOURCE_GROUP_TYPE}')"
_ESCAPES = str.maketrans({"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


@dataclass(frozen=True)
class Query:
    """A query over one table; `str` gives its text. It may be about a part of the table only: one of `parts`."""

    table: str
    steps: tuple[str, ...]
    parts: int = 1
    part: int = 0

    def split(self, number: int) -> "list[Query]":
        """So many queries that together give the rows of this one, each row in one of them.

        A hash of the id of the table's row says in which, as Microsoft advises for data that moves between pages
        (learn.microsoft.com/azure/governance/resource-graph/concepts/paging-results). Kusto's `%` is never negative
        (learn.microsoft.com/kusto/query/numerical-operators). The parts of a part divide its own rows, because they
        are parts of a multiple of its number.
        """
        return [replace(self, parts=self.parts * number, part=self.part + self.parts * n) for n in range(number)]

    def __str__(self) -> str:
        of_part = [f"where hash(tolower(id)) % {self.parts} == {self.part}"] if self.parts > 1 else []
        return "\n| ".join([self.table, *of_part, *self.steps])


def literal(text: str) -> str:
    r"""A KQL string literal of any text.

    Escapes with a backslash: doubling the quote, as SQL does, would silently concatenate two literals
    (learn.microsoft.com/kusto/query/scalar-data-types/string).

    >>> print(literal("O'Brien\\x"))
    'O\'Brien\\x'
    """
    return f"'{text.translate(_ESCAPES)}'"


def instant(moment: datetime) -> str:
    """A KQL datetime literal, in UTC with microseconds."""
    return f"datetime({moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z)"


def containers(scope: Scope, ids: Sequence[str] | None = None) -> Query:
    """All subscriptions and resource groups, each with `inScope`; with `ids` only those."""
    return _pipe(
        "resourcecontainers",
        _CONTAINERS,
        _not_excluded(scope),
        _one_of("id", ids, operator="in~"),
        f"extend inScope = type =~ {literal(SUBSCRIPTION_TYPE)} or ({_tag_filter(scope, 'tags')})",
        "project id, name, type = tolower(type), location, tags, tenantId, inScope",
        "order by id asc",
    )


def readable(subscription_ids: Sequence[str] | None = None) -> Query:
    """The ids (lower-case) of the subscriptions that show their own row or a group of theirs; with ids only those."""
    return _pipe(
        "resourcecontainers",
        _CONTAINERS,
        _one_of("subscriptionId", subscription_ids, operator="in~"),
        "project id = tolower(subscriptionId)",
        "distinct id",
        "order by id asc",
    )


def resources(
    scope: Scope, *, groups: Sequence[tuple[str, str]] | None = None, ids: Sequence[str] | None = None
) -> Query:
    """The inventory: every resource in scope.

    `groups` (subscription id and name) or `ids` read a part of it. With `ids`, resources out of scope are shown as
    well, flagged.
    """
    return _pipe(
        "resources",
        _one_of("type", scope.resource_types or None, operator="in~"),
        _not_excluded(scope),
        _one_of("id", ids, operator="in~"),
        "extend groupKey = strcat(tolower(subscriptionId), '/', tolower(resourceGroup))",
        _one_of("groupKey", None if groups is None else [f"{sub}/{name}" for sub, name in groups], operator="in~"),
        f"project id, name, type = tolower(type), location, tags, groupKey{_extras(scope)}",
        _join_group_tags(),
        f"extend inScope = {_tag_filter(scope, 'rgTags')}",
        None if ids is not None else "where inScope",
        f"project id, name, type, location, tags, rgTags, inScope{_extra_names(scope)}",
        "order by id asc",
    )


def resource_changes(scope: Scope, window: Window, ids: Sequence[str] | None = None) -> Query:
    """The change records of the window, each with the current row of its resource and whether that is in scope.

    Records are read raw, because `summarize` is documented as simplified. Creates and updates of rows out of scope
    are dropped; Delete records and records without a row never are. `rowId` is empty where there is no row. With
    `ids`, the records of these resources alone, and all of them.
    """
    return _pipe(
        "resourcechanges",
        "extend targetId = tostring(properties.targetResourceId)",
        "extend targetType = tolower(tostring(properties.targetResourceType))",
        "extend changeType = tostring(properties.changeType)",
        "extend changeTime = todatetime(properties.changeAttributes.timestamp)",
        f"where changeTime > {instant(window.start)} and changeTime <= {instant(window.end)}",
        _one_of("targetType", scope.resource_types or None),
        _one_of("targetId", ids, operator="in~"),
        _not_excluded(scope),
        "extend groupKey = strcat(tolower(subscriptionId), '/', tolower(resourceGroup))",
        "project id, targetId, targetKey = tolower(targetId), targetType, changeType, changeTime, "
        "changedProperties = properties.changes, groupKey",
        "join kind=leftouter (resources"
        " | project rowKey = tolower(id), rowId = id, rowName = name, rowType = tolower(type),"
        f" rowLocation = location, rowTags = tags{_extras(scope)}"
        ") on $left.targetKey == $right.rowKey",
        _join_group_tags(),
        f"extend inScope = {_tag_filter(scope, 'rgTags')}",
        None if ids is not None else "where changeType =~ 'Delete' or isempty(rowId) or inScope",
        "project id, targetId, targetType, changeType, changeTime, changedProperties, "
        f"rowId, rowName, rowType, rowLocation, rowTags, rgTags, inScope{_extra_names(scope)}",
        "order by id asc",
    )


def _pipe(table: str, *steps: str | None) -> Query:
    return Query(table, tuple(step for step in steps if step is not None))


def _one_of(expression: str, values: Iterable[str] | None, *, operator: str = "in") -> str | None:
    """Keep the rows whose expression is one of the values; None keeps all, and no value keeps none."""
    if values is None:
        return None
    listed = ", ".join(map(literal, values))
    return f"where {expression} {operator} ({listed})" if listed else "where false"


def _not_excluded(scope: Scope) -> str | None:
    return _one_of("subscriptionId", scope.excluded_subscription_ids or None, operator="!in~")


def _join_group_tags() -> str:
    """Adds `rgTags`, the tags of the group that `groupKey` names."""
    return (
        f"join kind=leftouter (resourcecontainers | where type =~ {literal(RESOURCE_GROUP_TYPE)}"
        " | project containerKey = strcat(tolower(subscriptionId), '/', tolower(name)), rgTags = tags"
        ") on $left.groupKey == $right.containerKey"
    )


def _tag_filter(scope: Scope, column: str) -> str:
    """A boolean expression over a tags column.

    Keys are compared in lower case, because Azure ignores their case: letter by letter, as Kusto's `tolower` does it,
    while Python's `lower` looks at the word, and makes a `Σ` at its end a `ς`. Values are left to `=~`.
    """
    lowered = f"parse_json(tolower(tostring({column})))"

    def has(key: str, value: str) -> str:
        tag = f"{lowered}[{literal(''.join(letter.lower()[0] for letter in key))}]"
        return f"(isnotnull({tag}) and tostring({tag}) =~ {literal(value)})"

    terms = [has(key, value) for key, value in scope.include_tags]
    terms += [f"not{has(key, value)}" for key, value in scope.exclude_tags]
    return " and ".join(terms) or "true"


def _extras(scope: Scope) -> str:
    """The extra columns, renamed by position; the first segment is quoted because `kind` is a word of the language."""
    return "".join(f", extra{n} = {_column(path)}" for n, path in enumerate(scope.extra_columns))


def _column(path: str) -> str:
    first, *rest = path.split(".")
    return f"['{first}']" + "".join(f"[{literal(part)}]" for part in rest)


def _extra_names(scope: Scope) -> str:
    return "".join(f", extra{n}" for n in range(len(scope.extra_columns)))
