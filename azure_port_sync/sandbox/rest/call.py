"""A route of Port's REST API, and a request as it sees it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from azure_port_sync.sandbox.port.answers import Answer, invalid, not_found
from azure_port_sync.sandbox.port.entity import Json


@dataclass(frozen=True)
class Call:
    """One request to a route: what its path, its query and its body say."""

    body: bytes = b""
    authorization: str = ""
    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    def flag(self, name: str, *, needed: bool = False) -> bool:
        """Return a query parameter that is true or false."""
        if needed and name not in self.query:
            raise invalid(f"the query must have {name}")
        value = self.query.get(name, "false")
        if value not in ("true", "false"):
            raise invalid(f"{name} is true or false")
        return value == "true"


class RestRoute(NamedTuple):
    """One route: the name by which its requests are counted, its address, its limit, and what answers it."""

    name: str
    method: str
    path: str
    throttle: str
    answer: Callable[[Call], Answer]


def known_blueprint(blueprints: Mapping[str, Json], call: Call) -> str:
    """Return the blueprint that the path of a call names."""
    blueprint = call.path["blueprint"]
    if blueprint not in blueprints:
        raise not_found(f"There is no blueprint {blueprint!r}")
    return blueprint
