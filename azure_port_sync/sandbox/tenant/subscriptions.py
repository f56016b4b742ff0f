"""The subscriptions of a tenant: the verbs that change them, and how much of each the principal can read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC

from azure_port_sync.sandbox.clock import SandboxClock
from azure_port_sync.sandbox.tenant.access import Access
from azure_port_sync.sandbox.tenant.records import Action, new_action, new_guid
from azure_port_sync.sandbox.tenant.rows import Row, RowMaker, Tags, TenantError, as_dynamic
from azure_port_sync.sandbox.tenant.timeline import Timeline
from azure_port_sync.sandbox.tenant.view import CONTAINERS, TenantView

TENANT_ID = "5a0c7e1d-3b52-4f0e-9d6a-8c41f27b9e10"


class Subscriptions(TenantView):
    """A tenant whose subscriptions can be changed."""

    def __init__(self, clock: SandboxClock, *, seed: int = 0) -> None:
        super().__init__()
        self.clock = clock
        self.tenant_id = TENANT_ID
        self.version = 0  # counts the changes of data and of access
        self._make = RowMaker(TENANT_ID)
        self._rng = random.Random(seed)  # noqa: S311  (believable, not secret)
        self._timeline = Timeline(self._store, self._make, self._rng)

    @contextmanager
    def _change(self) -> Iterator[Action]:
        """Make one change of the tenant, all or nothing."""
        with self._lock:
            access, twins = dict(self._access), dict(self._timeline.twins)
            try:
                with self._store.transaction():
                    yield new_action(self.clock.now().astimezone(UTC).replace(tzinfo=None), self._rng)
            except BaseException:
                self._access, self._timeline.twins = access, twins
                raise
            self.version += 1

    def add_subscription(
        self,
        name: str,
        tags: Tags = None,
        subscription_id: str | None = None,
        management_groups: Sequence[str] | None = None,
    ) -> str:
        """Add a subscription below these management groups (nearest first, the tenant's root always last)."""
        with self._change() as action:
            row = self._new_subscription(name, management_groups or (), action, tags, subscription_id)
            self._timeline.supersede(CONTAINERS, [row], action)
            self._timeline.record(CONTAINERS, [row], "Create", action)
            return str(row["subscriptionId"])

    def rename_subscription(self, subscription_id: str, name: str) -> None:
        """Give it another display name; the id stays."""
        with self._change() as action:
            self._timeline.update(CONTAINERS, f"/subscriptions/{subscription_id}", action, name=name)

    def retag_subscription(self, subscription_id: str, tags: Tags) -> None:
        """Give it these tags in place of those it had."""
        with self._change() as action:
            self._timeline.update(CONTAINERS, f"/subscriptions/{subscription_id}", action, tags=as_dynamic(tags))

    def move_subscription(self, subscription_id: str, management_groups: Sequence[str]) -> None:
        """Move it below these management groups (nearest first, the tenant's root always last)."""
        with self._change() as action:
            sub = self._subscription(subscription_id)
            chain = self._chain(management_groups, action)
            row = self._store.existing(CONTAINERS, f"/subscriptions/{subscription_id}")
            properties = {**row["properties"], "managementGroupAncestorsChain": self._make.ancestors(chain)}
            self._timeline.update(CONTAINERS, row["id"], action, properties=properties)
            self._access[sub] = replace(self._access[sub], management_groups=tuple(map(str.lower, chain)))

    def remove_subscription(self, subscription_id: str) -> None:
        """Delete it for good, with all in it and with its change records."""
        with self._change():
            sub = self._subscription(subscription_id)
            del self._access[sub]
            self._store.forget(sub)

    def lose_subscription(self, subscription_id: str) -> None:
        """Take the principal's role away: neither rows nor change records can be read."""
        self._grant(subscription_id, readable=False, only_group=None)

    def regain_subscription(self, subscription_id: str) -> None:
        """Let the principal read the whole subscription (again)."""
        self._grant(subscription_id, readable=True, only_group=None)

    def limit_subscription_to_group(self, subscription_id: str, group_id: str) -> None:
        """Make the principal Reader on one group only: the subscription's own row is not readable."""
        self._grant(subscription_id, readable=True, only_group=group_id.lower())

    # -- what verbs have in common

    def _new_subscription(
        self,
        name: str,
        management_groups: Sequence[str],
        action: Action,
        tags: Tags = None,
        subscription_id: str | None = None,
    ) -> Row:
        """Return the row of a new subscription, which the principal can read from here on."""
        chain = self._chain(management_groups, action)
        subscription_id = subscription_id or new_guid(self._rng)
        if subscription_id.lower() in self._access:
            raise TenantError(f"subscription {subscription_id} exists already")
        self._access[subscription_id.lower()] = Access(tuple(map(str.lower, chain)))
        return self._make.subscription(subscription_id, name, chain, tags)

    def _chain(self, management_groups: Sequence[str], action: Action) -> tuple[str, ...]:
        """Return a chain of management groups up to the root; the new ones among them are shown from here on."""
        chain = (*management_groups, self.tenant_id)
        known = self.existing_management_groups(chain)
        new = [
            self._make.management_group(name, chain[number + 1 :])
            for number, name in enumerate(chain)
            if name.lower() not in known
        ]
        self._store.show(CONTAINERS, new, [action.at] * len(new))
        return chain

    def _subscription(self, subscription_id: str) -> str:
        sub = subscription_id.lower()
        if sub not in self._access:
            raise TenantError(f"there is no subscription {subscription_id}")
        return sub

    def _grant(self, subscription_id: str, *, readable: bool, only_group: str | None) -> None:
        with self._change():
            sub = self._subscription(subscription_id)
            if only_group is not None:
                self._store.existing(CONTAINERS, only_group)
            self._access[sub] = replace(self._access[sub], readable=readable, only_group=only_group)
