"""The settings: one sentence for each mistake, an empty variable is an unset one, and secrets stay secret."""

import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.errors import SettingsError
from azure_port_sync.core.scope import Scope
from azure_port_sync.settings import Settings
from azure_port_sync_tests.support.leaks import shows_none_of

_GUID = "0B1F6471-1BF0-4DDA-AEC3-CB9272F09590"
_LISTS = [
    "AZURE_SUBSCRIPTION_IDS",
    "AZURE_EXCLUDED_SUBSCRIPTION_IDS",
    "AZURE_MANAGEMENT_GROUPS",
    "RESOURCE_TYPES",
    "EXTRA_RESOURCE_COLUMNS",
]
_SECRETS = {
    "AZURE_CLIENT_SECRET": "client-secret-0123456789",
    "PORT_WEBHOOK_INGEST_URL": "https://ingest.port.io/webhook-key-0123456789",
    "PORT_WEBHOOK_SECRET": "webhook-secret-0123456789",
    "PORT_CLIENT_SECRET": "port-client-secret-0123456789",
    "AZURE_PORT_SYNC_STATE_URL": "postgresql://user:database-password-0123456789@host/database",
}

_BAD = [
    *[(name, value) for name in _LISTS for value in ["a", "[", '"a"', "1", "null", '{"a": "b"}', "[1]", '["a", null]']],
    *[("AZURE_TENANT_ID", value) for value in [f'"{_GUID}"', "a b", "a/b", f"{_GUID}\n{_GUID}", "<tenant>"]],
    ("AZURE_CLOUD", "germany"),
    ("AZURE_CLOUD", "Public"),
    ("AZURE_RESOURCE_MANAGER_URL", "management.azure.com"),
    ("AZURE_RESOURCE_MANAGER_URL", "http://management.azure.com"),
    ("AZURE_RESOURCE_MANAGER_URL", "https://"),
    ("AZURE_AUTHORITY_HOST", "http://login.microsoftonline.com"),
    ("AZURE_SUBSCRIPTION_IDS", '["production"]'),
    ("AZURE_SUBSCRIPTION_IDS", f'["{_GUID}", "/subscriptions/{_GUID}"]'),
    ("AZURE_EXCLUDED_SUBSCRIPTION_IDS", '[""]'),
    ("SUBSCRIPTION_BATCH_SIZE", "0"),
    ("SUBSCRIPTION_BATCH_SIZE", "1001"),
    ("SUBSCRIPTION_BATCH_SIZE", "many"),
    ("SUBSCRIPTION_BATCH_SIZE", "1.5"),
    ("CHANGE_WINDOW_MINUTES", "0"),
    ("CHANGE_WINDOW_MINUTES", "-15"),
    ("CHANGE_WINDOW_MINUTES", "15 minutes"),
    ("CHANGE_WINDOW_MINUTES", str(60 * 24 * 7 + 1)),
    ("RESOURCE_TYPES", '["vaults"]'),
    ("RESOURCE_TYPES", '["microsoft.web/sites\' or true"]'),
    ("RESOURCE_TYPES", '["microsoft.web/"]'),
    ("RESOURCE_GROUP_TAG_FILTERS", "env=prod"),
    ("RESOURCE_GROUP_TAG_FILTERS", "[]"),
    ("RESOURCE_GROUP_TAG_FILTERS", '{"env": "prod"}'),
    ("RESOURCE_GROUP_TAG_FILTERS", '{"include": ["env"]}'),
    ("RESOURCE_GROUP_TAG_FILTERS", '{"include": {"env": 1}}'),
    ("RESOURCE_GROUP_TAG_FILTERS", '{"include": {"env": ["a", "b"]}}'),
    ("RESOURCE_GROUP_TAG_FILTERS", '{"include": {"env": null}}'),
    ("RESOURCE_GROUP_TAG_FILTERS", '{"include": {"": "prod"}}'),
    ("RESOURCE_GROUP_TAG_FILTERS", '{"includes": {"env": "prod"}}'),
    ("EXTRA_RESOURCE_COLUMNS", '["tags"]'),
    ("EXTRA_RESOURCE_COLUMNS", '["name"]'),
    ("EXTRA_RESOURCE_COLUMNS", '["properties."]'),
    ("EXTRA_RESOURCE_COLUMNS", '["sku | project id"]'),
    ("EXTRA_RESOURCE_COLUMNS", "[\"properties['a']\"]"),
    ("PORT_WEBHOOK_INGEST_URL", "ingest.port.io/key"),
    ("PORT_WEBHOOK_INGEST_URL", "https://ingest.port.io"),
    ("PORT_WEBHOOK_INGEST_URL", "https://ingest.port.io/"),
    ("PORT_WEBHOOK_INGEST_URL", "http://ingest.port.io/key"),
    ("PORT_WEBHOOK_INGEST_URL", "ftp://ingest.port.io/key"),
    ("PORT_WEBHOOK_INGEST_URL", "https:///key"),
    ("PORT_WEBHOOK_INGEST_URL", "https://[ingest/key"),
    ("PORT_WEBHOOK_INGEST_URL", "https://ingest.port.io:port/key"),
    ("PORT_WEBHOOK_INGEST_URL", "https://ingest.port.io:99999/key"),
    ("PORT_WEBHOOK_INGEST_URL", "http://localhost.example.com/key"),
    ("PORT_BASE_URL", "api.port.io"),
    ("PORT_BASE_URL", "https://"),
    ("PORT_BASE_URL", "https://[api"),
    ("PORT_BASE_URL", "http://api.port.io"),
    ("PORT_BASE_URL", "http://localhost.example.com/v1"),
    ("PORT_BASE_URL", "ftp://api.port.io"),
    ("PORT_BASE_URL", "https://api.port.io/v1?region=us"),
    ("PORT_BASE_URL", "https://api.port.io/#v1"),
    ("PORT_BASE_URL", "https://user:password@api.port.io"),
    ("PORT_MAX_CONCURRENCY", "0"),
    ("PORT_MAX_CONCURRENCY", "101"),
    ("PORT_MAX_CONCURRENCY", "ten"),
    ("PORT_DELIVERY_DEADLINE_MINUTES", "0"),
    ("PORT_DELIVERY_DEADLINE_MINUTES", "361"),
    ("INCREMENTAL_SYNC_CRON", "every quarter of an hour"),
    ("INCREMENTAL_SYNC_CRON", "*/15 * * *"),
    ("INCREMENTAL_SYNC_CRON", "0 */15 * * * *"),
    ("INCREMENTAL_SYNC_CRON", "@hourly"),
    ("FULL_SYNC_CRON", "61 3 * * *"),
    ("FULL_SYNC_CRON", "7 3 30 2 *"),
    ("FULL_SYNC_CRON", "7 3 30 2 mon"),
    ("FULL_SYNC_CRON", "7 3 LW * *"),
    ("FULL_SYNC_CRON", "7 3 * * 5L"),
    ("FULL_SYNC_CRON", "7 3 * * mon#1,tue"),
    ("REQUESTS_CA_BUNDLE", "/no/such/file.pem"),
    ("SSL_CERT_FILE", "/no/such/file.pem"),
]


