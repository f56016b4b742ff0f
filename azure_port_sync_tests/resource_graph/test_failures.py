"""The table of failures: every line of it, as the classes and sentences that come out; and signing in over HTTP."""

import itertools
import json
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken, TokenCredential
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.identity import ClientSecretCredential, DefaultAzureCredential

from azure_port_sync.core.errors import AzureError
from azure_port_sync.defs.azure_sign_in import sign_in
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.resource_graph.client import QueryScope
from azure_port_sync.resource_graph.failures import (
    FAILURES,
    Failure,
    NoAccessError,
    Treatment,
    network_failure,
    query_failure,
    sign_in_failure,
)
from azure_port_sync.resource_graph.transport import BoundedTransport
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.settings import Settings
from azure_port_sync_tests.support.azure import TOO_LARGE, error_body, fill, one_sentence
from azure_port_sync_tests.support.clocks import SteppedClock
from azure_port_sync_tests.support.leaks import shows_none_of

_PAGE = b"<!DOCTYPE html>\n<html><title>Blocked</title></html>"
_PRINCIPAL = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
_ROLE = ("Reader", "AZURE_SUBSCRIPTION_IDS", "AZURE_MANAGEMENT_GROUPS")
_PROXY = ("proxy", "HTTPS_PROXY", "NO_PROXY")
_CLOUD = ("AZURE_CLOUD", "AZURE_RESOURCE_MANAGER_URL", "AZURE_AUTHORITY_HOST")
_NETWORK = ("AZURE_RESOURCE_MANAGER_URL", "REQUESTS_CA_BUNDLE")


def _json(*details: tuple[str, str], code: str = "BadRequest") -> bytes:
    return json.dumps(error_body(code, *details)).encode()


_NO_VALID = "There must be at least one subscription that is eligible to contain resources. Given: ''."

#: What came, the class that it is, and what the sentence in which it ends must have in it.
_QUERIES: list[tuple[int, bytes, Treatment, tuple[str, ...]]] = [
    (400, json.dumps(TOO_LARGE).encode(), Treatment.SPLIT, ("ResponsePayloadTooLarge",)),
    (400, _json(("NoValidSubscriptionsInQueryRequest", _NO_VALID)), Treatment.NO_ACCESS, ("eligible", *_ROLE)),
    (
        400,
        _json(("ManagementGroupsContainInvalidIds", "The ids are invalid: 'a b'.")),
        Treatment.CONFIGURATION,
        ("'a b'", "AZURE_MANAGEMENT_GROUPS", "display names"),
    ),
    (
        400,
        _json(("SubscriptionsContainInvalidGuids", "The GUIDs are invalid: 'a'.")),
        Treatment.CONFIGURATION,
        ("'a'", "AZURE_SUBSCRIPTION_IDS"),
    ),
    (
        400,
        _json(("TooManySubscriptionsUnderScope", "exceeded the allowed limit 18000")),
        Treatment.CONFIGURATION,
        ("allowed limit 18000", "AZURE_SUBSCRIPTION_IDS", "AZURE_MANAGEMENT_GROUPS"),
    ),
    (
        400,
        _json(("InvalidQuery", "Query is invalid."), ("ParserFailure", "line 1")),
        Treatment.FATAL,
        ("400", "InvalidQuery", "ParserFailure", "Query is invalid."),
    ),
    (400, b'{"error": {"code": "x", "message": "it is cold", "details": null}}', Treatment.FATAL, ("x", "it is cold")),
    (400, b"", Treatment.FATAL, ("400 with an empty body",)),
    (400, b'{"error": "x"}', Treatment.FATAL, ("400 with a body that is not Azure's",)),
    (401, _json(("InvalidAuthenticationTokenAudience", "wrong audience 'x'.")), Treatment.CONFIGURATION, _CLOUD),
    (401, _json(code="InvalidAuthenticationToken"), Treatment.CONFIGURATION, _PRINCIPAL),
    (403, _json(code="AccessDenied"), Treatment.NO_ACCESS, _ROLE),
    *((403, body, Treatment.CONFIGURATION, (*_ROLE, *_PROXY)) for body in (b"", b"Forbidden", b'{"error": "x"}')),
    (404, b"", Treatment.FATAL, ("404",)),
    (302, b"", Treatment.CONFIGURATION, ("302", *_NETWORK)),
    *(
        (status, _PAGE, Treatment.CONFIGURATION, (f"{status} with a web page", *_PROXY))
        for status in (302, 401, 403, 404)
    ),
    (407, b"", Treatment.CONFIGURATION, ("407", *_PROXY)),
    *((status, _PAGE, Treatment.RETRY, (f"{status} with a web page", *_PROXY)) for status in (200, 408, 429, 502)),
    (200, b"", Treatment.RETRY, ("200 with an empty body", *_PROXY)),
    *((status, b"", Treatment.RETRY, (f"{status}", "next run")) for status in (408, 500, 502, 503, 504, 530)),
    (
        429,
        _json(("RateLimiting", "throttled")),
        Treatment.RETRY,
        ("quota", "429 (RateLimiting)", "a while", "next run"),
    ),
    (429, b"", Treatment.RETRY, ("quota", "429 with an empty body", "next run")),
    (200, b'{"data": [', Treatment.RETRY, ("200 with a body that is not Azure's", "next run")),
]


