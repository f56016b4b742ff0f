"""The ledger: comparing with it, finding what is absent, and recording what was sent."""

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from azure_port_sync.core.cover import Cover
from azure_port_sync.core.decisions import LedgerEntry
from azure_port_sync.core.errors import StateError
from azure_port_sync.core.facts import Facts
from azure_port_sync.core.kinds import Kind
from azure_port_sync.core.rows import records
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.clocks import NOW
from azure_port_sync_tests.support.entities import (
    OTHER_SUB,
    SUB,
    Row,
    delete,
    frame,
    group,
    names,
    not_shown,
    resource,
    shown,
    subscription,
    upsert,
)
from azure_port_sync_tests.support.stores import claimed, comparison, deliver, plan_for, to_decide

_ALL = Cover(frozenset(Kind))
_RESOURCES = frozenset({Kind.RESOURCE})

# -- comparing -------------------------------------------------------------------------------------------------------


def test_what_port_holds_already_is_dropped(store: StateStore) -> None:
    deliver(store, upsert(resource("same")), upsert(resource("other"), "old"))
    rows = [shown(resource(name)) for name in ("same", "other", "new")]
    assert to_decide(store, *rows) == {"other": LedgerEntry("confirmed", "old"), "new": LedgerEntry()}


def test_force_drops_nothing(store: StateStore) -> None:
    deliver(store, upsert(resource("same")))
    assert to_decide(store, shown(resource("same")), force=True) == {"same": LedgerEntry("confirmed", "h")}


def test_what_is_being_sent_is_never_dropped(store: StateStore) -> None:
    """The acknowledgement was lost, so nobody knows which content Port holds."""
    deliver(store, upsert(resource("x")))
    store.delivery(claimed(store)).begin_sending([upsert(resource("x"), "new")])
    for content in ("h", "new"):
        assert to_decide(store, shown(resource("x"), content)) == {"x": LedgerEntry("sending", "h")}


def test_a_first_upsert_being_sent_is_known(store: StateStore) -> None:
    """Else a delete would not reach an entity whose acknowledgement was lost, and a ghost would stay."""
    store.delivery(claimed(store)).begin_sending([upsert(resource("x"))])
    assert to_decide(store, not_shown(resource("x"))) == {"x": LedgerEntry("sending", None)}


@pytest.mark.parametrize(
    "more", [{"in_scope": False}, {"present": False}, {"change_type": "Delete", "change_time": NOW}], ids=str
)
def test_an_equal_hash_hides_no_delete(store: StateStore, more: Row) -> None:
    """A row that left the scope has the content that was sent; it must be decided all the same."""
    deliver(store, upsert(resource("x")))
    assert to_decide(store, shown(resource("x"), **more)) == {"x": LedgerEntry("confirmed", "h")}


@pytest.mark.parametrize("change", ["Create", "Update"])
def test_a_record_does_not_make_equal_content_unequal(store: StateStore, change: str) -> None:
    deliver(store, upsert(resource("x")))
    assert to_decide(store, shown(resource("x"), change_type=change, change_time=NOW)) == {}


def test_kinds_are_apart(store: StateStore) -> None:
    deliver(store, upsert(resource("x")))
    disguised = {**shown(resource("x")), "kind": "resourceGroup"}
    assert to_decide(store, disguised) == {"x": LedgerEntry()}


def test_the_id_that_was_sent_comes_with_the_entry(store: StateStore) -> None:
    """A space and an underscore meet in one identifier; whose it is, decides."""
    deliver(store, upsert(resource("a b")))
    (entry,) = comparison(store, frame(shown(resource("a_b"), "another"))).known
    assert entry == LedgerEntry("confirmed", "h", None, resource("a b")["azure_id"])


