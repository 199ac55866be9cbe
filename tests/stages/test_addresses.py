"""The address of a stage changes with a line that it reaches, in every module of the package, and DVC runs it then."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Params, load_params
from pipeline.core.files import write_json
from pipeline.provenance.addresses import EXPERIMENTS, addresses
from pipeline.provenance.closure import Sources
from pipeline.provenance.code import code_of
from tests.conftest import REPOSITORY
from tests.test_chain import copy_working_tree, write_params

pytestmark = pytest.mark.timeout(1800)

MODULES = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "pipeline").rglob("*.py"))
SEEN_BY_DVC = ("devices", "streams", "evaluation/verdicts", "objectives/natural", "reporting/style", "training/weights")
"""Modules of which DVC is asked, too: of objects that training, evaluation, both or neither reaches."""
STAGES = [f"{stage}@{method}-1" for stage in ("train", "evaluate") for method in ("nt", "generalist_d_nt_linf")]


class Copy:
    """A copy of the project whose two experiments are trained and evaluated by DVC."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        copy_working_tree(folder)
        write_params(folder, learning_rate=0.05)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        command = ["dvc", "repro", *(f"evaluate@{method}-1" for method in ("nt", "generalist_d_nt_linf"))]
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        self.params: Params = load_params(folder / "params.yaml")
        self.before = self.codes()

    @property
    def modules(self) -> Sources:
        """The source as it lies there now."""
        return Sources({name: self.folder / name for name in ("pipeline", "stages")}, self.folder / "kept")

    def codes(self) -> dict[str, str]:
        """The digest of every stage's code, read now."""
        modules, experiments = self.modules, list(self.params.experiments())
        wanted = [(stage, one) for stage in EXPERIMENTS[:2] for one in experiments]
        return {f"{stage}@{one.identifier}": code_of(stage, one, modules).digest for stage, one in wanted}

    def changed(self) -> set[str]:
        """The stages whose code is not that of before."""
        now = self.codes()
        return {name for name in STAGES if now[name] != self.before[name]}

    def changed_for_dvc(self) -> set[str]:
        """The stages that `dvc repro` would run for what changed, and not for what would come of running others."""
        from dvc.repo import Repo

        write_json(self.folder / "results/addresses.json", addresses(self.params, self.modules))
        with chdir(self.folder), Repo() as repo:
            found: dict[str, list[Any]] = repo.status(targets=STAGES)
        return {name.rpartition(":")[2] for name, reasons in found.items() if "addresses.json" in str(reasons)}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    folder = tmp_path_factory.mktemp("addresses")
    yield Copy(folder)
    shutil.rmtree(folder)


def mutations(source: str, objects: set[str]) -> Iterator[tuple[str, str]]:
    """A function that is reached and one that is not, as far as the module has them, each with a statement more."""
    lines = source.splitlines(keepends=True)
    tree = ast.parse(source)
    functions: dict[str, ast.FunctionDef] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions[node.name] = node
        elif isinstance(node, ast.ClassDef):
            functions |= {f"{node.name}.{one.name}": one for one in node.body if isinstance(one, ast.FunctionDef)}
    reached = next((name for name in functions if name in objects), None)
    other = next((name for name in functions if name not in objects), None)
    for name in filter(None, (reached, other)):
        last = functions[name].body[-1]
        lines_before, lines_from = lines[: last.lineno - 1], lines[last.lineno - 1 :]
        yield name, "".join([*lines_before, " " * last.col_offset + "_changed = 1\n", *lines_from])
    if not functions:
        yield "", source + "\n_changed = 1\n"


@pytest.mark.parametrize("module", MODULES)
def test_a_changed_line_changes_the_address_of_the_stages_that_reach_it(copy: Copy, module: str) -> None:
    path = copy.folder / module
    source = path.read_text()
    name = module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    experiments = list(copy.params.experiments())
    objects = {
        item.partition(":")[2]
        for stage in EXPERIMENTS[:2]
        for one in experiments
        for item in code_of(stage, one).objects
        if item.startswith(f"{name}:")
    }
    try:
        for changed, text in mutations(source, objects):
            path.write_text(text)
            by_address = copy.changed()
            assert bool(by_address) == (changed in objects), f"{name}:{changed}"
            if module in {f"pipeline/{one}.py" for one in SEEN_BY_DVC}:
                assert copy.changed_for_dvc() == by_address, f"{name}:{changed}"
    finally:
        path.write_text(source)
