"""The checks of what was read from Azure and decided: counts that must agree, odd rows, guards."""

from collections.abc import Iterator, Sequence

import dagster as dg

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.guard import Guard
from azure_port_sync.core.identity import illegal_identifiers
from azure_port_sync.core.windows import RETENTION
from azure_port_sync.defs.checks import check_result
from azure_port_sync.engine.decide import ChangeSet
from azure_port_sync.engine.stats import RunStats
from azure_port_sync.resource_graph import ReadResult

_BUG = " Nothing was sent. If the next run says so too, report it to the maintainers, with this page."


def snapshot_checks(snapshot: ReadResult) -> list[dg.AssetCheckResult]:
    """Compare the containers that were read with Azure's count, and show odd rows."""
    return [
        _match("containers_match_azure", "containers", snapshot.rows, snapshot.total_records),
        _readable("containers_readable", snapshot.duplicates, snapshot.unreadable, snapshot.samples),
    ]


def change_set_checks(stats: RunStats, change_set: ChangeSet) -> list[dg.AssetCheckResult]:
    """Compare what was read with Azure's counts, and what was decided with what was read; show the guards."""
    reads = stats.reads
    return [
        _match("rows_match_azure", "rows", reads.rows_read, reads.total_records),
        _readable("rows_readable", reads.duplicate_rows, reads.unreadable_rows, reads.samples),
        *_count_checks(stats, change_set),
        _subscriptions_check(stats),
        _guard_check(change_set.guard),
        _stale_check(stats, change_set),
    ]


def _match(name: str, rows: str, read: int, total: int) -> dg.AssetCheckResult:
    """A warning only: an answer says by itself whether it is whole."""
    off = "" if read == total else " All answers were whole, so nothing is missing: Azure's count is off."
    sentence = f"{read:,} {rows} were read; Azure counts {total:,}.{off}"
    return check_result(name, read == total, sentence, rows_read=read, azure_total=total)


def _readable(name: str, duplicates: int, unreadable: int, samples: Sequence[str]) -> dg.AssetCheckResult:
    fine = not duplicates and not unreadable
    return check_result(
        name,
        fine,
        "Every row was read, and each entity once."
        if fine
        else f"{duplicates:,} rows came more than once and count once; {unreadable:,} could not be read, or "
        f"only in part, and the rest was left out. E.g. {'; '.join(samples[:5])}. Everything else was synced.",
        duplicate_rows=duplicates,
        unreadable_rows=unreadable,
        samples="; ".join(samples[:20]) or "none",
    )


def _count_checks(stats: RunStats, change_set: ChangeSet) -> list[dg.AssetCheckResult]:
    reads, frame = stats.reads, change_set.frame
    accounted = reads.records_read == reads.records_reduced + reads.records_superseded
    verdicts = sum(stats.verdicts.values())
    operations = stats.verdicts[Verdict.UPSERT] + stats.verdicts[Verdict.DELETE]
    decided = stats.candidates == verdicts and len(frame) == operations
    illegal = illegal_identifiers(frame["identifier"])
    repeated = int(frame.duplicated(["kind", "identifier"]).sum())
    refused = " Those refused go to quarantine: rename them in Azure." if illegal else ""
    return [
        check_result(
            "records_accounted_for",
            accounted,
            f"{reads.records_read:,} change records: {reads.records_reduced:,} resources changed, "
            f"{reads.records_superseded:,} records superseded by newer ones.{'' if accounted else _BUG}",
            records_read=reads.records_read,
            records_reduced=reads.records_reduced,
            records_superseded=reads.records_superseded,
        ),
        check_result(
            "candidates_accounted_for",
            decided,
            f"{stats.candidates:,} candidates, {verdicts:,} verdicts, {len(frame):,} operations."
            f"{'' if decided else _BUG}",
            candidates=stats.candidates,
            verdicts=verdicts,
            operations=len(frame),
        ),
        check_result(
            "identifiers_valid",
            not illegal and not repeated,
            f"{len(frame):,} identifiers: {len(illegal):,} that Port refuses, {repeated:,} used twice."
            f"{_BUG if repeated else refused}",
            only_warns=not repeated,
            identifiers=len(frame),
            illegal=len(illegal),
            repeated=repeated,
            examples=", ".join(illegal[:5]) or "none",
        ),
    ]


def _subscriptions_check(stats: RunStats) -> dg.AssetCheckResult:
    return check_result(
        "subscriptions_present",
        not stats.unreadable and not stats.in_grace,
        " ".join(_about_subscriptions(stats)) or f"Azure answers for all {stats.subscriptions:,} subscriptions.",
        subscriptions=stats.subscriptions,
        never_readable=len(stats.unreadable),
        not_answered=len(stats.silent),
        in_grace=len(stats.in_grace),
        entities_in_grace=stats.verdicts[Verdict.IN_GRACE],
    )


def _about_subscriptions(stats: RunStats) -> Iterator[str]:
    """A sentence for each way in which subscriptions are left out of a run; the others go on."""
    if stats.unreadable:
        yield (
            f"AZURE_SUBSCRIPTION_IDS names {', '.join(stats.unreadable)}, of which Azure shows this identity nothing: "
            "give it the role Reader there, or take the id out of the setting."
        )
    if stats.silent:
        yield f"Azure stopped answering for {', '.join(sorted(stats.silent))} while this run was reading."
    if stats.in_grace:
        one = len(stats.in_grace) == 1
        until = max(stats.in_grace.values())
        yield (
            f"{len(stats.in_grace):,} {'subscription has' if one else 'subscriptions have'} vanished: "
            f"{', '.join(stats.in_grace)}. {'Its' if one else 'Their'} {stats.verdicts[Verdict.IN_GRACE]:,} entities "
            f"stay in Port until {until:%Y-%m-%d %H:%M} UTC at the latest, and are deleted then. If "
            f"{'it still exists' if one else 'they still exist'}, give the identity its role there back before that."
        )


def _guard_check(guard: Guard) -> dg.AssetCheckResult:
    """A warning only: everything else is delivered, and then `deliveries_complete` fails the run."""
    return check_result(
        "deletes_within_guard",
        not guard.holds,
        str(guard),
        deletes_without_record=guard.deletes,
        deletes_with_record=guard.proven,
        known=guard.known,
        max_delete_ratio=str(guard.max_ratio),
        allowed_by_a_person=str(guard.allowed).lower(),
    )


def _stale_check(stats: RunStats, change_set: ChangeSet) -> dg.AssetCheckResult:
    return check_result(
        "no_stale_entities",
        not stats.stale_may_remain,
        "Entities that were in Port before the first run, and that Azure deleted more than "
        f"{RETENTION.days} days ago, are not known here. If somebody else filled the catalog before, launch full_sync "
        "with `rebuild_ledger: true` (needs PORT_CLIENT_ID and PORT_CLIENT_SECRET), or delete such entities in Port by "
        "hand."
        if stats.stale_may_remain
        else "The ledger has everything that Port contains.",
        known=change_set.plan.known_before,
        read_from_port="no" if stats.rebuild is None else f"{stats.rebuild.in_port} entities",
    )
