"""Answers that drip, that are huge, that ask for a day: each ends soon, and every long wait is a line of the log."""

import gzip
import re
from datetime import timedelta
from typing import Any

import pytest
from azure.core import exceptions
from azure.core.rest import HttpRequest

from azure_port_sync.core.errors import AzureError
from azure_port_sync.resource_graph import AzureReader
from azure_port_sync.resource_graph.client import QueryScope
from azure_port_sync.resource_graph.quota import QuotaLimiter
from azure_port_sync.resource_graph.transport import MAX_BODY, WHOLE_ANSWER, BoundedTransport
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.azure import error_body, fill, one_sentence
from azure_port_sync_tests.support.clocks import SteppedClock, StillClock
from azure_port_sync_tests.support.listeners import speaking


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("azure_port_sync")]


def _ask(reader: AzureReader) -> list[Any]:
    return reader.graph.query("resources | project id", QueryScope()).rows


# -- whole answers ----------------------------------------------------------------------------------------------------


def test_an_answer_that_drips_is_given_up_after_two_minutes(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock
) -> None:
    """Each byte came within the time-out of the library, and the run was silent for ever."""
    wanted = fill(sandbox, 3)
    started = clock.now()
    sandbox.faults.add(Fault("azure", kind="drip", path="/resources", drip_bytes=15))
    assert sorted(row["id"] for row in _ask(reader)) == wanted
    assert reader.graph.usage.retries == 1
    assert WHOLE_ANSWER < clock.now() - started < WHOLE_ANSWER + timedelta(seconds=35)


def test_answers_that_always_drip_end_at_the_deadline(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock
) -> None:
    fill(sandbox, 3)
    started = clock.now()
    sandbox.faults.add(Fault("azure", kind="drip", path="/resources", drip_bytes=15, times=None))
    with pytest.raises(AzureError) as error:
        _ask(reader)
    one_sentence(error, "the answer was not whole after 2 minutes")
    assert clock.now() - started < timedelta(minutes=8)


def test_an_answer_that_comes_slowly_and_whole_is_read(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = fill(sandbox, 3)
    sandbox.faults.add(Fault("azure", kind="drip", path="/resources", drip_seconds=1, drip_bytes=100))
    assert sorted(row["id"] for row in _ask(reader)) == wanted
    assert reader.graph.usage.retries == 0


def _sent(answer: bytes) -> bytes:
    """Return the body that the transport makes of these bytes of a server."""
    with speaking(answer) as url, BoundedTransport(StillClock()) as transport:
        body: bytes = transport.send(HttpRequest("POST", url)).content
    return body


@pytest.mark.parametrize("encoding", ["", "Content-Encoding: gzip\r\n"], ids=["plain", "packed"])
def test_a_body_is_bounded_unpacked(encoding: str) -> None:
    """2 MB that unpack to 4 GB took 4 GB of memory."""

    def answer(size: int) -> bytes:
        body = gzip.compress(bytes(size), 1) if encoding else bytes(size)
        return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{encoding}\r\n".encode() + body

    assert len(_sent(answer(1000))) == 1000
    with pytest.raises(exceptions.ServiceResponseError, match="larger than 64 MiB"):
        _sent(answer(MAX_BODY + 1))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\nabc",
    ],
    ids=["cut off", "cut off in a chunk", "not packed"],
)
def test_a_body_that_is_not_whole_is_an_error_of_the_network(answer: bytes) -> None:
    with pytest.raises(exceptions.ServiceResponseError):
        _sent(answer)


# -- waits ------------------------------------------------------------------------------------------------------------


def test_a_retry_says_how_long_it_waits_and_why(
    sandbox: Sandbox, reader: AzureReader, caplog: pytest.LogCaptureFixture
) -> None:
    fill(sandbox, 1)
    sandbox.faults.add(
        Fault("azure", status=503, headers={"Retry-After": "65"}, body=error_body("x"), path="/resources")
    )
    _ask(reader)
    (line,) = _lines(caplog)
    assert re.fullmatch(r"Azure: 503 \(x\); waiting 6[56] s, until 10:01:0[56] UTC", line)


def test_threads_that_wait_for_the_quota_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock()
    limiter = QuotaLimiter(clock)
    for _ in range(3):
        limiter.acquire()
    for _ in range(3):
        limiter.answered({"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "00:00:42"})
    assert _lines(caplog) == ["Azure: the quota of this principal is used up; waiting 42 s, until 10:00:42 UTC"]
    limiter.acquire()
    limiter.answered({"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "00:00:05"})
    assert len(_lines(caplog)) == 1


def test_a_quota_that_resets_after_a_day_is_given_up(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    headers = {"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "24:00:00"}
    body = error_body("RateLimiting", ("RateLimiting", "throttled"))
    sandbox.faults.add(Fault("azure", status=429, headers=headers, body=body, path="/resources", times=None))
    started = clock.now()
    with pytest.raises(AzureError) as error:
        _ask(reader)
    one_sentence(error, "quota", "429 (RateLimiting)", "1 day", "next run")
    assert clock.now() - started < timedelta(minutes=7)
    assert any("waiting 300 s, until 10:05:00 UTC" in line for line in _lines(caplog))
