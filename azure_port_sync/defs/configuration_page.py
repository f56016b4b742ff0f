"""The page docs/configuration.md, generated from the code: `make docs` writes it."""

from pathlib import Path
from typing import Any, get_args

import dagster as dg
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from azure_port_sync.defs.config import Backfill, Only, SyncConfig
from azure_port_sync.defs.port_setup import SetupConfig
from azure_port_sync.defs.resources import AzureResource, PortResource, StateResource
from azure_port_sync.defs.retention import RetentionConfig
from azure_port_sync.settings import Settings

PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"

_INTRODUCTION = """# Configuration

Every setting and every field of the launchpad, with its default. `make docs` writes this page from the code.

## Environment

Settings come from the environment, or from a file `.env` in the folder that Dagster runs in. An empty variable is an
unset one. A wrong value fails the run with one sentence and an example, before anything is read or sent. Those
marked *secret* are read from the environment only and appear nowhere ([security.md](security.md)).

"""

_LAUNCHPAD = """
## Launchpad

A person can ask more of one run than the schedules do, below `ops` in the launchpad of a job:

```yaml
ops:
  azure_change_set:
    config:
      mode: incremental
      only: {resource_groups: ["web"]}
```

"""

_RESOURCES = """
## Resources

Where one environment serves several deployments, the resources take the names of the variables to read instead. A
secret is never a value here.

"""

_CLASSES: tuple[tuple[str, type[dg.Config]], ...] = (
    ("`incremental_sync` and `full_sync`: `azure_change_set`", SyncConfig),
    ("`only`", Only),
    ("`backfill`", Backfill),
    ("`port_setup`: `port_webhook`", SetupConfig),
    ("`retention`: `delete_old_runs`", RetentionConfig),
)


def configuration() -> str:
    """Return the text of the page."""
    run_config = "\n".join(f"### {title}\n\n{_table('field', config.model_fields)}" for title, config in _CLASSES)
    resources = "\n".join(
        f"### `{name}`\n\n{_table('field', resource.model_fields)}"
        for name, resource in (("azure", AzureResource), ("port", PortResource), ("state", StateResource))
    )
    return _INTRODUCTION + _table("variable", Settings.model_fields) + _LAUNCHPAD + run_config + _RESOURCES + resources


def _table(first: str, fields: dict[str, FieldInfo]) -> str:
    # A field without a description is wired by the code, and configured by nobody.
    rows = [_row(name, field) for name, field in fields.items() if field.description]
    return "\n".join([f"| {first} | default | meaning |", "|---|---|---|", *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    default = _default(field)
    example = f" E.g. `{field.examples[0]}`" if field.examples and not default else ""
    is_secret = field.annotation == SecretStr or SecretStr in get_args(field.annotation)
    secret = " *Secret.*" if is_secret else ""
    return f"| `{name}` | {default} | {field.description}{example}{secret} |".replace("  ", " ")


def _default(field: FieldInfo) -> str:
    value: Any = field.default
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if isinstance(value, str | int | float) else ""
