"""Asking Port: whole, in pages, with patience, signed in for as long as it takes, and without showing a secret."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import pytest

from azure_port_sync.core.errors import PortError
from azure_port_sync.core.kinds import Kind
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.blueprints import packaged_blueprints
from azure_port_sync.port.responses import FoundEntity, StoredEntity
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.port import Throttle
from azure_port_sync.sandbox.rest import TOKEN_SECONDS
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.clocks import NOW, SteppedClock
from azure_port_sync_tests.support.leaks import shows_none_of
from azure_port_sync_tests.support.listeners import speaking

BLUEPRINTS = packaged_blueprints()
RESOURCE = BLUEPRINTS[Kind.RESOURCE]
SEARCH = "/entities/search"
TOKEN = "/auth/access_token"

ApiOf = Callable[..., PortApi]


@pytest.fixture
def api_of(sandbox: Sandbox, clock: SteppedClock) -> Iterator[ApiOf]:
    """Makes clients of the sandbox's API, with other credentials or another address where they are given."""
    made: list[PortApi] = []
    environment = sandbox.api_environment()

    def make(
        base_url: str = environment["PORT_BASE_URL"],
        client_id: str = environment["PORT_CLIENT_ID"],
        client_secret: str = environment["PORT_CLIENT_SECRET"],
        *,
        verify: str | bool = True,
    ) -> PortApi:
        made.append(PortApi(base_url, client_id, client_secret, clock=clock, verify=verify))
        return made[-1]

    yield make
    for api in made:
        api.close()


def _fill(sandbox: Sandbox, count: int) -> list[str]:
    for n in range(count):
        sandbox.put_entity(RESOURCE, f"/r{n:04d}", f"R {n}", {"type": "t"})
    return [f"/r{n:04d}" for n in range(count)]


def _identifiers(api: PortApi, blueprint: str = RESOURCE) -> list[str]:
    return [entity.identifier for page in api.entities(blueprint) for entity in page]


def _refusal(api: PortApi, blueprint: str = RESOURCE) -> PortError:
    """Return the error, of one sentence or two, where Port's entities cannot be read."""
    with pytest.raises(PortError) as error:
        _identifiers(api, blueprint)
    assert "\n" not in str(error.value)
    return error.value


# -- the entities ----------------------------------------------------------------------------------------------------


def test_all_pages_of_a_blueprint(sandbox: Sandbox, api: PortApi) -> None:
    there = _fill(sandbox, 2001)
    pages = list(api.entities(RESOURCE))
    assert [len(page) for page in pages] == [1000, 1000, 1]
    assert [entity.identifier for page in pages for entity in page] == there
    assert sandbox.rest.requests == {"token 200": 1, "search 200": 3}


def test_an_entity_is_identifier_title_and_type(sandbox: Sandbox, api: PortApi) -> None:
    sandbox.put_entity(RESOURCE, "/a", "A", {"type": "t", "location": "x", "tags": {"k": "v"}}, {"resourceGroup": "/g"})
    sandbox.put_entity(RESOURCE, "/b", "Größe", {"location": "x"})
    sandbox.put_entity(RESOURCE, "/c", None, {"type": None})
    assert list(api.entities(RESOURCE, with_type=True)) == [
        [FoundEntity("/a", "A", "t"), FoundEntity("/b", "Größe", None), FoundEntity("/c", None, None)]
    ]
    assert api.entity(RESOURCE, "/a") == StoredEntity(
        "A", {"type": "t", "location": "x", "tags": {"k": "v"}}, {"resourceGroup": "/g"}
    )
    assert api.entity(RESOURCE, "/none") is None


@pytest.mark.parametrize("kind", [Kind.SUBSCRIPTION, Kind.RESOURCE_GROUP])
def test_a_type_is_asked_for_only_where_there_is_one(sandbox: Sandbox, api: PortApi, kind: Kind) -> None:
    """The guide's blueprints of containers have none, and the sandbox refuses what a blueprint does not have."""
    assert list(api.entities(BLUEPRINTS[kind])) == [[]]
    sandbox.put_entity(BLUEPRINTS[kind], "/a", "A", {"tags": {}})
    assert list(api.entities(BLUEPRINTS[kind])) == [[FoundEntity("/a", "A", None)]]
    with pytest.raises(PortError, match=f"read the entities of {BLUEPRINTS[kind]}"):
        list(api.entities(BLUEPRINTS[kind], with_type=True))


