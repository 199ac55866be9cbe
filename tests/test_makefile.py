"""What make does before anything long starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import LONG, ONE_AFTER_ANOTHER, REPOSITORY, SLOW


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with all that an installation in this very place leaves behind."""
    folder = tmp_path / "checkout"
    (folder / ".venv/bin").mkdir(parents=True)
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, folder)
    (folder / ".venv/bin/.installed").write_text(f"{folder}\n")
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "JOBS")}
    return subprocess.run(
        ["make", "--dry-run", *arguments], cwd=folder, env=environment, text=True, capture_output=True, check=False
    )


def test_an_installation_in_its_place_is_left_alone(checkout: Path) -> None:
    assert "-m venv" not in make(checkout, "setup").stdout


def test_a_moved_checkout_is_installed_anew(checkout: Path) -> None:
    """Scripts in .venv name the folder that they were installed in: none of them would start."""
    moved = checkout.rename(checkout.with_name("moved"))
    assert "-m venv .venv" in make(moved, "setup").stdout
    assert make(moved, "repro").stdout.index("-m venv .venv") < make(moved, "repro").stdout.index("dvc repro")


def test_a_copy_is_installed_anew_and_the_original_left_alone(checkout: Path) -> None:
    copied = shutil.copytree(checkout, checkout.with_name("copy"))
    assert "-m venv .venv" in make(copied, "setup").stdout
    assert "-m venv" not in make(checkout, "setup").stdout


@pytest.mark.parametrize("jobs", ["0", "-1", "two", "1.5", ""])
def test_jobs_are_a_whole_number_from_1(checkout: Path, jobs: str) -> None:
    done = make(checkout, "repro", f"JOBS={jobs}")
    assert done.returncode == 2 and "JOBS is how many experiments run at a time" in done.stderr


def test_a_folder_where_mlflow_cannot_be_installed_is_refused_before_it_is_tried(checkout: Path) -> None:
    done = make(checkout.rename(checkout.with_name("100%20 #1?")), "setup")
    assert done.returncode == 2 and "with a '%' in its name, as here; rename it" in done.stderr
    fine = make(checkout.with_name("100%20 #1?").rename(checkout.with_name("20 #1?")), "setup")
    assert "-m venv .venv" in fine.stdout


def test_without_a_python_that_fits_the_way_out_is_said(checkout: Path) -> None:
    (checkout / ".venv/bin/.installed").unlink()
    assert "Python 3.11 or 3.12 is needed" in make(checkout, "setup", "PYTHON=").stdout


FAKE = """#!/bin/bash
echo "$3" >>begun
case "$3" in a) exit 1;; stopped) exit 75;; esac
"""


def measured_on_corrupted(folder: Path, *methods: str) -> tuple[int, list[str]]:
    """The step of `make beyond` that measures methods, with programs in place of DVC and Python."""
    programs = folder / ".venv/bin"
    listed = "\n".join(f"echo ood@{method}-1" for method in methods)
    for name, text in (("python", FAKE), ("dvc", f"#!/bin/bash\n{listed}\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    lines = make(folder, "beyond", "JOBS=1").stdout.replace("\\\n", "").splitlines()
    (step,) = [line for line in lines if "xargs" in line]
    path = f"{programs}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", step], cwd=folder, env={**os.environ, "PATH": path}, check=False)
    return done.returncode, (folder / "begun").read_text().split()


def test_one_that_fails_ends_no_other_and_fails_in_the_end(checkout: Path) -> None:
    assert measured_on_corrupted(checkout, "a", "b", "c") == (123, ["a", "b", "c"])


def test_a_stop_begins_no_other(checkout: Path) -> None:
    code, begun = measured_on_corrupted(checkout, "stopped", "b", "c")
    assert code != 0 and begun == ["stopped"]


@pytest.mark.parametrize("name", ["PYTHONHOME", "PYTHONWARNINGS", "GIT_DIR"])
def test_what_breaks_python_or_hides_the_checkout_does_not_reach_commands(checkout: Path, name: str) -> None:
    (checkout / "more").write_text("include Makefile\nshow:\n\t@env\n")
    done = subprocess.run(
        ["make", "--file", "more", "show"],
        cwd=checkout,
        env={**os.environ, name: "/none"},
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0 and f"{name}=" not in done.stdout and "\nLOGNAME=" in done.stdout


@pytest.mark.parametrize("name", [*SLOW, *LONG, *ONE_AFTER_ANOTHER])
def test_what_make_test_leaves_out_or_begins_first_is_there(name: str) -> None:
    file, _, function = name.partition("::")
    found = [REPOSITORY / file] if file.endswith(".py") else list((REPOSITORY / file).rglob("test_*.py"))
    assert found and all(f"def {function.partition('[')[0]}" in path.read_text() for path in found)