@pytest.mark.parametrize(("status", "body", "treatment", "words"), _QUERIES)
def test_answers_to_a_query(status: int, body: bytes, treatment: Treatment, words: tuple[str, ...]) -> None:
    _check(query_failure(status, {}, body), treatment, words)


_RESET = "('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))"
_CERTIFICATE = "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: unable to get local issuer certificate"
_TUNNEL = "HTTPSConnectionPool(host='x', port=443): (Caused by ProxyError('Tunnel connection failed: {} Denied'))"

_NETWORKS: list[tuple[Exception, Treatment, tuple[str, ...]]] = [
    (ServiceResponseError(_RESET), Treatment.RETRY, ("reset by peer", "5 minutes", *_NETWORK)),
    (ServiceRequestError("timed out"), Treatment.RETRY, ("timed out", *_NETWORK)),
    (ServiceRequestError(_CERTIFICATE), Treatment.CONFIGURATION, _NETWORK),
    (ServiceRequestError(_TUNNEL.format(407)), Treatment.CONFIGURATION, ("407", *_PROXY)),
    (ServiceRequestError(_TUNNEL.format(503)), Treatment.RETRY, ("503", *_NETWORK)),
]


@pytest.mark.parametrize(("error", "treatment", "words"), _NETWORKS)
def test_errors_of_the_network(error: Exception, treatment: Treatment, words: tuple[str, ...]) -> None:
    _check(network_failure(error), treatment, words)


def _chain(*attempts: str) -> str:
    """As a chain of credentials puts it."""
    return (
        "DefaultAzureCredential failed to retrieve a token from the included credentials.\nAttempted credentials:\n\t"
        + "\n\t".join(attempts)
        + "\nTo mitigate this issue, please refer to the troubleshooting guidelines here at https://aka.ms/x."
    )


_ENVIRONMENT = (
    "EnvironmentCredential: EnvironmentCredential authentication unavailable. Environment variables are not fully "
    "configured.\nVisit https://aka.ms/azsdk/python/identity/environmentcredential/troubleshoot to troubleshoot this."
)
_FEDERATED = "AADSTS700213: No matching federated identity record found for presented assertion subject 'x'."

