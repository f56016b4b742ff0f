"""The queries that we send to Azure Resource Graph, built from typed values.

No query sorts, because no result is paged: what does not fit into one response is read as parts (`Query.split`). All
rows have the columns that `rows` reads; a change record has those of its resource's current row beside its own. The
two sides of a join share no column name: a bare `name` or `tags` would silently be the left side's. Only operators of
the documented subset are used (learn.microsoft.com/azure/governance/resource-graph/concepts/query-language).

Ids and names go into a query as Azure spells them, and Resource Graph compares them: Python and Kusto lower-case some
letters beyond ASCII differently, and what lower-cases the column `resourceGroup` is unknown. So the group of a row is
read from its id, whoever asks for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from azure_port_sync.core.kinds import CONTAINERS, KINDS, RESOURCE_GROUP_TYPE, SUBSCRIPTION_TYPE
from azure_port_sync.core.scope import Scope
from azure_port_sync.core.windows import Window

#: Whether a row lies by its other columns where it lies by its id.
_PLACED = "placed = groupPath =~ strcat(subscriptionId, '/resourceGroups/', resourceGroup)"
_ESCAPES = str.maketrans({"\\": r"\\", "'": r"\'", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


@dataclass(frozen=True)
class Query:
    """A query over one table; `str` gives its text.

    It may be about a part of the table only: one of `parts`, but for the rows of the ids in `left_out`.
    """

    table: str
    steps: tuple[str, ...]
    parts: int = 1
    part: int = 0
    left_out: tuple[str, ...] = ()

    def split(self, number: int) -> "list[Query]":
        """Return so many queries that together give the rows of this one, each row in one of them.

        A hash of the id of the table's row says in which, as Microsoft advises for data that changes while it is read
        (learn.microsoft.com/azure/governance/resource-graph/concepts/paging-results). Kusto's `%` is never negative
        (learn.microsoft.com/kusto/query/numerical-operators). The parts of a part divide its own rows, because they
        are parts of a multiple of its number.
        """
        return [replace(self, parts=self.parts * number, part=self.part + self.parts * n) for n in range(number)]

    def without(self, row_id: str) -> "Query":
        """Return the query without the rows of one id of its table."""
        return replace(self, left_out=(*self.left_out, row_id))

    def __str__(self) -> str:
        of_part = [f"where hash(tolower(id)) % {self.parts} == {self.part}"] if self.parts > 1 else []
        others = [f"where id !in~ ({', '.join(map(literal, self.left_out))})"] if self.left_out else []
        return "\n| ".join([self.table, *of_part, *others, *self.steps])


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
    """All containers (subscriptions, resource groups), each with `inScope`; with `ids` only those.

    Tags select resource groups, and no other container.
    """
    return _pipe(
        "resourcecontainers",
        _is_container(),
        _not_excluded(scope),
        _one_of("id", ids, operator="in~"),
        f"extend inScope = type !~ {literal(RESOURCE_GROUP_TYPE)} or ({_tag_filter(scope, 'tags')})",
        _group_of("id"),
        f"project id, name, type = tolower(type), location, tags, {_PLACED}, inScope",
    )


def readable(subscription_ids: Sequence[str] | None = None, *, whole: bool = False) -> Query:
    """The ids (lower-case) of the subscriptions that show any container, or (`whole`) their own row; of these ids."""
    return _pipe(
        "resourcecontainers",
        _one_of("type", [SUBSCRIPTION_TYPE], operator="in~") if whole else _is_container(),
        _one_of("subscriptionId", subscription_ids, operator="in~"),
        "project id = tolower(subscriptionId)",
        "distinct id",
    )


def resources(
    scope: Scope, *, groups: Sequence[tuple[str, str]] | None = None, ids: Sequence[str] | None = None
) -> Query:
    """The inventory: every resource in scope.

    `groups` (subscription id and name, as Azure spells it) or `ids` read a part of it. With `ids`, resources out of
    scope are shown as well, flagged.
    """
    named = None if groups is None else [f"{subscription}/resourceGroups/{name}" for subscription, name in groups]
    return _pipe(
        "resources",
        _one_of("type", scope.resource_types or None, operator="in~"),
        _not_excluded(scope),
        _one_of("id", ids, operator="in~"),
        _group_of("id"),
        _one_of("groupPath", named, operator="in~"),
        "project id, name, type = tolower(type), location, tags, groupKey = tolower(groupPath), "
        f"{_PLACED}{_extras(scope)}",
        _join_group_tags(),
        f"extend inScope = {_tag_filter(scope, 'rgTags')}",
        None if ids is not None else "where inScope",
        f"project id, name, type, location, tags, placed, rgTags, inScope{_extra_names(scope)}",
    )


def resource_changes(scope: Scope, window: Window, ids: Sequence[str] | None = None) -> Query:
    """The change records of the window, each with the current row of its resource and whether that is in scope.

    Records are read raw, because `summarize` is documented as simplified. Creates and updates of rows out of scope
    are dropped; Delete records and records without a row never are, and neither are records that name no type or no
    instant: the reader counts them as unreadable. `id` is empty where there is no row. With `ids`, the records of
    these resources alone, and all of them.
    """
    return _pipe(
        "resourcechanges",
        *_records(window, scope.resource_types),
        _one_of("targetId", ids, operator="in~"),
        _not_excluded(scope),
        _group_of("targetId"),
        "project recordId = id, targetId, targetKey = tolower(targetId), targetType, changeType, changeTime, "
        "changedProperties = properties.changes, groupKey = tolower(groupPath)",
        f"join kind=leftouter (resources | {_group_of('id')}"
        f" | project rowKey = tolower(id), id, name, type = tolower(type), location, tags, {_PLACED}{_extras(scope)}"
        ") on $left.targetKey == $right.rowKey",
        _join_group_tags(),
        f"extend inScope = {_tag_filter(scope, 'rgTags')}",
        None if ids is not None else "where changeType =~ 'Delete' or isempty(id) or inScope",
        "project recordId, targetId, targetType, changeType, changeTime, changedProperties, "
        f"id, name, type, location, tags, placed, rgTags, inScope{_extra_names(scope)}",
    )


def container_changes(scope: Scope, window: Window) -> Query:
    """The change records of subscriptions and resource groups of the window, whatever their tags, and without rows."""
    return _pipe(
        "resourcecontainerchanges",
        *_records(window, [KINDS[kind].arm_type for kind in CONTAINERS]),
        _not_excluded(scope),
        "project recordId = id, targetId, targetType, changeType, changeTime, changedProperties = properties.changes, "
        "id = ''",
    )


def _records(window: Window, types: Sequence[str]) -> list[str | None]:
    """The columns of change records, of the window and of these types (none: of all), or of no instant or no type."""
    of_types = _any_of("targetType", types or None)
    return [
        "extend targetId = tostring(properties.targetResourceId)",
        "extend targetType = tolower(tostring(properties.targetResourceType))",
        "extend changeType = tostring(properties.changeType)",
        "extend changeTime = todatetime(properties.changeAttributes.timestamp)",
        f"where isnull(changeTime) or (changeTime > {instant(window.start)} and changeTime <= {instant(window.end)})",
        of_types and f"where isempty(targetType) or {of_types}",
    ]


def _pipe(table: str, *steps: str | None) -> Query:
    return Query(table, tuple(step for step in steps if step is not None))


def _is_container() -> str | None:
    return _one_of("type", [KINDS[kind].arm_type for kind in CONTAINERS], operator="in~")


def _one_of(expression: str, values: Iterable[str] | None, *, operator: str = "in") -> str | None:
    """Keep the rows whose expression is one of the values; None keeps all, and no value keeps none."""
    condition = _any_of(expression, values, operator=operator)
    return condition and f"where {condition}"


def _any_of(expression: str, values: Iterable[str] | None, *, operator: str = "in") -> str | None:
    if values is None:
        return None
    listed = ", ".join(map(literal, values))
    return f"{expression} {operator} ({listed})" if listed else "false"


def _not_excluded(scope: Scope) -> str | None:
    return _one_of("subscriptionId", scope.excluded_subscription_ids or None, operator="!in~")


def _group_of(id_column: str) -> str:
    """Add `groupPath`: "subscription/resourceGroups/name" as this id spells it, or "" where it lies in no group."""
    return f"extend groupPath = extract('(?i)^/subscriptions/([^/]+/resourceGroups/[^/]+)', 1, {id_column})"


def _join_group_tags() -> str:
    """Add `rgTags`, the tags of the group that `groupKey` names."""
    return (
        f"join kind=leftouter (resourcecontainers | where type =~ {literal(RESOURCE_GROUP_TYPE)} | {_group_of('id')}"
        " | project containerKey = tolower(groupPath), rgTags = tags"
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
    """The extra columns, renamed by position; all segments are quoted because `kind` is a word of the language."""
    columns = ("".join(f"[{literal(part)}]" for part in path.split(".")) for path in scope.extra_columns)
    return "".join(f", extra{n} = {column}" for n, column in enumerate(columns))


def _extra_names(scope: Scope) -> str:
    return "".join(f", extra{n}" for n in range(len(scope.extra_columns)))
