"""The scope: which subscriptions, resource types and resource groups belong into the catalog.

Tag filters do what the guide promises: `include` needs every pair, `exclude` refuses on any, keys and values are
compared without regard to case and whole, and a group without an included tag is out. They select resource groups
and what lies in them, never subscriptions.
"""

import hashlib
import json
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


@dataclass(frozen=True)
class Scope:
    """The part of the tenant to read. Ids and types are lower-case; an empty tuple means "no restriction"."""

    subscription_ids: tuple[str, ...] = ()
    excluded_subscription_ids: tuple[str, ...] = ()
    management_groups: tuple[str, ...] = ()
    resource_types: tuple[str, ...] = ()
    include_tags: tuple[tuple[str, str], ...] = ()
    exclude_tags: tuple[tuple[str, str], ...] = ()
    extra_columns: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        *,
        subscription_ids: Iterable[str] = (),
        excluded_subscription_ids: Iterable[str] = (),
        management_groups: Iterable[str] = (),
        resource_types: Iterable[str] = (),
        include_tags: Mapping[str, str] | None = None,
        exclude_tags: Mapping[str, str] | None = None,
        extra_columns: Iterable[str] = (),
    ) -> "Scope":
        """Build a scope in its one normal form, so that the order and casing of settings do not matter."""
        return cls(
            subscription_ids=_normal(subscription_ids),
            excluded_subscription_ids=_normal(excluded_subscription_ids),
            management_groups=tuple(sorted(set(management_groups))),
            resource_types=_normal(resource_types),
            include_tags=_normal_tags(include_tags),
            exclude_tags=_normal_tags(exclude_tags),
            extra_columns=tuple(sorted(set(extra_columns))),
        )

    def leaves_out(self, subscription_id: str) -> bool:
        """Whether the lists of subscriptions leave this one (a lower-case id) out."""
        unnamed = bool(self.subscription_ids) and subscription_id not in self.subscription_ids
        return unnamed or subscription_id in self.excluded_subscription_ids

    @property
    def fingerprint(self) -> str:
        """A short name for this scope; another one means that the ledger was filled under other settings."""
        text = json.dumps(vars(self), sort_keys=True, ensure_ascii=False)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _normal(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({value.lower() for value in values}))


def _normal_tags(tags: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({(_lower(key), _lower(value)) for key, value in (tags or {}).items()}))


def _lower(text: str) -> str:
    """Lower case, as far as everybody agrees about it: beyond ASCII, the comparison is Azure's."""
    return text.translate(_ASCII_LOWER)
