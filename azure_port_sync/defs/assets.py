"""The sync assets: the containers in Azure, the change set, and the deliveries to Port.

Each asset calls one step of the engine and shows its outcome; its checks (checks.py) compare the counts.
"""

import sys
from collections.abc import Iterator
from time import monotonic

import dagster as dg
import pandas as pd

from azure_port_sync import __version__
from azure_port_sync.core.clock import Clock
from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.identity import target_name
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import CHANGE_SET, OBSERVATION, concat
from azure_port_sync.defs.change_set_checks import change_set_checks, snapshot_checks
from azure_port_sync.defs.checks import CHANGE_SET_CHECKS, DELIVERY_CHECKS, SNAPSHOT_CHECKS
from azure_port_sync.defs.config import SyncConfig
from azure_port_sync.defs.delivery_checks import delivery_checks
from azure_port_sync.defs.failures import fail_if_blocked, user_facing_errors
from azure_port_sync.defs.jobs import LATE, OWNERS
from azure_port_sync.defs.metadata import change_set_metadata, column_schema, delivery_metadata, kql, plan_tags, table
from azure_port_sync.defs.resources import AzureResource, PortResource, StateResource
from azure_port_sync.engine.containers import read_snapshot, with_hidden_subscriptions
from azure_port_sync.engine.decide import ChangeSet
from azure_port_sync.engine.run import decide_changes, deliver_changes
from azure_port_sync.engine.stats import RunStats

_PROGRESS_SECONDS = 10.0


# -- azure ----------------------------------------------------------------------------------------------------------


@dg.multi_asset(
    name="azure_snapshot",
    group_name="azure",
    outs={
        "azure_subscriptions": dg.AssetOut(
            description="Every Azure subscription that the identity can read, also one that shows only through its "
            "resource groups. Read whole in every run, because a lost permission leaves no change record.",
            kinds={"azure"},
            owners=OWNERS,
            code_version=__version__,
            metadata={"dagster/column_schema": column_schema(OBSERVATION)},
        ),
        "azure_resource_groups": dg.AssetOut(
            description="Every resource group of those subscriptions, and whether its tags put it in scope. Comparing "
            "them with the ledger finds groups that were renamed, retagged, moved or deleted.",
            kinds={"azure"},
            owners=OWNERS,
            code_version=__version__,
            metadata={"dagster/column_schema": column_schema(OBSERVATION)},
        ),
    },
    internal_asset_deps={"azure_subscriptions": set(), "azure_resource_groups": {dg.AssetKey("azure_subscriptions")}},
    check_specs=SNAPSHOT_CHECKS,
)
def azure_snapshot(azure: AzureResource, port: PortResource, state: StateResource) -> Iterator[dg.MaterializeResult]:
    with user_facing_errors():
        for resource in (port, azure, state):  # a mistake in any setting shows before anything is read
            resource.check()
        selection = port.selection
        snapshot = read_snapshot(azure.reader)
        shown = with_hidden_subscriptions(snapshot.frame)
        is_group = snapshot.frame["kind"] == Kind.RESOURCE_GROUP
        subscriptions, groups = snapshot.frame[~is_group], snapshot.frame[is_group]
        yield dg.MaterializeResult(
            asset_key="azure_subscriptions",
            value=subscriptions,
            metadata={
                "dagster/row_count": len(shown) - len(groups),
                "delivery": selection.sink,
                "delivery_reason": selection.reason,
                **table(
                    "subscriptions",
                    _with_group_counts(shown[shown["kind"] == Kind.SUBSCRIPTION], groups),
                    ["name", "groups", "groups_in_scope", "subscription_id"],
                ),
                "queries": kql({"subscriptions and resource groups": snapshot.query}),
            },
        )
        yield dg.MaterializeResult(
            asset_key="azure_resource_groups",
            value=groups,
            metadata={
                "dagster/row_count": len(groups),
                "in_scope": int(groups["in_scope"].sum()),
                **table("resource_groups", groups, ["name", "in_scope", "subscription_id"]),
            },
            check_results=snapshot_checks(snapshot),
        )


