"""One experiment per GPU: a lock file per device on the machine that owns it.

The system releases such a lock when its process ends, however it ends; a count kept on a server would leak.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pipeline.core.waiting import POLL, kind, until

VISIBLE = "CUDA_VISIBLE_DEVICES"
SLOT = kind("GPU", "another process to leave a GPU of this machine", grace=1.0)


@contextmanager
def gpu_slot(say: Callable[[str], None], should_stop: Callable[[], str | None], wait: float = POLL) -> Iterator[None]:
    """Have one GPU of this machine for oneself while the block runs; where there is none, do nothing.

    `CUDA_VISIBLE_DEVICES` names it, so this comes before torch looks for devices.

    Args:
        say: Told when all are taken, and which one it is.
        should_stop: Asked while waiting: a reason ends the wait without a GPU.
        wait: Seconds between two looks.
    """
    devices = visible_devices(os.environ)
    if not devices:
        yield
        return

    def look() -> tuple[str, BinaryIO | None] | None:
        """A free device and its lock, or a reason to stop and none."""
        if (free := _try(devices)) is not None:
            return free
        reason = should_stop()
        return None if reason is None else (reason, None)

    found: tuple[str, BinaryIO | None] | None = _try(devices)
    if found is None:
        say(f"all GPUs of this machine are taken ({', '.join(devices)}): waiting for one")
        found = until(SLOT, f"one of {len(devices)} GPUs", look, poll=wait)
    device, stream = found
    if stream is None:
        yield
        return
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = device
    say(f"on GPU {device}")
    try:
        with stream:
            yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """UUIDs of the GPUs that this process may use: those of `CUDA_VISIBLE_DEVICES`, or all of this machine."""
    every = _uuids()
    if VISIBLE not in environment:
        return every
    named = [name.strip() for name in environment[VISIBLE].split(",")]
    present = [every[int(name)] if name.isdigit() and int(name) < len(every) else name for name in named]
    return [name for name in present if name in every or name.startswith("MIG-")]


def _uuids() -> list[str]:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []  # no driver: no GPU
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def slots_folder() -> Path:
    """Where the lock files are: on this machine, for all processes of this user."""
    return Path(tempfile.gettempdir()) / f"generalist-gpus-{os.getuid()}"


def _try(devices: list[str]) -> tuple[str, BinaryIO] | None:
    """The first free device and its held lock."""
    folder = slots_folder()
    folder.mkdir(exist_ok=True)
    for device in devices:
        stream = (folder / f"{device}.lock").open("ab")
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.close()
            continue
        return device, stream
    return None
