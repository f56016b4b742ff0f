"""The retry loop: how often a request is tried, how long it waits, and when it ends; no test waits for its clock."""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from azure_port_sync.core.clock import StoppableClock, StoppedError
from azure_port_sync.port.failures import RefusedError, TransientError
from azure_port_sync.port.flow import KEPT_FAILING_AFTER, Flow, KeptFailingError
from azure_port_sync_tests.support.clocks import NOW, SteppedClock

DEADLINE = timedelta(minutes=10)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock.frozen()


@pytest.fixture
def flow(clock: SteppedClock) -> Flow:
    return Flow(StoppableClock(clock), deadline=DEADLINE)


class Request:
    """A request that fails so many times (None: always), and counts its attempts."""

    def __init__(self, times: int | None, *, wait: float = 0, alone: bool = True) -> None:
        self.attempts = 0
        self._times = times
        self._wait, self._alone = wait, alone

    def __call__(self) -> str:
        self.attempts += 1
        if self._times is None or self.attempts <= self._times:
            raise TransientError("it answered 503", self._wait, alone=self._alone)
        return "done"


def _nothing() -> None:
    pass


def _succeeding_before(flow: Flow, attempt: Callable[[], str]) -> Callable[[], str]:
    """An attempt before which another request succeeds each time."""

    def both() -> str:
        flow.restart_deadline()
        return attempt()

    return both


def test_a_request_is_tried_again_with_growing_waits(flow: Flow, clock: SteppedClock) -> None:
    request = Request(12)
    attempts: list[datetime] = []
    assert flow.call(request, lambda: attempts.append(clock.now())) == "done"
    assert (request.attempts, flow.requests, flow.retries) == (13, 13, 12)
    bounds = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30]
    waits = [(after - before).total_seconds() for before, after in pairwise(attempts)]
    assert all(0 <= waited <= bound for waited, bound in zip(waits, bounds, strict=True))
    assert len(set(waits)) == 12  # with jitter


# -- stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [0, 3600], ids=["in a back-off", "in a pause"])
def test_a_flow_that_is_stopped_waits_no_longer_than_a_second(
    flow: Flow, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch, asked: float
) -> None:
    """Requests went on for five minutes after the run had been cancelled."""
    request, sleep = Request(None, wait=asked), clock.sleep

    def stopped_meanwhile(seconds: float) -> None:
        assert seconds <= 1
        sleep(seconds)
        if sum(clock.slept) > 20:
            stopped.append(len(clock.slept))
            flow.stop()

    stopped: list[int] = []
    monkeypatch.setattr(clock, "sleep", stopped_meanwhile)
    with pytest.raises(StoppedError):
        flow.call(request, _nothing)
    assert stopped == [len(clock.slept)]  # there was no other wait, and no other attempt
    attempts = request.attempts
    with pytest.raises(StoppedError):
        flow.call(request, _nothing)
    assert request.attempts == attempts


def test_no_request_begins_once_the_flow_is_stopped(flow: Flow) -> None:
    request = Request(0)
    with pytest.raises(StoppedError):
        flow.call(request, flow.stop)
    assert (request.attempts, flow.requests) == (0, 0)


# -- what the log says -----------------------------------------------------------------------------------------------


def test_a_long_wait_is_one_line_with_its_reason_and_its_end(
    flow: Flow, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    assert flow.call(Request(1, wait=40, alone=False), _nothing) == "done"
    assert caplog.messages == ["Port: it answered 503; waiting 40 s, until 10:00:40 UTC"]
    caplog.clear()
    flow.pause(40, "it asks for time")
    flow.pause(45, "it asks for time")  # as another request was asked in the same moment
    assert len(caplog.messages) == 1


def test_no_wait_is_silent_for_long(flow: Flow, clock: SteppedClock, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TransientError):
        flow.call(Request(None, alone=False), _nothing)
    ends = [datetime.fromisoformat(f"2026-11-23T{line[-12:-4]}") for line in caplog.messages if "; waiting " in line]
    assert len(ends) >= 10
    assert all(later - earlier <= timedelta(seconds=70) for earlier, later in pairwise(ends))


def test_what_concerns_all_requests_ends_at_the_deadline_as_an_outage(flow: Flow, clock: SteppedClock) -> None:
    with pytest.raises(TransientError, match="503"):
        flow.call(Request(None, alone=False), _nothing)
    assert clock.now() - NOW == DEADLINE


def test_a_request_that_fails_while_others_succeed_is_given_up_soon(flow: Flow, clock: SteppedClock) -> None:
    request = Request(None)
    with pytest.raises(KeptFailingError, match="503"):
        flow.call(_succeeding_before(flow, request), _nothing)
    assert request.attempts == KEPT_FAILING_AFTER
    assert clock.now() - NOW < timedelta(minutes=2)


def test_too_many_requests_are_never_one_requests_own_trouble(flow: Flow) -> None:
    request = Request(4 * KEPT_FAILING_AFTER, alone=False)
    assert flow.call(_succeeding_before(flow, request), _nothing) == "done"


def test_many_events_in_a_request_are_soon_tried_apart(flow: Flow) -> None:
    request = Request(None)
    with pytest.raises(KeptFailingError):
        flow.call(request, _nothing, together=True)
    assert request.attempts == 3


def test_three_requests_in_a_row_that_come_to_the_deadline_alone_are_an_outage(flow: Flow) -> None:
    for _ in range(3):
        with pytest.raises(KeptFailingError):
            flow.call(Request(None), _nothing)
    with pytest.raises(TransientError):
        flow.call(Request(None), _nothing)
    flow.restart_deadline()
    with pytest.raises(KeptFailingError):
        flow.call(Request(None), _nothing)


def test_all_requests_wait_when_one_is_asked_to(flow: Flow, clock: SteppedClock) -> None:
    assert flow.call(Request(1, wait=40, alone=False), _nothing) == "done"
    assert clock.now() - NOW >= timedelta(seconds=40)
    flow.pause(25)
    before = clock.now()
    flow.call(Request(0), _nothing)
    assert clock.now() - before == timedelta(seconds=25)
    assert 60 <= flow.waited_seconds <= 65


def test_no_wait_outlasts_the_deadline(flow: Flow, clock: SteppedClock) -> None:
    with pytest.raises(TransientError):
        flow.call(Request(None, wait=10**9, alone=False), _nothing)
    assert clock.now() - NOW == DEADLINE


def test_a_pause_that_was_asked_for_late_ends_at_the_deadline(flow: Flow, clock: SteppedClock) -> None:
    clock.sleep(500)
    flow.pause(10**9, "it asks for years")
    with pytest.raises(TransientError, match="it asks for years"):
        flow.call(Request(0), _nothing)
    assert clock.now() - NOW == DEADLINE


def test_a_refusal_is_an_answer(flow: Flow, clock: SteppedClock) -> None:
    """It says that Port is well, and is not tried again."""
    clock.sleep(500)

    def refused() -> None:
        raise RefusedError("no")

    with pytest.raises(RefusedError):
        flow.call(refused, _nothing)
    assert flow.requests == 1
    assert flow.time_left == DEADLINE.total_seconds()


def test_the_heartbeat_comes_before_each_attempt_and_can_stop_them(flow: Flow) -> None:
    beats: list[int] = []
    request = Request(None)

    def heartbeat() -> None:
        beats.append(request.attempts)
        if len(beats) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow.call(request, heartbeat)
    assert beats == [0, 1, 2, 3]
    assert request.attempts == 3
