"""Small servers for what the sandbox does not play: raw bytes, and the channel that alerts are posted to."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import parse_headers
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def speaking(answer: bytes) -> Iterator[str]:
    """Serve these bytes to every request and close the connection; yields the base URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            # A request that is not read to its end resets the connection at its close, and the answer may be lost.
            with connection, connection.makefile("rb") as request:
                request.readline()
                request.read(int(parse_headers(request).get("Content-Length", 0)))
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


class Channel:
    """The address that alerts are posted to, as Slack and Teams accept them; `status` is what it answers."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.status = 200
        channel = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(channel.status)
                self.end_headers()
                if channel.status == 200:
                    channel.posted.append(body["text"])

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/a-secret-key"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
