"""Random histories through `sync_once` over HTTP: whatever happens, one quiet tick later the catalog is right.

Run many with `make soak`. What fails shrinks, and prints a history that can be given to `play` as it is; the summary
of every run names its seeds, and SOAK_SEED draws from one of them again.
"""

import os
import random

import pytest
from hypothesis import given, note, seed, settings

from azure_port_sync_tests.support.histories import SETUPS, History, Setup, histories
from azure_port_sync_tests.support.station import Station
from azure_port_sync_tests.support.worlds import Tally, World

PROFILE = os.environ.get("HYPOTHESIS_PROFILE")
SOAKING = PROFILE == "soak"
HISTORIES = settings().max_examples if PROFILE in ("soak", "quick") else 100
#: Tests for each setup, so that all cores have work to the end.
SHARES = 20 if SOAKING else 2
#: The same histories in every run of the tests, so that red means a change; new ones in every soak.
SEED = os.environ.get("SOAK_SEED", "" if SOAKING else "1")


def play(station: Station, setup: Setup, history: History, tally: Tally | None = None) -> None:
    world = World(station, setup, tally=tally)
    try:
        world.play(history)
    finally:
        note("\n".join([str(history), *world.log]))
        world.close()


@pytest.mark.parametrize("share", range(SHARES))
@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.name)
def test_any_history_ends_with_the_right_catalog(
    station: Station, setup: Setup, share: int, request: pytest.FixtureRequest
) -> None:
    number = int(SEED) + share if SEED else random.SystemRandom().randrange(2**32)
    tally = Tally()

    @seed(number)
    @settings(max_examples=max(1, HISTORIES // (len(SETUPS) * SHARES)), print_blob=True)
    @given(histories(setup))
    def lives(history: History) -> None:
        play(station, setup, history, tally)

    try:
        lives()
    finally:
        request.node.user_properties.append(("soak", {"name": setup.name, "seed": number, **tally.as_json()}))
