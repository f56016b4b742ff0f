"""How things are shown in the Dagster UI: errors as a sentence, checks with both sides, tables cut to what is read."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pandas as pd

from azure_port_sync.sync.errors import SyncError
from azure_port_sync.sync.rows import records

#: Rows of a table in metadata; more would slow the UI down and be read by nobody.
SHOWN = 20


@contextmanager
def plainly() -> Iterator[None]:
    """Show an error that is meant for a person as one sentence, and spend no retry on it."""
    try:
        yield
    except SyncError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def check(
    name: str,
    *,
    passed: bool,
    description: str,
    asset_key: str | None = None,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
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


def kql(query: str) -> dg.MarkdownMetadataValue:
    return dg.MarkdownMetadataValue(f"```kusto\n{query}\n```")


def table(frame: pd.DataFrame, columns: list[str]) -> dg.TableMetadataValue:
    """The first rows of a frame."""
    shown = frame[columns].head(SHOWN).astype(object)
    shown = shown.where(shown.notna(), None)
    schema = dg.TableSchema([dg.TableColumn(name, _column_type(frame[name])) for name in columns])
    return dg.TableMetadataValue([dg.TableRecord(row) for row in records(shown)], schema)


def _column_type(column: "pd.Series[Any]") -> str:
    if pd.api.types.is_bool_dtype(column):
        return "bool"
    return "int" if pd.api.types.is_integer_dtype(column) else "string"
