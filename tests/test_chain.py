"""The chain as a person runs it: DVC, real stages, real MLflow, from an empty checkout to tables and back."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pipeline.reporting.drawing import COVERAGE
from stages import addresses, explain, figures, tables
from tests.conftest import PATIENCE, REPOSITORY, TINY, content_of
from tests.tracking.results import all_runs

pytestmark = pytest.mark.timeout(1800)

METHODS = ["nt", "generalist_d_nt_linf"]
FIGURES = ["trade_off_natural", "training_curves_d"]
TABLES = ["table1.csv", "table1.md", "table1.tex", *(["tables.pdf"] if shutil.which("pdflatex") else [])]
PARTS = [
    *(".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "Makefile", "conf", "constraints.txt", "dvc.yaml"),
    *("ood", "pipeline", "prefect.yaml", "pyproject.toml", "stages", "tests"),
]
"""What a checkout needs to run."""


@dataclass(frozen=True)
class Repro:
    """One `dvc repro`."""

    output: str
    seconds: float
    """Of the processor, of all processes."""

    @property
    def ran(self) -> set[str]:
        """The stages that ran, but for the one that finds out which must."""
        return set(re.findall(r"Running stage '([^']+)'", self.output)) - {"addresses"}


@dataclass
class Checkout:
    """A copy of this working tree as a repository of its own, with a small params.yaml."""

    folder: Path
    tables: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Content of the tables by the moment they were read."""
    figures: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The same of the figures, where they were drawn."""
    runs: dict[str, list[Any]] = field(default_factory=dict)
    """MLflow's runs by the moment they were read."""
    repros: dict[str, Repro] = field(default_factory=dict)
    trained_beside: str = ""
    """What the training of all experiments said, as `make repro` begins it."""
    would_run: set[str] = field(default_factory=set)
    """What DVC would run where one method's learning rate is another."""
    tables_said: dict[str, str] = field(default_factory=dict)
    """What the stages that write tables and explain a cell said."""

    def call(self, *command: str) -> str:
        """Run a command that must succeed; returns what it says."""
        unset = ("MLFLOW_TRACKING_URI", "PYTHONDONTWRITEBYTECODE")  # without kept bytecode every start takes longer
        environment = {key: value for key, value in os.environ.items() if key not in unset}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment |= {"PATH": path, "PYTHONPATH": str(self.folder), "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
        result = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=2 * PATIENCE
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout + result.stderr

    def repro(self, moment: str, *targets: str) -> None:
        """Run `dvc repro`, and keep what it says and leaves."""
        before = processor_seconds()
        self.repros[moment] = Repro(self.call("dvc", "repro", *targets), processor_seconds() - before)
        if (self.folder / "mlflow.db").exists():
            self.look(moment, "reports/digits/small_cnn/tables")

    def write(self, moment: str, store: Path) -> None:
        """Write tables and figures into folders of this moment, and keep what that says and leaves.

        In this process, which keeps a database open, even one that was deleted since: each moment has its own `store`.
        """
        said = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
            patch.chdir(self.folder)
            patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
            assert tables.main(["--output", moment]) == 0, said.getvalue()
            assert figures.main(["--output", f"{moment}, drawn"]) == 0, said.getvalue()
            assert explain.main(["table1:nt:natural"]) == 0, said.getvalue()
        self.tables_said[moment] = said.getvalue()
        self.look(moment, moment)
        self.figures[moment] = contents(self.folder / f"{moment}, drawn")

    def look(self, moment: str, folder: str) -> None:
        """Keep the tables and the runs of this moment."""
        self.tables[moment] = {name: (self.folder / folder / name).read_bytes() for name in TABLES}
        # A copy of its own: MLflow keeps a database open, even one that was deleted since.
        store = shutil.copy(self.folder / "mlflow.db", self.folder.parent / f"{moment}.db")
        self.runs[moment] = all_runs(Path(store))

    def outdated(self) -> set[str]:
        """The stages that DVC would run, with the addresses of the params.yaml that is there now."""
        from dvc.repo import Repo

        with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()):
            patch.chdir(self.folder)
            assert addresses.main([]) == 0
            with Repo() as repo:
                found: dict[str, list[Any]] = repo.status()
        return {name.rpartition(":")[2] for name in found} - {"addresses"}

    def remove(self, *names: str) -> None:
        """Delete files and folders."""
        for name in names:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The repository after all that is done to it here, with what was seen on the way."""
    place = Checkout(tmp_path_factory.mktemp("chain") / "repository")
    copy_working_tree(place.folder)
    write_params(place.folder, learning_rate=0.05)
    place.call("git", "init", "--quiet")
    place.call("git", "add", "--all")
    place.call("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "--quiet", "--message=all")
    place.call("dvc", "repro", "prepare")
    place.trained_beside = place.call("python", "-m", "stages.experiments", "--jobs", "2")
    place.repro("first")
    place.figures["first"] = contents(place.folder / "reports/digits/small_cnn/figures")
    place.repro("again")
    write_params(place.folder, learning_rate=0.04)
    place.would_run = place.outdated()
    write_params(place.folder, learning_rate=0.05)
    place.remove("runs", "results")
    (place.folder.parent / "mlartifacts").symlink_to(place.folder / "mlartifacts")  # beside the copy of the database
    place.write("from MLflow alone", place.folder.parent / "first.db")
    place.remove("mlflow.db", "mlartifacts")
    place.repro("restored", "tables")
    place.write("logged again", place.folder / "mlflow.db")
    return place


@pytest.fixture(scope="module")
def changed(checkout: Checkout) -> Checkout:
    """The same, with another learning rate of one method in the end."""
    write_params(checkout.folder, learning_rate=0.04)
    checkout.repro("changed", "tables")
    return checkout


def processor_seconds() -> float:
    """What the processes that have ended took; their seconds on a clock depend on what else the machine does."""
    times = os.times()
    return times.children_user + times.children_system


def copy_working_tree(destination: Path) -> None:
    """Copy what is in git, and what would be when everything were added; not what runs have left."""
    for name in _listed():
        if (REPOSITORY / name).is_file() and not name.startswith("reports/"):
            (destination / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, destination / name)


def _listed() -> set[str]:
    """Paths of what belongs to this project; where it is no repository, of what the project's folders hold."""
    if not (REPOSITORY / ".git").exists():
        kept = [REPOSITORY / name for name in PARTS]
        files = [path for part in kept for path in (part.rglob("*") if part.is_dir() else [part])]
        return {str(path.relative_to(REPOSITORY)) for path in files if "__pycache__" not in path.parts}
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return set(listed.split("\0")) - {""}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_params(folder: Path, learning_rate: float) -> None:
    """Two methods, tiny; `learning_rate` is that of the method nt alone."""
    content = content_of(*TINY)
    content["methods"] = {name: content["methods"][name] for name in METHODS}
    content["figures"] = {name: content["figures"][name] for name in FIGURES}
    content["figures"]["trade_off_natural"]["groups"] = [{"label": "both", "methods": METHODS}]
    content["ablation"] = {"studies": {}}
    content["methods"]["nt"]["learners"]["natural"]["optimizer"]["learning_rate"] = learning_rate
    for table in content["tables"].values():
        table["rows"] = METHODS
    del content["tables"]["costs"]  # a change of one method's time would change all rows
    attacks = content["evaluation"]["attacks"]
    for name in ("aa_linf", "aa_l2"):
        attacks[name] |= {"images": 4, "members": ["apgd_ce"]}
    content["evaluation"]["attacks"] = {name: attacks[name] for name in ("pgd20_linf", "aa_linf", "pgd20_l2", "aa_l2")}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def cells(table: bytes) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(table))


