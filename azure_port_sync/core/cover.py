"""The cover of a read: only within it does the absence of a row say anything about an entity."""

from typing import NamedTuple

from azure_port_sync.core.kinds import Kind

#: A resource group: the lower-case id of its subscription, and its lower-case name.
Group = tuple[str, str]


#: A subscription (id,), a resource group (id, name), or everything (), in lower case.
Place = tuple[()] | tuple[str] | Group


class Cover(NamedTuple):
    """The entities of these kinds that lie in any of these places."""

    kinds: frozenset[Kind]
    within: frozenset[Place] = frozenset({()})
