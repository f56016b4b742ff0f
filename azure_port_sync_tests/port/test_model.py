"""The data model that `port_setup` brings into Port: it makes of our events what the guide's makes, also in batches."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import jq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_port_sync.core.entities import canonical, delete_data, identity, observed_row
from azure_port_sync.core.kinds import RESOURCE_GROUP_TYPE, SUBSCRIPTION_TYPE, Kind
from azure_port_sync.port import model
from azure_port_sync.port.blueprints import blueprints_of, packaged_blueprints
from azure_port_sync.port.events import event_body
from azure_port_sync.port.mapping import MappedEntity, WebhookMapping
from azure_port_sync.sandbox.shapes import check_blueprint, check_webhook

GUIDE = files("azure_port_sync.sandbox") / "guide"
GUIDES = WebhookMapping(json.loads((GUIDE / "webhook_mapping.json").read_text(encoding="utf-8")))
OURS = WebhookMapping(model.webhook()["mappings"])
SUBSCRIPTION = "/subscriptions/0B1F6471-1bf0-4dda-aec3-cb9272f09590"

# Azure's names have no control characters; quotes, backslashes, braces and other scripts must all come through.
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12) | st.sampled_from(
    ["Failure Anomalies - x", "a'b", 'a"b', "\\(.body)", "rg (old)", "naïve名", "a_b", "  ", "null", "$ENV.PATH"]
)
NAMES = TEXTS.map(lambda text: text.replace("/", "-"))
TAGS = st.none() | st.dictionaries(TEXTS, TEXTS, max_size=3)


def _event_body(azure_id: str, resource_type: str, name: str, tags: Any, operation: str, location: str | None) -> str:
    columns = identity(azure_id, resource_type, name)
    if operation == "delete":
        data = canonical(delete_data(columns))
    else:
        row = {"id": azure_id, "type": resource_type, "name": name, "location": location, "tags": tags}
        data = observed_row({**row, "rgTags": tags, "inScope": True})["data"]
    return event_body(operation, columns["kind"], data).decode()


@st.composite
def _events(draw: st.DrawFn) -> str:
    """An event of any kind and operation."""
    group = f"{SUBSCRIPTION}/resourceGroups/{draw(NAMES)}"
    ids = {
        SUBSCRIPTION: SUBSCRIPTION_TYPE,
        group: RESOURCE_GROUP_TYPE,
        f"{group}/providers/Microsoft.Web/sites/{draw(NAMES)}": "Microsoft.Web/sites",
    }
    azure_id, resource_type = draw(st.sampled_from(list(ids.items())))
    operation = draw(st.sampled_from(["upsert", "delete"]))
    return _event_body(azure_id, resource_type.lower(), draw(NAMES), draw(TAGS), operation, draw(st.none() | TEXTS))


@given(_events())
def test_of_a_single_event_our_mapping_makes_what_the_guides_makes(body: str) -> None:
    of_ours = OURS.entities(body)
    assert len(of_ours) == 1
    assert of_ours == GUIDES.entities(body)


@given(st.lists(_events(), min_size=1, max_size=6))
def test_of_a_batch_our_mapping_makes_what_the_guides_makes_of_its_events(events: list[str]) -> None:
    of_batch = OURS.entities(f'{{"items": [{", ".join(events)}]}}')
    one_by_one = [entity for body in events for entity in GUIDES.entities(body)]
    assert _sorted(of_batch) == _sorted(one_by_one)


def _sorted(entities: list[MappedEntity]) -> list[str]:
    return sorted(json.dumps(entity, sort_keys=True) for entity in entities)


def test_of_a_batch_the_guides_mapping_makes_nothing() -> None:
    """Port answers 202 all the same; this is why a batch may not go to it."""
    body = _event_body(SUBSCRIPTION, SUBSCRIPTION_TYPE, "S", None, "upsert", None)
    assert GUIDES.entities(body)
    assert GUIDES.entities(f'{{"items": [{body}]}}') == []


def test_a_resource_of_no_group_has_no_relation_to_one() -> None:
    """The guide's mapping makes one to `/resourcegroups/`, which never exists, and Port's API would refuse that."""
    body = _event_body(f"{SUBSCRIPTION}/providers/Microsoft.X/y/z", "microsoft.x/y", "z", None, "upsert", None)
    (entity,) = OURS.entities(body)
    assert entity.document["relations"] == {"resourceGroup": None}


# -- its jq ----------------------------------------------------------------------------------------------------------

#: All of jq that the mapping uses; each is in jq 1.6, 1.7 and 1.8 and means the same in all of them.
ALLOWED = {"split", "join", "and", "if", "then", "else", "end", "null"}


def _expressions(mapping: dict[str, Any]) -> Iterator[str]:
    entity = mapping["entity"]
    yield from (mapping["filter"], mapping["itemsToParse"], entity["identifier"])
    yield from (entity[name] for name in ("title",) if name in entity)
    for part in ("properties", "relations"):
        yield from entity.get(part, {}).values()


@pytest.mark.parametrize(
    "expression", sorted({one for mapping in model.webhook()["mappings"] for one in _expressions(mapping)})
)
def test_every_expression_is_plain_jq_of_any_version(expression: str) -> None:
    """Port's own rule for single quotes breaks many expressions, and it has run jq 1.6 as well as 1.7."""
    assert "'" not in expression
    jq.compile(expression)
    without_texts = re.sub(r'"[^"]*"', '""', expression)
    words = set(re.findall(r"(?<![.\w$])[a-z_]\w*", without_texts))
    assert words <= ALLOWED
    assert "$" not in without_texts
    assert re.fullmatch(r"[\w\s.|()\[\];=+/\"]*", without_texts)


