"""The jobs as Dagster runs them, against the sandbox: what changed in the tenant is in the catalog after one tick."""

import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from itertools import count
from typing import Any

import dagster as dg
import pytest

from azure_port_sync.core.clock import SystemClock
from azure_port_sync.core.rows import CHANGE_SET, frame_of
from azure_port_sync.definitions import definitions
from azure_port_sync.defs import assets
from azure_port_sync.defs.metadata import links_metadata
from azure_port_sync.defs.resources import PortResource
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.operator import (
    RETIRED,
    TICK,
    Operator,
    begin_mass_deletion,
    failed_checks,
    failure,
    observed,
    recorded,
)

CHECKS = (
    "containers_match_azure",
    "containers_readable",
    "rows_match_azure",
    "rows_readable",
    "records_accounted_for",
    "candidates_accounted_for",
    "identifiers_valid",
    "subscriptions_present",
    "deletes_within_guard",
    "deliveries_match_change_set",
    "deliveries_complete",
    "quarantine_empty",
    "ledger_matches_inventory",
    "port_holds_ledger",
    "watermark_recent",
)


def tags_of(operator: Operator, result: dg.ExecuteInProcessResult) -> Mapping[str, str]:
    run = operator.instance.get_run_by_id(result.run_id)
    assert run is not None
    return run.tags


def test_the_first_run_is_full_and_fills_the_catalog(operator: Operator, estate: dict[str, str]) -> None:
    result = operator.run()

    figures = recorded(result)
    assert operator.sandbox.compare().sentences() == []
    assert figures["mode"] == "full"
    assert figures["mode_reason"] == "this target has never been synced"
    assert figures["upserts"] == figures["accepted"] == len(estate)
    assert tags_of(operator, result)["azure_port_sync/mode"] == "full"
    assert tags_of(operator, result)["azure_port_sync/reason"] == figures["mode_reason"]
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks.pop("no_stale_entities") is False  # nobody knows what Port contained before the first run
    assert checks == dict.fromkeys(CHECKS, True)


def test_a_run_with_nothing_new_delivers_nothing(operator: Operator, estate: dict[str, str]) -> None:
    operator.sync()
    before = operator.sandbox.port.events

    result = operator.run()

    figures = recorded(result)
    assert figures["mode"] == "incremental"
    assert figures["accepted"] == 0
    assert figures["unchanged"] == 5  # the containers; nothing else has a change record
    assert operator.sandbox.port.events == before
    assert failed_checks(result) == {}
    tags = tags_of(operator, result)
    assert tags["azure_port_sync/mode"] == "incremental"
    assert re.fullmatch(r"\(2026-12-\d\d .*, 2026-12-\d\d .*\] UTC", tags["azure_port_sync/window"])

    operator.sandbox.tenant.touch_resource(resource_id=estate["sql"])  # a record without a visible change
    touched = operator.sync()
    assert (touched["records_read"], touched["accepted"]) == (1, 0)


def test_a_full_sync_finds_what_has_no_record_and_with_force_sends_everything(
    operator: Operator, estate: dict[str, str]
) -> None:
    operator.sync()
    operator.sandbox.tenant.grow(resources=3, records=False)

    found = operator.run("full_sync")
    assert (recorded(found)["mode"], failed_checks(found)) == ("full", {})
    assert recorded(found)["accepted"] >= 3
    assert operator.sandbox.compare().sentences() == []

    forced = operator.sync("full_sync", mode="full", force=True)
    assert forced["accepted"] == sum(len(entities) for entities in operator.sandbox.held().values())
    assert forced["unchanged"] == 0


def test_a_vanished_subscription_is_shown_with_how_long_its_entities_stay(
    operator: Operator, estate: dict[str, str]
) -> None:
    operator.sync()
    operator.sandbox.tenant.lose_subscription(subscription_id=estate["dev"])

    result = operator.run()

    assert result.success
    assert re.search(
        rf"1 subscription has vanished: {estate['dev']}. Its 3 entities stay in Port until 2026-12-2\d",
        failed_checks(result)["subscriptions_present"],
    )
    assert recorded(result)["in_grace_period"] == 3


def test_an_identity_that_sees_nothing_empties_no_catalog(operator: Operator, estate: dict[str, str]) -> None:
    operator.sync()
    for subscription in ("prod", "dev"):
        operator.sandbox.tenant.lose_subscription(subscription_id=estate[subscription])

    failed = operator.run()

    assert "Azure shows this identity no subscription at all" in failure(failed)
    assert len(operator.sandbox.held()["azureCloudResources"]) == 4


