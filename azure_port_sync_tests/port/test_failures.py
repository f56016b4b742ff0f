"""The tables of failures: what comes from Port, or from whoever stands before it, and what is done about it."""

from typing import Any

import pytest

from azure_port_sync.core.errors import PortError
from azure_port_sync.port.failures import (
    API,
    BULK_ENTITY,
    SIGN_IN,
    WEBHOOK,
    Body,
    Edge,
    MissingParentError,
    RefusedError,
    TransientError,
    body_of,
    error_message,
    failure,
    raise_for_failure,
)
from azure_port_sync.port.transport import Broken, Response
from azure_port_sync_tests.support.clocks import NOW

EDGES = {"webhook": WEBHOOK, "api": API, "sign-in": SIGN_IN, "bulk entity": BULK_ENTITY}
STATUSES = [*range(100, 200), *range(300, 600)]
NEVER_ABOUT_THE_ENTITY = {401, 402, 403, 405, 407, 408, 409, 421, 423, 425, 426, 429, 431, 451, 499, *range(500, 600)}
WORDS = {"message": "said", "purpose": "do that", "subject": "blueprint b"}


def _treated(edge: Edge, came: int | Broken, body: Body) -> str:
    error = failure(edge, came, body, words=WORDS)
    if isinstance(error, TransientError):
        return "retry_alone" if error.alone else "retry"
    return "refused" if isinstance(error, RefusedError) else "stops"


#: What came, whose body it has, and what is done at the webhook and at the API.
CASES: list[tuple[int | Broken, Body, str, str]] = [
    (Broken.CERTIFICATE, Body.OTHER, "stops", "stops"),
    (Broken.PROXY, Body.OTHER, "retry", "retry"),
    (Broken.SECURE_CONNECTION, Body.OTHER, "retry_alone", "retry_alone"),
    (Broken.CONNECTION, Body.OTHER, "retry_alone", "retry_alone"),
    (Broken.TIMEOUT, Body.OTHER, "retry_alone", "retry_alone"),
    (Broken.CUT_OFF, Body.OTHER, "retry_alone", "retry_alone"),
    (Broken.TOO_LARGE, Body.OTHER, "retry_alone", "retry_alone"),
    (Broken.TOO_SLOW, Body.OTHER, "retry_alone", "retry_alone"),
    *[(status, body, "retry_alone", "retry_alone") for status in (200, 202) for body in Body],
    (302, Body.PAGE, "stops", "stops"),
    *[(status, Body.PORT, "refused", "refused") for status in (400, 406, 411, 413, 415, 422)],
    *[(status, Body.OTHER, "retry_alone", "retry_alone") for status in (400, 402, 405, 413, 422, 426, 431, 451)],
    (401, Body.PORT, "stops", "stops"),
    (401, Body.OTHER, "stops", "stops"),
    (401, Body.PAGE, "retry_alone", "retry_alone"),
    (402, Body.PORT, "stops", "stops"),
    (403, Body.PORT, "stops", "stops"),
    (403, Body.OTHER, "stops", "retry_alone"),
    (403, Body.PAGE, "retry_alone", "retry_alone"),
    (404, Body.PORT, "stops", "stops"),
    (404, Body.OTHER, "stops", "retry_alone"),
    (404, Body.PAGE, "retry_alone", "retry_alone"),
    (405, Body.PORT, "stops", "stops"),
    (407, Body.PORT, "retry", "retry"),
    (407, Body.PAGE, "retry", "retry"),
    *[(status, Body.PORT, "retry_alone", "retry_alone") for status in (408, 409, 421, 423, 425, 426, 431, 451, 499)],
    (410, Body.PORT, "stops", "refused"),
    (410, Body.PAGE, "retry_alone", "retry_alone"),
    (429, Body.PORT, "retry", "retry"),
    (429, Body.PAGE, "retry", "retry"),
    *[(status, Body.PORT, "retry_alone", "retry_alone") for status in (500, 501, 503, 507, 520, 598)],
    (503, Body.PAGE, "retry_alone", "retry_alone"),
]


@pytest.mark.parametrize(("came", "body", "webhook", "api"), CASES)
def test_each_failure_has_its_treatment(came: int | Broken, body: Body, webhook: str, api: str) -> None:
    assert (_treated(WEBHOOK, came, body), _treated(API, came, body)) == (webhook, api)


@pytest.mark.parametrize("edge", EDGES.values(), ids=EDGES.keys())
def test_only_port_itself_says_something_about_an_entity(edge: Edge) -> None:
    refused = {(s, b) for s in STATUSES for b in Body if _treated(edge, s, b) == "refused"}
    if edge is BULK_ENTITY:  # which is a part of Port's JSON
        refused = {(status, body) for status, body in refused if body is Body.PORT}
    assert refused
    assert all(body is Body.PORT for _, body in refused)
    assert NEVER_ABOUT_THE_ENTITY.isdisjoint(status for status, _ in refused)
    assert all(400 <= status < 500 for status, _ in refused)