def test_every_kind_has_the_blueprint_of_the_guide(sandbox: Sandbox) -> None:
    assert [BLUEPRINTS[kind] for kind in Kind] == list(sandbox.held())


def test_what_changes_while_pages_are_read_loses_nothing_else(sandbox: Sandbox, api: PortApi) -> None:
    there = _fill(sandbox, 1500)
    pages = api.entities(RESOURCE)
    first = next(pages)
    sandbox.delete_entity(RESOURCE, there[0])
    sandbox.put_entity(RESOURCE, "/a")
    rest = next(pages)
    assert [entity.identifier for entity in first + rest] == there


@pytest.mark.parametrize("blueprint", ["azureThings", "a?b#c+d%20"])
def test_a_blueprint_that_is_not_there_is_named(sandbox: Sandbox, api: PortApi, blueprint: str) -> None:
    assert f"no blueprint {blueprint}: " in str(_refusal(api, blueprint))
    assert sandbox.rest.requests == {"token 200": 1, "search 404": 1}


# -- patience --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [SEARCH, TOKEN])
@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_answers_are_retried(sandbox: Sandbox, api: PortApi, path: str, status: int) -> None:
    there = _fill(sandbox, 2)
    fault = Fault("port", status=status, path=path, times=5)
    sandbox.faults.add(fault)
    assert _identifiers(api) == there
    assert fault.fired == 5


@pytest.mark.parametrize("path", [SEARCH, TOKEN])
def test_a_connection_that_breaks_is_retried(sandbox: Sandbox, api: PortApi, path: str) -> None:
    there = _fill(sandbox, 2)
    sandbox.faults.add(Fault("port", kind="reset", path=path, times=3))
    assert _identifiers(api) == there


def test_no_page_is_lost_to_a_retry(sandbox: Sandbox, api: PortApi) -> None:
    there = _fill(sandbox, 2500)
    sandbox.faults.add(Fault("port", status=503, path=SEARCH, skip=1, times=1))
    sandbox.faults.add(Fault("port", kind="reset", path=SEARCH, skip=2, times=1))
    assert _identifiers(api) == there


@pytest.mark.parametrize(
    ("status", "headers", "waited"),
    [
        (429, {"Retry-After": "40"}, 40),
        (503, {"Retry-After": "40"}, 40),
        (429, {"x-ratelimit-reset": str(int(NOW.timestamp()) + 40)}, 40),
        (429, {"x-ratelimit-reset": "40"}, 40),
        (429, {"Retry-After": "40", "x-ratelimit-reset": "200"}, 40),
        (429, {"Retry-After": "soon", "x-ratelimit-reset": "40"}, 40),
        (503, {"x-ratelimit-reset": "200"}, 0),
        (429, {"x-ratelimit-reset": str(int(NOW.timestamp()) - 40)}, 0),
        (429, {"x-ratelimit-reset": "-40"}, 0),
        (429, {"x-ratelimit-reset": "soon"}, 0),
        (429, {}, 0),
    ],
)
def test_waits_as_long_as_port_asks(
    sandbox: Sandbox, api: PortApi, clock: SteppedClock, status: int, headers: dict[str, str], waited: int
) -> None:
    """The time until a reset is documented as an instant, and read as a duration by Port's own provider."""
    sandbox.faults.add(Fault("port", status=status, headers=headers, path=SEARCH))
    _identifiers(api)
    assert timedelta(seconds=waited) <= clock.now() - NOW < timedelta(seconds=waited + 2)


@pytest.mark.parametrize("retry_after", [True, False])
def test_a_throttled_port_is_asked_no_more_than_it_grants(
    sandbox: Sandbox, api: PortApi, clock: SteppedClock, retry_after: bool
) -> None:
    there = _fill(sandbox, 3500)
    sandbox.rest.throttle(Throttle(limit=2, window_seconds=60, retry_after=retry_after))
    assert _identifiers(api) == there
    assert sandbox.rest.requests == {"token 200": 1, "search 200": 4}
    assert clock.now() - NOW >= timedelta(seconds=60)


