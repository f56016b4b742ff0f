"""Reading Azure: a run is an ordered list of observers, one list for each mode.

An observer looks at what was observed before it, reads, and hands over rows with what the read covered. Nothing is
decided here and nothing is written; what the store remembers of earlier runs is handed in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import NamedTuple

import pandas as pd

from azure_port_sync.core.candidates import candidates
from azure_port_sync.core.cover import Cover, Group
from azure_port_sync.core.decisions import DELETE_RECORD
from azure_port_sync.core.entities import identity
from azure_port_sync.core.identity import group_id_of
from azure_port_sync.core.kinds import CONTAINERS, KINDS, Kind
from azure_port_sync.core.plan import Plan
from azure_port_sync.core.quarantine import tried_again
from azure_port_sync.core.request import Mode
from azure_port_sync.core.rows import (
    OBSERVATION,
    concat,
    frame_of,
    lowered,
    records,
    subscriptions_of,
    tuples,
)
from azure_port_sync.core.windows import Window
from azure_port_sync.engine.containers import Containers
from azure_port_sync.resource_graph import AzureReader, ReadResult
from azure_port_sync.state import StateStore

#: How long an entity may wait for its row, or for its parent, before it is taken as it is.
PENDING_FOR = timedelta(hours=24)

#: The columns that say in which resource group an entity lies.
GROUP_KEY = KINDS[Kind.RESOURCE_GROUP].key

_LEAVES = frozenset(KINDS) - frozenset(CONTAINERS)


class Read(NamedTuple):
    """One read of a run: its purpose, its result, and the covers within which absence means something."""

    label: str
    result: ReadResult
    covers: tuple[Cover, ...] = ()


@dataclass(frozen=True)
class Remembered:
    """The findings of earlier runs that this one looks at again; frames as the store gives them."""

    pending: pd.DataFrame
    held: pd.DataFrame
    put_aside: pd.DataFrame
    tombstones: pd.DataFrame


@dataclass
class Survey:
    """A run's view of Azure while it grows: where it may look, what it remembers, and every read so far."""

    reader: AzureReader
    store: StateStore
    plan: Plan
    containers: Containers
    remembered: Remembered
    now: datetime
    reads: list[Read] = field(default_factory=list)
    _candidates: pd.DataFrame | None = None

    def observe(self) -> None:
        """Run the observers of the plan's mode, each on what those before it have read.

        Azure silently leaves out what may not be read: a subscription that was lost meanwhile, whole or but for a
        group, looks like one that is empty. So all are asked for once more at the end; one that was refused to any read
        may answer again by then, and its rows are missing all the same.
        """
        for observer in STRATEGIES[self.plan.mode]:
            for read in observer(self):
                self.reads.append(read)
                if len(read.result.frame):
                    self._candidates = None
        asked = set(self.subscriptions)
        whole, partly = asked & self.containers.whole, asked - self.containers.whole
        silent = whole - self.reader.readable(whole, whole=True)
        silent |= partly - self.reader.readable(partly)
        silent |= asked & {one for read in self.reads for one in read.result.refused}
        found = self.candidates
        deleted = found[(found["kind"] == Kind.SUBSCRIPTION) & (found["change_type"] == DELETE_RECORD)]
        subscriptions = self.containers.subscriptions.without(deleted["subscription_id"], silent, self.now)
        self.containers = replace(self.containers, subscriptions=subscriptions)

    @property
    def candidates(self) -> pd.DataFrame:
        """All observations reduced to one row an entity; worked out again only when something was added."""
        if self._candidates is None:
            self._candidates = candidates(concat([read.result.frame for read in self.reads], OBSERVATION))
        return self._candidates

    def take_candidates(self) -> pd.DataFrame:
        """Return the candidates and let go of everything that was read: a tenant may have a million rows."""
        found = self.candidates
        self._candidates = None
        self.reads.clear()
        return found

    @property
    def subscriptions(self) -> list[str]:
        """The subscriptions that the run reads."""
        shown = subscriptions_of(self.containers.frame)
        only = self.plan.request.only.subscriptions
        return sorted(shown.intersection(only) if only else shown)

    def in_grace(self, frame: pd.DataFrame) -> pd.Series:
        """Return which of these rows lie in a subscription in its grace period, and not in a group that is shown.

        A role that shrinks from a subscription to one of its groups leaves that group as readable as before.
        """
        subscriptions = self.containers.subscriptions
        lost = frame["subscription_id"].isin(list(subscriptions.in_grace))
        if not lost.any():
            return lost
        groups = self.containers.frame
        groups = groups[groups["kind"] == Kind.RESOURCE_GROUP]
        shown = pairs(groups[~groups["subscription_id"].isin(list(subscriptions.silent))])
        return lost & ~pd.Series([pair in shown for pair in tuples(frame, GROUP_KEY)], index=frame.index)

    def groups_in_scope(self) -> pd.DataFrame:
        """The resource groups of the snapshot that are in scope."""
        frame = self.containers.frame
        return frame[(frame["kind"] == Kind.RESOURCE_GROUP) & frame["in_scope"]]


