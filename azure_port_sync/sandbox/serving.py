"""The sandbox's HTTP: uvicorn in a thread, and plain functions as endpoints."""

import json
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import trustme
import uvicorn
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from azure_port_sync.sandbox.port.entity import RefusedError
from azure_port_sync.sandbox.tenant import TenantError

_PATIENCE_SECONDS = 20

Endpoint = Callable[[Request], Awaitable[Response]]


def endpoint_of(handler: Callable[..., object]) -> Endpoint:
    """Return a plain function as an endpoint: path parameters by position, body and query as keywords, JSON back.

    What the caller did wrong is answered 400 with the sentence of the exception.
    """

    async def endpoint(request: Request) -> Response:
        try:
            arguments = json.loads(await request.body() or "{}") | dict(request.query_params)
            result = await run_in_threadpool(handler, *request.path_params.values(), **arguments)
        except (ValueError, TypeError, KeyError, AttributeError, TenantError, RefusedError) as error:
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, 400)
        return JSONResponse(result)

    return endpoint


class Server(uvicorn.Server):
    """One uvicorn server in a thread of its own, on a socket that is bound when the object is made."""

    def __init__(self, app: ASGIApp, port: int, certificate: Path | None = None) -> None:
        # proxy_headers would hide the connection that a "reset" fault closes. Connections are kept for long, so that
        # no test meets a reset it did not order.
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                proxy_headers=False,
                server_header=False,
                date_header=False,  # the time of an answer is the sandbox's
                timeout_keep_alive=120,
                timeout_graceful_shutdown=3,
                ssl_certfile=certificate,
            )
        )
        self._socket = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._socket.getsockname()[1]
        self._serving = threading.Event()
        self._thread = threading.Thread(
            target=self.run, args=([self._socket],), name=f"sandbox-{self.port}", daemon=True
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that requests are answered from here on."""
        await super().startup(sockets)
        self._serving.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close what clients keep open: over TLS a polite close waits for an answer that an idle client never gives."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await super().shutdown(sockets)

    def start(self) -> None:
        """Serve, and return when requests are answered."""
        self._thread.start()
        if not self._serving.wait(_PATIENCE_SECONDS):
            raise RuntimeError(f"the sandbox's server on port {self.port} did not start")

    def stop(self) -> None:
        """Stop, and return when the port is free."""
        self.should_exit = True
        if self._thread.is_alive():
            self._thread.join(_PATIENCE_SECONDS)
        self._socket.close()
        if self._thread.is_alive():
            raise RuntimeError(f"the sandbox's server on port {self.port} did not stop")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write the certificate of a new private CA, and one for this machine that it signed; return both files."""
    authority = trustme.CA()
    ca, server = folder / "ca.pem", folder / "server.pem"
    authority.cert_pem.write_to_path(ca)
    server.touch(mode=0o600)
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    return ca, server
