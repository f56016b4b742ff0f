"""The sandbox alone: for a person to play with, and for the launcher to start as a process of its own."""

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from azure_port_sync.sandbox.server import Sandbox


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m azure_port_sync.sandbox", description=__doc__)
    parser.add_argument("--azure-port", type=int, default=0, metavar="N", help="0 (the default) takes a free one")
    parser.add_argument("--port-port", type=int, default=0, metavar="N", help="0 (the default) takes a free one")
    parser.add_argument("--folder", type=Path, default=Path(".sandbox"), help="for certificates and sandbox.json")
    parser.add_argument("--drift", type=float, metavar="SECONDS", help="change something in the tenant every so often")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the tenant and its changes")
    parser.add_argument("--empty-port", action="store_true", help="a Port without the guide's blueprints and webhook")
    parser.add_argument("--stop-with-stdin", action="store_true", help="stop when standard input closes")
    return parser.parse_args()


def _announce(sandbox: Sandbox) -> None:
    """Announce the sandbox to a launcher, by a file that is whole when it appears, and to a person."""
    announced = {"environment": sandbox.environment(), "url": sandbox.url, "pid": os.getpid()}
    draft = sandbox.folder / "sandbox.json.new"
    draft.touch(mode=0o600)
    draft.write_text(json.dumps(announced, indent=2))
    draft.replace(sandbox.folder / "sandbox.json")
    print(f"The sandbox is running. The catalog: {sandbox.url}", f"Azure: {sandbox.azure_url}", sep="\n")
    print("\nTo use it from another shell:\n")
    for name, value in sandbox.environment().items():
        print(f"export {name}={value}")
    print("\nCtrl-C stops it.", flush=True)


def _stop_with_stdin(stop: threading.Event) -> None:
    # Not sys.stdin: a thread that waits in its buffer keeps its lock, and the interpreter could not end.
    while os.read(0, 4096):
        pass
    stop.set()


def main() -> None:
    """Serve until Ctrl-C, SIGTERM or, when asked, the end of standard input."""
    arguments = _arguments()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    if arguments.stop_with_stdin:
        threading.Thread(target=_stop_with_stdin, args=(stop,), daemon=True).start()
    (arguments.folder / "sandbox.json").unlink(missing_ok=True)
    try:
        sandbox = Sandbox(
            folder=arguments.folder,
            azure_port=arguments.azure_port,
            port_port=arguments.port_port,
            seed=arguments.seed,
            guide=not arguments.empty_port,
            drift_seconds=arguments.drift,
        )
    except OSError as error:  # a port that is taken, a folder that cannot be written
        sys.exit(f"The sandbox cannot start: {error}")
    with sandbox:
        _announce(sandbox)
        stop.wait()
    (arguments.folder / "sandbox.json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
