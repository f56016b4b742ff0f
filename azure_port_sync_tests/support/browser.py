"""The parts of the walk through the Dagster UI: the real thing running on free ports, and a browser to look at it.

The browser is the machine's own Chromium (Debian: `apt-get install chromium`), driven by Playwright.
"""

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import requests
from playwright.sync_api import Locator, Page, Playwright, expect

from azure_port_sync.sandbox.server import Sandbox
from azure_port_sync_tests.support.dagster_dev import PATIENCE, DagsterDev
from azure_port_sync_tests.support.operator import NOT_RETIRED

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class SandboxDev(DagsterDev):
    """`dagster dev` on a sandbox, with a schedule that ticks every minute and alerts that go to `alerts`."""

    def __init__(self, folder: Path, sandbox: Sandbox, alerts: str) -> None:
        self.sandbox = sandbox
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        settings = {
            "INCREMENTAL_SYNC_CRON": "* * * * *",
            "ALERT_WEBHOOK_URL": alerts,
            "RESOURCE_GROUP_TAG_FILTERS": NOT_RETIRED,
        }
        super().__init__(folder, {**sandbox.environment(), **settings}, port=port)
        self.wait_for(self._answers)

    def finished(self, run_id: str | None = None) -> dg.DagsterRun:
        """Return the first run, or this one, at its end."""
        which = dg.RunsFilter(
            run_ids=[run_id] if run_id else None, statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE]
        )
        return self.wait_for(lambda: next(iter(self.instance.get_runs(which)), None))

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/server_info", timeout=10).ok
        except requests.ConnectionError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def page_of(playwright: Playwright) -> Iterator[Page]:
    """A page of a fresh browser, as wide as a laptop's."""
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
    try:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        yield page
    finally:
        browser.close()


class Visitor:
    """A person in a browser, at the Dagster UI. With `pictures`, pictures of what they see go into that folder."""

    def __init__(self, dev: SandboxDev, page: Page, pictures: Path | None) -> None:
        self.dev = dev
        self.page = page
        self._pictures = pictures

    def open(self, path: str) -> None:
        """Go to a page of the UI."""
        self.page.goto(self.dev.url + path)

    def sees(self, text: str, *, exact: bool = False) -> Locator:
        """Wait until this text is there to be read."""
        found = self.page.get_by_text(text, exact=exact).locator("visible=true").first
        expect(found).to_be_visible()
        return found

    def keep(self, name: str, *, height: int = 900) -> None:
        """Take a picture, of a window of this height."""
        if self._pictures is None:
            return
        self.page.set_viewport_size({"width": 1440, "height": height})
        self.page.wait_for_load_state("load")
        self.page.wait_for_timeout(2500)  # for a picture only: charts and edges fade in
        self._pictures.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self._pictures / f"{name}.png")
        self.page.set_viewport_size({"width": 1440, "height": 900})

    def launch(self, job: str, *config: str, picture: str | None = None) -> dg.DagsterRun:
        """Launch a job from the launchpad with these lines below `config`, and wait for the run's end on its page."""
        self.open(f"/locations/azure_port_sync/jobs/{job}/playground")
        self.sees("No errors")
        editor = self.page.locator(".CodeMirror").first
        editor.click()
        self.page.keyboard.press("Control+A")
        lines = ["ops:", "  azure_change_set:", "    config:", *(f"      {line}" for line in config)]
        editor.evaluate("(element, text) => element.CodeMirror.setValue(text)", "\n".join(lines))
        self.sees("No errors")
        if picture:
            self.keep(picture)
        self.page.get_by_role("button", name="Launch Run").click()
        self.page.wait_for_url("**/runs/*")
        return self.dev.finished(self.page.url.rpartition("/")[2].partition("?")[0])
