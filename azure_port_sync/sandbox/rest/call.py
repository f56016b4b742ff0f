"""A request to Port's REST API as its routes see it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from azure_port_sync.sandbox.port.answers import invalid, not_found
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


def known_blueprint(blueprints: Mapping[str, Json], call: Call) -> str:
    """Return the blueprint that the path of a call names."""
    blueprint = call.path["blueprint"]
    if blueprint not in blueprints:
        raise not_found(f"There is no blueprint {blueprint!r}")
    return blueprint
