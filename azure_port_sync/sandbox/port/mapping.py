"""A webhook's mapping as Port evaluates it: which entities become of an event.

The product evaluates mappings too. This is another evaluator on purpose, written from what Port and its library say and
not from the product's code, so that a rule that one of them has wrong shows as a difference between the two. Sources:
docs.port.io (custom integration: webhook) for mappings, github.com/port-labs/jq-node-bindings (`lib/jq.js`) for the
dialect of jq.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import jq

Json = dict[str, Any]

#: Port reads so many items of a batch and drops the rest silently.
MAX_ITEMS = 500

_SINGLE_QUOTE = re.compile(r"""(^|\s)'(?!\s|")|(?<![\s"])'(\s|$)""")
_NO_ENVIRONMENT = "def env: {}; {} as $ENV | "


def requoted(expression: str) -> str:
    """Return `expression` with double quotes for the single quotes that Port turns into such before it compiles."""
    return _SINGLE_QUOTE.sub(r'\1"\2', expression)


@lru_cache(maxsize=4096)
def _as_one_value(expression: str) -> str:
    """Return jq that gives the first output of `expression` on `$context`, and null where there is none or an error.

    An expression that is no jq by itself is null: as a part of this it could close a parenthesis that it never opened.
    """
    given = requoted(expression)
    try:
        jq.compile(_NO_ENVIRONMENT + given)
    except ValueError:
        return "null"
    return f"[try first($context | ({given}\n)) catch null][0]"


@lru_cache(maxsize=4096)
def _program(expressions: tuple[str, ...]) -> Any:
    """Return a program that gives the values of `expressions`, as a list, in each context of a list."""
    values = ", ".join(map(_as_one_value, expressions))
    return jq.compile(f"{_NO_ENVIRONMENT} .event as $event | [.own[] | ($event + .) as $context | [{values}]]")


def evaluate(expressions: Sequence[str], event: str, own: Sequence[Json]) -> list[list[Any]]:
    """Return the values of all `expressions` in each context, which is the event with one of `own` besides.

    `event` is the JSON text ``{"body": ..., "headers": ..., "queryParams": ...}``.
    """
    values: list[list[Any]] = (
        _program(tuple(expressions)).input_text(f'{{"event": {event}, "own": {json.dumps(own)}}}').first()
    )
    return values


@dataclass(frozen=True)
class Target:
    """The blueprint of a mapping's records, and the operation; with `dependents` a delete takes those along."""

    blueprint: str
    operation: Literal["create", "delete"]
    dependents: bool


class Mappings:
    """All mappings of a webhook."""

    def __init__(self, mappings: Sequence[Json]) -> None:
        self.targets = [target_of(mapping) for mapping in mappings]
        self._mappings = mappings
        self._filters: dict[str, dict[int, str]] = {}  # by what parses items, by the number of the mapping
        for number, mapping in enumerate(mappings):
            self._filters.setdefault(mapping.get("itemsToParse", ""), {})[number] = mapping.get("filter", "true")

    def records(self, event: str) -> Iterator[tuple[Target, Json]]:
        """Yield an event's records, in the order of the mappings: ``{identifier, title, properties, relations}``."""
        passed: dict[int, list[Json]] = {}
        for items, filters in self._filters.items():
            own = _items_of(items, event)
            rows = evaluate(list(filters.values()), event, own)
            for position, number in enumerate(filters):
                passed[number] = [one for one, passes in zip(own, rows, strict=True) if passes[position] is True]
        for number, target in enumerate(self.targets):
            if passed[number]:
                for record in _entities(self._mappings[number]["entity"], event, passed[number]):
                    yield target, record


def target_of(mapping: Json) -> Target:
    """Return the target of one mapping; a delete takes dependents along unless the mapping says otherwise."""
    operation = mapping.get("operation", "create")
    if isinstance(operation, str):
        operation = {"type": operation}
    return Target(mapping["blueprint"], operation["type"], operation.get("deleteDependents", True))


def _items_of(items: str, event: str) -> list[Json]:
    """Return the part of each context beside the event: an item where a mapping parses items, otherwise nothing."""
    if not items:
        return [{}]
    ((found,),) = evaluate([items], event, [{}])
    return [{"item": item} for item in found[:MAX_ITEMS]] if isinstance(found, list) else []


def _entities(entity: Json, event: str, own: Sequence[Json]) -> Iterator[Json]:
    texts = {name: entity[name] for name in ("identifier", "title") if name in entity}
    properties, relations = entity.get("properties", {}), entity.get("relations", {})
    for row in evaluate([*texts.values(), *properties.values(), *relations.values()], event, own):
        values = iter(row)  # each zip takes as many as it has names
        yield {
            **dict(zip(texts, values, strict=False)),
            "properties": dict(zip(properties, values, strict=False)),
            "relations": dict(zip(relations, values, strict=False)),
        }