def _with_group_counts(subscriptions: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    counts = groups.groupby("subscription_id")["in_scope"].agg(["size", "sum"])
    ids = subscriptions["subscription_id"]
    numbers = counts.reindex(ids, fill_value=0).astype(int)
    counted = subscriptions.assign(groups=numbers["size"].array, groups_in_scope=numbers["sum"].array)
    return counted.sort_values("groups_in_scope", ascending=False)


@dg.asset(
    group_name="azure",
    kinds={"azure", "pandas"},
    owners=OWNERS,
    code_version=__version__,
    metadata={"dagster/column_schema": column_schema(CHANGE_SET)},
    dagster_type=dg.PythonObjectDagsterType(ChangeSet),
    output_required=False,  # a dry run makes none, so that there is nothing to deliver
    description="What has to be sent to Port: one upsert or delete for each entity, decided from the change records "
    "since the watermark (or from everything, in a full run) against the ledger of what was sent before.",
    check_specs=CHANGE_SET_CHECKS,
)
def azure_change_set(
    context: dg.AssetExecutionContext,
    config: SyncConfig,
    azure_subscriptions: pd.DataFrame,
    azure_resource_groups: pd.DataFrame,
    azure: AzureResource,
    port: PortResource,
    state: StateResource,
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    with user_facing_errors():
        change_set, stats = decide_changes(
            azure.reader,
            state.store,
            target=target_name(azure.tenant(), port.destination),
            run=context.run.run_id,
            snapshot=concat([azure_subscriptions, azure_resource_groups], OBSERVATION),
            request=config.request(),
            change_window=azure.settings.change_window,
            resend=not port.sink.verifies,
            sink=port.selection.fingerprint,
            catalog=port.api,
        )
        plan = change_set.plan
        context.instance.add_run_tags(context.run.run_id, plan_tags(plan))
        context.log.info(_sentence(change_set, stats))
        names = dict(zip(azure_subscriptions["subscription_id"], azure_subscriptions["name"], strict=True))
        metadata = change_set_metadata(change_set, stats, azure.reader.graph, names)
        checks = change_set_checks(stats, change_set)
        if len(stats.held):  # the metadata shows the first few; all of them can be downloaded with the run's stdout
            sys.stdout.write("\n".join(["Deletes that are held:", *stats.held["azure_id"], ""]))
        if plan.request.dry_run:
            context.log_event(dg.AssetObservation("azure_change_set", description="Dry run", metadata=metadata))
            yield from checks
        else:
            yield dg.MaterializeResult(value=change_set, metadata=metadata, check_results=checks)
        fail_if_blocked(checks)


def _sentence(change_set: ChangeSet, stats: RunStats) -> str:
    plan, verdicts = change_set.plan, stats.verdicts
    return (
        f"{'Dry run, nothing is sent. ' if plan.request.dry_run else ''}"
        f"{plan.mode.capitalize()} run over {plan.window}: {'; '.join(plan.reasons)}. "
        f"{verdicts[Verdict.UPSERT]:,} upserts, {verdicts[Verdict.DELETE]:,} deletes, "
        f"{verdicts[Verdict.UNCHANGED]:,} unchanged."
    )


# -- port -----------------------------------------------------------------------------------------------------------


@dg.asset(
    group_name="port",
    kinds={"port"},
    owners=OWNERS,
    code_version=__version__,
    freshness_policy=dg.FreshnessPolicy.time_window(fail_window=LATE, warn_window=LATE / 2),
    description="The change set, delivered to Port: deletes first, then upserts, containers before what is in them. "
    "The watermark moves when Port has accepted every delivery, and only then.",
    check_specs=DELIVERY_CHECKS,
)
def port_deliveries(
    context: dg.AssetExecutionContext,
    azure_change_set: ChangeSet,
    port: PortResource,
    state: StateResource,
    clock: dg.ResourceParam[Clock],
) -> Iterator[dg.MaterializeResult]:
    with user_facing_errors():
        started = monotonic()
        progress = _Progress(context.log, started)
        report = deliver_changes(azure_change_set, port.sink, state.store, clock, progress=progress)
        seconds = monotonic() - started
        target = azure_change_set.plan.target
        after, quarantined = state.store.targets.load(target), state.store.facts.quarantined(target)
        checks = delivery_checks(azure_change_set, report, after, quarantined, port, state.store, clock)
        yield dg.MaterializeResult(
            metadata=delivery_metadata(
                azure_change_set, report, port, quarantined, after.watermark, now=clock.now(), seconds=seconds
            ),
            check_results=checks,
        )
        fail_if_blocked(checks)


class _Progress:
    """Logs how far a long delivery has come, with its rate and the time left, every few seconds."""

    def __init__(self, log: dg.DagsterLogManager, started: float) -> None:
        self._log = log
        self._started = self._last = started

    def __call__(self, done: int, total: int) -> None:
        now = monotonic()
        if not done or now - self._last < _PROGRESS_SECONDS:
            return
        self._last = now
        rate = done / (now - self._started)
        self._log.info(f"{done:,} of {total:,} delivered, {rate:,.0f} a second, {(total - done) / rate:,.0f} s left")