@pytest.mark.parametrize(("name", "value"), _BAD)
def test_a_bad_value_is_one_sentence_with_an_example(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({name: value})
    text = str(error.value)
    assert text.startswith(f"{name} ")
    assert text.count(f"Write e.g. {name}=") == 1
    assert "\n" not in text
    assert "pydantic" not in text
    assert error.value.__context__ is None  # no traceback of the validation beside it


@pytest.mark.parametrize("name", [name for name, field in Settings.model_fields.items() if field.examples])
def test_every_example_is_right(name: str) -> None:
    example = str((Settings.model_fields[name].examples or [""])[0])
    if name in {"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"}:
        return  # files of another machine
    assert getattr(Settings.from_environment({name: example}), name) is not None


def test_every_setting_says_what_it_means() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith((".", ").")), name


def test_of_several_mistakes_one_is_reported() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"SUBSCRIPTION_BATCH_SIZE": "0", "PORT_MAX_CONCURRENCY": "0"})
    assert str(error.value).count("Write e.g.") == 1


# -- empty is unset --------------------------------------------------------------------------------------------------


@given(st.sampled_from(["", " ", "\t"]))
def test_an_empty_variable_is_an_unset_one(empty: str) -> None:
    """A copied `.env` sets what it does not use to nothing."""
    assert Settings.from_environment(dict.fromkeys(Settings.model_fields, empty)) == Settings.from_environment({})


