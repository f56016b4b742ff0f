"""The documentation that is made from the code: `python -m azure_port_sync.docs` brings it up to date."""

import re
from pathlib import Path

from azure_port_sync.settings import Settings

_README = Path(__file__).parent.parent / "README.md"
_BETWEEN = re.compile(r"(<!-- settings -->\n).*?(<!-- /settings -->)", re.DOTALL)


def settings_table() -> str:
    """The settings as a Markdown table: variable, default, meaning."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = f"`{field.default}`" if isinstance(field.default, str | int) else ""
        example = f" E.g. `{field.examples[0]}`" if field.examples and not default else ""
        rows.append(f"| `{name}` | {default} | {field.description}{example} |".replace("  ", " "))
    return "\n".join(rows) + "\n"


def with_settings(readme: str) -> str:
    """The README with its settings table as it must be."""
    return _BETWEEN.sub(lambda found: found[1] + settings_table() + found[2], readme)


if __name__ == "__main__":
    _README.write_text(with_settings(_README.read_text()))
