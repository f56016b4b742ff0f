"""Faults on order: what a network and two busy services do on a bad day, done exactly when a test asks."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

Side = Literal["azure", "port"]


@dataclass
class Fault:
    """One thing that goes wrong: on which requests, what happens, and how often.

    A request matches when all that is given of `path`, `method` and `in_body` does (`path` and `in_body` are
    substrings). The first `skip` matching requests pass, then `times` of them fail (None: all). "reset" closes the
    connection without an answer; "lost" does so after the request has been worked off, as if only the answer went
    astray.
    """

    side: Side
    kind: Literal["status", "reset", "lost"] = "status"
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    path: str = ""
    method: str = ""
    in_body: str = ""
    skip: int = 0
    times: int | None = 1
    seen: int = 0
    fired: int = 0

    def matches(self, side: Side, method: str, path: str, body: bytes) -> bool:
        """Whether this fault is about that request."""
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
        """Everything works again."""
        with self._lock:
            self._faults.clear()

    def __iter__(self) -> Iterator[Fault]:
        with self._lock:
            return iter(list(self._faults))

    def pick(self, side: Side, method: str, path: str, body: bytes) -> Fault | None:
        """The fault that happens to this request, counted."""
        with self._lock:
            for fault in self._faults:
                if fault.matches(side, method, path, body) and fault.due():
                    return fault
        return None

    def any(self, side: Side) -> bool:
        """Whether any fault is in force on that side, so that a request needs looking at."""
        return any(fault.side == side for fault in self._faults)


class FaultMiddleware:
    """Stands outermost in one of the servers and lets the ordered faults happen, but for the paths it spares."""

    def __init__(self, app: ASGIApp, faults: Faults, side: Side, spared: tuple[str, ...] = ()) -> None:
        self._app = app
        self._faults = faults
        self._side = side
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
        elif fault.kind == "status":
            await _answer(fault, send)
        else:
            if fault.kind == "lost":
                await self._app(scope, _replay(body, receive), _nowhere)
            await _reset(receive, send)


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
    content = b"" if fault.body is None else fault.body.encode() if isinstance(fault.body, str) else None
    content = json.dumps(fault.body).encode() if content is None else content
    headers = {"content-type": "application/json", **fault.headers, "content-length": str(len(content))}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": fault.status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


async def _nowhere(_message: Message) -> None:
    """Where a lost answer goes."""


async def _reset(receive: Receive, send: Send) -> None:
    # ASGI has no word for this; uvicorn's `send` is a method of the request's cycle, which holds the connection.
    send.__self__.transport.abort()  # type: ignore[attr-defined]
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)
