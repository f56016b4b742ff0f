"""The sandbox as it runs: Azure over TLS and Port over HTTP, two servers on loopback in this process.

Port's server is both of Port's hosts in one: webhooks at `/{key}`, the REST API below `/v1`. It also carries what a
real Port does not have: the read-only page with the API it polls (`/api`), and the control API (`/control`) through
which tests and the launcher change the tenant, move the clock, order faults.
"""

import json
import random
import secrets
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import trustme
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from azure_port_sync.sandbox.azure import QUOTA, ResourceGraph, azure_app
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.compare import (
    SUBSCRIPTION,
    Differences,
    blueprint_position,
    differences,
    expected_catalog,
)
from azure_port_sync.sandbox.entra import Authority
from azure_port_sync.sandbox.estate import drift, play
from azure_port_sync.sandbox.estate import seed as seed_estate
from azure_port_sync.sandbox.faults import Fault, FaultMiddleware, Faults
from azure_port_sync.sandbox.port import Catalog, Entity, Json, Port, RefusedError, Throttle, Webhook, iso, port_app
from azure_port_sync.sandbox.rest import ResetForm, Rest, rest_app
from azure_port_sync.sandbox.tenant import VERBS, Tenant, TenantError

SIGNATURE_HEADER = "x-port-signature"
WEBHOOK_IDENTIFIER = "azureIncremental"
_HERE = Path(__file__).parent
_PAGE_SIZE = 100
_ESTATE_AGE = timedelta(days=30)
_PATIENCE_SECONDS = 20
_SHOWN_ACTIVITIES = 60


