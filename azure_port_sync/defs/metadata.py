"""Metadata for the Dagster UI: errors as one sentence, numbers to plot, tables cut to what a person reads."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple
from urllib.parse import quote

import dagster as dg
import pandas as pd
import pyarrow as pa

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.errors import SyncError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.rows import Operation, records
from azure_port_sync.defs.jobs import DRY_RUN_TAG, MODE_TAG
from azure_port_sync.engine.deliver import DeliveryReport
from azure_port_sync.engine.stats import RunStats
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.port.flow import Flow

#: Rows of a table in metadata; more would slow the UI down and be read by nobody.
SHOWN = 20

_PAYLOAD_SHOWN = 300

_Metadata = dict[str, Any]


@contextmanager
def user_facing_errors() -> Iterator[None]:
    """Show an error that is meant for a person as one sentence, and spend no retry on it."""
    try:
        yield
    except SyncError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


class Problem(NamedTuple):
    """A check of a run that is not green, or a step of it that failed; `stops` says whether it ended the run."""

    name: str
    sentence: str
    is_check: bool
    stops: bool


def problems(instance: dg.DagsterInstance, run_id: str) -> Iterator[Problem]:
    """Return what went wrong in a run, from the run's own events.

    Of an error that was not made for a person only the kind is given: its text may be long, and hold anything.
    """
    for entry in instance.all_logs(run_id):
        event = entry.dagster_event
        if event is None:
            continue
        if event.event_type is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            found = event.asset_check_evaluation_data
            if not found.passed:
                stops = found.severity is dg.AssetCheckSeverity.ERROR
                yield Problem(found.check_name, found.description or "", is_check=True, stops=stops)
        elif event.is_step_failure:
            data = event.step_failure_data
            description = data.user_failure_data.description if data.user_failure_data else None
            kind = data.error.cls_name if data.error else "an error"
            sentence = description or f"{kind}; the run's log has all of it."
            yield Problem(event.step_key or "", sentence, is_check=False, stops=True)


# -- shapes ---------------------------------------------------------------------------------------------------------


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """The columns of an asset's value, as the UI lists them."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                field.name, str(field.type), (field.metadata or {}).get(b"description", b"").decode() or None
            )
            for field in schema
        ]
    )