Observer = Callable[[Survey], Iterator[Read]]


# -- containers -------------------------------------------------------------------------------------------------------


def _snapshot(survey: Survey) -> Iterator[Read]:
    """The snapshot covers all containers, and what the ledger has in groups that are gone or out of scope."""
    containers = survey.containers
    covers = [Cover(frozenset(CONTAINERS))]
    if survey.plan.mode is not Mode.FULL:  # which covers every resource anyway
        snapshot = containers.frame
        emptied = set(survey.store.ledger.groups_with_resources(survey.plan.target))
        emptied -= pairs(snapshot[snapshot["in_scope"]])
        covers.append(Cover(_LEAVES, frozenset(emptied)))
    # The numbers of this read belong to the asset that made it.
    yield Read("snapshot", ReadResult(containers.frame), tuple(covers))


def _new_containers(survey: Survey) -> Iterator[Read]:
    """The resources of containers whose contents no settled run has read: no change record need exist for them."""
    reader, new = survey.reader, survey.containers.subscriptions.new
    if new:
        yield Read("inventory of new subscriptions", reader.inventory(sorted(new)), (_cover_of(new),))
    known = survey.containers.known
    complete = known[~known["contents_due"]]
    groups = survey.groups_in_scope()
    due = groups[~groups["identifier"].isin(complete["identifier"]) & ~groups["subscription_id"].isin(list(new))]
    if len(due):
        yield Read("inventory of new resource groups", _inventory_of(due, reader), (_cover_of(pairs(due)),))


def _parents(survey: Survey) -> Iterator[Read]:
    """The groups of resources that were read after the snapshot, or that it does not show yet: asked for by id."""
    found = survey.candidates
    found = found[found["present"]]
    shown = pairs(found[found["kind"] == Kind.RESOURCE_GROUP])
    to_send = found[(found["kind"] == Kind.RESOURCE) & found["in_scope"]]
    one_each = tuples(to_send.drop_duplicates(GROUP_KEY), [*GROUP_KEY, "azure_id"])
    late = sorted(group_id_of(id_) for *pair, id_ in one_each if pair[1] and tuple(pair) not in shown)
    if not late:
        return
    groups = survey.reader.containers(late)
    yield Read("resource groups read late", groups)
    new = groups.frame[groups.frame["in_scope"]]
    if len(new):  # such a group may have come with resources that no change record names
        yield Read("inventory of groups read late", _inventory_of(new, survey.reader), (_cover_of(pairs(new)),))


def _inventory_of(groups: pd.DataFrame, reader: AzureReader) -> ReadResult:
    """The resources in these groups, which are asked for in Azure's own spelling: Kusto folds other letters than we."""
    names = [azure_id.rpartition("/")[2] for azure_id in groups["azure_id"]]
    return reader.inventory_of_groups(sorted(zip(groups["subscription_id"], names, strict=True)))


def _cover_of(containers: Iterable[str] | Iterable[Group]) -> Cover:
    """Every resource in these subscriptions, or in these groups."""
    return Cover(_LEAVES, frozenset((one,) if isinstance(one, str) else one for one in containers))


# -- resources --------------------------------------------------------------------------------------------------------


def _inventory(survey: Survey) -> Iterator[Read]:
    """Everything in scope."""
    yield Read("inventory", survey.reader.inventory(survey.subscriptions), (Cover(_LEAVES),))


def _selection(survey: Survey) -> Iterator[Read]:
    """The part that a person named, whole."""
    only, reader = survey.plan.request.only, survey.reader
    types = set(only.resource_types) - {KINDS[kind].arm_type for kind in CONTAINERS}
    if only.resource_types and not types:
        return  # containers alone
    if types:
        reader = reader.of_types(types)
    if only.resource_groups:
        groups = survey.groups_in_scope()
        groups = groups[groups["subscription_id"].isin(survey.subscriptions)]
        result = _inventory_of(groups[groups["resource_group"].isin(only.resource_groups)], reader)
    else:
        result = reader.inventory(survey.subscriptions)
    # Wider than what was read; `_absent` keeps to the selection.
    yield Read("inventory of the selection", result, (_cover_of(survey.subscriptions),))


def _changes(survey: Survey) -> Iterator[Read]:
    """The change records of the window."""
    yield Read(CHANGES, survey.reader.changes(survey.plan.window, survey.subscriptions))


#: The label of the read whose rows are the change records of the window.
CHANGES = "change records"


def _container_changes(survey: Survey) -> Iterator[Read]:
    """The change records of containers that are not shown: a Delete record is the evidence that absence is not."""
    result = survey.reader.container_changes(survey.plan.window)
    is_shown = result.frame["identifier"].isin(survey.containers.frame["identifier"])
    yield Read("container change records", replace(result, frame=result.frame[~is_shown]))