class Sandbox:
    """Azure, Port and the page, from `with` to the end of it (or from `start` to `stop`).

    With `guide` Port has the blueprints and the webhook of its guide; without, it is an account that is still empty.
    """

    def __init__(
        self,
        *,
        folder: Path | None = None,
        azure_port: int = 0,
        port_port: int = 0,
        seed: int = 1,
        estate: bool = True,
        quota: bool = True,
        guide: bool = True,
        drift_seconds: float | None = None,
    ) -> None:
        self._temporary = None if folder else tempfile.TemporaryDirectory(prefix="azure-port-sandbox-")
        self.folder = folder or Path(self._temporary.name if self._temporary else "")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.clock = SandboxClock()
        self.tenant = Tenant(self.clock, seed=seed)
        self.rng = random.Random(seed)  # noqa: S311  (believable, not secret)
        if estate:
            # Most of an estate is older than Azure's change records, of which it keeps 14 days.
            self.clock.advance(-_ESTATE_AGE)
            seed_estate(self.tenant)
            self.clock.advance(_ESTATE_AGE)
        self.faults = Faults()
        self.port = Port(self.clock)
        self.rest = Rest(
            self.port,
            self.clock,
            client_id=secrets.token_urlsafe(16),
            client_secret=secrets.token_urlsafe(24),
            ingest_url=lambda key: f"{self.url}/{key}",
        )
        self._guide = _Guide() if guide else None
        self._client_id = "5a2db0c5-0000-4000-8000-000000000001"
        self._client_secret = secrets.token_urlsafe(24)
        self._set_up_port()
        self._quota = QUOTA if quota else None
        self._drift_seconds = drift_seconds
        self._stopping = threading.Event()
        self._drifting = threading.Thread(target=self._drift, name="sandbox-drift", daemon=True)
        azure = azure_app(
            self.tenant,
            self.clock,
            client_id=self._client_id,
            client_secret=self._client_secret,
            quota=self._quota,
        )
        self.graph: ResourceGraph = azure.state.graph
        self._authority: Authority = azure.state.authority
        certificate = self._make_certificate()
        self._azure = Server(FaultMiddleware(azure, self.faults, "azure", self.clock), azure_port, certificate)
        self._port = Server(self._port_app(), port_port)

    @property
    def url(self) -> str:
        """Where the page and the control API are."""
        return f"http://127.0.0.1:{self._port.port}"

    @property
    def azure_url(self) -> str:
        """Where Azure's token endpoint and Resource Graph are."""
        return f"https://localhost:{self._azure.port}"

    def environment(self) -> dict[str, str]:
        """The settings with which the product works against this sandbox; of Port's webhook only where there is one."""
        azure = {
            "AZURE_TENANT_ID": self.tenant.tenant_id,
            "AZURE_CLIENT_ID": self._client_id,
            "AZURE_CLIENT_SECRET": self._client_secret,
            "AZURE_AUTHORITY_HOST": self.azure_url,
            "AZURE_RESOURCE_MANAGER_URL": self.azure_url,
            "REQUESTS_CA_BUNDLE": str(self._ca_file.resolve()),
        }
        if self._guide is None:
            return azure
        return azure | {
            "PORT_WEBHOOK_INGEST_URL": f"{self.url}/{self._guide.webhook.key}",
            "PORT_WEBHOOK_SECRET": self._guide.secret,
        }

    def api_environment(self) -> dict[str, str]:
        """The further settings with which the product also asks Port's REST API."""
        return {
            "PORT_CLIENT_ID": self.rest.client_id,
            "PORT_CLIENT_SECRET": self.rest.client_secret,
            "PORT_BASE_URL": self.url,
        }

    def tokens(self) -> list[str]:
        """The access tokens of both sides."""
        return [*self._authority.tokens, *self.rest.tokens]

    def put_entity(
        self,
        blueprint: str,
        identifier: str,
        title: str | None = None,
        properties: Json | None = None,
        relations: Json | None = None,
    ) -> None:
        """Add an entity as a person does in Port's own pages, or put this in the place of the one there is.

        RefusedError when Port would not take it.
        """
        self.port.catalog.upsert(blueprint, identifier, title, properties or {}, relations or {}, merge=False)

    def delete_entity(self, blueprint: str, identifier: str) -> None:
        """Delete an entity as a person does in Port's own pages, without its dependents; RefusedError without one."""
        self.port.catalog.remove(blueprint, identifier)

    def start(self) -> Self:
        """Serve; both servers answer when this returns."""
        self._azure.start()
        self._port.start()
        if self._drift_seconds is not None:
            self._drifting.start()
        return self

    def stop(self) -> None:
        """Stop serving; both ports are free when this returns."""
        self._stopping.set()
        if self._drifting.is_alive():
            self._drifting.join()
        self._port.stop()
        self._azure.stop()
        if self._temporary:
            self._temporary.cleanup()

    def reset(self, now: datetime, *, seed: int = 1) -> None:
        """An empty Azure and an empty Port behind the same addresses and credentials, frozen at `now`.

        Port has the blueprints and webhooks again that it had at the start.
        """
        self.faults.clear()
        self.clock.set(now)
        self.tenant.clear(seed=seed)
        self.rng.seed(seed)
        self.port.clear()
        self.rest.clear()
        self._set_up_port()
        self.graph.clear()
        self.graph.quota.limit, self.graph.quota.retry_after = self._quota, True

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def compare(
        self,
        include: dict[str, str] | None = None,
        exclude: dict[str, str] | None = None,
        resource_types: Iterable[str] | None = None,
    ) -> Differences:
        """Where the catalog is not what it must be for the tenant as it is."""
        return differences(self.expected(include, exclude, resource_types), self.held())

    def expected(
        self,
        include: dict[str, str] | None = None,
        exclude: dict[str, str] | None = None,
        resource_types: Iterable[str] | None = None,
    ) -> dict[str, dict[str, Json]]:
        """What the catalog must hold for the tenant as it is."""
        return expected_catalog(
            self.tenant.containers(),
            self.tenant.resources(),
            include=include,
            exclude=exclude,
            resource_types=resource_types,
        )

    def held(self) -> dict[str, dict[str, Json]]:
        """What the catalog holds."""
        with self.port.catalog.lock:
            return {
                blueprint: {
                    one.identifier: {"title": one.title, "properties": one.properties, "relations": one.relations}
                    for one in entities.values()
                }
                for blueprint, entities in self.port.catalog.entities.items()
            }

    def _set_up_port(self) -> None:
        self.port.remove_all()
        if self._guide is not None:
            for blueprint in self._guide.blueprints:
                self.port.catalog.add_blueprint(blueprint)
            self.port.add_webhook(self._guide.webhook)

    def _make_certificate(self) -> Path:
        authority = trustme.CA()
        self._ca_file = self.folder / "ca.pem"
        authority.cert_pem.write_to_path(self._ca_file)
        server = self.folder / "server.pem"
        server.touch(mode=0o600)
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(server)
        return server

    def _port_app(self) -> ASGIApp:
        app = Starlette(
            routes=[
                Mount("/control", routes=_Control(self).routes()),
                Mount("/api", routes=_Reader(self).routes()),
                Mount("/page", StaticFiles(directory=_HERE / "page")),
                Route("/", lambda _: FileResponse(_HERE / "page" / "index.html")),
                Mount("/v1", rest_app(self.rest)),
                Mount("/", port_app(self.port)),
            ]
        )
        # What orders the faults, and what shows them, must stay reachable.
        return FaultMiddleware(app, self.faults, "port", self.clock, spared=("/control/", "/api/", "/page/"))

    def _drift(self) -> None:
        while not self._stopping.wait(self._drift_seconds):
            drift(self.tenant, self.rng)


