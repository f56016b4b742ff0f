"""The asset checks: which there are, on which asset, and what each means.

A check belongs to the asset that made its counts, so that a red one comes with the numbers. A blocking one fails the
run before anything wrong is sent or believed; the others warn. `change_set_checks` and `delivery_checks` evaluate them.
"""

from collections.abc import Mapping

import dagster as dg

_ERROR, _WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def _specs(
    asset: str, *, warning: Mapping[str, str], blocking: Mapping[str, str] | None = None
) -> list[dg.AssetCheckSpec]:
    """Return the checks of an asset, from their descriptions by name."""
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=blocks, description=description)
        for blocks, descriptions in ((True, blocking or {}), (False, warning))
        for name, description in descriptions.items()
    ]


SNAPSHOT_CHECKS = _specs(
    "azure_resource_groups",
    warning={
        "containers_match_azure": "As many subscriptions and groups were read as Azure says there are.",
        "containers_readable": "No subscription or group came twice, or in a form that cannot be read.",
    },
)

CHANGE_SET_CHECKS = _specs(
    "azure_change_set",
    blocking={
        "records_accounted_for": "Every change record was either the newest of its resource or superseded by a newer "
        "one.",
        "candidates_accounted_for": "Every candidate got exactly one verdict: upsert, delete, unchanged, out of scope, "
        "...",
        "identifiers_valid": "No identifier is sent twice, and each is one that Port accepts; one that is not goes to "
        "quarantine.",
    },
    warning={
        "subscriptions_present": "Azure answers for every subscription that is named in the settings or was read "
        "before. One that vanished keeps its entities for 24 hours; the others are synced.",
        "deletes_within_guard": "The run deletes no unusual share of what Port is known to contain without a Delete "
        "record of Azure's, or a person has allowed it. Otherwise they are held, and the run fails at its end.",
        "rows_match_azure": "As many rows and change records were read as Azure says there are.",
        "rows_readable": "No row came twice, or in a form that cannot be read. Such rows are counted; all others are "
        "synced.",
        "no_stale_entities": "Port contains nothing from before the first run that Azure deleted longer ago than it "
        "keeps records.",
    },
)

DELIVERY_CHECKS = _specs(
    "port_deliveries",
    blocking={
        "deliveries_complete": "Port accepted every delivery, or it is in quarantine, and no delete is held. Otherwise "
        "the run fails, and the watermark stays."
    },
    warning={
        "deliveries_match_change_set": "Port answered every operation of the change set.",
        "quarantine_empty": "Port takes every entity. What it does not take is in quarantine, and sent again when it "
        "changes in Azure, when the webhook's mapping changes, or with `retry_quarantined: true`; what waits for its "
        "parent or for a free identifier, by each run; what Port kept failing at, by each full run.",
        "port_holds_ledger": "After a full run, Port's API shows as many entities as the ledger, and a few of them as "
        "they were sent.",
        "ledger_matches_inventory": "After a full run, the ledger has exactly what was found in Azure, is in its grace "
        "period, or waits.",
        "watermark_recent": "The watermark, up to which every change has been delivered, is not older than four ticks "
        "of the schedule.",
    },
)

_BLOCKING = {spec.name for spec in (*SNAPSHOT_CHECKS, *CHANGE_SET_CHECKS, *DELIVERY_CHECKS) if spec.blocking}


def check_result(
    name: str, passed: bool, description: str, *, only_warns: bool = False, **metadata: int | str
) -> dg.AssetCheckResult:
    """Return the result of a check, with its numbers as metadata; one that `only_warns` blocks nothing this time."""
    severity = _ERROR if name in _BLOCKING and not only_warns else _WARN
    return dg.AssetCheckResult(
        check_name=name, passed=passed, severity=severity, description=description, metadata=metadata
    )
