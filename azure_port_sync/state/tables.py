"""The tables of the state store. Everything belongs to one target: a (tenant, Port destination) pair."""

from datetime import UTC, datetime

import sqlalchemy as sa

#: Counted up when the meaning of a column changes; a target of an older version is filled anew by a full sync.
SCHEMA_VERSION = 3

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


_INSTANT = _Instant()


def _key(name: str, length: int = 64) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), primary_key=True)


target = sa.Table(
    "target",
    metadata,
    _key("target"),
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("watermark", _INSTANT),  # end of the last window whose every delivery is settled
    sa.Column("fingerprint", sa.String(64)),  # of the scope that filled the ledger
    sa.Column("generation", sa.Integer, nullable=False),  # how many runs have settled
    sa.Column("full_runs", sa.Integer, nullable=False, server_default="0"),  # how many of them were full
    sa.Column("lease_holder", sa.String(64)),  # the run that may deliver
    sa.Column("lease_expires", _INSTANT),
)

ledger = sa.Table(
    "ledger",
    metadata,
    _key("target"),
    _key("kind", 16),
    _key("identifier", 1024),
    sa.Column("azure_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("subscription_id", sa.String(64), nullable=False),
    sa.Column("resource_group", sa.Text, nullable=False),
    sa.Column("hash", sa.String(32)),  # of the last content sent; null while a first delete is on its way
    # "sending" until Port has answered, then "settled"; "found" in Port by a rebuild of the ledger
    sa.Column("state", sa.String(8), nullable=False),
    # Of a container: Port knows all that is in it once the target's generation has passed this one.
    sa.Column("complete_after", sa.Integer, nullable=False),
    sa.Column("told_at", _INSTANT, nullable=False),
    sa.Index("ledger_container", "target", "kind", "subscription_id", "resource_group"),
)

#: Entities with a change record and no row: asked for again in each run.
pending = sa.Table(
    "pending",
    metadata,
    _key("target"),
    _key("identifier", 1024),
    sa.Column("azure_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("change_type", sa.String(8), nullable=False),
    sa.Column("change_time", _INSTANT, nullable=False),
    sa.Column("since", _INSTANT, nullable=False),
)

#: Entities that a Delete record removed: Azure may go on showing their rows for long.
tombstone = sa.Table(
    "tombstone",
    metadata,
    _key("target"),
    _key("identifier", 1024),
    sa.Column("azure_id", sa.Text, nullable=False),  # lower-case
    sa.Column("deleted_at", _INSTANT, nullable=False),  # the instant of the Delete record
    sa.Column("since", _INSTANT, nullable=False),
)

#: Entities that Port does not take for what they are; by their own ids, because two may meet in one identifier.
quarantine = sa.Table(
    "quarantine",
    metadata,
    _key("target"),
    _key("entity", 32),  # a digest of kind and lower-case azure_id, which can be too long for an index
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("identifier", sa.Text, nullable=False),
    sa.Column("azure_id", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("operation", sa.String(8)),  # that was refused; null where another entity has the identifier
    sa.Column("hash", sa.String(32)),  # of the refused content
    sa.Column("payload", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("first_at", _INSTANT, nullable=False),
    sa.Column("last_at", _INSTANT, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
)

subscription_seen = sa.Table(
    "subscription_seen",
    metadata,
    _key("target"),
    _key("subscription_id"),
    sa.Column("whole", sa.Boolean, nullable=False, server_default=sa.true()),  # its own row is shown, not only groups
    sa.Column("missing_since", _INSTANT),  # the first run that missed it; null while it is shown
    sa.Column("read_by", sa.String(64)),  # the run that is reading it, or has read it last
    sa.Column("generation", sa.Integer),  # of the last settled run that read it; null before one has
)

#: The candidates of a run, for as long as they are compared with the ledger.
candidate = sa.Table(
    "candidate",
    sa.MetaData(),
    # The key is the index of the join. Identifiers alone may repeat: a space and an underscore meet in one.
    sa.Column("kind", sa.String(16), primary_key=True),
    sa.Column("identifier", sa.Text, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("equal_hash", sa.String(32)),  # the hash that makes it `unchanged`; null when it has to be decided
    sa.Column("azure_id", sa.Text, nullable=False),  # lower-case
    prefixes=["TEMPORARY"],
)
