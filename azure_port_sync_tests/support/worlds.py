"""Worlds for random histories: a tenant with its moods, the sync that runs in it, and what must come of it."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from azure_port_sync.core.errors import AzureError, PortError, SettingsError, SyncError
from azure_port_sync.sandbox import tenant as azure
from azure_port_sync.sandbox.azure import QUOTA
from azure_port_sync.sandbox.compare import Catalog, Differences, differences, expected_catalog, identifier_of
from azure_port_sync_tests.support.clocks import NOW
from azure_port_sync_tests.support.grace import Grace
from azure_port_sync_tests.support.histories import (
    AGE,
    GRACE_PERIOD,
    GROUP_TAGS,
    GROUPS,
    RESOURCES,
    SPELLINGS,
    SUBSCRIPTIONS,
    TICK,
    Do,
    History,
    Launch,
    Setup,
    Tick,
)
from azure_port_sync_tests.support.station import Killed, Life, Product, Ran, Request, Station, Syncer


@dataclass
class Tally:
    """What was done, for the report."""

    counts: Counter[str] = field(default_factory=Counter)
    longest: int = 0

    def as_json(self) -> dict[str, Any]:
        return {**self.counts, "longest": self.longest}


class World:
    """An empty tenant and an empty catalog, the product between them, and the verbs of histories."""

    def __init__(
        self,
        station: Station,
        setup: Setup,
        *,
        tally: Tally | None = None,
        product: Callable[[Station, Setup], Product] = Syncer,
        now: datetime = NOW,
    ) -> None:
        self.sandbox = station.sandbox
        self.sandbox.reset(now - AGE)
        self.tenant = self.sandbox.tenant
        self.clock = station.clock
        self.clock.ahead = timedelta(0)
        self.setup = setup
        self.settings = setup  # as they are now
        self.tally = tally or Tally()
        self.product = product(station, setup)
        self.grace = Grace()
        self.log: list[str] = []
        self.ids: dict[str, str] = {}  # of what exists, by path
        self.past: dict[str, str] = {}  # of what ever existed
        self.access: dict[str, str | None] = {}  # of each subscription: "", the path of one group, or None
        self.places = {"s0": "platform", "s1": "platform", "s2": "elsewhere", "spare": "platform"}
        self.rows_linger = False
        self.floor = 100
        self.concurrency = 1
        self.has_old_state = False  # since a backup was put back

    def close(self) -> None:
        self.product.close()

    def play(self, history: History) -> None:
        """Live through a history and the rest after it; what is wrong then raises AssertionError."""
        self.floor, self.concurrency = history.floor, history.concurrency
        self.sandbox.graph.quota.limit = QUOTA if history.quota else None
        self.begin(history.before)
        for step in history.steps:
            self.tick(step) if isinstance(step, Tick) else self.do(step)
        self.come_to_rest(history.ticks_to_rest)
        self.tally.counts["histories"] += 1
        self.tally.counts["steps"] += len(history.steps)
        self.tally.longest = max(self.tally.longest, len(history.steps))

    def begin(self, before: Sequence[str]) -> None:
        """What existed long before, and the present."""
        for path in before:
            self.add(path)
        self.clock.sleep(AGE.total_seconds())

    def do(self, step: Do) -> None:
        getattr(self, step.verb)(*step.arguments)

    # -- what exists ---------------------------------------------------------------------------------------------------

    def add(self, path: str, tags: int = 0, spelling: int = 0) -> None:
        """What is missing of a path, from its subscription down; `tags` and `spelling` are for its last part."""
        above, _, name = path.rpartition("/")
        if path in self.ids or (path in SUBSCRIPTIONS and path in self.past):
            return  # Azure gives the id of a subscription once: one that was removed never comes back
        if above:
            self.add(above)
            if above not in self.ids:
                return
        match path.count("/"):
            case 0:
                self.tenant.add_subscription(path, None, SUBSCRIPTIONS[path], [self.places[path]])
                self.ids[path] = SUBSCRIPTIONS[path]
                self.access[path] = ""
            case 1:
                spelled = SPELLINGS[spelling](GROUPS[name])
                self.ids[path] = self.tenant.add_group(self.ids[above], spelled, "westeurope", GROUP_TAGS[tags])
            case _:
                type_, spelled = RESOURCES[name]
                spelled = SPELLINGS[spelling](spelled)
                self.ids[path] = self.tenant.create_resource(self.ids[above], type_, spelled, tags=_tags(tags))
        self.past[path] = self.ids[path]

    def delete(self, path: str) -> None:
        """Gone, with all in it.

        Where rows linger, time passes first: what was made and deleted in one instant, and is still shown, cannot be
        told from what was deleted and made anew, until the nightly full run.
        """
        if path not in self.ids:
            return
        if self.rows_linger:
            self.clock.sleep(1)
        match path.count("/"):
            case 0:
                self.tenant.remove_subscription(self.ids[path])
                del self.access[path]
            case 1:
                self.tenant.delete_group(self.ids[path])
            case _:
                self.tenant.delete_resource(self.ids[path])
        self.ids = {one: id_ for one, id_ in self.ids.items() if not f"{one}/".startswith(f"{path}/")}

    def tag(self, path: str, tags: int) -> None:
        if path not in self.ids:
            return
        match path.count("/"):
            case 0:
                self.tenant.retag_subscription(self.ids[path], _tags(tags))
            case 1:
                self.tenant.retag_group(self.ids[path], GROUP_TAGS[tags])
            case _:
                self.tenant.tag_resource(self.ids[path], _tags(tags))

    def rename(self, subscription: str, number: int) -> None:
        if subscription in self.ids:
            self.tenant.rename_subscription(self.ids[subscription], f"{subscription} · {number}")

    def touch(self, path: str) -> None:
        """A record of which the row shows nothing."""
        if path in self.ids:
            self.tenant.touch_resource(self.ids[path])

    def revive(self, path: str, spelling: int = 0) -> None:
        """A deleted resource exists again as it was, perhaps in another spelling."""
        if path in self.ids or path not in self.past or path.rpartition("/")[0] not in self.ids:
            return
        try:
            self.ids[path] = self.tenant.recreate_resource(SPELLINGS[spelling](self.past[path]))
        except azure.TenantError:  # its subscription was removed since, and all trace of it
            return

    def respell(self, path: str, spelling: int) -> None:
        """The id of a living resource changes its case, and no record tells."""
        if path in self.ids:
            self.ids[path] = SPELLINGS[spelling](self.ids[path])
            self.tenant.respell_resource(self.ids[path])

    def move(self, path: str, group: str) -> None:
        there = f"{group}/{path.rpartition('/')[2]}"
        if path in self.ids and group in self.ids and there not in self.ids:
            self.ids[there] = self.past[there] = self.tenant.move_resource(self.ids.pop(path), self.ids[group])

    def twin(self, path: str, how: int) -> None:
        """Azure shows a second row: the same, or in another casing, or that of an extension of a resource."""
        if path not in self.ids:
            return
        id_ = self._row_id(path)
        extension = {"name": "agent", "type": "microsoft.insights/diagnosticsettings"}
        different: Sequence[dict[str, str]] = (
            {},
            {"id": id_.upper()},
            extension if path.count("/") == 2 else {"id": id_.lower()},
        )
        self.tenant.add_twin(id_, different[how])

    def no_twins(self, path: str) -> None:
        if path in self.ids:
            self.tenant.remove_twins(self._row_id(path))

    def _row_id(self, path: str) -> str:
        return self.ids[path] if "/" in path else f"/subscriptions/{self.ids[path]}"

    # -- what can be read ----------------------------------------------------------------------------------------------

    def lose(self, subscription: str) -> None:
        if subscription in self.ids:
            self.tenant.lose_subscription(self.ids[subscription])
            self.access[subscription] = None

    def regain(self, subscription: str) -> None:
        if subscription in self.ids:
            self.tenant.regain_subscription(self.ids[subscription])
            self.access[subscription] = ""

    def limit(self, group: str) -> None:
        """Of its subscription, this group alone can be read."""
        if group in self.ids:
            subscription = group.partition("/")[0]
            self.tenant.limit_subscription_to_group(self.ids[subscription], self.ids[group])
            self.access[subscription] = group

    def place(self, subscription: str, management_group: str) -> None:
        """The subscription goes below another management group."""
        self.places[subscription] = management_group
        if subscription in self.ids:
            self.tenant.move_subscription(self.ids[subscription], [management_group])

    def reads(self, subscription: str) -> str | None:
        """What the product can read of a subscription: "" for all, the path of one group, None for nothing."""
        groups = self.settings.management_groups
        within = not groups or self.places[subscription] in groups
        named = not self.settings.subscriptions or subscription in self.settings.subscriptions
        return self.access.get(subscription) if within and named else None

    @property
    def azure_scope(self) -> azure.Scope:
        """The part of the tenant that the settings name."""
        named = tuple(SUBSCRIPTIONS[one] for one in self.settings.subscriptions)
        return azure.Scope(named or None, self.settings.management_groups or None)

    # -- when ----------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def delays(self, record: Sequence[float], row: Sequence[float], linger: Sequence[float]) -> None:
        self.tenant.set_delays(record, row, linger)
        self.rows_linger = linger[1] > 0

    def skew(self, seconds: float) -> None:
        """This machine's clock is so far ahead of Azure's."""
        self.clock.ahead = timedelta(seconds=seconds)

    @property
    def now(self) -> datetime:
        """The time, by Azure's clock."""
        return self.sandbox.clock.now()

    # -- what a person does --------------------------------------------------------------------------------------------

    def configure(self, setting: str, value: Any) -> None:
        """Edit one of the settings."""
        self.settings = replace(self.settings, **{setting: value})

    def filters(self, on: bool) -> None:
        """Have the settings name their filters, or none."""
        own = self.setup if on else Setup("")
        self.settings = replace(self.settings, include=own.include, exclude=own.exclude, types=own.types)

    def back_up(self) -> None:
        self.product.back_up()

    def restore(self) -> None:
        """Put an old state back; the docs ask for `rebuild_ledger` then."""
        if self.product.restore():
            self.has_old_state = True
            self.grace.restored()

    # -- runs ----------------------------------------------------------------------------------------------------------

    def tick(self, tick: Tick) -> None:
        """A run with all that befalls it. What it may end with is in the log; what it may not is raised."""
        self.clock.sleep(tick.after)
        for trouble in tick.trouble:
            self.sandbox.faults.add(trouble.fault())

        def meanwhile(number: int) -> None:
            for when, what in tick.during:
                if when == number:
                    self.do(what)

        try:
            self._run(tick, meanwhile)
        except SyncError as error:
            if not self._is_excused(tick, error):
                raise
            self._note(type(error).__name__, str(error))
        finally:
            for trouble, fault in zip(tick.trouble, self.sandbox.faults, strict=True):
                what = f"{trouble.side} {trouble.what}"
                if fault.fired:
                    self.tally.counts[f"{what} with {trouble.said}" if trouble.said else what] += fault.fired
            self.sandbox.faults.clear()

    def _is_excused(self, tick: Tick, error: SyncError) -> bool:
        """Whether a run may end so: without having sent anything."""
        sides = {one.side for one in tick.trouble}
        match error:
            case AzureError():
                return bool(tick.during) or "azure" in sides or not self._shown_containers(self.azure_scope)
            case PortError():  # what it holds could not be read
                return "port" in sides
            case SettingsError():  # nothing lies in the part that is named
                return tick.launch.startswith("one")
        return False

    def _run(self, tick: Tick, meanwhile: Callable[[int], None], *, allow: bool = False) -> Ran | None:
        life = Life(
            tick.kill,
            before_read=meanwhile,
            after_snapshot=self._tell_of_snapshot,
            after_reading=self._tell_of_reading,
        )
        if tick.launch == "dry run" and not self.has_old_state:
            self._dry_run(tick)
            return None
        launch: Launch = "rebuild" if self.has_old_state else tick.launch
        held = {identifier for entities in self.sandbox.held().values() for identifier in entities}
        self.grace.run_begins()
        ran = None
        try:
            ran = self.product.run(life, self._request(tick, launch, allow=allow))
        except Killed:
            self._note("kills", f"killed {life.died_at}")
            self.product.come_back()
        else:
            self.has_old_state = False
            self._note(f"{ran.mode} runs", f"{ran.mode} {launch} {ran.summary}")
            if launch:
                self.tally.counts[f"launched: {launch}"] += 1
            if not allow:
                deleted, known = len(life.deletes & held & self.existing), ran.known_before
                most = min(max(self.floor, known // 4), max(min(self.floor, 10), known // 2))
                assert deleted <= most, f"{deleted} existing entities were deleted, the guard allows {most}"
        finally:
            settled = ran is not None and ran.not_delivered == ran.held == 0 and ran.mode in ("full", "incremental")
            self.grace.run_ends(
                self.now,
                self.sandbox.held(),
                in_order=ran is not None,
                settled=settled,
                doubtful=any(one.side == "azure" and one.said == "json" for one in tick.trouble),
            )
        if ran is None or not ran.held:
            return ran
        assert not allow, "the guard holds what was allowed"
        self._note("guarded", f"the guard holds {ran.held} deletes")
        again = Tick(force=tick.force, mode=tick.mode, launch=tick.launch)
        return self._run(again, lambda _: None, allow=True)

    def _request(self, tick: Tick, launch: Launch, *, allow: bool = False) -> Request:
        return Request(tick.mode, tick.force, self.settings, allow, self.floor, launch, self.concurrency)

    def _dry_run(self, tick: Tick) -> None:
        """A run that shows what it would do, and changes nothing, however it ends."""
        life = Life(tick.kill)
        before = self.product.remembered(), self.sandbox.held()
        try:
            ran = self.product.run(life, self._request(tick, "dry run"))
            self._note("launched: dry run", f"dry run {ran.summary}")
        except Killed:
            self._note("kills", f"killed {life.died_at}")
            self.product.come_back()
        assert (self.product.remembered(), self.sandbox.held()) == before, "a dry run has changed something"

    def _tell_of_snapshot(self) -> None:
        rows = self._shown_containers(self.azure_scope)
        own = frozenset(guid for guid, type_, _ in rows if type_ == azure.SUBSCRIPTION)
        shown = frozenset(guid for guid, _, _ in rows)
        left_out = frozenset(guid for guid, _, _ in self._shown_containers(azure.Scope())) - shown
        if named := self.settings.subscriptions:
            left_out |= frozenset(SUBSCRIPTIONS.values()) - {SUBSCRIPTIONS[one] for one in named}
        groups = frozenset(identifier_of(id_) for _, type_, id_ in rows if type_ == azure.GROUP)
        readable = {SUBSCRIPTIONS[one]: self._readable_groups(one, groups) for one in SUBSCRIPTIONS}
        self.grace.snapshot(self.now, own, shown, left_out, readable, self.sandbox.held())

    def _tell_of_reading(self, whole: bool) -> None:
        rows = self._shown_containers(self.azure_scope)
        own = frozenset(guid for guid, type_, _ in rows if type_ == azure.SUBSCRIPTION)
        self.grace.read(own, frozenset(guid for guid, _, _ in rows), whole=whole)

    def _shown_containers(self, scope: azure.Scope) -> list[tuple[str, str, str]]:
        """Subscription, type and id of each subscription and group that Azure shows now."""
        with self.tenant.shown(scope, self.now) as db:
            rows = db.execute("SELECT lower(subscriptionId), type, id FROM resourcecontainers").fetchall()
        return [(guid, type_, id_) for guid, type_, id_ in rows if type_ != azure.MANAGEMENT_GROUP]

    def _readable_groups(self, subscription: str, shown: frozenset[str]) -> frozenset[str] | None:
        match self.reads(subscription):
            case None:
                return frozenset()
            case "":
                return None
            case group:
                return shown & {identifier_of(self.past[group])}

    def _note(self, what: str, line: str) -> None:
        self.tally.counts[what] += 1
        self.log.append(f"{self.now:%d %H:%M:%S} {line}")

    # -- the end -------------------------------------------------------------------------------------------------------

    def come_to_rest(self, ticks: int) -> None:
        """Nothing goes wrong any more and every delay runs out, with so many ticks meanwhile; then all must be right.

        One tick makes the catalog equal to the tenant but for what is kept for a day; a tick after that day makes it
        equal without exception. A tick that has nothing to say says nothing.
        """
        self.delays((0, 0), (0, 0), (0, 0))
        if not self.tenant.containers(self.azure_scope):
            self.add("spare")
        calm = self.tenant.calm_at(self.now)
        pause = (calm - self.now).total_seconds() / (ticks + 1)
        for _ in range(ticks):
            self.tick(Tick(after=pause))  # not quite a quiet one: the spare subscription may not show yet
        self.clock.sleep(max((calm - self.now).total_seconds(), 0) + TICK)
        self.quiet_tick()
        if self.product.quarantined():
            self.check("after one quiet tick, but for what is in quarantine", but=self.product.quarantined())
            self.clock.sleep(TICK)
            self.quiet_tick("retry")
        self.check("after one quiet tick")
        if self.grace.holds:
            self.clock.sleep(GRACE_PERIOD.total_seconds() + TICK)
            self.quiet_tick()
            assert not self.grace.holds
            self.check("after the day of grace")
        self.clock.sleep(TICK)
        ran = self.quiet_tick()
        assert ran.operations == 0, f"a tick with nothing to say delivered {ran.operations} operations"
        self.check("after one more quiet tick")

    def quiet_tick(self, launch: Launch = "") -> Ran:
        ran = self._run(Tick(launch=launch), lambda _: None)
        assert ran is not None
        assert ran.not_delivered == 0, ran.summary
        return ran

    def check(self, when: str, *, but: Collection[str] = ()) -> None:
        wrong = self.wrong(but)
        self.tally.counts["wrong"] += len(wrong)
        assert not wrong, f"{when}:\n  " + "\n  ".join(wrong)

    def wrong(self, but: Collection[str] = ()) -> list[str]:
        """Where the catalog is not what it must be, but for these identifiers."""
        refused = [f"Port refused {one.identifier}: {one.reason}" for one in self.sandbox.port.catalog.failures]
        return self.differences(but).sentences(shown=20) + refused

    def differences(self, but: Collection[str] = ()) -> Differences:
        """What the catalog must be, and is not."""
        held = self.sandbox.held()
        resources = self.tenant.resources(self.azure_scope)
        expected, other = self._expected(resources), self._expected(resources[::-1])
        for blueprint, entities in expected.items():
            for one in entities:
                if held[blueprint].get(one) == other[blueprint][one]:  # of two ids in one identifier, either is right
                    entities[one] = other[blueprint][one]
        self.tally.counts["entities compared"] += sum(map(len, expected.values()))
        expected = self.grace.applied(expected, held, self.existing)
        return differences(_without(expected, but), _without(held, but))

    @property
    def existing(self) -> set[str]:
        """The identifiers of all that exists, whether it can be read or not."""
        return {identifier_of(self._row_id(path)) for path in self.ids}

    def _expected(self, resources: list[dict[str, Any]]) -> Catalog:
        return expected_catalog(
            self.tenant.containers(self.azure_scope),
            resources,
            include=self.settings.include,
            exclude=self.settings.exclude,
            resource_types=self.settings.types,
        )


def _without(catalog: Catalog, identifiers: Collection[str]) -> Catalog:
    return {
        blueprint: {one: entity for one, entity in entities.items() if one not in identifiers}
        for blueprint, entities in catalog.items()
    }


def _tags(number: int) -> Any:
    return ({"n": str(number)} if number % 2 else ["n", number]) if number else None