def kql(queries: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    """The queries that ran, by what they were for."""
    return dg.MarkdownMetadataValue(
        "\n\n".join(f"**{label}**\n```kusto\n{query}\n```" for label, query in queries.items())
    )


def table(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> _Metadata:
    """The first rows of a frame under this name, and beside it how many there are where that is not all of them."""
    shown = frame[list(columns)].head(SHOWN).astype(object)
    shown = shown.where(shown.notna(), None)
    schema = dg.TableSchema([dg.TableColumn(column, _column_type(frame[column])) for column in columns])
    cut = {f"{name}_shown": f"the first {SHOWN} of {len(frame):,}"} if len(frame) > SHOWN else {}
    return {name: dg.TableMetadataValue([dg.TableRecord(row) for row in records(shown)], schema), **cut}


def _column_type(column: "pd.Series[Any]") -> str:
    if pd.api.types.is_bool_dtype(column):
        return "bool"
    return "int" if pd.api.types.is_integer_dtype(column) else "string"


def _when(times: "pd.Series[Any]") -> "pd.Series[Any]":
    text: pd.Series[Any] = pd.to_datetime(times.astype(object), utc=True).dt.strftime("%Y-%m-%d %H:%M:%S")
    return text


# -- what a run read and decided ------------------------------------------------------------------------------------


def plan_metadata(plan: Plan) -> _Metadata:
    """The plan of a run, and why it is that."""
    return {
        "mode": str(plan.mode),
        "mode_reason": "; ".join(plan.reasons),
        "window_start": dg.TimestampMetadataValue(plan.window.start.timestamp()),
        "window_end": dg.TimestampMetadataValue(plan.window.end.timestamp()),
        "window_minutes": round((plan.window.end - plan.window.start).total_seconds() / 60, 1),
    }


def plan_tags(plan: Plan) -> dict[str, str]:
    """The same, as tags that the list of runs can be filtered by."""
    asked = {DRY_RUN_TAG: "true"} if plan.request.dry_run else {}
    return {
        MODE_TAG: str(plan.mode),
        "azure_port_sync/reason": "; ".join(plan.reasons),
        "azure_port_sync/window": str(plan.window),
        **asked,
    }


def stats_metadata(stats: RunStats, frame: pd.DataFrame) -> _Metadata:
    """Numbers to plot: what was read, and the verdicts."""
    rebuild, reads, verdicts = stats.rebuild, stats.reads, stats.verdicts
    return {
        "dagster/row_count": len(frame),
        "subscriptions": stats.subscriptions,
        "resource_groups": stats.groups,
        "resource_groups_in_scope": stats.groups_in_scope,
        "records_read": reads.records_read,
        "rows_read": reads.rows_read,
        "duplicate_rows": reads.duplicate_rows,
        "unreadable_rows": reads.unreadable_rows,
        "candidates": stats.candidates,
        "upserts": verdicts[Verdict.UPSERT],
        "deletes": verdicts[Verdict.DELETE],
        "unchanged": verdicts[Verdict.UNCHANGED],
        "out_of_scope": verdicts[Verdict.OUT_OF_SCOPE],
        "pending": verdicts[Verdict.PENDING],
        "unknown_deletes": verdicts[Verdict.UNKNOWN_DELETE],
        "tombstoned": verdicts[Verdict.TOMBSTONED],
        "identifier_conflicts": verdicts[Verdict.ID_CONFLICT],
        "in_grace_period": verdicts[Verdict.IN_GRACE],
        "in_quarantine": verdicts[Verdict.QUARANTINED],
        "resent": stats.resent,
        **(
            {"held_by_port": rebuild.in_port, "missing_in_port": rebuild.missing, "unknown_in_port": rebuild.added}
            if rebuild
            else {}
        ),
    }


def operations_metadata(frame: pd.DataFrame, names: Mapping[str, str]) -> _Metadata:
    """A change set in tables: the newest operations, and how many by type and by subscription (id -> name)."""
    if frame.empty:
        return {}
    newest = frame.loc[frame["change_time"].sort_values(ascending=False).index[:SHOWN]]
    newest = newest.assign(changed=_when(newest["change_time"]))
    shown = table("newest_operations", newest, ["operation", "changed", "name", "type", "azure_id"])
    if len(frame) > SHOWN:
        shown["newest_operations_shown"] = f"the newest {SHOWN} of {len(frame):,}"
    by_subscription = _by(frame, "subscription_id")
    by_subscription["subscription"] = [names.get(id_, "") for id_ in by_subscription["subscription_id"]]
    return {
        **shown,
        **table("by_type", _by(frame, "type"), ["type", "upserts", "deletes"]),
        **table("by_subscription", by_subscription, ["subscription", "upserts", "deletes", "subscription_id"]),
    }


def _by(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Upserts and deletes by the values of a column, the most first."""
    values = frame[column].astype(object)
    counted = pd.DataFrame({column: values, "upserts": frame["operation"] == Operation.UPSERT})
    grouped = counted.groupby(column)["upserts"].agg(["sum", "size"]).sort_values("size", ascending=False)
    upserts = grouped["sum"].astype(int)
    return pd.DataFrame({column: grouped.index, "upserts": upserts.array, "deletes": (grouped["size"] - upserts).array})


# -- what was delivered ---------------------------------------------------------------------------------------------


def report_metadata(report: DeliveryReport, seconds: float) -> _Metadata:
    """Numbers to plot: what Port accepted, and how fast; a table of what it did not accept."""
    rows = [
        {"reason": reason, "operation": row.operation, "azure_id": row.azure_id}
        for row, reason in [*report.refused, *report.failed]
    ]
    refusals = table("refusals", pd.DataFrame(rows), ["reason", "operation", "azure_id"]) if rows else {}
    return {
        "accepted": report.accepted.total(),
        "accepted_upserts": report.accepted[Operation.UPSERT],
        "accepted_deletes": report.accepted[Operation.DELETE],
        "refused": len(report.refused),
        "failed": len(report.failed),
        "not_sent": report.total - report.done,
        "seconds": round(seconds, 2),
        "entities_per_second": round(report.accepted.total() / seconds, 1) if report.accepted else 0.0,
        **refusals,
    }


def flow_metadata(flow: Flow) -> _Metadata:
    """Numbers to plot: what the delivery cost Port."""
    return {
        "port_requests": flow.requests,
        "port_bytes": flow.bytes,
        "port_retries": flow.retries,
        "port_waited_seconds": round(flow.waited_seconds, 1),
    }


def lag_metadata(frame: pd.DataFrame, watermark: datetime | None, now: datetime) -> _Metadata:
    """How far Port is behind Azure: the watermark, its age, and the age of the oldest change that was sent."""
    oldest = frame["change_time"].min()
    return {
        **({"watermark": dg.TimestampMetadataValue(watermark.timestamp())} if watermark else {}),
        **({"watermark_lag_seconds": round((now - watermark).total_seconds(), 1)} if watermark else {}),
        "oldest_change_seconds": 0.0 if pd.isna(oldest) else round((now - oldest).total_seconds(), 1),
    }


def quarantine_metadata(quarantined: pd.DataFrame) -> _Metadata:
    """What Port refuses for its content, the oldest first."""
    if quarantined.empty:
        return {"in_quarantine": 0}
    shown = quarantined.assign(
        first=_when(quarantined["first_at"]),
        last=_when(quarantined["last_at"]),
        payload=quarantined["payload"].str.slice(0, _PAYLOAD_SHOWN),
    )
    columns = ["cause", "reason", "azure_id", "operation", "first", "last", "attempts", "payload"]
    return {"in_quarantine": len(quarantined), **table("quarantine", shown, columns)}


def links_metadata(frame: pd.DataFrame, port_app: str | None) -> _Metadata:
    """The newest entities that were sent, as links to their pages in Port; none where Port's address is not known.

    An entity's page is ``<app>/<blueprint>Entity?identifier=<identifier>`` (docs.port.io shows such links).
    """
    upserts = frame[frame["operation"] == Operation.UPSERT]
    if port_app is None or upserts.empty:
        return {}
    blueprints = packaged_blueprints()
    newest = upserts.loc[upserts["change_time"].sort_values(ascending=False).index[:SHOWN]]
    lines = []
    for row in records(newest[["kind", "name", "type", "identifier"]]):
        page = f"{port_app}/{blueprints[Kind(row['kind'])]}Entity?identifier={quote(row['identifier'], safe='')}"
        name = str(row["name"]).replace("[", "\\[").replace("]", "\\]")
        lines.append(f"- [{name}]({page}) {row['type']}")
    return {"in_port": dg.MarkdownMetadataValue("\n".join(lines))}
