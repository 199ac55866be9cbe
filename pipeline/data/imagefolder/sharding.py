"""Shards made by several processes, so that a kill at any moment loses no more than the shards under way.

What a shard holds is a function of its source files and settings alone, not of which process made it or when. A shard
is finished when its record, a small JSON file written after it, says so: the record has the key of what went in and
the sha256 of what came out. This module is free of torch: processes that import it start fast.
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path

from PIL import features

from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.core.files import Damaged, file_digest, read_record, write_record
from pipeline.core.progress import PreparationDisplay
from pipeline.data.decoding import DamagedImage
from pipeline.data.imagefolder.shards import QUALITY, EncodedImage, encode, write_shard
from pipeline.data.imagefolder.tree import SourceFile

POLL_SECONDS = 0.2
"""How long a request to stop may go unnoticed while all processes are busy."""

StopRequest = Callable[[], str | None]
"""Asked several times a second: None to go on, or the reason to stop."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to be made."""

    folder: Path
    """The source's part, which names are below."""
    path: Path
    files: tuple[SourceFile, ...]
    size: int | None
    """Shorter side to reduce images to; None keeps every file's bytes."""
    upright: bool = False
    """Turn images as their EXIF orientation says."""

    @property
    def record_path(self) -> Path:
        """Where the record of the finished shard is."""
        return self.path.with_suffix(".json")

    @property
    def key(self) -> str:
        """sha256 over all that decides the shard's bytes; source files are known by path and size."""
        libraries = sorted(library_versions().items())
        turned = " upright" if self.upright else ""
        digest = hashlib.sha256(f"{self.size} {QUALITY}{turned} {libraries}\n".encode())
        for file in self.files:
            digest.update(os.fsencode(f"{file.name}\0{file.label}\0{file.size}\n"))
        return digest.hexdigest()


@dataclass(frozen=True)
class ShardRecord:
    """What a finished shard is."""

    key: str
    bytes: int
    sha256: str
    images_per_class: dict[str, int]
    """By label."""

    @property
    def images(self) -> int:
        """How many it has."""
        return sum(self.images_per_class.values())


@dataclass(frozen=True)
class ShardResult:
    """What making a shard, or finding it finished, came to."""

    record: ShardRecord
    damaged: tuple[tuple[str, str], ...] = ()
    """Name and reason of source files that are not in the shard."""
    found: bool = False


def library_versions() -> dict[str, str]:
    """The versions of what decides the bytes of a shard."""
    libraries = {name: version(name) for name in ("numpy", "pillow", "safetensors")}
    codec = "libjpeg_turbo" if features.check_feature("libjpeg_turbo") else "jpg"
    return libraries | {codec: str(features.version(codec))}


def make_shards(
    tasks: Sequence[ShardTask], workers: int, display: PreparationDisplay, should_stop: StopRequest
) -> list[ShardResult]:
    """Make the shards that are not finished yet, in `workers` processes; results are in the order of `tasks`.

    Each process holds its shard in memory until it is written.

    Raises:
        Interrupted: `should_stop` gave a reason; finished shards are kept.
    """
    # Spawned, not forked: a forked process would go on holding the lock of a main process that was killed.
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(stop,))
    try:
        futures = [pool.submit(make_shard, task) for task in tasks]
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, POLL_SECONDS, FIRST_COMPLETED)
            reason = should_stop()
            if reason is not None:
                raise Interrupted(f"{reason}: finished shards are kept, the same command continues from there")
            for future in done:
                result = future.result()
                display.on_images(result.record.images + len(result.damaged), result.found)
        return [future.result() for future in futures]
    except BrokenProcessPool:
        raise PipelineError(
            "a process that prepares images was killed, often for want of memory. Finished shards are kept: run the "
            f"same command again, with fewer --workers than {workers}"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_stop: Event | None = None
"""In a worker process: set by the main process when the shard under way is not wanted any more."""


def _start_worker(stop: Event) -> None:
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the main one decides what it means
    warnings.filterwarnings("ignore", module="PIL")  # odd EXIF data in images that are whole
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose main process was killed would otherwise wait for work for ever."""
    parent = parent_process()
    assert parent is not None, "runs in worker processes only"
    parent.join()
    os._exit(1)


def make_shard(task: ShardTask) -> ShardResult:
    """Find the shard finished, made from the same and with the bytes that it had then; or make it.

    A shard with damaged files gets no record: the next run looks whether they have been restored.

    Raises:
        RequestError: a source file cannot be read.
        Interrupted: the main process has stopped.
        OSError: the shard cannot be written.
    """
    try:
        record = ShardRecord(**read_record(task.record_path))
        if record.key == task.key and record.sha256 == file_digest(task.path):
            return ShardResult(record, found=True)
    except (FileNotFoundError, Damaged):
        pass
    task.record_path.unlink(missing_ok=True)  # first: it must not speak for the file that comes now
    images, damaged = [], []
    for file in task.files:
        if _stop is not None and _stop.is_set():
            raise Interrupted("the main process has stopped")
        try:
            content = encode(_read_source(task.folder / file.name), task.size, task.upright)
        except DamagedImage as error:
            damaged.append((file.name, str(error)))
        else:
            images.append(EncodedImage(file.name, file.label, content))
    write_shard(task.path, images)
    counts = Counter(str(image.label) for image in images)
    record = ShardRecord(task.key, task.path.stat().st_size, file_digest(task.path), dict(counts))
    if not damaged:
        write_record(task.record_path, asdict(record))
    return ShardResult(record, tuple(damaged))


def _read_source(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestError(
            f"{path}: cannot be read ({error.strerror}); check the file's owner and mode, and its disk"
        ) from None
