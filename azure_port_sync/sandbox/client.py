"""The control API in Python: how tests and the launcher change the tenant, move the clock and order faults.

It speaks HTTP to a sandbox in this process or another, and takes nothing from it but the shape of a fault.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

import requests

from azure_port_sync.sandbox.faults import Fault

Json = dict[str, Any]
_TIMEOUT_SECONDS = 60


class SandboxError(Exception):
    """The sandbox refused what was asked of it; the message is its own."""


class SandboxClient:
    """A running sandbox, from outside."""

    def __init__(self, base_url: str) -> None:
        self.url = base_url.rstrip("/")
        self._session = requests.Session()
        # A proxy of the machine has no business on loopback, and neither has the sandbox's CA bundle.
        self._session.trust_env = False

    def close(self) -> None:
        """Let the connections go."""
        self._session.close()

    def __enter__(self) -> "SandboxClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tenant(self, verb: str, **arguments: Any) -> Any:
        """Change the tenant by one of its verbs."""
        return self._ask("POST", f"tenant/{verb}", arguments)

    def play(self) -> list[str]:
        """Make a few changes of every kind, and return them in sentences."""
        return list(self._ask("POST", "play"))

    def drift(self) -> str:
        """Make one random change, and return it in a sentence."""
        return str(self._ask("POST", "drift"))

    def set_clock(self, instant: datetime) -> datetime:
        """Freeze the clock."""
        return self._clock({"instant": instant.isoformat()})

    def advance_clock(self, seconds: float) -> datetime:
        """Move the clock, frozen or running."""
        return self._clock({"advance_seconds": seconds})

    def resume_clock(self) -> datetime:
        """Let the clock run on from where it stands."""
        return self._clock({"resume": True})

    def fault(self, fault: Fault) -> None:
        """Order a fault."""
        self._ask("POST", "faults", asdict(fault))

    def faults(self) -> list[Fault]:
        """The faults in force, with how often each has been seen and has fired."""
        return [Fault(**one) for one in self.state()["faults"]]

    def clear_faults(self) -> None:
        """End all faults."""
        self._ask("DELETE", "faults")

    def count_only(self, on: bool = True) -> None:
        """Acknowledge and count events, and the API's upserts and deletes, without mapping or storing them."""
        self._ask("POST", "port", {"count_only": on})

    def throttle(self, limit: int, window_seconds: float, *, retry_after: bool = True) -> None:
        """Answer 429 beyond so many requests in a window of the sandbox's clock."""
        throttle = {"limit": limit, "window_seconds": window_seconds, "retry_after": retry_after}
        self._ask("POST", "port", {"throttle": throttle})

    def lift_throttle(self) -> None:
        """Lift the limit again."""
        self._ask("POST", "port", {"throttle": None})

    def throttle_api(
        self, limit: int, window_seconds: float, *, retry_after: bool = True, burst: int | None = None
    ) -> None:
        """The same for Port's REST API, and if given never more than `burst` at once."""
        throttle = {"limit": limit, "window_seconds": window_seconds, "retry_after": retry_after, "burst": burst}
        self._ask("POST", "port", {"api_throttle": throttle})

    def lift_api_throttle(self) -> None:
        """Go back to the published limits."""
        self._ask("POST", "port", {"api_throttle": None})

    def put_entity(
        self,
        blueprint: str,
        identifier: str,
        title: str | None = None,
        properties: Json | None = None,
        relations: Json | None = None,
    ) -> None:
        """Add an entity as a person does in Port's own pages, or put this in the place of the one there is."""
        entity = {"identifier": identifier, "title": title, "properties": properties, "relations": relations}
        self._ask("PUT", f"entities/{blueprint}", entity)

    def delete_entity(self, blueprint: str, identifier: str) -> None:
        """Delete an entity as a person does in Port's own pages, without its dependents."""
        self._ask("DELETE", f"entities/{blueprint}", {"identifier": identifier})

    def quota(self, limit: int | None, *, retry_after: bool = True) -> None:
        """Resource Graph's requests per 5 seconds (None: no limit), and whether its 429 says how long to wait."""
        self._ask("POST", "azure", {"quota": limit, "retry_after": retry_after})

    def churn(self, seconds: float | None = None) -> None:
        """Have a resource come or go for every so many seconds of the clock, or with each request to Resource Graph."""
        self._ask("POST", "churn", {"seconds": seconds})

    def stop_churn(self) -> None:
        """Let nothing come or go any more."""
        self._ask("DELETE", "churn")

    def state(self) -> Json:
        """Addresses, clock, counts of tenant and catalog, counters, faults."""
        return dict(self._ask("GET", "state"))

    def environment(self) -> dict[str, str]:
        """The settings with which the product works against this sandbox."""
        return dict(self._ask("GET", "environment"))

    def api_environment(self) -> dict[str, str]:
        """The further settings with which the product also asks Port's REST API."""
        return dict(self._ask("GET", "api-environment"))

    def comparison(
        self,
        include: Mapping[str, str] | None = None,
        exclude: Mapping[str, str] | None = None,
        resource_types: Sequence[str] | None = None,
    ) -> Json:
        """Return whether the catalog equals the tenant within this scope, and the differences."""
        scope = {"include": include, "exclude": exclude, "resource_types": resource_types}
        query = {name: json.dumps(value) for name, value in scope.items() if value is not None}
        return dict(self._ask("GET", "comparison", query=query))

    def entities(self, blueprint: str) -> dict[str, Json]:
        """The catalog's entities of one blueprint, by identifier."""
        return {entity["identifier"]: entity for entity in self._ask("GET", f"entities/{blueprint}")}

    def failures(self) -> list[Json]:
        """The audit log: what Port accepted and did not write, oldest first."""
        return list(self._ask("GET", "failures"))

    def _clock(self, command: Json) -> datetime:
        return datetime.fromisoformat(self._ask("POST", "clock", command))

    def _ask(self, method: str, path: str, body: Json | None = None, query: Mapping[str, str] | None = None) -> Any:
        answer = self._session.request(
            method, f"{self.url}/control/{path}", json=body, params=query, timeout=_TIMEOUT_SECONDS
        )
        if answer.status_code == 400:
            raise SandboxError(answer.json()["error"])
        answer.raise_for_status()
        return answer.json()
