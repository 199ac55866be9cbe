"""What a machine can do is found out before it is asked to."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.devices import choose_backend


@pytest.mark.parametrize("missing", ["no g++", "CXX"])
def test_without_a_compiler_networks_run_without_compilation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    """An experiment may ask for compilation on every machine: what it computes is the same."""
    monkeypatch.delenv("CXX", raising=False)
    if missing == "CXX":
        monkeypatch.setenv("CXX", str(tmp_path / "removed-g++"))
    else:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert not choose_backend("cpu", "float32", compiled=True).compiled
    said = capsys.readouterr().out
    assert "training.compile needs a C++ compiler" in said and said.count("\n") == 1
    assert not choose_backend("cpu", "float32").compiled
    assert capsys.readouterr().out == ""


def test_with_a_compiler_they_are_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name_compiler(monkeypatch, tmp_path, 'exec g++ "$@"')
    assert choose_backend("cpu", "float32", compiled=True).compiled
    assert capsys.readouterr().out == ""


def test_a_compiler_that_fails_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name_compiler(monkeypatch, tmp_path, "echo no licence >&2; exit 1")
    assert not choose_backend("cpu", "float32", compiled=True).compiled
    assert "my-g++' fails (no licence): networks run without it" in capsys.readouterr().out


def name_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path, does: str) -> None:
    compiler = folder / "my-g++"
    compiler.write_text(f"#!/bin/sh\n{does}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
