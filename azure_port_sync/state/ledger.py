"""The ledger: what Port holds of each target, or may hold, because it was sent.

All comparisons with it are joins in SQL over entities that are staged in a temporary table, so that a million of them
never become a million Python objects. The run that delivers writes to it by `delivery`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from azure_port_sync.core.cover import Cover, Group
from azure_port_sync.core.decisions import CONFIRMED, DELETE_RECORD, IMPORTED, LedgerEntry
from azure_port_sync.core.kinds import CONTAINERS, KINDS, Kind
from azure_port_sync.state import tables as t
from azure_port_sync.state.database import CHUNK, Database, Row, candidate_rows
from azure_port_sync.state.facts import is_fresh_tombstone
from azure_port_sync.state.targets import ensure_target

#: Columns of `candidate` that are indexed where the ledger is read first.
_CANDIDATE_KEY = ("kind", "identifier")

#: The columns that say where an entity lies, from the top of the hierarchy down.
_PLACE = max((row.key for row in KINDS.values()), key=len)

_IDENTITY_COLUMNS = [t.ledger.c[name] for name in t.IDENTITY]

_ENTRIES = pa.schema(
    [
        ("position", pa.int64()),
        ("state", pa.string()),
        ("hash", pa.string()),
        ("tombstone", pa.timestamp("us", tz="UTC")),
        ("azure_id", pa.string()),
    ]
)


@dataclass(frozen=True)
class Comparison:
    """The ledger's entries of the candidates that have to be decided, and the number of the other candidates.

    An Arrow table, because a million entries as Python objects take half as much memory again.
    """

    entries: pa.Table
    unchanged: int

    @property
    def positions(self) -> list[int]:
        """The positions of these candidates among all."""
        positions: list[int] = self.entries["position"].to_pylist()
        return positions

    @property
    def known(self) -> Iterator[LedgerEntry]:
        """The entry of each, in their order; a few thousand at a time are Python objects."""
        for batch in self.entries.to_batches():
            yield from map(LedgerEntry._make, zip(*(column.to_pylist() for column in batch.columns[1:]), strict=True))


@dataclass(frozen=True)
class LedgerRebuild:
    """Numbers of a rebuild: entities in Port, those of the ledger that were missing in Port, and those added to it."""

    in_port: int
    missing: int
    added: int


class Ledger:
    """The ledgers of a store's targets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- reading ----------------------------------------------------------------------------------------------------

    def containers(self, target: str) -> pd.DataFrame:
        """Return the containers: identity columns, `state` and `contents_due` (the next run reads them whole)."""
        ledger = t.ledger.c
        due = ledger.contents_due_until.is_not(None).label("contents_due")
        query = sa.select(*_IDENTITY_COLUMNS, ledger.state, due)
        frame = self._database.frame(query.where(ledger.target == target, ledger.kind.in_(CONTAINERS)))
        return frame.astype({"contents_due": bool})

    def groups_with_resources(self, target: str) -> list[Group]:
        """Return the groups in which there is a resource; of one that lies in none, the name is empty."""
        ledger = t.ledger.c
        query = sa.select(ledger.subscription_id, ledger.resource_group).distinct()
        with self._database.read() as connection:
            found = connection.execute(query.where(ledger.target == target, ledger.kind == Kind.RESOURCE))
            return [(row.subscription_id, row.resource_group) for row in found]

    def counts(self, target: str) -> dict[Kind, int]:
        """Return how many entities of each kind Port has confirmed once."""
        ledger = t.ledger.c
        query = sa.select(ledger.kind, sa.func.count()).where(ledger.target == target, ledger.hash.is_not(None))
        with self._database.read() as connection:
            return {Kind(kind): number for kind, number in connection.execute(query.group_by(ledger.kind))}

    def known_among(self, target: str, entities: pd.DataFrame) -> int:
        """Return how many of these the ledger holds."""
        is_known = sa.exists().where(_is_candidate(target))
        known = sa.select(t.candidate.c.kind, t.candidate.c.identifier).distinct().where(is_known)
        staged = candidate_rows(entities)
        with self._database.read() as connection, self._database.staged(connection, t.candidate, staged):
            return connection.scalar(sa.select(sa.func.count()).select_from(known.subquery())) or 0

    # -- comparing --------------------------------------------------------------------------------------------------

    def compare(self, target: str, candidates: pd.DataFrame, *, resend: pd.Series) -> Comparison:
        """Join the candidates with the ledger and drop those that Port holds already.

        `candidates` has the columns of OBSERVATION, one row per entity. Those that the mask `resend` names are not
        dropped.
        """
        c, ledger, tombstone = t.candidate.c, t.ledger.c, t.tombstone.c
        is_unchanged = sa.and_(ledger.state == CONFIRMED, ledger.hash == c.equal_hash)
        tombstoned = sa.and_(
            tombstone.target == target,
            tombstone.identifier == c.identifier,
            tombstone.azure_id == c.azure_id,  # another id may meet this one in the identifier
            is_fresh_tombstone(self._database),
        )
        query = (
            sa.select(c.position, ledger.state, ledger.hash, tombstone.deleted_at, ledger.azure_id)
            .select_from(t.candidate)
            .outerjoin(t.ledger, _is_candidate(target))
            .outerjoin(t.tombstone, tombstoned)
            .where(sa.or_(is_unchanged.is_(None), sa.not_(is_unchanged)))
            .order_by(c.position)
        )
        may_be_equal = candidates["present"] & candidates["in_scope"] & ~resend
        may_be_equal &= (candidates["change_type"] != DELETE_RECORD).fillna(True)
        hashes = candidates["hash"].where(may_be_equal, None)
        staged = candidate_rows(candidates, hashes)
        with self._database.read() as connection, self._database.staged(connection, t.candidate, staged):
            found = connection.execute(query, execution_options={"yield_per": CHUNK}).partitions()
            batches = [pa.RecordBatch.from_arrays(list(zip(*rows, strict=True)), schema=_ENTRIES) for rows in found]
        entries = pa.Table.from_batches(batches, _ENTRIES)
        return Comparison(entries, unchanged=len(candidates) - len(entries))

    def absent(self, target: str, observed: pd.DataFrame, covers: Sequence[Cover]) -> pd.DataFrame:
        """Return the entities within any of the covers that are not among the observed: identity columns.

        One whose id has letters beyond ASCII may be among them in another casing all the same.
        """
        c, ledger = t.candidate.c, t.ledger.c
        is_observed = sa.and_(
            _is_candidate(target),
            # Another id may meet this one in the identifier; of what was only found in Port, the id is a guess.
            sa.or_(ledger.state == IMPORTED, c.azure_id == sa.func.lower(ledger.azure_id)),
        )
        parts = set(_parts(covers))
        queries = [
            sa.select(*_IDENTITY_COLUMNS)
            .select_from(t.cover)
            .join(t.ledger, _lies_within(target, named))
            .outerjoin(t.candidate, is_observed)
            .where(c.position.is_(None))
            for named in sorted({part[1] for part in parts})
        ]
        if not queries:
            return pd.DataFrame(columns=list(t.IDENTITY))
        with (
            self._database.read() as connection,
            self._database.staged(connection, t.candidate, candidate_rows(observed), index=_CANDIDATE_KEY),
            self._database.staged(connection, t.cover, parts),
        ):
            # UNION drops what lies in several covers.
            return pd.DataFrame(connection.execute(sa.union(*queries)).all(), columns=list(t.IDENTITY))

    def rebuild(self, target: str, imported: pd.DataFrame) -> LedgerRebuild:
        """Make the ledger what Port really holds; the next run has to be full, and sends all of it again.

        `imported` has the identity columns. What the ledger knew of an entity beyond its existence is kept. All of it
        is one transaction, and a run that was planned before is refused from then on. Nothing stays in quarantine.
        """
        now, of_target = self._database.clock.now(), t.ledger.c.target == target
        is_there = sa.exists().where(_is_candidate(target))
        rows = zip(*(imported[name] for name in t.IDENTITY), strict=True)
        entries = ((target, *row, IMPORTED, now) for row in rows)
        names = ("target", *t.IDENTITY, "state", "sent_at")
        with self._database.write() as connection:
            with self._database.staged(connection, t.candidate, candidate_rows(imported), index=_CANDIDATE_KEY):
                missing = connection.execute(sa.delete(t.ledger).where(of_target, ~is_there)).rowcount
            kept = connection.scalar(sa.select(sa.func.count()).where(of_target)) or 0
            self._database.upsert(connection, t.ledger, names, entries, update=("state", "sent_at"))
            ensure_target(self._database, connection, target)
            is_it = t.target.c.target == target
            values = {"watermark": None, "generation": t.target.c.generation + 1}
            connection.execute(sa.update(t.target).where(is_it).values(values))
            of_subscriptions = t.subscription.c.target == target
            connection.execute(sa.update(t.subscription).where(of_subscriptions).values(settled=False))
            connection.execute(sa.delete(t.quarantine).where(t.quarantine.c.target == target))
        return LedgerRebuild(in_port=len(imported), missing=missing, added=len(imported) - kept)


def _is_candidate(target: str) -> sa.ColumnElement[bool]:
    c, ledger = t.candidate.c, t.ledger.c
    return sa.and_(ledger.target == target, ledger.kind == c.kind, ledger.identifier == c.identifier)


def _lies_within(target: str, named: int) -> sa.ColumnElement[bool]:
    """All that is in a part of which so many columns of the place are named."""
    ledger, cover = t.ledger.c, t.cover.c
    place = (ledger[name] == cover[name] for name in _PLACE[:named])
    return sa.and_(cover.named == named, ledger.target == target, ledger.kind == cover.kind, *place)


def _parts(covers: Iterable[Cover]) -> Iterator[Row]:
    """Rows of the table `cover`."""
    for cover in covers:
        for kind, place in product(cover.kinds, cover.within):
            yield (kind, len(place), *place, *[""] * (len(_PLACE) - len(place)))