@pytest.mark.parametrize("headers", [{}, {"Retry-After": "86400"}, {"Retry-After": "9" * 400}])
def test_port_that_stays_away_ends_in_one_sentence(
    sandbox: Sandbox, api: PortApi, clock: SteppedClock, headers: dict[str, str]
) -> None:
    sandbox.faults.add(Fault("port", status=503, headers=headers, path=SEARCH, times=None))
    error = _refusal(api)
    assert "for 5 minutes: it answered 503" in str(error)
    assert "PORT_BASE_URL" in str(error)
    assert timedelta(minutes=5) <= clock.now() - NOW < timedelta(minutes=6)


def test_each_request_has_its_own_deadline(sandbox: Sandbox, api: PortApi, clock: SteppedClock) -> None:
    """Reading a large catalog may take longer than a request."""
    there = _fill(sandbox, 2500)
    found = []
    for page in api.entities(RESOURCE):
        found += [entity.identifier for entity in page]
        sandbox.clock.advance(timedelta(minutes=4))
        sandbox.faults.add(Fault("port", status=503, path=SEARCH, times=2))
    assert found == there


# -- the token -------------------------------------------------------------------------------------------------------


def test_one_token_serves_everything(sandbox: Sandbox, api: PortApi) -> None:
    for blueprint in BLUEPRINTS.values():
        _identifiers(api, blueprint)
    assert sandbox.rest.requests == {"token 200": 1, "search 200": 3}


def test_a_token_is_renewed_before_it_ends(sandbox: Sandbox, api: PortApi) -> None:
    _identifiers(api)
    sandbox.clock.advance(timedelta(seconds=TOKEN_SECONDS - 90))
    _identifiers(api)
    sandbox.clock.advance(timedelta(seconds=31))
    _identifiers(api)
    assert sandbox.rest.requests == {"token 200": 2, "search 200": 3}


def test_a_token_that_is_revoked_while_pages_are_read_is_renewed(sandbox: Sandbox, api: PortApi) -> None:
    there = _fill(sandbox, 1500)
    found = []
    for page in api.entities(RESOURCE):
        found += [entity.identifier for entity in page]
        sandbox.rest.revoke_tokens()
    assert found == there
    assert sandbox.rest.requests == {"token 200": 2, "search 200": 2, "search 401": 1}


def test_a_token_that_is_never_good_is_renewed_once(sandbox: Sandbox, api: PortApi) -> None:
    sandbox.faults.add(Fault("port", status=401, path=SEARCH, times=None))
    assert "PORT_BASE_URL" in str(_refusal(api))
    assert sandbox.rest.requests == {"token 200": 2}
    (fault,) = sandbox.faults
    assert fault.fired == 2


def test_threads_share_a_token_and_its_renewal(sandbox: Sandbox, api: PortApi) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            assert list(pool.map(lambda _: _identifiers(api), range(8))) == [[]] * 8
            sandbox.rest.revoke_tokens()
    assert sandbox.rest.requests["token 200"] == 2