_SIGN_INS: list[tuple[str, Treatment, tuple[str, ...]]] = [
    (f"Authentication failed: {_FEDERATED} Trace ID: 1 Correlation ID: 2", Treatment.CONFIGURATION, ("AADSTS700213",)),
    (_chain(_ENVIRONMENT, f"WorkloadIdentityCredential: {_FEDERATED}"), Treatment.CONFIGURATION, ("AADSTS700213",)),
    (
        _chain(_ENVIRONMENT, "WorkloadIdentityCredential: [Errno 2] No such file or directory: '/var/run/token'"),
        Treatment.CONFIGURATION,
        ("No such file or directory: '/var/run/token'",),
    ),
    (
        _chain(_ENVIRONMENT, "AzureCliCredential: Azure CLI not found on path"),
        Treatment.CONFIGURATION,
        (
            "Nothing on this machine",
            "EnvironmentCredential authentication unavailable",
            "Azure CLI not found",
            *_PRINCIPAL,
        ),
    ),
    ("Authentication failed: AADSTS90033: A transient error has occurred.", Treatment.RETRY, ("AADSTS90033",)),
    (_chain("WorkloadIdentityCredential: AADSTS90012: timeout"), Treatment.RETRY, ("AADSTS90012",)),
    ("Authentication failed: HTTP Error: 503", Treatment.RETRY, ("HTTP Error: 503", "Signing in")),
    (_chain(_ENVIRONMENT, "WorkloadIdentityCredential: HTTP Error: 429"), Treatment.RETRY, ("HTTP Error: 429",)),
    *(
        (_chain(_ENVIRONMENT, f"WorkloadIdentityCredential: {text}"), Treatment.RETRY, (text, "Signing in", "next run"))
        for text in ("the answer was not whole after 2 minutes", "the answer asked for a wait of 86400 s")
    ),
    ("Authentication failed: AADSTS500011: The resource principal", Treatment.CONFIGURATION, ("AADSTS500011", *_CLOUD)),
    (f"Authentication failed: {_RESET}", Treatment.RETRY, ("reset by peer", *_NETWORK)),
    (_chain(_ENVIRONMENT, f"WorkloadIdentityCredential: {_RESET}"), Treatment.RETRY, ("reset by peer", *_NETWORK)),
    ("Authentication failed: Expecting value: line 1 column 1 (char 0)", Treatment.RETRY, _PROXY),
    (
        _chain(_ENVIRONMENT, "WorkloadIdentityCredential: No response content from Microsoft Entra ID"),
        Treatment.RETRY,
        _PROXY,
    ),
    (f"Authentication failed: {_CERTIFICATE}", Treatment.CONFIGURATION, _NETWORK),
    (f"Authentication failed: {_TUNNEL.format(403)}", Treatment.CONFIGURATION, _PROXY),
    ("Invalid tenant id provided.", Treatment.CONFIGURATION, ("Invalid tenant id provided", *_PRINCIPAL)),
]


@pytest.mark.parametrize(("text", "treatment", "words"), _SIGN_INS)
def test_errors_of_signing_in(text: str, treatment: Treatment, words: tuple[str, ...]) -> None:
    """A chain of credentials hides the reason among those that this machine does not have."""
    sentence = _check(sign_in_failure(ValueError(text)), treatment, words)
    assert "Trace ID" not in sentence
    if "WorkloadIdentity" in text:
        assert "EnvironmentCredential" not in sentence


def test_each_row_of_the_table_is_reached() -> None:
    """A row that others before it hide would be a promise that nothing keeps."""
    failures = [query_failure(status, {}, body) for status, body, _, _ in _QUERIES]
    failures += [query_failure(200, {"x-ms-tenant-subscription-limit-hit": "True"}, b"{}")]
    failures += [network_failure(error) for error, _, _ in _NETWORKS]
    failures += [sign_in_failure(ValueError(text)) for text, _, _ in _SIGN_INS]
    assert {failure.row for failure in failures} == set(FAILURES)


def test_words_of_others_are_one_short_line() -> None:
    failure = query_failure(400, {}, _json(("x", "many\nwords " * 1000)))
    assert len(str(failure.error(after=timedelta(0)))) < 1000
    assert "\n" not in str(failure.error(after=timedelta(0)))
    loud = query_failure(400, {}, _json(("<!here>" * 1000, "a <!channel> \x1b[31mb")))
    assert str(loud.error(after=timedelta(0))).endswith("a ‹!channel› (31mb.")
    assert len(loud.seen) < 1000
    assert "<" not in loud.seen
    assert sign_in_failure(ValueError("<!channel>\n")).reason == "‹!channel›"


