"""The resources: the sign-in to Azure, and the credentials for Port."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from azure.identity import ClientSecretCredential, DefaultAzureCredential

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.defs.azure_sign_in import sign_in
from azure_port_sync.defs.resources import AzureResource, PortResource, StateResource
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.settings import Settings
from azure_port_sync_tests.support.clocks import SteppedClock, StillClock

REGISTRATION = {"AZURE_TENANT_ID": "0b1f6471-1bf0-4dda-aec3-cb9272f09590", "AZURE_CLIENT_ID": "x"}


def test_a_client_secret_is_used_where_one_is_set() -> None:
    settings = Settings.from_environment({**REGISTRATION, "AZURE_CLIENT_SECRET": "s"})

    assert isinstance(sign_in(settings, StillClock()).credential, ClientSecretCredential)


@pytest.mark.parametrize("empty", ["AZURE_CLIENT_SECRET", "AZURE_TENANT_ID", "AZURE_CLIENT_ID"])
def test_an_empty_variable_is_an_unset_one_for_the_sdk_as_well(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    """CI systems pass a secret that is unset as an empty variable, and the SDK took it for a secret of no length."""
    for name in ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"):
        monkeypatch.setenv(name, "" if name in (empty, "AZURE_CLIENT_SECRET") else "x")

    assert isinstance(sign_in(Settings.from_environment({}), StillClock()).credential, DefaultAzureCredential)


def test_the_sdk_reads_no_line_feed_at_the_end_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**REGISTRATION, "AZURE_CLIENT_SECRET": ""}.items():
        monkeypatch.setenv(name, f"{value}\n")

    sign_in(Settings.from_environment(dict(os.environ)), StillClock())

    assert {name: os.environ.get(name) for name in REGISTRATION} == REGISTRATION


def test_a_certificate_that_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**REGISTRATION, "AZURE_CLIENT_CERTIFICATE_PATH": "/none.pem"}.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError, match=r"No such file or directory: '/none.pem'.*AZURE_CLIENT_CERTIFICATE_PATH"):
        sign_in(Settings.from_environment({}), StillClock())


def test_a_wrong_tenant_id_fails_the_run_in_one_sentence(
    sandbox: Sandbox, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = sandbox.environment() | {"AZURE_TENANT_ID": f"'{sandbox.tenant.tenant_id}'"}

    with _resources(monkeypatch, environment, azure=AzureResource(clock=clock)) as built:
        with pytest.raises(SettingsError) as error:
            built.azure.check()
        assert "AZURE_TENANT_ID is" in str(error.value)
        assert "which is not the id of a tenant" in str(error.value)


@contextmanager
def _resources(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], **resources: Any) -> Iterator[Any]:
    """The resources as a run gets them, in this environment."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with dg.build_resources(resources) as built:
        yield built


def test_port_can_be_asked_where_there_are_credentials(
    sandbox: Sandbox, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox.put_entity(packaged_blueprints()[Kind.RESOURCE], "/a")
    environment = sandbox.environment() | sandbox.api_environment()
    environment["PORT_BASE_URL"] += "/v1/"

    with _resources(monkeypatch, environment, port=PortResource(clock=clock)) as built:
        ((entity,),) = built.port.api.entities(packaged_blueprints()[Kind.RESOURCE])

    assert entity.identifier == "/a"


def test_port_is_not_asked_without_credentials(
    sandbox: Sandbox, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _resources(monkeypatch, sandbox.environment(), port=PortResource(clock=clock)) as built:
        assert built.port.api is None


def test_the_api_of_port_is_closed_with_the_run(
    sandbox: Sandbox, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = sandbox.environment() | sandbox.api_environment()
    closed = []

    with _resources(monkeypatch, environment, port=PortResource(clock=clock)) as built:
        monkeypatch.setattr(built.port.api, "close", lambda: closed.append(True))

    assert closed == [True]


def test_secrets_of_other_names_are_found_and_missed_by_nobody_else(
    sandbox: Sandbox, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Half of the usual credentials is a mistake for Port's resource alone: only it knows the other half's name."""
    api = sandbox.api_environment()
    environment = sandbox.environment() | api | {"TEAM_SECRET": api["PORT_CLIENT_SECRET"], "PORT_CLIENT_SECRET": ""}
    environment["AZURE_PORT_SYNC_STATE_URL"] = f"sqlite:///{tmp_path / 'state.sqlite'}"
    resources = {
        "azure": AzureResource(clock=clock),
        "state": StateResource(clock=clock),
        "port": PortResource(clock=clock, client_secret_variable="TEAM_SECRET"),
    }

    with _resources(monkeypatch, environment, **resources) as built:
        for name in resources:
            getattr(built, name).check()
        assert list(built.port.api.entities(packaged_blueprints()[Kind.RESOURCE])) == [[]]


def test_half_of_the_credentials_fails_the_run(
    sandbox: Sandbox, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = sandbox.environment() | sandbox.api_environment()
    del environment["PORT_CLIENT_SECRET"]

    with _resources(monkeypatch, environment, port=PortResource(clock=clock)) as built:
        for ask in (lambda: built.port.api, built.port.check):
            with pytest.raises(SettingsError, match="PORT_CLIENT_SECRET is not"):
                ask()
