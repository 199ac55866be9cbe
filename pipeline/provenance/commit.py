"""The commit of this project's code, and the versions that a result is kept with."""

from __future__ import annotations

import getpass
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The project's folder, whichever folder a command is started in."""
CODE = ("pipeline", "stages")
"""What a change makes a checkout 'dirty'."""


def git_commit() -> str:
    """The commit of the code that runs, with '-dirty' when code differs from it.

    'unknown' where the project is no repository: unpacked from an archive, also within a repository of something else,
    whose commits say nothing of this code. The code's digest tells it then.
    """
    try:
        top = _git("rev-parse", "--show-toplevel")
        if not top or Path(top).resolve() != ROOT:
            return "unknown"
        commit = _git("rev-parse", "HEAD")
    except OSError:
        return "unknown"  # git is not installed
    return f"{commit}-dirty" if commit and _git("status", "--porcelain", "--", *CODE) else commit or "unknown"


def _git(*arguments: str) -> str:
    """What git prints; "" where it fails."""
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else ""


def user_name() -> str:
    """Who runs the code; 'unknown' where a container runs as a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    packages = ("torch", "numpy", "pandas")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
