"""Commands where the environment is not as it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def without_packages(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A stage by an interpreter that has the standard library alone (-S: no site-packages)."""
    clean = {key: value for key, value in os.environ.items() if key != "VIRTUAL_ENV"}
    command = [sys.executable, "-S", "-m", "stages.train", "at"]
    variables = {**clean, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)


def test_without_packages_a_stage_says_in_one_line_what_to_do(tmp_path: Path) -> None:
    done = without_packages(tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ") and "run 'make setup' first" in done.stderr
    moved = without_packages(tmp_path, VIRTUAL_ENV=str(tmp_path / "gone"))
    assert moved.returncode == 2 and "was the folder moved? 'rm -rf .venv && make setup'" in moved.stderr
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    made = without_packages(tmp_path)
    assert made.returncode == 2 and "run 'source .venv/bin/activate' first" in made.stderr


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense", "TkAgg"])
def test_a_notebooks_backend_changes_nothing(backend: str, tmp_path: Path) -> None:
    script = (
        "import stages.figures, sys\n"
        "from matplotlib import pyplot\n"
        "from pipeline.reporting import style\n"
        "pyplot.figure().savefig(sys.argv[1])\n"
        "print(pyplot.get_backend())\n"
    )
    environment = {**os.environ, "MPLBACKEND": backend, "PYTHONPATH": str(REPOSITORY)}
    environment.pop("DISPLAY", None)
    command = [sys.executable, "-c", script, str(tmp_path / "a.png")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout.lower()) == (0, "agg\n"), done.stderr
    assert (tmp_path / "a.png").stat().st_size > 100
