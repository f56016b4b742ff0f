"""The catalog as the page asks for it: in answers that stay small however large the catalog is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from azure_port_sync.sandbox.compare import SUBSCRIPTION, blueprint_position, differences
from azure_port_sync.sandbox.port.catalog import Catalog
from azure_port_sync.sandbox.port.entity import Entity, Json, iso
from azure_port_sync.sandbox.serving import endpoint_of

if TYPE_CHECKING:
    from azure_port_sync.sandbox.server import Sandbox

_PAGE_SIZE = 100
_SHOWN_ACTIVITIES = 60


class PageApi:
    """Answers what the page asks."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._catalog: Catalog = sandbox.port.catalog
        self._expected: tuple[int, dict[str, dict[str, Json]]] | None = None
        self._compared: tuple[tuple[int, int], Json] | None = None
        self._comparing = threading.Lock()

    def routes(self) -> list[Route]:
        """Return the routes that the page polls."""
        return [
            Route("/summary", self.answer_summary),
            Route("/children", endpoint_of(self.children)),
            Route("/search", endpoint_of(self.search)),
            Route("/entity", endpoint_of(self.entity)),
        ]

    async def answer_summary(self, request: Request) -> Response:
        """Answer with the summary, or 304 when the page has it."""
        # The clock is in a header, so that its running alone does not make the summary a new one.
        headers = {"ETag": self.tag(), "X-Sandbox-Clock": iso(self._sandbox.clock.now())}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return JSONResponse(await run_in_threadpool(self.summary), headers=headers)

    def tag(self) -> str:
        """Return a text that changes whenever the summary does."""
        versions = (self._catalog.version, self._sandbox.port.requests.total(), self._sandbox.tenant.version)
        return f'"{"-".join(map(str, versions))}"'

    def summary(self) -> Json:
        """Return all that the page shows at once."""
        port, catalog = self._sandbox.port, self._catalog
        comparison = self._comparison()
        with catalog.lock:
            return {
                "version": catalog.version,
                **port.counters(),
                "comparison": comparison,
                "unattached": sum(1 for _ in catalog.unattached()),
                "activity": [one.as_json() for one in list(catalog.activity)[: -_SHOWN_ACTIVITIES - 1 : -1]],
                "failures": [one.as_json() for one in list(catalog.failures)[: -_SHOWN_ACTIVITIES - 1 : -1]],
            }

    def children(self, blueprint: str = "", identifier: str = "", limit: str = str(_PAGE_SIZE)) -> Json:
        """Return what depends on an entity; without one the subscriptions; for "unattached" what hangs loose."""
        with self._catalog.lock:
            if blueprint == "unattached":
                found = list(self._catalog.unattached())
            elif blueprint:
                found = self._catalog.dependents((blueprint, identifier))
            else:
                found = list(self._catalog.entities.get(SUBSCRIPTION, {}).values())
            return self._page(found, int(limit))

    def search(self, q: str = "", blueprint: str = "", limit: str = str(_PAGE_SIZE)) -> Json:
        """Return the entities that hold every word of `q`."""
        with self._catalog.lock:
            found = self._catalog.search(q.split(), blueprint or None)
            return self._page(found, int(limit))

    def entity(self, blueprint: str, identifier: str) -> Json:
        """Return one entity with all it has and with the entities its relations lead to."""
        with self._catalog.lock:
            entity = self._catalog.entities[blueprint].get(identifier)
            if entity is None:
                raise ValueError("the catalog does not hold this entity")
            return {
                "entity": entity.as_json(),
                "children": self._catalog.dependent_count((blueprint, identifier)),
                "parents": self._parents(entity),
            }

    def _comparison(self) -> Json:
        """Return the comparison, worked out anew only where tenant or catalog changed, and outside Port's lock."""
        tenant_version, version = self._sandbox.tenant.version, self._catalog.version
        with self._comparing:
            if self._expected is None or self._expected[0] != tenant_version:
                self._expected = (tenant_version, self._sandbox.expected())
            if self._compared is None or self._compared[0] != (tenant_version, version):
                found = differences(self._expected[1], self._sandbox.held())
                shown = {"equal": found.equal, "counts": found.counts, "sentences": found.sentences(shown=20)}
                self._compared = ((tenant_version, version), shown)
            return self._compared[1]

    def _page(self, found: list[Entity], limit: int) -> Json:
        found.sort(key=lambda one: (blueprint_position(one.blueprint), (one.title or "").casefold(), one.identifier))
        rows = [self._row(one) for one in found[:limit]]
        return {"total": len(found), "rows": rows}

    def _row(self, entity: Entity) -> Json:
        children = self._catalog.dependent_count((entity.blueprint, entity.identifier))
        return entity.as_json() | {"children": children, "parents": self._parents(entity)}

    def _parents(self, entity: Entity) -> list[Json]:
        """Return the chain above an entity: its target, the target of that, and so on."""
        found: list[Json] = []
        here: Entity | None = entity
        while here is not None:
            target = next(self._catalog.targets(here), None)
            here = None
            if target is not None:
                blueprint, identifier = target[1]
                here = self._catalog.entities[blueprint].get(identifier)
                title = here.title if here else None
                found.append(
                    {"blueprint": blueprint, "identifier": identifier, "title": title, "exists": here is not None}
                )
        return found
