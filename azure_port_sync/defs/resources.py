"""The resources: settings in, working clients out.

The environment is read once in each run, when the resources are set up, so that a code location loads anywhere and a
bad setting fails the run with one sentence. Secrets are never configuration: a field can only *name* the environment
variable that contains one, so none can end up in run config, in the launchpad or in the event log.
"""

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field, PrivateAttr

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import SettingsError, StateError
from azure_port_sync.defs.azure_sign_in import sign_in
from azure_port_sync.defs.dagster_internals import is_temporary
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.mapping import WebhookMapping
from azure_port_sync.port.sink_selection import API, BATCH, SinkSelection, select_sink
from azure_port_sync.port.sinks import Sink
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import WebhookBatchSink, WebhookSink
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.settings import Settings
from azure_port_sync.state import StateStore


class _CheckedResource(dg.ConfigurableResource[Any]):
    """A resource whose set-up never fails: what went wrong is raised by `check`, which the first step calls.

    Dagster reports an error of the set-up itself as "Error executing resource_fn", and its sentence would be lost.
    """

    #: The setting that a field overrides: a field ``..._variable`` by the value of that variable, another by its own.
    overrides: ClassVar[Mapping[str, str]]

    _problem: Exception | None = PrivateAttr(default=None)
    _settings: Settings = PrivateAttr()

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        try:
            self._settings = Settings.from_environment(self._environment())
            self._open(context)
        except Exception as error:
            self._problem = error

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        if self._problem is None:
            self._close()

    def check(self) -> None:
        """Raise what went wrong when this resource was set up."""
        if self._problem is not None:
            raise self._problem

    @property
    def settings(self) -> Settings:
        """The settings, as this resource reads them."""
        self.check()
        return self._settings

    def _environment(self) -> dict[str, str]:
        """The environment with the overrides; without Port's variables where there is no field for its secrets."""
        reads_port = any(setting.startswith("PORT_") for setting in self.overrides.values())
        environment = {name: value for name, value in os.environ.items() if reads_port or not name.startswith("PORT_")}
        for field, setting in self.overrides.items():
            value = getattr(self, field)
            if value is not None:
                environment[setting] = os.environ.get(value, "") if field.endswith("_variable") else value
        return environment

    @abstractmethod
    def _open(self, context: dg.InitResourceContext) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class AzureResource(_CheckedResource):
    """Reads Azure Resource Graph with the credentials and the scope from the environment."""

    clock: dg.ResourceDependency[Clock]
    tenant_id: str | None = Field(default=None, description="Entra tenant; by default AZURE_TENANT_ID.")
    client_id: str | None = Field(default=None, description="Application (client) id; by default AZURE_CLIENT_ID.")
    client_secret_variable: str = Field(
        default="AZURE_CLIENT_SECRET", description="Name of the environment variable with the client secret."
    )

    overrides: ClassVar = {
        "tenant_id": "AZURE_TENANT_ID",
        "client_id": "AZURE_CLIENT_ID",
        "client_secret_variable": "AZURE_CLIENT_SECRET",
    }
    _reader: AzureReader = PrivateAttr()

    def _open(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        settings = self._settings
        signed_in = sign_in(settings, self.clock)
        graph = ResourceGraph(
            signed_in.credential,
            self.clock,
            base_url=signed_in.resource_manager_url,
            credential_scopes=signed_in.scopes,
            connection_verify=settings.verify,
            secrets=signed_in.secrets,
        )
        self._reader = AzureReader(graph, settings.scope, batch_size=settings.SUBSCRIPTION_BATCH_SIZE)

    def _close(self) -> None:
        self._reader.graph.close()

    @property
    def reader(self) -> AzureReader:
        """Reads the configured scope; shared by all assets of a run, so that they share one quota."""
        self.check()
        return self._reader

    def tenant(self) -> str:
        """The tenant that the credentials belong to: AZURE_TENANT_ID, or else the one that issued the token."""
        return self.settings.AZURE_TENANT_ID or self._reader.graph.tenant()


class PortResource(_CheckedResource):
    """Delivers to the Port of the environment: to its webhook, and to its API where there are credentials."""

    clock: dg.ResourceDependency[Clock]
    webhook_url_variable: str = Field(
        default="PORT_WEBHOOK_INGEST_URL", description="Name of the environment variable with the webhook's URL."
    )
    webhook_secret_variable: str = Field(
        default="PORT_WEBHOOK_SECRET", description="Name of the environment variable with the webhook's secret."
    )
    client_id: str | None = Field(default=None, description="Client id of Port's API; by default PORT_CLIENT_ID.")
    client_secret_variable: str = Field(
        default="PORT_CLIENT_SECRET",
        description="Name of the environment variable with the client secret of Port's API.",
    )

    overrides: ClassVar = {
        "webhook_url_variable": "PORT_WEBHOOK_INGEST_URL",
        "webhook_secret_variable": "PORT_WEBHOOK_SECRET",
        "client_id": "PORT_CLIENT_ID",
        "client_secret_variable": "PORT_CLIENT_SECRET",
    }
    _api: PortApi | None = PrivateAttr(default=None)
    _sink: Sink | None = PrivateAttr(default=None)
    _selection: SinkSelection | None = PrivateAttr(default=None)

    def _open(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        settings = self._settings
        if settings.PORT_WEBHOOK_INGEST_URL is None and settings.PORT_CLIENT_ID is None:
            raise SettingsError(
                f"{self.webhook_url_variable} is not set, so there is nowhere to deliver to: set it to the URL of "
                "your Port webhook (or PORT_CLIENT_ID and PORT_CLIENT_SECRET), or try the sandbox with `make dev`."
            )
        if settings.PORT_CLIENT_ID and settings.PORT_CLIENT_SECRET:
            self._api = PortApi(
                settings.PORT_BASE_URL,
                settings.PORT_CLIENT_ID,
                settings.PORT_CLIENT_SECRET.get_secret_value(),
                clock=self.clock,
                connections=settings.PORT_MAX_CONCURRENCY,
                verify=settings.verify,
            )

    def _close(self) -> None:
        if self._sink is not None:
            self._sink.close()
        if self._api is not None:
            self._api.close()

    @property
    def selection(self) -> SinkSelection:
        """The way into Port that the run takes, and the reason; determined once in each run."""
        if self._selection is None:
            signs = self.webhook_secret is not None
            self._selection = select_sink(self.settings.PORT_DELIVERY, self.webhook_url, signs=signs, api=self._api)
        return self._selection

    @property
    def sink(self) -> Sink:
        """The way into Port, opened."""
        if self._sink is None:
            settings, way = self.settings, self.selection.sink
            common: dict[str, Any] = {
                "concurrency": settings.PORT_MAX_CONCURRENCY,
                "deadline": settings.delivery_deadline,
            }
            if way == API and self._api is not None:
                self._sink = ApiSink(self._api, **common)
            else:
                kind = WebhookBatchSink if way == BATCH else WebhookSink
                url, secret = self.webhook_url or "", self.webhook_secret
                self._sink = kind(url, secret=secret, verify=settings.verify, clock=self.clock, **common)
        return self._sink

    @property
    def mapping(self) -> WebhookMapping:
        """Predicts what Port makes of our events: by the webhook's own mapping where it is known, otherwise by ours."""
        return WebhookMapping(self.selection.mappings_in_force)

    @property
    def api(self) -> PortApi | None:
        """Port's REST API; None where the environment has no credentials for it."""
        self.check()
        return self._api

    @property
    def app(self) -> str | None:
        """The address of Port's web pages for this account; None where it is unknown.

        Each region has ingest.<region>.port.io, api.<region>.port.io and app.<region>.port.io, so either of the first
        two leads to the third.
        """
        known = self.webhook_url or (self._settings.PORT_BASE_URL if self._api else "")
        service, _, rest = (urlsplit(known).hostname or "").partition(".")
        return f"https://app.{rest}" if service in ("ingest", "api") and rest else None

    @property
    def webhook_url(self) -> str | None:
        """The webhook's URL. A secret: it contains the webhook's key."""
        url = self.settings.PORT_WEBHOOK_INGEST_URL
        return url.get_secret_value() if url else None

    @property
    def webhook_secret(self) -> str | None:
        """The key that signs events."""
        secret = self.settings.PORT_WEBHOOK_SECRET
        return secret.get_secret_value() if secret else None

    @property
    def destination(self) -> str:
        """The name of the Port that is delivered to. A secret: it may contain the webhook's key."""
        return self.webhook_url or f"{self._settings.PORT_BASE_URL} {self._settings.PORT_CLIENT_ID}"


class StateResource(_CheckedResource):
    """Keeps the watermark and the ledger: in the database of the environment, or beside the Dagster instance."""

    clock: dg.ResourceDependency[Clock]
    state_url_variable: str = Field(
        default="AZURE_PORT_SYNC_STATE_URL", description="Name of the environment variable with the database's URL."
    )

    overrides: ClassVar = {"state_url_variable": "AZURE_PORT_SYNC_STATE_URL"}
    _store: StateStore = PrivateAttr()

    def _open(self, context: dg.InitResourceContext) -> None:
        url = self._settings.AZURE_PORT_SYNC_STATE_URL
        self._store = StateStore(url.get_secret_value() if url else _beside_the_instance(context), self.clock)

    def _close(self) -> None:
        self._store.close()

    @property
    def store(self) -> StateStore:
        self.check()
        return self._store


def _beside_the_instance(context: dg.InitResourceContext) -> str:
    instance = context.instance
    if instance is None:
        raise SettingsError("There is no Dagster instance to keep the state in: set AZURE_PORT_SYNC_STATE_URL.")
    folder = instance_folder(instance)
    with writing_to(folder):
        pass
    if is_temporary(instance) and context.log is not None:
        context.log.warning(
            "This Dagster instance is temporary, and so is the state: every run will be a full one. "
            "Set DAGSTER_HOME, or AZURE_PORT_SYNC_STATE_URL."
        )
    return f"sqlite:///{folder / 'state.sqlite'}"


def instance_folder(instance: dg.DagsterInstance) -> Path:
    """Return our folder in the instance's."""
    return Path(instance.root_directory) / "azure_port_sync"


@contextmanager
def writing_to(*folders: Path) -> Iterator[None]:
    """Create folders that only their owner may read. Raises StateError where one of them cannot be written to."""
    try:
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
        yield
    except OSError as error:
        raise StateError(
            f"{folders[-1]} cannot be written to: {error.strerror or error}. Free space there, or make it writable; "
            "DAGSTER_HOME says where it is."
        ) from error
