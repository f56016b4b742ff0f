"""The asset checks: which there are, on which asset, and what each means.

A check belongs to the asset that made its counts, so that a red one comes with the numbers. A blocking one fails the
run before anything wrong is sent or believed; the others warn. What they find is worked out in `change_set_checks` and
`delivery_checks`.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def _blocking(asset: str, name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, blocking=True, description=description)


def _warning(asset: str, name: str, description: str) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(name, asset=asset, description=description)


SNAPSHOT_CHECKS = [
    _warning(
        "azure_resource_groups",
        "containers_match_azure",
        "As many subscriptions and groups were read as Azure says there are.",
    ),
    _warning(
        "azure_resource_groups",
        "containers_readable",
        "No subscription or group came twice, or in a form that cannot be read.",
    ),
]

CHANGE_SET_CHECKS = [
    _warning(
        "azure_change_set",
        "rows_match_azure",
        "As many rows and change records were read as Azure says there are.",
    ),
    _warning(
        "azure_change_set",
        "rows_readable",
        "No row came twice, or in a form that cannot be read. Such rows are counted; all others are synced.",
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
        "No identifier is sent twice, and each is one that Port accepts; one that is not goes to quarantine.",
    ),
    _blocking(
        "azure_change_set",
        "subscriptions_present",
        "Azure answers for every subscription that is named in the settings or was read before. One that vanished "
        "keeps its entities for 24 hours, and this check warns of it.",
    ),
    _blocking(
        "azure_change_set",
        "deletes_within_guard",
        "The run deletes no unusual share of what Port is known to hold, or a person has allowed it.",
    ),
    _warning(
        "azure_change_set",
        "no_stale_entities",
        "Port holds nothing from before the first run that Azure deleted longer ago than it keeps records.",
    ),
]

DELIVERY_CHECKS = [
    _warning(
        "port_deliveries",
        "deliveries_match_change_set",
        "Port answered every operation of the change set.",
    ),
    _blocking(
        "port_deliveries",
        "deliveries_complete",
        "Port accepted every delivery, or it is in quarantine. Otherwise the run fails, and the watermark stays.",
    ),
    _warning(
        "port_deliveries",
        "quarantine_empty",
        "Port refuses no entity for its content. What is in quarantine is sent again when it changes in Azure, or "
        "with `retry_quarantined: true`.",
    ),
    _warning(
        "port_deliveries",
        "port_holds_ledger",
        "After a full run, Port's API shows as many entities as the ledger, and a few of them as they were sent.",
    ),
    _warning(
        "port_deliveries",
        "ledger_matches_inventory",
        "After a full run, the ledger has exactly what was found in Azure, is in its grace period, or waits.",
    ),
    _warning(
        "port_deliveries",
        "watermark_recent",
        "The watermark, up to which every change has been delivered, is not older than four ticks of the schedule.",
    ),
]


def check_result(
    name: str,
    *,
    passed: bool,
    description: str,
    severity: dg.AssetCheckSeverity = ERROR,
    asset_key: str | None = None,
    **metadata: int | str,
) -> dg.AssetCheckResult:
    """Return the result of a check, with its numbers as metadata."""
    return dg.AssetCheckResult(
        check_name=name,
        asset_key=asset_key,
        passed=passed,
        severity=severity,
        description=description,
        metadata=metadata,
    )


def blocking_failures(results: Sequence[dg.AssetCheckResult]) -> Iterator[str]:
    """Return a line for the log for each check that stops the run; Dagster's own error has no more than its name."""
    for result in results:
        if not result.passed and result.severity is ERROR:
            yield f"{result.check_name}: {result.description}"
