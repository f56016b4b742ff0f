"""The checks: which counts must agree, what each says when they do not, and what to do then.

Each belongs to the asset that made its counts, so that a red one comes with the numbers. A blocking one fails the run,
before anything wrong is sent or believed; the others warn.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

import dagster as dg
import pandas as pd

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.errors import SyncError
from azure_port_sync.core.guard import is_mass_deletion, mass_deletion_sentence
from azure_port_sync.core.identity import illegal_identifiers
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.request import Mode
from azure_port_sync.core.rows import ChangeSetRow, Operation
from azure_port_sync.core.windows import RETENTION
from azure_port_sync.defs.resources import PortResource, StateResource
from azure_port_sync.engine.decide import ChangeSet, RunStats, subscription_blockers
from azure_port_sync.engine.deliver import DeliveryReport
from azure_port_sync.engine.verify import verify
from azure_port_sync.port.blueprints import BLUEPRINTS


def _blocking(asset: str, name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, blocking=True, description=description)


def _warning(asset: str, name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, description=description)


SNAPSHOT_CHECKS = [
    _blocking(
        "azure_resource_groups",
        "containers_match_azure",
        "The subscriptions and groups that were read are as many as Azure says there are.",
    ),
]

CHANGE_SET_CHECKS = [
    _blocking(
        "azure_change_set",
        "rows_match_azure",
        "The rows and change records that were read are as many as Azure says there are.",
    ),
    _blocking(
        "azure_change_set",
        "records_accounted_for",
        "Every change record was either the newest of its resource or superseded by a newer one.",
    ),
    _blocking(
        "azure_change_set",
        "candidates_accounted_for",
        "Every candidate got exactly one verdict: upsert, delete, unchanged, out of scope, ...",
    ),
    _blocking(
        "azure_change_set",
        "identifiers_valid",
        "No identifier is told twice, and each is one that Port accepts; one that is not goes to quarantine.",
    ),
    _blocking(
        "azure_change_set",
        "subscriptions_present",
        "Every subscription that is asked for, or was read before, is answered for. One that vanished keeps its "
        "entities for 24 hours, and this check warns of it.",
    ),
    _blocking(
        "azure_change_set",
        "deletes_within_guard",
        "The run deletes no unusual share of what Port is known to hold, or a person has allowed it.",
    ),
    _warning(
        "azure_change_set",
        "no_older_ghosts",
        "What somebody else told Port of, and is gone for longer than Azure keeps change records, is ruled out.",
    ),
]

DELIVERY_CHECKS = [
    _warning(
        "port_deliveries",
        "deliveries_match_change_set",
        "Every operation of the change set was answered by Port.",
    ),
    _blocking(
        "port_deliveries",
        "deliveries_settled",
        "Port accepted every delivery, or it is in quarantine. Otherwise the run fails, and the watermark stays.",
    ),
    _warning(
        "port_deliveries",
        "quarantine_empty",
        "There is nothing that Port refuses for what it is. What is in quarantine is told again when it changes in "
        "Azure, or with `retry_quarantined: true`.",
    ),
    _warning(
        "port_deliveries",
        "port_holds_ledger",
        "After a full run, Port's API shows as many entities as Port was told of, and a few of them as they were told.",
    ),
    _warning(
        "port_deliveries",
        "ledger_matches_inventory",
        "After a full run, the ledger holds exactly what was found in Azure and what is held back.",
    ),
    _warning(
        "port_deliveries",
        "watermark_recent",
        "The watermark, up to which every change has been delivered, is not older than four ticks of the schedule.",
    ),
]


def _result(
    name: str,
    *,
    passed: bool,
    description: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    asset_key: str | None = None,
    **metadata: int | str,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset_key,
        passed=passed,
        severity=severity,
        description=description,
        metadata=metadata,
    )


def blocking_failures(results: Sequence[dg.AssetCheckResult]) -> Iterator[str]:
    """A line for the log for each check that stops the run; Dagster's own error has no more than its name."""
    for result in results:
        if not result.passed and result.severity is dg.AssetCheckSeverity.ERROR:
            yield f"{result.check_name}: {result.description}"


