"""A walk through the Dagster UI, as an operator makes it: real processes, a real browser, nothing touched behind it.

With SCREENSHOTS=<folder> (`make screenshots`) the walk leaves its pictures there, for the documentation.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from playwright.sync_api import expect, sync_playwright

from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.browser import CHROMIUM, Operator, Station, page_of
from azure_port_sync_tests.support.listeners import Channel

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine to look at the UI with (Debian: apt-get install chromium)"
)

_SUCCESS, _FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@pytest.fixture
def channel() -> Iterator[Channel]:
    """Where alerts go."""
    opened = Channel()
    yield opened
    opened.close()


@pytest.fixture
def operator(tmp_path: Path, channel: Channel) -> Iterator[Operator]:
    pictures = os.environ.get("SCREENSHOTS")
    with Sandbox() as sandbox:
        station = Station(tmp_path, sandbox, channel.url)
        try:
            with sync_playwright() as playwright, page_of(playwright) as page:
                yield Operator(station, page, Path(pictures) if pictures else None)
        finally:
            station.close()


def test_an_operators_walk(operator: Operator, channel: Channel) -> None:
    _the_schedule_ticks_and_a_change_appears_in_port(operator)
    _the_schedule_is_turned_off(operator)
    _the_assets_explain_themselves(operator)
    _a_dry_run_shows_and_changes_nothing(operator)
    _a_mass_deletion_is_blocked_and_allowed(operator)
    _a_failed_run_says_what_to_do(operator, channel)


def _the_schedule_ticks_and_a_change_appears_in_port(operator: Operator) -> None:
    sandbox = operator.station.sandbox
    assert operator.station.finished().status is _SUCCESS
    group = next(row for row in sandbox.tenant.containers() if row["type"].endswith("resourcegroups"))
    sandbox.tenant.create_resource(group["id"], "microsoft.web/sites", "made-a-minute-ago")

    operator.page.goto(sandbox.url)
    operator.sees("made-a-minute-ago")
    operator.keep("catalog")


def _the_schedule_is_turned_off(operator: Operator) -> None:
    """So that what follows is the operator's alone."""
    operator.open("/automation")
    operator.sees("incremental_sync_schedule")
    operator.sees("sync_alerts")
    row = operator.page.locator("[data-index]", has_text="incremental_sync_schedule")
    row.locator("label[class*=formatSwitch]").click()
    instance = operator.station.instance
    operator.station.wait_for(
        lambda: any(
            state.instigator_name == "incremental_sync_schedule" and not state.is_running
            for state in instance.all_instigator_state()
        )
    )
    operator.station.wait_for(
        lambda: not instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED]))
    )


def _the_assets_explain_themselves(operator: Operator) -> None:
    operator.open("/assets/port_deliveries?view=lineage&lineageScope=upstream&lineageDepth=5")
    for name in ("azure_subscriptions", "azure_resource_groups", "azure_change_set", "port_deliveries"):
        operator.sees(name)
    expect(operator.page.get_by_text("Loading...")).to_have_count(0)
    operator.keep("lineage")

    operator.open("/assets/azure_change_set?view=events")
    operator.sees("mode_reason")
    operator.sees("newest_operations")
    operator.keep("materialization", height=1900)

    operator.open("/assets/port_deliveries")
    operator.sees("Freshness policy")
    operator.sees("platform-engineering")
    operator.page.get_by_text("Plots", exact=True).click()
    expect(operator.page.locator("canvas").first).to_be_visible()
    operator.keep("plots", height=1400)

    operator.open("/assets/azure_change_set?view=checks&checkDetail=subscriptions_present")
    operator.sees("Every subscription that is asked for")
    operator.sees("subscriptions are answered for")
    operator.keep("checks")


def _a_dry_run_shows_and_changes_nothing(operator: Operator) -> None:
    sandbox = operator.station.sandbox
    resource = sandbox.tenant.resources()[0]
    sandbox.tenant.tag_resource(resource["id"], {"seen-in": "a dry run"})
    events = sandbox.port.events

    run = operator.launch("incremental_sync", "mode: incremental", "dry_run: true", picture="launchpad")

    assert run.status is _SUCCESS
    operator.sees("Dry run, nothing is sent.")
    assert sandbox.port.events == events
    operator.open("/assets/azure_change_set?view=events")
    operator.sees("Observed in run")
    operator.sees(resource["name"])


def _a_mass_deletion_is_blocked_and_allowed(operator: Operator) -> None:
    sandbox = operator.station.sandbox
    resources = sandbox.tenant.resources()
    for row in resources[: len(resources) // 2]:
        sandbox.tenant.delete_resource(row["id"])
    events = sandbox.port.events

    blocked = operator.launch("full_sync", "mode: full")

    assert blocked.status is _FAILURE
    assert sandbox.port.events == events
    operator.sees("deletes_within_guard: This run would delete")
    operator.open("/assets/azure_change_set?view=checks&checkDetail=deletes_within_guard")
    operator.sees("would delete")
    operator.sees("allow_mass_delete: true")
    operator.keep("blocked-mass-delete")

    allowed = operator.launch("full_sync", "mode: full", "allow_mass_delete: true")

    assert allowed.status is _SUCCESS
    assert sandbox.compare().sentences() == []


def _a_failed_run_says_what_to_do(operator: Operator, channel: Channel) -> None:
    sandbox = operator.station.sandbox
    sandbox.faults.add(Fault("azure", status=403, path="ResourceGraph", times=None))

    failed = operator.launch("incremental_sync", "mode: incremental")

    assert failed.status is _FAILURE
    operator.sees("Azure does not let this principal read")
    operator.station.wait_for(lambda: channel.posted and "failed" in channel.posted[-1])
    sandbox.faults.clear()
    assert operator.launch("incremental_sync", "mode: incremental").status is _SUCCESS
    operator.station.wait_for(lambda: "incremental_sync works again" in channel.posted[-1])
