"""The oracle of grace periods: what stays in the catalog although it cannot be read any more."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from azure_port_sync.sandbox.compare import Catalog
from azure_port_sync_tests.support.histories import GRACE_PERIOD, SUBSCRIPTIONS

_No, _Maybe, _Yes = range(3)
_SECOND = timedelta(seconds=1)  # Azure's `Date` has no fractions


@dataclass
class _Held:
    """An entity that is kept because it cannot be read any more: as it was told, and from when on it is missed.

    The miss was noted between `earliest` (a run read the snapshot) and `latest` (a run that did so ended in order);
    `perhaps` it is gone already, where one of the two would let it go and the other would not.
    """

    entity: dict[str, Any]
    earliest: datetime
    latest: datetime | None = None
    perhaps: bool = False


@dataclass
class _Watched:
    """What the oracle knows of one subscription."""

    own_row_read: int = _No  # by a run, since it was last let go
    missed: _Held | None = None  # the subscription itself, while it is not (wholly) shown
    held: dict[tuple[str, str], _Held] = field(default_factory=dict)
    readable: frozenset[str] = frozenset()  # identifiers of the groups that the last snapshot could show
    everything: bool = False
    back_unnoticed: bool = False  # it was shown again, but to a run that did not live to remember it

    def let_go(self) -> None:
        self.back_unnoticed |= self.missed is not None
        self.missed = None
        self.held.clear()


class Grace:
    """Which entities stay in the catalog although they cannot be read: worked out from what was granted and shown.

    Each run tells it of its snapshot and of its end. Where a death leaves open whether the product could know, both
    outcomes are right.
    """

    def __init__(self) -> None:
        self._watched = {guid: _Watched() for guid in SUBSCRIPTIONS.values()}
        self._snapshot_at: datetime | None = None
        self._own: frozenset[str] = frozenset()
        self._shown: frozenset[str] = frozenset()
        self._silent: frozenset[str] = frozenset()

    def run_begins(self) -> None:
        self._snapshot_at = None
        self._silent = frozenset()

    def snapshot(
        self,
        now: datetime,
        own: frozenset[str],
        shown: frozenset[str],
        left_out: frozenset[str],
        readable: Mapping[str, frozenset[str] | None],
        catalog: Catalog,
    ) -> None:
        """A run saw the rows of `own` subscriptions, and something of those `shown`.

        `left_out`: those that can be read, but lie outside of what the settings name; they are not lost.
        `readable`: the groups (identifiers) that can be read in each; None for all.
        """
        if not shown:
            return  # such a run ends without any effect
        self._snapshot_at = self._snapshot_at or now
        self._own, self._shown = own, shown
        for guid, watched in self._watched.items():
            groups = readable[guid]
            if guid in own:
                watched.own_row_read = max(watched.own_row_read, _Maybe)
                watched.let_go()
            elif guid in left_out:
                watched.own_row_read = _No
                watched.let_go()
            elif guid in shown and watched.own_row_read == _No:
                watched.let_go()  # only ever read through a group
            else:
                self._miss(watched, guid, now, groups, catalog, partly=guid in shown)
            watched.everything = groups is None
            watched.readable = groups or frozenset()

    def read(self, own: frozenset[str], shown: frozenset[str], *, whole: bool) -> None:
        """A run has read, and asks which still show what they showed: their `whole` row, or at least a group.

        Of the others, it may not have seen all.
        """
        self._silent |= (self._own - own) if whole else (self._shown - self._own - shown)

    def _miss(
        self,
        watched: _Watched,
        guid: str,
        now: datetime,
        groups: frozenset[str] | None,
        catalog: Catalog,
        *,
        partly: bool,
    ) -> None:
        first = watched.missed is None
        missed = watched.missed = watched.missed or _Held({}, now, perhaps=watched.back_unnoticed)
        for key, entity in _within(catalog, guid):
            group = _group_of(key[1])
            if group and (groups is None or group in groups):
                watched.held.pop(key, None)
            elif key in watched.held:
                if not group and not partly and watched.readable:
                    # Its groups had shown it until now: it is missed anew, and as it is in the catalog now.
                    watched.held[key].entity, watched.held[key].latest = entity, None
            elif (
                # What stands for a subscription is told with the first of its groups, and stays when that goes.
                first or watched.everything or group in watched.readable or (watched.readable and not group)
            ):
                doubtful = missed.perhaps or (partly and watched.own_row_read == _Maybe)
                watched.held[key] = _Held(entity, missed.earliest, perhaps=doubtful)

    def restored(self) -> None:
        """The product remembers what it did some time ago: each grace period may begin anew, or be over."""
        for watched in self._watched.values():
            watched.own_row_read = min(watched.own_row_read, _Maybe)
            watched.back_unnoticed = True
            for one in (watched.missed, *watched.held.values()):
                if one is not None:
                    one.latest, one.perhaps = None, True

    def run_ends(
        self, now: datetime, catalog: Catalog, *, in_order: bool, settled: bool, doubtful: bool = False
    ) -> None:
        """A run is over: `in_order` when it decided, `settled` when Port has taken all of it as well.

        `doubtful`: Azure may have told it that it cannot read what it can.
        """
        if self._snapshot_at is None:
            return
        for guid in self._silent:  # what was read of it before has been sent, and stays
            watched = self._watched[guid]
            for key, entity in _within(catalog, guid):
                if key in watched.held:
                    watched.held[key].entity = entity
            self._miss(watched, guid, self._snapshot_at, frozenset(), catalog, partly=False)
        for guid, watched in self._watched.items():
            watched.back_unnoticed |= doubtful  # what it may have missed was there, though it did not live to see that
            if watched.missed is not None and watched.readable:
                # Shown by its groups, and not sent before: with the name that it had, or with its id.
                for key, entity in _within(catalog, guid):
                    if not _group_of(key[1]) and key not in watched.held:
                        watched.held[key] = _Held(entity, watched.missed.earliest, perhaps=True)
            if in_order:
                self._note_order(guid, watched, now, doubtful=doubtful)
            gone = {key for key, one in watched.held.items() if self._is_over(one, now, settled=settled)}
            watched.held = {key: one for key, one in watched.held.items() if key not in gone}
            if watched.missed is not None and self._is_over(watched.missed, now, settled=settled):
                watched.own_row_read = _No
                watched.missed = None

    def _note_order(self, guid: str, watched: _Watched, now: datetime, *, doubtful: bool) -> None:
        """A run has decided, and so remembers what it saw."""
        if watched.missed is None:
            watched.back_unnoticed = doubtful
        if guid in self._own and not doubtful:
            watched.own_row_read = _Yes
        for one in (watched.missed, *watched.held.values()):
            if one is not None and one.latest is None:
                one.latest = now

    def _is_over(self, one: _Held, now: datetime, *, settled: bool) -> bool:
        assert self._snapshot_at is not None
        one.perhaps |= now >= one.earliest + GRACE_PERIOD - _SECOND
        return settled and one.latest is not None and self._snapshot_at >= one.latest + GRACE_PERIOD + _SECOND

    @property
    def holds(self) -> bool:
        """Whether anything is kept."""
        return any(watched.held for watched in self._watched.values())

    def applied(self, expected: Catalog, actual: Catalog, existing: Collection[str]) -> Catalog:
        """`expected`, with what must be kept, and what may be where it is.

        What is not among the identifiers `existing` may go at once: where the record of its deletion can be read.
        """
        result = {blueprint: dict(entities) for blueprint, entities in expected.items()}
        for watched in self._watched.values():
            for (blueprint, identifier), one in watched.held.items():
                must = identifier in existing and not one.perhaps
                if must or actual[blueprint].get(identifier) == one.entity:
                    result[blueprint][identifier] = one.entity
        return result


def _within(catalog: Catalog, guid: str) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    own = f"/subscriptions/{guid}"
    for blueprint, entities in catalog.items():
        for identifier, entity in entities.items():
            if identifier == own or identifier.startswith(f"{own}/"):
                yield (blueprint, identifier), entity


def _group_of(identifier: str) -> str:
    """The identifier of the group that an entity is, or lies in; nothing for a subscription."""
    parts = identifier.split("/")
    return "/".join(parts[:5]) if len(parts) > 3 else ""
