"""Secrets of the environment and of addresses are in nothing that a stage writes, logs or tracks."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from pipeline.grid.local import free_port
from tests.conftest import PATIENCE, keep, small_table
from tests.searching import Search
from tests.stages.conftest import MakeWorkplace, Workplace, clean_environment, listening

PASSWORD = "planted-in-an-address"
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-as-a-key-of-a-bucket",
    "MLFLOW_TRACKING_PASSWORD": "planted-as-a-password",
    "MLFLOW_TRACKING_TOKEN": "planted-as-a-token",
    "PREFECT_API_KEY": "planted-as-a-key-of-prefect",
}
SECRETS = (PASSWORD, *PLANTED.values())
METHOD = "nt"
STAGES: list[tuple[str, ...]] = [
    ("train", METHOD, "--seed", "1"),
    ("evaluate", METHOD, "--seed", "1"),
    ("tables",),
    ("figures",),
    ("report",),
    ("explain", "table1:nt:natural"),
    ("export", "nt-1"),
    ("plan", "--workers", "1"),
    ("doctor",),
]
"""With the arguments of each."""


def shrink(content: dict[str, Any]) -> None:
    """One method, two quick attacks, one table, one figure, no grid but that of another method."""
    mixed = "generalist_d_nt_linf"
    keep(content, [METHOD, mixed], ["pgd20_linf", "noise_linf"])
    content["tables"] = {"table1": small_table([METHOD], "natural")}
    content["figures"] = {"framework": {"kind": "framework", "caption": "A figure", "method": mixed}}
    study = {"label": "c", "methods": [mixed], "varies": "communication_interval", "values": [2]}
    content["ablation"] = {"studies": {"c": study}}


@pytest.fixture(scope="module")
def place(make_workplace: MakeWorkplace) -> Workplace:
    return make_workplace(shrink)


@pytest.fixture(scope="module")
def server(place: Workplace) -> Iterator[tuple[int, psutil.Process]]:
    """MLflow on the store of the workplace, as `make ui` starts it; its port, and its process."""
    port = free_port()
    log = place.folder / "server.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.ui", "--port", str(port)],
            cwd=place.folder,
            env=clean_environment() | PLANTED,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    try:
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.1)
        yield port, psutil.Process(process.pid)
    finally:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.terminate()
        process.terminate()
        process.wait(PATIENCE)


def test_the_interface_listens_on_this_machine_alone(server: tuple[int, psutil.Process]) -> None:
    port, process = server
    found = listening(process)
    assert {address.ip for address in found} == {"127.0.0.1"} and port in {address.port for address in found}


def run_stages(
    place: Workplace, uri: str, capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, int]:
    """Every stage in this process, with secrets in its environment; exit codes, and what they said in a log."""
    for name, value in {**PLANTED, "MLFLOW_TRACKING_URI": uri}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(place.folder)
    codes = {}
    for stage, *arguments in STAGES:
        codes[stage] = import_module(f"stages.{stage}").main(arguments)
    said = capture.readouterr()
    (place.folder / "said.log").write_text(said.out + said.err)
    return codes


@pytest.mark.timeout(600)
def test_secrets_are_in_nothing_that_is_left(
    place: Workplace,
    server: tuple[int, psutil.Process],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    codes = run_stages(place, f"http://user:{PASSWORD}@127.0.0.1:{server[0]}", capfd, monkeypatch)
    said = (place.folder / "said.log").read_text()
    assert {stage: code for stage, code in codes.items() if code != 0 and stage != "doctor"} == {}, said
    assert f"http://user:***@127.0.0.1:{server[0]}" in said, "the doctor names the address"
    search = Search(SECRETS)
    search.folder(place.folder)
    assert search.found == []
    assert search.files > 50 and search.contents > 2 * search.files
    print(f"searched {search.files} files, {search.contents} contents, {search.size:,} bytes")


def test_secrets_are_not_in_the_failures_of_a_database_out_of_reach(
    make_workplace: MakeWorkplace, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = make_workplace(shrink)
    codes = run_stages(place, f"postgresql://user:{PASSWORD}@127.0.0.1:9/runs", capfd, monkeypatch)
    assert codes["tables"] != 0 and codes["explain"] != 0
    assert "postgresql://user:***@127.0.0.1:9/runs is out of reach" in (place.folder / "said.log").read_text()
    search = Search(SECRETS)
    search.folder(place.folder)
    assert search.found == []


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "text.log").write_text(f"x{PASSWORD}x")
    (tmp_path / f"{PASSWORD}.txt").write_text("nothing")
    (tmp_path / "header").write_text("Authorization: Basic dXNlcjpwbGFudGVkLWluLWFuLWFkZHJlc3M=")
    with zipfile.ZipFile(tmp_path / "packed", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("inner", PASSWORD * 9)
    with sqlite3.connect(tmp_path / "base.db") as connection:
        connection.execute("create table t (x)")
        connection.execute("insert into t values (?)", [PASSWORD])
    pd.DataFrame({"x": [PASSWORD] * 3}).to_parquet(tmp_path / "table")
    (tmp_path / "page.pdf").write_bytes(b"%PDF-1.5\nstream\n" + zlib.compress(PASSWORD.encode()) + b"\nendstream\n")
    search = Search(SECRETS)
    search.folder(tmp_path)
    assert {name.split(":")[0].removeprefix("the name of ") for name in search.found} == {
        str(path) for path in tmp_path.iterdir()
    }