def _check(failure: Failure, treatment: Treatment, words: tuple[str, ...]) -> str:
    error = failure.error(after=timedelta(minutes=5))
    assert failure.row.treatment is treatment
    assert isinstance(error, NoAccessError) == (treatment is Treatment.NO_ACCESS)
    text = str(error)
    assert "\n" not in text
    assert "{" not in text
    assert ".." not in text
    for word in words:
        assert word in text
    return text


# -- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "body"), [(401, error_body("x")), (403, None), (404, None), (400, "<html>")])
def test_refusals_are_not_retried(sandbox: Sandbox, reader: AzureReader, status: int, body: Any) -> None:
    sandbox.faults.add(Fault("azure", status=status, body=body, path="/resources", times=None))
    with pytest.raises(AzureError) as error:
        reader.graph.query("resources", QueryScope())
    one_sentence(error)
    assert reader.graph.usage.requests == 1


def test_azures_own_words_about_a_bad_query_are_shown(sandbox: Sandbox, reader: AzureReader) -> None:
    fill(sandbox, 1)
    with pytest.raises(AzureError) as error:
        reader.graph.query("resources | project id | summarise count()", QueryScope())
    one_sentence(error, "InvalidQuery", "InvalidQueryLanguage")


@contextmanager
def _signed_in(
    sandbox: Sandbox,
    clock: SteppedClock,
    credential: TokenCredential,
    scope: str = "https://management.azure.com/.default",
) -> Iterator[ResourceGraph]:
    environment = sandbox.environment()
    graph = ResourceGraph(
        credential,
        clock,
        base_url=environment["AZURE_RESOURCE_MANAGER_URL"],
        credential_scopes=[scope],
        connection_verify=environment["REQUESTS_CA_BUNDLE"],
    )
    try:
        yield graph
    finally:
        graph.close()


def _options(sandbox: Sandbox) -> dict[str, Any]:
    environment = sandbox.environment()
    verify = environment["REQUESTS_CA_BUNDLE"]
    transport = BoundedTransport(SteppedClock(sandbox.clock), connection_verify=verify)
    return {"transport": transport, "disable_instance_discovery": True, "retry_total": 0}


@pytest.fixture
def credential(
    request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TokenCredential]:
    """Two that sign in alike and report failures differently: the second keeps nothing of them but their text."""
    environment = sandbox.environment()
    tenant, client = environment["AZURE_TENANT_ID"], environment["AZURE_CLIENT_ID"]
    made: ClientSecretCredential | DefaultAzureCredential
    if request.param == "client secret":
        authority = environment["AZURE_AUTHORITY_HOST"]
        secret = environment["AZURE_CLIENT_SECRET"]
        made = ClientSecretCredential(tenant, client, secret, authority=authority, **_options(sandbox))
    else:
        (tmp_path / "token").write_text("a.b.c")
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", environment["AZURE_AUTHORITY_HOST"])
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        identity = {"workload_identity_tenant_id": tenant, "workload_identity_client_id": client}
        made = DefaultAzureCredential(**identity, **_options(sandbox))
    with made:
        yield made


_ANY = ["client secret", "workload identity in a chain"]
#: MSAL, which signs in with a client secret, answers from memory for a minute of the machine's own time after these.
_NOT_MSAL = _ANY[1:]


