"""Faults on order: a bad day of a network and of two busy services, exactly when a test asks for it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Any, Literal, Protocol, get_args

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Side = Literal["azure", "port"]
Kind = Literal["status", "reset", "lost", "reset_mid_body", "drip", "hang", "invalid_json", "drop"]

_USUAL_STATUS = {"invalid_json": 200, "drop": 202}
_NO_JSON = "<html>OK</html>"


class Clock(Protocol):
    """The one thing that faults need of the sandbox's clock."""

    def advance(self, by: timedelta) -> None:
        """Move it."""
        ...


@dataclass
class Fault:
    """One thing that goes wrong: on which requests, what happens, and how often.

    A request matches when all that is given of `path`, `method` and `in_body` does (`path` and `in_body` are
    substrings). The first `skip` matching requests pass, then `times` of them fail (None: all).

    Kinds that leave the request undone: "status" answers `status` (503 when not given), `headers` and `body`; "reset"
    closes the connection without an answer; "hang" gives none until the client goes away; "invalid_json" answers 200,
    or `status`, with a body that is no JSON; "drop" answers 202, or `status`, as a webhook does that loses the event.

    Kinds that strike after it was worked off: "lost" closes the connection, as if only the answer went astray;
    "reset_mid_body" does so after half of the answer's body; "drip" sends the body byte by byte, and moves the
    sandbox's clock by `drip_seconds` before each, so that a test sees hours of waiting and waits for nothing. After
    `drip_bytes` (None: never) the rest comes at once.
    """

    side: Side
    kind: Kind = "status"
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    path: str = ""
    method: str = ""
    in_body: str = ""
    skip: int = 0
    times: int | None = 1
    drip_seconds: float = 10
    drip_bytes: int | None = None
    seen: int = 0
    fired: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"there is no fault {self.kind!r}, only {', '.join(get_args(Kind))}")

    def matches(self, side: Side, method: str, path: str, body: bytes) -> bool:
        """Return whether this fault is about that request."""
        return self.side == side and self.path in path and self.method in {"", method} and self.in_body.encode() in body

    def due(self) -> bool:
        """Count one matching request, and say whether it fails."""
        self.seen += 1
        if self.seen <= self.skip or (self.times is not None and self.fired >= self.times):
            return False
        self.fired += 1
        return True


class Faults:
    """The faults in force on both servers. The first that matches and is due happens, and it alone."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Put a fault in force, after those there are."""
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        """End all faults."""
        with self._lock:
            self._faults.clear()

    def __iter__(self) -> Iterator[Fault]:
        with self._lock:
            return iter(list(self._faults))

    def pick(self, side: Side, method: str, path: str, body: bytes) -> Fault | None:
        """Return the fault that happens to this request, and count it."""
        with self._lock:
            for fault in self._faults:
                if fault.matches(side, method, path, body) and fault.due():
                    return fault
        return None

    def any(self, side: Side) -> bool:
        """Return whether any fault is in force on that side, so that a request needs looking at."""
        return any(fault.side == side for fault in self._faults)


class FaultMiddleware:
    """Stands outermost in one of the servers and lets the ordered faults happen, but for the paths it spares."""

    def __init__(self, app: ASGIApp, faults: Faults, side: Side, clock: Clock, spared: tuple[str, ...] = ()) -> None:
        self._app = app
        self._faults = faults
        self._side = side
        self._clock = clock
        self._spared = spared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a fault, or hand the request on untouched."""
        if not self._faults.any(self._side) or scope["path"].startswith(self._spared):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        fault = self._faults.pick(self._side, scope["method"], scope["path"], body)
        if fault is None:
            await self._app(scope, _replay(body, receive), send)
        elif fault.kind in {"status", "invalid_json", "drop"}:
            await _answer(fault, send)
        elif fault.kind == "reset":
            await _reset(receive, send)
        elif fault.kind == "hang":
            await _gone(receive)
        else:
            answer = _Answer()
            await self._app(scope, _replay(body, receive), answer.take)
            await self._spoil(fault, answer, receive, send)

    async def _spoil(self, fault: Fault, answer: "_Answer", receive: Receive, send: Send) -> None:
        """Spoil the answer to a request that was worked off."""
        if fault.kind == "drip":
            await self._drip(fault, answer, receive, send)
            return
        if fault.kind == "reset_mid_body":
            await send(answer.start)
            await send(_part(answer.body[: len(answer.body) // 2]))
        await _reset(receive, send)

    async def _drip(self, fault: Fault, answer: "_Answer", receive: Receive, send: Send) -> None:
        await send(answer.start)
        async with _watched(receive) as gone:
            for byte in answer.body[: fault.drip_bytes]:
                # Time passes for a client that waits; for none that has gone away.
                await asyncio.sleep(0)
                if gone.done():
                    return
                self._clock.advance(timedelta(seconds=fault.drip_seconds))
                await send(_part(bytes([byte])))
        rest = b"" if fault.drip_bytes is None else answer.body[fault.drip_bytes :]
        await send({"type": "http.response.body", "body": rest})


class _Answer:
    """An answer that is kept back."""

    def __init__(self) -> None:
        self.start: Message = {}
        self.body = b""

    async def take(self, message: Message) -> None:
        """Be what an application sends to."""
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message.get("body", b"")


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}


async def _read(receive: Receive) -> bytes:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


def _replay(body: bytes, receive: Receive) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    return again


async def _answer(fault: Fault, send: Send) -> None:
    body = {"invalid_json": _NO_JSON, "drop": {"ok": True}}.get(fault.kind) if fault.body is None else fault.body
    content = b"" if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
    headers = {"content-type": "application/json", **fault.headers, "content-length": str(len(content))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    status = fault.status or _USUAL_STATUS.get(fault.kind, 503)
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def _gone(receive: Receive) -> None:
    """Wait until the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)


@asynccontextmanager
async def _watched(receive: Receive) -> AsyncIterator["asyncio.Task[None]"]:
    """A task that is done when the client has gone away."""
    task = asyncio.create_task(_gone(receive))
    try:
        yield task
    finally:
        task.cancel()


async def _reset(receive: Receive, send: Send) -> None:
    # ASGI has no word for this; uvicorn's `send` is a method of the request's cycle, which holds the connection.
    send.__self__.transport.abort()  # type: ignore[attr-defined]
    await _gone(receive)
