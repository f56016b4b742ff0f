"""The documentation says what the code does, and its links lead somewhere."""

import re
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from azure_port_sync import cli
from azure_port_sync.definitions import defs
from azure_port_sync.defs import configuration_page
from azure_port_sync.defs.checks import CHANGE_SET_CHECKS, DELIVERY_CHECKS, SNAPSHOT_CHECKS
from azure_port_sync.defs.configuration_page import PAGE, configuration
from azure_port_sync.settings import Settings
from azure_port_sync_tests.support import matrix

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")])


def test_the_page_of_settings_is_current() -> None:
    """`make docs` brings it up to date."""
    assert PAGE.read_text(encoding="utf-8") == configuration()
    assert all(f"`{name}`" in configuration() for name in Settings.model_fields)


def test_the_command_writes_the_page_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration_page, "PAGE", tmp_path / "configuration.md")
    monkeypatch.setattr(sys, "argv", ["azure_port_sync", "docs"])

    assert cli.main() == 0

    assert (tmp_path / "configuration.md").read_text(encoding="utf-8") == configuration()


def test_the_fault_matrix_is_current() -> None:
    """`make matrix` writes it from what happens, and the tests of the cells hold that against the same table."""
    page = (ROOT / "docs" / "fault-matrix.md").read_text(encoding="utf-8")

    assert page == matrix.rendered(matrix.EXPECTED)


def test_each_check_and_each_job_has_its_lines_in_operations() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for check in (*SNAPSHOT_CHECKS, *CHANGE_SET_CHECKS, *DELIVERY_CHECKS):
        assert f"| `{check.name}` | {'blocking' if check.blocking else 'warning'} |" in page
    for job in defs.resolve_all_job_defs():
        if not job.name.startswith("__"):
            assert f"| `{job.name}` |" in page


def test_the_instance_of_a_server_is_that_of_a_laptop_on_postgres() -> None:
    laptop, server = (
        yaml.safe_load((ROOT / file).read_text()) for file in ("dagster.yaml", "deploy/production/dagster.yaml")
    )
    assert server.pop("storage")
    assert server.pop("compute_logs")
    assert server == laptop


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target
