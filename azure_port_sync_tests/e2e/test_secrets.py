"""Nothing that a run leaves behind shows a secret: not when all is well, and not when everything goes wrong."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.dagster_dev import instance_of
from azure_port_sync_tests.support.processes import ROOT, run


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as running:
        yield running


def test_no_secret_is_left_anywhere(sandbox: Sandbox, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "folder"
    for one in (home, folder):
        one.mkdir()
    (home / "dagster.yaml").symlink_to(ROOT / "dagster.yaml")
    webhook = {**sandbox.environment(), "DAGSTER_HOME": str(home)}
    both = {**webhook, **sandbox.api_environment()}
    api = {name: value for name, value in both.items() if not name.startswith("PORT_WEBHOOK")}
    secrets = {
        name: both[name]
        for name in ("AZURE_CLIENT_SECRET", "PORT_WEBHOOK_INGEST_URL", "PORT_WEBHOOK_SECRET", "PORT_CLIENT_SECRET")
    }
    key = both["PORT_WEBHOOK_INGEST_URL"].rpartition("/")[2]
    secrets["the webhook's key"] = key
    said = []

    def execute(job: str, environment: dict[str, str], *faults: Fault, fails: bool = False) -> None:
        for fault in faults:
            sandbox.faults.add(fault)
        command = ("dagster", "job", "execute", "-m", "azure_port_sync.definitions", "-j", job)
        done = run(*command, folder=folder, environment=environment)
        sandbox.faults.clear()
        assert (done.returncode != 0) == fails, done.stderr
        said.append(done.stdout + done.stderr)

    echoes, echoes_secret = ({"message": f"Cannot POST /{one}"} for one in (key, secrets["PORT_CLIENT_SECRET"]))
    execute("full_sync", both, Fault("port", status=400, body=echoes, path=key))
    sandbox.tenant.tag_resource(resource_id=sandbox.tenant.resources()[0]["id"], tags={"a": "change"})
    execute("incremental_sync", webhook, Fault("port", status=401, body=echoes, times=None), fails=True)
    execute("port_setup", both)
    execute("full_sync", api, Fault("port", status=401, body=echoes_secret, path="token", times=None), fails=True)
    azures = {"error": {"code": "Echo", "message": secrets["AZURE_CLIENT_SECRET"]}}
    execute("full_sync", webhook, Fault("azure", status=400, body=azures, path="/resources", times=None), fails=True)
    with instance_of(home) as instance:
        runs = instance.get_runs()
        events = [repr(event) for run in runs for event in instance.all_logs(run.run_id)]
    assert len(runs) == 5
    assert any("check PORT_WEBHOOK_" in event for event in events)

    secrets |= {f"token {number}": token for number, token in enumerate(sandbox.tokens())}
    left = {f"output {number}": text.encode() for number, text in enumerate(said)}
    left |= {f"run {number}": repr(run).encode() for number, run in enumerate(runs)}
    left |= {f"event {number}": text.encode() for number, text in enumerate(events)}
    left |= {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(secrets) > 6
    assert any("state.sqlite" in name for name in left)
    assert [
        (what, where) for what, secret in secrets.items() for where, text in left.items() if secret.encode() in text
    ] == []