@pytest.mark.parametrize("blank", ["\n", "\r\n", " ", "\t"], ids=repr)
def test_blanks_around_a_value_are_no_part_of_it(blank: str) -> None:
    """A secret that was read from a file ends with a line feed; a tenant id with one was 300 lines of traceback."""
    values = {
        "AZURE_TENANT_ID": _GUID,
        "AZURE_CLIENT_ID": "x",
        "AZURE_CLOUD": "china",
        "PORT_CLIENT_ID": "y",
        **_SECRETS,
    }
    settings = Settings.from_environment({name: f"{blank}{value}{blank}" for name, value in values.items()})
    assert settings == Settings.from_environment(values)


def test_defaults() -> None:
    settings = Settings.from_environment({})
    assert settings.scope == Scope()
    assert settings.change_window == timedelta(minutes=15)
    assert settings.delivery_deadline == timedelta(minutes=10)
    assert (settings.SUBSCRIPTION_BATCH_SIZE, settings.PORT_MAX_CONCURRENCY) == (1000, 10)
    assert (settings.INCREMENTAL_SYNC_CRON, settings.FULL_SYNC_CRON) == ("*/15 * * * *", "7 3 * * *")
    assert (settings.AZURE_CLOUD, settings.verify) == ("public", True)
    assert settings.PORT_WEBHOOK_INGEST_URL is None
    assert (settings.PORT_CLIENT_ID, settings.PORT_CLIENT_SECRET) == (None, None)
    assert settings.PORT_BASE_URL == "https://api.port.io"
    assert settings.AZURE_PORT_SYNC_STATE_URL is None


def test_variables_of_others_are_no_mistake() -> None:
    assert Settings.from_environment({"PATH": "/bin", "azure_cloud": "x"}) == Settings.from_environment({})


# -- schedules -------------------------------------------------------------------------------------------------------

_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
_NAMES = ((), (), (), ("jan", "FEB", "Dec"), ("sun", "MON", "Sat"))


@st.composite
def _crons(draw: st.DrawFn) -> str:
    """Return five fields of what cron knows, and of what only some programs know; many make no sense."""
    fields = []
    for (least, most), names in zip(_RANGES, _NAMES, strict=True):
        value = st.sampled_from([*map(str, (least, most, most + 1)), *names]) | st.integers(least, most).map(str)
        span = st.tuples(value, value).map("-".join)
        step = st.tuples(st.just("*") | value | span, st.integers(0, 70).map(str)).map("/".join)
        other = st.sampled_from(["L", "LW", "5L", "L5", "?", "R", "1#1", "fri#5", "1#6", ""])
        terms = st.lists(st.just("*") | value | span | step | other, min_size=1, max_size=3)
        fields.append(draw(st.just("*") | terms.map(",".join)))
    return " ".join(fields)


@pytest.mark.filterwarnings("ignore:Found a cron schedule with an interval greater")
@given(_crons() | st.sampled_from(["*/15 * * * *", "7 3 L * *", "0 8-18/2 * * mon-fri", "0 6 * * 1#1", "5 4 1,15 * 0"]))
def test_dagster_accepts_every_cron_that_the_settings_accept(cron: str) -> None:
    """A schedule that Dagster refuses would leave a code location that does not load."""
    try:
        accepted = Settings.from_environment({"INCREMENTAL_SYNC_CRON": cron}).INCREMENTAL_SYNC_CRON
    except SettingsError:
        return
    assert dg.ScheduleDefinition(name="probe", job_name="probe", cron_schedule=accepted).cron_schedule == cron


@pytest.mark.parametrize("cron", ["*/15 * * * *", "7 3 L * *", "0 8-18/2 * * mon-fri", "0 6 * * 1#1", "5 4 1,15 * 0"])
def test_the_usual_schedules_are_accepted(cron: str) -> None:
    assert cron == Settings.from_environment({"INCREMENTAL_SYNC_CRON": cron}).INCREMENTAL_SYNC_CRON


