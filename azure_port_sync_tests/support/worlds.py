"""Worlds for random histories: a tenant with its moods, the sync that runs in it, its deaths, and what must come of it.

A history is data. It prints as the Python that makes it, so that what failed can be pasted into a test; and any step
can be taken at any time (what cannot be done is left undone), so that it shrinks by leaving steps out. Places have
short paths: `s1` is a subscription, `s1/g0` a resource group in it, `s1/g0/r2` a resource in that.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from azure.identity import ClientSecretCredential
from hypothesis import strategies as st

from azure_port_sync.core.decisions import Verdict
from azure_port_sync.core.errors import AzureError
from azure_port_sync.core.request import Mode
from azure_port_sync.core.request import Request as SyncRequest
from azure_port_sync.core.scope import Scope
from azure_port_sync.engine.deliver import DeliveryLimits
from azure_port_sync.engine.run import Outcome, sync_once
from azure_port_sync.port.api import PortApi
from azure_port_sync.port.setup import set_up_webhook
from azure_port_sync.port.sinks import Sink
from azure_port_sync.port.sinks.api import ApiSink
from azure_port_sync.port.sinks.webhook import WebhookBatchSink, WebhookSink
from azure_port_sync.resource_graph import AzureReader, ResourceGraph
from azure_port_sync.sandbox import tenant as azure
from azure_port_sync.sandbox.azure import QUOTA
from azure_port_sync.sandbox.compare import Catalog, Differences, differences, expected_catalog, identifier_of
from azure_port_sync.sandbox.faults import Fault
from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.clocks import NOW, SteppedClock

GRACE_PERIOD = timedelta(hours=24)
TICK = timedelta(minutes=15).total_seconds()
AGE = timedelta(days=30)  # of what exists before a history begins: older than any change record

SUBSCRIPTIONS = {one: f"0000000{n}-5000-4000-8000-00000000000{n}" for n, one in enumerate(("s0", "s1", "s2", "spare"))}
GROUPS = {"g0": "Web (old)", "g1": "data", "g2": "Ünit #7"}
RESOURCES = {
    "r0": ("Microsoft.Web/sites", "shop"),
    "r1": ("Microsoft.Compute/disks", "disk 1"),
    "r2": ("Microsoft.Insights/components", "Prüfung = x"),
}
GROUP_TAGS: tuple[dict[str, str] | None, ...] = (
    {"env": "p"},
    {"ENV": "P", "x": "1"},
    {"env": "d"},
    {"env": "p", "Tmp": "YES"},
    None,
)
SPELLINGS: tuple[Callable[[str], str], ...] = (str, str.upper, str.lower, str.swapcase)

Json = dict[str, Any]


# -- histories ---------------------------------------------------------------------------------------------------------


class _Told:
    """Prints as the call that makes it, without what is as by default."""

    def __repr__(self) -> str:
        parts = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(cast("Any", self))
            if getattr(self, one.name) != one.default
        ]
        return f"{type(self).__name__}({', '.join(parts)})"


@dataclass(frozen=True, init=False, repr=False)
class Do:
    """One change of the world: a verb of `World` and its arguments."""

    verb: str
    arguments: tuple[Any, ...]

    def __init__(self, verb: str, *arguments: Any) -> None:
        object.__setattr__(self, "verb", verb)
        object.__setattr__(self, "arguments", arguments)

    def __repr__(self) -> str:
        return f"Do({', '.join(map(repr, (self.verb, *self.arguments)))})"


Side = Literal["store", "azure", "port"]


@dataclass(frozen=True, repr=False)
class Kill(_Told):
    """A run dies at this call (from 0) of the store, the reader or the sink: before it, or after it is done."""

    side: Side
    call: int
    after: bool = False


@dataclass(frozen=True, repr=False)
class Trouble(_Told):
    """What goes wrong with the requests of one run: "lost", "reset", or a status; `times` None is an outage."""

    side: Literal["azure", "port"]
    what: str
    skip: int = 0
    times: int | None = 1

    def fault(self) -> Fault:
        path = "Microsoft.ResourceGraph" if self.side == "azure" else ""
        common = {"side": self.side, "path": path, "skip": self.skip, "times": self.times}
        if not self.what.isdigit():
            return Fault(kind=cast("Any", self.what), **cast("Any", common))
        headers = {"Retry-After": "7"} if self.what == "429" else {}
        return Fault(status=int(self.what), headers=headers, **cast("Any", common))


@dataclass(frozen=True, repr=False)
class Tick(_Told):
    """A run, `after` seconds from the step before. `during`: what happens before its n-th read of Azure."""

    after: float = TICK
    mode: Mode = Mode.INCREMENTAL
    force: bool = False
    kill: Kill | None = None
    trouble: tuple[Trouble, ...] = ()
    during: tuple[tuple[int, Do], ...] = ()

    def __repr__(self) -> str:
        return super().__repr__().replace("<Mode.FULL: 'full'>", "Mode.FULL")


@dataclass(frozen=True, repr=False)
class History(_Told):
    """What existed long before, what happens, and how it comes to rest."""

    before: tuple[str, ...] = ()
    steps: tuple[Do | Tick, ...] = ()
    ticks_to_rest: int = 0
    floor: int = 100
    quota: bool = False

    def __str__(self) -> str:
        lines = [
            f"    before={self.before!r},",
            "    steps=(",
            *(f"        {step!r}," for step in self.steps),
            "    ),",
        ]
        rest = [f"    {name}={getattr(self, name)!r}," for name in ("ticks_to_rest", "floor", "quota")]
        return "\n".join(["History(", *lines, *rest, ")"])


@dataclass(frozen=True)
class Setup:
    """The settings of the sync that a history is about."""

    name: str
    include: Mapping[str, str] | None = None
    exclude: Mapping[str, str] | None = None
    types: tuple[str, ...] | None = None
    management_groups: tuple[str, ...] = ()
    batch_size: int = 1000
    delivery: str = "webhook"

    def scope(self, *, filtered: bool = True) -> Scope:
        """The scope; without its filters, on request."""
        return Scope.of(
            include_tags=self.include if filtered else None,
            exclude_tags=self.exclude if filtered else None,
            resource_types=(self.types or ()) if filtered else (),
            management_groups=self.management_groups,
        )


SETUPS = (
    Setup("no filter"),
    Setup("include", include={"ENV": "p"}, batch_size=1, delivery="webhook_batch"),
    Setup("exclude", exclude={"tmp": "yes"}),
    Setup(
        "types",
        types=("Microsoft.WEB/sites", "microsoft.compute/disks"),
        include={"env": "P"},
        exclude={"x": "1"},
        delivery="api",
    ),
    Setup("management group", management_groups=("platform",)),
)


# -- the product -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is gone, as after SIGKILL."""


