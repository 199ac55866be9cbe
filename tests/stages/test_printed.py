"""Two suites trained and evaluated into one store, and the tables that print them side by side."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline.config import parse_params
from pipeline.config.composing import compose
from pipeline.experiments.evaluate import evaluate_experiment
from pipeline.experiments.train import train_experiment
from stages import printed
from tests.conftest import REPOSITORY, TINY
from tests.running import few_steps

METHODS = ["nt", "at"]
METRICS = {"natural": "Natural", "pgd20_linf": "PGD", "aa_linf": "AA", "union": "Union"}
LARGE = "training.batch_size=24"
EVALUATION = [
    *(f"evaluation.attacks.aa_{norm}.members=[apgd_ce]" for norm in ("linf", "l2")),
    *(f"evaluation.attacks.{name}_{norm}=null" for name in ("pgd100", "large", "noise") for norm in ("linf", "l2")),
]
SUITE = ["suite=digits", *TINY, "training.device=cpu", *EVALUATION]


@dataclass(frozen=True)
class Store:
    """A folder with a store that two suites were evaluated into."""

    folder: Path
    measured: dict[tuple[str, str], dict[str, float]]
    """What each evaluation gave, by suite and method."""
    said: str
    """By the stage, when it first wrote all tables."""

    def write(self, *arguments: str) -> int:
        return printed.main([*arguments, "--file", "mine.yaml"])

    def cells(self, name: str) -> pd.DataFrame:
        frame = pd.read_csv(self.folder / f"reports/printed/{name}.csv", keep_default_na=False)
        return frame.set_index(["suite", "method", "metric"])


def content() -> dict[str, Any]:
    """A file with a table of both suites, and one of a suite that was never run."""
    suites = {
        "small": {"label": "Batches of 16", "compose": SUITE},
        "large": {"label": "Batches of 24", "compose": [*SUITE, LARGE]},
        "never": {"label": "Another seed", "compose": [*SUITE, "seeds=[7]"]},
    }
    columns = [{"metric": metric, "label": label} for metric, label in METRICS.items()]
    both = [{"label": "Small", "suite": "small"}, {"label": "Large", "suite": "large"}]
    tables = {
        "both": {"caption": "Two suites", "rows": METHODS, "columns": columns, "groups": both},
        "nothing": {"caption": "Never run", "rows": METHODS, "groups": [{"label": "Never", "suite": "never"}]},
    }
    return {"suites": suites, "tables": tables}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, prepared_digits: Path, empty_store: Path) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("printed")
    shutil.copytree(prepared_digits, folder / "data/prepared/digits")
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "conf").symlink_to(REPOSITORY / "conf")
    (folder / "mine.yaml").write_text(yaml.safe_dump(content()))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        measured = {}
        for suite, overrides, methods in (("small", SUITE, METHODS), ("large", [*SUITE, LARGE], METHODS[:1])):
            params = parse_params(yaml.safe_load(compose(overrides, Path("conf"))))
            for method in methods:
                experiment = params.experiment(method, 1)
                train_experiment(experiment, lambda: None)
                with few_steps():
                    measured[suite, method] = evaluate_experiment(experiment)
        said = io.StringIO()
        with redirect_stdout(said):
            assert Store(folder, measured, "").write() == 0
        yield Store(folder, measured, said.getvalue())


def test_every_number_is_that_of_its_suites_evaluation_and_what_is_missing_names_its_command(store: Store) -> None:
    cells = store.cells("both")
    assert len(cells) == 2 * len(METHODS) * len(METRICS)
    for (suite, method), metrics in store.measured.items():
        for metric in METRICS:
            assert cells.loc[(suite, method, metric), "value"] == f"{100 * metrics[metric]:.2f}"
    compose_command = f'make suite SUITE=digits SET="{" ".join([*SUITE[1:], LARGE])}"'
    commands = {cells.loc[("large", METHODS[1], metric), "command"] for metric in METRICS}
    assert commands == {f"{compose_command} && dvc repro evaluate@{METHODS[1]}-1"}
    markdown = (store.folder / "reports/printed/both.md").read_text()
    assert "| Method | Small: Natural | " in markdown and "Large: Union" in markdown
    assert f"Not measured yet: `{compose_command} && dvc repro evaluate@{METHODS[1]}-1`." in markdown


def test_a_table_without_any_number_is_written_only_where_it_is_named(store: Store) -> None:
    folder = store.folder / "reports/printed"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "both.md" in before and "nothing.md" not in before
    assert "nothing: nothing is measured yet; 'python -m stages.printed nothing' writes it empty" in store.said
    assert store.write("nothing") == 0
    assert "&& make repro`." in (folder / "nothing.md").read_text() and (folder / "both.md").exists()
    assert store.write() == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "what was left over is gone"


def test_overrides_are_of_all_suites(store: Store) -> None:
    assert store.write("both", "--set", "seeds=[1,2]", "--output", "seeds") == 0
    rows = pd.read_csv("seeds/both.csv", keep_default_na=False)
    first = rows[(rows["suite"] == "small") & (rows["method"] == METHODS[0])]
    assert set(first["seeds"]) == {1}
    assert all(
        'seeds=[1,2]" && dvc repro' in command and command.endswith(f"evaluate@{METHODS[0]}-2")
        for command in first["command"]
    )


def test_latex_sets_the_table_with_its_headings(store: Store) -> None:
    pdflatex = shutil.which("pdflatex")
    if pdflatex is None and os.environ.get("CI"):
        pytest.fail("PDFs WERE NOT TESTED: pdflatex is not installed")
    folder = store.folder / "reports/printed"
    names = {path.name for path in folder.iterdir()}
    assert ("tables.pdf" in names) == (pdflatex is not None)
    assert ("both.png" in names) == (pdflatex is not None and shutil.which("pdftoppm") is not None)
    if pdflatex is not None and shutil.which("pdftotext"):
        command = ["pdftotext", "-layout", str(folder / "tables.pdf"), "-"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert "Small" in shown and "Large" in shown
        assert f"{100 * store.measured['large', 'nt']['union']:.0f}" in shown


def test_a_table_that_is_not_there_is_refused(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert store.write("bot") == 2
    assert capsys.readouterr().err == "error: unknown table 'bot': did you mean 'both'? Valid: both, nothing\n"
