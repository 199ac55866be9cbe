"""Waits: each says for whom after five seconds, since when and until when, and ends within five of a signal.

Whatever waits for another process, machine or person goes through `until`, which looks again and again, or through
`speaking`, where a library waits. `WAITS` has them all.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Event, Thread, current_thread, main_thread
from typing import TYPE_CHECKING, TypeVar

from pipeline.core.errors import PipelineError, StoppedWaiting
from pipeline.core.signals import asked_to_stop, interruptible

if TYPE_CHECKING:
    from filelock import BaseFileLock

T = TypeVar("T")

FIRST_WORD = 5.0
"""Seconds that a wait is silent."""
SELDOM = 600.0
"""Seconds between two words about a wait, at most; until then each is twice as late as the one before."""
POLL = 0.2
"""Seconds between two looks."""
LEAP = 3.0
"""Seconds between two looks that count at most: a process that is suspended does not wait meanwhile."""


@dataclass(frozen=True)
class Wait:
    """One kind of wait."""

    name: str
    whom: str
    """Who is waited for, in general."""
    patience: float = math.inf
    """Seconds after which it is in vain."""
    grace: float = 0.0
    """Seconds that it goes on after a signal, because others may be about to answer the same one together."""


WAITS: dict[str, Wait] = {}
"""Every kind of wait by name, as the modules that wait are imported."""


def kind(name: str, whom: str, patience: float = math.inf, grace: float = 0.0) -> Wait:
    """A kind of wait, entered into `WAITS`."""
    WAITS[name] = Wait(name, whom, patience, grace)
    return WAITS[name]


def until(
    wait: Wait,
    whom: str | Callable[[], str],
    ready: Callable[[], T | None],
    *,
    check: Callable[[], object] = lambda: None,
    in_vain: str = "",
    poll: float = POLL,
) -> T:
    """Wait until `ready` gives something that is true, and give that. A thread beside the main one waits in silence.

    Args:
        wait: Its kind.
        whom: Who is waited for; asked anew for each word where that changes.
        ready: Looks, and returns within a second.
        check: Called between two looks; raises to stop.
        in_vain: Said when the patience is over.
        poll: Seconds between two looks.

    Raises:
        StoppedWaiting: a signal asks this process to stop.
        PipelineError: the patience is over.
    """
    name = whom if callable(whom) else lambda: whom
    begun, last, waited, next_word = datetime.now(), time.monotonic(), 0.0, FIRST_WORD
    started = last
    while not (found := ready()):
        now = time.monotonic()
        waited, last = waited + min(now - last, LEAP), now
        check()
        if reason := asked_to_stop(wait.grace, started):
            raise StoppedWaiting(f"{reason} while waiting for {name()}; the same command continues")
        if waited > wait.patience:
            raise PipelineError(in_vain or f"waited {waited:.0f} s in vain for {name()}")
        if waited >= next_word and current_thread() is main_thread():
            _say(name(), begun, wait.patience)
            next_word += min(next_word, SELDOM)
        time.sleep(poll)
    return found


@contextmanager
def speaking(wait: Wait, whom: str) -> Iterator[None]:
    """Speak of a wait that a library does inside the block; a signal ends it there. A thread beside the main
    one is silent, since nobody waits for it.

    Args:
        wait: Its kind.
        whom: Who is waited for.

    Raises:
        StoppedWaiting: a signal asks this process to stop.
    """
    if current_thread() is not main_thread():
        yield
        return
    ended, begun = Event(), datetime.now()

    def speak() -> None:
        pause = FIRST_WORD
        while not ended.wait(pause):
            _say(whom, begun, wait.patience)
            pause = min(2 * pause, SELDOM)

    speaker = Thread(target=speak, name=f"wait for {wait.name}", daemon=True)
    speaker.start()
    try:
        with interruptible(whom):
            yield
    finally:
        ended.set()


@contextmanager
def taken(lock: BaseFileLock, wait: Wait, whom: str, in_vain: str = "") -> Iterator[None]:
    """Hold a lock while the block runs, once others have left it.

    Raises:
        StoppedWaiting, PipelineError: as `until`.
    """
    from filelock import Timeout

    def is_free() -> bool:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        return True

    until(wait, whom, is_free, in_vain=in_vain, poll=0.05)
    try:
        yield
    finally:
        lock.release()


def _say(whom: str, begun: datetime, patience: float) -> None:
    limit = f", until {begun + timedelta(seconds=patience):%H:%M:%S} at most" if patience < math.inf else ""
    print(f"waiting for {whom} since {begun:%H:%M:%S}{limit}", flush=True)
