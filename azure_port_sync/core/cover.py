"""What a read covered: only within that does the absence of a row say anything about an entity."""

from dataclasses import dataclass

from azure_port_sync.core.kinds import Kind

#: A resource group: the lower-case id of its subscription, and its lower-case name.
Group = tuple[str, str]


@dataclass(frozen=True)
class Cover:
    """The entities of these kinds that lie in all that is named; None leaves a dimension unrestricted.

    `subscriptions` are lower-case ids, `groups` (subscription id, name) pairs in lower case.
    """

    kinds: frozenset[Kind]
    subscriptions: frozenset[str] | None = None
    groups: frozenset[Group] | None = None
