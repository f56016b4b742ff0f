"""The sync assets with their checks: what Azure holds, what has to change, what Port was told.

Each asset calls one step and shows what it found. The checks sit in the asset whose counts they compare, so that a
red check comes with the numbers, and a blocking one stops the run before anything wrong is sent or believed.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from time import monotonic
from typing import Any

import dagster as dg
import pandas as pd
from pydantic import Field

from azure_port_sync.deciding import ChangeSet, Findings, decide_changes, presence_objections
from azure_port_sync.port import BLUEPRINTS, DeliveryReport
from azure_port_sync.port.flow import Flow
from azure_port_sync.port.verify import verify
from azure_port_sync.resources import AzureResource, PortResource, StateResource
from azure_port_sync.showing import check, kql, plainly, table
from azure_port_sync.steps import deliver_changes, read_snapshot
from azure_port_sync.sync.clock import Clock
from azure_port_sync.sync.decisions import Verdict
from azure_port_sync.sync.errors import SettingsError, SyncError
from azure_port_sync.sync.guards import MAX_DELETE_RATIO, is_mass_deletion, mass_deletion_sentence
from azure_port_sync.sync.identity import illegal_identifiers, target_name
from azure_port_sync.sync.planning import Plan
from azure_port_sync.sync.request import Mode, Part, Request
from azure_port_sync.sync.rows import OBSERVATION, Kind, Operation, concat
from azure_port_sync.sync.windows import RETENTION, Window

_PAYLOAD_SHOWN = 300
_PROGRESS_SECONDS = 10.0
_WATERMARK_WARNS_AFTER = timedelta(hours=1)


class RequestedMode(Enum):
    """`incremental` delivers what changed since the last settled run; `full` compares everything."""

    incremental = "incremental"
    full = "full"


class Only(dg.Config):
    """A part of the catalog: what lies in all that is named. Ids, names and types in any casing."""

    subscriptions: list[str] = Field(default=[], description="Subscription ids; empty: all of them.")
    resource_groups: list[str] = Field(
        default=[], description="Names of resource groups, in whichever of the subscriptions; empty: all of them."
    )
    resource_types: list[str] = Field(
        default=[],
        description="Resource types, e.g. Microsoft.KeyVault/vaults; empty: all of them, and the containers too.",
    )


class Reread(dg.Config):
    """A past window of change records, in UTC."""

    start: str = Field(description="E.g. 2026-11-23T10:00:00Z; Azure keeps change records for 14 days.")
    end: str = Field(description="E.g. 2026-11-23T16:00:00Z.")


class SyncConfig(dg.Config):
    """How a run goes about it. The jobs set `mode`; there is no default that could turn one into the other."""

    mode: RequestedMode = Field(
        description="incremental: what changed since the last run. full: everything is read and compared. "
        "An incremental run turns full by itself where change records are not enough, and says why."
    )
    force: bool = Field(
        default=False, description="Deliver everything that is in scope, also what Port has been told already."
    )
    allow_mass_delete: bool = Field(
        default=False,
        description="Allow this one run to delete however much it finds gone. Set it after a run was stopped by "
        "deletes_within_guard, and you know why so much is gone.",
    )
    max_delete_ratio: float = Field(
        default=MAX_DELETE_RATIO,
        ge=0,
        le=1,
        description="The share of what Port is known to hold that this run may delete (beyond 100 entities).",
    )
    only: Only = Field(
        default=Only(),
        description="Deliver this part again, whole, whether or not Port has been told. The watermark stays.",
    )
    reread: Reread | None = Field(
        default=None,
        description="Read the change records of a past window again and deliver what Port has not been told (of `only`,"
        " where that names a part). The watermark stays.",
    )
    retry_quarantined: bool = Field(
        default=False,
        description="Tell once more what Port has refused and is in quarantine. Set it after you mended the reason.",
    )
    rebuild_ledger: bool = Field(
        default=False,
        description="First read from Port's API what it really holds, then compare everything: finds what is missing "
        "in Port, was edited or was added there by hand. Needs PORT_CLIENT_ID and PORT_CLIENT_SECRET.",
    )

    def request(self) -> Request:
        """Raises SettingsError for a window that is none."""
        return Request(
            mode=Mode(self.mode.value),
            force=self.force,
            allow_mass_delete=self.allow_mass_delete,
            max_delete_ratio=self.max_delete_ratio,
            only=Part.of(
                subscriptions=self.only.subscriptions,
                resource_groups=self.only.resource_groups,
                resource_types=self.only.resource_types,
            ),
            reread=Window(_instant(self.reread.start), _instant(self.reread.end)) if self.reread else None,
            rebuild_ledger=self.rebuild_ledger,
            retry_quarantined=self.retry_quarantined,
        )


def _instant(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(
            f"`reread` holds {text!r}, which is not an instant. Write e.g. 2026-11-23T10:00:00Z"
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


# -- azure ----------------------------------------------------------------------------------------------------------


@dg.multi_asset(
    name="azure_snapshot",
    group_name="azure",
    outs={
        "azure_subscriptions": dg.AssetOut(
            description="Every Azure subscription that the identity can read, also one that shows only through its "
            "resource groups. Read whole in every run, because a lost permission leaves no change record.",
            kinds={"azure"},
        ),
        "azure_resource_groups": dg.AssetOut(
            description="Every resource group of those subscriptions, and whether its tags put it in scope. Comparing "
            "them with the ledger finds groups that were renamed, retagged, moved or deleted.",
            kinds={"azure"},
        ),
    },
    internal_asset_deps={
        "azure_subscriptions": set(),
        "azure_resource_groups": {dg.AssetKey("azure_subscriptions")},
    },
    check_specs=[
        dg.AssetCheckSpec(
            "containers_match_azure",
            asset="azure_resource_groups",
            blocking=True,
            description="The subscriptions and groups that were read are as many as Azure says there are.",
        )
    ],
)
def azure_snapshot(azure: AzureResource, port: PortResource, state: StateResource) -> Iterator[dg.MaterializeResult]:
    with plainly():
        for resource in (port, azure, state):  # a mistake in any setting shows before anything is read
            resource.check()
        choice = port.choice
        reading = read_snapshot(azure.reader)
    kind = reading.frame["kind"]
    subscriptions, groups = (reading.frame[kind == k] for k in (Kind.SUBSCRIPTION, Kind.RESOURCE_GROUP))
    yield dg.MaterializeResult(
        asset_key="azure_subscriptions",
        value=subscriptions,
        metadata={
            "dagster/row_count": len(subscriptions),
            "subscriptions": table(
                _with_group_counts(subscriptions, groups),
                ["name", "subscription_id", "groups"],
            ),
            "query": kql(reading.query),
            "delivery": f"{choice.sink}: {choice.reason}",
        },
    )
    shown = len(reading.frame) - reading.derived
    yield dg.MaterializeResult(
        asset_key="azure_resource_groups",
        value=groups,
        metadata={
            "dagster/row_count": len(groups),
            "in_scope": int(groups["in_scope"].sum()),
            "resource_groups": table(groups, ["name", "subscription_id", "in_scope"]),
        },
        check_results=[
            check(
                "containers_match_azure",
                asset_key="azure_resource_groups",
                passed=shown == reading.total_records,
                description=f"{shown:,} containers were read; Azure counts {reading.total_records:,}.",
                containers_read=shown,
                azure_total=reading.total_records,
            )
        ],
    )


@dg.asset(
    group_name="azure",
    kinds={"azure", "pandas"},
    dagster_type=dg.PythonObjectDagsterType(ChangeSet),
    description="What has to be told to Port: one upsert or delete per entity, decided from the change records since "
    "the watermark (or from everything, in a full run) against the ledger of what Port was told before.",
    check_specs=[
        dg.AssetCheckSpec(
            "rows_match_azure",
            asset="azure_change_set",
            blocking=True,
            description="The rows and change records that were read are as many as Azure says there are.",
        ),
        dg.AssetCheckSpec(
            "records_accounted_for",
            asset="azure_change_set",
            blocking=True,
            description="Every change record was either the newest of its resource or superseded by a newer one.",
        ),
        dg.AssetCheckSpec(
            "candidates_accounted_for",
            asset="azure_change_set",
            blocking=True,
            description="Every candidate got exactly one verdict: upsert, delete, unchanged, out of scope, ...",
        ),
        dg.AssetCheckSpec(
            "identifiers_valid",
            asset="azure_change_set",
            blocking=True,
            description="No identifier is told twice, and each is one that Port accepts; one that is not goes to "
            "quarantine.",
        ),
        dg.AssetCheckSpec(
            "subscriptions_present",
            asset="azure_change_set",
            blocking=True,
            description="Every subscription that is asked for, or was read before, is answered for. One that vanished "
            "keeps its entities for 24 hours, and this check warns of it.",
        ),
        dg.AssetCheckSpec(
            "deletes_within_guard",
            asset="azure_change_set",
            blocking=True,
            description="The run deletes no unusual share of what Port is known to hold, or a person has allowed it.",
        ),
        dg.AssetCheckSpec(
            "no_older_ghosts",
            asset="azure_change_set",
            description="What somebody else told Port of, and is gone for longer than Azure keeps change records, is "
            "ruled out.",
        ),
    ],
)
def azure_change_set(
    context: dg.AssetExecutionContext,
    config: SyncConfig,
    azure_subscriptions: pd.DataFrame,
    azure_resource_groups: pd.DataFrame,
    azure: AzureResource,
    port: PortResource,
    state: StateResource,
    clock: dg.ResourceParam[Clock],
) -> dg.MaterializeResult:
    with plainly():
        change_set, findings = decide_changes(
            azure.reader,
            state.store,
            clock,
            target=target_name(azure.tenant(), port.destination),
            run=context.run.run_id,
            snapshot=concat([azure_subscriptions, azure_resource_groups], OBSERVATION),
            request=config.request(),
            change_window=azure.settings.change_window,
            resend=not port.sink.verifies,
            catalog=port.api,
        )
    plan, frame = change_set.plan, change_set.frame
    context.log.info(
        f"{plan.mode.capitalize()} run over {plan.window}: {'; '.join(plan.reasons)}. "
        f"{_count(frame, Operation.UPSERT):,} upserts, {_count(frame, Operation.DELETE):,} deletes, "
        f"{findings.verdicts[Verdict.UNCHANGED]:,} unchanged."
    )
    return dg.MaterializeResult(
        value=change_set,
        metadata={
            **_plan_metadata(plan),
            **_findings_metadata(findings, frame),
            "azure_requests": azure.reader.graph.usage.requests,
            "azure_throttled_seconds": round(azure.reader.graph.throttled_seconds, 1),
            "operations": table(frame, ["operation", "kind", "name", "type", "resource_group", "azure_id"]),
            "queries": dg.MarkdownMetadataValue(
                "\n\n".join(f"**{label}**\n```kusto\n{query}\n```" for label, query in findings.queries.items())
            ),
        },
        check_results=[*_count_checks(findings, frame), *_guard_checks(findings, plan)],
    )


def _count_checks(findings: Findings, frame: pd.DataFrame) -> list[dg.AssetCheckResult]:
    accounted = findings.records_reduced + findings.records_superseded
    verdicts = sum(findings.verdicts.values())
    illegal = illegal_identifiers(frame["identifier"])
    repeated = int(frame.duplicated(["kind", "identifier"]).sum())
    return [
        check(
            "rows_match_azure",
            passed=findings.rows_read == findings.total_records,
            description=f"{findings.rows_read:,} rows were read; Azure counts {findings.total_records:,}.",
            rows_read=findings.rows_read,
            azure_total=findings.total_records,
        ),
        check(
            "records_accounted_for",
            passed=findings.records_read == accounted,
            description=f"{findings.records_read:,} change records: {findings.records_reduced:,} resources changed, "
            f"{findings.records_superseded:,} records superseded by newer ones.",
            records_read=findings.records_read,
            records_reduced=findings.records_reduced,
            records_superseded=findings.records_superseded,
        ),
        check(
            "candidates_accounted_for",
            passed=findings.candidates == verdicts and len(frame) == _operations(findings),
            description=f"{findings.candidates:,} candidates, {verdicts:,} verdicts, {len(frame):,} operations.",
            candidates=findings.candidates,
            verdicts=verdicts,
            operations=len(frame),
        ),
        check(
            "identifiers_valid",
            passed=not illegal and not repeated,
            severity=dg.AssetCheckSeverity.ERROR if repeated else dg.AssetCheckSeverity.WARN,
            description=f"{len(frame):,} identifiers: {len(illegal):,} that Port refuses, {repeated:,} used twice.",
            identifiers=len(frame),
            illegal=len(illegal),
            repeated=repeated,
            examples=", ".join(illegal[:5]) or "none",
        ),
    ]


def _guard_checks(findings: Findings, plan: Plan) -> list[dg.AssetCheckResult]:
    request = plan.request
    wrong = findings.unreadable or findings.unanswered
    over = is_mass_deletion(findings.known_deletes, plan.known_before, max_ratio=request.max_delete_ratio)
    return [
        check(
            "subscriptions_present",
            passed=not wrong and not findings.in_grace,
            severity=dg.AssetCheckSeverity.ERROR if wrong else dg.AssetCheckSeverity.WARN,
            description=_presence_sentence(findings),
            subscriptions=findings.subscriptions,
            never_readable=len(findings.unreadable),
            not_answered=len(findings.unanswered),
            in_grace=len(findings.in_grace),
            held_back=findings.verdicts[Verdict.HELD],
        ),
        check(
            "deletes_within_guard",
            passed=not over or request.allow_mass_delete,
            description=_guard_sentence(findings, plan, over=over),
            deletes=findings.known_deletes,
            known=plan.known_before,
            max_delete_ratio=str(request.max_delete_ratio),
            allowed_by_a_person=str(request.allow_mass_delete).lower(),
        ),
        check(
            "no_older_ghosts",
            passed=not findings.ghosts_may_remain,
            severity=dg.AssetCheckSeverity.WARN,
            description="What Port held before the first run, and Azure deleted more than "
            f"{RETENTION.days} days ago, is not known here. If somebody else filled the catalog before, launch "
            "full_sync with `rebuild_ledger: true` (needs PORT_CLIENT_ID and PORT_CLIENT_SECRET), or delete such "
            "entities in Port by hand."
            if findings.ghosts_may_remain
            else "The ledger knows what Port holds.",
        ),
    ]


def _presence_sentence(findings: Findings) -> str:
    if findings.unreadable or findings.unanswered:
        return " ".join(presence_objections(findings.unreadable, findings.unanswered))
    if findings.in_grace:
        until = max(findings.in_grace.values())
        return (
            f"{len(findings.in_grace)} subscriptions have vanished: {', '.join(findings.in_grace)}. Their "
            f"{findings.verdicts[Verdict.HELD]:,} entities stay in Port until {until:%Y-%m-%d %H:%M} UTC at the "
            "latest, and then go. If they are not deleted, give the identity its role on them back before that."
        )
    return f"All {findings.subscriptions:,} subscriptions are answered for."


def _guard_sentence(findings: Findings, plan: Plan, *, over: bool) -> str:
    if not over:
        return f"{findings.known_deletes:,} of {plan.known_before:,} known entities are to be deleted."
    sentence = mass_deletion_sentence(
        findings.known_deletes, plan.known_before, max_ratio=plan.request.max_delete_ratio
    )
    return f"Allowed by a person (allow_mass_delete). {sentence}" if plan.request.allow_mass_delete else sentence


def _operations(findings: Findings) -> int:
    return findings.verdicts[Verdict.UPSERT] + findings.verdicts[Verdict.DELETE]


def _with_group_counts(subscriptions: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    counts = groups.groupby("subscription_id").size()
    return subscriptions.assign(groups=subscriptions["subscription_id"].map(counts).fillna(0).astype(int))


# -- port -----------------------------------------------------------------------------------------------------------


@dg.asset(
    group_name="port",
    kinds={"port"},
    description="The change set, delivered to Port: deletes first, then upserts, containers before what is in them. "
    "The watermark moves when every delivery is settled, and only then.",
    check_specs=[
        dg.AssetCheckSpec(
            "deliveries_match_change_set",
            asset="port_deliveries",
            description="Every operation of the change set was answered by Port.",
        ),
        dg.AssetCheckSpec(
            "deliveries_settled",
            asset="port_deliveries",
            blocking=True,
            description="Port accepted every delivery, or it is in quarantine. Otherwise the run fails, and the "
            "watermark stays.",
        ),
        dg.AssetCheckSpec(
            "quarantine_empty",
            asset="port_deliveries",
            description="There is nothing that Port refuses for what it is. What is in quarantine is told again when "
            "it changes in Azure, or with `retry_quarantined: true`.",
        ),
        dg.AssetCheckSpec(
            "port_holds_ledger",
            asset="port_deliveries",
            description="After a full run, Port's API shows as many entities as Port was told of, and a few of them as "
            "they were told.",
        ),
        dg.AssetCheckSpec(
            "ledger_matches_inventory",
            asset="port_deliveries",
            description="After a full run, the ledger holds exactly what was found in Azure and what is held back.",
        ),
        dg.AssetCheckSpec(
            "watermark_recent",
            asset="port_deliveries",
            description="The watermark, up to which every change has been delivered, is less than an hour old.",
        ),
    ],
)
def port_deliveries(
    context: dg.AssetExecutionContext,
    azure_change_set: ChangeSet,
    port: PortResource,
    state: StateResource,
    clock: dg.ResourceParam[Clock],
) -> dg.MaterializeResult:
    started = monotonic()
    progress = _Progress(context.log, started)
    with plainly():
        sink, choice = port.sink, port.choice
        report = deliver_changes(azure_change_set, sink, state.store, clock, progress=progress)
    seconds = monotonic() - started
    target = azure_change_set.plan.target
    quarantined = state.store.quarantined(target)
    watermark = state.store.target_state(target).watermark
    if report.error is not None:
        context.log.error(str(report.error))
    return dg.MaterializeResult(
        metadata={
            "delivery": choice.sink,
            "delivery_reason": choice.reason,
            **_report_metadata(report, seconds),
            **_flow_metadata(sink.flow),
            **({"watermark": dg.TimestampMetadataValue(watermark.timestamp())} if watermark else {}),
            "in_quarantine": len(quarantined),
            **({"quarantine": _quarantine_table(quarantined)} if len(quarantined) else {}),
        },
        check_results=[
            *_settled_checks(report),
            _quarantine_check(quarantined),
            _ledger_check(azure_change_set, report, state),
            _port_check(context, azure_change_set, report, port, state, clock),
            _watermark_check(watermark, clock.now()),
        ],
    )


def _report_metadata(report: DeliveryReport, seconds: float) -> dict[str, Any]:
    return {
        "accepted": report.accepted.total(),
        "accepted_upserts": report.accepted[Operation.UPSERT],
        "accepted_deletes": report.accepted[Operation.DELETE],
        "refused": len(report.refused),
        "failed": len(report.failed),
        "not_sent": report.total - report.done,
        "seconds": round(seconds, 2),
        "entities_per_second": round(report.accepted.total() / seconds, 1) if report.accepted else 0.0,
        **({"refusals": _refusals(report)} if report.refused or report.failed else {}),
    }


def _flow_metadata(flow: Flow) -> dict[str, Any]:
    return {
        "port_requests": flow.requests,
        "port_bytes": flow.bytes,
        "port_retries": flow.retries,
        "port_waited_seconds": round(flow.waited_seconds, 1),
    }


def _settled_checks(report: DeliveryReport) -> list[dg.AssetCheckResult]:
    return [
        check(
            "deliveries_match_change_set",
            passed=report.done == report.total,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{report.done:,} of {report.total:,} operations were answered.",
            operations=report.total,
            answered=report.done,
        ),
        check(
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
    return check(
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


def _quarantine_table(quarantined: pd.DataFrame) -> dg.TableMetadataValue:
    shown = quarantined.assign(
        first=quarantined["first_at"].dt.strftime("%Y-%m-%d %H:%M"),
        last=quarantined["last_at"].dt.strftime("%Y-%m-%d %H:%M"),
        payload=quarantined["payload"].str.slice(0, _PAYLOAD_SHOWN),
    )
    return table(shown, ["reason", "azure_id", "operation", "first", "last", "attempts", "payload"])


def _port_check(
    context: dg.AssetExecutionContext,
    change_set: ChangeSet,
    report: DeliveryReport,
    port: PortResource,
    state: StateResource,
    clock: Clock,
) -> dg.AssetCheckResult:
    name = "port_holds_ledger"
    if port.api is None:
        return check(name, passed=True, description="Only with PORT_CLIENT_ID and PORT_CLIENT_SECRET can it be told.")
    if change_set.plan.mode is not Mode.FULL or report.unsettled:
        return check(name, passed=True, description="Only a full run that settled can tell.")
    refused = {(row["kind"], row["identifier"]) for row, _ in report.refused}
    sample = [row for row in change_set.sample if (row["kind"], row["identifier"]) not in refused]
    try:
        told = state.store.ledger_counts(change_set.plan.target)
        found = verify(port.api, port.mapping, told, sample, clock)
    except SyncError as error:
        context.log.warning(str(error))
        return check(name, passed=False, severity=dg.AssetCheckSeverity.WARN, description=str(error))
    numbers = ", ".join(f"{found.held[kind]:,} of {found.told[kind]:,} {BLUEPRINTS[kind]}" for kind in Kind)
    return check(
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
        return check("ledger_matches_inventory", passed=True, description="Only a full run that settled can tell.")
    store, target = state.store, change_set.plan.target
    rows = store.target_state(target).ledger_rows
    # The ledger keeps what was refused if Port may have an older version of it, also where it refused to delete it.
    refused = pd.DataFrame([row for row, _ in report.refused], columns=change_set.frame.columns)
    untold = int((refused["operation"] == Operation.UPSERT).sum()) - store.known_among(target, refused)
    kept = change_set.kept - untold
    return check(
        "ledger_matches_inventory",
        passed=rows == kept,
        description=f"The ledger holds {rows:,} entities; {kept:,} were found in Azure or are held back."
        + ("" if rows == kept else " Launch full_sync with `force: true`, and tell the maintainers."),
        ledger=rows,
        found_or_held_back=kept,
    )


def _watermark_check(watermark: datetime | None, now: datetime) -> dg.AssetCheckResult:
    age = None if watermark is None else now - watermark
    recent = age is not None and age < _WATERMARK_WARNS_AFTER
    told = (
        "There is no watermark yet"
        if age is None
        else f"The watermark is {age / timedelta(minutes=1):,.0f} minutes old"
    )
    return check(
        "watermark_recent",
        passed=recent,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{told}."
        if recent
        else f"{told}: changes since then may be missing in Port. The red check or failed run above says why; nothing "
        "is lost, the next run that settles reads back to it.",
    )


class _Progress:
    """Logs how far a long delivery is, with its rate and the time left, every few seconds."""

    def __init__(self, log: dg.DagsterLogManager, started: float) -> None:
        self._log = log
        self._started = self._last = started

    def __call__(self, done: int, total: int) -> None:
        now = monotonic()
        if now - self._last < _PROGRESS_SECONDS:
            return
        self._last = now
        rate = done / (now - self._started)
        self._log.info(f"{done:,} of {total:,} delivered, {rate:,.0f} a second, {(total - done) / rate:,.0f} s left")


def _settled_sentence(report: DeliveryReport) -> str:
    if report.error is not None:
        return f"{report.unsettled:,} of {report.total:,} deliveries are not settled. {report.error}"
    if report.failed:
        row, reason = report.failed[0]
        return (
            f"Port goes on failing at {len(report.failed):,} of {report.total:,} deliveries and takes the others; the "
            f"first is {row['azure_id']}: {reason}. The watermark stays where it is; the next run tries them again."
        )
    if report.quarantined:
        return (
            f"Port accepted {report.accepted.total():,} of {report.total:,} deliveries; it refuses "
            f"{report.quarantined:,}, which are in quarantine."
        )
    return f"Port accepted all {report.total:,} deliveries." if report.total else "There was nothing to deliver."


def _refusals(report: DeliveryReport) -> dg.TableMetadataValue:
    rows = [
        {"operation": row["operation"], "azure_id": row["azure_id"], "reason": reason}
        for row, reason in [*report.refused, *report.failed]
    ]
    return table(pd.DataFrame(rows), ["reason", "operation", "azure_id"])


# -- metadata -------------------------------------------------------------------------------------------------------


def _plan_metadata(plan: Plan) -> dict[str, Any]:
    return {
        "mode": str(plan.mode),
        "mode_reason": "; ".join(plan.reasons),
        "window_start": dg.TimestampMetadataValue(plan.window.start.timestamp()),
        "window_end": dg.TimestampMetadataValue(plan.window.end.timestamp()),
        "window_minutes": round((plan.window.end - plan.window.start).total_seconds() / 60, 1),
        "target": plan.target,
        "scope_fingerprint": plan.fingerprint,
    }


def _findings_metadata(findings: Findings, frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "dagster/row_count": len(frame),
        "subscriptions": findings.subscriptions,
        "resource_groups": findings.groups,
        "resource_groups_in_scope": findings.groups_in_scope,
        "records_read": findings.records_read,
        "rows_read": findings.rows_read,
        "candidates": findings.candidates,
        "upserts": findings.verdicts[Verdict.UPSERT],
        "deletes": findings.verdicts[Verdict.DELETE],
        "unchanged": findings.verdicts[Verdict.UNCHANGED],
        "out_of_scope": findings.verdicts[Verdict.OUT_OF_SCOPE],
        "pending": findings.verdicts[Verdict.PENDING],
        "unknown_deletes": findings.verdicts[Verdict.UNKNOWN_DELETE],
        "tombstoned": findings.verdicts[Verdict.TOMBSTONED],
        "colliding": findings.verdicts[Verdict.COLLIDING],
        "held_back_by_grace": findings.verdicts[Verdict.HELD],
        "in_quarantine": findings.verdicts[Verdict.QUARANTINED],
        "told_again": findings.resent,
        **(
            {
                "port_held": findings.refill.held,
                "missing_in_port": findings.refill.missing,
                "unknown_in_port": findings.refill.added,
            }
            if findings.refill
            else {}
        ),
    }


def _count(frame: pd.DataFrame, operation: Operation) -> int:
    return int((frame["operation"] == operation).sum())
