"""SIGTERM, Ctrl-C and a terminal that is closed as reasons to save and stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.core.errors import StoppedWaiting

_received: list[tuple[float, str]] = []
"""When each signal came that asks this process to stop, and what to call it."""
_interruptible: list[str] = []
"""What is waited for by a library, from which the first signal is to get this process out."""


def stopping() -> list[signal.Signals]:
    """The signals that ask this process to stop; that of a closed terminal unless it is ignored, as under nohup."""
    closed = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *closed]


def note(number: int) -> str:
    """Remember that a signal has come; gives what to call it."""
    reason = f"{signal.Signals(number).name} received"
    _received.append((time.monotonic(), reason))
    return reason


def asked_to_stop(grace: float = 0.0, since: float = 0.0) -> str | None:
    """Why this process is to stop, once that is known for `grace` seconds, which begin at `since` at the earliest."""
    if not _received:
        return None
    when, reason = _received[0]
    return reason if time.monotonic() - max(when, since) >= grace else None


@contextmanager
def interruptible(whom: str) -> Iterator[None]:
    """Let the first signal raise `StoppedWaiting` inside the block, in which the main thread waits within a library.

    Args:
        whom: Who is waited for.
    """
    _interruptible.append(whom)
    try:
        yield
    finally:
        _interruptible.pop()


@contextmanager
def noted(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the signals that ask to stop; what was noted meanwhile is forgotten with the block.

    Those that it has come to ignore stay ignored.
    """
    previous = {number: signal.signal(number, handler) for number in stopping()}
    try:
        yield
    finally:
        for number, former in previous.items():
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, former)
        _received.clear()


@contextmanager
def stop_on_signal(second_at_once: bool = True) -> Iterator[Callable[[], str | None]]:
    """Turn the first SIGTERM, Ctrl-C or loss of the terminal into a reason to save and stop.

    Args:
        second_at_once: A second SIGTERM or Ctrl-C stops at once. Where False it changes nothing: a supervisor repeats
            itself, and under torchrun Ctrl-C reaches every process twice, from the terminal and from torchrun.
    """
    reasons: list[str] = []

    def remember(number: int, frame: FrameType | None) -> None:
        reasons.append(note(number))
        if second_at_once and number != signal.SIGHUP:  # which a shell and the system both send
            signal.signal(number, signal.default_int_handler)
        if _interruptible:
            raise StoppedWaiting(f"{reasons[0]} while waiting for {_interruptible[-1]}; the same command continues")

    with noted(remember):
        yield lambda: reasons[0] if reasons else None
