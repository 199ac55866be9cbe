"""docs/tutorial.md, run as a reader would, command after command, in a copy of the repository with short attacks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from tests.test_chain import copy_working_tree

PAGE = (REPOSITORY / "docs/tutorial.md").read_text()
BLOCK = re.compile(r"^```(console|yaml)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
ENVIRONMENT = "source .venv/bin/activate"
ATTACKS = ("pgd20_linf", "pgd20_l2", "aa_linf", "aa_l2")


def shrink(folder: Path, *suites: str) -> None:
    """Attacks of few steps in suites of a copy, and no pictures: the commands are run as they are printed."""
    for suite in suites:
        path = folder / f"conf/suite/{suite}.yaml"
        content = yaml.safe_load(path.read_text())
        content["threat_model"] = {norm: {"steps": 1} for norm in ("linf", "l2")}
        attacks = content.setdefault("evaluation", {}).setdefault("attacks", {})
        base = yaml.safe_load((folder / "conf/base.yaml").read_text())["evaluation"]["attacks"]
        attacks.update({name: None for name in base if name not in ATTACKS})
        for name in ATTACKS[2:]:
            attacks[name] = {"targets": 1, "queries": 5, "images": 2}
        path.write_text("# @package _global_\n" + yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each command printed; the copy is left as the page leaves it."""
    folder = tmp_path_factory.mktemp("tutorial") / "repository"
    copy_working_tree(folder)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    shrink(folder, "digits")
    run("python -m stages.compose suite=digits --overwrite", folder)
    found = {"folder": str(folder), "params before": (folder / "params.yaml").read_text()}
    for kind, content in BLOCK.findall(PAGE):
        if kind == "yaml":
            path = folder / "params.yaml"
            path.write_text(path.read_text().replace("\nmethods:\n", f"\nmethods:\n{content}", 1))
            continue
        for line in content.splitlines():
            command = line.removeprefix("$ ")
            if command != ENVIRONMENT:
                found[command] = run(command, folder)
    return found


def run(command: str, folder: Path) -> str:
    """What a command prints, in the environment that runs the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def output(said: dict[str, str], beginning: str) -> str:
    (found,) = (text for command, text in said.items() if command.startswith(beginning))
    return found


def test_the_schedule_is_scaled_and_the_two_methods_are_trained(said: dict[str, str]) -> None:
    assert "scaled in proportion from 15 epochs to 6" in output(said, "python -m stages.compose suite=digits comp")
    trained = output(said, "dvc repro")
    assert "stages.train 'mine'" in trained and "stages.evaluate 'generalist_d_nt_linf'" in trained


def test_the_table_has_the_new_method_and_the_command_for_the_others(said: dict[str, str]) -> None:
    table = (Path(said["folder"]) / "reports/digits/small_cnn/tables/table1.md").read_text()
    (row,) = (line for line in table.splitlines() if line.startswith("| Generalist-D, c = 2"))
    assert re.search(r"\| \D*\d\d\D* \|", row) and "dvc repro evaluate@nt-1" in table


def test_the_comparison_and_the_origin_are_told(said: dict[str, str]) -> None:
    assert "aa_linf" in output(said, "python -m stages.compare")
    told = output(said, "python -m stages.explain")
    assert "mine-1 of suite digits" in told and "this code" in told


def test_the_model_is_exported_and_params_are_as_before(said: dict[str, str]) -> None:
    exported = list((Path(said["folder"]) / "exports").rglob("model.safetensors"))
    assert len(exported) == 1 and "mine" in str(exported[0])
    kept = Path(said["folder"]) / "params.yaml.bak"
    assert "extends: generalist_d_nt_linf" in kept.read_text()
    assert (Path(said["folder"]) / "params.yaml").read_text() == said["params before"]
