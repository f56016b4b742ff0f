"""Azure's clock: the time that reads go by is that of Azure's answers, however wrong this machine's is."""

from datetime import timedelta
from email.utils import format_datetime

import pytest

from azure_port_sync.core.errors import AzureError
from azure_port_sync.resource_graph import AzureReader
from azure_port_sync.resource_graph.client import QueryScope
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.azure import error_body, fill, response_body
from azure_port_sync_tests.support.clocks import NOW, SteppedClock

_SECOND = timedelta(seconds=1)
_SKEWS = [timedelta(minutes=minutes) for minutes in (12, 20, 30, -12, -60 * 24 * 400)]


def _clock_warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]


def _ask(reader: AzureReader) -> None:
    reader.graph.query("resources | project id", QueryScope())


@pytest.mark.parametrize("skew", _SKEWS, ids=str)
def test_the_time_is_azures(sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, skew: timedelta) -> None:
    """With a clock of 12 minutes ahead, every change was looked for where it was not, and all runs were green."""
    fill(sandbox, 1)
    clock.ahead = skew
    assert abs(reader.now() - NOW) <= _SECOND
    assert abs(reader.graph.skew - skew) <= _SECOND
    clock.sleep(90)
    assert abs(reader.now() - NOW - timedelta(seconds=90)) <= _SECOND
    assert reader.graph.usage.requests == 1


def test_clocks_that_agree_within_a_second_are_one(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    fill(sandbox, 1)
    clock.sleep(0.75)
    for _ in range(3):
        _ask(reader)
        assert reader.now() == clock.now()
        clock.sleep(0.1)
    assert reader.graph.skew == timedelta(0)
    assert _clock_warnings(caplog) == []


def test_an_answer_that_takes_long_is_no_skew(sandbox: Sandbox, reader: AzureReader, clock: SteppedClock) -> None:
    fill(sandbox, 1)
    sandbox.faults.add(Fault("azure", kind="drip", path="/resources", drip_seconds=1, drip_bytes=60))
    assert reader.now() == clock.now() == NOW + timedelta(minutes=1)


def test_the_newest_answer_wins(sandbox: Sandbox, reader: AzureReader, clock: SteppedClock) -> None:
    """A machine's clock jumps when it is set."""
    fill(sandbox, 1)
    for skew in (timedelta(minutes=30), timedelta(0), -timedelta(hours=2)):
        clock.ahead = skew
        _ask(reader)
        assert abs(reader.now() - NOW) <= _SECOND


@pytest.mark.parametrize("skew", [timedelta(minutes=12), -timedelta(hours=2)], ids=str)
def test_a_skew_of_more_than_a_minute_is_one_warning(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, caplog: pytest.LogCaptureFixture, skew: timedelta
) -> None:
    fill(sandbox, 1)
    clock.ahead = skew
    for _ in range(3):
        _ask(reader)
    (warning,) = _clock_warnings(caplog)
    way = "0:11:59 ahead of" if skew > timedelta(0) else "2:00:00 behind"
    assert f"This machine's clock is {way} Azure's" in warning
    assert "read by Azure's" in warning


def test_a_skew_of_less_than_a_minute_is_corrected_silently(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    fill(sandbox, 1)
    clock.ahead = timedelta(seconds=50)
    assert abs(reader.now() - NOW) <= _SECOND
    assert _clock_warnings(caplog) == []


@pytest.mark.parametrize("body", [response_body(), "<html>"], ids=["rows", "a page"])
@pytest.mark.parametrize("date", [format_datetime(NOW + timedelta(days=1), usegmt=True), "now", ""])
def test_what_is_not_resource_graphs_tells_no_time(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, body: object, date: str
) -> None:
    """A proxy's clock is nobody's business; Resource Graph's answers all tell the quota."""
    sandbox.faults.add(Fault("azure", status=200, headers={"Date": date}, body=body, path="/resources"))
    fill(sandbox, 1)
    _ask(reader)
    assert reader.now() == clock.now()


@pytest.mark.parametrize("date", ["now", "", "Mon, 31 Feb 2026 10:00:00 GMT"])
def test_a_date_that_is_none_tells_no_time(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, date: str
) -> None:
    headers = {"Date": date, "x-ms-user-quota-remaining": "9"}
    sandbox.faults.add(Fault("azure", status=200, headers=headers, body=response_body(), path="/resources", times=None))
    assert reader.now() == clock.now()


def test_a_refusal_tells_the_time_too(sandbox: Sandbox, reader: AzureReader, clock: SteppedClock) -> None:
    """So that a principal that may read nothing is told so, and not something of clocks."""
    date = format_datetime(NOW, usegmt=True)
    headers = {"Date": date, "x-ms-user-quota-remaining": "9"}
    sandbox.faults.add(Fault("azure", status=403, headers=headers, body=error_body("AccessDenied"), path="/resources"))
    clock.ahead = timedelta(minutes=20)
    assert abs(reader.now() - NOW) <= _SECOND


def test_without_an_answer_there_is_no_time(sandbox: Sandbox, reader: AzureReader) -> None:
    sandbox.faults.add(Fault("azure", status=403, body="<html>", path="/resources", times=None))
    with pytest.raises(AzureError):
        reader.now()
