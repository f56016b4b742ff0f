"""The README says what the code does."""

from pathlib import Path

from azure_port_sync.docs import with_settings
from azure_port_sync.settings import Settings

ROOT = Path(__file__).parent.parent


def test_the_settings_table_is_current() -> None:
    """`make docs` brings it up to date."""
    readme = (ROOT / "README.md").read_text()

    assert all(f"`{name}`" in readme for name in Settings.model_fields)
    assert with_settings(readme) == readme
