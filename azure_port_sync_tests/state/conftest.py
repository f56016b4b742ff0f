"""Every test of the state store runs on SQLite and on a Postgres that is started for these tests alone.

Postgres is skipped where its server binaries are missing (Debian: `apt-get install postgresql`), and so is PgBouncer.
"""

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from azure_port_sync.state import StateStore
from azure_port_sync_tests.support.clocks import SteppedClock
from azure_port_sync_tests.support.postgres import as_server, emptied, unavailable, url_of
from azure_port_sync_tests.support.postgres import server as running_server


@pytest.fixture(scope="session")
def server() -> Iterator[Path]:
    """The folder of a private server's Unix socket."""
    if why := unavailable():
        pytest.skip(why)
    with running_server() as folder:
        yield folder


@pytest.fixture
def postgres(server: Path) -> str:
    """The URL of an empty database on Postgres."""
    return emptied(url_of(server))


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state.sqlite'}"
    return str(request.getfixturevalue("postgres"))


@pytest.fixture
def clock() -> SteppedClock:
    """A clock that stands at NOW, and moves where a test sleeps. It is SQLite's too; Postgres has its own."""
    return SteppedClock.frozen()


@pytest.fixture
def store(url: str, clock: SteppedClock) -> Iterator[StateStore]:
    """An empty store."""
    opened = StateStore(url, clock)
    yield opened
    opened.close()


@pytest.fixture
def pgbouncer(postgres: str, server: Path) -> Iterator[str]:
    """The URL of an empty database behind PgBouncer in transaction mode, which has two connections for all."""
    program = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    folder = server / "pgbouncer"
    folder.mkdir(exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
    (folder / "users").write_text('"sync" ""\n')
    (folder / "ini").write_text(
        f"[databases]\npostgres = host={server}\n[pgbouncer]\nunix_socket_dir = {folder}\nlisten_port = 6432\n"
        f"listen_addr =\nauth_type = trust\nauth_file = {folder / 'users'}\npool_mode = transaction\n"
        "default_pool_size = 2\nserver_round_robin = 1\n"
    )
    with subprocess.Popen(as_server(program, "-q", str(folder / "ini")), stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(folder / ".s.PGSQL.6432", process)
            yield f"postgresql://sync@/postgres?host={folder}&port=6432"
        finally:
            process.terminate()


def _wait_for(listening: Path, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(listening)) == 0:
                return
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    pytest.fail("pgbouncer did not start")
