"""Files are whole or absent, and a lock names who holds it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import RequestError
from pipeline.core.files import (
    Busy,
    Damaged,
    atomic_write,
    exclusive,
    file_digest,
    read_frame,
    read_record,
    remove_half_written,
    write_json,
    write_record,
    write_text,
)
from tests.conftest import PATIENCE


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


READ_A_FRAME = """
import os, sys
import pandas, pyarrow.parquet
from pathlib import Path
from pipeline.core.files import read_frame

before = os.listdir("/proc/self/task")
read_frame(Path(sys.argv[1]))
print(set(os.listdir("/proc/self/task")) - set(before))
"""


def test_a_frame_is_read_as_pandas_does_and_without_threads(tmp_path: Path) -> None:
    """Memory that runs out is an error then: Arrow waits for ever for a thread that it is not given."""
    path = tmp_path / "verdicts.parquet"
    frame = pd.DataFrame({"attack": pd.Categorical(["natural"] * 9), "image": range(9)}, index=range(3, 12))
    frame.to_parquet(path)
    pd.testing.assert_frame_equal(read_frame(path), pd.read_parquet(path))
    command = [sys.executable, "-c", READ_A_FRAME, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "set()\n"


@given(st.data())
def test_a_damaged_frame_is_refused_as_damaged_or_read(data: st.DataObject) -> None:
    """Arrow calls it sometimes an OSError, which a disk that fails would be."""
    stream = BytesIO()
    pd.DataFrame({"attack": pd.Categorical(["natural", "aa"] * 9), "image": range(18)}).to_parquet(stream)
    content = bytearray(stream.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=9)):
        content[place] ^= data.draw(st.integers(1, 255))
    with TemporaryDirectory() as folder, suppress(ValueError):
        path = Path(folder, "verdicts.parquet")
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        read_frame(path)


def test_a_frame_that_cannot_be_opened_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_frame(tmp_path / "verdicts.parquet")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.dictionaries(st.text(min_size=1), JSON, max_size=4), place=st.integers(0), bit=st.integers(0, 7))
def test_a_record_is_read_as_written_and_a_flipped_bit_is_found(
    tmp_path: Path, content: dict[str, Any], place: int, bit: int
) -> None:
    path = tmp_path / "record.json"
    content = {key: value for key, value in content.items() if key not in ("checksum", "digests")}
    write_record(path, content)
    assert read_record(path) == content
    damaged = bytearray(path.read_bytes())
    damaged[place % len(damaged)] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        found = read_record(path)
    except Damaged as error:
        assert str(path) in str(error)
    else:
        assert found == content, "another spelling of the same, such as 1E5 for 1e5"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "1", '"text"', "{}", '{"checksum": null}', '{"checksum": "0"}']
)
def test_what_is_no_record_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(Damaged, match=r"record\.json: is damaged"):
        read_record(tmp_path / "record.json")


def test_keys_that_are_numbers_come_back_as_texts(tmp_path: Path) -> None:
    write_record(tmp_path / "record.json", {"counts": {10: 1, 9: (2, 3)}})
    assert read_record(tmp_path / "record.json") == {"counts": {"10": 1, "9": [2, 3]}}


def test_a_record_vouches_for_the_files_beside_it(tmp_path: Path) -> None:
    write_text(tmp_path / "weights", "right")
    write_record(tmp_path / "record.json", {"epochs": 3}, ["weights"])
    assert read_record(tmp_path / "record.json")["epochs"] == 3
    write_text(tmp_path / "weights", "wrong")
    with pytest.raises(Damaged, match=r"weights: is damaged, its sha256 is .*, record\.json says "):
        read_record(tmp_path / "record.json")
    (tmp_path / "weights").unlink()
    with pytest.raises(FileNotFoundError):
        read_record(tmp_path / "record.json")


def test_what_a_killed_process_was_about_to_write_is_told_from_files(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=os.getpid)
    process.start()
    process.join()
    kept = [".lock", "weights.safetensors", f".weights.safetensors.{os.getpid()}.tmp", ".tmp", ".other.tmp"]
    for name in (f".weights.safetensors.{process.pid}.tmp", f".weights.{process.pid}.tmp", *kept):
        (tmp_path / name).touch()
    remove_half_written(tmp_path)
    remove_half_written(tmp_path / "missing")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def _hold(path: Path, held: multiprocessing.synchronize.Event, release: multiprocessing.synchronize.Event) -> None:
    with exclusive(path, "the test"):
        held.set()
        release.wait(PATIENCE)


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    process.start()
    assert held.wait(PATIENCE)
    message = rf"by another process \(process {process.pid} on "
    with pytest.raises(RequestError, match=message), exclusive(tmp_path / "lock", "the test"):
        raise AssertionError("two holders")
    process.kill()
    process.join()
    with exclusive(tmp_path / "lock", "the test"):
        assert f"process {os.getpid()} " in (tmp_path / "lock").read_text()


def test_a_killed_holder_is_named_once_by_the_next_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = multiprocessing.get_context("fork")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "lock", held, release))
    process.start()
    assert held.wait(PATIENCE)
    process.kill()
    process.join()
    for _ in range(2):
        with exclusive(tmp_path / "lock", "the test"):
            pass
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"the test: process {process.pid} on ") and line.endswith("without releasing its lock")
    assert (tmp_path / "lock").read_text() == ""


def test_of_a_process_elsewhere_only_that_host_can_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lock").write_text("process 1 on elsewhere since 2026-01-01 00:00:00\n")
    with exclusive(tmp_path / "lock", "the test"):
        pass
    assert "; whether it still runs can only be seen on that host" in capsys.readouterr().out


def _stay(held: multiprocessing.synchronize.Event, path: Path) -> None:
    """Hold a lock with a child of one's own, and die; the child lives on."""
    with exclusive(path, "the test"):
        if os.fork() == 0:
            held.set()
            time.sleep(5)
            os._exit(0)
        assert held.wait(PATIENCE)
        os.kill(os.getpid(), 9)


def test_a_child_does_not_keep_the_lock_of_its_killed_parent(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    held = context.Event()
    process = context.Process(target=_stay, args=(held, tmp_path / "lock"))
    process.start()
    process.join()
    with exclusive(tmp_path / "lock", "the test"):
        pass


def test_a_wait_says_for_whom_and_can_be_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Stopped(Exception):
        pass

    looks = 0

    def stop_at_the_third() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise Stopped

    with exclusive(tmp_path / "lock", "the test"):
        with pytest.raises(Stopped), exclusive(tmp_path / "lock", "the test", wait=stop_at_the_third):
            raise AssertionError("two holders")
        holder = f"process {os.getpid()} on {socket.gethostname()} since "
        with pytest.raises(Busy, match=holder), exclusive(tmp_path / "lock", "the test"):
            raise AssertionError("two holders")
    assert capsys.readouterr().out.count("wait for it to end: waiting") == 1
