"""The quota: fifteen requests in five seconds and no more, whoever sends them; what its headers say."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest

from azure_port_sync.core.errors import AzureError
from azure_port_sync.resource_graph import AzureReader
from azure_port_sync.resource_graph.client import QueryScope
from azure_port_sync.resource_graph.quota import QuotaLimiter, quota_of, retry_after
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.azure import fill
from azure_port_sync_tests.support.clocks import NOW, SteppedClock, StillClock


def _busiest(instants: list[datetime]) -> int:
    """The most requests within any five seconds that begin with a request."""
    return max(sum(one <= other < one + timedelta(seconds=5) for other in instants) for one in instants)


def test_fifteen_requests_in_five_seconds_and_no_more() -> None:
    clock = StillClock()
    limiter = QuotaLimiter(clock)
    instants = []
    for _ in range(50):
        limiter.acquire()
        instants.append(clock.now())
        limiter.answered({})
    assert _busiest(instants) == 15
    assert limiter.waited_seconds == 15
    assert instants[-1] - instants[0] == timedelta(seconds=15)


def test_threads_share_one_quota() -> None:
    clock = StillClock()
    limiter = QuotaLimiter(clock)
    instants: list[datetime] = []

    def work() -> None:
        for _ in range(10):
            limiter.acquire()
            instants.append(clock.now())
            limiter.answered({})

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(work) for _ in range(6)]:
            future.result()
    assert len(instants) == 60
    assert _busiest(instants) <= 15


def test_the_limiter_believes_a_smaller_quota() -> None:
    clock = StillClock()
    limiter = QuotaLimiter(clock)
    limiter.acquire()
    limiter.answered({"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "00:00:04"})
    limiter.acquire()
    assert clock.now() - NOW == timedelta(seconds=4)


def test_the_limiter_uses_a_raised_quota() -> None:
    clock = StillClock()
    limiter = QuotaLimiter(clock)
    for left in range(99, 0, -1):
        limiter.acquire()
        limiter.answered({"x-ms-user-quota-remaining": str(left), "x-ms-user-quota-resets-after": "00:00:05"})
    clock.sleep(5)
    for _ in range(99):
        limiter.acquire()
        limiter.answered({})
    assert clock.now() - NOW <= timedelta(seconds=15)


def test_a_clock_that_jumps_back_makes_nobody_wait() -> None:
    """All requests waited, silently, until the clock was where it had been."""
    clock = SteppedClock.frozen()
    limiter = QuotaLimiter(clock)
    for _ in range(15):
        limiter.acquire()
        limiter.answered({"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "00:00:05"})
        clock.sleep(5)
    clock.ahead = timedelta(hours=-5)
    for _ in range(15):
        limiter.acquire()
        limiter.answered({})
    assert limiter.waited_seconds == 0


def test_answers_without_quota_headers_change_nothing() -> None:
    limiter = QuotaLimiter(StillClock())
    for headers in ({}, {"x-ms-user-quota-remaining": "many"}, {}):
        limiter.acquire()
        limiter.answered(headers)
    assert limiter.waited_seconds == 0


@pytest.mark.parametrize("retry_after_header", [True, False])
def test_a_quota_that_others_use_too_is_waited_for(
    sandbox: Sandbox, reader: AzureReader, retry_after_header: bool
) -> None:
    wanted = fill(sandbox, 5)
    sandbox.graph.quota.limit = 2
    sandbox.graph.quota.retry_after = retry_after_header
    for _ in range(6):
        rows = reader.graph.query("resources | project id", QueryScope()).rows
        assert sorted(row["id"] for row in rows) == wanted
    assert sandbox.graph.quota.refused == 0


def test_a_quota_that_resets_after_a_day_ends_in_an_error(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock
) -> None:
    """A run that waited as long as it was asked to would have been silent for a day."""
    headers = {"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "24:00:00"}
    sandbox.faults.add(Fault("azure", status=429, headers=headers, path="/resources", times=None))
    with pytest.raises(AzureError):
        reader.graph.query("resources", QueryScope())
    assert clock.now() - NOW < timedelta(minutes=15)


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, (None, None)),
        ({"x-ms-user-quota-remaining": "12"}, (12, None)),
        ({"x-ms-user-quota-remaining": "0", "x-ms-user-quota-resets-after": "00:00:05"}, (0, timedelta(seconds=5))),
        ({"x-ms-user-quota-resets-after": "01:02:03"}, (None, timedelta(hours=1, minutes=2, seconds=3))),
        ({"x-ms-user-quota-remaining": "-1", "x-ms-user-quota-resets-after": "5"}, (None, None)),
        ({"x-ms-user-quota-remaining": "²", "x-ms-user-quota-resets-after": f"{'9' * 20}:00:00"}, (None, None)),
    ],
    ids=str,
)
def test_quota_headers(headers: dict[str, str], wanted: tuple[int | None, timedelta | None]) -> None:
    assert quota_of(headers) == wanted


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        ({}, None),
        ({"Retry-After": "7"}, timedelta(seconds=7)),
        ({"x-ms-user-quota-resets-after": "00:00:05"}, timedelta(seconds=5)),
        ({"Retry-After": "1", "x-ms-user-quota-resets-after": "00:00:05"}, timedelta(seconds=5)),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "9" * 20}, None),
        ({"Retry-After": "9" * 5000}, None),
    ],
    ids=str,
)
def test_retry_after_headers(headers: dict[str, str], wanted: timedelta | None) -> None:
    assert retry_after(headers) == wanted