def test_a_netrc_does_not_take_the_place_of_the_token(
    sandbox: Sandbox, api: PortApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`requests` puts what it finds there over the header that authorizes the request."""
    (tmp_path / "netrc").write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert _identifiers(api) == []
    assert sandbox.rest.requests == {"token 200": 1, "search 200": 1}


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"client_id": "nobody"}, {"client_secret": "wrong-0123456789"}])
def test_wrong_credentials_name_both_settings(sandbox: Sandbox, api_of: ApiOf, wrong: dict[str, str]) -> None:
    error = _refusal(api_of(**wrong))
    assert "PORT_CLIENT_ID and PORT_CLIENT_SECRET" in str(error)
    assert sandbox.rest.requests == {"token 401": 1}
    shows_none_of(error, "wrong-0123456789", sandbox.api_environment()["PORT_CLIENT_SECRET"])


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        (TOKEN, 403, "PORT_CLIENT_ID and PORT_CLIENT_SECRET"),
        (TOKEN, 404, "PORT_BASE_URL"),
        (TOKEN, 302, "PORT_BASE_URL"),
        (TOKEN, 422, "a request to sign in: Port answered 422: no, never"),
        (SEARCH, 403, "PORT_CLIENT_ID"),
        (SEARCH, 307, "PORT_BASE_URL"),
        (SEARCH, 422, f"a request to read the entities of {RESOURCE}: Port answered 422: no, never"),
        (SEARCH, 413, f"a request to read the entities of {RESOURCE}: Port answered 413: no, never"),
    ],
)
def test_a_refusal_says_where_to_look(sandbox: Sandbox, api: PortApi, path: str, status: int, named: str) -> None:
    body = {"ok": False, "error": "refused", "message": "no,\nnever"}
    headers = {"Location": f"{sandbox.url}/v1/elsewhere"}
    sandbox.faults.add(Fault("port", status=status, body=body, headers=headers, path=path, times=None))
    assert named in str(_refusal(api))
    (fault,) = sandbox.faults
    assert fault.fired == 1
    assert sandbox.rest.requests.total() == (0 if path == TOKEN else 1)  # nothing was asked elsewhere


def test_pages_that_come_in_a_circle_end(sandbox: Sandbox, api: PortApi) -> None:
    page = {"ok": True, "entities": [{"identifier": "/a"}], "next": "x"}
    sandbox.faults.add(Fault("port", status=200, body=page, path=SEARCH, times=5))
    assert f"the same next page of {RESOURCE} twice" in str(_refusal(api))
    (fault,) = sandbox.faults
    assert fault.fired == 2


@pytest.mark.parametrize("end", [None, ""])
def test_a_next_that_is_nothing_is_the_end(sandbox: Sandbox, api: PortApi, end: str | None) -> None:
    page = {"ok": True, "entities": [{"identifier": "/a"}], "next": end}
    sandbox.faults.add(Fault("port", status=200, body=page, path=SEARCH))
    assert _identifiers(api) == ["/a"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"ok": True},
        {"entities": {}},
        {"entities": ["/a"]},
        {"entities": [{"title": "A"}]},
        {"entities": [{"identifier": 1}]},
        {"entities": [{"identifier": {"combinator": "and", "rules": []}}]},
        {"entities": [{"identifier": "/a", "title": 1}]},
        {"entities": [{"identifier": "/a", "properties": []}]},
        {"entities": [], "next": 1},
    ],
)
def test_a_page_that_is_none_is_no_empty_catalog(sandbox: Sandbox, api: PortApi, body: Any) -> None:
    """Taken for an empty page, it would have everything sent again, or what Port holds forgotten."""
    sandbox.faults.add(Fault("port", status=200, body=body, path=SEARCH, times=None))
    assert f"a request to read the entities of {RESOURCE} with something that" in str(_refusal(api))


@pytest.mark.parametrize("body", [None, "<html>Welcome</html>", "[" * 100_000, [], "cut {"], ids=range(5))
def test_what_is_not_from_port_is_tried_again_and_is_no_empty_catalog(
    sandbox: Sandbox, api: PortApi, clock: SteppedClock, body: Any
) -> None:
    there = _fill(sandbox, 2)
    sandbox.faults.add(Fault("port", status=200, body=body, path=SEARCH, times=2))
    assert _identifiers(api) == there

    sandbox.faults.add(Fault("port", status=200, body=body, path=SEARCH, times=None))
    text = str(_refusal(api))
    assert "could not be used for 5 minutes: it answered 200 with" in text
    assert "PORT_BASE_URL" in text
    assert "proxy or firewall" in text


_TOKEN: dict[str, Any] = {"ok": True, "accessToken": "token-0123456789", "expiresIn": 60, "tokenType": "Bearer"}


@pytest.mark.parametrize(
    "body",
    [
        {**_TOKEN, "accessToken": None},
        {**_TOKEN, "accessToken": "token-0123456789\nX-Header: x"},
        {**_TOKEN, "accessToken": "token-0123456789-€"},
        {**_TOKEN, "tokenType": None},
        {**_TOKEN, "expiresIn": "60"},
        {**_TOKEN, "expiresIn": 0},
        '{"accessToken": "token-0123456789", "tokenType": "Bearer", "expiresIn": 1e999}',
        '{"accessToken": "token-0123456789", "tokenType": "Bearer", "expiresIn": NaN}',
    ],
)
def test_a_token_that_is_none_is_not_used(sandbox: Sandbox, api: PortApi, body: Any) -> None:
    sandbox.faults.add(Fault("port", status=200, body=body, path=TOKEN, times=None))
    error = _refusal(api)
    assert "a request to sign in with something that" in str(error)
    assert sandbox.rest.requests == {}
    shows_none_of(error, "token-0123456789")


@pytest.mark.parametrize("body", ["token-0123456789", ["token-0123456789"], "<html>token-0123456789</html>"])
def test_what_is_not_from_port_is_no_token(sandbox: Sandbox, api: PortApi, body: Any) -> None:
    sandbox.faults.add(Fault("port", status=200, body=body, path=TOKEN, times=None))
    error = _refusal(api)
    assert "could not be used for 5 minutes: it answered 200 with" in str(error)
    shows_none_of(error, "token-0123456789")


# -- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [SEARCH, TOKEN])
def test_an_answer_that_repeats_the_request_does_not_show_its_secrets(
    sandbox: Sandbox, api: PortApi, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    secret = sandbox.api_environment()["PORT_CLIENT_SECRET"]
    if path == SEARCH:  # else no token is sent
        sandbox.faults.add(Fault("port", status=200, body=_TOKEN, path=TOKEN, times=None))
    sent = secret if path == TOKEN else f"{secret} Bearer token-0123456789"
    said = f"{'x' * 160} {sent}"  # so long that cutting it short would leave half of the secret
    for body in (said, {"message": said}, {"message": {"request": said}}):
        fault = Fault("port", status=400, body=body, path=path, times=None)
        sandbox.faults.add(fault)
        with caplog.at_level(logging.DEBUG):
            error = _refusal(api)
        fault.times = 0
        assert ("(secret)" in str(error)) == isinstance(body, dict)  # what is not Port's JSON is not repeated at all
        shows_none_of(error, secret, secret[:16], "token-0123456789")
        assert secret not in caplog.text
        assert "token-0123456789" not in caplog.text


def test_nothing_shows_a_secret_when_nobody_answers(
    sandbox: Sandbox, api_of: ApiOf, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "secret-0123456789"
    with speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc") as base, caplog.at_level(logging.DEBUG):
        error = _refusal(api_of(base, client_secret=secret))
    assert "for 5 minutes" in str(error)
    shows_none_of(error, secret)
    assert secret not in caplog.text


def test_a_retry_is_logged_without_a_secret(sandbox: Sandbox, api: PortApi, caplog: pytest.LogCaptureFixture) -> None:
    for path in (TOKEN, SEARCH):
        sandbox.faults.add(Fault("port", status=503, path=path))
        sandbox.faults.add(Fault("port", kind="reset", path=path))
    with caplog.at_level(logging.DEBUG):
        _identifiers(api)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("azure_port_sync")]
    assert "Port's API: it answered 503; trying again" in ours
    assert len(ours) == 2  # one for each kind of request; the others would say the same within ten seconds
    assert sandbox.api_environment()["PORT_CLIENT_SECRET"] not in caplog.text
    assert "Bearer" not in caplog.text


def test_the_client_does_not_print_its_secrets(sandbox: Sandbox, api: PortApi) -> None:
    _identifiers(api)
    for text in (repr(api), str(api), repr(vars(api)["_token"])):
        assert sandbox.api_environment()["PORT_CLIENT_SECRET"] not in text
        assert "Bearer" not in text


def test_a_certificate_that_is_not_trusted_names_the_setting(sandbox: Sandbox, api_of: ApiOf) -> None:
    error = _refusal(api_of(sandbox.azure_url))
    assert "REQUESTS_CA_BUNDLE" in str(error)
    shows_none_of(error, sandbox.api_environment()["PORT_CLIENT_SECRET"])


def test_a_private_authority_is_trusted_where_it_is_named(
    sandbox: Sandbox, api_of: ApiOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other variables that `requests` knows do not go before the setting. (The sandbox's Azure has TLS and no Port.)"""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv("CURL_CA_BUNDLE", certifi.where())
    api = api_of(sandbox.azure_url, verify=sandbox.environment()["REQUESTS_CA_BUNDLE"])
    assert "404" in str(_refusal(api))
