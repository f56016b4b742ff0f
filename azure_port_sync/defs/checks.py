"""The asset checks: which counts must agree, what each says when they do not, and what to do then.

Each belongs to the asset that made its counts, so that a red one comes with the numbers. A blocking one fails the run
before anything wrong is sent or believed; the others warn.
"""

from collections.abc import Iterator, Sequence

import dagster as dg

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def _specs(asset: str, checks: Sequence[tuple[str, bool, str]]) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=blocking, description=description)
        for name, blocking, description in checks
    ]


#: Name, whether it is blocking, and meaning of the checks of each asset.
SNAPSHOT_CHECKS = _specs(
    "azure_resource_groups",
    [
        ("containers_match_azure", False, "As many subscriptions and groups were read as Azure says there are."),
        ("containers_readable", False, "No subscription or group came twice or in a form that cannot be read."),
    ],
)

CHANGE_SET_CHECKS = _specs(
    "azure_change_set",
    [
        ("rows_match_azure", False, "As many rows and change records were read as Azure says there are."),
        (
            "rows_readable",
            False,
            "No row came twice or in a form that cannot be read. Such rows are counted and left out; all others are "
            "synced.",
        ),
        (
            "records_accounted_for",
            True,
            "Every change record was either the newest of its resource or superseded by a newer one.",
        ),
        (
            "candidates_accounted_for",
            True,
            "Every candidate got exactly one verdict: upsert, delete, unchanged, out of scope, ...",
        ),
        (
            "identifiers_valid",
            True,
            "No identifier is sent twice, and each is one that Port accepts; one that is not goes to quarantine.",
        ),
        (
            "subscriptions_present",
            True,
            "Azure answers for every subscription that is named in the settings or was read before. One that vanished "
            "keeps its entities for 24 hours, and this check warns of it.",
        ),
        (
            "deletes_within_guard",
            True,
            "The run deletes no unusual share of what Port is known to hold, or a person has allowed it.",
        ),
        (
            "no_stale_entities",
            False,
            "There is nothing in Port from before the first run that Azure deleted longer ago than it keeps records.",
        ),
    ],
)

DELIVERY_CHECKS = _specs(
    "port_deliveries",
    [
        ("deliveries_match_change_set", False, "Port answered every operation of the change set."),
        (
            "deliveries_complete",
            True,
            "Port accepted every delivery, or it is in quarantine. Otherwise the run fails, and the watermark stays.",
        ),
        (
            "quarantine_empty",
            False,
            "Port refuses no entity for its content. What is in quarantine is sent again when it changes in Azure, or "
            "with `retry_quarantined: true`.",
        ),
        (
            "port_holds_ledger",
            False,
            "After a full run, Port's API shows as many entities as the ledger, and a few of them as they were sent.",
        ),
        (
            "ledger_matches_inventory",
            False,
            "After a full run, the ledger has exactly what was found in Azure, is in its grace period, or waits.",
        ),
        (
            "watermark_recent",
            False,
            "The watermark, up to which every change has been delivered, is not older than four ticks of the schedule.",
        ),
    ],
)


def check_result(
    name: str,
    *,
    passed: bool,
    description: str,
    severity: dg.AssetCheckSeverity = ERROR,
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
    """Return a line for the log for each check that stops the run; Dagster's own error has no more than its name."""
    for result in results:
        if not result.passed and result.severity is ERROR:
            yield f"{result.check_name}: {result.description}"
