"""A small suite that was really trained and evaluated, and a real browser to read its report with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, expect, sync_playwright

from pipeline.config import Params, load_params
from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.train import train_experiment
from tests.conftest import PATIENCE
from tests.running import few_steps

ATTACK = "<script>document.title='taken over'</script>"
"""What a label must not do to the page."""
MEASURED = ["nt", "at", "generalist_d_nt_linf"]


@dataclass(frozen=True)
class Suite:
    """A folder as `make repro` leaves it, with some methods measured and others not."""

    folder: Path

    @property
    def params(self) -> Params:
        return load_params(self.folder / "params.yaml")


def small(content: dict[str, Any]) -> dict[str, Any]:
    """Four methods, of which one stays unmeasured: enough training to differ, and attacks on few images."""
    made = deepcopy(content)
    made["training"]["device"] = "cpu"
    made["data"] |= {"train_images": 400, "test_images": 48}
    made["methods"] = {name: made["methods"][name] for name in [*MEASURED, "generalist_d_linf_l2"]}
    made["methods"]["at"]["label"] = rf"AT ($\ell_\infty$) {ATTACK}"
    made["tables"] = {
        "table1": {**made["tables"]["table1"], "rows": list(made["methods"]), "caption": f"Main & {ATTACK}"},
        "table4": {**made["tables"]["table4"], "rows": list(made["methods"])},
    }
    attacks = made["evaluation"]["attacks"]
    made["evaluation"]["attacks"] = {name: attacks[name] for name in attacks if not name.startswith("pgd100")}
    for name, attack in made["evaluation"]["attacks"].items():
        attack["images"] = None if name.startswith("pgd") else 4
    made["ablation"]["studies"] = {}
    trade_off = made["figures"]["trade_off_natural"]
    made["figures"] = {
        "trade_off_natural": {**trade_off, "groups": [{"label": "all", "methods": MEASURED}]},
        "grad_cam_l2": {**made["figures"]["grad_cam_l2"], "baselines": MEASURED[:2], "methods": MEASURED[2:]},
    }
    return made


@pytest.fixture(scope="session")
def suite(
    tmp_path_factory: pytest.TempPathFactory, tiny_content: dict[str, Any], prepared_digits: Path, empty_store: Path
) -> Suite:
    """Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "params.yaml").write_text(yaml.safe_dump(small(tiny_content), sort_keys=False))
    shutil.copytree(prepared_digits, folder / "data/prepared/digits")
    shutil.copy(empty_store, folder / "mlflow.db")
    made = Suite(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for method in MEASURED:
            experiment = made.params.experiment(method, 1)
            train_experiment(experiment, lambda: None)
            with few_steps():
                evaluate_experiment(experiment)
    return made


@pytest.fixture
def here(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Suite:
    """The suite, as the current folder."""
    monkeypatch.chdir(suite.folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return suite


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None and not os.environ.get("CI"):
        pytest.skip("NOT TESTED: the report in a browser, Chromium is not installed ('make setup' as root installs it)")
    assert chromium is not None, "Chromium is not installed; .ci/system-packages installs it"
    with sync_playwright() as playwright:
        sandbox = [] if os.geteuid() else ["--no-sandbox"]  # root may not use it
        expect.set_options(timeout=1000 * PATIENCE)
        started = playwright.chromium.launch(executable_path=chromium, args=sandbox, timeout=1000 * PATIENCE)
        yield started
        started.close()


@pytest.fixture
def screenshots(tmp_path: Path) -> Path:
    """Where screenshots are kept: the folder that SCREENSHOTS names, where it does."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
