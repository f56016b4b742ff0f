"""The settings: one table that names each variable, its type, default and meaning, and reads them all at once.

The names are those of the guide's script where it has them, so that moving over is a copy of the `.env`. An empty
variable is an unset one. Nothing is read at import: a code location loads in any environment, and a bad value fails
the run with one sentence.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

import dagster as dg
from cronsim import CronSim, CronSimError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.scope import Scope

_GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE).fullmatch
_RESOURCE_TYPE = re.compile(r"[a-z0-9.-]+(/[a-z0-9._-]+)+", re.IGNORECASE).fullmatch
_EXTRA_COLUMN = re.compile(
    r"(sku|kind|plan|properties|identity|zones|extendedLocation|managedBy)(\.\w[\w-]*)*"
).fullmatch
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error.msg} at character {error.pos + 1})") from None


JsonList = Annotated[tuple[str, ...], BeforeValidator(_json)]


class TagFilters(BaseModel):
    """Which resource groups are in scope, by their tags."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include: dict[str, str] = {}
    exclude: dict[str, str] = {}

    @field_validator("include", "exclude")
    @classmethod
    def _named(cls, tags: dict[str, str]) -> dict[str, str]:
        if not all(tags):
            raise ValueError("holds a tag without a name")
        return tags


class Settings(BaseModel):
    """All settings of a run, each under the name of its environment variable. Secrets never print themselves."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    AZURE_TENANT_ID: str | None = Field(None, description="Entra tenant of the app registration.")
    AZURE_CLIENT_ID: str | None = Field(None, description="Application (client) id of the app registration.")
    AZURE_CLIENT_SECRET: SecretStr | None = Field(
        None,
        description="Its secret. Without it: workload identity, managed identity or the Azure CLI, whichever is there.",
    )
    AZURE_CLOUD: Literal["public", "usgov", "china"] = Field(
        "public", description="Which Azure cloud: `public`, `usgov` or `china`.", examples=["usgov"]
    )
    AZURE_RESOURCE_MANAGER_URL: str | None = Field(
        None,
        description="Another address of Azure Resource Manager.",
        examples=["https://management.azure.com"],
    )
    AZURE_AUTHORITY_HOST: str | None = Field(
        None,
        description="Another sign-in host. One that is none of Microsoft's is not looked up at Microsoft.",
        examples=["https://login.microsoftonline.com"],
    )
    AZURE_SUBSCRIPTION_IDS: JsonList = Field(
        (),
        description="Only these subscriptions (JSON list). Unset: every one that the identity can read.",
        examples=['["00000000-0000-0000-0000-000000000000"]'],
    )
    AZURE_EXCLUDED_SUBSCRIPTION_IDS: JsonList = Field(
        (),
        description="Never these subscriptions (JSON list).",
        examples=['["00000000-0000-0000-0000-000000000000"]'],
    )
    AZURE_MANAGEMENT_GROUPS: JsonList = Field(
        (),
        description="Only what lies below these management groups (JSON list of ids).",
        examples=['["contoso-root"]'],
    )
    SUBSCRIPTION_BATCH_SIZE: int = Field(
        1000, ge=1, le=1000, description="Subscriptions per query, 1 to 1000.", examples=["1000"]
    )
    CHANGE_WINDOW_MINUTES: int = Field(
        15,
        ge=1,
        le=60 * 24 * 7,
        description="How far back a run reads at least, in minutes; it always reads back to its watermark.",
        examples=["15"],
    )
    RESOURCE_TYPES: JsonList = Field(
        (),
        description="Only resources of these types, in any casing (JSON list). Unset: all types.",
        examples=['["Microsoft.KeyVault/vaults", "Microsoft.Network/virtualNetworks"]'],
    )
    RESOURCE_GROUP_TAG_FILTERS: Annotated[TagFilters, BeforeValidator(_json)] = Field(
        TagFilters(),
        description="Only resource groups with all `include` tags and none of the `exclude` tags, and what is in them "
        "(JSON); keys and values in any casing.",
        examples=['{"include": {"Environment": "Production"}, "exclude": {"Temporary": "true"}}'],
    )
    EXTRA_RESOURCE_COLUMNS: JsonList = Field(
        (),
        description="More columns of a resource to send (JSON list), each under its own path in `data`.",
        examples=['["sku", "kind", "properties.provisioningState"]'],
    )
    PORT_WEBHOOK_INGEST_URL: SecretStr | None = Field(
        None,
        description="URL of the Port webhook. It holds the webhook's key: treat it as a secret.",
        examples=["https://ingest.port.io/<webhook key>"],
    )
    PORT_WEBHOOK_SECRET: SecretStr | None = Field(
        None,
        description="Signs each event (HMAC-SHA256, header `X-Port-Signature`, prefix `sha256=`).",
    )
    PORT_CLIENT_ID: str | None = Field(
        None,
        description="Client id of Port's API, with which a run asks what Port really holds and what the webhook takes.",
    )
    PORT_CLIENT_SECRET: SecretStr | None = Field(None, description="Its secret.")
    PORT_BASE_URL: str = Field(
        "https://api.port.io",
        description="Address of Port's API; of an account in the US `https://api.us.port.io`.",
        examples=["https://api.port.io"],
    )
    PORT_DELIVERY: Literal["auto", "webhook", "webhook_batch", "api"] = Field(
        "auto",
        description="`webhook`: one event a request. `webhook_batch`: up to 500, for a webhook with our mapping. "
        "`api`: Port's REST API. `auto`: with API credentials what the webhook's mapping can take, or `api` without a "
        "webhook; else `webhook`.",
        examples=["webhook_batch"],
    )
    PORT_MAX_CONCURRENCY: int = Field(
        10, ge=1, le=100, description="Requests to Port in flight, 1 to 100.", examples=["10"]
    )
    PORT_DELIVERY_DEADLINE_MINUTES: int = Field(
        10,
        ge=1,
        le=360,
        description="A run ends when Port has accepted nothing for so many minutes.",
        examples=["10"],
    )
    AZURE_PORT_SYNC_STATE_URL: SecretStr | None = Field(
        None,
        description="Database of watermark and ledger. Unset: a SQLite file in the Dagster instance's directory.",
        examples=["postgresql://user:password@host/database"],
    )
    INCREMENTAL_SYNC_CRON: str = Field(
        "*/15 * * * *", description="When `incremental_sync` runs (cron, UTC).", examples=["*/15 * * * *"]
    )
    FULL_SYNC_CRON: str = Field("7 3 * * *", description="When `full_sync` runs (cron, UTC).", examples=["7 3 * * *"])
    ALERT_WEBHOOK_URL: SecretStr | None = Field(
        None,
        description="Where to post a sentence when syncing begins to fail or stalls, and when it works again: an "
        'incoming webhook of Slack, a workflow of Teams that posts `text`, or whatever takes `{"text": ...}`.',
        examples=["https://hooks.slack.com/services/<key>"],
    )
    REQUESTS_CA_BUNDLE: str | None = Field(
        None, description="File of a private certificate authority.", examples=["/etc/ssl/corporate-ca.pem"]
    )
    SSL_CERT_FILE: str | None = Field(
        None,
        description="The same, where REQUESTS_CA_BUNDLE is unset.",
        examples=["/etc/ssl/corporate-ca.pem"],
    )

    @field_validator("AZURE_SUBSCRIPTION_IDS", "AZURE_EXCLUDED_SUBSCRIPTION_IDS")
    @classmethod
    def _subscription_ids(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return _each(values, _GUID, "a subscription id")

    @field_validator("RESOURCE_TYPES")
    @classmethod
    def _resource_types(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return _each(values, _RESOURCE_TYPE, "a resource type")

    @field_validator("EXTRA_RESOURCE_COLUMNS")
    @classmethod
    def _extra_columns(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return _each(values, _EXTRA_COLUMN, "a column of a resource that is not sent already")

    @field_validator("AZURE_RESOURCE_MANAGER_URL", "AZURE_AUTHORITY_HOST")
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        if value is not None and (_split(value).scheme != "https" or not _split(value).hostname):
            raise ValueError("is not an https:// address")
        return value

    @field_validator("PORT_WEBHOOK_INGEST_URL")
    @classmethod
    def _webhook_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url = _split(value.get_secret_value())
            if url.scheme == "http" and url.hostname not in _LOOPBACK:
                raise ValueError("is plain http, which would show the webhook's key to the network")
            if url.scheme not in ("http", "https") or not url.hostname or not url.path.strip("/"):
                raise ValueError("is not the URL of a webhook")
        return value

    @field_validator("ALERT_WEBHOOK_URL")
    @classmethod
    def _alert_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            url = _split(value.get_secret_value())
            if url.scheme not in ("https", "http") or not url.hostname:
                raise ValueError("is not an https:// address")
            if url.scheme == "http" and url.hostname not in _LOOPBACK:
                raise ValueError("is plain http, which would show its key to the network")
        return value

    @field_validator("PORT_BASE_URL")
    @classmethod
    def _base_url(cls, value: str) -> str:
        """One form of it, without a slash at the end and without ``/v1``: both are written in Port's documentation."""
        url = _split(value)
        if url.scheme == "http" and url.hostname not in _LOOPBACK:
            raise ValueError("is plain http, which would show the client secret to the network")
        if url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc or url.query or url.fragment:
            raise ValueError("is not the address of an API")
        return f"{url.scheme}://{url.netloc}{url.path}".rstrip("/").removesuffix("/v1").rstrip("/")

    @field_validator("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
    @classmethod
    def _file(cls, value: str | None) -> str | None:
        if value is not None and not Path(value).exists():
            raise ValueError(f"names {value}, which does not exist")
        return value

    @field_validator("INCREMENTAL_SYNC_CRON", "FULL_SYNC_CRON")
    @classmethod
    def _cron(cls, value: str) -> str:
        try:
            dg.ScheduleDefinition(name="probe", job_name="probe", cron_schedule=value)
            CronSim(value, datetime(2026, 1, 5, tzinfo=UTC))  # without names like @hourly
        except (dg.DagsterInvalidDefinitionError, CronSimError):
            raise ValueError("is not a cron schedule") from None
        return value

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read all settings. Raises SettingsError, in one sentence with an example, for the first that is wrong."""
        given = {name: value for name, value in environment.items() if value.strip()}
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            mistake = SettingsError(_sentence(error))
        raise mistake  # from outside the handler: the cause would carry the value, which may be a secret

    @classmethod
    def at_import(cls, environment: Mapping[str, str]) -> "Settings":
        """What the definitions themselves are made of, with the default for a value that is wrong.

        A code location that does not load would show nothing at all; a run says what is wrong.
        """
        right: dict[str, str] = {}
        for name in ("INCREMENTAL_SYNC_CRON", "FULL_SYNC_CRON", "ALERT_WEBHOOK_URL"):
            given = {name: environment.get(name, "")}
            with suppress(SettingsError):
                cls.from_environment(given)
                right |= given
        return cls.from_environment(right)

    @model_validator(mode="after")
    def _one_way_to_name_subscriptions(self) -> "Settings":
        if self.AZURE_SUBSCRIPTION_IDS and self.AZURE_MANAGEMENT_GROUPS:
            raise ValueError(
                "AZURE_SUBSCRIPTION_IDS and AZURE_MANAGEMENT_GROUPS are both set, and Azure takes only one of them: "
                "unset one, and use AZURE_EXCLUDED_SUBSCRIPTION_IDS to leave subscriptions out."
            )
        return self

    @model_validator(mode="after")
    def _both_port_credentials(self) -> "Settings":
        if (self.PORT_CLIENT_ID is None) != (self.PORT_CLIENT_SECRET is None):
            given, missing = "PORT_CLIENT_ID", "PORT_CLIENT_SECRET"
            if self.PORT_CLIENT_ID is None:
                given, missing = missing, given
            raise ValueError(
                f"{given} is set, but {missing} is not: set both from the credentials that Port shows, or neither."
            )
        return self

    @property
    def scope(self) -> Scope:
        """What to read from Azure."""
        return Scope.of(
            subscription_ids=self.AZURE_SUBSCRIPTION_IDS,
            excluded_subscription_ids=self.AZURE_EXCLUDED_SUBSCRIPTION_IDS,
            management_groups=self.AZURE_MANAGEMENT_GROUPS,
            resource_types=self.RESOURCE_TYPES,
            include_tags=self.RESOURCE_GROUP_TAG_FILTERS.include,
            exclude_tags=self.RESOURCE_GROUP_TAG_FILTERS.exclude,
            extra_columns=self.EXTRA_RESOURCE_COLUMNS,
        )

    @property
    def change_window(self) -> timedelta:
        return timedelta(minutes=self.CHANGE_WINDOW_MINUTES)

    @property
    def delivery_deadline(self) -> timedelta:
        return timedelta(minutes=self.PORT_DELIVERY_DEADLINE_MINUTES)

    @property
    def longest_pause(self) -> timedelta:
        """The longest time between two ticks of INCREMENTAL_SYNC_CRON, within a week."""
        start = datetime(2026, 1, 5, tzinfo=UTC)  # any Monday
        ticks = takewhile(lambda tick: tick <= start + timedelta(days=8), CronSim(self.INCREMENTAL_SYNC_CRON, start))
        return max((b - a for a, b in pairwise([start, *ticks])), default=timedelta(days=8))

    @property
    def verify(self) -> str | bool:
        """What TLS is verified against: a file of a private authority, or the usual ones. It is always verified."""
        return self.REQUESTS_CA_BUNDLE or self.SSL_CERT_FILE or True


def _split(url: str) -> SplitResult:
    """The parts of a URL; empty ones for a text that is none."""
    try:
        split = urlsplit(url)
        _ = split.port  # raises where it is none
    except ValueError:
        split = SplitResult("", "", "", "", "")
    return split


def _each(values: tuple[str, ...], matches: Any, what: str) -> tuple[str, ...]:
    for value in values:
        if not matches(value):
            raise ValueError(f"holds {value!r}, which is not {what}")
    return values


def _sentence(error: ValidationError) -> str:
    """The first mistake as one sentence: the variable, what is wrong, what right looks like."""
    mistake = error.errors(include_url=False)[0]
    if not mistake["loc"]:
        return str(mistake["ctx"]["error"])
    name = str(mistake["loc"][0])
    info = Settings.model_fields[name]
    if mistake["type"] == "value_error":
        problem = str(mistake["ctx"]["error"])
    else:
        where = "".join(f"[{part!r}]" for part in mistake["loc"][1:])
        text = mistake["msg"]
        problem = f"is wrong{f' at {where}' if where else ''}: {text[:1].lower()}{text[1:]}"
    example = f" Write e.g. {name}={info.examples[0]}" if info.examples else ""
    return f"{name} {problem}.{example}"