def test_one_command_leads_from_nothing_to_tables(checkout: Checkout) -> None:
    for method in METHODS:
        assert f"trained {method}-1" in checkout.trained_beside and f"evaluated {method}-1" in checkout.trained_beside
    assert "nt-1" in checkout.trained_beside.split(" have learners in common")[0].split("warm-up of 2: ")[1]
    assert {run.data.tags["shared_warm_up"] for run in checkout.runs["first"]} == {
        "epochs 1 to 2 with nt-1",
        "epochs 1 to 2 with generalist_d_nt_linf-1",
    }
    assert checkout.repros["first"].ran == {"corrupt", "tables", "figures", "report"}, "DVC knows what was trained"
    assert [run.info.status for run in checkout.runs["first"]] == ["FINISHED"] * 2
    tables = checkout.tables["first"]
    found = cells(tables["table1.csv"])
    assert set(found["method"]) == set(METHODS) and len(found) == 2 * 7
    assert found["value"].between(0, 100).all() and not found["missing"].any()
    natural = found[found["metric"] == "natural"].set_index("method")["shown"]
    for name in ("table1.md", "table1.tex"):
        for method in METHODS:
            assert f"{natural[method]:.0f}" in tables[name].decode()


def test_nothing_runs_when_nothing_has_changed(checkout: Checkout) -> None:
    again = checkout.repros["again"]
    assert again.ran == set()
    assert again.seconds < checkout.repros["first"].seconds / 2
    assert checkout.tables["again"] == checkout.tables["first"]


def test_a_change_outdates_what_depends_on_it_alone(checkout: Checkout) -> None:
    assert checkout.would_run == {"train@nt-1", "evaluate@nt-1", "tables", "figures", "report"}


@pytest.mark.slow
def test_a_change_reruns_what_depends_on_it_alone(changed: Checkout) -> None:
    assert changed.repros["changed"].ran == {"train@nt-1", "evaluate@nt-1", "tables"}
    assert len(changed.runs["changed"]) == 3
    before, after = (
        cells(changed.tables[moment]["table1.csv"]).drop(columns="mark") for moment in ("first", "changed")
    )
    for method in METHODS:
        same = before[before["method"] == method].equals(after[after["method"] == method])
        assert same == (method != "nt")


def test_tables_are_made_from_mlflow_alone(checkout: Checkout) -> None:
    assert "logged" not in checkout.tables_said["from MLflow alone"]
    assert re.search(r"warm-up +epochs 1 to 2 with generalist_d_nt_linf-1", checkout.tables_said["from MLflow alone"])
    assert checkout.tables["from MLflow alone"] == checkout.tables["first"]


def test_figures_are_drawn_from_mlflow_alone_to_the_same_bytes(checkout: Checkout) -> None:
    drawn = checkout.figures["first"]
    assert set(drawn) == {f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png", "svg")} | {COVERAGE}
    assert drawn == checkout.figures["from MLflow alone"] == checkout.figures["logged again"]


def test_results_that_dvc_restores_reach_mlflow_again(checkout: Checkout) -> None:
    assert checkout.repros["restored"].ran == set(), "all results are in DVC's cache"
    for method in METHODS:
        assert f"logged {method}-1 to MLflow from its files" in checkout.tables_said["logged again"]
    runs = checkout.runs["logged again"]
    assert {run.data.tags["method"] for run in runs} == set(METHODS)
    assert [(run.info.status, run.data.tags["evaluated"]) for run in runs] == [("FINISHED", "true")] * 2
    assert checkout.tables["logged again"] == checkout.tables["first"]
