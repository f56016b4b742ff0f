"""Processes of this project's interpreter, in an environment made for them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
#: Variables that a process needs from this machine.
MACHINE = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}


def run(
    *command: str, folder: Path, environment: Mapping[str, str], timeout: float = 180
) -> subprocess.CompletedProcess[str]:
    """Run `python -m <command>` in an environment with nothing but what is given."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**MACHINE, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