class Life:
    """One run: everything it does outside itself passes here, until it dies. After that nothing does."""

    def __init__(
        self,
        kill: Kill | None = None,
        *,
        before_read: Callable[[int], None] = lambda _: None,
        after_snapshot: Callable[[], None] = lambda: None,
        after_reading: Callable[[], None] = lambda: None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.died_at = ""
        self.deletes: set[str] = set()  # identifiers
        self._kill = kill
        self._before_read = before_read
        self._after_snapshot = after_snapshot
        self._after_reading = after_reading
        self._lock = threading.RLock()

    def pass_on(self, side: Side, call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """One call of the product's edges."""
        if side == "port" and call.__name__ != "send":
            return call(*arguments)  # nothing is sent
        with self._lock:
            number = self.calls[side]
            self._reach(side, number, call.__name__, after=False)
            self.calls[side] += 1
        if side == "azure":
            self._before_read(number)
        if side == "port" and arguments[0][0].row.operation == "delete":
            self.deletes.update(event.row.identifier for event in arguments[0])
        result = call(*arguments, **named)
        if side == "azure" and call.__name__ == "containers" and not arguments and not named:
            self._after_snapshot()
        if side == "azure" and call.__name__ == "readable" and "anywhere" not in named:
            self._after_reading()
        with self._lock:
            self._reach(side, number, call.__name__, after=True)
        return result

    def _reach(self, side: Side, number: int, name: str, *, after: bool) -> None:
        if not self.died_at and self._kill == Kill(side, number, after):
            self.died_at = f"{'after' if after else 'before'} {side}.{name}"
        if self.died_at:
            raise Killed(self.died_at)


class _Mortal:
    """A store, reader or sink as one run has it; the parts of a store are mortal as the whole is."""

    def __init__(self, inner: object, side: Side, life: Life) -> None:
        self._inner = inner
        self._side = side
        self._life = life

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if self._side == "store" and name in ("targets", "lease", "ledger", "facts"):
            return _Mortal(value, self._side, self._life)
        if name.startswith("_") or not callable(value):
            return value

        def call(*arguments: Any, **named: Any) -> Any:
            return self._life.pass_on(self._side, value, *arguments, **named)

        return call


class Station:
    """A running sandbox with credentials for it, made once for many worlds."""

    def __init__(self, folder: Path) -> None:
        self.sandbox = Sandbox(estate=False).start()
        self.clock = SteppedClock(self.sandbox.clock)
        self.environment = self.sandbox.environment()
        self._folder = folder
        self._opened = 0
        self.credential = ClientSecretCredential(
            self.environment["AZURE_TENANT_ID"],
            self.environment["AZURE_CLIENT_ID"],
            self.environment["AZURE_CLIENT_SECRET"],
            authority=self.environment["AZURE_AUTHORITY_HOST"],
            connection_verify=self.environment["REQUESTS_CA_BUNDLE"],
            disable_instance_discovery=True,
        )

    def close(self) -> None:
        self.credential.close()
        self.sandbox.stop()

    def new_database(self) -> Path:
        self._opened += 1
        return self._folder / f"state-{self._opened}.sqlite"


@dataclass(frozen=True)
class Request:
    """What is asked of a run."""

    mode: Mode
    force: bool
    filtered: bool  # whether the settings name the filters
    allow: bool  # of the guard
    floor: int  # of the guard


@dataclass(frozen=True)
class Ran:
    """What a run that ended in order says of itself."""

    mode: str
    operations: int
    not_delivered: int
    held: int
    known_before: int
    summary: str


class Product(Protocol):
    """The product, at the doors of a sandbox."""

    def run(self, life: Life, request: Request) -> Ran:
        """One run. Raises Killed, SyncError as the product does, and what is a defect."""
        ...

    def come_back(self) -> None:
        """What was killed is started again."""
        ...

    def close(self) -> None: ...


class Syncer:
    """The product without Dagster: the one place that knows how it is called."""

    def __init__(self, station: Station, setup: Setup) -> None:
        self._setup = setup
        self._clock = station.clock
        self._database = station.new_database()
        self._runs = 0
        environment = station.environment
        self.graph = ResourceGraph(
            station.credential,
            self._clock,
            base_url=environment["AZURE_RESOURCE_MANAGER_URL"],
            credential_scopes=["https://management.azure.com/.default"],
            connection_verify=environment["REQUESTS_CA_BUNDLE"],
        )
        self._station = station
        self._open()
        if setup.delivery == "webhook_batch":  # whose mapping stays until the sandbox is reset
            set_up_webhook(self.api, environment["PORT_WEBHOOK_INGEST_URL"], environment["PORT_WEBHOOK_SECRET"])

    def _open(self) -> None:
        """All that ends with a process."""
        rest = self._station.sandbox.rest
        self.api = PortApi(self._station.sandbox.url, rest.client_id, rest.client_secret, clock=self._clock)
        self.sink = self._make_sink(self._station.environment)
        self.store = StateStore(f"sqlite:///{self._database}", self._clock)

    def _make_sink(self, environment: Mapping[str, str]) -> Sink:
        flow: dict[str, Any] = {
            "concurrency": 1,  # more would make the order of deliveries, and so a history, a matter of luck
            "deadline": timedelta(minutes=10),
            "clock": self._clock,
        }
        if self._setup.delivery == "api":
            return ApiSink(self.api, **flow)
        url, secret = environment["PORT_WEBHOOK_INGEST_URL"], environment["PORT_WEBHOOK_SECRET"]
        if self._setup.delivery == "webhook":
            return WebhookSink(url, secret=secret, **flow)
        return WebhookBatchSink(url, secret=secret, **flow)

    def come_back(self) -> None:
        self._end()
        self._open()

    def _end(self) -> None:
        self.store.close()
        self.sink.close()
        self.api.close()

    def close(self) -> None:
        self._end()
        self.graph.close()
        self._database.unlink()

    def run(self, life: Life, request: Request) -> Ran:
        scope = self._setup.scope(filtered=request.filtered)
        reader = AzureReader(self.graph, scope, batch_size=self._setup.batch_size)
        self._runs += 1
        outcome = sync_once(
            cast("AzureReader", _Mortal(reader, "azure", life)),
            cast("Sink", _Mortal(self.sink, "port", life)),
            cast("StateStore", _Mortal(self.store, "store", life)),
            self._clock,
            target="t",
            run=f"run-{self._runs}",
            request=SyncRequest(
                request.mode,
                force=request.force,
                allow_mass_delete=request.allow,
                min_guarded_deletes=request.floor,
            ),
            limits=DeliveryLimits(sent_together=3),  # a death between two groups is a case of its own
        )
        plan, report = outcome.plan, outcome.report
        held = outcome.stats.verdicts[Verdict.HELD]
        return Ran(plan.mode, report.total, report.not_delivered, held, plan.known_before, _summary(outcome))


def _summary(outcome: Outcome) -> str:
    report = outcome.report
    sent = ", ".join(f"{number} {name}s" for name, number in sorted(report.accepted.items())) or "nothing"
    rest = f", {report.not_delivered} not_delivered ({report.error or report.refused})" if report.not_delivered else ""
    verdicts = {str(verdict): number for verdict, number in outcome.stats.verdicts.items() if number}
    return f"over {outcome.plan.window}: {sent}{rest}; {verdicts}"


# -- the oracle --------------------------------------------------------------------------------------------------------

_No, _Maybe, _Yes = range(3)


@dataclass
class _Held:
    """An entity that is kept because it cannot be read any more: as it was told, and from when on it is missed.

    The miss was noted between `earliest` (a run read the snapshot) and `latest` (a run that did so ended in order);
    `perhaps` it is gone already, where one of the two would let it go and the other would not.
    """

    entity: Json
    earliest: datetime
    latest: datetime | None = None
    perhaps: bool = False


@dataclass
class _Watched:
    """What the oracle knows of one subscription."""

    own_row_read: int = _No  # by a run, since it was last let go
    missed: _Held | None = None  # the subscription itself, while it is not (wholly) shown
    held: dict[tuple[str, str], _Held] = field(default_factory=dict)
    readable: frozenset[str] = frozenset()  # identifiers of the groups that the last snapshot could show
    everything: bool = False
    back_unnoticed: bool = False  # it was shown again, but to a run that did not live to remember it

    def let_go(self) -> None:
        self.back_unnoticed |= self.missed is not None
        self.missed = None
        self.held.clear()


class Grace:
    """Which entities stay in the catalog although they cannot be read: worked out from what was granted and shown.

    Each run tells it of its snapshot and of its end. Where a death leaves open whether the product could know, both
    outcomes are right.
    """

    def __init__(self) -> None:
        self._watched = {guid: _Watched() for guid in SUBSCRIPTIONS.values()}
        self._snapshot_at: datetime | None = None
        self._own: frozenset[str] = frozenset()
        self._shown: frozenset[str] = frozenset()
        self._silent: frozenset[str] = frozenset()

    def run_begins(self) -> None:
        self._snapshot_at = None
        self._silent = frozenset()

    def snapshot(
        self,
        now: datetime,
        own: frozenset[str],
        shown: frozenset[str],
        left_out: frozenset[str],
        readable: Mapping[str, frozenset[str] | None],
        catalog: Catalog,
    ) -> None:
        """A run saw the rows of `own` subscriptions, and something of those `shown`.

        `left_out`: those that can be read, but lie outside of what the settings name; they are not lost.
        `readable`: the groups (identifiers) that can be read in each; None for all.
        """
        if not shown:
            return  # such a run ends without any effect
        self._snapshot_at = self._snapshot_at or now
        self._own, self._shown = own, shown
        for guid, watched in self._watched.items():
            groups = readable[guid]
            if guid in own:
                watched.own_row_read = max(watched.own_row_read, _Maybe)
                watched.let_go()
            elif guid in left_out:
                watched.own_row_read = _No
                watched.let_go()
            elif guid in shown and watched.own_row_read == _No:
                watched.let_go()  # only ever read through a group
            else:
                self._miss(watched, guid, now, groups, catalog, partly=guid in shown)
            watched.everything = groups is None
            watched.readable = groups or frozenset()

    def read(self, own: frozenset[str], shown: frozenset[str]) -> None:
        """A run has read, and these show what they showed before: of the others, it may not have seen all."""
        self._silent = (self._own - own) | (self._shown - shown)

    def _miss(
        self,
        watched: _Watched,
        guid: str,
        now: datetime,
        groups: frozenset[str] | None,
        catalog: Catalog,
        *,
        partly: bool,
    ) -> None:
        first = watched.missed is None
        missed = watched.missed = watched.missed or _Held({}, now, perhaps=watched.back_unnoticed)
        for key, entity in _within(catalog, guid):
            group = _group_of(key[1])
            if group and (groups is None or group in groups):
                watched.held.pop(key, None)
            elif key in watched.held:
                if not group and not partly and watched.readable:
                    # Its groups had shown it until now: it is missed anew, and as it is in the catalog now.
                    watched.held[key].entity, watched.held[key].latest = entity, None
            elif (
                # What stands for a subscription is told with the first of its groups, and stays when that goes.
                first or watched.everything or group in watched.readable or (watched.readable and not group)
            ):
                doubtful = missed.perhaps or (partly and watched.own_row_read == _Maybe)
                watched.held[key] = _Held(entity, missed.earliest, perhaps=doubtful)

    def run_ends(self, now: datetime, catalog: Catalog, *, in_order: bool, settled: bool) -> None:
        """A run is over: `in_order` when it decided, `settled` when Port has taken all of it as well."""
        if self._snapshot_at is None:
            return
        for guid in self._silent:  # what was read of it before has been sent, and stays
            watched = self._watched[guid]
            for key, entity in _within(catalog, guid):
                if key in watched.held:
                    watched.held[key].entity = entity
            self._miss(watched, guid, self._snapshot_at, frozenset(), catalog, partly=False)
        for guid, watched in self._watched.items():
            if in_order and watched.missed is None:
                watched.back_unnoticed = False
            if in_order and guid in self._own:
                watched.own_row_read = _Yes
            for one in (watched.missed, *watched.held.values()):
                if one is not None and in_order and one.latest is None:
                    one.latest = now
            gone = {key for key, one in watched.held.items() if self._is_over(one, now, settled=settled)}
            watched.held = {key: one for key, one in watched.held.items() if key not in gone}
            if watched.missed is not None and self._is_over(watched.missed, now, settled=settled):
                watched.own_row_read = _No
                watched.missed = None

    def _is_over(self, one: _Held, now: datetime, *, settled: bool) -> bool:
        assert self._snapshot_at is not None
        one.perhaps |= now >= one.earliest + GRACE_PERIOD
        return settled and one.latest is not None and self._snapshot_at >= one.latest + GRACE_PERIOD

    @property
    def holds(self) -> bool:
        """Whether anything is kept."""
        return any(watched.held for watched in self._watched.values())

    def applied(self, expected: Catalog, actual: Catalog) -> Catalog:
        """`expected`, with what must be kept, and what may be where it is."""
        result = {blueprint: dict(entities) for blueprint, entities in expected.items()}
        for watched in self._watched.values():
            for (blueprint, identifier), one in watched.held.items():
                if not one.perhaps or actual[blueprint].get(identifier) == one.entity:
                    result[blueprint][identifier] = one.entity
        return result


def _within(catalog: Catalog, guid: str) -> Iterator[tuple[tuple[str, str], Json]]:
    own = f"/subscriptions/{guid}"
    for blueprint, entities in catalog.items():
        for identifier, entity in entities.items():
            if identifier == own or identifier.startswith(f"{own}/"):
                yield (blueprint, identifier), entity


def _group_of(identifier: str) -> str:
    """The identifier of the group that an entity is, or lies in; nothing for a subscription."""
    parts = identifier.split("/")
    return "/".join(parts[:5]) if len(parts) > 3 else ""


# -- the world ---------------------------------------------------------------------------------------------------------


@dataclass
class Tally:
    """What was done, for the report."""

    counts: Counter[str] = field(default_factory=Counter)
    longest: int = 0

    def as_json(self) -> Json:
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
        self.setup = setup
        self.azure_scope = azure.Scope(management_groups=setup.management_groups or None)
        self.tally = tally or Tally()
        self.product = product(station, setup)
        self.grace = Grace()
        self.log: list[str] = []
        self.ids: dict[str, str] = {}  # of what exists, by path
        self.past: dict[str, str] = {}  # of what ever existed
        self.access: dict[str, str | None] = {}  # of each subscription: "", the path of one group, or None
        self.places = {"s0": "platform", "s1": "platform", "s2": "elsewhere", "spare": "platform"}
        self.is_filtered = True
        self.rows_linger = False
        self.floor = 100

    def close(self) -> None:
        self.product.close()

    def play(self, history: History) -> None:
        """Live through a history and the rest after it; what is wrong then raises AssertionError."""
        self.floor = history.floor
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
        within = not self.setup.management_groups or self.places[subscription] in self.setup.management_groups
        return self.access.get(subscription) if within else None

    # -- when ----------------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def delays(self, record: Sequence[float], row: Sequence[float], linger: Sequence[float]) -> None:
        self.tenant.set_delays(record, row, linger)
        self.rows_linger = linger[1] > 0

    def filters(self, on: bool) -> None:
        """Whether the settings name the filters."""
        self.is_filtered = on

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
        except AzureError as error:
            excused = tick.during or any(one.side == "azure" for one in tick.trouble)
            if not excused and self._shown_containers(self.azure_scope):
                raise
            self._note("azure errors", f"Azure: {error}")
        finally:
            self.tally.counts["faults"] += sum(fault.fired for fault in self.sandbox.faults)
            self.sandbox.faults.clear()

    def _run(self, tick: Tick, meanwhile: Callable[[int], None], *, allow: bool = False) -> Ran | None:
        life = Life(
            tick.kill,
            before_read=meanwhile,
            after_snapshot=self._tell_of_snapshot,
            after_reading=self._tell_of_reading,
        )
        held = {identifier for entities in self.sandbox.held().values() for identifier in entities}
        self.grace.run_begins()
        ran = None
        try:
            ran = self.product.run(life, Request(tick.mode, tick.force, self.is_filtered, allow, self.floor))
        except Killed:
            self._note("kills", f"killed {life.died_at}")
            self.product.come_back()
        else:
            self._note(f"{ran.mode} runs", f"{ran.mode} {ran.summary}")
            if not allow:
                existing = {identifier_of(id_) for id_ in self.ids.values()}
                deleted, known = len(life.deletes & held & existing), ran.known_before
                most = min(max(self.floor, known // 4), max(min(self.floor, 10), known // 2))
                assert deleted <= most, f"{deleted} existing entities were deleted, the guard allows {most}"
        finally:
            settled = ran is not None and ran.not_delivered == ran.held == 0
            self.grace.run_ends(self.clock.now(), self.sandbox.held(), in_order=ran is not None, settled=settled)
        if ran is None or not ran.held:
            return ran
        assert not allow, "the guard holds what was allowed"
        self._note("guarded", f"the guard holds {ran.held} deletes")
        return self._run(Tick(force=tick.force, mode=tick.mode), lambda _: None, allow=True)

    def _tell_of_snapshot(self) -> None:
        rows = self._shown_containers(self.azure_scope)
        own = frozenset(guid for guid, type_, _ in rows if type_ == azure.SUBSCRIPTION)
        shown = frozenset(guid for guid, _, _ in rows)
        left_out = frozenset(guid for guid, _, _ in self._shown_containers(azure.Scope())) - shown
        groups = frozenset(identifier_of(id_) for _, type_, id_ in rows if type_ == azure.GROUP)
        readable = {SUBSCRIPTIONS[one]: self._readable_groups(one, groups) for one in SUBSCRIPTIONS}
        self.grace.snapshot(self.clock.now(), own, shown, left_out, readable, self.sandbox.held())

    def _tell_of_reading(self) -> None:
        rows = self._shown_containers(self.azure_scope)
        own = frozenset(guid for guid, type_, _ in rows if type_ == azure.SUBSCRIPTION)
        self.grace.read(own, frozenset(guid for guid, _, _ in rows))

    def _shown_containers(self, scope: azure.Scope) -> list[tuple[str, str, str]]:
        """Subscription, type and id of each subscription and group that Azure shows now."""
        with self.tenant.shown(scope, self.clock.now()) as db:
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
        self.log.append(f"{self.clock.now():%d %H:%M:%S} {line}")

    # -- the end -------------------------------------------------------------------------------------------------------

    def come_to_rest(self, ticks: int) -> None:
        """Nothing goes wrong any more and every delay runs out, with so many ticks meanwhile; then all must be right.

        One tick makes the catalog equal to the tenant but for what is kept for a day; a tick after that day makes it
        equal without exception. A tick that has nothing to say says nothing.
        """
        self.delays((0, 0), (0, 0), (0, 0))
        if not self.tenant.containers(self.azure_scope):
            self.add("spare")
        calm = self.tenant.calm_at(self.clock.now())
        pause = (calm - self.clock.now()).total_seconds() / (ticks + 1)
        for _ in range(ticks):
            self.tick(Tick(after=pause))  # not quite a quiet one: the spare subscription may not show yet
        self.clock.sleep(max((calm - self.clock.now()).total_seconds(), 0) + TICK)
        self.quiet_tick()
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

    def quiet_tick(self) -> Ran:
        ran = self._run(Tick(), lambda _: None)
        assert ran is not None
        assert ran.not_delivered == 0, ran.summary
        return ran

    def check(self, when: str) -> None:
        wrong = self.wrong()
        self.tally.counts["wrong"] += len(wrong)
        assert not wrong, f"{when}:\n  " + "\n  ".join(wrong)

    def wrong(self) -> list[str]:
        """Where the catalog is not what it must be."""
        refused = [f"Port refused {one.identifier}: {one.reason}" for one in self.sandbox.port.catalog.failures]
        return self.differences().sentences(shown=20) + refused

    def differences(self) -> Differences:
        """What the catalog must be, and is not."""
        setup = self.setup if self.is_filtered else Setup("")
        expected = expected_catalog(
            self.tenant.containers(self.azure_scope),
            self.tenant.resources(self.azure_scope),
            include=setup.include,
            exclude=setup.exclude,
            resource_types=setup.types,
        )
        held = self.sandbox.held()
        self.tally.counts["entities compared"] += sum(map(len, expected.values()))
        return differences(self.grace.applied(expected, held), held)


def _tags(number: int) -> dict[str, str] | None:
    return {"n": str(number)} if number else None


# -- drawing histories -------------------------------------------------------------------------------------------------

# Few places, so that what happens meets what happened; the first draws are the plainest, because failures shrink to
# them.
_SIZES = ((2, 1, 1), (1, 2, 2), (2, 2, 2), (3, 3, 3))
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0
_AFTER = (TICK,) * 6 + (1.0, _MINUTE, 5 * _MINUTE, 2 * TICK, _HOUR, 6 * _HOUR, _DAY - TICK, _DAY, _DAY + TICK)
_PAUSES = (*_AFTER, 2.5 * _DAY, 6 * _DAY, 8 * _DAY, 15 * _DAY)
_WAITS = (1.0, 0.001, 30.0, 4 * _MINUTE, 12 * _MINUTE, TICK, _HOUR)
_RECORD_DELAYS = ((0, 300), (0, 0), (290, 300))
_ROW_DELAYS = ((0, 0), (0, 300), (200, 300))
_LINGERS = ((0, 0), (0, 300), (2 * _HOUR, 6 * _HOUR), (30 * _HOUR, 30 * _HOUR))
_WRONGS = ("lost", "503", "429", "reset", "500", "502", "504")


def histories(setup: Setup) -> st.SearchStrategy[History]:
    """Histories for a setup, of up to eight runs with up to seven changes before each."""
    return st.sampled_from(_SIZES).flatmap(lambda size: _histories_in(setup, *size))


def _histories_in(setup: Setup, subscriptions: int, groups: int, resources: int) -> st.SearchStrategy[History]:
    in_tenant = list(SUBSCRIPTIONS)[:subscriptions]
    in_subscription = [f"{one}/{name}" for one in in_tenant for name in list(GROUPS)[:groups]]
    in_group = [f"{group}/{name}" for group in in_subscription for name in list(RESOURCES)[:resources]]
    changes = _changes(setup, in_tenant, in_subscription, in_group)
    rounds = st.lists(st.tuples(st.lists(changes, max_size=7), _ticks(changes)), min_size=1, max_size=8)
    return st.builds(
        lambda before, rounds, ticks_to_rest, floor, quota: History(
            before=tuple(before),
            steps=tuple(step for does, tick in rounds for step in (*does, tick)),
            ticks_to_rest=ticks_to_rest,
            floor=floor,
            quota=quota,
        ),
        before=st.lists(st.sampled_from(in_group), unique=True, min_size=1, max_size=4),
        rounds=rounds,
        ticks_to_rest=st.sampled_from((0, 0, 1, 2)),
        floor=st.sampled_from((100, 3)),
        quota=st.sampled_from((False, False, False, True)),
    )


def _changes(
    setup: Setup, subscriptions: Sequence[str], groups: Sequence[str], resources: Sequence[str]
) -> st.SearchStrategy[Do]:
    subscription, group, resource = map(st.sampled_from, (subscriptions, groups, resources))
    anything = st.one_of(resource, group, subscription)
    spelling, number = st.integers(0, len(SPELLINGS) - 1), st.integers(0, len(GROUP_TAGS) - 1)
    often = (
        _do("add", resource, number, spelling),
        _do("delete", resource),
        _do("revive", resource, spelling),
        _do("tag", group, number),
        _do("wait", st.sampled_from(_WAITS)),
    )
    sometimes = (
        _do("tag", anything, number),
        _do("move", resource, group),
        _do("add", anything, number, spelling),
        _do("delete", group),
        _do("lose", subscription),
        _do("regain", subscription),
        _do("limit", group),
        _do("respell", resource, spelling),
        _do("touch", resource),
        _do("delays", st.sampled_from(_RECORD_DELAYS), st.sampled_from(_ROW_DELAYS), st.sampled_from(_LINGERS)),
    )
    seldom = (
        st.one_of(_do("delete", subscription), _do("rename", subscription, number)),
        _do("filters", st.booleans()) if setup.scope() != setup.scope(filtered=False) else sometimes[-1],
        *((_do("place", subscription, st.sampled_from(("platform", "elsewhere"))),) * bool(setup.management_groups)),
    )
    return st.one_of(*often, *often, *often, *sometimes, *sometimes, *seldom)


def _do(verb: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Do]:
    return st.tuples(*arguments).map(lambda drawn: Do(verb, *drawn))


def _ticks(changes: st.SearchStrategy[Do]) -> st.SearchStrategy[Tick]:
    kills = st.one_of(
        st.builds(Kill, st.just("port"), st.integers(0, 7), st.booleans()),
        st.builds(Kill, st.just("store"), st.integers(0, 18), st.booleans()),
        st.builds(Kill, st.just("store"), st.integers(9, 18), st.booleans()),  # from where it writes
        st.builds(Kill, st.just("azure"), st.integers(0, 4), st.booleans()),
    )
    troubles = st.builds(
        Trouble,
        st.sampled_from(("port", "port", "azure")),
        st.sampled_from(_WRONGS),
        st.integers(0, 4),
        st.sampled_from((1, 2, None)),
    )
    return st.builds(
        Tick,
        after=st.sampled_from(_PAUSES),
        mode=st.sampled_from((Mode.INCREMENTAL,) * 5 + (Mode.FULL,)),
        force=st.sampled_from((False,) * 8 + (True,)),
        kill=st.one_of(st.none(), kills),
        trouble=_seldom(st.lists(troubles, min_size=1, max_size=2)),
        during=_seldom(st.lists(st.tuples(st.integers(0, 5), changes), min_size=1, max_size=2)),
    )


def _seldom(lists: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.one_of(st.just(()), st.just(()), lists.map(tuple))
