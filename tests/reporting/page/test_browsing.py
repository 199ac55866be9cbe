"""From `make ui` to an accuracy with its interval: the real MLflow in a real browser."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from pipeline.grid.local import free_port
from pipeline.tracking import finished_runs, list_of_runs
from stages import ui
from tests.conftest import PATIENCE
from tests.reporting.page.conftest import MEASURED, Suite
from tests.tracking.results import eventually


@pytest.fixture(scope="module")
def place(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the suite, which a server may write to."""
    return Path(shutil.copytree(suite.folder, tmp_path_factory.mktemp("browsed") / "suite"))


@pytest.fixture(scope="module")
def address(place: Path) -> Iterator[str]:
    """What `stages.ui` prints; its server answers, and none of its processes is left afterwards."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    with (place / "ui.log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.ui", "--port", str(port), "--open"],
            cwd=place,
            env=environment | {"BROWSER": "sh -c 'echo \"$1\" >opened' sh %s"},
            stdout=log,
            stderr=log,
        )
        try:
            eventually(lambda: _answers(port))
            children = psutil.Process(process.pid).children(recursive=True)
            log.seek(0)
            (printed,) = (line.strip() for line in log if line.startswith("http"))
            yield printed
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
        assert children and not any(child.is_running() for child in children)


def _answers(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
        return True
    return False


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1700, "height": 900})
    context.set_default_timeout(1000 * PATIENCE)
    expect.set_options(timeout=1000 * PATIENCE)  # MLflow's page takes more than 5 s on a busy machine
    opened = context.new_page()
    opened.goto(address)
    yield opened
    context.close()


def test_the_list_has_the_suites_runs_with_accuracies_and_a_click_gives_intervals(
    page: Page, screenshots: Path
) -> None:
    for method in MEASURED:
        expect(page.get_by_role("link", name=f"{method}-1", exact=True)).to_be_visible()
    for column in ("test/natural", "test/pgd20_linf", "test/aa_linf"):
        expect(page.get_by_text(column, exact=True)).to_be_visible()
    page.screenshot(path=screenshots / "mlflow_list.png")
    page.get_by_role("link", name="at-1", exact=True).click()
    row = page.get_by_role("row", name=re.compile("^pgd20_linf"))
    expect(row).to_have_text(re.compile(r"pgd20_linf\s*\d+\s*\d+ to \d+\s*48"))
    expect(page.get_by_text("dvc repro evaluate@at-1")).to_be_visible()
    page.screenshot(path=screenshots / "mlflow_run.png")


def test_the_browser_is_opened_at_that_address(place: Path, address: str) -> None:
    opened = place / "opened"
    eventually(opened.exists)
    assert opened.read_text() == f"{address}\n"


def test_a_link_of_the_report_shows_the_run(page: Page, address: str, here: Suite) -> None:
    """MLflow opens a run in another mode without the last part of the address."""
    found = finished_runs([here.params.experiment("nt", 1)]).iloc[0]
    link = str(found["page"])
    page.goto(address.partition("#")[0] + "#" + link.partition("#")[2])
    expect(page.get_by_text("dvc repro evaluate@nt-1")).to_be_visible()


def test_a_suite_without_runs_gets_the_list_of_all(tmp_path: Path, here: Suite, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    found = list_of_runs(f"sqlite:///{tmp_path}/mlflow.db", here.params)
    assert found == "#/experiments?workflowType=machine_learning"


def test_a_taken_port_is_refused_with_the_next_free_one(here: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert ui.main(["--port", str(port)]) == 2
    assert re.search(rf"port {port} of 127\.0\.0\.1 is taken .* \d+ is free: make ui PORT=\d+", capsys.readouterr().err)
