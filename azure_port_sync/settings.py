"""The settings: one table with the name, type, default and meaning of each variable, and the one way to read them.

Where the guide's script has a setting, the name is the same, so that moving over is a copy of the `.env`. An empty
variable is an unset one, and blanks and line feeds around a value are no part of it. Nothing is read at import: a code
location loads in any environment, and a bad value fails the run with one sentence.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations, takewhile
from typing import Literal

from cronsim import CronSim
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.scope import Scope
from azure_port_sync.setting_types import (
    AlertUrl,
    ApiAddress,
    CronSchedule,
    ExistingFile,
    ExtraColumns,
    HttpsAddress,
    JsonList,
    JsonTagFilters,
    ResourceTypes,
    SubscriptionIds,
    TagFilters,
    TenantId,
    WebhookUrl,
    is_ambiguous_address,
)

#: Variables of the HTTP clients, each of which would quote the end of such a password as if it were a host.
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


class Settings(BaseModel):
    """All settings of a run, each under the name of its environment variable. Secrets never print themselves."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    AZURE_TENANT_ID: TenantId = Field(
        None, description="Entra tenant of the app registration.", examples=["00000000-0000-0000-0000-000000000000"]
    )
    AZURE_CLIENT_ID: str | None = Field(None, description="Application (client) id of the app registration.")
    AZURE_CLIENT_SECRET: SecretStr | None = Field(
        None,
        description="Its secret. Without it: workload identity, managed identity or the Azure CLI, whichever is there.",
    )
    AZURE_CLOUD: Literal["public", "usgov", "china"] = Field(
        "public", description="Which Azure cloud: `public`, `usgov` or `china`.", examples=["usgov"]
    )
    AZURE_RESOURCE_MANAGER_URL: HttpsAddress = Field(
        None, description="Another address for Azure Resource Manager.", examples=["https://management.azure.com"]
    )
    AZURE_AUTHORITY_HOST: HttpsAddress = Field(
        None,
        description="Another sign-in host. If it is not one of Microsoft's, Microsoft is not asked about it.",
        examples=["https://login.microsoftonline.com"],
    )
    AZURE_SUBSCRIPTION_IDS: SubscriptionIds = Field(
        (),
        description="Only these subscriptions (JSON list). Unset: all that the identity can read.",
        examples=['["00000000-0000-0000-0000-000000000000"]'],
    )
    AZURE_EXCLUDED_SUBSCRIPTION_IDS: SubscriptionIds = Field(
        (), description="Never these subscriptions (JSON list).", examples=['["00000000-0000-0000-0000-000000000000"]']
    )
    AZURE_MANAGEMENT_GROUPS: JsonList = Field(
        (), description="Only what is below these management groups (JSON list of ids).", examples=['["contoso-root"]']
    )
    SUBSCRIPTION_BATCH_SIZE: int = Field(
        1000, ge=1, le=1000, description="Subscriptions per query, 1 to 1000.", examples=["1000"]
    )
    CHANGE_WINDOW_MINUTES: int = Field(
        15,
        ge=1,
        le=60 * 24 * 7,
        description="How far back a run reads at least, in minutes; it always reads back to where the last successful "
        "run ended.",
        examples=["15"],
    )
    RESOURCE_TYPES: ResourceTypes = Field(
        (),
        description="Only resources of these types, in any casing (JSON list). Unset: all types.",
        examples=['["Microsoft.KeyVault/vaults", "Microsoft.Network/virtualNetworks"]'],
    )
    RESOURCE_GROUP_TAG_FILTERS: JsonTagFilters = Field(
        TagFilters(),
        description="Only resource groups with all `include` tags and none of the `exclude` tags, and what is in them "
        "(JSON); keys and values in any casing.",
        examples=['{"include": {"Environment": "Production"}, "exclude": {"Temporary": "true"}}'],
    )
    EXTRA_RESOURCE_COLUMNS: ExtraColumns = Field(
        (),
        description="More columns of a resource to send (JSON list), each under its own path in `data`.",
        examples=['["sku", "kind", "properties.provisioningState"]'],
    )
    PORT_WEBHOOK_INGEST_URL: WebhookUrl = Field(
        None,
        description="URL of the Port webhook. It contains the webhook's key: treat it as a secret.",
        examples=["https://ingest.port.io/<webhook key>"],
    )
    PORT_WEBHOOK_SECRET: SecretStr | None = Field(
        None, description="Signs each event (HMAC-SHA256, header `X-Port-Signature`, prefix `sha256=`)."
    )
    PORT_CLIENT_ID: str | None = Field(
        None,
        description="Client id of Port's API, which lets a run ask what Port really contains and what the webhook "
        "accepts.",
    )
    PORT_CLIENT_SECRET: SecretStr | None = Field(None, description="Its secret.")
    PORT_BASE_URL: ApiAddress = Field(
        "https://api.port.io",
        description="Address of Port's API; of an account in the US `https://api.us.port.io`.",
        examples=["https://api.port.io"],
    )
    PORT_DELIVERY: Literal["auto", "webhook", "webhook_batch", "api"] = Field(
        "auto",
        description="`webhook`: one event per request. `webhook_batch`: up to 500 events, for a webhook with our "
        "mapping. `api`: Port's REST API. `auto`: with API credentials whatever the webhook's mapping supports, or "
        "`api` where there is no webhook; otherwise `webhook`.",
        examples=["webhook_batch"],
    )
    PORT_MAX_CONCURRENCY: int = Field(
        10, ge=1, le=100, description="Requests to Port in flight, 1 to 100.", examples=["10"]
    )
    PORT_DELIVERY_DEADLINE_MINUTES: int = Field(
        10,
        ge=1,
        le=360,
        description="A run ends when Port has accepted nothing for this many minutes.",
        examples=["10"],
    )
    AZURE_PORT_SYNC_STATE_URL: SecretStr | None = Field(
        None,
        description="Database of the sync's state (watermark and ledger). Unset: a SQLite file in the Dagster "
        "instance's directory.",
        examples=["postgresql://user:password@host/database"],
    )
    INCREMENTAL_SYNC_CRON: CronSchedule = Field(
        "*/15 * * * *", description="When `incremental_sync` runs (cron, UTC).", examples=["*/15 * * * *"]
    )
    FULL_SYNC_CRON: CronSchedule = Field(
        "7 3 * * *", description="When `full_sync` runs (cron, UTC).", examples=["7 3 * * *"]
    )
    ALERT_WEBHOOK_URL: AlertUrl = Field(
        None,
        description="Where to post a message when syncing starts to fail or stalls, and when it works again: an "
        'incoming webhook of Slack, a workflow of Teams that posts `text`, or anything that accepts `{"text": ...}`.',
        examples=["https://hooks.slack.com/services/<key>"],
    )
    REQUESTS_CA_BUNDLE: ExistingFile = Field(
        None, description="File of a private certificate authority.", examples=["/etc/ssl/corporate-ca.pem"]
    )
    SSL_CERT_FILE: ExistingFile = Field(
        None, description="The same, where REQUESTS_CA_BUNDLE is unset.", examples=["/etc/ssl/corporate-ca.pem"]
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read all settings. Raises SettingsError, one sentence with an example, for the first wrong one."""
        given = {name: value.strip() for name, value in environment.items() if value.strip()}
        for name, value in given.items():
            if name.lower() in _PROXIES and is_ambiguous_address(value):
                raise SettingsError(
                    f"{name} has a /, ? or # in its user name or password: write %2F, %3F or %23 in its place."
                )
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            mistake = SettingsError(_sentence(error))
        raise mistake  # from outside the handler: the cause would carry the value, which may be a secret

    @classmethod
    def at_import(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings that the definitions depend on, with the default in place of a value that is wrong.

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
        for given, missing in permutations(("PORT_CLIENT_ID", "PORT_CLIENT_SECRET")):
            if getattr(self, given) is not None and getattr(self, missing) is None:
                raise ValueError(
                    f"{given} is set, but {missing} is not: set both from the credentials that Port shows, or neither."
                )
        return self

    @property
    def scope(self) -> Scope:
        """The part of Azure that is kept in sync."""
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
        """The certificate authorities for TLS: a private one's file, or the usual ones. TLS is always verified."""
        return self.REQUESTS_CA_BUNDLE or self.SSL_CERT_FILE or True


def _sentence(error: ValidationError) -> str:
    """Return the first mistake as one sentence: the variable, what is wrong, what a right value looks like."""
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
