"""The spool alone: whatever is killed and whatever is down, every record arrives, in order, once."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import PipelineError
from pipeline.tracking.spool import Record, Spool, spools


class Killed(BaseException):
    """Stands for the end of the process: nothing of the project catches it."""


class Store:
    """A store in memory that is up or down, and takes a record twice as it takes it once."""

    def __init__(self) -> None:
        self.up = True
        self.taken: list[Any] = []
        self.kill: str = ""
        """Where the process that delivers next is killed: before or after the store has the record."""

    def __call__(self, record: Record) -> None:
        if not self.up:
            raise PipelineError("out of reach")
        moment, self.kill = self.kill, ""
        if moment == "before":
            raise Killed
        content = {**record.content, "files": sorted((path.name, path.read_text()) for path in files_of(record))}
        if content not in self.taken:
            self.taken.append(content)
        if moment == "after":
            raise Killed


def files_of(record: Record) -> list[Path]:
    return list(record.files.iterdir()) if record.files.exists() else []


@contextmanager
def killed_at(change: int) -> Iterator[None]:
    """Kill this process before its `change`-th change of the file system."""
    changes, originals = 0, {name: getattr(os, name) for name in ("link", "replace", "unlink", "mkdir", "rmdir")}

    def counted(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal changes
            changes += 1
            if changes == change:
                raise Killed
            return originals[name](*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in originals:
            patch.setattr(os, name, counted(name))
        yield


events = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5])),
        st.tuples(st.just("deliver"), st.sampled_from([0, 0, 1, 2, 3, 4])),
        st.tuples(st.just("switch"), st.just(0)),
        st.tuples(st.sampled_from(["before", "after"]), st.just(0)),
    ),
    max_size=30,
)


@given(events)
def test_any_interleaving_of_outages_and_kills_delivers_the_same_sequence_once(events: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as folder:
        spool, store, expected = Spool(Path(folder, "spool")), Store(), list[Any]()
        source = Path(folder, "weights")
        for number, (event, change) in enumerate(events):
            if event == "append":
                source.unlink(missing_ok=True)
                source.write_text(f"weights {number}")
                waiting = len(spool)
                try:
                    with killed_at(change):
                        spool.append({"number": number}, [source])
                except Killed:
                    assert len(spool) - waiting in (0, 1)
                if len(spool) > waiting:  # else it was killed before there was such a record
                    expected.append({"number": number, "files": [("weights", f"weights {number}")]})
            elif event == "deliver":
                try:
                    with killed_at(change):
                        spool.deliver(store)
                except (Killed, PipelineError):
                    pass
            elif event == "switch":
                store.up = not store.up
            else:
                store.kill = event
            assert store.taken == expected[: len(store.taken)], "in order, none left out"
        store.up, store.kill = True, ""
        spool.deliver(store)
        assert store.taken == expected
        assert len(spool) == 0


def test_a_record_keeps_its_files_as_they_were(tmp_path: Path) -> None:
    spool, weights = Spool(tmp_path / "spool"), tmp_path / "model.safetensors"
    weights.write_text("first")
    spool.append({"number": 1}, [weights])
    (tmp_path / "new").write_text("second")
    os.replace(tmp_path / "new", weights)  # as stages write
    spool.append({"number": 2}, [weights])
    shutil.rmtree(tmp_path / "results", ignore_errors=True)
    weights.unlink()
    found: list[str] = []
    assert spool.deliver(lambda record: found.append((record.files / "model.safetensors").read_text())) == 2
    assert found == ["first", "second"]
    assert not list((tmp_path / "spool").glob("*.files"))


def test_files_are_copied_where_they_cannot_be_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "metrics.json").write_text("content")
    spool, found = Spool(tmp_path / "spool"), list[str]()
    spool.append({}, [tmp_path / "metrics.json"])
    (tmp_path / "metrics.json").write_text("changed in place")
    spool.deliver(lambda record: found.append((record.files / "metrics.json").read_text()))
    assert found == ["content"]


def test_a_missing_file_leaves_no_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        spool.append({}, [tmp_path / "nothing.json"])
    assert len(spool) == 0


def test_passwords_never_reach_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    reason = "cannot reach http://me:s3cr3t@host:5000/x"
    spool.append({"calls": [{"values": {"failure": reason}, "more": (reason, 1, None)}]})
    (path,) = (tmp_path / "spool").glob("*.json")
    assert "s3cr3t" not in path.read_text() and "http://me:***@host:5000/x" in path.read_text()
    (content,) = spool.records()
    assert content["calls"][0]["more"] == ["cannot reach http://me:***@host:5000/x", 1, None]


def test_a_damaged_record_is_named_and_stays(tmp_path: Path) -> None:
    spool, taken = Spool(tmp_path / "spool"), list[Any]()
    for number in (1, 2, 3):
        spool.append({"number": number})
    path = tmp_path / "spool/00000002.json"
    path.write_text(path.read_text()[:-5])
    with pytest.raises(PipelineError, match=r"00000002\.json: this record is damaged .* Move it away"):
        spool.deliver(lambda record: taken.append(record.content["number"]))
    assert taken == [1] and len(spool) == 2
    path.unlink()
    spool.deliver(lambda record: taken.append(record.content["number"]))
    assert taken == [1, 3]


def append_many(folder: Path, name: str) -> None:
    for number in range(20):
        Spool(folder).append({"writer": name, "number": number})


def test_writers_and_a_deliverer_in_several_processes_lose_and_repeat_nothing(tmp_path: Path) -> None:
    context, folder = multiprocessing.get_context("fork"), tmp_path / "one/tracking"
    processes = [context.Process(target=append_many, args=(folder, name)) for name in ("a", "b")]
    for process in processes:
        process.start()
    taken: list[Any] = []
    while any(process.is_alive() for process in processes) or len(Spool(folder)):
        Spool(folder).deliver(lambda record: taken.append((record.content["writer"], record.content["number"])))
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(taken) == 40
    for name in ("a", "b"):
        assert [number for writer, number in taken if writer == name] == list(range(20))
    assert spools(tmp_path) == []
