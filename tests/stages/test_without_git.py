"""The commit that is recorded is this project's: without git, inside another repository, in a worktree, shallow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_chain import copy_working_tree, write_params

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "protocol.file.allow=always")


def call(folder: Path, *command: str) -> str:
    """Run a command that must succeed; returns what it says."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    for name in ("MLFLOW_TRACKING_URI", "GIT_DIR", "GIT_WORK_TREE"):
        environment.pop(name, None)
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def commit_all(folder: Path) -> None:
    call(folder, "git", "init", "--quiet")
    call(folder, "git", "add", "--all")
    call(folder, "git", *IDENTITY, "commit", "--quiet", "--allow-empty", "--message=all")


def unpack(folder: Path) -> Path:
    """The project as an archive unpacks it."""
    folder.mkdir()
    copy_working_tree(folder)
    write_params(folder, learning_rate=0.05)
    return folder


def without_git(root: Path) -> tuple[Path, str]:
    return unpack(root / "project"), "unknown"


def inside_another(root: Path) -> tuple[Path, str]:
    (root / "outer").mkdir()
    (root / "outer/thesis.txt").write_text("text")
    commit_all(root / "outer")
    return unpack(root / "outer/project"), "unknown"


def inside_another_and_on_another_disk(root: Path) -> tuple[Path, str]:
    """The folders that grow are links."""
    folder, commit = inside_another(root)
    for name in ("results", "runs"):
        (root / "disk" / name).mkdir(parents=True)
        (folder / name).symlink_to(root / "disk" / name)
    return folder, commit


def repository(root: Path) -> Path:
    folder = unpack(root / "repository")
    commit_all(folder)
    return folder


def worktree(root: Path) -> tuple[Path, str]:
    call(repository(root), "git", "worktree", "add", "--quiet", str(root / "worktree"))
    return root / "worktree", call(root / "worktree", "git", "rev-parse", "HEAD").strip()


def shallow_clone(root: Path) -> tuple[Path, str]:
    address = f"file://{repository(root)}"
    call(root, "git", *IDENTITY, "clone", "--quiet", "--depth", "1", address, "clone")
    return root / "clone", call(root / "clone", "git", "rev-parse", "HEAD").strip()


ASK = "from pipeline.provenance.commit import git_commit; print(git_commit())"


@pytest.mark.parametrize("place", [without_git, inside_another, worktree, shallow_clone])
def test_the_commit_is_this_projects_or_unknown(place, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder, commit = place(tmp_path)
    assert call(folder, sys.executable, "-c", ASK) == f"{commit}\n"
    (folder / "pipeline/core/streams.py").open("a").write("\nCHANGED = 1\n")
    changed = commit if commit == "unknown" else f"{commit}-dirty"
    assert call(folder, sys.executable, "-c", ASK) == f"{changed}\n"


@pytest.mark.parametrize("place", [worktree, inside_another_and_on_another_disk])
def test_prepare_train_and_explain_wherever_the_project_lies(place, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder, commit = place(tmp_path)
    said = call(folder, "dvc", "repro", "evaluate@nt-1")
    assert "Running stage 'prepare'" in said and "Running stage 'train@nt-1'" in said
    summary = json.loads((folder / "results/digits/nt-1/train/summary.json").read_text())
    assert summary["git_commit"] == commit
    told = call(folder, sys.executable, "-m", "stages.explain", "table1:nt:natural")
    assert f"commit                {commit}\n" in told and summary["training_code"] in told
    if commit == "unknown":
        assert "git checkout" not in told
        assert "make it again         with the code of these digests" in told
    else:
        assert f"git checkout {commit}" in told
