"""Files are whole or absent, and a lock names who holds it."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from pipeline.errors import RequestError
from pipeline.files import atomic_write, exclusive, file_digest, write_json, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_write(path) as stream:
        stream.write(b"half of the n")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_replaces(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert file_digest(tmp_path / "file") == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": float("nan")})
    assert not (tmp_path / "file.json").exists()


def _hold(path: Path, held: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with exclusive(path, "the test"):
        held.set()
        release.wait(30)


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    process.start()
    assert held.wait(30)
    message = rf"by another process \(process {process.pid} on "
    with pytest.raises(RequestError, match=message), exclusive(tmp_path / "lock", "the test"):
        raise AssertionError("two holders")
    process.kill()
    process.join()
    with exclusive(tmp_path / "lock", "the test"):
        assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()
