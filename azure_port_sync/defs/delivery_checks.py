"""The checks of what was delivered: the change set against Port's answers, the ledger against Port, the watermark."""

from datetime import datetime, timedelta

import dagster as dg
import pandas as pd

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import SyncError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.request import Mode
from azure_port_sync.core.rows import ChangeSetRow, Operation
from azure_port_sync.defs.checks import WARN, check_result
from azure_port_sync.defs.resources import PortResource, StateResource
from azure_port_sync.engine.decide import ChangeSet
from azure_port_sync.engine.deliver import DeliveryReport
from azure_port_sync.engine.verify import verify
from azure_port_sync.port.blueprints import packaged_blueprints

_NOT_CHECKED = "Checked only after a full run that delivered everything."


# -- port_deliveries ------------------------------------------------------------------------------------------------


def delivery_checks(
    change_set: ChangeSet,
    report: DeliveryReport,
    quarantined: pd.DataFrame,
    port: PortResource,
    state: StateResource,
    clock: Clock,
    *,
    oldest_watermark: timedelta,
) -> list[dg.AssetCheckResult]:
    """Compare what was sent with the change set and what Port holds with the ledger; show the watermark's age."""
    watermark = state.store.targets.load(change_set.plan.target).watermark
    return [
        *_delivered_checks(report),
        _quarantine_check(quarantined),
        _ledger_check(change_set, report, state),
        _port_check(change_set, report, port, state, clock),
        _watermark_check(watermark, clock.now(), oldest_watermark),
    ]


def _delivered_checks(report: DeliveryReport) -> list[dg.AssetCheckResult]:
    return [
        check_result(
            "deliveries_match_change_set",
            passed=report.done == report.total,
            severity=WARN,
            description=f"Port answered {report.done:,} of {report.total:,} operations."
            + ("" if report.done == report.total else " deliveries_complete says why the others were not sent."),
            operations=report.total,
            answered=report.done,
        ),
        check_result(
            "deliveries_complete",
            passed=report.not_delivered == 0,
            description=report.summary,
            accepted=report.accepted.total(),
            quarantined=report.quarantined,
            not_delivered=report.not_delivered,
        ),
    ]


def _quarantine_check(quarantined: pd.DataFrame) -> dg.AssetCheckResult:
    number = len(quarantined)
    return check_result(
        "quarantine_empty",
        passed=number == 0,
        severity=WARN,
        description="Nothing is in quarantine."
        if not number
        else f"{number:,} {'entity is' if number == 1 else 'entities are'} in quarantine, the oldest since "
        f"{quarantined['first_at'].iloc[0]:%Y-%m-%d %H:%M} UTC: {quarantined['azure_id'].iloc[0]}, because "
        f"{quarantined['reason'].iloc[0]}. Fix the reason; what changes in Azure is sent again by itself, the rest by "
        "a run with `retry_quarantined: true`.",
        in_quarantine=number,
    )


def _ledger_check(change_set: ChangeSet, report: DeliveryReport, state: StateResource) -> dg.AssetCheckResult:
    if change_set.kept is None or report.not_delivered:
        return check_result(
            "ledger_matches_inventory",
            passed=True,
            description="Checked only after a full run that delivered everything.",
        )
    store, target = state.store, change_set.plan.target
    rows = store.targets.load(target).ledger_rows
    # The ledger keeps what was refused if Port may have an older version of it, also where it refused to delete it.
    refused = pd.DataFrame([row for row, _ in report.refused], columns=list(ChangeSetRow._fields))
    never_sent = int((refused["operation"] == Operation.UPSERT).sum()) - store.ledger.known_among(target, refused)
    kept = change_set.kept - never_sent
    return check_result(
        "ledger_matches_inventory",
        passed=rows == kept,
        description=f"The ledger has {rows:,} entities; {kept:,} were found in Azure, are pending or in grace."
        + ("" if rows == kept else " Launch full_sync with `force: true`, and report it to the maintainers."),
        ledger=rows,
        found=kept,
    )


def _port_check(
    change_set: ChangeSet,
    report: DeliveryReport,
    port: PortResource,
    state: StateResource,
    clock: Clock,
) -> dg.AssetCheckResult:
    name = "port_holds_ledger"
    if port.api is None:
        return check_result(name, passed=True, description="Needs PORT_CLIENT_ID and PORT_CLIENT_SECRET.")
    if change_set.plan.mode is not Mode.FULL or report.not_delivered:
        return check_result(name, passed=True, description=_NOT_CHECKED)
    refused = {(row.kind, row.identifier) for row, _ in report.refused}
    sample = [row for row in change_set.sample if (row["kind"], row["identifier"]) not in refused]
    try:
        in_ledger = state.store.ledger.counts(change_set.plan.target)
        found = verify(port.api, port.mapping, in_ledger, sample, clock)
    except SyncError as error:
        return check_result(name, passed=False, severity=WARN, description=str(error))
    blueprints = packaged_blueprints()
    numbers = ", ".join(f"{found.in_port[kind]:,} of {found.in_ledger[kind]:,} {blueprints[kind]}" for kind in Kind)
    return check_result(
        name,
        passed=found.equal,
        severity=WARN,
        description=f"Port shows {numbers}; {found.compared} entities were compared in full."
        + (f" {len(found.differences)} differences, the first: {found.differences[0]}." if found.differences else "")
        + ("" if found.equal else " Launch full_sync with `rebuild_ledger: true` to compare and fix everything."),
        port=found.in_port.total(),
        ledger=found.in_ledger.total(),
        compared=found.compared,
        differences="; ".join(found.differences[:5]) or "none",
    )


def _watermark_check(watermark: datetime | None, now: datetime, oldest: timedelta) -> dg.AssetCheckResult:
    age = None if watermark is None else now - watermark
    recent = age is not None and age < oldest
    sentence = (
        "There is no watermark yet"
        if age is None
        else f"The watermark is {age / timedelta(minutes=1):,.0f} minutes old"
    )
    return check_result(
        "watermark_recent",
        passed=recent,
        severity=WARN,
        description=f"{sentence}."
        if recent
        else f"{sentence}: changes since then may be missing in Port. The red check or failed run above says why; "
        "nothing is lost, the next run that delivers everything reads back to it.",
        age_minutes="none" if age is None else round(age / timedelta(minutes=1)),
        allowed_minutes=round(oldest / timedelta(minutes=1)),
    )
