"""Random histories through `sync_once` over HTTP: whatever happens, one quiet tick later the catalog is right.

Run many with `make soak`. What fails prints the history that it shrank to, ready to be pasted into `replay`.
"""

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, note, seed, settings

from azure_port_sync.port import delivery
from azure_port_sync.sync import guards
from azure_port_sync_tests.worlds import SETUPS, History, Setup, Station, Tally, World, histories

#: How many in all, and what they are drawn from: the seed of a run is in its summary.
HISTORIES = int(os.environ.get("SOAK_HISTORIES", "100"))
SEED = os.environ.get("SOAK_SEED")


@pytest.fixture(scope="session")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    made = Station(tmp_path_factory.mktemp("soak"))
    yield made
    made.close()


def play(station: Station, setup: Setup, history: History, tally: Tally | None = None) -> None:
    world = World(station, setup, tally)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(delivery, "_SENT_TOGETHER", 3)
            patched.setattr(guards, "FLOOR", history.floor)
            world.play(history)
    finally:
        note("\n".join([str(history), *world.log]))
        world.close()


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_any_history_ends_with_the_right_catalog(
    station: Station, setup: Setup, request: pytest.FixtureRequest
) -> None:
    number = int(SEED) if SEED else random.SystemRandom().randrange(2**32)
    tally = Tally()

    @seed(number)
    @settings(max_examples=max(1, HISTORIES // len(SETUPS)), print_blob=True)
    @given(histories(setup))
    def lives(history: History) -> None:
        play(station, setup, history, tally)

    try:
        lives()
    finally:
        request.node.user_properties.append(("soak", {"name": setup.name, "seed": number, **tally.as_json()}))
