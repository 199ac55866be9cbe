"""Files that are either whole or absent: atomic writes, records that vouch for files, digests, and locks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from pipeline.core.errors import RequestError
from pipeline.core.waiting import POLL, kind, until

if TYPE_CHECKING:
    import pandas as pd

CHECKSUM = "checksum"
"""Key of a record: SHA-256 over all its other keys."""
DIGESTS = "digests"
"""Key of a record: SHA-256 by name of the files beside it that it vouches for."""
LOCK = kind("lock", "the process that holds a lock")


class Busy(RequestError):
    """Another process works on it."""


class Damaged(RequestError):
    """A file does not hold what was written to it."""


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends well, and vanishes when it does not.

    The content reaches the disk (fsync) before the rename, and the rename before the function returns: a kill or a
    full disk at any moment leaves either the old file or the new one.
    """
    _make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failed write does not say where
        raise
    _sync_directory(path.parent)


def _make_folder(path: Path) -> None:
    """Make a folder and those above it, and see to it that a loss of power does not take them back."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(exist_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically. NaN and infinity are refused: they are not JSON."""
    with atomic_write(path) as stream:
        stream.write((json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8, atomically."""
    with atomic_write(path) as stream:
        stream.write(content.encode())


def require_file(path: Path) -> Path:
    """`path`, where a file lies or nothing does: reading a pipe or a device may never end.

    Raises:
        RequestError: a folder, a pipe or a device lies there.
    """
    if path.exists() and not path.is_file():
        raise RequestError(f"{path}: is not a file; remove it, or put the file in its place")
    return path


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()


def read_frame(path: Path) -> pd.DataFrame:
    """Read a Parquet file in this thread alone: Arrow waits for ever for threads of its own where the system refuses
    them, as it does for want of memory.

    Raises:
        ValueError: it is damaged.
    """
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path, pre_buffer=False) as file:
            frame: pd.DataFrame = file.read(use_threads=False).to_pandas(use_threads=False)
    except Exception as error:  # Arrow and pandas have many for damage, an OSError without a number among them
        if isinstance(error, MemoryError) or getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{type(error).__name__}: {error}") from None
    return frame


def remove_half_written(folder: Path) -> None:
    """Remove what processes of this machine that are no more were about to write there."""
    for path in folder.glob(".*.tmp"):
        number = path.suffixes[-2].removeprefix(".") if len(path.suffixes) > 1 else ""
        if number.isdecimal() and not _runs(int(number)):
            path.unlink()


def write_record(path: Path, content: Mapping[str, Any], files: Iterable[str] = ()) -> None:
    """Write a JSON object that vouches for itself and for files beside it, atomically: `read_record` finds any damage.

    Args:
        path: Of the record, which is written last.
        content: The object.
        files: Names of the files, which lie in the same folder.
    """
    names = list(files)
    digests = {DIGESTS: {name: file_digest(path.parent / name) for name in names}} if names else {}
    whole = {**content, **digests}
    write_json(path, {**whole, CHECKSUM: _checksum(whole)})


def read_record(path: Path) -> dict[str, Any]:
    """What `write_record` wrote, without the checksum.

    Raises:
        FileNotFoundError: the record, or a file that it vouches for, is missing.
        Damaged: the record or such a file is not what was written.
    """
    try:
        content: dict[str, Any] = json.loads(require_file(path).read_text(encoding="utf-8"))
        is_whole = content.pop(CHECKSUM) == _checksum(content)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{path}: is damaged ({type(error).__name__}: {error})") from None
    if not is_whole:
        raise Damaged(f"{path}: is damaged, it does not match its checksum")
    for name, expected in content.get(DIGESTS, {}).items():
        found = file_digest(require_file(path.parent / name))
        if found != expected:
            raise Damaged(f"{path.parent / name}: is damaged, its sha256 is {found}, {path.name} says {expected}")
    return content


def read_kept(path: Path, missing: str, way_out: str) -> dict[str, Any]:
    """As `read_record`, for a person: what is missing or damaged (RequestError) is said with the way out."""
    try:
        return read_record(path)
    except FileNotFoundError as error:
        raise RequestError(f"{error.filename}: is missing, {missing}; {way_out}") from None
    except Damaged as error:
        raise Damaged(f"{error}; {way_out}") from None


def _checksum(content: Mapping[str, Any]) -> str:
    as_read = json.loads(json.dumps(content, allow_nan=False))  # keys that are numbers come back as strings
    return hashlib.sha256(json.dumps(as_read, sort_keys=True, allow_nan=False).encode()).hexdigest()


@contextmanager
def exclusive(path: Path, what: str, wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold `path` as a lock while the block runs; the system releases it when the process ends, however it ends.

    The file names the holder. A name that is found in a lock that nobody holds is of a process that was killed, or,
    on a file system that does not share locks between hosts, of one that still runs elsewhere: it is said aloud.

    Args:
        path: The lock; its folder is made.
        what: Is worked on, for messages.
        wait: None: leave where another process holds it. Otherwise wait for it, and call this several times a second:
            it raises to stop. A signal stops the wait, too.

    Raises:
        Busy: another process holds it; the message names that process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+") as stream:
        _take(stream, what, wait)
        left = _name_in(stream)
        if left:
            print(f"{what}: {left} ended without releasing its lock{_doubt(left)}", flush=True)
        _write_name(stream, f"process {os.getpid()} on {socket.gethostname()} since {datetime.now():%Y-%m-%d %H:%M:%S}")
        _held.add(stream)
        try:
            yield
        finally:
            _held.discard(stream)
            _write_name(stream, "")


_held: set[TextIO] = set()


def _forget_locks() -> None:
    """A forked process would go on holding the locks of one that was killed."""
    for stream in _held:
        stream.close()
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)


def _take(stream: TextIO, what: str, wait: Callable[[], object] | None) -> None:
    if _is_free(stream):
        return
    holder = _holder(stream)
    busy = Busy(f"{what} is being worked on by another process ({holder}); wait for it to end")
    if wait is None:
        raise busy
    print(f"{busy}: waiting", flush=True)
    until(LOCK, lambda: f"{what} ({_holder(stream)})", lambda: _is_free(stream), check=wait)


def _is_free(stream: TextIO) -> bool:
    """Take a lock, unless another process holds it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(stream: TextIO) -> str:
    """The name in a lock that is held; its holder may be about to write it over that of one which was killed."""
    if not _name_in(stream) or _is_gone(_name_in(stream)):
        time.sleep(POLL)
    name = _name_in(stream)
    return f"{name}{_doubt(name)}" if name else "unknown"


def _name_in(stream: TextIO) -> str:
    stream.seek(0)
    return stream.read().strip()


def _write_name(stream: TextIO, name: str) -> None:
    stream.truncate(0)
    stream.write(f"{name}\n" if name else "")
    stream.flush()


def _is_gone(name: str) -> bool:
    """Whether the named process was one of this host and is no more. A number may be in use again: then it is not."""
    found = re.fullmatch(r"process (\d+) on (\S+) since .*", name)
    return found is not None and found[2] == socket.gethostname() and not _runs(int(found[1]))


def _runs(process: int) -> bool:
    import psutil

    return bool(psutil.pid_exists(process))


def _doubt(name: str) -> str:
    """What cannot be known of a process on another host."""
    here = f" on {socket.gethostname()} " in name
    return "" if here else "; whether it still runs can only be seen on that host"
