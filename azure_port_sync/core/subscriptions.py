"""The subscriptions of a run: those shown, those new to us, and those that have vanished and may still come back.

A subscription vanishes when it is deleted, but also when a role assignment lapses for an hour, and Azure shows no
difference. So what vanished keeps its entities for a day, counted from the first run that missed it.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

#: How long a subscription that vanished keeps its entities.
GRACE = timedelta(hours=24)


class SubscriptionState(NamedTuple):
    """The memory of a subscription.

    `whole`: its own row was shown, so that the identity may read all of it; a Reader on a group sees only the group.
    `inventoried`: the last run that moved the watermark has read it. `missing_since`: the first run that missed it;
    None while it is shown.
    """

    whole: bool
    inventoried: bool
    missing_since: datetime | None = None


@dataclass(frozen=True)
class Subscriptions:
    """The subscriptions of a run. All ids are lower-case.

    `seen` is to be remembered; `new` are shown now and have to be inventoried, because no settled run has read them
    whole; `in_grace` have vanished, or are shown no longer whole, each with the instant until which absence in them
    deletes nothing. `silent` are those of `in_grace` that were shown when the run began, and not when it had read.
    """

    seen: dict[str, SubscriptionState]
    new: frozenset[str]
    in_grace: dict[str, datetime]
    silent: frozenset[str] = frozenset()

    @property
    def read(self) -> frozenset[str]:
        """Return the subscriptions whose contents are known in full once the run has delivered everything."""
        return frozenset(
            id_ for id_, seen in self.seen.items() if seen.missing_since is None and id_ not in self.in_grace
        )

    def without(self, deleted: Iterable[str], silent: Collection[str], now: datetime) -> "Subscriptions":
        """Return the same, after the run has read more.

        Those that Azure has a Delete record of are forgotten. Others have stopped answering meanwhile: what was read of
        them may not be whole, so they get grace, and are inventoried when they are back.
        """
        gone = set(deleted)
        lost = {id_: self.seen[id_]._replace(inventoried=False, missing_since=now) for id_ in silent}
        seen = {id_: state for id_, state in (self.seen | lost).items() if id_ not in gone}
        grace = dict.fromkeys(silent, now + GRACE) | self.in_grace
        in_grace = {id_: until for id_, until in grace.items() if id_ not in gone}
        return replace(self, seen=seen, in_grace=in_grace, silent=frozenset(silent) - gone)


def lately_lost(remembered: Mapping[str, SubscriptionState], shown: Mapping[str, bool], now: datetime) -> list[str]:
    """Return the subscriptions that may get grace: shown before, and since less than a day not, or not whole.

    `shown` maps each id that is shown to whether it is whole.
    """
    return sorted(
        id_ for id_, seen in remembered.items() if _is_lost(id_, seen, shown) and now - _since(seen, now) < GRACE
    )


def compare_subscriptions(
    remembered: Mapping[str, SubscriptionState], shown: Mapping[str, bool], *, given_up: Collection[str], now: datetime
) -> Subscriptions:
    """Compare what is shown now with what is remembered.

    `given_up` are subscriptions that vanished because a setting leaves them out: they get no grace, and are forgotten.
    """
    seen = {id_: SubscriptionState(whole, inventoried=False) for id_, whole in shown.items()}
    in_grace = {}
    for id_, before in remembered.items():
        if not _is_lost(id_, before, shown) or id_ in given_up:
            if id_ in shown:
                seen[id_] = SubscriptionState(shown[id_], before.inventoried)
            continue
        since = _since(before, now)
        if now - since < GRACE:
            in_grace[id_] = since + GRACE
        if id_ in in_grace or id_ not in shown:
            seen[id_] = before._replace(missing_since=since)
    new = frozenset(id_ for id_ in shown if not seen[id_].inventoried or id_ in in_grace)
    return Subscriptions(seen, new, in_grace)


def _is_lost(id_: str, seen: SubscriptionState, shown: Mapping[str, bool]) -> bool:
    return id_ not in shown or (seen.whole and not shown[id_])


def _since(seen: SubscriptionState, now: datetime) -> datetime:
    """Return when it was missed first; a clock that has jumped back must not prolong the grace."""
    return min(seen.missing_since or now, now)