# -- blueprints ------------------------------------------------------------------------------------------------------


def _renamed(name: str) -> list[dict[str, Any]]:
    return [{**mapping, "blueprint": name + mapping["blueprint"]} for mapping in model.webhook()["mappings"]]


def test_the_blueprint_of_each_kind_is_that_of_the_mapping() -> None:
    names = [blueprint["identifier"] for blueprint in model.blueprints()]
    assert dict(packaged_blueprints()) == blueprints_of(GUIDES) == dict(zip(Kind, names, strict=True))
    assert blueprints_of(WebhookMapping(_renamed("my_"))) == {
        kind: f"my_{packaged_blueprints()[kind]}" for kind in Kind
    }


def test_a_kind_that_a_mapping_drops_or_only_deletes_has_no_blueprint() -> None:
    mappings = [
        mapping
        for mapping in model.webhook()["mappings"]
        if mapping["operation"] == "delete" or mapping["blueprint"] != packaged_blueprints()[Kind.SUBSCRIPTION]
    ]
    assert blueprints_of(WebhookMapping(mappings)).keys() == {Kind.RESOURCE_GROUP, Kind.RESOURCE}


def test_only_what_an_upsert_creates_is_the_blueprint_of_a_kind() -> None:
    """A person may also clear away with an upsert, or keep a record of what was deleted."""
    own = [
        {"operation": operation, "blueprint": "own", "filter": f'.body.operation == "{event}"', "entity": entity}
        for operation, event in (("delete", "upsert"), ("create", "delete"))
        for entity in [{"identifier": ".body.data.resourceId"}]
    ]
    assert blueprints_of(WebhookMapping([*model.webhook()["mappings"], *own])) == packaged_blueprints()


# -- the files -------------------------------------------------------------------------------------------------------


def test_the_files_lie_in_the_package_and_fit_ports_specification() -> None:
    folder = files("azure_port_sync.port.model")
    for name in ("blueprints.json", "webhook.json"):
        assert json.loads((folder / name).read_text(encoding="utf-8"))
    for blueprint in model.blueprints():
        check_blueprint(blueprint)
    check_webhook(model.webhook())
    assert "secret" not in model.webhook()["security"]  # the one in the file is for whoever pastes it


def test_each_blueprint_comes_after_those_that_its_relations_lead_to() -> None:
    seen: set[str] = set()
    for blueprint in model.blueprints():
        assert {relation["target"] for relation in blueprint["relations"].values()} <= seen
        seen.add(blueprint["identifier"])


def test_the_blueprints_are_those_of_the_guide() -> None:
    guides = json.loads((GUIDE / "blueprints.json").read_text(encoding="utf-8"))

    def shape(blueprints: list[dict[str, Any]]) -> dict[str, Any]:
        return {one["identifier"]: (one["schema"], one["relations"]) for one in blueprints}

    assert shape(model.blueprints()) == shape(guides)


def test_what_is_read_can_be_changed_without_changing_the_model() -> None:
    model.blueprints().clear()
    model.webhook()["identifier"] = "another"
    assert len(model.blueprints()) == 3
    assert model.webhook()["identifier"] == "azure_port_sync"
