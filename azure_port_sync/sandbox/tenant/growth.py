"""Growth in bulk: a million resources and their change records by SQL alone, without a Python object each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import duckdb

from azure_port_sync.sandbox.tenant.records import stamp, ticks


def add(
    db: duckdb.DuckDBPyConnection,
    homes: Sequence[str],
    *,
    first: int,
    count: int,
    seq: int,
    at: datetime,
    records: bool,
) -> None:
    """Add resources to the groups of these ids in turn, and with `records` a Create record of each."""
    keys = [home.lower() for home in homes]
    db.execute(_RESOURCES, {"homes": keys, "first": first, "seq": seq, "count": count, "at": at})
    if records:
        db.execute(_RECORDS, {"seq": seq, "at": at, "ticks": ticks(at), "stamp": stamp(at, 7)})


_RESOURCES = """
INSERT INTO resource_versions BY NAME
WITH home AS (SELECT *, row_number() OVER () - 1 AS n FROM container_versions
              WHERE alive AND key IN (SELECT unnest($homes))),
numbered AS (
    SELECT
        i,
        home.*,
        [
            'Microsoft.Compute/virtualMachines', 'Microsoft.Storage/storageAccounts', 'Microsoft.KeyVault/vaults',
            'Microsoft.Network/networkInterfaces', 'Microsoft.Web/sites', 'Microsoft.Sql/servers'
        ][1 + i * 7919 % 6] AS spelled,
        printf('res-%07d', i) AS named,
        lower(id || '/providers/' || spelled || '/' || named) AS lowered
    FROM range($first, $first + $count) r(i) JOIN home ON home.n = i % len($homes)
)
SELECT
    id || '/providers/' || spelled || '/' || named AS id,
    named AS name,
    lower(spelled) AS type,
    "tenantId",
    '' AS kind,
    location,
    "resourceGroup",
    "subscriptionId",
    '' AS "managedBy",
    json_object('provisioningState', 'Succeeded', 'number', i) AS properties,
    [
        NULL, '{}', '{"environment":"production"}', '{"Environment":"Production","owner":"platform"}',
        json_object('environment', 'staging', 'costcenter', printf('cc-%03d', i % 200))
    ][1 + i * 104729 % 5]::JSON AS tags,
    lowered AS key,
    lower(id) AS grp,
    lower("subscriptionId") AS sub,
    CAST(md5_number_lower(lowered) >> 1 AS BIGINT) AS hashed,
    $seq + 1 + i - $first AS seq,
    true AS alive,
    false AS twin,
    $at::TIMESTAMP AS shown_from,
    TIMESTAMP '9999-12-31' AS shown_to
FROM numbered
ORDER BY i
"""

_RECORDS = """
INSERT INTO resource_records BY NAME
WITH named AS (
    SELECT
        *,
        $ticks || '_' || CAST(CAST(md5(key || $ticks) AS UUID) AS VARCHAR) AS record,
        resource_versions.id || '/providers/Microsoft.Resources/changes/' || record AS record_id
    FROM resource_versions WHERE seq > $seq
)
SELECT
    record_id AS id,
    record AS name,
    'microsoft.resources/changes' AS type,
    "tenantId",
    '' AS kind,
    location,
    "resourceGroup",
    "subscriptionId",
    '' AS "managedBy",
    json_object(
        'targetResourceId', id, 'targetResourceType', type, 'changeType', 'Create',
        'changeAttributes', json_object(
            'timestamp', $stamp, 'changesCount', 0, 'correlationId', '00000000-0000-0000-0000-000000000000',
            'changedBy', 'System', 'changedByType', 'System', 'clientType', 'Unspecified',
            'operation', 'Unspecified', 'newResourceSnapshotId', record
        )
    ) AS properties,
    grp,
    sub,
    CAST(md5_number_lower(lower(record_id)) >> 1 AS BIGINT) AS hashed,
    $at::TIMESTAMP AS happened,
    $at::TIMESTAMP AS shown_from
FROM named
"""
