"""Churn: what comes and goes while a client reads, exactly as often as a test orders."""

import itertools
import json
import random
from datetime import UTC, datetime, timedelta

import pytest

from azure_port_sync.sandbox.churn import MAX_AT_ONCE, Churn
from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.kql import QueryEngine
from azure_port_sync.sandbox.tenant import Scope, Tenant

START = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


class World:
    """A tenant of 60 resources in 3 groups, and its churn."""

    def __init__(self) -> None:
        self.clock = SandboxClock()
        self.clock.set(START)
        self.tenant = Tenant(self.clock)
        self.tenant.grow(60, groups=3, subscriptions=1)
        self.churn = Churn(self.tenant, self.clock, random.Random(1))  # noqa: S311

    def ids(self) -> set[str]:
        return {row["id"] for row in self.tenant.resources()}

    def changes(self, *, after: float = 0) -> int:
        self.clock.advance(timedelta(seconds=after))
        before = self.tenant.version
        self.churn.happen()
        return self.tenant.version - before


@pytest.fixture
def world() -> World:
    return World()


def test_nothing_happens_before_the_start_and_after_the_stop(world: World) -> None:
    assert world.changes(after=60) == 0
    world.churn.start()
    assert [world.changes(), world.changes()] == [1, 1]
    world.churn.stop()
    assert world.changes(after=60) == 0
    assert world.churn.changes == 2


def test_changes_follow_the_clock(world: World) -> None:
    world.churn.start(seconds=0.5)
    assert [world.changes(after=seconds) for seconds in (0, 0.4, 0.1, 0.6, 0.4, 10)] == [0, 0, 1, 1, 1, 20]
    assert world.changes(after=86_400) == MAX_AT_ONCE
    assert world.changes() == 0


def test_resources_are_created_and_deleted(world: World) -> None:
    before = world.ids()
    world.churn.start()
    for _ in range(40):
        world.churn.happen()
    assert 5 < len(before - world.ids()) < 35
    assert 5 < len(world.ids() - before) < 35


def test_it_goes_on_where_somebody_else_deletes_too(world: World) -> None:
    world.churn.start()
    for group in {row["id"].partition("/providers/")[0] for row in world.tenant.resources()}:
        world.tenant.delete_group(group)
    for _ in range(40):
        world.churn.happen()
    assert world.ids() == set()


def test_a_test_may_bring_its_own_change(world: World) -> None:
    numbers = itertools.count()
    world.churn.start(change=lambda: next(numbers))
    assert [world.changes(), world.changes()] == [0, 0]
    assert next(numbers) == 2


@pytest.mark.parametrize("parts", [1, 7])
def test_parts_give_every_row_that_is_there_throughout_once(world: World, parts: int) -> None:
    """Whatever comes and goes between their requests."""
    engine, always = QueryEngine(world.tenant, world.clock), world.ids()
    world.churn.start()
    seen: list[str] = []
    for number in range(parts):
        query = f"resources | where hash(tolower(id)) % {parts} == {number} | project id | order by id asc"
        seen += [json.loads(row)["id"] for row in engine.run(query, Scope()).rows]
        world.churn.happen()
        always &= world.ids()
    assert len(seen) == len(set(seen))
    assert always <= set(seen)
