"""Sign-in to Azure: with a client secret where one is set, otherwise with this machine's own identity."""

import logging
import os
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from azure.core import AzureClouds
from azure.core.credentials import TokenCredential
from azure.identity import AzureAuthorityHosts, ClientSecretCredential, DefaultAzureCredential
from azure.mgmt.core.tools import get_arm_endpoints

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import SettingsError
from azure_port_sync.resource_graph.transport import BoundedTransport
from azure_port_sync.settings import Settings

#: The Azure SDK's names of each AZURE_CLOUD: of its endpoints, and of the host that signs in.
_CLOUDS = {
    "public": (AzureClouds.AZURE_PUBLIC_CLOUD, AzureAuthorityHosts.AZURE_PUBLIC_CLOUD),
    "usgov": (AzureClouds.AZURE_US_GOVERNMENT, AzureAuthorityHosts.AZURE_GOVERNMENT),
    "china": (AzureClouds.AZURE_CHINA_CLOUD, AzureAuthorityHosts.AZURE_CHINA),
}
_MICROSOFTS_HOSTS = frozenset(host for _, host in _CLOUDS.values())


@dataclass(frozen=True)
class AzureSignIn:
    """A credential and its secrets, with the address of Azure Resource Manager and the scopes of its tokens."""

    credential: TokenCredential
    resource_manager_url: str
    scopes: list[str]
    secrets: list[str] = field(repr=False)


def sign_in(settings: Settings, clock: Clock) -> AzureSignIn:
    """Return the sign-in of these settings; nothing is sent yet."""
    # The SDK logs each failure whole, with the secrets that its body may repeat; the run shows it without them.
    logging.getLogger("azure.identity").setLevel(logging.ERROR)
    cloud, cloud_authority = _CLOUDS[settings.AZURE_CLOUD]
    endpoints = get_arm_endpoints(cloud)
    return AzureSignIn(
        _credential(settings, settings.AZURE_AUTHORITY_HOST or cloud_authority, clock),
        settings.AZURE_RESOURCE_MANAGER_URL or endpoints["resource_manager"].rstrip("/"),
        endpoints["credential_scopes"],
        [settings.AZURE_CLIENT_SECRET.get_secret_value()] if settings.AZURE_CLIENT_SECRET else [],
    )


def _credential(settings: Settings, authority: str, clock: Clock) -> TokenCredential:
    transport = BoundedTransport(clock, connection_verify=settings.verify)
    options: dict[str, Any] = {"authority": authority, "transport": transport}
    if urlsplit(authority if "//" in authority else f"//{authority}").hostname not in _MICROSOFTS_HOSTS:
        options["disable_instance_discovery"] = True  # Microsoft does not know this host and must not be asked about it
    if settings.AZURE_CLIENT_SECRET is None:
        return _identity_of_this_machine(settings, options)
    if not (settings.AZURE_TENANT_ID and settings.AZURE_CLIENT_ID):
        missing = "AZURE_CLIENT_ID" if settings.AZURE_TENANT_ID else "AZURE_TENANT_ID"
        raise SettingsError(
            f"AZURE_CLIENT_SECRET is set, but {missing} is not: set both from the app registration's overview page, "
            "or unset the secret to sign in with this machine's identity."
        )
    secret = settings.AZURE_CLIENT_SECRET.get_secret_value()
    options["retry_total"] = 0  # the reader of Azure does all retries
    return ClientSecretCredential(settings.AZURE_TENANT_ID, settings.AZURE_CLIENT_ID, secret, **options)


def _identity_of_this_machine(settings: Settings, options: dict[str, Any]) -> TokenCredential:
    """Return workload identity, managed identity or the Azure CLI, whichever is there."""
    # The SDK reads variables itself, and takes an empty one for a value and a line feed for a part of one; but CI
    # systems pass settings that are unset as empty variables, and secrets from files end with a line feed.
    for name, value in [(name, value) for name, value in os.environ.items() if name.startswith("AZURE_")]:
        if stripped := value.strip():
            os.environ[name] = stripped
        else:
            del os.environ[name]
    try:
        return DefaultAzureCredential(
            managed_identity_client_id=settings.AZURE_CLIENT_ID,
            workload_identity_client_id=settings.AZURE_CLIENT_ID,
            workload_identity_tenant_id=settings.AZURE_TENANT_ID,
            **options,
        )
    except (OSError, ValueError) as error:  # a certificate that is missing, or is none
        raise SettingsError(
            f"Signing in to Azure with this machine's identity is not possible: {error}. Check "
            "AZURE_CLIENT_CERTIFICATE_PATH, AZURE_TENANT_ID and AZURE_CLIENT_ID."
        ) from None
