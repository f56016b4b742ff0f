"""The tables of the state store, as they are after the last migration; `migrations` creates them.

All belong to a target: a (tenant, Port destination) pair. Their names share a prefix, so that nobody else's table in
the same database is ever taken for one of them.
"""

from datetime import UTC, datetime

import sqlalchemy as sa

PREFIX = "azure_port_sync_"

metadata = sa.MetaData()


class _Instant(sa.types.TypeDecorator[datetime]):
    """An aware instant in UTC; SQLite keeps no time zone, so it is stored without one."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        utc = value.astimezone(UTC)
        return datetime.combine(utc.date(), utc.time())  # drivers do not all take pandas' subclass

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


INSTANT = _Instant()


def _table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    return sa.Table(f"{PREFIX}{name}", metadata, _key("target"), *columns)


def _entity_table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    """Return a table of entities by the identity that they have in Port: the columns IDENTITY, then these."""
    identity = (
        _key("kind", 16),
        sa.Column("identifier", sa.Text, primary_key=True),
        sa.Column("azure_id", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("subscription_id", sa.String(64), nullable=False),
        sa.Column("resource_group", sa.Text, nullable=False),
    )
    return _table(name, *identity, *columns)


def _key(name: str, length: int = 64) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), primary_key=True)


target = _table(
    "target",
    sa.Column("watermark", INSTANT),  # end of the last window of which everything is delivered
    sa.Column("fingerprint", sa.String(64)),  # of the scope that filled the ledger
    sa.Column("generation", sa.Integer, nullable=False),  # how many runs have moved the watermark
    sa.Column("full_runs", sa.Integer, nullable=False),  # how many of them were full
    sa.Column("needs_full_run", sa.Boolean, nullable=False),  # a migration asks for one
    sa.Column("lease_holder", sa.String(64)),  # the run that may deliver
    sa.Column("lease_expires", INSTANT),  # by the database's clock
)

#: The columns of the ledger that say which entity a row is of, and where it lies.
IDENTITY = ("kind", "identifier", "azure_id", "type", "name", "subscription_id", "resource_group")

#: The entities that Port holds, or may hold.
ledger = _entity_table(
    "ledger",
    sa.Column("hash", sa.String(32)),  # of the content that Port confirmed last; null before the first
    sa.Column("state", sa.String(16), nullable=False),  # sending, confirmed or imported (`core.decisions.LedgerEntry`)
    # Of a container whose contents the next run has to read whole, else null: until a run finishes that was planned in
    # this generation of the target, or in a later one.
    sa.Column("contents_due_until", sa.Integer),
    sa.Column("sent_at", INSTANT, nullable=False),
    # Serves containers and what lies in them. The kind stands last, so that no planner without statistics takes this
    # index for the one of (target, kind, identifier).
    sa.Index(f"{PREFIX}ledger_place", "target", "subscription_id", "resource_group", "kind"),
)

#: Entities that wait for their row in Azure, or for their parent: asked for again by each run.
pending = _table(
    "pending",
    sa.Column("identifier", sa.Text, primary_key=True),
    sa.Column("azure_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("since", INSTANT, nullable=False),
)

#: Entities that a Delete record removed: Azure may go on showing their rows for long.
tombstone = _table(
    "tombstone",
    sa.Column("identifier", sa.Text, primary_key=True),
    sa.Column("azure_id", sa.Text, nullable=False),  # lower-case
    sa.Column("deleted_at", INSTANT, nullable=False),  # the instant of the Delete record
    sa.Column("since", INSTANT, nullable=False),
)

#: Entities whose deletes the guard holds, as the last run that would move the watermark found them.
held_delete = _entity_table(
    "held_delete",
    sa.Column("present", sa.Boolean, nullable=False),  # Azure shows it, and the settings no longer select it
    sa.Column("since", INSTANT, nullable=False),
)

#: Entities whose operation could not be delivered (`core.quarantine`); by their own ids, because two may meet in one
#: identifier.
quarantine = _table(
    "quarantine",
    _key("entity", 32),  # a digest of kind and lower-case azure_id, which can be too long for an index
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("identifier", sa.Text, nullable=False),
    sa.Column("azure_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("cause", sa.String(16), nullable=False),  # a `core.quarantine.Cause`
    sa.Column("operation", sa.String(16), nullable=False),  # that is not sent again by itself
    sa.Column("hash", sa.String(32)),  # of the content of an upsert; null for a delete
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("first_at", INSTANT, nullable=False),
    sa.Column("last_at", INSTANT, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),  # runs in a row that have sent it and met this cause
    sa.Column("sink", sa.String(32), nullable=False),  # `Plan.sink` of the last of them
)

subscription = _table(
    "subscription",
    _key("subscription_id"),
    sa.Column("whole", sa.Boolean, nullable=False),  # its own row is shown, not only some of its groups
    sa.Column("missing_since", INSTANT),  # the first run that missed it; null while it is shown
    sa.Column("read_by", sa.String(64)),  # the run that is reading it, or has read it last
    sa.Column("settled", sa.Boolean, nullable=False),  # the last run that moved the watermark has read it
)

#: Migrations that this store has been through. Its layout never changes, because every version reads it.
migration = sa.Table(
    f"{PREFIX}migration",
    sa.MetaData(),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("applied_at", INSTANT, nullable=False),
)


def _temporary(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    """A table that one transaction sees: a connection pooler may give the next one to somebody else."""
    return sa.Table(f"{PREFIX}{name}", sa.MetaData(), *columns, prefixes=["TEMPORARY"], postgresql_on_commit="DROP")


#: Entities that are compared with the ledger. Identifiers may repeat: a space and an underscore meet in one.
candidate = _temporary(
    "candidate",
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("identifier", sa.Text, nullable=False),
    sa.Column("azure_id", sa.Text, nullable=False),  # lower-case
    sa.Column("equal_hash", sa.String(32)),  # the hash that makes it unchanged; null where it has to be decided
)

#: Parts of the ledger that a read has covered: of a kind, as far as `named` columns of its place say (0: all of them).
cover = _temporary(
    "cover",
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("named", sa.Integer, nullable=False),
    sa.Column("subscription_id", sa.String(64), nullable=False),
    sa.Column("resource_group", sa.Text, nullable=False),
)