# -- azure_resource_groups ------------------------------------------------------------------------------------------


def snapshot_check(read: int, total: int) -> dg.AssetCheckResult:
    """Whether all containers were read; `total` is how many Azure says there are."""
    return _result(
        "containers_match_azure",
        asset_key="azure_resource_groups",
        passed=read == total,
        description=f"{read:,} containers were read; Azure counts {total:,}."
        + ("" if read == total else " Nothing was sent; the next run reads all of them again."),
        containers_read=read,
        azure_total=total,
    )


# -- azure_change_set -----------------------------------------------------------------------------------------------


_BUG = " Nothing was sent. If the next run says so too, tell the maintainers, with this page."


def change_set_checks(findings: RunStats, frame: pd.DataFrame, plan: Plan) -> list[dg.AssetCheckResult]:
    """What was read against Azure's counts, and what was decided against what was read; the guards."""
    return [*_count_checks(findings, frame), *_guard_checks(findings, plan)]


def _count_checks(findings: RunStats, frame: pd.DataFrame) -> list[dg.AssetCheckResult]:
    accounted = findings.records_reduced + findings.records_superseded
    verdicts = sum(findings.verdicts.values())
    decided = findings.candidates == verdicts and len(frame) == _operations(findings)
    illegal = illegal_identifiers(frame["identifier"])
    repeated = int(frame.duplicated(["kind", "identifier"]).sum())
    return [
        _result(
            "rows_match_azure",
            passed=findings.rows_read == findings.total_records,
            description=f"{findings.rows_read:,} rows were read; Azure counts {findings.total_records:,}."
            + ("" if findings.rows_read == findings.total_records else _BUG),
            rows_read=findings.rows_read,
            azure_total=findings.total_records,
        ),
        _result(
            "records_accounted_for",
            passed=findings.records_read == accounted,
            description=f"{findings.records_read:,} change records: {findings.records_reduced:,} resources changed, "
            f"{findings.records_superseded:,} records superseded by newer ones."
            + ("" if findings.records_read == accounted else _BUG),
            records_read=findings.records_read,
            records_reduced=findings.records_reduced,
            records_superseded=findings.records_superseded,
        ),
        _result(
            "candidates_accounted_for",
            passed=decided,
            description=f"{findings.candidates:,} candidates, {verdicts:,} verdicts, {len(frame):,} operations."
            + ("" if decided else _BUG),
            candidates=findings.candidates,
            verdicts=verdicts,
            operations=len(frame),
        ),
        _result(
            "identifiers_valid",
            passed=not illegal and not repeated,
            severity=dg.AssetCheckSeverity.ERROR if repeated else dg.AssetCheckSeverity.WARN,
            description=f"{len(frame):,} identifiers: {len(illegal):,} that Port refuses, {repeated:,} used twice."
            + (_BUG if repeated else " Those refused go to quarantine: rename them in Azure." if illegal else ""),
            identifiers=len(frame),
            illegal=len(illegal),
            repeated=repeated,
            examples=", ".join(illegal[:5]) or "none",
        ),
    ]


