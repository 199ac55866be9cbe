"""What this machine has."""

from __future__ import annotations

import math
import os

import psutil

MOST_READERS = 16
"""More processes would wait for the device, and each holds finished batches in memory."""


def readers(sharers: int = 1) -> int:
    """How many processes should read and decode images for each of `sharers` processes on this machine."""
    return min(usable_cores() // sharers, MOST_READERS)


def threads_each(sharers: int = 1) -> int:
    """How many CPU threads each of `sharers` processes on this machine gets, unless OMP_NUM_THREADS sets it."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # more than one is for threads within threads
    return int(given or max(1, usable_cores() // sharers))


def usable_cores() -> int:
    """How many cores this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> float:
    """Bytes that this process may still take without others losing theirs; infinite where the system does not tell."""
    try:
        return float(psutil.virtual_memory().available)
    except OSError:  # /proc is hidden
        return math.inf