@pytest.mark.parametrize(
    ("credential", "fault"),
    [
        *itertools.product(
            _ANY,
            [
                Fault("azure", kind="reset"),
                Fault("azure", kind="reset_mid_body"),
                Fault("azure", status=200, body=""),
                Fault("azure", status=200, body="<html>", headers={"content-type": "text/html"}),
                Fault("azure", kind="invalid_json"),
            ],
        ),
        *itertools.product(
            _NOT_MSAL,
            [
                Fault("azure", status=503),
                Fault("azure", status=429, headers={"Retry-After": "1"}),
                Fault("azure", status=400, body={"error": "x", "error_description": "AADSTS90033: Transient."}),
            ],
        ),
    ],
    indirect=["credential"],
    ids=lambda value: f"{value.kind} {value.status} {value.body}" if isinstance(value, Fault) else value,
)
def test_a_sign_in_is_tried_again(
    sandbox: Sandbox, clock: SteppedClock, credential: TokenCredential, fault: Fault
) -> None:
    """The token endpoint breaks and says "try again" as the other does; runs failed with a remedy that was none."""
    sandbox.faults.add(replace(fault, path="/oauth2/", times=3))
    with _signed_in(sandbox, clock, credential) as graph:
        if isinstance(credential, ClientSecretCredential):
            assert graph.query("resources | project id", QueryScope()).complete
        else:  # the sandbox takes no assertion; that it came to refuse one shows that it was asked again
            with pytest.raises(AzureError) as error:
                graph.query("resources | project id", QueryScope())
            one_sentence(error, "AADSTS7000215")
        assert graph.usage.retries == 3


@pytest.mark.parametrize("credential", _ANY, indirect=True)
def test_a_sign_in_that_stays_broken_names_the_network(
    sandbox: Sandbox, clock: SteppedClock, credential: TokenCredential
) -> None:
    sandbox.faults.add(Fault("azure", kind="reset", path="/oauth2/", times=None))
    started = clock.now()
    with _signed_in(sandbox, clock, credential) as graph, pytest.raises(AzureError) as error:
        graph.query("resources", QueryScope())
    one_sentence(error, "could not be reached for 5 minutes", *_NETWORK)
    assert timedelta(minutes=5) <= clock.now() - started < timedelta(minutes=6)


@pytest.mark.parametrize("way", _ANY)
@pytest.mark.parametrize(
    "fault",
    [Fault("azure", kind="drip", drip_bytes=15), Fault("azure", status=429, headers={"Retry-After": "86400"})],
    ids=lambda fault: fault.kind,
)
def test_a_sign_in_that_never_ends_is_given_up(
    sandbox: Sandbox, clock: SteppedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, fault: Fault
) -> None:
    """The SDK waited for a day where it was asked to, and for ever for an answer that drips; silently."""
    environment = sandbox.environment()
    if way != "client secret":
        del environment["AZURE_CLIENT_SECRET"]
        monkeypatch.setenv("AZURE_AUTHORITY_HOST", environment["AZURE_AUTHORITY_HOST"])
        monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "token"))
        (tmp_path / "token").write_text("a.b.c")
    sandbox.faults.add(replace(fault, path="/oauth2/", times=None))
    credential = sign_in(Settings.from_environment(environment), clock).credential
    started = clock.now()
    with _signed_in(sandbox, clock, credential) as graph, pytest.raises(AzureError) as error:
        graph.query("resources", QueryScope())
    one_sentence(error, "Signing in to Azure kept failing", "next run")
    assert clock.now() - started < timedelta(minutes=15)


def test_a_sign_in_for_another_cloud_names_the_setting(sandbox: Sandbox, clock: SteppedClock) -> None:
    """Tokens are good for one audience."""
    environment = sandbox.environment()
    names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
    for scope, code in [
        ("https://management.chinacloudapi.cn/.default", "AADSTS500011"),
        ("https://graph.microsoft.com/.default", "InvalidAuthenticationTokenAudience"),
    ]:
        authority = environment["AZURE_AUTHORITY_HOST"]
        secret = ClientSecretCredential(
            *(environment[name] for name in names), authority=authority, **_options(sandbox)
        )
        with (
            secret,
            _signed_in(sandbox, clock, secret, scope) as graph,
            pytest.raises(AzureError) as error,
        ):
            graph.query("resources", QueryScope())
        one_sentence(error, *_CLOUD)
        assert code in str(error.value) or "wrong audience" in str(error.value)


@pytest.mark.parametrize("credential", _ANY[:1], indirect=True)
def test_the_tenant_is_that_of_the_token(sandbox: Sandbox, clock: SteppedClock, credential: TokenCredential) -> None:
    with _signed_in(sandbox, clock, credential) as graph:
        sandbox.faults.add(Fault("azure", kind="reset", path="/oauth2/", times=2))
        assert graph.tenant() == sandbox.tenant.tenant_id
        assert graph.usage.retries == 2


