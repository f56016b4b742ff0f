"""Resources: settings in, working clients out.

The environment is read once a run, when the resources are set up, so that a code location loads anywhere and a bad
setting fails the run in one sentence. Secrets are never configuration: a field can only *name* the environment
variable that holds one, so none can end up in run config, in the launchpad or in the event log.
"""

import base64
import json
import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import dagster as dg
from azure.core import AzureClouds
from azure.core.credentials import TokenCredential
from azure.identity import AzureAuthorityHosts, ClientSecretCredential, DefaultAzureCredential
from azure.mgmt.core.tools import get_arm_endpoints
from pydantic import Field, PrivateAttr

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import SettingsError, SyncError
from azure_port_sync.port import model
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.mapping import WebhookMapping
from azure_port_sync.port.sink_selection import API, BATCH, Choice, choose
from azure_port_sync.port.sinks import Sink
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import WebhookBatchSink, WebhookSink
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.settings import Settings
from azure_port_sync.state import StateStore

_CLOUDS = {
    "public": (AzureClouds.AZURE_PUBLIC_CLOUD, AzureAuthorityHosts.AZURE_PUBLIC_CLOUD),
    "usgov": (AzureClouds.AZURE_US_GOVERNMENT, AzureAuthorityHosts.AZURE_GOVERNMENT),
    "china": (AzureClouds.AZURE_CHINA_CLOUD, AzureAuthorityHosts.AZURE_CHINA),
}


class _Resource(dg.ConfigurableResource[Any]):
    """A resource whose bad settings are reported by the first step that checks it.

    Dagster shows an error in a resource's own set-up as "Error executing resource_fn"; the sentence would be lost.
    """

    _problem: SyncError | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        try:
            self._open(context)
        except SyncError as error:
            self._problem = error

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        if self._problem is None:
            self._close()

    def check(self) -> None:
        """Raise SyncError when this resource could not be set up."""
        if self._problem is not None:
            raise self._problem

    @abstractmethod
    def _open(self, context: dg.InitResourceContext) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class AzureResource(_Resource):
    """Reads Azure Resource Graph with the credentials and the scope that the environment names."""

    clock: dg.ResourceDependency[Clock]
    tenant_id: str | None = Field(default=None, description="Entra tenant; by default AZURE_TENANT_ID.")
    client_id: str | None = Field(default=None, description="Application (client) id; by default AZURE_CLIENT_ID.")
    client_secret_variable: str = Field(
        default="AZURE_CLIENT_SECRET", description="Name of the environment variable that holds the client secret."
    )

    _settings: Settings = PrivateAttr()
    _credential: TokenCredential = PrivateAttr()
    _reader: AzureReader = PrivateAttr()
    _scopes: list[str] = PrivateAttr()

    def _open(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        settings = Settings.from_environment(
            _renamed(
                _without_ports(os.environ),
                AZURE_CLIENT_SECRET=self.client_secret_variable,
                AZURE_TENANT_ID=self.tenant_id,
                AZURE_CLIENT_ID=self.client_id,
            )
        )
        cloud, authority = _CLOUDS[settings.AZURE_CLOUD]
        endpoints = get_arm_endpoints(cloud)
        self._settings = settings
        self._scopes = endpoints["credential_scopes"]
        self._credential = _credential(settings, authority)
        graph = ResourceGraph(
            self._credential,
            self.clock,
            base_url=settings.AZURE_RESOURCE_MANAGER_URL or endpoints["resource_manager"].rstrip("/"),
            credential_scopes=self._scopes,
            connection_verify=settings.verify,
        )
        self._reader = AzureReader(graph, settings.scope, batch_size=settings.SUBSCRIPTION_BATCH_SIZE)

    def _close(self) -> None:
        self._reader.graph.close()

    @property
    def reader(self) -> AzureReader:
        """Reads the configured scope; shared by all assets of a run, so that they share one quota."""
        self.check()
        return self._reader

    @property
    def settings(self) -> Settings:
        self.check()
        return self._settings

    def tenant(self) -> str:
        """The tenant that the credentials belong to: AZURE_TENANT_ID, or else the one that issued the token."""
        if self._settings.AZURE_TENANT_ID:
            return self._settings.AZURE_TENANT_ID
        payload = self._credential.get_token(*self._scopes).token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["tid"])


