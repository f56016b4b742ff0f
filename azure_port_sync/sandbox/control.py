"""The control API: what tests and the launcher do to a running sandbox, and ask of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.routing import Route

from azure_port_sync.sandbox.estate import drift, play
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port.entity import Json, iso
from azure_port_sync.sandbox.port.limits import Throttle
from azure_port_sync.sandbox.serving import endpoint_of
from azure_port_sync.sandbox.tenant import VERBS

if TYPE_CHECKING:
    from azure_port_sync.sandbox.server import Sandbox


class Control:
    """Does to a sandbox what a request says."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[Route]:
        """Return the routes of the control API."""
        sandbox, faults, catalog = self._sandbox, self._sandbox.faults, self._sandbox.port.catalog
        return [
            Route("/tenant/{verb}", endpoint_of(self.change), methods=["POST"]),
            Route("/play", endpoint_of(lambda: play(sandbox.tenant)), methods=["POST"]),
            Route("/drift", endpoint_of(lambda: drift(sandbox.tenant, sandbox.rng)), methods=["POST"]),
            Route("/clock", endpoint_of(self.set_clock), methods=["POST"]),
            Route("/faults", endpoint_of(lambda **fault: faults.add(Fault(**fault))), methods=["POST"]),
            Route("/faults", endpoint_of(faults.clear), methods=["DELETE"]),
            Route("/churn", endpoint_of(sandbox.churn.start), methods=["POST"]),
            Route("/churn", endpoint_of(sandbox.churn.stop), methods=["DELETE"]),
            Route("/azure", endpoint_of(self.set_azure), methods=["POST"]),
            Route("/port", endpoint_of(self.set_port), methods=["POST"]),
            Route("/state", endpoint_of(self.state)),
            Route("/environment", endpoint_of(sandbox.environment)),
            Route("/api-environment", endpoint_of(sandbox.api_environment)),
            Route("/comparison", endpoint_of(self.comparison)),
            Route("/entities/{blueprint}", endpoint_of(self.entities)),
            Route("/entities/{blueprint}", endpoint_of(sandbox.put_entity), methods=["PUT"]),
            Route("/entities/{blueprint}", endpoint_of(sandbox.delete_entity), methods=["DELETE"]),
            Route("/failures", endpoint_of(lambda: [one.as_json() for one in catalog.failures])),
        ]

    def change(self, verb: str, /, **arguments: Any) -> object:
        """Change the tenant by one of its verbs."""
        if verb not in VERBS:
            raise ValueError(f"the tenant knows no verb {verb!r}, only {', '.join(sorted(VERBS))}")
        result: object = getattr(self._sandbox.tenant, verb)(**arguments)
        return result

    def set_clock(self, instant: str | None = None, advance_seconds: float = 0, resume: bool = False) -> str:
        """Freeze the clock at an instant, move it, or let it run on; return the time it is then."""
        clock = self._sandbox.clock
        if instant is not None:
            clock.set(datetime.fromisoformat(instant))
        clock.advance(timedelta(seconds=advance_seconds))
        if resume:
            clock.resume()
        return iso(clock.now())

    def set_azure(self, quota: int | None, retry_after: bool = True) -> None:
        """Set Resource Graph's requests per 5 seconds (null: no limit), and whether a 429 says how long to wait."""
        limiter = self._sandbox.graph.quota
        limiter.limit, limiter.retry_after = quota, retry_after

    def set_port(self, **settings: Any) -> None:
        """Set `count_only`, `throttle` and `api_throttle`; what is not given stays."""
        port, rest = self._sandbox.port, self._sandbox.rest
        if unknown := settings.keys() - {"count_only", "throttle", "api_throttle"}:
            raise ValueError(f"Port has no setting {', '.join(sorted(unknown))}")
        port.count_only = settings.get("count_only", port.count_only)
        if "throttle" in settings:
            port.throttle(Throttle(**settings["throttle"]) if settings["throttle"] else None)
        if "api_throttle" in settings:
            rest.throttle(Throttle(**settings["api_throttle"]) if settings["api_throttle"] else None)

    def state(self) -> Json:
        """Return addresses, clock, counts and counters."""
        sandbox, graph = self._sandbox, self._sandbox.graph
        return {
            "url": sandbox.url,
            "azure_url": sandbox.azure_url,
            "clock": iso(sandbox.clock.now()),
            "tenant": sandbox.tenant.counts(),
            "azure": {"requests": graph.requests, "rows": graph.rows, "throttled": graph.quota.refused},
            "port": sandbox.port.counters(),
            "port_api": {"requests": dict(sandbox.rest.requests)},
            "port_api_items": dict(sandbox.rest.items),
            "faults": [asdict(fault) for fault in sandbox.faults],
        }

    def comparison(self, include: str = "null", exclude: str = "null", resource_types: str = "null") -> Json:
        """Compare the catalog with the tenant in this scope (each part as JSON)."""
        found = self._sandbox.compare(json.loads(include), json.loads(exclude), json.loads(resource_types))
        return asdict(found) | {"equal": found.equal, "sentences": found.sentences()}

    def entities(self, blueprint: str) -> list[Json]:
        """Return all entities of one blueprint."""
        catalog = self._sandbox.port.catalog
        if blueprint not in catalog.blueprints:
            raise ValueError(f"there is no blueprint {blueprint!r}, only {', '.join(catalog.blueprints)}")
        with catalog.lock:
            return [entity.as_json() for entity in catalog.entities[blueprint].values()]
