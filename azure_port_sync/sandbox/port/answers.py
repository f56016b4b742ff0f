"""Answers of Port's hosts, as its OpenAPI file has them (github.com/port-labs/port-docs, `static/apispec.yaml`)."""

from dataclasses import dataclass, field
from typing import Any

from azure_port_sync.sandbox.port.entity import Json
from azure_port_sync.sandbox.port.limits import Allowance


@dataclass(frozen=True)
class Answer:
    """One answer over HTTP."""

    status: int
    body: Json
    headers: dict[str, str] = field(default_factory=dict)


def error_answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Answer:
    """Return an error as Port's specification shapes it."""
    return Answer(status, {"ok": False, "error": code, "message": message}, headers or {})


def too_many_requests(allowance: Allowance) -> Answer | None:
    """Return the 429 of a request that is one too many."""
    if not allowance.retry_after:
        return None
    headers = {"Retry-After": str(allowance.retry_after)} if allowance.throttle.retry_after else {}
    return error_answer(429, "too_many_requests", "Too many requests", headers)


class RestError(Exception):
    """Port answers with this error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.answer = error_answer(status, code, message)


def invalid(message: str) -> RestError:
    """Return the error of a body or query that does not fit its route."""
    return RestError(422, "invalid_request", message)


def not_played(what: str) -> RestError:
    """Return the error of what Port does and the sandbox does not."""
    return RestError(501, "not_implemented", f"the sandbox does not play {what}")


def not_found(message: str) -> RestError:
    """Return the error of what does not exist."""
    return RestError(404, "not_found", message)


def taken(message: str) -> RestError:
    """Return the error of an identifier that something has; Port's status for it is not in its specification."""
    return RestError(409, "identifier_taken", message)


def fine(status: int = 200, **body: Any) -> Answer:
    """Return the answer of a success."""
    return Answer(status, {"ok": True, **body})
