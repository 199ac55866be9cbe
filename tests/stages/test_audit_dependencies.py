"""The audit never takes silence for an answer; pip-audit itself runs, PyPI's records are those of a test."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.stages.conftest import Finished, clean_environment

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
"""Of a module that Python imports when it starts."""
HOLE = {
    "id": "PYSEC-2000-1", "aliases": [], "details": "A hole.", "fixed_in": ["2.0"], "link": "", "source": "",
    "summary": None, "withdrawn": None,
}  # fmt: skip
PINS = "# comment\nleft-pad==1.0\nright-pad==1.5\n"


def audit(folder: Path, records: dict[str, list[object]], pins: str = PINS, **environment: str) -> Finished:
    (folder / "sitecustomize.py").write_text(RECORDS.format(records=records))
    (folder / "pins.txt").write_text(pins)
    path = f"{folder}{os.pathsep}{REPOSITORY}"
    finished = subprocess.run(
        [sys.executable, "-m", "stages.audit_dependencies", "--pins", "pins.txt"],
        cwd=folder,
        env=clean_environment() | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr)


def test_packages_without_a_known_vulnerability_pass(tmp_path: Path) -> None:
    finished = audit(tmp_path, {"pip": [], "left-pad": [], "right-pad": []})
    finished.expect(0)
    assert finished.out == "2 packages, no known vulnerability\n"


def test_a_vulnerability_is_named_with_the_version_that_mends_it(tmp_path: Path) -> None:
    finished = audit(tmp_path, {"pip": [], "left-pad": [HOLE], "right-pad": []})
    finished.expect(1, "1 known vulnerabilities in 2 packages; raise the pins of pins.txt")
    assert finished.out == "left-pad 1.0: PYSEC-2000-1, mended in 2.0\n"


@pytest.mark.parametrize(
    ("records", "text"),
    [({}, "it does not know pip"), ({"pip": [], "left-pad": []}, "does not know 1 of 2 packages: right-pad")],
)
def test_silence_is_no_pass(tmp_path: Path, records: dict[str, list[object]], text: str) -> None:
    audit(tmp_path, records).expect(1, "the packages were not audited", text, "Nothing is known about their vulnerab")


def test_a_host_out_of_reach_is_no_pass(tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"
    (tmp_path / "pins.txt").write_text(PINS)
    environment = clean_environment() | {"https_proxy": proxy, "HTTPS_PROXY": proxy, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "stages.audit_dependencies", "--pins", "pins.txt"]
    finished = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    Finished(finished.returncode, finished.stdout, finished.stderr).expect(1, "the packages were not audited")


def test_a_file_without_pins_is_refused(tmp_path: Path) -> None:
    audit(tmp_path, {}, pins="").expect(2, "pins no package")


def test_what_is_pinned_is_what_is_installed_to_audit_with() -> None:
    assert f"pip-audit=={version('pip-audit')}" in (REPOSITORY / "constraints.txt").read_text().splitlines()