def test_a_token_that_names_no_tenant_is_one_sentence(sandbox: Sandbox, clock: SteppedClock) -> None:
    class Opaque:
        token = "an-opaque-token"

        def get_token(self, *scopes: str, **options: Any) -> AccessToken:
            return AccessToken(self.token, 2**40)

    for token in ("an-opaque-token", "a.b.c", "a.W10.c", "a.e30.c"):
        Opaque.token = token
        with _signed_in(sandbox, clock, Opaque()) as graph, pytest.raises(AzureError) as error:
            graph.tenant()
        one_sentence(error, "AZURE_TENANT_ID")
        shows_none_of(error.value, "opaque")


def test_a_wrong_client_secret_is_one_sentence_without_the_secret(sandbox: Sandbox, clock: SteppedClock) -> None:
    environment = sandbox.environment()
    secret = "not-the-secret-0123456789"
    credential = ClientSecretCredential(
        environment["AZURE_TENANT_ID"],
        environment["AZURE_CLIENT_ID"],
        secret,
        authority=environment["AZURE_AUTHORITY_HOST"],
        **_options(sandbox),
    )
    with credential, _signed_in(sandbox, clock, credential) as graph, pytest.raises(AzureError) as error:
        graph.query("resources", QueryScope())
    one_sentence(error, "Azure refused the credentials", "AADSTS7000215", *_PRINCIPAL)
    shows_none_of(error.value, secret)
    assert clock.slept == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/resources", {"error": {"code": "BadRequest", "message": "{sent}"}}),
        ("/resources", {"error": {"code": "{sent}", "message": ""}}),
        ("/resources", error_body("BadRequest", ("Echo", "{sent}"))),
        ("/oauth2/", {"error": "invalid_client", "error_description": "AADSTS1: {sent}"}),
    ],
    ids=["message", "code", "inner message", "sign-in"],
)
def test_an_answer_that_repeats_the_request_does_not_show_its_secrets(
    sandbox: Sandbox, clock: SteppedClock, caplog: pytest.LogCaptureFixture, path: str, body: dict[str, Any]
) -> None:
    environment = sandbox.environment()
    signed_in = sign_in(Settings.from_environment(environment), clock)
    graph = ResourceGraph(
        signed_in.credential,
        clock,
        base_url=signed_in.resource_manager_url,
        credential_scopes=signed_in.scopes,
        connection_verify=environment["REQUESTS_CA_BUNDLE"],
        secrets=signed_in.secrets,
    )
    secret = environment["AZURE_CLIENT_SECRET"]
    sent = secret
    if path == "/resources":
        graph.tenant()
        sent += f" Bearer {sandbox.tokens()[-1]}"
    # So long that cutting it short would leave half of a secret.
    echo = json.loads(json.dumps(body).replace("{sent}", f"{'x' * 440} {sent} {sent}"))
    sandbox.faults.add(Fault("azure", status=400, body=echo, path=path, times=None))
    with closing(graph), caplog.at_level(logging.DEBUG), pytest.raises(AzureError) as error:
        graph.query("resources", QueryScope())
    one_sentence(error, "(secret)")
    for text in (sent, secret, secret[:16], *(part[:16] for part in sent.split(".")[1:])):
        shows_none_of(error.value, text)
        assert text not in caplog.text


def test_a_missing_token_file_is_named(
    sandbox: Sandbox, clock: SteppedClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(tmp_path / "missing"))
    identity = {"workload_identity_tenant_id": "t", "workload_identity_client_id": "c"}
    credential = DefaultAzureCredential(**identity, **_options(sandbox))
    with credential, _signed_in(sandbox, clock, credential) as graph, pytest.raises(AzureError) as error:
        graph.query("resources", QueryScope())
    one_sentence(error, str(tmp_path / "missing"))
    assert clock.slept == []
