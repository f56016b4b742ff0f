"""Types of settings: each checks one kind of value, and words what is wrong with it after the setting's name.

A message continues the sentence "<NAME> ...". A value that may be a secret is never quoted in it.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, field_validator

from azure_port_sync.core.identity import GUID

_TENANT_ID = re.compile(r"[a-z0-9.-]+", re.IGNORECASE)
_RESOURCE_TYPE = re.compile(r"[a-z0-9.-]+(/[a-z0-9._-]+)+", re.IGNORECASE)
_EXTRA_COLUMN = re.compile(r"(sku|kind|plan|properties|identity|zones|extendedLocation|managedBy)(\.\w[\w-]*)*")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


# -- JSON ------------------------------------------------------------------------------------------------------------


def _parse_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON ({error.msg} at character {error.pos + 1})") from None


def _each(pattern: re.Pattern[str], meaning: str) -> AfterValidator:
    """Return a validator of lists whose items must all match `pattern`."""

    def check(values: tuple[str, ...]) -> tuple[str, ...]:
        for value in values:
            if not pattern.fullmatch(value):
                raise ValueError(f"contains {value!r}, which is not {meaning}")
        return values

    return AfterValidator(check)


JsonList = Annotated[tuple[str, ...], BeforeValidator(_parse_json)]
SubscriptionIds = Annotated[JsonList, _each(GUID, "a subscription id")]
ResourceTypes = Annotated[JsonList, _each(_RESOURCE_TYPE, "a resource type")]
ExtraColumns = Annotated[JsonList, _each(_EXTRA_COLUMN, "a column of a resource that is not sent already")]


class TagFilters(BaseModel):
    """Tags that put a resource group into scope or out of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include: dict[str, str] = {}
    exclude: dict[str, str] = {}

    @field_validator("include", "exclude")
    @classmethod
    def _named(cls, tags: dict[str, str]) -> dict[str, str]:
        if not all(tags):
            raise ValueError("contains a tag without a name")
        return tags


JsonTagFilters = Annotated[TagFilters, BeforeValidator(_parse_json)]


# -- names -----------------------------------------------------------------------------------------------------------


def _tenant_id(value: str | None) -> str | None:
    """Accept what the Azure SDK does: the id of a tenant, or one of its domains."""
    if value is not None and not _TENANT_ID.fullmatch(value):
        raise ValueError(f"is {value!r}, which is not the id of a tenant")
    return value


TenantId = Annotated[str | None, AfterValidator(_tenant_id)]


# -- addresses -------------------------------------------------------------------------------------------------------


def _split(url: str) -> SplitResult:
    """Return the parts of a URL; empty ones for text that is not a URL."""
    try:
        split = urlsplit(url)
        _ = split.port  # raises where it is not a number of a port
    except ValueError:
        split = SplitResult("", "", "", "", "")
    return split


def is_ambiguous_address(url: str) -> bool:
    """Return whether the user name or the password of a URL ends its host early, so that the rest shows as a path."""
    host = re.split(r"[/?#]", url.partition("://")[2] or url, maxsplit=1)[0]
    return "@" in url and "@" not in host


def _is_exposed(url: SplitResult) -> bool:
    """Return whether whatever is sent there can be read on the network."""
    return url.scheme == "http" and url.hostname not in _LOOPBACK


def _is_web_address(url: SplitResult) -> bool:
    return url.scheme in ("http", "https") and bool(url.hostname)


def _https_address(value: str | None) -> str | None:
    if value is not None and (_split(value).scheme != "https" or not _split(value).hostname):
        raise ValueError("is not an https:// address")
    return value


def _secret_url(check: Callable[[SplitResult], None]) -> AfterValidator:
    """Return a validator of URLs that contain a key."""

    def checked(value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check(_split(value.get_secret_value()))
        return value

    return AfterValidator(checked)


def _check_webhook(url: SplitResult) -> None:
    if _is_exposed(url):
        raise ValueError("is plain http, which would show the webhook's key to the network")
    if not _is_web_address(url) or not url.path.strip("/"):
        raise ValueError("is not the URL of a webhook")


def _check_alert_address(url: SplitResult) -> None:
    if not _is_web_address(url):
        raise ValueError("is not an https:// address")
    if _is_exposed(url):
        raise ValueError("is plain http, which would show its key to the network")


def _api_address(value: str) -> str:
    """Return one form of it, without a final slash and without ``/v1``: Port's documentation writes it both ways."""
    url = _split(value)
    if _is_exposed(url):
        raise ValueError("is plain http, which would show the client secret to the network")
    if not _is_web_address(url) or "@" in url.netloc or url.query or url.fragment:
        raise ValueError("is not the address of an API")
    return f"{url.scheme}://{url.netloc}{url.path}".rstrip("/").removesuffix("/v1").rstrip("/")


HttpsAddress = Annotated[str | None, AfterValidator(_https_address)]
WebhookUrl = Annotated[SecretStr | None, _secret_url(_check_webhook)]
AlertUrl = Annotated[SecretStr | None, _secret_url(_check_alert_address)]
ApiAddress = Annotated[str, AfterValidator(_api_address)]


# -- files and times -------------------------------------------------------------------------------------------------


def _existing_file(value: str | None) -> str | None:
    if value is not None and not Path(value).exists():
        raise ValueError(f"names {value}, which does not exist")
    return value


_VALUE = r"([0-9]+|[a-z]{3})"
_TERM = rf"(\*|{_VALUE}(-{_VALUE})?)(/[0-9]+)?"
_FIELD = rf"{_TERM}(,{_TERM})*"
_CRON = re.compile(rf"{_FIELD}\s+{_FIELD}\s+({_FIELD}|L)\s+{_FIELD}\s+({_FIELD}|{_VALUE}#[1-5])", re.IGNORECASE)


def _cron_schedule(value: str) -> str:
    """Accept five fields that CronSim can compute and Dagster accepts as well.

    Both know more than the pattern lets pass (seconds, `@hourly`, `LW`, `5L`), but not the same; and Dagster refuses
    30 February even where a day of the week makes up for it.
    """
    try:
        cron = CronSim(value, datetime(2026, 1, 5, tzinfo=UTC))
    except CronSimError:
        raise ValueError("is not a cron schedule") from None
    if not _CRON.fullmatch(value.strip()) or (cron.months == {2} and min(cron.days) > 29):
        raise ValueError("is not a cron schedule")
    return value


ExistingFile = Annotated[str | None, AfterValidator(_existing_file)]
CronSchedule = Annotated[str, AfterValidator(_cron_schedule)]
