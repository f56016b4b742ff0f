"""The sandbox as it runs: Azure over TLS and Port over HTTP, two servers on loopback in this process.

Port's server is both of Port's hosts in one: webhooks at `/{key}`, the REST API below `/v1`. It also carries what a
real Port does not have: the read-only page with the API it polls (`/api`), and the control API (`/control`) through
which tests and the launcher change the tenant, move the clock, order faults.
"""

import random
import secrets
import tempfile
import threading
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from starlette.applications import Starlette
from starlette.responses import FileResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from azure_port_sync.sandbox.azure import QUOTA, ResourceGraph, azure_app
from azure_port_sync.sandbox.churn import Churn
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.compare import Differences, differences, expected_catalog
from azure_port_sync.sandbox.control import Control
from azure_port_sync.sandbox.entra import Authority
from azure_port_sync.sandbox.estate import drift
from azure_port_sync.sandbox.estate import seed as seed_estate
from azure_port_sync.sandbox.faults import FaultMiddleware, Faults
from azure_port_sync.sandbox.page_api import PageApi
from azure_port_sync.sandbox.port import Port, port_app
from azure_port_sync.sandbox.port.entity import Json
from azure_port_sync.sandbox.port.guide import Guide
from azure_port_sync.sandbox.rest import Rest, rest_app
from azure_port_sync.sandbox.serving import Server, make_certificate
from azure_port_sync.sandbox.tenant import Tenant

_PAGE = Path(__file__).parent / "page"
_ESTATE_AGE = timedelta(days=30)


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
        self._guide = Guide() if guide else None
        self._client_id = "5a2db0c5-0000-4000-8000-000000000001"
        self._client_secret = secrets.token_urlsafe(24)
        self._set_up_port()
        self._quota = QUOTA if quota else None
        self._drift_seconds = drift_seconds
        self._stopping = threading.Event()
        self._drifting = threading.Thread(target=self._drift, name="sandbox-drift", daemon=True)
        azure = azure_app(
            self.tenant, self.clock, client_id=self._client_id, client_secret=self._client_secret, quota=self._quota
        )
        self.graph: ResourceGraph = azure.state.graph
        self._authority: Authority = azure.state.authority
        self.churn = Churn(self.tenant, self.clock, self.rng)
        self.graph.before_answer = self.churn.happen
        self._ca_file, certificate = make_certificate(self.folder)
        self._azure = Server(FaultMiddleware(azure, self.faults, "azure", self.clock), azure_port, certificate)
        self._port = Server(self._port_app(), port_port)

    @property
    def url(self) -> str:
        """The address of the page and of the control API."""
        return f"http://127.0.0.1:{self._port.port}"

    @property
    def azure_url(self) -> str:
        """The address of Azure's token endpoint and of Resource Graph."""
        return f"https://localhost:{self._azure.port}"

    def environment(self) -> dict[str, str]:
        """Return the settings for the product to work against this sandbox; of Port's webhook where there is one."""
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
            "PORT_WEBHOOK_INGEST_URL": f"{self.url}/{self._guide.key}",
            "PORT_WEBHOOK_SECRET": self._guide.secret,
        }

    def api_environment(self) -> dict[str, str]:
        """Return the further settings with which the product also asks Port's REST API."""
        return {
            "PORT_CLIENT_ID": self.rest.client_id,
            "PORT_CLIENT_SECRET": self.rest.client_secret,
            "PORT_BASE_URL": self.url,
        }

    def tokens(self) -> list[str]:
        """Return the access tokens of both sides."""
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
        """Make Azure and Port empty behind the same addresses and credentials, and freeze the clock at `now`.

        Quotas, limits, and the blueprints and webhooks of Port are again what they were at the start.
        """
        self.faults.clear()
        self.clock.set(now)
        self.tenant.clear(seed=seed)
        self.rng.seed(seed)
        self.port.clear()
        self.rest.clear()
        self._set_up_port()
        self.churn.clear()
        self.graph.clear()
        self.graph.before_answer = self.churn.happen
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
        """Return the differences between the catalog and what it must be for the tenant as it is."""
        return differences(self.expected(include, exclude, resource_types), self.held())

    def expected(
        self,
        include: dict[str, str] | None = None,
        exclude: dict[str, str] | None = None,
        resource_types: Iterable[str] | None = None,
    ) -> dict[str, dict[str, Json]]:
        """Return what the catalog must hold for the tenant as it is."""
        return expected_catalog(
            self.tenant.containers(),
            self.tenant.resources(),
            include=include,
            exclude=exclude,
            resource_types=resource_types,
        )

    def held(self) -> dict[str, dict[str, Json]]:
        """Return what the catalog holds."""
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
            self._guide.follow(self.port)

    def _port_app(self) -> ASGIApp:
        app = Starlette(
            routes=[
                Mount("/control", routes=Control(self).routes()),
                Mount("/api", routes=PageApi(self).routes()),
                Mount("/page", StaticFiles(directory=_PAGE)),
                Route("/", lambda _: FileResponse(_PAGE / "index.html")),
                Mount("/v1", rest_app(self.rest)),
                Mount("/", port_app(self.port)),
            ]
        )
        # What orders the faults, and what shows them, must stay reachable.
        return FaultMiddleware(app, self.faults, "port", self.clock, spared=("/control/", "/api/", "/page/"))

    def _drift(self) -> None:
        while not self._stopping.wait(self._drift_seconds):
            drift(self.tenant, self.rng)
