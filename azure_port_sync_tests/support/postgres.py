"""A Postgres for tests alone, where its server binaries are installed (Debian: `apt-get install postgresql`)."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from azure_port_sync_tests.support.stores import behind_its_back

_POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def unavailable() -> str:
    """Why there can be no server here; nothing when there can."""
    if not _POSTGRES:
        return "no Postgres server binaries below /usr/lib/postgresql"
    if os.geteuid() == 0 and not shutil.which("runuser"):
        return "Postgres does not run as root, and runuser is missing"
    return ""


def as_server(*command: str) -> list[str]:
    """Postgres and PgBouncer refuse to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else list(command)


@contextmanager
def server() -> Iterator[Path]:
    """Yield the folder of a private server's Unix socket."""
    programs = _POSTGRES[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short, because a socket's path may have 107 characters
    try:
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
        data = str(folder / "data")
        quick = f"-k {folder} -c listen_addresses='' -c fsync=off"
        start = [str(programs / "pg_ctl"), "-D", data, "-w", "-o", quick, "-l", str(folder / "log"), "start"]
        initialise = [str(programs / "initdb"), "-D", data, "-U", "sync", "--auth=trust", "-E", "UTF8", "-N"]
        for command in (initialise, start):
            subprocess.run(as_server(*command), check=True, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            yield folder
        finally:
            stop = [str(programs / "pg_ctl"), "-D", data, "-w", "-m", "immediate", "stop"]
            subprocess.run(as_server(*stop), check=True, cwd=folder, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(folder)


def url_of(folder: Path) -> str:
    """Return the URL of the server's database."""
    return f"postgresql://sync@/postgres?host={folder}"


def emptied(url: str) -> str:
    """Return the URL, of a database in which there is nothing any more."""
    with behind_its_back(url) as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")
    return url