def _later_changes(survey: Survey) -> Iterator[Read]:
    """The records since then of resources whose past record says nothing of a row: it may have been overtaken."""
    found = survey.candidates
    found = found[found["change_type"].notna()]
    in_doubt = found[~found["present"] | (found["change_type"] == DELETE_RECORD)]
    if len(in_doubt):
        since = Window(survey.plan.window.start, survey.now)
        yield Read("later change records", survey.reader.changes_of(in_doubt["azure_id"], since))


def _pending(survey: Survey) -> Iterator[Read]:
    """The rows of entities that an earlier run found to have none yet, or whose parent was missing."""
    if len(survey.remembered.pending):
        yield Read("pending resources", by_id(survey.reader, identities(survey.remembered.pending)))


def _held(survey: Survey) -> Iterator[Read]:
    """The rows of entities whose deletes the guard has held: they may be back, or be fewer than it holds."""
    if len(survey.remembered.held):
        yield Read("held deletes", by_id(survey.reader, survey.remembered.held))


def _quarantined(survey: Survey) -> Iterator[Read]:
    """The entities that were put aside and could be sent now: no change record need name them any more."""
    again = survey.remembered.put_aside
    again = again[tried_again(again, survey.plan)]
    if len(again):
        yield Read("entities that were put aside", by_id(survey.reader, identities(again)))


def _tombstoned(survey: Survey) -> Iterator[Read]:
    """The records, wherever they lie, of rows for which a Delete record is known and no newer one was read.

    Azure may go on showing a row after its deletion, or it has come back while nothing read its records.
    """
    tombstones = survey.remembered.tombstones
    if tombstones.empty:
        return
    found = survey.candidates
    without_record = found[found["present"] & found["change_type"].isna()]
    in_doubt = without_record[without_record["identifier"].isin(tombstones["identifier"])]
    if len(in_doubt):
        since = tombstones.loc[tombstones["identifier"].isin(in_doubt["identifier"]), "deleted_at"].min()
        window = Window(since.to_pydatetime() - timedelta(seconds=1), survey.now)
        yield Read("records of deleted resources", survey.reader.changes_of(in_doubt["azure_id"], window))


# -- absence ----------------------------------------------------------------------------------------------------------


def _absent(survey: Survey) -> Iterator[Read]:
    """The ledger's entities that a read should have shown and did not: each is asked for by id, once.

    Of a subscription in its grace period nothing is deleted for being absent, so there is nothing to confirm.
    """
    covers = [cover for read in survey.reads for cover in read.covers]
    absent = survey.store.ledger.absent(survey.plan.target, survey.candidates, covers)
    absent = absent[survey.plan.request.only.covers(absent)]
    if absent.empty:
        return
    in_grace = survey.in_grace(absent)
    yield Read("known entities that were not seen", by_id(survey.reader, absent[~in_grace]))
    yield Read("entities in their grace period", _nothing_shown(absent[in_grace]))


def by_id(reader: AzureReader, entities: pd.DataFrame) -> ReadResult:
    """The current rows of these entities (identity columns); one that Azure does not show is observed as absent."""
    is_container = entities["kind"].isin(CONTAINERS)
    found = [
        read(part["azure_id"].tolist())
        for part, read in ((entities[is_container], reader.containers), (entities[~is_container], reader.resources))
        if len(part)
    ]
    shown = {key.lower() for result in found for key in result.frame["azure_id"]}
    missing = entities[~lowered(entities["azure_id"]).isin(shown)]
    return ReadResult.sum([*found, _nothing_shown(missing)])


def _nothing_shown(entities: pd.DataFrame) -> ReadResult:
    """The observation that Azure shows no row of these entities."""
    return ReadResult(frame_of(records(entities.assign(present=False, in_scope=False)), OBSERVATION))


def identities(remembered: pd.DataFrame) -> pd.DataFrame:
    """The identity columns of entities of which the store has kept `azure_id` and `type`."""
    rows = tuples(remembered, ["azure_id", "type"])
    return frame_of([identity(azure_id, arm_type, None) for azure_id, arm_type in rows], OBSERVATION)


def pairs(frame: pd.DataFrame) -> set[Group]:
    """Return the (subscription id, resource group) pairs of these rows."""
    return set(tuples(frame, GROUP_KEY))


#: The observers of each mode, in their order. The snapshot comes first, because what is read must lie in a container
#: that was shown. Change records come after rows, so that a row which a record brings is the newer one. Parents come
#: when all resources have been read, absence when everything has, because only what nothing has shown is absent.
STRATEGIES: Mapping[Mode, Sequence[Observer]] = {
    Mode.INCREMENTAL: (
        _snapshot,
        _new_containers,
        _pending,
        _held,
        _quarantined,
        _changes,
        _container_changes,
        _parents,
        _tombstoned,
        _absent,
    ),
    Mode.FULL: (_snapshot, _inventory, _pending, _changes, _container_changes, _parents, _tombstoned, _absent),
    Mode.PARTIAL: (_snapshot, _selection, _parents, _tombstoned, _absent),
    Mode.BACKFILL: (_snapshot, _changes, _later_changes, _parents, _tombstoned, _absent),
}
