"""Where a result comes from: code, machine, versions."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version


def git_commit() -> str:
    """The commit of the code that runs, with '-dirty' when files differ from it; 'unknown' outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on."""
    packages = ("torch", "numpy", "pandas")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
