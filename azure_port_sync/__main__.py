"""`python -m azure_port_sync run`, `dev` or `docs`: what the Makefile calls."""

import sys

from azure_port_sync.cli import main

if __name__ == "__main__":
    sys.exit(main())
