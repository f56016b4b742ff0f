"""One query, one response: what is asked for, what is read from the answer, and how long it is asked again."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import RequestsTransport
from azure.core.rest import HttpRequest
from azure.mgmt.resourcegraph import ResourceGraphClient
from azure.mgmt.resourcegraph.models import QueryRequest, QueryRequestOptions

from azure_port_sync.core.errors import AzureError
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.resource_graph.client import QueryScope, Response
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.conftest import ReaderOf
from azure_port_sync_tests.support.azure import TOO_LARGE, error_body, fill, one_sentence, response_body
from azure_port_sync_tests.support.clocks import SteppedClock

_ALL = "resources\n| project id, name"


def _query(reader: AzureReader, query: str = _ALL) -> Response:
    return reader.graph.query(query, QueryScope())


def _ids(reader: AzureReader) -> list[str]:
    return sorted(row["id"] for row in _query(reader).rows)


# -- requests ---------------------------------------------------------------------------------------------------------


class _SentError(Exception):
    """Raised in place of an answer."""


class _Credential:
    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken("token", 2**40)


@pytest.mark.parametrize(
    "reach",
    [{}, {"subscriptions": ["a", "b"]}, {"subscriptions": []}, {"management_groups": ["c"]}],
    ids=str,
)
def test_a_request_is_the_one_that_microsofts_client_sends(
    monkeypatch: pytest.MonkeyPatch, clock: SteppedClock, reach: dict[str, Any]
) -> None:
    sent: list[tuple[str, str, Any, str]] = []

    def record(self: RequestsTransport, request: HttpRequest, **options: Any) -> None:
        sent.append((request.method, request.url, json.loads(request.content), request.headers["Accept"]))
        raise _SentError

    monkeypatch.setattr(RequestsTransport, "send", record)
    url = "https://azure.example"
    graph = ResourceGraph(_Credential(), clock, base_url=url, credential_scopes=["s"], max_rows=7)
    with pytest.raises(_SentError):
        graph.query("resources", QueryScope(**reach))
    request = QueryRequest(query="resources", options=QueryRequestOptions(top=7, result_format="objectArray"), **reach)
    with pytest.raises(_SentError):
        ResourceGraphClient(_Credential(), url, policies=[]).resources(request)
    ours, theirs = sent
    assert ours == theirs


# -- responses --------------------------------------------------------------------------------------------------------


def test_a_result_that_fits_is_complete(sandbox: Sandbox, reader: AzureReader) -> None:
    wanted = fill(sandbox, 1000)
    response = _query(reader)
    assert sorted(row["id"] for row in response.rows) == wanted
    assert (response.total_records, response.complete) == (1000, True)
    assert reader.graph.usage.requests == 1


def test_a_result_with_a_next_page_is_not_complete(sandbox: Sandbox, reader: AzureReader) -> None:
    """A client that stopped at `resultTruncated == "false"` lost every resource after the first thousand."""
    fill(sandbox, 1001)
    response = _query(reader)
    assert (len(response.rows), response.total_records, response.complete) == (1000, 1001, False)


def test_a_result_that_was_cut_off_is_not_complete(sandbox: Sandbox, reader: AzureReader) -> None:
    """`resultTruncated` without a token means that rows are missing, not that this was all."""
    fill(sandbox, 1500)
    response = _query(reader, "resources | project id, name | take 1200")
    assert (response.total_records, response.complete) == (1200, False)


def test_fewer_rows_in_a_response_where_a_reader_asks_for_fewer(sandbox: Sandbox, reader_of: ReaderOf) -> None:
    fill(sandbox, 7)
    response = _query(reader_of(max_rows=5))
    assert (len(response.rows), response.total_records, response.complete) == (5, 7, False)


def test_half_of_a_surrogate_pair_becomes_the_replacement_character(sandbox: Sandbox, reader: AzureReader) -> None:
    """Text that no encoding carries stopped the whole tenant, in every run; whole pairs and all else stay."""
    row = {"id": "x", "tags": {"half\ud83d": "\ud83d", "whole": "\U0001f600 é \\ud83d", "other half": "a\ude00b"}}
    body = json.dumps(response_body(row))
    sandbox.faults.add(Fault("azure", status=200, body=body, path="/resources"))
    (read,) = _query(reader).rows
    assert read["tags"] == {"half\ufffd": "\ufffd", "whole": "\U0001f600 é \\ud83d", "other half": "a\ufffdb"}


def test_a_number_that_json_cannot_carry_becomes_null(sandbox: Sandbox, reader: AzureReader) -> None:
    """Port refuses an event with `Infinity`, and an integer of 5000 digits stopped the whole tenant."""
    numbers = f"[1, -2.5, 12345678901234567890, 1e999, NaN, -Infinity, {'9' * 5000}]"
    body = json.dumps(response_body({"id": "x", "tags": "numbers"})).replace('"numbers"', numbers)
    sandbox.faults.add(Fault("azure", status=200, body=body, path="/resources"))
    (read,) = _query(reader).rows
    assert read["tags"] == [1, -2.5, 12345678901234567890, None, None, None, None]


def test_a_response_too_large_to_be_sent_is_not_complete(sandbox: Sandbox, reader: AzureReader) -> None:
    sandbox.faults.add(Fault("azure", status=400, body=TOO_LARGE, path="/resources"))
    assert _query(reader) == Response([], 0, complete=False)
    assert reader.graph.usage.retries == 0


def test_subscriptions_that_azure_leaves_out_are_an_error(sandbox: Sandbox, reader: AzureReader) -> None:
    headers = {"x-ms-tenant-subscription-limit-hit": "true"}
    sandbox.faults.add(Fault("azure", status=200, headers=headers, body=response_body(), path="/resources"))
    with pytest.raises(AzureError) as error:
        _query(reader)
    one_sentence(error, "AZURE_SUBSCRIPTION_IDS", "AZURE_MANAGEMENT_GROUPS")


# -- what is transient ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 520, 599])
def test_transient_answers_are_retried(sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, status: int) -> None:
    """The SDK retries neither 408, 502 nor a 429 without Retry-After when the request is a POST."""
    wanted = fill(sandbox, 3)
    sandbox.faults.add(Fault("azure", status=status, path="/resources", times=3))
    assert _ids(reader) == wanted
    assert (reader.graph.usage.requests, reader.graph.usage.retries) == (4, 3)
    assert 3 <= len(clock.slept) <= 4  # the last wait may be of more than a second


@pytest.mark.parametrize("body", [None, "<html>Bad gateway</html>", error_body("x"), {}, "[1]"])
def test_transient_answers_with_any_body_are_retried(sandbox: Sandbox, reader: AzureReader, body: Any) -> None:
    wanted = fill(sandbox, 3)
    sandbox.faults.add(Fault("azure", status=502, body=body, path="/resources"))
    assert _ids(reader) == wanted


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<!DOCTYPE html><title>Sign in to the network</title>",
        json.dumps(response_body({"id": "x"}))[:-20],
        "{}",
        "[]",
        "null",
        {**response_body(), "data": None},
        {**response_body(), "totalRecords": None},
        {"totalRecords": 0, "count": 0, "data": []},
        "[" * 100_000,
    ],
    ids=lambda body: str(body)[:60],
)
def test_a_200_that_is_no_response_is_asked_for_again(sandbox: Sandbox, reader: AzureReader, body: Any) -> None:
    """Proxies put pages and nothing in the place of an answer, and cut it off; each was a traceback."""
    wanted = fill(sandbox, 3)
    sandbox.faults.add(Fault("azure", status=200, body=body, path="/resources", times=2))
    assert _ids(reader) == wanted
    assert reader.graph.usage.retries == 2


@pytest.mark.parametrize("kind", ["reset", "lost", "reset_mid_body"])
def test_a_connection_that_breaks_is_retried(sandbox: Sandbox, reader: AzureReader, kind: Any) -> None:
    wanted = fill(sandbox, 3)
    sandbox.faults.add(Fault("azure", kind=kind, path="/resources", times=2))
    assert _ids(reader) == wanted
    assert reader.graph.usage.retries >= 1


@pytest.mark.parametrize(
    ("headers", "least"),
    [
        ({"Retry-After": "17"}, 17),
        ({"x-ms-user-quota-resets-after": "00:00:23"}, 23),
        ({"Retry-After": "2", "x-ms-user-quota-resets-after": "00:01:05"}, 65),
        ({"Retry-After": "65", "x-ms-user-quota-resets-after": "00:00:02"}, 65),
    ],
    ids=str,
)
def test_waits_as_long_as_azure_asks(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, headers: dict[str, str], least: int
) -> None:
    """Requests sent before Retry-After has elapsed are refused as well, and cost quota."""
    wanted = fill(sandbox, 1)
    sandbox.faults.add(Fault("azure", status=429, headers=headers, path="/resources"))
    started = clock.now()
    assert _ids(reader) == wanted
    assert timedelta(seconds=least) <= clock.now() - started <= timedelta(seconds=least + 10)


def test_each_retry_is_one_line_of_the_log(
    sandbox: Sandbox, reader: AzureReader, caplog: pytest.LogCaptureFixture
) -> None:
    fill(sandbox, 1)
    sandbox.faults.add(Fault("azure", status=503, body="<html>", path="/resources"))
    sandbox.faults.add(Fault("azure", kind="reset", path="/resources"))
    sandbox.faults.add(Fault("azure", status=429, body=error_body("RateLimiting"), path="/resources"))
    _query(reader)
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("azure_port_sync")]
    assert [re.sub(r"\d+ s, until [\d:]+", "n s, until then", line) for line in logged if "Connection" not in line] == [
        "Azure: 503 with a web page; waiting n s, until then UTC",
        "Azure: 429 (RateLimiting); waiting n s, until then UTC",
    ]
    assert len(logged) == 3


# -- and for how long -------------------------------------------------------------------------------------------------


def test_azure_that_stays_away_ends_in_one_sentence(sandbox: Sandbox, reader: AzureReader, clock: SteppedClock) -> None:
    sandbox.faults.add(Fault("azure", status=503, path="/resources", times=None))
    started = clock.now()
    with pytest.raises(AzureError) as error:
        _query(reader)
    text = one_sentence(error, "its last answer was 503", "The next run tries again")
    (minutes,) = map(int, re.findall(r"for (\d+) minutes", text))
    assert timedelta(minutes=minutes - 1) < clock.now() - started < timedelta(minutes=minutes + 1)


def test_the_deadline_is_the_readers_to_choose(sandbox: Sandbox, reader_of: ReaderOf, clock: SteppedClock) -> None:
    sandbox.faults.add(Fault("azure", status=503, path="/resources", times=None))
    started = clock.now()
    with pytest.raises(AzureError) as error:
        _query(reader_of(deadline=timedelta(minutes=2)))
    one_sentence(error, "for 2 minutes")
    assert clock.now() - started == timedelta(minutes=2)


@pytest.mark.parametrize("headers", [{"Retry-After": "86400"}, {"x-ms-user-quota-resets-after": "24:00:00"}], ids=str)
def test_a_very_long_retry_after_does_not_outlast_the_deadline(
    sandbox: Sandbox, reader: AzureReader, clock: SteppedClock, headers: dict[str, str]
) -> None:
    """A day asked for by a proxy would hold the run, and every run queued behind it, for a day."""
    sandbox.faults.add(Fault("azure", status=429, headers=headers, path="/resources", times=None))
    started = clock.now()
    with pytest.raises(AzureError):
        _query(reader)
    assert clock.now() - started < timedelta(minutes=6)


def test_the_sentence_says_what_was_seen_last(sandbox: Sandbox, reader: AzureReader) -> None:
    """A page in the place of an answer is a proxy's, whatever came before it."""
    sandbox.faults.add(Fault("azure", status=503, path="/resources", times=3))
    sandbox.faults.add(Fault("azure", status=200, body="<html>Sign in</html>", path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        _query(reader)
    one_sentence(error, "the last answer was 200 with a web page", "proxy", "HTTPS_PROXY")


def test_a_network_that_stays_broken_names_what_to_look_at(sandbox: Sandbox, reader: AzureReader) -> None:
    sandbox.faults.add(Fault("azure", kind="reset", path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        _query(reader)
    one_sentence(error, "AZURE_RESOURCE_MANAGER_URL", "REQUESTS_CA_BUNDLE")
