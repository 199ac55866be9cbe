"""No shell is built from settings, nothing foreign is run, archives stay in their folder, servers on this machine."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.data.download import unpack
from tests.bad_input.archives import ESCAPED, archives
from tests.conftest import REPOSITORY
from tests.stages.conftest import clean_environment

SOURCES = sorted(path for name in ("pipeline", "stages", "benchmarks") for path in (REPOSITORY / name).rglob("*.py"))
RUNS_CODE = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "yaml.unsafe_load",
    "yaml.full_load",
}
RUNS_CODE |= {
    "subprocess.getoutput",
    "subprocess.getstatusoutput",
    "shutil.unpack_archive",
    "marshal.loads",
    "joblib.load",
}


def calls(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and named arguments of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg or "": ast.unparse(word.value) for word in node.keywords}


def offences(path: Path) -> Iterator[str]:
    """Calls that run a shell or foreign code."""
    for name, named in calls(path):
        if name in RUNS_CODE or name.startswith("os.exec") or name.startswith("os.spawn"):
            yield name
        if named.get("shell", "False") != "False" or named.get("allow_pickle", "False") != "False":
            yield f"{name}({named})"
        if name == "torch.load" and named.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if name.endswith(".extractall") and named.get("filter") != "'data'":
            yield f"{name} without filter='data'"
        if name == "yaml.load" and "Loader" in named:
            yield "yaml.load with another loader"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_nothing_runs_a_shell_or_foreign_code(path: Path) -> None:
    assert list(offences(path)) == []


def test_such_calls_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(
        "os.system(x)\nsubprocess.run(x, shell=True)\ntorch.load(x)\nnp.load(x, allow_pickle=True)\neval(x)\n"
        "archive.extractall(y)\npickle.loads(x)\nyaml.load(x, Loader=yaml.Loader)\n"
    )
    assert len(list(offences(path))) == 8


@pytest.mark.parametrize(
    "what", [name for name in archives() if "out of the folder" in name or "absolute" in name or "device" in name]
)
def test_an_archive_that_leads_out_of_its_folder_is_not_unpacked(what: str, tmp_path: Path) -> None:
    """The digest of the archive is taken for right."""
    (tmp_path / "archive.tar.gz").write_bytes(archives()[what])
    inner = tmp_path / "a/b/c"
    inner.mkdir(parents=True)
    with contextlib.suppress(tarfile.FilterError):
        unpack(tmp_path / "archive.tar.gz", inner)
    outside = [path.name for path in tmp_path.rglob("*") if not path.is_dir() and inner not in path.parents]
    assert outside == ["archive.tar.gz"] and not Path(ESCAPED).exists()
    assert not [path for path in inner.rglob("*") if path.is_symlink() or path.is_char_device()]


# --- Names with characters of the shell, through make and DVC


HOSTILE = "nt; touch written & $(touch written) `touch written` | touch written > written #"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory, prepared_digits: Path) -> Path:
    """Enough of a repository for one stage of DVC."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pipeline", "stages"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    shutil.copytree(REPOSITORY / "conf", folder / "conf")
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/.installed").write_text(f"{folder}\n")  # to make, everything is installed, and here
    shutil.copytree(prepared_digits, folder / "data/prepared/digits")
    call(folder, sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet")
    return folder


def call(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {"PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_method_with_characters_of_the_shell_is_refused_by_dvc_s_stage(checkout: Path, raw: dict[str, Any]) -> None:
    raw["methods"] = {HOSTILE: raw["methods"]["nt"]}
    (checkout / "params.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    result = call(checkout, sys.executable, "-m", "dvc", "repro", f"train@{HOSTILE}-1")
    assert result.returncode != 0 and "nothing was started" in result.stdout + result.stderr, result
    (checkout / "results").mkdir(exist_ok=True)
    (checkout / "results/addresses.json").write_text(json.dumps({"train": {f"{HOSTILE}-1": "0"}}))
    result = call(checkout, sys.executable, "-m", "dvc", "repro", "--single-item", f"train@{HOSTILE}-1")
    assert result.returncode != 0 and "nothing was started" in result.stdout + result.stderr, result
    assert not (checkout / "written").exists()


@pytest.mark.parametrize("target", ["explain CELL", "suite SUITE"])
def test_make_hands_names_on_as_they_are(checkout: Path, target: str) -> None:
    shutil.copy(REPOSITORY / "params.yaml", checkout)
    goal, variable = target.split()
    result = call(checkout, "make", goal, f"{variable}={HOSTILE.replace('$', '$$')}")
    assert result.returncode != 0 and "error: " in result.stderr and "Traceback" not in result.stderr, result
    assert not (checkout / "written").exists()
