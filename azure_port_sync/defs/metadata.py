"""Metadata for the Dagster UI: numbers to plot, tables cut to what a person reads."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import dagster as dg
import pandas as pd
import pyarrow as pa

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.rows import Operation, records
from azure_port_sync.defs.jobs import DRY_RUN_TAG, MODE_TAG
from azure_port_sync.defs.resources import PortResource
from azure_port_sync.engine.decide import ChangeSet
from azure_port_sync.engine.deliver import DeliveryReport
from azure_port_sync.engine.stats import RunStats
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.resource_graph import ResourceGraph

#: Rows of a table in metadata; more would slow the UI down and be read by nobody.
SHOWN = 20

_PAYLOAD_SHOWN = 300

_Metadata = dict[str, Any]


# -- shapes ---------------------------------------------------------------------------------------------------------


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """The columns of an asset's value, as the UI lists them."""
    return dg.TableSchema(
        [dg.TableColumn(field.name, str(field.type), field.metadata[b"description"].decode()) for field in schema]
    )


def kql(queries: Mapping[str, str]) -> dg.MarkdownMetadataValue:
    """The queries that ran, by their purpose."""
    return dg.MarkdownMetadataValue(
        "\n\n".join(f"**{label}**\n```kusto\n{query}\n```" for label, query in queries.items())
    )


def table(name: str, frame: pd.DataFrame, columns: Sequence[str], *, order: str = "first") -> _Metadata:
    """The first rows of a frame under this name, and beside it how many there are where that is not all of them."""
    shown = frame[list(columns)].head(SHOWN).astype(object)
    shown = shown.where(shown.notna(), None)
    types = {"b": "bool", "i": "int"}
    schema = dg.TableSchema([dg.TableColumn(one, types.get(frame[one].dtype.kind, "string")) for one in columns])
    cut = {f"{name}_shown": f"the {order} {SHOWN} of {len(frame):,}"} if len(frame) > SHOWN else {}
    return {name: dg.TableMetadataValue([dg.TableRecord(row) for row in records(shown)], schema), **cut}


def _when(times: "pd.Series[Any]") -> "pd.Series[Any]":
    text: pd.Series[Any] = pd.to_datetime(times.astype(object), utc=True).dt.strftime("%Y-%m-%d %H:%M:%S")
    return text


def _timestamp(instant: datetime) -> dg.TimestampMetadataValue:
    return dg.TimestampMetadataValue(instant.timestamp())


