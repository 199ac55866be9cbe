"""Records on their way to the store: each is on the disk before it is sent, and leaves it once the store has it.

A spool is a folder of numbered records: `00000001.json`, and beside it `00000001.files/` with the files that it sends.
A record is there from the rename of its JSON on, whole or not at all, and delivered from its removal on. A process that
is killed in between delivers it again, so a receiver must take a record twice as it takes it once.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.config import Experiment
from pipeline.core.errors import PipelineError
from pipeline.core.files import atomic_write, write_text
from pipeline.core.waiting import kind, taken
from pipeline.provenance.folders import working_folder
from pipeline.tracking.store import mask

FOLDER = "tracking"
"""The spool's folder, below the working folder of its experiment."""
TURNS = {
    "append.lock": kind("records", "another process that writes a record for MLflow", 600.0, grace=3.0),
    "delivery.lock": kind("delivering", "another process that delivers the same records to MLflow", 10.0, grace=3.0),
}


@dataclass(frozen=True)
class Record:
    """What waits to be sent."""

    content: Any
    """As it was appended, without passwords."""
    files: Path
    """Folder of the files that belong to it, by their names."""


@dataclass(frozen=True)
class Spool:
    """The records of one experiment that the store does not have yet. Processes may share it: they take turns."""

    folder: Path

    def append(self, content: Any, files: Iterable[Path] = ()) -> None:
        """Put a record behind all others.

        Args:
            content: JSON; passwords in its addresses are masked.
            files: The record keeps their present content: as hard links, since files that stages leave are replaced and
                never changed, or as copies where they are on another file system.

        Raises:
            OSError: the disk is full or read-only, or a file is missing; there is no such record then.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._turn("append.lock"):
            waiting = self._waiting()
            if not waiting:
                self._sweep()
            path = self.folder / f"{_number(waiting[-1]) + 1 if waiting else 1:08}.json"
            kept = _files_of(path)
            shutil.rmtree(kept, ignore_errors=True)  # of an append that was killed
            for file in files:
                _keep(file, kept)
            write_text(path, mask(json.dumps(content, indent=2, allow_nan=False)))

    def deliver(self, receive: Callable[[Record], None], said: Callable[[], None] = lambda: None) -> int:
        """Hand over every record, the oldest first, each removed once `receive` returns; how many there were.

        Args:
            receive: Takes a record, for good, before it returns. Where it raises, that record stays, and all behind it.
            said: Called after each.

        Raises:
            PipelineError: a record is damaged, or another process is at the spool for too long.
            Exception: what `receive` raises. The record that it was raised for stays, and all behind it.
        """
        count = 0
        while self._waiting():
            with self._turn("delivery.lock"):
                for path in self._waiting():
                    receive(Record(_read(path), _files_of(path)))
                    self._remove(path)
                    said()
                    count += 1
        return count

    def records(self) -> list[Any]:
        """The contents of all records, the oldest first; nobody is waited for.

        Raises:
            PipelineError: a record is damaged.
        """
        found = []
        for path in self._waiting():
            try:
                found.append(_read(path))
            except FileNotFoundError:
                continue  # delivered by another process meanwhile
        return found

    def __len__(self) -> int:
        return len(self._waiting())

    def bytes_of_files(self) -> int:
        """What the files of all records take."""
        return sum(path.stat().st_size for path in self.folder.glob("*.files/*"))

    def _waiting(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.json"))

    def _remove(self, path: Path) -> None:
        with self._turn("append.lock"):
            path.unlink()
            shutil.rmtree(_files_of(path), ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what kills have left of records that were delivered, or never were."""
        for path in self.folder.iterdir():
            if path.suffix == ".files":
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix == ".tmp":
                path.unlink(missing_ok=True)

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Hold a lock of the spool, which the system releases when the process ends, however it ends."""
        wait = TURNS[name]
        in_vain = f"{self.folder} is in use by another process for {wait.patience:.0f} s."
        with taken(FileLock(self.folder / name), wait, f"the process that uses {self.folder}", in_vain):
            yield


def spool_of(experiment: Experiment) -> Spool:
    """The records of an experiment that the store does not have yet."""
    return Spool(working_folder(experiment) / FOLDER)


def spools(folder: Path) -> list[Spool]:
    """The spools below a folder of working folders that have records."""
    found = [Spool(path) for path in sorted(folder.glob(f"*/{FOLDER}"))]
    return [spool for spool in found if len(spool)]


def _number(path: Path) -> int:
    return int(path.stem)


def _files_of(path: Path) -> Path:
    return path.with_suffix(".files")


def _keep(file: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    try:
        os.link(file, folder / file.name)
    except FileNotFoundError:
        raise
    except OSError:  # another file system, or one without hard links
        with file.open("rb") as source, atomic_write(folder / file.name) as copy:
            shutil.copyfileobj(source, copy)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PipelineError(
            f"{path}: this record is damaged ({error}) and cannot be delivered, nor can those behind it. Move it away; "
            "what it held is in results/ once the experiment is finished."
        ) from None
