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
from azure_port_sync_tests.support.azure import error_body
from azure_port_sync_tests.support.browser import CHROMIUM, SandboxDev, Visitor, page_of
from azure_port_sync_tests.support.listeners import Channel
from azure_port_sync_tests.support.operator import RETIRED

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine to look at the UI with (Debian: apt-get install chromium)"
)

_SUCCESS, _FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@pytest.fixture
def channel() -> Iterator[Channel]:
    """The channel that alerts are posted to."""
    opened = Channel()
    yield opened
    opened.close()


@pytest.fixture
def visitor(tmp_path: Path, channel: Channel) -> Iterator[Visitor]:
    pictures = os.environ.get("SCREENSHOTS")
    with Sandbox() as sandbox:
        dev = SandboxDev(tmp_path, sandbox, channel.url)
        try:
            with sync_playwright() as playwright, page_of(playwright) as page:
                yield Visitor(dev, page, Path(pictures) if pictures else None)
        finally:
            dev.close()


def test_an_operators_walk(visitor: Visitor, channel: Channel) -> None:
    _the_schedule_ticks_and_a_change_appears_in_port(visitor)
    _the_schedule_is_turned_off(visitor)
    _the_assets_explain_themselves(visitor)
    _a_dry_run_shows_and_changes_nothing(visitor)
    _a_mass_deletion_is_held_and_allowed(visitor)
    _a_failed_run_says_what_to_do(visitor, channel)


def _the_schedule_ticks_and_a_change_appears_in_port(visitor: Visitor) -> None:
    sandbox = visitor.dev.sandbox
    assert visitor.dev.finished().status is _SUCCESS
    group = next(row for row in sandbox.tenant.containers() if row["type"].endswith("resourcegroups"))
    sandbox.tenant.create_resource(group["id"], "microsoft.web/sites", "made-a-minute-ago")

    visitor.page.goto(sandbox.url)
    visitor.sees("made-a-minute-ago")
    visitor.keep("catalog")


def _the_schedule_is_turned_off(visitor: Visitor) -> None:
    """So that what follows is the operator's alone."""
    visitor.open("/automation")
    visitor.sees("incremental_sync_schedule")
    visitor.sees("sync_alerts")
    row = visitor.page.locator("[data-index]", has_text="incremental_sync_schedule")
    row.locator("label[class*=formatSwitch]").click()
    instance = visitor.dev.instance
    visitor.dev.wait_for(
        lambda: any(
            state.instigator_name == "incremental_sync_schedule" and not state.is_running
            for state in instance.all_instigator_state()
        )
    )
    visitor.dev.wait_for(
        lambda: not instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED]))
    )


def _the_assets_explain_themselves(visitor: Visitor) -> None:
    visitor.open("/assets/port_deliveries?view=lineage&lineageScope=upstream&lineageDepth=5")
    for name in ("azure_subscriptions", "azure_resource_groups", "azure_change_set", "port_deliveries"):
        visitor.sees(name)
    expect(visitor.page.get_by_text("Loading...")).to_have_count(0)
    visitor.keep("lineage")

    visitor.open("/assets/azure_change_set?view=events")
    visitor.sees("mode_reason")
    visitor.sees("newest_operations")
    visitor.keep("materialization", height=1900)

    visitor.open("/assets/port_deliveries")
    visitor.sees("Freshness policy")
    visitor.sees("platform-engineering")
    visitor.page.get_by_text("Plots", exact=True).click()
    expect(visitor.page.locator("canvas").first).to_be_visible()
    visitor.keep("plots", height=1400)

    visitor.open("/assets/azure_change_set?view=checks&checkDetail=subscriptions_present")
    visitor.sees("Azure answers for every subscription that is named")
    visitor.sees("Azure answers for all 6 subscriptions")
    visitor.keep("checks")


def _a_dry_run_shows_and_changes_nothing(visitor: Visitor) -> None:
    sandbox = visitor.dev.sandbox
    resource = sandbox.tenant.resources()[0]
    sandbox.tenant.tag_resource(resource["id"], {"seen-in": "a dry run"})
    events = sandbox.port.events

    run = visitor.launch("incremental_sync", "mode: incremental", "dry_run: true", picture="launchpad")

    assert run.status is _SUCCESS
    visitor.sees("Dry run, nothing is sent.")
    assert sandbox.port.events == events
    visitor.open("/assets/azure_change_set?view=events")
    visitor.sees("Observed in run")
    visitor.sees(resource["name"])


def _a_mass_deletion_is_held_and_allowed(visitor: Visitor) -> None:
    sandbox = visitor.dev.sandbox
    for row in sandbox.tenant.containers():
        if row["type"].endswith("resourcegroups"):
            sandbox.tenant.retag_group(row["id"], RETIRED)

    held = visitor.launch("full_sync", "mode: full")

    assert held.status is _FAILURE
    visitor.sees("would be deleted without a Delete record")
    visitor.open("/assets/azure_change_set?view=checks&checkDetail=deletes_within_guard")
    visitor.sees("They are held, and everything else is delivered.")
    visitor.sees("allow_mass_delete: true")
    visitor.keep("held-mass-delete")

    allowed = visitor.launch("full_sync", "mode: full", "allow_mass_delete: true")

    assert allowed.status is _SUCCESS
    assert sandbox.compare(exclude=RETIRED).sentences() == []


def _a_failed_run_says_what_to_do(visitor: Visitor, channel: Channel) -> None:
    sandbox = visitor.dev.sandbox
    refusal = error_body("AuthorizationFailed")
    sandbox.faults.add(Fault("azure", status=403, body=refusal, path="ResourceGraph", times=None))

    failed = visitor.launch("incremental_sync", "mode: incremental")

    assert failed.status is _FAILURE
    visitor.sees("Azure does not let this principal read")
    expect(visitor.page.get_by_text("Stack trace", exact=False)).to_have_count(0)
    visitor.keep("failed-run")
    visitor.dev.wait_for(lambda: channel.posted and "failed" in channel.posted[-1])
    sandbox.faults.clear()
    assert visitor.launch("incremental_sync", "mode: incremental").status is _SUCCESS
    visitor.dev.wait_for(lambda: "incremental_sync works again" in channel.posted[-1])
