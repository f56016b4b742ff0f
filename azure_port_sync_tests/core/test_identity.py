"""The names of entities: one to one, legal in Port, and met by the guide's relations."""

import json
import re

import jq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.identity import (
    MAX_IDENTIFIER_LENGTH,
    azure_id_of,
    containers_of,
    escape,
    illegal_identifiers,
    port_identifier,
    target_name,
)
from azure_port_sync.port.jq_dialect import Program, embed

#: Port's own regular expression for an entity's identifier, run by an engine that knows ``\p{L}``.
_LEGAL = jq.compile(r'test("^(?!\\.{1,2}$)[\\p{L}0-9@_.+:\\\\/=-]+$")')

#: Text in which collisions are likely: the escape character, its digits, what needs escaping, and letters of all kinds.
_TRICKY = st.text(alphabet="=0123456789abcdefABCDEF ()_%~é߀ı中😀", max_size=12)
_ANY = st.one_of(_TRICKY, st.text(max_size=40))


def _legal_in_port(identifier: str) -> bool:
    return bool(_LEGAL.input_value(identifier).first())


def _unescaped(text: str) -> str:
    """The inverse of `escape`, written apart from it."""
    return re.sub(
        r"(?:=[0-9a-f]{2})+", lambda found: bytes.fromhex(found[0].replace("=", "")).decode(errors="strict"), text
    )


@given(_ANY)
def test_escape_can_be_undone(text: str) -> None:
    """Two ids can never meet in one identifier if the id can be read back out of it."""
    assert _unescaped(escape(text)) == text.lower()


@given(_ANY)
def test_port_identifier_gives_up_nothing_but_the_space(text: str) -> None:
    assert _unescaped(port_identifier(escape(text))) == text.lower().replace(" ", "_")


@given(_TRICKY, _TRICKY)
def test_two_ids_share_an_identifier_only_when_case_or_space_is_the_difference(one: str, other: str) -> None:
    same = one.lower().replace(" ", "_") == other.lower().replace(" ", "_")
    assert (port_identifier(escape(one)) == port_identifier(escape(other))) == same


@given(_ANY)
def test_identifier_is_legal_in_port(text: str) -> None:
    """Every built-in `Failure Anomalies - x (y)` was refused when only spaces were replaced."""
    identifier = port_identifier(escape(f"/subscriptions/a/{text}"))
    assert _legal_in_port(identifier)
    assert illegal_identifiers([identifier]) == []


#: Letters that are newer than Python's tables are escaped, which is legal whatever Port's own tables say.
_KNOWN = st.text(alphabet=st.characters(exclude_categories=["Cs", "Cn"]), min_size=1, max_size=8)


