"""What the sync remembers between runs: one SQL database, SQLite or Postgres, reached only through `StateStore`."""

from azure_port_sync.state.store import Comparison, LedgerRebuild, StateStore

__all__ = ["Comparison", "LedgerRebuild", "StateStore"]
