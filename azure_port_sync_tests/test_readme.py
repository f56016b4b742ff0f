"""The README and the page of the fault matrix say what the code does."""

from pathlib import Path

from azure_port_sync.docs import with_settings
from azure_port_sync.settings import Settings
from azure_port_sync_tests import matrix

ROOT = Path(__file__).parent.parent


def test_the_settings_table_is_current() -> None:
    """`make docs` brings it up to date."""
    readme = (ROOT / "README.md").read_text()

    assert all(f"`{name}`" in readme for name in Settings.model_fields)
    assert with_settings(readme) == readme


def test_the_fault_matrix_is_current() -> None:
    """`make matrix` writes it from what happens, and the tests of the cells hold that against the same table."""
    page = (ROOT / "docs" / "fault-matrix.md").read_text(encoding="utf-8")

    assert page == matrix.rendered(matrix.EXPECTED)