def test_one_entity_of_many_never_stops_the_run() -> None:
    assert {_treated(BULK_ENTITY, status, Body.PORT) for status in STATUSES} == {"retry", "retry_alone", "refused"}
    assert isinstance(failure(BULK_ENTITY, 404, Body.PORT, words=WORDS), MissingParentError)  # a relation to nothing


@pytest.mark.parametrize("edge", [WEBHOOK, API, SIGN_IN], ids=["webhook", "api", "sign-in"])
def test_every_sentence_is_one_line_and_names_what_to_look_at(edge: Edge) -> None:
    for came in [*STATUSES, *Broken]:
        for body in Body:
            error = failure(edge, came, body, words=WORDS)
            assert "\n" not in str(error)
            assert "{" not in str(error)
            if isinstance(error, PortError):
                assert str(error).endswith(".")
                assert any(word in str(error) for word in ("PORT_", "REQUESTS_CA_BUNDLE", "port_setup", "ask", "newer"))


@pytest.mark.parametrize(
    ("body", "whose"),
    [
        (b'{"ok":false,"error":"invalid","message":"no"}', Body.PORT),
        (b'{"message":"no"}', Body.PORT),
        (b'{"ok":true}', Body.PORT),
        (b" \n<html>no</html>", Body.PAGE),
        (b"<?xml version='1.0'?><Error/>", Body.PAGE),
        (b'{"error":{"code":"Gone"}}', Body.OTHER),
        (b'["ok"]', Body.OTHER),
        (b'"message"', Body.OTHER),
        (b"Bad Request", Body.OTHER),
        (b'{"ok":fal', Body.OTHER),
        (b"\xff\xfe", Body.OTHER),
        (b"", Body.OTHER),
    ],
)
def test_whose_words_a_body_has(body: bytes, whose: Body) -> None:
    assert body_of(Response(400, {}, body)) is whose


_AS_TEXT = "‹!channel› ‹@U1› (x)(http://y) !(z)(//z) '¦' ‹script›"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"message":"no,\\n never.  "}', "no, never"),
        (b'{"message":{"a":1}}', "{'a': 1}"),
        (b'{"ok":false}', '{"ok":false}'),
        (b'{"message":"see s3cret"}', "see (secret)"),
        (b'{"message":"' + b"x" * 195 + b's3cret"}', "x" * 195 + "(secr"),
        (b"", ""),
        (b'{"message":"' + b"x" * 30_000_000 + b'"}', "x" * 200),
        (b'{"message":"a\\u001b[31m\\u202eb\\u0000"}', "a(31mb"),
        (b'{"message":"<!channel> <@U1> [x](http://y) ![z](//z) `|` <script>"}', _AS_TEXT),
    ],
)
def test_ports_words_are_one_short_line_without_secrets(body: bytes, message: str) -> None:
    assert error_message(Response(400, {}, body), ["s3cret", ""]) == message


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"x-ratelimit-reset": "9"}, 9.0),
        *[
            ({"Retry-After": malformed}, 0.0)
            for malformed in (
                *("", "soon", "-5", "Mon, 99 Nov 2026 10:00:00 GMT", "Mon, 23 Nov 2026 10:00:00"),
                "\xb2",  # which Python calls a digit, and cannot read as a number
            )
        ],
        ({}, 0.0),
    ],
)
def test_a_failure_waits_as_long_as_port_asks(headers: dict[str, str], wait: float) -> None:
    with pytest.raises(TransientError) as error:
        raise_for_failure(API, Response(429, headers, b""), NOW)
    assert (error.value.wait, error.value.alone) == (wait, False)


@pytest.mark.parametrize(
    "response", [Response(202, {}, b""), Response(200, {}, b'{"ok":true}'), Response(207, {}, b"{}")]
)
def test_a_success_is_returned(response: Any) -> None:
    assert raise_for_failure(WEBHOOK, response, NOW) is response


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"Welcome to the guest network", "it answered 202 with something that is not Port's JSON"),
        (b'"ok"', "it answered 202 with something that is not Port's JSON"),
        (b"<html>Welcome</html>", "it answered 202 with a web page, which is not from Port"),
        (b'{"ok":false,"message":"try later"}', "it answered 202, and that it has not taken what was sent: try later"),
        (b'{"ok":false}', "it has not taken what was sent"),
    ],
)
@pytest.mark.parametrize("edge", [WEBHOOK, API, SIGN_IN], ids=["webhook", "api", "sign-in"])
def test_a_success_that_is_not_ports_has_taken_nothing(edge: Edge, body: bytes, sentence: str) -> None:
    """It counted as delivered, and was never sent again."""
    with pytest.raises(TransientError, match=sentence):
        raise_for_failure(edge, Response(202, {}, body), NOW)


def test_a_status_that_no_row_names_falls_under_the_last() -> None:
    """A bulk response may hold any number; what is unknown is tried again, and does not end the thread that sends."""
    assert isinstance(failure(BULK_ENTITY, 100_000, Body.PORT), TransientError)
