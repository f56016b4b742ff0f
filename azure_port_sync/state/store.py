"""The state store: one database, and the parts of it that a run uses."""

from azure_port_sync.core.clock import Clock
from azure_port_sync.core.plan import Plan
from azure_port_sync.state.database import WAITS, Database, Waits
from azure_port_sync.state.delivery import DeliveryLedger
from azure_port_sync.state.facts import FactStore
from azure_port_sync.state.lease import Lease
from azure_port_sync.state.ledger import Ledger
from azure_port_sync.state.migrations import migrate
from azure_port_sync.state.targets import Targets


class StateStore:
    """One database, any number of targets. Safe to share between threads.

    Every verb raises StateError when the database cannot be reached or written.
    """

    def __init__(self, url: str, clock: Clock, waits: Waits = WAITS) -> None:
        """Open the database at a SQLAlchemy `url`, and migrate it where it is older than this version."""
        self._database = Database(url, clock, waits)
        try:
            migrate(self._database)
        except BaseException:
            self._database.close()
            raise
        self.targets = Targets(self._database)
        self.lease = Lease(self._database)
        self.facts = FactStore(self._database)
        self.ledger = Ledger(self._database)

    def delivery(self, plan: Plan) -> DeliveryLedger:
        """Return the ledger of the plan's target, for the run that has claimed it to write to."""
        return DeliveryLedger(self._database, self.lease, self.facts, plan)

    def close(self) -> None:
        self._database.close()
