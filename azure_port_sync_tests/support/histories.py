"""Random histories: what befalls a tenant, a catalog and the sync between them, as data.

A history prints as the Python that makes it, so that what failed can be pasted into a test; and any step can be taken
at any time (what cannot be done is left undone), so that it shrinks by leaving steps out. Places have short paths: `s1`
is a subscription, `s1/g0` a resource group in it, `s1/g0/r2` a resource in that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Literal, cast, get_args

from hypothesis import strategies as st

from azure_port_sync.core.request import Mode
from azure_port_sync.core.scope import Scope
from azure_port_sync.sandbox.faults import Fault

GRACE_PERIOD = timedelta(hours=24)
TICK = timedelta(minutes=15).total_seconds()
AGE = timedelta(days=30)  # of what exists before a history begins: older than any change record

SUBSCRIPTIONS = {one: f"0000000{n}-5000-4000-8000-00000000000{n}" for n, one in enumerate(("s0", "s1", "s2", "spare"))}
GROUPS = {"g0": "Web (old)", "g1": "data", "g2": "Ünit #7"}
RESOURCES = {
    "r0": ("Microsoft.Web/sites", "shop"),
    "r1": ("Microsoft.Compute/disks", "disk 1"),
    "r2": ("Microsoft.Insights/components", "Prüfung = x"),
    "r3": ("Microsoft.Compute/disks", "disk_1"),  # in Port, its identifier is that of r1
}
GROUP_TAGS: tuple[Any, ...] = (
    {"env": "p"},
    {"ENV": "P", "x": "1"},
    {"env": "d"},
    {"env": "p", "Tmp": "YES"},
    None,
    "env=p",  # no object, which Azure does not give as a rule
)
SPELLINGS: tuple[Callable[[str], str], ...] = (str, str.upper, str.lower, str.swapcase)


class _Printed:
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


Side = Literal["store", "statement", "azure", "port"]


@dataclass(frozen=True, repr=False)
class Kill(_Printed):
    """A run dies at this call (from 0) of the store, the reader or the sink: before it, or after it is done.

    At a statement it dies before it, in the middle of the transaction.
    """

    side: Side
    call: int
    after: bool = False


Said = Literal["", "json", "page"]


@dataclass(frozen=True, repr=False)
class Trouble(_Printed):
    """What goes wrong with the requests of one run: a kind of fault, or a status; `times` None is an outage.

    A status comes with no body, with the JSON of the service that was asked (of Azure with `code`), or with a web page.
    """

    side: Literal["azure", "port"]
    what: str
    skip: int = 0
    times: int | None = 1
    said: Said = ""
    code: str = "Forbidden"

    def fault(self) -> Fault:
        path = "Microsoft.ResourceGraph" if self.side == "azure" else ""
        common = {"side": self.side, "path": path, "skip": self.skip, "times": self.times}
        if not self.what.isdigit():
            return Fault(kind=cast("Any", self.what), **cast("Any", common))
        headers = {"Retry-After": "7"} if self.what == "429" else {}
        error = {"error": {"code": "BadRequest", "message": "no", "details": [{"code": self.code, "message": "no"}]}}
        json = error if self.side == "azure" else {"ok": False, "error": "no", "message": "no"}
        body = {"": None, "json": json, "page": "<html>Sorry</html>"}[self.said]
        return Fault(status=int(self.what), headers=headers, body=body, **cast("Any", common))


#: Overrides of a person who launches a run, each named in a word.
Launch = Literal["", "dry run", "one subscription", "one group", "one type", "backfill", "retry", "rebuild"]


@dataclass(frozen=True, repr=False)
class Tick(_Printed):
    """A run, `after` seconds from the step before. `during`: what happens before its n-th read of Azure.

    `launch`: the overrides with which a person launches it.
    """

    after: float = TICK
    mode: Mode = Mode.INCREMENTAL
    force: bool = False
    kill: Kill | None = None
    launch: Launch = ""
    trouble: tuple[Trouble, ...] = ()
    during: tuple[tuple[int, Do], ...] = ()

    def __repr__(self) -> str:
        return super().__repr__().replace("<Mode.FULL: 'full'>", "Mode.FULL")


@dataclass(frozen=True, repr=False)
class History(_Printed):
    """What existed long before, what happens, and how it comes to rest."""

    before: tuple[str, ...] = ()
    steps: tuple[Do | Tick, ...] = ()
    ticks_to_rest: int = 0
    floor: int = 100
    quota: bool = False
    concurrency: int = 1

    def __str__(self) -> str:
        lines = [
            f"    before={self.before!r},",
            "    steps=(",
            *(f"        {step!r}," for step in self.steps),
            "    ),",
        ]
        rest = [f"    {name}={getattr(self, name)!r}," for name in ("ticks_to_rest", "floor", "quota", "concurrency")]
        return "\n".join(["History(", *lines, *rest, ")"])


@dataclass(frozen=True)
class Setup:
    """The settings of a sync."""

    name: str
    include: Mapping[str, str] | None = None
    exclude: Mapping[str, str] | None = None
    types: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()  # their short names
    management_groups: tuple[str, ...] = ()
    batch_size: int = 1000
    delivery: str = "webhook"
    database: Literal["sqlite", "postgres"] = "sqlite"

    @property
    def scope(self) -> Scope:
        return Scope.of(
            include_tags=self.include,
            exclude_tags=self.exclude,
            resource_types=self.types or (),
            extra_columns=self.columns,
            subscription_ids=[SUBSCRIPTIONS[one] for one in self.subscriptions],
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
    Setup("management group", management_groups=("platform",), database="postgres"),
)


# -- drawing -----------------------------------------------------------------------------------------------------------

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
_STATUSES = (301, 400, 401, 402, 403, 404, 405, 407, 408, 409, 413, 418, 422, 423, 425, 451, 499, 501, 507, 520, 598)
_NO_ACCESS = ("AuthorizationFailed", "NoValidSubscriptionsInQueryRequest")
_BETWEEN_RUNS = ("restore", "back_up", "configure", "filters")  # a run has its settings and its state to itself
_SKEWS = (0.0, 90.0, -90.0, 1200.0, -1200.0, 8 * _HOUR, -8 * _HOUR, 3 * _DAY, -3 * _DAY)


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
        lambda before, rounds, **rest: History(
            before=tuple(before),
            steps=tuple(step for does, tick in rounds for step in (*does, tick)),
            **rest,
        ),
        before=st.lists(st.sampled_from(in_group), unique=True, min_size=1, max_size=4),
        rounds=rounds,
        ticks_to_rest=st.sampled_from((0, 0, 1, 2)),
        floor=st.sampled_from((100, 3)),
        quota=st.sampled_from((False, False, False, True)),
        concurrency=st.sampled_from((1, 1, 1, 4)),
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
        st.one_of(_do("twin", anything, st.integers(0, 2)), _do("no_twins", anything)),
        _do("skew", st.sampled_from(_SKEWS)),
        st.sampled_from((Do("back_up"), Do("restore"), Do("restore"))),
        _configured(setup, subscriptions),
        *((_do("place", subscription, st.sampled_from(("platform", "elsewhere"))),) * bool(setup.management_groups)),
    )
    return st.one_of(*often, *often, *often, *sometimes, *sometimes, *seldom)


def _configured(setup: Setup, subscriptions: Sequence[str]) -> st.SearchStrategy[Do]:
    """A person edits the settings."""
    # Azure takes the names of subscriptions or of management groups.
    some = st.sampled_from(((), ("s0", "spare"), (*subscriptions, "spare")) if not setup.management_groups else ((),))
    types = st.sampled_from((setup.types, ("microsoft.web/sites", "Microsoft.Insights/Components")))
    hook = "webhook" if setup.delivery == "api" else setup.delivery
    return st.one_of(
        _do("filters", st.booleans()),
        _do("configure", st.just("types"), types),
        _do("configure", st.just("columns"), st.sampled_from((("kind",), ("kind", "sku"), ()))),
        _do("configure", st.just("subscriptions"), some),
        _do("configure", st.just("delivery"), st.sampled_from(("api", hook))),
    )


def _do(verb: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Do]:
    return st.tuples(*arguments).map(lambda drawn: Do(verb, *drawn))


def _ticks(changes: st.SearchStrategy[Do]) -> st.SearchStrategy[Tick]:
    kills = st.one_of(
        st.builds(Kill, st.just("port"), st.integers(0, 7), st.booleans()),
        st.builds(Kill, st.just("store"), st.integers(0, 18), st.booleans()),
        st.builds(Kill, st.just("store"), st.integers(9, 18), st.booleans()),  # from where it writes
        st.builds(Kill, st.just("azure"), st.integers(0, 4), st.booleans()),
        st.builds(Kill, st.just("statement"), st.integers(0, 60)),
    )
    of_port = st.sampled_from((*_WRONGS, "reset_mid_body", "drip", "invalid_json"))
    status = st.sampled_from(_STATUSES).map(str)
    of_azure = changes.filter(lambda do: do.verb not in _BETWEEN_RUNS)
    skip, times = st.integers(0, 4), st.sampled_from((1, 2, None))
    troubles = st.one_of(
        st.builds(Trouble, st.just("port"), of_port, skip, times),
        st.builds(Trouble, st.just("port"), status, skip, times, st.sampled_from(("json", "", "page"))),
        st.builds(Trouble, st.just("azure"), of_port, skip, times),
        st.builds(Trouble, st.just("azure"), status, skip, times, st.sampled_from(("json", "", "page"))),
        st.builds(Trouble, st.just("azure"), st.just("403"), skip, times, st.just("json"), st.sampled_from(_NO_ACCESS)),
    )
    return st.builds(
        Tick,
        after=st.sampled_from(_PAUSES),
        mode=st.sampled_from((Mode.INCREMENTAL,) * 5 + (Mode.FULL,)),
        force=st.sampled_from((False,) * 8 + (True,)),
        kill=st.one_of(st.none(), kills),
        launch=st.sampled_from(("",) * 12 + get_args(Launch)[1:]),
        trouble=_seldom(st.lists(troubles, min_size=1, max_size=2)),
        during=_seldom(st.lists(st.tuples(st.integers(0, 5), of_azure), min_size=1, max_size=2)),
    )


def _seldom(lists: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.one_of(st.just(()), st.just(()), lists.map(tuple))
