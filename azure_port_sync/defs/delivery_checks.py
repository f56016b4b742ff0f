"""The checks of what was delivered: the change set against Port's answers, the ledger against Port, the watermark."""

from datetime import datetime, timedelta

import dagster as dg
import pandas as pd

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.errors import SyncError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import TargetState
from azure_port_sync.core.quarantine import CAUSES, Cause
from azure_port_sync.core.request import Mode
from azure_port_sync.core.rows import CHANGE_SET, frame_of
from azure_port_sync.defs.checks import check_result
from azure_port_sync.defs.jobs import LATE
from azure_port_sync.defs.resources import PortResource
from azure_port_sync.engine.decide import ChangeSet
from azure_port_sync.engine.deliver import DeliveryReport
from azure_port_sync.engine.verify import expected_ledger_rows, verify
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.state import StateStore

_NOT_CHECKED = "Checked only after a full run that delivered everything."


def delivery_checks(
    change_set: ChangeSet,
    report: DeliveryReport,
    after: TargetState,
    quarantined: pd.DataFrame,
    port: PortResource,
    store: StateStore,
    clock: Clock,
) -> list[dg.AssetCheckResult]:
    """Compare the deliveries with the change set and Port with the ledger; show the watermark's age.

    `after` is the state of the target after the delivery.
    """
    whole = report.done == report.total
    held = change_set.guard.deletes if change_set.guard.holds else 0
    return [
        check_result(
            "deliveries_match_change_set",
            whole,
            f"Port answered {report.done:,} of {report.total:,} operations."
            f"{'' if whole else ' deliveries_complete says why the others were not sent.'}",
            operations=report.total,
            answered=report.done,
        ),
        check_result(
            "deliveries_complete",
            report.not_delivered == 0 and not held,
            f"{report.summary} {change_set.guard}" if held else report.summary,
            accepted=report.accepted.total(),
            quarantined=report.quarantined,
            not_delivered=report.not_delivered,
            held=held,
        ),
        _quarantine_check(quarantined),
        _ledger_check(change_set, report, after.ledger_rows, store),
        _port_check(change_set, report, port, store, clock),
        _watermark_check(after.watermark, clock.now()),
    ]


def _quarantine_check(quarantined: pd.DataFrame) -> dg.AssetCheckResult:
    number, sentence = len(quarantined), "Nothing is in quarantine."
    if number:
        oldest = quarantined.iloc[0]
        sentence = (
            f"{number:,} {'entity is' if number == 1 else 'entities are'} in quarantine, the oldest since "
            f"{oldest['first_at']:%Y-%m-%d %H:%M} UTC: {oldest['azure_id']}, because {oldest['reason']}. It is "
            f"sent again {CAUSES[Cause(oldest['cause'])].way_out}; all are when the webhook's mapping changes."
        )
    return check_result("quarantine_empty", number == 0, sentence, in_quarantine=number)


def _ledger_check(change_set: ChangeSet, report: DeliveryReport, rows: int, store: StateStore) -> dg.AssetCheckResult:
    name = "ledger_matches_inventory"
    if change_set.kept is None or report.not_delivered:
        return check_result(name, True, _NOT_CHECKED)
    refused = frame_of([row._asdict() for row, _ in report.put_aside], CHANGE_SET)
    known = store.ledger.known_among(change_set.plan.target, refused)
    expected = expected_ledger_rows(change_set.kept, refused, known)
    remedy = "" if rows == expected else " Launch full_sync with `force: true`, and report it to the maintainers."
    return check_result(
        name,
        rows == expected,
        f"The ledger has {rows:,} entities; {expected:,} were found in Azure, are pending or in a grace period."
        f"{remedy}",
        ledger=rows,
        found=expected,
    )


def _port_check(
    change_set: ChangeSet, report: DeliveryReport, port: PortResource, store: StateStore, clock: Clock
) -> dg.AssetCheckResult:
    name = "port_holds_ledger"
    if port.api is None:
        return check_result(name, True, "Needs PORT_CLIENT_ID and PORT_CLIENT_SECRET.")
    if change_set.plan.mode is not Mode.FULL or report.not_delivered:
        return check_result(name, True, _NOT_CHECKED)
    refused = {(row.kind, row.identifier) for row, _ in report.put_aside}
    sample = [row for row in change_set.sample if (row["kind"], row["identifier"]) not in refused]
    try:
        found = verify(port.api, port.mapping, store.ledger.counts(change_set.plan.target), sample, clock)
    except SyncError as error:
        return check_result(name, False, str(error))
    blueprints = packaged_blueprints()
    numbers = ", ".join(f"{found.in_port[kind]:,} of {found.in_ledger[kind]:,} {blueprints[kind]}" for kind in Kind)
    return check_result(
        name,
        found.equal,
        f"Port shows {numbers}; {found.compared} entities were compared in full."
        + (f" {len(found.differences)} differences, the first: {found.differences[0]}." if found.differences else "")
        + ("" if found.equal else " Launch full_sync with `rebuild_ledger: true` to compare and fix everything."),
        port=found.in_port.total(),
        ledger=found.in_ledger.total(),
        compared=found.compared,
        differences="; ".join(found.differences[:5]) or "none",
    )


def _watermark_check(watermark: datetime | None, now: datetime) -> dg.AssetCheckResult:
    age = None if watermark is None else now - watermark
    minutes = "none" if age is None else round(age / timedelta(minutes=1))
    sentence = "There is no watermark yet" if age is None else f"The watermark is {minutes:,} minutes old"
    recent = age is not None and age < LATE
    return check_result(
        "watermark_recent",
        recent,
        f"{sentence}."
        if recent
        else f"{sentence}: changes since then may be missing in Port. The red check or failed run above says why; "
        "nothing is lost, the next run that delivers everything reads back to it.",
        age_minutes=minutes,
        allowed_minutes=round(LATE / timedelta(minutes=1)),
    )