class PortResource(_Resource):
    """Delivers to the Port webhook that the environment names, and asks Port's API where there are credentials."""

    clock: dg.ResourceDependency[Clock]
    webhook_url_variable: str = Field(
        default="PORT_WEBHOOK_INGEST_URL", description="Name of the environment variable that holds the webhook's URL."
    )
    webhook_secret_variable: str = Field(
        default="PORT_WEBHOOK_SECRET", description="Name of the environment variable that holds the webhook's secret."
    )
    client_id: str | None = Field(default=None, description="Client id of Port's API; by default PORT_CLIENT_ID.")
    client_secret_variable: str = Field(
        default="PORT_CLIENT_SECRET",
        description="Name of the environment variable that holds the client secret of Port's API.",
    )

    _settings: Settings = PrivateAttr()
    _api: PortApi | None = PrivateAttr(default=None)
    _sink: Sink | None = PrivateAttr(default=None)
    _choice: Choice | None = PrivateAttr(default=None)

    def _open(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        settings = self._settings = Settings.from_environment(
            _renamed(
                os.environ,
                PORT_WEBHOOK_INGEST_URL=self.webhook_url_variable,
                PORT_WEBHOOK_SECRET=self.webhook_secret_variable,
                PORT_CLIENT_ID=self.client_id,
                PORT_CLIENT_SECRET=self.client_secret_variable,
            )
        )
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
    def choice(self) -> Choice:
        """Which way into Port the run takes, and why; found out once a run."""
        self.check()
        if self._choice is None:
            self._choice = choose(
                self._settings.PORT_DELIVERY,
                self.webhook_url,
                signs=self._settings.PORT_WEBHOOK_SECRET is not None,
                api=self._api,
            )
        return self._choice

    @property
    def sink(self) -> Sink:
        """The way into Port."""
        if self._sink is None:
            self._sink = self._make_sink()
        return self._sink

    def _make_sink(self) -> Sink:
        settings = self._settings
        common: dict[str, Any] = {
            "concurrency": settings.PORT_MAX_CONCURRENCY,
            "deadline": settings.delivery_deadline,
            "clock": self.clock,
        }
        if self.choice.sink == API and self._api is not None:
            return ApiSink(self._api, **common)
        kind = WebhookBatchSink if self.choice.sink == BATCH else WebhookSink
        return kind(self.webhook_url or "", secret=self.webhook_secret, verify=settings.verify, **common)

    @property
    def mapping(self) -> WebhookMapping:
        """What Port makes of our events: by the webhook's own mapping where it is known, else by ours."""
        return WebhookMapping(self.choice.mappings or model.webhook()["mappings"])

    @property
    def api(self) -> PortApi | None:
        """Asks Port's REST API; None where the environment has no credentials for it."""
        self.check()
        return self._api

    @property
    def app(self) -> str | None:
        """The address of Port's own pages for this account; None where it is not one of Port's.

        Of its regions it has ingest.us.port.io, api.us.port.io and app.us.port.io, so either tells.
        """
        self.check()
        known = self.webhook_url or (self._settings.PORT_BASE_URL if self._api else "")
        service, _, rest = (urlsplit(known).hostname or "").partition(".")
        return f"https://app.{rest}" if service in ("ingest", "api") and rest else None

    @property
    def webhook_url(self) -> str | None:
        """A secret: it holds the webhook's key."""
        self.check()
        url = self._settings.PORT_WEBHOOK_INGEST_URL
        return url.get_secret_value() if url else None

    @property
    def webhook_secret(self) -> str | None:
        """What events are signed with."""
        self.check()
        secret = self._settings.PORT_WEBHOOK_SECRET
        return secret.get_secret_value() if secret else None

    @property
    def destination(self) -> str:
        """What names the Port that is delivered to. A secret: it may hold the webhook's key."""
        return self.webhook_url or f"{self._settings.PORT_BASE_URL} {self._settings.PORT_CLIENT_ID}"


class StateResource(_Resource):
    """Keeps watermark and ledger: in the database that the environment names, or beside the Dagster instance."""

    clock: dg.ResourceDependency[Clock]
    state_url_variable: str = Field(
        default="AZURE_PORT_SYNC_STATE_URL",
        description="Name of the environment variable that holds the database's URL.",
    )

    _store: StateStore = PrivateAttr()

    def _open(self, context: dg.InitResourceContext) -> None:
        settings = Settings.from_environment(
            _renamed(_without_ports(os.environ), AZURE_PORT_SYNC_STATE_URL=self.state_url_variable)
        )
        url = settings.AZURE_PORT_SYNC_STATE_URL
        self._store = StateStore(url.get_secret_value() if url else _beside_the_instance(context), self.clock)

    def _close(self) -> None:
        self._store.close()

    @property
    def store(self) -> StateStore:
        self.check()
        return self._store


def _without_ports(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without Port's variables: only PortResource knows by which names it reads its secrets."""
    return {name: value for name, value in environment.items() if not name.startswith("PORT_")}


def _renamed(environment: Mapping[str, str], **names: str | None) -> dict[str, str]:
    """The environment, with each setting taken from the variable (or, for the plain ones, the value) given for it."""
    taken = dict(environment)
    for setting, given in names.items():
        if given is not None and given != setting:
            taken[setting] = environment.get(given, "") if setting in _BY_VARIABLE else given
    return taken


_BY_VARIABLE = frozenset(
    {
        "AZURE_CLIENT_SECRET",
        "PORT_WEBHOOK_INGEST_URL",
        "PORT_WEBHOOK_SECRET",
        "PORT_CLIENT_SECRET",
        "AZURE_PORT_SYNC_STATE_URL",
    }
)


def _credential(settings: Settings, cloud_authority: str) -> TokenCredential:
    """A client secret where one is set, otherwise whatever this machine signs in with."""
    authority = settings.AZURE_AUTHORITY_HOST or cloud_authority
    options: dict[str, Any] = {"authority": authority, "connection_verify": settings.verify}
    host = urlsplit(authority if "//" in authority else f"//{authority}").hostname
    if host not in {microsofts for _, microsofts in _CLOUDS.values()}:
        options["disable_instance_discovery"] = True  # a host that Microsoft does not know must not be asked after
    if settings.AZURE_CLIENT_SECRET is None:
        _forget_empty_variables()
        return DefaultAzureCredential(
            managed_identity_client_id=settings.AZURE_CLIENT_ID,
            workload_identity_client_id=settings.AZURE_CLIENT_ID,
            workload_identity_tenant_id=settings.AZURE_TENANT_ID,
            **options,
        )
    if not (settings.AZURE_TENANT_ID and settings.AZURE_CLIENT_ID):
        missing = "AZURE_CLIENT_ID" if settings.AZURE_TENANT_ID else "AZURE_TENANT_ID"
        raise SettingsError(
            f"AZURE_CLIENT_SECRET is set, but {missing} is not: set both from the app registration's overview page, "
            "or unset the secret to sign in with this machine's identity."
        )
    return ClientSecretCredential(
        settings.AZURE_TENANT_ID, settings.AZURE_CLIENT_ID, settings.AZURE_CLIENT_SECRET.get_secret_value(), **options
    )


def _forget_empty_variables() -> None:
    """The Azure SDK takes an empty variable for a value, but CI systems pass settings that are unset as empty ones."""
    for name in [name for name, value in os.environ.items() if name.startswith("AZURE_") and not value.strip()]:
        del os.environ[name]


def _beside_the_instance(context: dg.InitResourceContext) -> str:
    instance = context.instance
    if instance is None:
        raise SettingsError("There is no Dagster instance to keep the state in: set AZURE_PORT_SYNC_STATE_URL.")
    folder = instance_folder(instance)
    if instance.is_ephemeral and context.log is not None:
        context.log.warning(
            "This Dagster instance is temporary, and the state with it: every run will be a full one. "
            "Set DAGSTER_HOME, or AZURE_PORT_SYNC_STATE_URL."
        )
    return f"sqlite:///{folder / 'state.sqlite'}"


def instance_folder(instance: dg.DagsterInstance) -> Path:
    """The folder of the instance that is ours; created when missing."""
    folder = Path(instance.root_directory) / "azure_port_sync"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