def _newest_first(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.loc[frame["change_time"].sort_values(ascending=False).index]


# -- the change set -------------------------------------------------------------------------------------------------


def plan_tags(plan: Plan) -> dict[str, str]:
    """The plan of a run, as tags that the list of runs can be filtered by."""
    return {
        MODE_TAG: str(plan.mode),
        "azure_port_sync/reason": "; ".join(plan.reasons),
        "azure_port_sync/window": str(plan.window),
        **({DRY_RUN_TAG: "true"} if plan.request.dry_run else {}),
    }


def change_set_metadata(
    change_set: ChangeSet, stats: RunStats, graph: ResourceGraph, subscriptions: Mapping[str, str]
) -> _Metadata:
    """The plan of a run and its reasons, numbers to plot, the operations in tables; `subscriptions` maps id to name."""
    plan, frame = change_set.plan, change_set.frame
    reads, verdicts, rebuild = stats.reads, stats.verdicts, stats.rebuild
    return {
        "mode": str(plan.mode),
        "mode_reason": "; ".join(plan.reasons),
        "window_start": _timestamp(plan.window.start),
        "window_end": _timestamp(plan.window.end),
        "window_minutes": round((plan.window.end - plan.window.start) / timedelta(minutes=1), 1),
        "dagster/row_count": len(frame),
        "upserts": verdicts[Verdict.UPSERT],
        "deletes": verdicts[Verdict.DELETE],
        "held_deletes": verdicts[Verdict.HELD],
        "unchanged": verdicts[Verdict.UNCHANGED],
        **(_operations(frame, subscriptions) if len(frame) else {}),
        **(table("held", stats.held, ["name", "type", "azure_id"]) if len(stats.held) else {}),
        "pending": verdicts[Verdict.PENDING],
        "in_grace_period": verdicts[Verdict.IN_GRACE],
        "in_quarantine": verdicts[Verdict.QUARANTINED],
        "identifier_conflicts": verdicts[Verdict.ID_CONFLICT],
        "tombstoned": verdicts[Verdict.TOMBSTONED],
        "out_of_scope": verdicts[Verdict.OUT_OF_SCOPE],
        "unknown_deletes": verdicts[Verdict.UNKNOWN_DELETE],
        "candidates": stats.candidates,
        "resent": stats.resent,
        "subscriptions": stats.subscriptions,
        "resource_groups": stats.groups,
        "resource_groups_in_scope": stats.groups_in_scope,
        "records_read": reads.records_read,
        "rows_read": reads.rows_read,
        "duplicate_rows": reads.duplicate_rows,
        "unreadable_rows": reads.unreadable_rows,
        **(
            {"in_port_before": rebuild.in_port, "missing_in_port": rebuild.missing, "unknown_in_port": rebuild.added}
            if rebuild
            else {}
        ),
        "azure_requests": graph.usage.requests,
        "azure_retries": graph.usage.retries,
        "azure_throttled_seconds": round(graph.throttled_seconds, 1),
        "queries": kql(reads.queries),
        "target": plan.target,
        "scope_fingerprint": plan.fingerprint,
    }


def _operations(frame: pd.DataFrame, subscriptions: Mapping[str, str]) -> _Metadata:
    """A change set in tables: the newest operations, and how many by type and by subscription."""
    newest = _newest_first(frame).assign(changed=_when(frame["change_time"]))
    by_subscription = _counts(frame, "subscription_id")
    names = [subscriptions.get(id_, "") for id_ in by_subscription["subscription_id"]]
    counted = by_subscription.assign(subscription=names)
    return {
        **table("newest_operations", newest, ["operation", "changed", "name", "type", "azure_id"], order="newest"),
        **table("by_type", _counts(frame, "type"), ["type", "upserts", "deletes"]),
        **table("by_subscription", counted, ["subscription", "upserts", "deletes", "subscription_id"]),
    }


def _counts(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Upserts and deletes by the values of a column, the most first."""
    counted = pd.crosstab(frame[column].astype(object), frame["operation"].astype(object))
    counted = counted.reindex(columns=list(Operation), fill_value=0).set_axis(["upserts", "deletes"], axis="columns")
    return counted.loc[counted.sum(axis="columns").sort_values(ascending=False).index].reset_index()


# -- deliveries -----------------------------------------------------------------------------------------------------


def delivery_metadata(
    change_set: ChangeSet,
    report: DeliveryReport,
    port: PortResource,
    quarantined: pd.DataFrame,
    watermark: datetime | None,
    *,
    now: datetime,
    seconds: float,
) -> _Metadata:
    """The way into Port, numbers to plot, how far Port is behind Azure, and what Port did not accept."""
    oldest, flow = change_set.frame["change_time"].min(), port.sink.flow
    refusals = [
        {"reason": reason, "operation": row.operation, "azure_id": row.azure_id}
        for row, reason in [*report.put_aside, *report.failed]
    ]
    return {
        "delivery": port.selection.sink,
        "delivery_reason": port.selection.reason,
        "accepted": report.accepted.total(),
        "accepted_upserts": report.accepted[Operation.UPSERT],
        "accepted_deletes": report.accepted[Operation.DELETE],
        "refused": len(report.refused),
        "failed": len(report.failed),
        "not_sent": report.total - report.done,
        "seconds": round(seconds, 2),
        "entities_per_second": round(report.accepted.total() / seconds, 1) if report.accepted else 0.0,
        **(table("refusals", pd.DataFrame(refusals), ["reason", "operation", "azure_id"]) if refusals else {}),
        "port_requests": flow.requests,
        "port_bytes": flow.bytes,
        "port_retries": flow.retries,
        "port_waited_seconds": round(flow.waited_seconds, 1),
        **(
            {"watermark": _timestamp(watermark), "watermark_lag_seconds": round((now - watermark).total_seconds(), 1)}
            if watermark
            else {}
        ),
        "oldest_change_seconds": 0.0 if pd.isna(oldest) else round((now - oldest).total_seconds(), 1),
        "in_quarantine": len(quarantined),
        **(_quarantine(quarantined) if len(quarantined) else {}),
        **links_metadata(change_set.frame, port.app),
    }


def _quarantine(quarantined: pd.DataFrame) -> _Metadata:
    """The table of what Port refuses for its content, the oldest first."""
    shown = quarantined.assign(
        first=_when(quarantined["first_at"]),
        last=_when(quarantined["last_at"]),
        payload=quarantined["payload"].str.slice(0, _PAYLOAD_SHOWN),
    )
    columns = ["cause", "reason", "azure_id", "operation", "first", "last", "attempts", "payload"]
    return table("quarantine", shown, columns)


def links_metadata(frame: pd.DataFrame, port_app: str | None) -> _Metadata:
    """The newest entities that were sent, as links to their pages in Port; none where Port's address is not known.

    An entity's page is ``<app>/<blueprint>Entity?identifier=<identifier>`` (docs.port.io shows such links).
    """
    upserts = frame[frame["operation"] == Operation.UPSERT]
    if port_app is None or upserts.empty:
        return {}
    lines = []
    for row in records(_newest_first(upserts)[["kind", "name", "type", "identifier"]].head(SHOWN)):
        blueprint = packaged_blueprints()[Kind(row["kind"])]
        page = f"{port_app}/{blueprint}Entity?identifier={quote(row['identifier'], safe='')}"
        name = str(row["name"]).replace("[", "\\[").replace("]", "\\]")
        lines.append(f"- [{name}]({page}) {row['type']}")
    return {"in_port": dg.MarkdownMetadataValue("\n".join(lines))}