def test_comparing_keeps_the_order_of_the_candidates(store: StateStore) -> None:
    rows = [shown(resource(f"x{n}")) for n in range(50)]
    deliver(store, *[upsert(resource(f"x{n}")) for n in range(0, 50, 3)])
    assert comparison(store, frame(*rows)).positions == [n for n in range(50) if n % 3]


def test_comparing_again_remembers_nothing_of_the_last_time(store: StateStore) -> None:
    assert to_decide(store, shown(resource("a")), shown(resource("b"))).keys() == {"a", "b"}
    assert to_decide(store, shown(resource("c"))).keys() == {"c"}
    assert to_decide(store) == {}


def test_thousands_of_rows(store: StateStore) -> None:
    """More than one statement may carry, on either database."""
    entities = [resource(f"x{n:05d}", f"G{n % 7}") for n in range(6_000)]
    deliver(store, *map(upsert, entities[:5_500]))
    observed = frame(*[shown(entity, "h" if n % 2 else "new") for n, entity in enumerate(entities)])
    found = comparison(store, observed)
    assert found.unchanged == 2_750
    assert [entry.state for entry in found.known].count(None) == 500
    assert store.ledger.known_among("t", observed) == 5_500
    assert len(store.ledger.absent("t", observed.iloc[:1_000], [_ALL])) == 4_500
    deliver(store, *map(delete, entities[:200]))
    assert store.targets.load("t").ledger_rows == 5_300


_WORD = st.sampled_from(["confirmed", "sending", "unknown"])
_SEEN = st.sampled_from(["same", "other", "out of scope", "absent", "delete"])


@given(st.lists(st.tuples(_WORD, _SEEN), min_size=1, max_size=12), st.booleans())
@settings(max_examples=15)
def test_only_what_is_confirmed_and_equal_and_in_scope_is_dropped(
    store: StateStore, cases: list[tuple[str, str]], force: bool
) -> None:
    """The join in SQL, against the rule in Python."""
    target = f"t-{os.urandom(6).hex()}"
    rows = []
    for n, (ledger, seen) in enumerate(cases):
        entity = resource(f"x{n}")
        if ledger == "confirmed":
            deliver(store, upsert(entity), target=target)
        elif ledger == "sending":
            store.delivery(claimed(store, target)).begin_sending([upsert(entity)])
        rows.append(
            {
                "same": shown(entity),
                "other": shown(entity, "new"),
                "out of scope": shown(entity, in_scope=False),
                "absent": not_shown(entity),
                "delete": shown(entity, change_type="Delete", change_time=NOW),
            }[seen]
        )
    dropped = {f"x{n}" for n, case in enumerate(cases) if case == ("confirmed", "same") and not force}
    assert to_decide(store, *rows, force=force, target=target).keys() == {row["name"] for row in rows} - dropped


# -- absence ---------------------------------------------------------------------------------------------------------


def test_absent_is_what_was_sent_and_not_observed(store: StateStore) -> None:
    deliver(store, *map(upsert, [resource("seen"), resource("unseen"), group("Web"), subscription()]))
    store.delivery(claimed(store)).begin_sending([upsert(resource("sending"))])
    observed = frame(shown(resource("seen")), shown(resource("new")))
    found = store.ledger.absent("t", observed, [Cover(_RESOURCES)])
    assert names(found) == {"unseen", "sending"}
    assert records(found[found["name"] == "unseen"])[0] == {**resource("unseen"), "kind": "resource"}
    everything = store.ledger.absent("t", observed, [_ALL])
    assert names(everything) == {"unseen", "sending", "Web", SUB}


def test_without_a_cover_nothing_is_absent(store: StateStore) -> None:
    deliver(store, upsert(resource("x")))
    empty = Cover(_RESOURCES, frozenset())
    for covers in ([], [empty], [Cover(frozenset())]):
        found = store.ledger.absent("t", frame(), covers)
        assert found.empty
        assert "azure_id" in found.columns