def test_more_than_one_page_of_changes_in_one_window(operator: Operator, estate: dict[str, str]) -> None:
    operator.sync()
    operator.sandbox.tenant.create_resources(
        items=[{"group_id": estate["lab"], "type": "Microsoft.Web/sites", "name": f"site {n}"} for n in range(1234)]
    )

    figures = operator.sync()

    assert figures["records_read"] == figures["upserts"] == figures["accepted"] == 1234
    assert operator.sandbox.compare().sentences() == []


FILTERS = '{"include": {"ENV": "Dev"}, "exclude": {"temporary": "yes"}}'


def test_tag_filters_and_types_select_what_is_in_the_catalog(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = operator.sandbox.tenant
    scope: dict[str, Any] = {
        "include": {"env": "dev"},
        "exclude": {"Temporary": "YES"},
        "resource_types": ["microsoft.compute/virtualmachines"],
    }
    monkeypatch.setenv("RESOURCE_GROUP_TAG_FILTERS", FILTERS)
    monkeypatch.setenv("RESOURCE_TYPES", '["MICROSOFT.Compute/virtualMachines"]')
    operator.sync()
    assert operator.sandbox.compare(**scope).sentences() == []

    tenant.retag_group(group_id=estate["web"], tags={"eNv": "DEV"})
    tenant.create_resource(group_id=estate["web"], type="Microsoft.Compute/virtualMachines", name="in")
    tenant.create_resource(group_id=estate["web"], type="Microsoft.Web/sites", name="out")
    operator.sync()
    assert operator.sandbox.compare(**scope).sentences() == []

    tenant.retag_group(group_id=estate["lab"], tags={"env": "dev", "Temporary": "Yes"})
    figures = operator.sync()
    assert figures["deletes"] == 2  # the group and the machine in it
    assert operator.sandbox.compare(**scope).sentences() == []

    monkeypatch.setenv("RESOURCE_TYPES", '["Microsoft.Sql/servers"]')
    monkeypatch.delenv("RESOURCE_GROUP_TAG_FILTERS")
    assert operator.sync()["mode_reason"] == "the scope settings have changed"
    assert operator.sandbox.compare(resource_types=["microsoft.sql/servers"]).sentences() == []


def test_a_refused_delivery_is_kept_in_quarantine_and_shown(operator: Operator, estate: dict[str, str]) -> None:
    """The script that we replace logs the failure, drops the event and ends with success."""
    operator.sync()
    operator.sandbox.tenant.tag_resource(resource_id=estate["sql"], tags={"poison": "yes"})
    operator.sandbox.tenant.tag_resource(resource_id=estate["vm"], tags={"fine": "yes"})
    operator.sandbox.faults.add(Fault("port", status=400, body={"message": "no"}, in_body="poison", times=None))

    refused = operator.run()

    assert refused.success
    sentence = failed_checks(refused)["quarantine_empty"]
    assert re.search(r"1 entity is in quarantine.*/servers/sql.*Port answered 400", sentence)
    figures = recorded(refused)
    assert (figures["accepted"], figures["refused"], figures["in_quarantine"]) == (1, 1, 1)

    operator.sandbox.faults.clear()
    again = recorded(operator.run())
    assert (again["accepted"], again["in_quarantine"]) == (0, 1)
    fixed = operator.run(mode="incremental", retry_quarantined=True)
    assert (recorded(fixed)["accepted"], failed_checks(fixed)) == (1, {})
    assert operator.sandbox.compare().sentences() == []


def test_a_port_that_is_down_fails_the_run_with_its_reason(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes: the progress of a delivery is reported every few seconds, even when there is none."""
    operator.sandbox.faults.add(Fault("port", status=503, times=None))
    with monkeypatch.context() as slow:
        ticking = count(step=11.0)
        slow.setattr(assets, "monotonic", lambda: next(ticking))
        failed = operator.run()

    assert not failed.success
    assert recorded(failed)["accepted"] == 0
    sentence = failed_checks(failed)["deliveries_complete"]
    assert "Port accepted nothing for 10 minutes (PORT_DELIVERY_DEADLINE_MINUTES): it answered 503" in sentence
    operator.sandbox.faults.clear()
    operator.converges()


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_webhook_stops_the_run_at_once(operator: Operator, estate: dict[str, str], status: int) -> None:
    operator.sandbox.faults.add(Fault("port", status=status, times=None))

    failed = operator.run()

    sentence = failed_checks(failed)["deliveries_complete"]
    assert "check PORT_WEBHOOK_" in sentence
    assert operator.sandbox.environment()["PORT_WEBHOOK_INGEST_URL"] not in sentence


BAD_SETTINGS = {
    "PORT_WEBHOOK_INGEST_URL": ("", "PORT_WEBHOOK_INGEST_URL is not set.*make dev"),
    "RESOURCE_TYPES": ("microsoft.web/sites", r"RESOURCE_TYPES is not valid JSON.*Write e\.g\. RESOURCE_TYPES="),
    "RESOURCE_GROUP_TAG_FILTERS": ('{"includes": {}}', r"RESOURCE_GROUP_TAG_FILTERS is wrong.*Write e\.g\."),
    "SUBSCRIPTION_BATCH_SIZE": ("1001", "SUBSCRIPTION_BATCH_SIZE is wrong.*1000"),
    "CHANGE_WINDOW_MINUTES": ("soon", "CHANGE_WINDOW_MINUTES is wrong.*integer"),
    "AZURE_SUBSCRIPTION_IDS": ('["prod"]', "AZURE_SUBSCRIPTION_IDS contains 'prod', which is not a subscription id"),
    "AZURE_CLIENT_SECRET": ("wrong", "Azure refused the credentials: .*AADSTS7000215.*Check AZURE_TENANT_ID"),
    "AZURE_TENANT_ID": ("", "AZURE_CLIENT_SECRET is set, but AZURE_TENANT_ID is not"),
    "REQUESTS_CA_BUNDLE": ("/no/such/file.pem", "REQUESTS_CA_BUNDLE names /no/such/file.pem, which does not exist"),
    "AZURE_PORT_SYNC_STATE_URL": ("oracle://x", "AZURE_PORT_SYNC_STATE_URL names oracle"),
    "INCREMENTAL_SYNC_CRON": ("hourly", "INCREMENTAL_SYNC_CRON is not a cron schedule"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_bad_setting_fails_the_run_in_one_sentence(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    value, sentence = BAD_SETTINGS[name]
    monkeypatch.setenv(name, value)

    failed = operator.run()

    assert not failed.success
    (message,) = failure(failed).strip().splitlines()
    assert re.search(sentence, message)
    assert operator.sandbox.port.events == 0


def test_two_targets_keep_their_states_apart(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.sync()
    with Sandbox(estate=False) as other:
        monkeypatch.setenv("PORT_WEBHOOK_INGEST_URL", other.environment()["PORT_WEBHOOK_INGEST_URL"])
        monkeypatch.setenv("PORT_WEBHOOK_SECRET", other.environment()["PORT_WEBHOOK_SECRET"])
        figures = operator.sync()

        assert figures["mode_reason"] == "this target has never been synced"
        assert sum(len(entities) for entities in other.held().values()) == len(estate)


def test_a_part_of_a_run_started_alone_says_which_job_to_launch(operator: Operator, estate: dict[str, str]) -> None:
    """Delivering the change set of an older run would undo what happened since."""
    operator.sync()

    job = definitions(operator.clock).resolve_implicit_global_asset_job_def()
    alone = job.get_subset(asset_selection={dg.AssetKey("port_deliveries")})
    result = alone.execute_in_process(instance=operator.instance, raise_on_error=False)

    assert not result.success
    assert "launch the job incremental_sync" in failure(result)


# -- guards and overrides --------------------------------------------------------------------------------------------


def test_a_mass_deletion_is_held_until_a_person_allows_it(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else is delivered, what is held can be seen, and the run fails at its end; a dry run only warns."""
    begin_mass_deletion(operator, estate, monkeypatch)
    operator.sandbox.tenant.create_resource(estate["data"], "Microsoft.Web/sites", "new")
    before = operator.sandbox.held()

    dry = operator.run(mode="incremental", dry_run=True)
    assert dry.success
    assert "3 of the 9 entities" in failed_checks(dry)["deletes_within_guard"]
    assert observed(dry)["held_deletes"] == 3

    held = operator.run()
    assert not held.success
    assert re.search("3 of the 9 entities .*`allow_mass_delete: true`", failed_checks(held)["deliveries_complete"])
    assert (recorded(held)["held_deletes"], recorded(held)["accepted_upserts"]) == (3, 1)
    assert {row.data["azure_id"] for row in recorded(held)["held"].records} >= {estate["web"], estate["site"]}
    catalog = operator.sandbox.held()
    assert {blueprint: len(catalog[blueprint]) - len(before[blueprint]) for blueprint in before} == {
        "azureSubscription": 0,
        "azureResourceGroup": 0,
        "azureCloudResources": 1,
    }

    assert operator.sync(mode="incremental", allow_mass_delete=True)["accepted_deletes"] == 3
    assert operator.sandbox.compare(exclude=RETIRED).sentences() == []


def test_a_named_subscription_that_is_not_readable_is_named_and_stops_nothing(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "00000000-0000-4000-8000-000000000000"
    monkeypatch.setenv("AZURE_SUBSCRIPTION_IDS", f'["{estate["dev"]}", "{nowhere}"]')

    result = operator.run()

    assert result.success
    assert f"AZURE_SUBSCRIPTION_IDS names {nowhere}" in failed_checks(result)["subscriptions_present"]
    assert operator.sandbox.port.events == 3


def test_a_part_or_a_past_window_is_delivered_again_from_the_launchpad(
    operator: Operator, estate: dict[str, str]
) -> None:
    watermark = operator.sync()["watermark"]

    part = operator.sync(mode="incremental", only={"resource_groups": ["DATA"]})
    assert (part["mode"], part["accepted"], part["watermark"]) == ("partial", 2, watermark)

    start = operator.clock.now()
    operator.sandbox.tenant.tag_resource(resource_id=estate["sql"], tags={"new": "yes"})
    operator.sync()
    window = {"start": (start - timedelta(seconds=1)).isoformat(), "end": operator.clock.now().isoformat()}
    past = operator.sync(mode="incremental", backfill=window)
    assert (past["mode"], past["records_read"], past["accepted"]) == ("backfill", 1, 0)


BAD_OVERRIDES: tuple[tuple[dict[str, Any], str], ...] = (
    ({"only": {"resource_groups": ["nowhere"]}}, "Nothing in Azure or in the ledger lies in nowhere"),
    ({"backfill": {"start": "yesterday", "end": "2026-11-23T10:00:00Z"}}, "'yesterday', which is not an instant"),
    ({"backfill": {"start": "2025-01-01", "end": "2025-01-02"}}, "`backfill` names cannot be read again"),
    ({"rebuild_ledger": True}, "PORT_CLIENT_ID and PORT_CLIENT_SECRET are not set"),
)


def test_a_bad_override_fails_the_run_in_one_sentence(operator: Operator, estate: dict[str, str]) -> None:
    operator.sync()
    events = operator.sandbox.port.events
    for config, sentence in BAD_OVERRIDES:
        failed = operator.run(mode="incremental", **config)

        assert not failed.success, config
        (message,) = failure(failed).strip().splitlines()
        assert sentence in message
    assert operator.sandbox.port.events == events


# -- dry runs --------------------------------------------------------------------------------------------------------


def _remembered(operator: Operator) -> list[str]:
    """All rows of the state, as SQL."""
    path = os.environ["AZURE_PORT_SYNC_STATE_URL"].removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        return list(connection.iterdump())


def test_a_dry_run_shows_and_sends_and_remembers_nothing(operator: Operator, estate: dict[str, str]) -> None:
    operator.sync()
    tenant = operator.sandbox.tenant
    tenant.create_resource(tenant.add_group(estate["prod"], "new", "westeurope"), "microsoft.web/sites", "x")
    tenant.delete_resource(resource_id=estate["site"])
    tenant.lose_subscription(subscription_id=estate["dev"])
    before, remembered, events = operator.sandbox.held(), _remembered(operator), operator.sandbox.port.events

    for mode in ("incremental", "full"):
        result = operator.run(mode=mode, dry_run=True)

        assert result.success
        shown = observed(result)
        assert shown["upserts"] >= 1
        assert shown["deletes"] >= 1
        assert shown["newest_operations"].records
        assert not result.asset_materializations_for_node("azure_change_set")
        assert [event.step_key for event in result.all_events if event.is_step_skipped] == ["port_deliveries"]
        assert (operator.sandbox.held(), operator.sandbox.port.events) == (before, events)
        assert _remembered(operator) == remembered

    assert operator.sync()["accepted"] >= 1, "the next tick delivers what the dry runs showed"


def test_a_first_dry_run_with_api_credentials_remembers_nothing(
    operator: Operator, estate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in operator.sandbox.api_environment().items():
        monkeypatch.setenv(name, value)

    shown = observed(operator.run(mode="incremental", dry_run=True))

    assert (shown["mode"], shown["upserts"]) == ("full", len(estate))
    rows = [line for line in _remembered(operator) if line.startswith("INSERT INTO")]
    assert [row for row in rows if '"azure_port_sync_migration"' not in row] == []
    failed = operator.run(mode="full", dry_run=True, rebuild_ledger=True)
    assert "launch with one of them" in failure(failed)
    assert operator.sync()["in_port_before"] == 0


# -- what a run shows ------------------------------------------------------------------------------------------------


def test_tables_show_what_was_decided_by_type_and_by_subscription(operator: Operator, estate: dict[str, str]) -> None:
    tenant = operator.sandbox.tenant
    for n in range(30):
        tenant.create_resource(estate["data"], "microsoft.web/sites", f"x{n}")
    figures = operator.sync()
    assert len(figures["newest_operations"].records) == 20, "a long table is cut, and says so"
    assert figures["newest_operations_shown"] == f"the newest 20 of {len(estate) + 30}"

    tenant.delete_resource(resource_id=estate["sql"])
    operator.clock.sleep(60)
    tenant.tag_resource(resource_id=estate["vm"], tags={"new": "yes"})

    figures = operator.sync()

    def rows(name: str) -> list[dict[str, Any]]:
        return [dict(record.data) for record in figures[name].records]

    assert [(row["operation"], row["name"]) for row in rows("newest_operations")] == [
        ("upsert", "vm"),
        ("delete", "sql"),
    ]
    assert rows("by_type") == [
        {"type": "microsoft.compute/virtualmachines", "upserts": 1, "deletes": 0},
        {"type": "microsoft.sql/servers", "upserts": 0, "deletes": 1},
    ]
    assert {row["subscription"]: (row["upserts"], row["deletes"]) for row in rows("by_subscription")} == {
        "Production": (0, 1),
        "Dev & Test": (1, 0),
    }
    assert figures["oldest_change_seconds"] >= TICK.total_seconds() + 60
    assert figures["watermark_lag_seconds"] < 60
    assert figures["port_bytes"] > 0


@pytest.mark.parametrize(
    ("webhook", "app"),
    [
        ("https://ingest.port.io/key", "https://app.port.io"),
        ("https://ingest.us.port.io/key", "https://app.us.port.io"),
        ("https://gateway.contoso.com/key", None),
    ],
)
def test_entities_are_linked_where_ports_address_is_known(
    webhook: str, app: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT_WEBHOOK_INGEST_URL", webhook)
    port = PortResource(clock=SystemClock())
    with dg.build_init_resource_context() as context:
        port.setup_for_execution(context)
        assert port.app == app
        port.teardown_after_execution(context)
    row = {"operation": "upsert", "kind": "resource", "name": "a [b]", "identifier": "/s/a b", "type": "t/u"}
    shown = links_metadata(frame_of([row], CHANGE_SET), app)
    expected = f"- [a \\[b\\]]({app}/azureCloudResourcesEntity?identifier=%2Fs%2Fa%20b) t/u"
    assert shown == ({"in_port": dg.MarkdownMetadataValue(expected)} if app else {})


def test_every_asset_says_what_it_is_and_who_answers_for_it() -> None:
    graph = definitions(SystemClock()).resolve_asset_graph()
    for node in graph.asset_nodes:
        assert node.description
        assert node.owners
        assert node.kinds
        assert node.code_version
    for key in ("azure_subscriptions", "azure_resource_groups", "azure_change_set"):
        columns = graph.get(dg.AssetKey(key)).metadata["dagster/column_schema"].columns
        assert all(column.description for column in columns)


def test_a_watermark_that_does_not_move_is_reported(operator: Operator, estate: dict[str, str]) -> None:
    operator.sync()
    operator.sandbox.tenant.tag_resource(resource_id=estate["sql"], tags={"new": "yes"})
    operator.sandbox.faults.add(Fault("port", status=503, times=None))
    operator.clock.sleep(timedelta(hours=1).total_seconds())

    sentence = failed_checks(operator.run())["watermark_recent"]

    assert re.match(r"The watermark is \d\d minutes old: changes since then may be missing in Port", sentence)