def _guard_checks(findings: RunStats, plan: Plan) -> list[dg.AssetCheckResult]:
    request = plan.request
    wrong = findings.unreadable or findings.unanswered
    over = is_mass_deletion(findings.known_deletes, plan.known_before, max_ratio=request.max_delete_ratio)
    # A dry run sends nothing that a guard would have to stop, and is there to be looked at whole.
    stop = dg.AssetCheckSeverity.WARN if request.dry_run else dg.AssetCheckSeverity.ERROR
    return [
        _result(
            "subscriptions_present",
            passed=not wrong and not findings.in_grace,
            severity=stop if wrong else dg.AssetCheckSeverity.WARN,
            description=_presence_sentence(findings),
            subscriptions=findings.subscriptions,
            never_readable=len(findings.unreadable),
            not_answered=len(findings.unanswered),
            in_grace=len(findings.in_grace),
            held_back=findings.verdicts[Verdict.IN_GRACE],
        ),
        _result(
            "deletes_within_guard",
            passed=not over or request.allow_mass_delete,
            severity=stop,
            description=_guard_sentence(findings, plan, over=over),
            deletes=findings.known_deletes,
            known=plan.known_before,
            max_delete_ratio=str(request.max_delete_ratio),
            allowed_by_a_person=str(request.allow_mass_delete).lower(),
        ),
        _result(
            "no_older_ghosts",
            passed=not findings.ghosts_may_remain,
            severity=dg.AssetCheckSeverity.WARN,
            description="What Port held before the first run, and Azure deleted more than "
            f"{RETENTION.days} days ago, is not known here. If somebody else filled the catalog before, launch "
            "full_sync with `rebuild_ledger: true` (needs PORT_CLIENT_ID and PORT_CLIENT_SECRET), or delete such "
            "entities in Port by hand."
            if findings.ghosts_may_remain
            else "The ledger knows what Port holds.",
            known=plan.known_before,
            read_from_port="no" if findings.refill is None else f"{findings.refill.held} entities",
        ),
    ]


def _presence_sentence(findings: RunStats) -> str:
    if findings.unreadable or findings.unanswered:
        return " ".join(subscription_blockers(findings.unreadable, findings.unanswered))
    if findings.in_grace:
        one = len(findings.in_grace) == 1
        until = max(findings.in_grace.values())
        return (
            f"{len(findings.in_grace):,} {'subscription has' if one else 'subscriptions have'} vanished: "
            f"{', '.join(findings.in_grace)}. {'Its' if one else 'Their'} "
            f"{findings.verdicts[Verdict.IN_GRACE]:,} entities stay in Port until {until:%Y-%m-%d %H:%M} UTC at the "
            f"latest, and then go. If {'it is' if one else 'they are'} not deleted, give the identity its role there "
            "back before that."
        )
    return f"All {findings.subscriptions:,} subscriptions are answered for."


def _guard_sentence(findings: RunStats, plan: Plan, *, over: bool) -> str:
    if not over:
        return f"{findings.known_deletes:,} of {plan.known_before:,} known entities are to be deleted."
    sentence = mass_deletion_sentence(
        findings.known_deletes, plan.known_before, max_ratio=plan.request.max_delete_ratio
    )
    return f"Allowed by a person (allow_mass_delete). {sentence}" if plan.request.allow_mass_delete else sentence


def _operations(findings: RunStats) -> int:
    return findings.verdicts[Verdict.UPSERT] + findings.verdicts[Verdict.DELETE]


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
    """What was sent against the change set, what Port holds against the ledger, and how old the watermark is."""
    watermark = state.store.targets.load(change_set.plan.target).watermark
    return [
        *_settled_checks(report),
        _quarantine_check(quarantined),
        _ledger_check(change_set, report, state),
        _port_check(change_set, report, port, state, clock),
        _watermark_check(watermark, clock.now(), oldest_watermark),
    ]


def _settled_checks(report: DeliveryReport) -> list[dg.AssetCheckResult]:
    return [
        _result(
            "deliveries_match_change_set",
            passed=report.done == report.total,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{report.done:,} of {report.total:,} operations were answered."
            + ("" if report.done == report.total else " deliveries_settled says why the others were not sent."),
            operations=report.total,
            answered=report.done,
        ),
        _result(
            "deliveries_settled",
            passed=report.unsettled == 0,
            description=_settled_sentence(report),
            accepted=report.accepted.total(),
            quarantined=report.quarantined,
            unsettled=report.unsettled,
        ),
    ]