def test_what_was_observed_under_another_id_is_absent(store: StateStore) -> None:
    """A space and an underscore meet in one identifier, and only the second of the two is there."""
    deliver(store, upsert(resource("a b")))
    assert names(store.ledger.absent("t", frame(shown(resource("a_b"))), [_ALL])) == {"a b"}
    spelled_otherwise = {**resource("a b"), "azure_id": resource("a b")["azure_id"].upper()}
    assert store.ledger.absent("t", frame(shown(spelled_otherwise)), [_ALL]).empty


def test_of_what_was_imported_the_id_is_a_guess(store: StateStore) -> None:
    store.ledger.rebuild("t", frame(resource("a_b")))
    assert store.ledger.absent("t", frame(shown(resource("a b"))), [_ALL]).empty


_KIND_SETS = st.frozensets(st.sampled_from(list(Kind)))
_SUBSCRIPTIONS = st.sampled_from([SUB, OTHER_SUB, "another"])
_GROUP_NAMES = st.sampled_from(["web", "data", ""])
_PLACES = st.just(()) | st.tuples(_SUBSCRIPTIONS) | st.tuples(_SUBSCRIPTIONS, _GROUP_NAMES)
_COVERS = st.builds(Cover, _KIND_SETS, st.frozensets(_PLACES))
_ESTATE = [
    entity
    for id_ in (SUB, OTHER_SUB)
    for entity in (
        subscription(id_),
        *(group(name, id_) for name in ("Web", "Data")),
        *(resource(f"{name}{n}", name, id_) for name in ("Web", "Data") for n in range(2)),
        {**resource("outside", "-", id_), "resource_group": ""},
    )
]


def _covers(cover: Cover, entity: Row) -> bool:
    place = (entity["subscription_id"], entity["resource_group"])
    return entity["kind"] in cover.kinds and any(place[: len(one)] == one for one in cover.within)


@given(st.lists(_COVERS, max_size=4), st.sets(st.integers(0, len(_ESTATE) - 1)))
@settings(max_examples=25)
def test_absent_is_what_a_cover_names(store: StateStore, covers: list[Cover], seen: set[int]) -> None:
    """The join in SQL, against the rule in Python."""
    if store.targets.load("t").ledger_rows == 0:
        deliver(store, *map(upsert, _ESTATE))
    observed = frame(*[shown(_ESTATE[n]) for n in sorted(seen)])
    expected = {
        (entity["kind"], entity["identifier"])
        for n, entity in enumerate(_ESTATE)
        if n not in seen and any(_covers(cover, entity) for cover in covers)
    }
    found = store.ledger.absent("t", observed, covers)
    assert set(zip(found["kind"], found["identifier"], strict=True)) == expected
    assert len(found) == len(expected)


def test_covers_of_thousands(store: StateStore) -> None:
    """More than one statement may carry, on either database."""
    deliver(store, *[upsert(resource(f"x{n}", f"G{n}")) for n in range(20)], upsert(group("G1")))
    groups = Cover(frozenset(Kind), frozenset((SUB, f"g{n}") for n in range(1, 10_001)))
    assert len(store.ledger.absent("t", frame(), [groups])) == 20
    subscriptions = Cover(_RESOURCES, frozenset((id_,) for id_ in (SUB, *map(str, range(5_000)))))
    assert len(store.ledger.absent("t", frame(), [subscriptions, groups])) == 21


def test_known_among_counts_what_the_ledger_holds(store: StateStore) -> None:
    deliver(store, upsert(resource("x")), upsert(group("Web")))
    asked = frame(not_shown(resource("x")), not_shown(resource("y")), not_shown(group("Web")))
    assert store.ledger.known_among("t", asked) == 2
    assert store.ledger.known_among("t", frame({**not_shown(resource("x")), "kind": "resourceGroup"})) == 0
    assert store.ledger.known_among("t", frame()) == 0


