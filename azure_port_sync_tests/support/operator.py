"""An operator of the jobs: runs them in this process against the sandbox, and reads what they recorded."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest

from azure_port_sync.core import guard
from azure_port_sync.definitions import definitions
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.clocks import SteppedClock

#: The time from one run to the next.
TICK = timedelta(minutes=15)


@dataclass
class Operator:
    """Runs jobs on one Dagster instance, a tick apart, and looks at what they recorded."""

    sandbox: Sandbox
    instance: dg.DagsterInstance
    clock: SteppedClock

    def run(self, job: str = "incremental_sync", **config: Any) -> dg.ExecuteInProcessResult:
        """Run a job with this config of `azure_change_set`."""
        self.clock.sleep(TICK.total_seconds())
        resolved = definitions(self.clock).resolve_job_def(job)
        run_config = {"ops": {"azure_change_set": {"config": config}}} if config else None
        return resolved.execute_in_process(run_config=run_config, instance=self.instance, raise_on_error=False)

    def sync(self, job: str = "incremental_sync", **config: Any) -> Mapping[str, Any]:
        """Run a job that must succeed, and return what its assets recorded."""
        result = self.run(job, **config)
        assert result.success, failure(result)
        return recorded(result)

    def converges(self) -> None:
        """Assert that one tick makes the catalog equal to the tenant, and that the next finds nothing to do."""
        self.sync()
        assert self.sandbox.compare().sentences() == []
        assert self.sync()["accepted"] == 0


#: A filter that leaves out nothing of the small estate, and the tags that take a group out of its scope.
NOT_RETIRED, RETIRED = '{"exclude": {"retired": "yes"}}', {"retired": "yes"}


def small_estate(sandbox: Sandbox) -> dict[str, str]:
    """Add two subscriptions with three groups and four resources, older than any change record; ids by short names."""
    tenant = sandbox.tenant
    ids = {"prod": tenant.add_subscription(name="Production", tags={"Env": "prod"})}
    ids["dev"] = tenant.add_subscription(name="Dev & Test")
    ids["web"] = tenant.add_group(subscription_id=ids["prod"], name="Web (old)", location="westeurope", tags={"a": "ä"})
    ids["data"] = tenant.add_group(subscription_id=ids["prod"], name="data", location="westeurope")
    ids["lab"] = tenant.add_group(subscription_id=ids["dev"], name="lab", location="northeurope", tags={"Env": "DEV"})
    for name, group, type_ in (
        ("site", "web", "Microsoft.Web/sites"),
        ("Failure Anomalies - site", "web", "microsoft.alertsManagement/smartDetectorAlertRules"),
        ("sql", "data", "Microsoft.Sql/servers"),
        ("vm", "lab", "Microsoft.Compute/virtualMachines"),
    ):
        ids[name] = tenant.create_resource(
            group_id=ids[group], type=type_, name=name, tags={"owner": "O'Brien \\ Söhne"}
        )
    sandbox.clock.advance(timedelta(days=30))
    return ids


def begin_mass_deletion(operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sync the small estate, then take a third of it out of scope, which the guard holds."""
    monkeypatch.setattr(guard, "MIN_DELETES", 1)
    monkeypatch.setenv("RESOURCE_GROUP_TAG_FILTERS", NOT_RETIRED)
    operator.sync()
    operator.sandbox.tenant.retag_group(estate["web"], RETIRED)


def recorded(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Return the metadata of all materializations of a run, in one dict."""
    return {
        name: value.value
        for node in ("azure_snapshot", "azure_change_set", "port_deliveries")
        for event in result.asset_materializations_for_node(node)
        for name, value in event.metadata.items()
    }


def observed(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    """Return the metadata of what a dry run recorded."""
    (event,) = result.asset_observations_for_node("azure_change_set")
    return {name: value.value for name, value in event.metadata.items()}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Return the messages of the steps that failed."""
    errors = [event.step_failure_data.error for event in result.all_events if event.is_step_failure]
    return "\n".join(error.message for error in errors if error)


def failed_checks(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Return the sentences of the checks that did not pass."""
    evaluations = result.get_asset_check_evaluations()
    return {check.check_name: check.description or "" for check in evaluations if not check.passed}
