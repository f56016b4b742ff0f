"""How a run signs in to Azure."""

import pytest
from azure.identity import ClientSecretCredential, DefaultAzureCredential

from azure_port_sync.resources import _credential
from azure_port_sync.settings import Settings

AUTHORITY = "login.microsoftonline.com"
REGISTRATION = {"AZURE_TENANT_ID": "0b1f6471-1bf0-4dda-aec3-cb9272f09590", "AZURE_CLIENT_ID": "x"}


def test_a_client_secret_is_used_where_one_is_set() -> None:
    settings = Settings.from_environment({**REGISTRATION, "AZURE_CLIENT_SECRET": "s"})

    assert isinstance(_credential(settings, AUTHORITY), ClientSecretCredential)


@pytest.mark.parametrize("empty", ["AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_CLIENT_ID"])
def test_an_empty_variable_is_an_unset_one_for_the_sdk_as_well(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    """CI systems pass a secret that is unset as an empty variable, and the SDK took it for a secret of no length."""
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.setenv(name, "" if name in (empty, "AZURE_CLIENT_SECRET") else "x")

    assert isinstance(_credential(Settings.from_environment({}), AUTHORITY), DefaultAzureCredential)
