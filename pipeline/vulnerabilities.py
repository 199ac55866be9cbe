"""Known vulnerabilities of the pinned packages, as PyPI records them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, RequestError
from pipeline.files import require_file

KNOWN = "pip"
"""A package that PyPI has in any case: whoever does not know it does not know the others."""
TIMEOUT = 15
"""Seconds for each answer."""


def audit(pins: Path) -> tuple[int, list[str]]:
    """Look up every pinned package.

    Args:
        pins: A file of lines 'name==version'.

    Returns:
        How many were looked up, and a line for each vulnerability.

    Raises:
        RequestError: the file is missing or pins nothing.
        PipelineError: PyPI's records are out of reach, or do not have some of the packages.
    """
    try:
        lines = require_file(pins).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{pins}: cannot be read ({error}); expected lines such as 'torch==2.11.0'") from None
    pinned = [line for line in lines if "==" in line and not line.startswith("#")]
    if not pinned:
        raise RequestError(f"{pins}: pins no package; expected lines such as 'torch==2.11.0'")
    from importlib.metadata import version

    if _unknown(_look_up([f"{KNOWN}=={version(KNOWN)}"])):
        raise PipelineError(_no_answer(f"it does not know {KNOWN}"))
    answers = _look_up(pinned)
    unknown = _unknown(answers)
    if unknown or len(answers) != len(pinned):
        shown = ", ".join(unknown[:10])
        raise PipelineError(_no_answer(f"it does not know {len(unknown)} of {len(pinned)} packages: {shown}"))
    return len(answers), [line for answer in answers for line in _described(answer)]


def _look_up(pins: list[str]) -> list[dict[str, Any]]:
    """pip-audit's answer for each package. Nothing is installed or resolved: what is pinned is what is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pins.txt"
        path.write_text("\n".join(pins), encoding="utf-8")
        options = ["--requirement", str(path), "--no-deps", "--disable-pip", "--vulnerability-service", "pypi"]
        options += ["--format", "json", "--progress-spinner", "off", "--timeout", str(TIMEOUT)]
        command = [sys.executable, "-m", "pip_audit", *options]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        answers: list[dict[str, Any]] = json.loads(finished.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (finished.stderr.strip().splitlines() or ["no answer"])[-1]
        raise PipelineError(_no_answer(reason)) from None
    return answers


def _unknown(answers: list[dict[str, Any]]) -> list[str]:
    """Packages that PyPI has no record of."""
    return [answer["name"] for answer in answers if "skip_reason" in answer]


def _no_answer(reason: str) -> str:
    return (
        f"the packages were not audited: PyPI gives no records here ({reason}). Nothing is known about "
        "their vulnerabilities; run 'make audit-deps' on a machine that reaches it"
    )


def _described(answer: dict[str, Any]) -> list[str]:
    package = f"{answer['name']} {answer['version']}"
    return [
        f"{package}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version'}"
        for found in answer["vulns"]
    ]
