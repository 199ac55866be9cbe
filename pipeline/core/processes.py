"""Other processes of this machine: ended with their children, and not left behind by a pool."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import psutil

from pipeline.core.waiting import kind, until

STOP = 60.0
"""Seconds that a process may take to save and end."""
ENDING = kind("ending", "processes that were told to save and end", STOP)


def end(processes: Sequence[psutil.Process]) -> None:
    """SIGTERM to what the processes run, then to themselves: a worker that ends kills its runs before they save."""
    _end([child for process in processes for child in _children(process)])
    _end(processes)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = process.children(recursive=True)
    except psutil.NoSuchProcess:  # it has ended by itself
        found = []
    return found


def _end(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + STOP
    until(
        ENDING,
        lambda: f"processes {', '.join(str(one.pid) for one in filter(is_alive, processes))} to save and end",
        lambda: time.monotonic() > deadline or not any(map(is_alive, processes)),
        poll=0.1,
    )
    for process in filter(is_alive, processes):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def is_alive(process: psutil.Process) -> bool:
    """Whether it has not ended; in a container, nobody may ever ask an orphan how it did."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def ending_at_once(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes end with the block: at once where that is left by an error or a stop.

    The pool alone would first finish what it has begun.
    """
    before = set(multiprocessing.active_children())
    with pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            raise
