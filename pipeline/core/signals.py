"""SIGTERM and Ctrl-C as a reason to save and stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stop_on_signal(second_at_once: bool = True) -> Iterator[Callable[[], str | None]]:
    """Turn the first SIGTERM or Ctrl-C into a reason to save and stop.

    Args:
        second_at_once: A second one stops at once. Where False it changes nothing: a supervisor repeats itself, and
            under torchrun Ctrl-C reaches every process twice, from the terminal and from torchrun.
    """
    reasons: list[str] = []

    def remember(number: int, frame: FrameType | None) -> None:
        reasons.append(f"{signal.Signals(number).name} received")
        if second_at_once:
            signal.signal(number, signal.default_int_handler)

    previous = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: reasons[0] if reasons else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
