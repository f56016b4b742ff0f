"""Bodies that Resource Graph sends, small tenants, and what an error for users must be like."""

from typing import Any

import pytest

from azure_port_sync.core.errors import AzureError
from azure_port_sync.sandbox.server import Sandbox


def error_body(code: str, *details: tuple[str, str]) -> dict[str, Any]:
    """The body of an error of Resource Graph, with its inner codes and messages."""
    inner = [{"code": inner_code, "message": message} for inner_code, message in details]
    return {"error": {"code": code, "message": "Please provide below info when asking for support", "details": inner}}


def response_body(*rows: Any, total: int | None = None) -> dict[str, Any]:
    """The body of a complete response."""
    count = len(rows)
    counts = {"totalRecords": count if total is None else total, "count": count}
    return {**counts, "data": list(rows), "facets": [], "resultTruncated": "false"}


TOO_LARGE = error_body("BadRequest", ("ResponsePayloadTooLarge", "exceeded the limit of 16777216"))


def fill(sandbox: Sandbox, resources: int, groups: int = 2) -> list[str]:
    """Give the tenant one subscription with so many resources; their ids in order."""
    sandbox.tenant.grow(resources, groups=groups, subscriptions=1)
    return sorted(row["id"] for row in sandbox.tenant.resources())


def one_sentence(error: pytest.ExceptionInfo[AzureError], *words: str) -> str:
    """The text of an error, which is one line and has these words in it."""
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    for word in words:
        assert word in text
    return text