class _Guide:
    """The blueprints and the webhook of Port's guide, with a key and a secret of this sandbox."""

    def __init__(self) -> None:
        self.secret = secrets.token_urlsafe(24)
        self.blueprints: list[Json] = json.loads((_HERE / "guide" / "blueprints.json").read_text())
        self.webhook = Webhook(
            secrets.token_urlsafe(16),
            json.loads((_HERE / "guide" / "webhook_mapping.json").read_text()),
            {
                "secret": self.secret,
                "signatureHeaderName": SIGNATURE_HEADER,
                "signatureAlgorithm": "sha256",
                "signaturePrefix": "sha256=",
            },
            WEBHOOK_IDENTIFIER,
            about={"title": "Azure incremental", "icon": "Azure", "integrationType": "custom"},
        )


class Server(uvicorn.Server):
    """One uvicorn server in a thread of its own, on a socket that is bound when the object is made."""

    def __init__(self, app: ASGIApp, port: int, certificate: Path | None = None) -> None:
        # proxy_headers would hide the connection that a "reset" fault closes. Connections are kept for long, so that
        # no test meets a reset it did not order.
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                server_header=False,
                date_header=False,  # the time of an answer is the sandbox's
                timeout_keep_alive=120,
                timeout_graceful_shutdown=3,
                ssl_certfile=certificate,
            )
        )
        self._socket = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._socket.getsockname()[1]
        self._serving = threading.Event()
        self._thread = threading.Thread(
            target=self.run, args=([self._socket],), name=f"sandbox-{self.port}", daemon=True
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that requests are answered from here on."""
        await super().startup(sockets)
        self._serving.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what clients keep open: over TLS a polite close waits for an answer that an idle client never gives."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)

    def start(self) -> None:
        """Serve, and return when requests are answered."""
        self._thread.start()
        if not self._serving.wait(_PATIENCE_SECONDS):
            raise RuntimeError(f"the sandbox's server on port {self.port} did not start")

    def stop(self) -> None:
        """Stop, and return when the port is free."""
        self.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_SECONDS)
        self._socket.close()
        if self._thread.is_alive():
            raise RuntimeError(f"the sandbox's server on port {self.port} did not stop")


Endpoint = Callable[[Request], Awaitable[Response]]


def _call(handler: Callable[..., object]) -> Endpoint:
    """A plain function as an endpoint: path parameters by position, body and query as keywords, JSON back.

    What the caller did wrong is answered 400 with the sentence of the exception.
    """

    async def endpoint(request: Request) -> Response:
        try:
            arguments = json.loads(await request.body() or "{}") | dict(request.query_params)
            result = await run_in_threadpool(handler, *request.path_params.values(), **arguments)
        except (ValueError, TypeError, KeyError, AttributeError, TenantError, RefusedError) as error:
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 400)
        return JSONResponse(result)

    return endpoint


class _Control:
    """What tests and the launcher may do to the sandbox, and ask of it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def routes(self) -> list[Route]:
        """The control API."""
        sandbox, faults, catalog = self._sandbox, self._sandbox.faults, self._sandbox.port.catalog
        return [
            Route("/tenant/{verb}", _call(self.change), methods=["POST"]),
            Route("/play", _call(lambda: play(sandbox.tenant)), methods=["POST"]),
            Route("/drift", _call(lambda: drift(sandbox.tenant, sandbox.rng)), methods=["POST"]),
            Route("/clock", _call(self.set_clock), methods=["POST"]),
            Route("/faults", _call(lambda **fault: faults.add(Fault(**fault))), methods=["POST"]),
            Route("/faults", _call(faults.clear), methods=["DELETE"]),
            Route("/azure", _call(self.set_azure), methods=["POST"]),
            Route("/port", _call(self.set_port), methods=["POST"]),
            Route("/state", _call(self.state)),
            Route("/environment", _call(sandbox.environment)),
            Route("/api-environment", _call(sandbox.api_environment)),
            Route("/tokens", _call(sandbox.rest.revoke_tokens), methods=["DELETE"]),
            Route("/comparison", _call(self.comparison)),
            Route("/entities/{blueprint}", _call(self.entities)),
            Route("/entities/{blueprint}", _call(sandbox.put_entity), methods=["PUT"]),
            Route("/entities/{blueprint}", _call(sandbox.delete_entity), methods=["DELETE"]),
            Route("/failures", _call(lambda: [one.as_json() for one in catalog.failures])),
        ]

    def change(self, verb: str, /, **arguments: Any) -> object:
        """One verb of the tenant."""
        if verb not in VERBS:
            raise ValueError(f"the tenant knows no verb {verb!r}, only {', '.join(sorted(VERBS))}")
        result: object = getattr(self._sandbox.tenant, verb)(**arguments)
        return result

    def set_clock(self, instant: str | None = None, advance_seconds: float = 0, resume: bool = False) -> str:
        """Freeze at an instant, move, or run on; the time it is then."""
        clock = self._sandbox.clock
        if instant is not None:
            clock.set(datetime.fromisoformat(instant))
        clock.advance(timedelta(seconds=advance_seconds))
        if resume:
            clock.resume()
        return iso(clock.now())

    def set_azure(self, quota: int | None, retry_after: bool = True) -> None:
        """Resource Graph's requests per 5 seconds (null: no limit), and whether a 429 says how long to wait."""
        limiter = self._sandbox.graph.quota
        limiter.limit, limiter.retry_after = quota, retry_after

    def set_port(self, **settings: Any) -> None:
        """`count_only`, `missing_targets`, `throttle`, `api_throttle` and `api_reset`; what is not given stays."""
        port, rest = self._sandbox.port, self._sandbox.rest
        unknown = settings.keys() - {"count_only", "missing_targets", "throttle", "api_throttle", "api_reset"}
        if unknown:
            raise ValueError(f"Port has no setting {', '.join(sorted(unknown))}")
        port.count_only = settings.get("count_only", port.count_only)
        port.catalog.missing_targets = settings.get("missing_targets", port.catalog.missing_targets)
        if "throttle" in settings:
            port.throttle(Throttle(**settings["throttle"]) if settings["throttle"] else None)
        if "api_throttle" in settings:
            rest.throttle(Throttle(**settings["api_throttle"]) if settings["api_throttle"] else None)
        if settings.get("api_reset", "epoch") not in get_args(ResetForm):
            raise ValueError(f"x-ratelimit-reset is given as {' or '.join(get_args(ResetForm))}")
        rest.reset_form = settings.get("api_reset", rest.reset_form)

    def state(self) -> Json:
        """Addresses, clock, counts and counters."""
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
        """The catalog against the tenant in this scope (each part as JSON)."""
        found = self._sandbox.compare(json.loads(include), json.loads(exclude), json.loads(resource_types))
        return asdict(found) | {"equal": found.equal, "sentences": found.sentences()}

    def entities(self, blueprint: str) -> list[Json]:
        """All entities of one blueprint."""
        catalog = self._sandbox.port.catalog
        if blueprint not in catalog.blueprints:
            raise ValueError(f"there is no blueprint {blueprint!r}, only {', '.join(catalog.blueprints)}")
        with catalog.lock:
            return [entity.as_json() for entity in catalog.entities[blueprint].values()]


class _Reader:
    """The catalog as the page asks for it: in pieces that stay small however large the catalog is."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._catalog: Catalog = sandbox.port.catalog
        self._expected: tuple[int, dict[str, dict[str, Json]]] | None = None
        self._compared: tuple[tuple[int, int], Json] | None = None
        self._comparing = threading.Lock()

    def routes(self) -> list[Route]:
        """The API that the page polls."""
        return [
            Route("/summary", self.answer_summary),
            Route("/children", _call(self.children)),
            Route("/search", _call(self.search)),
            Route("/entity", _call(self.entity)),
        ]

    async def answer_summary(self, request: Request) -> Response:
        """The summary, or 304 when the page has it."""
        # The clock is in a header, so that its running alone does not make the summary a new one.
        headers = {"ETag": self.tag(), "X-Sandbox-Clock": iso(self._sandbox.clock.now())}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return JSONResponse(await run_in_threadpool(self.summary), headers=headers)

    def tag(self) -> str:
        """Changes whenever the summary does."""
        versions = (self._catalog.version, self._sandbox.port.requests.total(), self._sandbox.tenant.version)
        return f'"{"-".join(map(str, versions))}"'

    def summary(self) -> Json:
        """All that the page shows at once."""
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

    def children(
        self, blueprint: str = "", identifier: str = "", offset: str = "0", limit: str = str(_PAGE_SIZE)
    ) -> Json:
        """What depends on an entity; the subscriptions without one; what hangs loose for "unattached"."""
        with self._catalog.lock:
            if blueprint == "unattached":
                found = list(self._catalog.unattached())
            elif blueprint:
                found = self._catalog.dependents((blueprint, identifier))
            else:
                found = list(self._catalog.entities.get(SUBSCRIPTION, {}).values())
            return self._page(found, int(offset), int(limit))

    def search(self, q: str = "", blueprint: str = "", offset: str = "0", limit: str = str(_PAGE_SIZE)) -> Json:
        """The entities that hold every word of `q`."""
        with self._catalog.lock:
            found = self._catalog.search(q.split(), blueprint or None)
            return self._page(found, int(offset), int(limit))

    def entity(self, blueprint: str, identifier: str) -> Json:
        """One entity with all it has and with the entities its relations lead to."""
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
        """The comparison, worked out anew only where tenant or catalog changed, and outside Port's lock."""
        tenant_version, version = self._sandbox.tenant.version, self._catalog.version
        with self._comparing:
            if self._expected is None or self._expected[0] != tenant_version:
                self._expected = (tenant_version, self._sandbox.expected())
            if self._compared is None or self._compared[0] != (tenant_version, version):
                found = differences(self._expected[1], self._sandbox.held())
                said = {"equal": found.equal, "counts": found.counts, "sentences": found.sentences(shown=20)}
                self._compared = ((tenant_version, version), said)
            return self._compared[1]

    def _page(self, found: list[Entity], offset: int, limit: int) -> Json:
        found.sort(key=lambda one: (blueprint_position(one.blueprint), (one.title or "").casefold(), one.identifier))
        rows = [self._row(one) for one in found[offset : offset + limit]]
        return {"total": len(found), "offset": offset, "rows": rows}

    def _row(self, entity: Entity) -> Json:
        children = self._catalog.dependent_count((entity.blueprint, entity.identifier))
        return entity.as_json() | {"children": children, "parents": self._parents(entity)}

    def _parents(self, entity: Entity) -> list[Json]:
        """Where the entity hangs: its target, the target of that, and so on."""
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
                    {
                        "blueprint": blueprint,
                        "identifier": identifier,
                        "title": title,
                        "exists": here is not None,
                    }
                )
        return found