def test_a_wrong_setting_keeps_no_code_location_from_loading() -> None:
    wrong = {"INCREMENTAL_SYNC_CRON": "now and then", "ALERT_WEBHOOK_URL": "nowhere", "FULL_SYNC_CRON": "1 2 * * *"}
    settings = Settings.at_import({**wrong, "RESOURCE_TYPES": "["})

    assert (settings.INCREMENTAL_SYNC_CRON, settings.FULL_SYNC_CRON) == ("*/15 * * * *", "1 2 * * *")
    assert settings.ALERT_WEBHOOK_URL is None


def test_settings_and_commands_load_without_dagster() -> None:
    """Only what reads the settings in a run needs it, and it takes a second to import."""
    program = "import sys, azure_port_sync.cli; print([name for name in sys.modules if name.startswith('dagster')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


# -- what they give --------------------------------------------------------------------------------------------------


def test_lists_become_the_scope() -> None:
    settings = Settings.from_environment(
        {
            "AZURE_SUBSCRIPTION_IDS": f'["{_GUID}", "{_GUID.lower()}"]',
            "AZURE_EXCLUDED_SUBSCRIPTION_IDS": f'["{_GUID}"]',
            "RESOURCE_TYPES": '["Microsoft.Web/Sites", "Microsoft.KeyVault/vaults"]',
            "RESOURCE_GROUP_TAG_FILTERS": '{"include": {"Environment": "Production"}, "exclude": {"Temporary": ""}}',
            "EXTRA_RESOURCE_COLUMNS": '["sku", "properties.provisioningState"]',
        }
    )
    assert settings.scope == Scope(
        subscription_ids=(_GUID.lower(),),
        excluded_subscription_ids=(_GUID.lower(),),
        resource_types=("microsoft.keyvault/vaults", "microsoft.web/sites"),
        include_tags=(("environment", "production"),),
        exclude_tags=(("temporary", ""),),
        extra_columns=("properties.provisioningState", "sku"),
    )


def test_order_and_casing_do_not_change_the_fingerprint() -> None:
    """Each change of it costs a full sync."""

    def fingerprint(**environment: str) -> str:
        return Settings.from_environment(environment).scope.fingerprint

    one = fingerprint(RESOURCE_TYPES='["A.b/c", "d.e/f"]', RESOURCE_GROUP_TAG_FILTERS='{"include": {"A": "B"}}')
    other = fingerprint(RESOURCE_TYPES='["D.E/F", "a.b/C"]', RESOURCE_GROUP_TAG_FILTERS='{"include": {"a": "b"}}')
    assert one == other
    apart = {
        fingerprint(),
        one,
        fingerprint(RESOURCE_TYPES='["a.b/c"]'),
        fingerprint(RESOURCE_GROUP_TAG_FILTERS='{"include": {"a": "b"}}'),
        fingerprint(RESOURCE_GROUP_TAG_FILTERS='{"exclude": {"a": "b"}}'),
        fingerprint(AZURE_SUBSCRIPTION_IDS=f'["{_GUID}"]'),
        fingerprint(AZURE_EXCLUDED_SUBSCRIPTION_IDS=f'["{_GUID}"]'),
        fingerprint(AZURE_MANAGEMENT_GROUPS=f'["{_GUID}"]'),
        fingerprint(EXTRA_RESOURCE_COLUMNS='["sku"]'),
    }
    assert len(apart) == 9
    assert fingerprint(CHANGE_WINDOW_MINUTES="60", SUBSCRIPTION_BATCH_SIZE="10") == fingerprint()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/k", "http://localhost/k", "http://[::1]:1/k", "https://h/k"])
def test_plain_http_is_for_loopback(url: str) -> None:
    settings = Settings.from_environment({"PORT_WEBHOOK_INGEST_URL": url})
    assert settings.PORT_WEBHOOK_INGEST_URL is not None
    assert settings.PORT_WEBHOOK_INGEST_URL.get_secret_value() == url