def test_groups_with_resources(store: StateStore) -> None:
    outside = {**resource("b", "-"), "resource_group": ""}
    deliver(store, *map(upsert, [group("Empty"), resource("a"), resource("c"), outside]))
    assert sorted(store.ledger.groups_with_resources("t")) == [(SUB, ""), (SUB, "web")]


def test_counts_are_of_what_port_has_confirmed_once(store: StateStore) -> None:
    deliver(store, *map(upsert, [group("Web"), resource("a"), resource("b")]))
    store.delivery(claimed(store)).begin_sending([upsert(resource("c")), upsert(resource("a"), "new")])
    assert store.ledger.counts("t") == {Kind.RESOURCE_GROUP: 1, Kind.RESOURCE: 2}


# -- confirming ------------------------------------------------------------------------------------------------------


def test_confirmed_deletes_are_forgotten(store: StateStore) -> None:
    deliver(store, upsert(resource("x")), upsert(resource("y")))
    deliver(store, delete(resource("x")))
    assert to_decide(store, not_shown(resource("x")), not_shown(resource("y"))) == {
        "x": LedgerEntry(),
        "y": LedgerEntry("confirmed", "h"),
    }


def test_what_lay_in_a_deleted_container_is_known_until_it_is_deleted_itself(store: StateStore) -> None:
    """Port had never held the group, so nothing went with it, and the resource stayed there for good."""
    deliver(store, upsert(resource("c")))
    deliver(store, delete(group("Web")))
    assert to_decide(store, not_shown(resource("c"))) == {"c": LedgerEntry("confirmed", "h")}


def test_a_resource_takes_nothing_with_it(store: StateStore) -> None:
    deliver(store, *map(upsert, [resource("a"), resource("a/slots/b"), group("Web")]))
    deliver(store, delete(resource("a")))
    assert store.targets.load("t").ledger_rows == 2


def test_confirming_again_changes_nothing(store: StateStore) -> None:
    for _ in range(2):
        deliver(store, upsert(resource("x")), delete(resource("y")))
    assert store.targets.load("t").ledger_rows == 1


def test_the_ledger_takes_over_new_names_and_hashes(store: StateStore) -> None:
    deliver(store, upsert(resource("x")))
    renamed = {**resource("x"), "name": "Renamed", "azure_id": resource("X")["azure_id"]}
    deliver(store, upsert(renamed, "new"))
    (row,) = records(store.ledger.absent("t", frame(), [_ALL]))
    assert (row["name"], row["azure_id"]) == ("Renamed", renamed["azure_id"])
    assert to_decide(store, shown(renamed, "new")) == {}


# -- containers whose contents are due -------------------------------------------------------------------------------


def _due(store: StateStore) -> set[str]:
    containers = store.ledger.containers("t")
    return names(containers[containers["contents_due"]])


def test_containers_come_with_their_state(store: StateStore) -> None:
    deliver(store, *map(upsert, [subscription(), group("Web"), resource("x")]))
    store.delivery(claimed(store)).begin_sending([upsert(group("Web"))])
    states = {row["name"]: row["state"] for row in records(store.ledger.containers("t"))}
    assert states == {SUB: "confirmed", "Web": "sending"}
    assert (~store.ledger.containers("u")["contents_due"]).empty, "of no container, too, it is a mask"


def test_the_contents_of_a_new_container_are_due_until_its_run_settles(store: StateStore) -> None:
    """A group sent by a failed run still needs its resources inventoried."""
    deliver(store, *map(upsert, [group("Old"), resource("x")]))
    assert _due(store) == {"Old"}
    store.targets.finish(claimed(store))
    assert _due(store) == set()
    deliver(store, upsert(group("New")), upsert(group("Old"), "new"))
    assert _due(store) == {"New"}
    store.targets.finish(claimed(store))
    assert _due(store) == set()