@given(_KNOWN.filter(lambda text: text not in {".", ".."}))
def test_check_of_identifiers_agrees_with_ports_regular_expression(text: str) -> None:
    assert (illegal_identifiers([text]) == []) == (_legal_in_port(text) and not text.endswith("\n"))


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("/subscriptions/A/resourceGroups/Web", "/subscriptions/a/resourcegroups/web"),
        ("rg (old)", "rg =28old=29"),
        ("a=b", "a=3db"),
        ("größe", "größe"),
        ("中文", "中文"),
        ("100%", "100=25"),
        ("€", "=e2=82=ac"),
        ("a\nb", "a=0ab"),
        ("x@_.+:\\/-9", "x@_.+:\\/-9"),
        ("", ""),
    ],
)
def test_escape_examples(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_identifiers_too_long_for_port_are_named() -> None:
    fits, too_long = "x" * MAX_IDENTIFIER_LENGTH, "x" * (MAX_IDENTIFIER_LENGTH + 1)
    assert illegal_identifiers([fits, too_long]) == [too_long]


_SEGMENT = st.text(alphabet=st.characters(exclude_characters="/\n", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(_SEGMENT, _SEGMENT, st.sampled_from(["resourceGroups", "resourcegroups", "RESOURCEGROUPS"]))
def test_containers_are_read_whatever_the_casing(subscription: str, group: str, word: str) -> None:
    inside = f"/subscriptions/{subscription}/{word}/{group}/providers/Microsoft.Web/sites/x"
    assert containers_of(inside) == (subscription.lower(), group.lower())


@pytest.mark.parametrize(
    ("azure_id", "containers"),
    [
        ("/subscriptions/A1", ("a1", "")),
        ("/Subscriptions/A1/resourceGroups/Rg", ("a1", "rg")),
        ("/subscriptions/a1/providers/Microsoft.Security/pricings/x", ("a1", "")),
        ("/subscriptions/a1/resourceGroups/rg/providers/p/t/n/resourceGroups/no", ("a1", "rg")),
        ("/providers/Microsoft.Management/managementGroups/root", ("", "")),
        ("", ("", "")),
    ],
)
def test_containers_examples(azure_id: str, containers: tuple[str, str]) -> None:
    assert containers_of(azure_id) == containers


def _identifier(azure_id: str) -> str:
    return port_identifier(escape(azure_id))


_NAME = st.one_of(_TRICKY, _SEGMENT).filter(lambda name: name != "" and "/" not in name)


@given(st.lists(_NAME, min_size=1, max_size=4))
def test_an_azure_id_is_read_back_from_its_identifier(segments: list[str]) -> None:
    azure_id = "/subscriptions/" + "/".join(segment.replace(" ", "_") for segment in segments)
    assert azure_id_of(_identifier(azure_id), None) == azure_id.lower()


@given(st.lists(_NAME, max_size=3), _NAME)
def test_the_title_gives_the_last_segment_its_spelling(segments: list[str], name: str) -> None:
    """A delete, or a question to Azure, by an id with `_` for each space would be about another resource."""
    parent = "/".join(["/subscriptions/a", *(segment.lower().replace(" ", "_") for segment in segments)])
    assert azure_id_of(_identifier(f"{parent}/{name}"), name) == f"{parent}/{name}"


@given(_NAME, _NAME)
def test_a_title_that_is_not_the_name_changes_nothing(name: str, title: str) -> None:
    identifier = _identifier(f"/subscriptions/a/{name}")
    if title.lower().replace(" ", "_") != name.lower().replace(" ", "_"):
        assert azure_id_of(identifier, title) == azure_id_of(identifier, None)


_BY_HAND = st.text(alphabet="/=0123456789abcdefABCDEF _-(ßİıé\ud800", max_size=20)


@given(st.one_of(_BY_HAND, _BY_HAND.map("/{}".format), st.text()), st.one_of(st.none(), _BY_HAND, st.text()))
def test_every_identifier_is_led_back_to_or_left_alone(identifier: str, title: str | None) -> None:
    """Whatever a person called an entity in Port: reading it never fails, and never makes it another entity."""
    azure_id = azure_id_of(identifier, title)
    assert azure_id == identifier or _identifier(azure_id) == identifier


@pytest.mark.parametrize(
    ("identifier", "title", "azure_id"),
    [
        ("/subscriptions/a/x/failure_anomalies_-_web", "Failure Anomalies - web", "Failure Anomalies - web"),
        ("/subscriptions/a/x/my_app", "My_App", "My_App"),
        ("/subscriptions/a/x/my_app", "Our App", "my_app"),
        ("/subscriptions/a/x/my_app", "", "my_app"),
        ("/subscriptions/a/x/my_app", None, "my_app"),
        ("/subscriptions/a/x/=e2=82=ac_5", "€ 5", "€ 5"),
    ],
)
def test_names_read_back(identifier: str, title: str | None, azure_id: str) -> None:
    assert azure_id_of(identifier, title) == f"/subscriptions/a/x/{azure_id}"


@pytest.mark.parametrize(
    "identifier",
    [
        "My-Thing",
        "my_thing",
        "rg=28old=29",
        "/Subscriptions/a",
        "/a/=2",
        "/a/=",
        "/a/=zz",
        "/a/=ff",
        "/a/=c3=28",
        "/a/=20",
        "/a/=2F",
        "/a/=41",
        "/a/=c4=b0",
        "",
    ],
)
def test_identifiers_that_were_never_made_from_an_azure_id_stay(identifier: str) -> None:
    assert azure_id_of(identifier, identifier.replace("_", " ").upper()) == identifier


#: The relation of a resource to its group, word for word from the guide.
_RELATION = (
    "'/subscriptions/' + .body.data.subscriptionId + '/resourcegroups/' + .body.data.resourceGroup | gsub(\" \";\"_\")"
)


@given(_SEGMENT)
def test_guides_relation_text_equals_the_groups_identifier(group: str) -> None:
    """A group with parentheses was refused by Port, or its resources pointed to a group that does not exist."""
    subscription = "0B1F6471-1BF0-4DDA-AEC3-CB9272F09590"
    group_id = f"/subscriptions/{subscription}/resourceGroups/{group}"
    subscription_id, resource_group = containers_of(f"{group_id}/providers/Microsoft.Web/sites/x")
    data = {"subscriptionId": subscription_id, "resourceGroup": escape(resource_group)}
    assert Program(embed(_RELATION)).first(json.dumps({"body": {"data": data}})) == port_identifier(escape(group_id))


def test_targets_are_apart() -> None:
    names = {target_name(*pair) for pair in [("t", "https://a/k"), ("t", "https://a/j"), ("u", "https://a/k")]}
    assert len(names) == 3
    assert target_name("T", "https://a/k") == target_name("t", "https://a/k")
    assert not any("https" in name or "/k" in name for name in names)