@pytest.mark.parametrize("end", ["", "/", "//", "/v1", "/v1/", "//v1//"])
@pytest.mark.parametrize("base", ["https://api.us.port.io", "http://127.0.0.1:8080", "https://proxy/port/v2"])
def test_the_address_of_ports_api_has_one_form(base: str, end: str) -> None:
    """Port's documentation writes it with and without the version."""
    settings = Settings.from_environment({"PORT_BASE_URL": base + end})
    assert base == settings.PORT_BASE_URL


def test_the_address_of_an_api_loses_what_names_nothing() -> None:
    assert Settings.from_environment({"PORT_BASE_URL": "HTTPS://h/v1?"}).PORT_BASE_URL == "https://h"
    assert Settings.from_environment({"PORT_BASE_URL": "https://h/v1#"}).PORT_BASE_URL == "https://h"


@pytest.mark.parametrize(
    ("given", "missing"), [("PORT_CLIENT_ID", "PORT_CLIENT_SECRET"), ("PORT_CLIENT_SECRET", "PORT_CLIENT_ID")]
)
def test_half_of_the_api_credentials_is_a_mistake_that_names_the_other_half(given: str, missing: str) -> None:
    """Otherwise a run would quietly do without Port's API, and its user would think it looked there."""
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({given: _SECRETS["PORT_CLIENT_SECRET"], missing: " "})
    assert str(error.value).startswith(f"{given} is set, but {missing} is not: ")
    assert _SECRETS["PORT_CLIENT_SECRET"] not in "".join(traceback.format_exception(error.value))


def test_tls_is_verified_against_a_private_authority(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    for file in (first, second):
        file.touch()
    both = {"REQUESTS_CA_BUNDLE": str(first), "SSL_CERT_FILE": str(second)}
    assert Settings.from_environment(both).verify == str(first)
    assert Settings.from_environment({"SSL_CERT_FILE": str(second)}).verify == str(second)


# -- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets_do_not_print_themselves() -> None:
    settings = Settings.from_environment({**_SECRETS, "PORT_CLIENT_ID": "x"})
    texts = [repr(settings), str(settings), f"{settings}", repr(settings.model_dump()), settings.model_dump_json()]
    for secret in _SECRETS.values():
        assert not any(secret in text for text in texts)
        assert not any(secret.rpartition("/")[2] in text for text in texts)


@pytest.mark.parametrize(
    "url",
    [
        "http://ingest.port.io/webhook-key-0123456789",
        "ingest.port.io/webhook-key-0123456789",
        "https://[ingest/webhook-key-0123456789",
        "https://ingest.port.io:port/webhook-key-0123456789",
        "https://ingest\u2100.port.io/webhook-key-0123456789",
        "webhook-key-0123456789",
    ],
)
def test_a_bad_webhook_url_is_not_shown(url: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({"PORT_WEBHOOK_INGEST_URL": url})
    shown = "".join(traceback.format_exception(error.value))
    assert "webhook-key-0123456789" not in shown
    context = error.value.__context__
    assert "webhook-key-0123456789" not in f"{context!r} {context}"


def test_another_mistake_shows_no_secret() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.from_environment({**_SECRETS, "AZURE_CLOUD": "germany"})
    shown = "".join(traceback.format_exception(error.value))
    assert not any(secret in shown for secret in _SECRETS.values())


@pytest.mark.parametrize("password", ["begins/do-not-show", "begins#do-not-show", "begins?do-not-show"])
@pytest.mark.parametrize("scheme", ["http://", ""])
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_the_password_of_a_proxy_must_not_end_its_host(name: str, scheme: str, password: str) -> None:
    """The clients would take the rest of it for a path, and show it in their errors."""
    with pytest.raises(SettingsError, match=f"^{name} has a /.* write %2F") as error:
        Settings.from_environment({name: f"{scheme}user:{password}@proxy.contoso.com:8080"})
    shows_none_of(error.value, "do-not-show")


@pytest.mark.parametrize("proxy", ["http://user:a%2Fb@proxy:8080/", "proxy:8080", "http://user:a@b@proxy:8080"])
def test_any_other_address_of_a_proxy_is_left_to_the_clients(proxy: str) -> None:
    Settings.from_environment({"HTTPS_PROXY": proxy})
