"""The memory between runs: one SQL database, SQLite or Postgres, reached only through `StateStore`."""

from azure_port_sync.state.delivery import DeliveryLedger
from azure_port_sync.state.ledger import Comparison, LedgerRebuild
from azure_port_sync.state.store import StateStore

__all__ = ["Comparison", "DeliveryLedger", "LedgerRebuild", "StateStore"]