def _quarantine_check(quarantined: pd.DataFrame) -> dg.AssetCheckResult:
    number = len(quarantined)
    return _result(
        "quarantine_empty",
        passed=number == 0,
        severity=dg.AssetCheckSeverity.WARN,
        description="Nothing is in quarantine."
        if not number
        else f"{number:,} {'entity is' if number == 1 else 'entities are'} in quarantine, the oldest since "
        f"{quarantined['first_at'].iloc[0]:%Y-%m-%d %H:%M} UTC: {quarantined['azure_id'].iloc[0]}, because "
        f"{quarantined['reason'].iloc[0]}. Mend the reason; what changes in Azure is told again by itself, the rest by "
        "a run with `retry_quarantined: true`.",
        in_quarantine=number,
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
        return _result(name, passed=True, description="Only with PORT_CLIENT_ID and PORT_CLIENT_SECRET can it be told.")
    if change_set.plan.mode is not Mode.FULL or report.unsettled:
        return _result(name, passed=True, description="Only a full run that settled can tell.")
    refused = {(row.kind, row.identifier) for row, _ in report.refused}
    sample = [row for row in change_set.sample if (row["kind"], row["identifier"]) not in refused]
    try:
        told = state.store.ledger.counts(change_set.plan.target)
        found = verify(port.api, port.mapping, told, sample, clock)
    except SyncError as error:
        return _result(name, passed=False, severity=dg.AssetCheckSeverity.WARN, description=str(error))
    numbers = ", ".join(f"{found.held[kind]:,} of {found.told[kind]:,} {BLUEPRINTS[kind]}" for kind in Kind)
    return _result(
        name,
        passed=found.holds,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"Port shows {numbers}; {found.looked_at} entities were looked at."
        + (f" {len(found.differences)} differences, the first: {found.differences[0]}." if found.differences else "")
        + ("" if found.holds else " Launch full_sync with `rebuild_ledger: true` to compare and mend everything."),
        port=found.held.total(),
        told=found.told.total(),
        looked_at=found.looked_at,
        differences="; ".join(found.differences[:5]) or "none",
    )


def _ledger_check(change_set: ChangeSet, report: DeliveryReport, state: StateResource) -> dg.AssetCheckResult:
    if change_set.kept is None or report.unsettled:
        return _result("ledger_matches_inventory", passed=True, description="Only a full run that settled can tell.")
    store, target = state.store, change_set.plan.target
    rows = store.targets.load(target).ledger_rows
    # The ledger keeps what was refused if Port may have an older version of it, also where it refused to delete it.
    refused = pd.DataFrame([row for row, _ in report.refused], columns=list(ChangeSetRow._fields))
    untold = int((refused["operation"] == Operation.UPSERT).sum()) - store.ledger.known_among(target, refused)
    kept = change_set.kept - untold
    return _result(
        "ledger_matches_inventory",
        passed=rows == kept,
        description=f"The ledger holds {rows:,} entities; {kept:,} were found in Azure or are held back."
        + ("" if rows == kept else " Launch full_sync with `force: true`, and tell the maintainers."),
        ledger=rows,
        found_or_held_back=kept,
    )


def _watermark_check(watermark: datetime | None, now: datetime, oldest: timedelta) -> dg.AssetCheckResult:
    age = None if watermark is None else now - watermark
    recent = age is not None and age < oldest
    told = (
        "There is no watermark yet"
        if age is None
        else f"The watermark is {age / timedelta(minutes=1):,.0f} minutes old"
    )
    return _result(
        "watermark_recent",
        passed=recent,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{told}."
        if recent
        else f"{told}: changes since then may be missing in Port. The red check or failed run above says why; nothing "
        "is lost, the next run that settles reads back to it.",
        age_minutes="none" if age is None else round(age / timedelta(minutes=1)),
        allowed_minutes=round(oldest / timedelta(minutes=1)),
    )


def _settled_sentence(report: DeliveryReport) -> str:
    if report.error is not None:
        return f"{report.unsettled:,} of {report.total:,} deliveries are not settled. {report.error}"
    if report.failed:
        row, reason = report.failed[0]
        return (
            f"Port goes on failing at {len(report.failed):,} of {report.total:,} deliveries and takes the others; the "
            f"first is {row.azure_id}: {reason}. The watermark stays where it is; the next run tries them again."
        )
    if report.quarantined:
        return (
            f"Port accepted {report.accepted.total():,} of {report.total:,} deliveries; it refuses "
            f"{report.quarantined:,}, which are in quarantine."
        )
    return f"Port accepted all {report.total:,} deliveries." if report.total else "There was nothing to deliver."
