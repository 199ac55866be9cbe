"""`make audit-deps` never takes silence for a pass: pip-audit itself runs, PyPI's records are those of a test."""

from __future__ import annotations

import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.stages.conftest import clean_environment

RECORDS = """
import json
import requests

RECORDS = {records}


def send(self, request, *arguments, **options):
    name, version = request.url.split("/")[4:6]
    response = requests.Response()
    response.url, response.request = request.url, request
    response.status_code = 200 if name in RECORDS else 404
    response._content = json.dumps({{"vulnerabilities": RECORDS.get(name, []), "urls": []}}).encode()
    return response


requests.adapters.HTTPAdapter.send = send
"""
"""A module that Python imports when it starts."""
HOLE = {
    "id": "PYSEC-2000-1", "aliases": [], "details": "A hole.", "fixed_in": ["2.0"], "link": "", "source": "",
    "summary": None, "withdrawn": None,
}  # fmt: skip


def audit(folder: Path, **environment: str) -> tuple[int, str]:
    """Run the command of the Makefile on two packages: exit code and all that it says."""
    (folder / "constraints.txt").write_text("# comment\nleft-pad==1.0\nright-pad==1.5\n")
    makefile = (REPOSITORY / "Makefile").read_text()
    recipe = makefile.split("\naudit-deps: setup")[1].split("\n\n")[0].split("\n", 1)[1]
    python, *command = shlex.split(recipe.replace("\\\n", " "))
    assert python == "python"
    finished = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=clean_environment() | {"PYTHONPATH": str(folder)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return finished.returncode, finished.stdout


@pytest.mark.parametrize(
    ("records", "code", "text"),
    [
        ({"left-pad": [], "right-pad": []}, 0, "No known vulnerabilities found"),
        ({"left-pad": [HOLE], "right-pad": []}, 1, "left-pad 1.0     PYSEC-2000-1 2.0"),
        ({"left-pad": []}, 1, "Dependency not found on PyPI and could not be audited: right-pad"),
        ({}, 1, "Dependency not found on PyPI and could not be audited: left-pad"),
    ],
)
def test_only_records_without_a_vulnerability_pass(
    records: dict[str, list[object]], code: int, text: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(RECORDS.format(records=records))
    found, said = audit(tmp_path)
    assert found == code and text in said, said


def test_a_host_out_of_reach_is_no_pass(tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"
    code, said = audit(tmp_path, https_proxy=proxy, HTTPS_PROXY=proxy)
    assert code == 1 and "No known vulnerabilities found" not in said, said


def test_what_is_pinned_is_what_is_installed_to_audit_with() -> None:
    assert f"pip-audit=={version('pip-audit')}" in (REPOSITORY / "constraints.txt").read_text().splitlines()