@pytest.mark.parametrize("container", [group("Web"), subscription()], ids=["group", "subscription"])
def test_the_contents_of_a_container_that_may_be_deleted_are_due(store: StateStore, container: Row) -> None:
    """The run may die when Port has taken the delete, and Azure may show the container again."""
    rows = [subscription(), group("Web"), resource("x"), group("Other", OTHER_SUB)]
    deliver(store, *map(upsert, rows))
    store.targets.finish(claimed(store))
    store.delivery(claimed(store)).begin_deleting_containers([delete(container)])
    inside = {SUB, "Web"} if container["kind"] == "subscription" else {"Web"}
    assert _due(store) == inside
    assert to_decide(store, *map(shown, rows)).keys() == inside | {"x"}
    assert {entry.state for entry in to_decide(store, *map(shown, rows)).values()} == {"sending"}


def test_the_contents_that_a_run_leaves_due_are_read_by_one_that_is_planned_later(store: StateStore) -> None:
    """This run has read them before it deletes them, and so has another one that was planned at the same time."""
    deliver(store, *map(upsert, [group("Web"), group("Other")]))
    store.targets.finish(claimed(store))
    dead, planned_beside = plan_for(store, run="dead"), plan_for(store, run="beside")
    store.facts.record(dead, Facts(contents_due=[(SUB, "web")]))
    assert _due(store) == {"Web"}
    assert store.lease.claim(planned_beside) is None
    store.targets.finish(planned_beside)
    assert _due(store) == {"Web"}
    store.targets.finish(claimed(store))
    assert _due(store) == set()


def test_contents_due_are_of_one_target(store: StateStore) -> None:
    for target in ("t", "u"):
        deliver(store, upsert(group("Web")), target=target)
    store.targets.finish(claimed(store, "u"))
    assert _due(store) == {"Web"}
    store.targets.finish(claimed(store))
    store.facts.record(plan_for(store, "u"), Facts(contents_due=[(SUB, "web")]))
    store.delivery(claimed(store, "u")).begin_deleting_containers([delete(group("Web"))])
    assert _due(store) == set()


# -- rebuilding ------------------------------------------------------------------------------------------------------


def test_a_rebuild_makes_the_ledger_what_port_holds(store: StateStore) -> None:
    deliver(store, *[upsert(resource(name)) for name in ("kept", "lost")], upsert(group("Web")))
    store.targets.finish(claimed(store))
    before = plan_for(store)
    held = [resource("kept"), resource("added"), group("Web")]

    found = store.ledger.rebuild("t", frame(*[not_shown({**row, "name": "?"}) for row in held]))

    assert (found.in_port, found.missing, found.added) == (3, 1, 1)
    entries: dict[str, Any] = to_decide(store, *map(shown, [*held, resource("lost")]))
    assert {name: (entry.state, entry.hash) for name, entry in entries.items()} == {
        "kept": ("imported", "h"),
        "added": ("imported", None),
        "Web": ("imported", "h"),
        "lost": (None, None),
    }
    there = store.ledger.absent("t", frame(), [Cover(_RESOURCES)])
    assert names(there) == {"kept", "?"}  # what was known better stays
    assert store.targets.load("t").watermark is None
    with pytest.raises(StateError, match="planned before another run finished"):
        store.lease.claim(before)


def test_a_rebuild_of_one_target_leaves_the_others_alone(store: StateStore) -> None:
    deliver(store, upsert(resource("x")), target="u")
    deliver(store, upsert(resource("x")))
    store.ledger.rebuild("t", frame())
    assert store.targets.load("t").ledger_rows == 0
    assert to_decide(store, shown(resource("x")), target="u") == {}


def test_a_rebuild_of_a_target_that_is_not_known_yet(store: StateStore) -> None:
    """A first run with API credentials: without a generation of its own, it would not be full."""
    assert store.ledger.rebuild("t", frame(resource("x"))).added == 1
    state = store.targets.load("t")
    assert (state.generation, state.ledger_rows) == (1, 1)
