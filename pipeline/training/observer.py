"""What the engine tells the outside world while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Observer(Protocol):
    """Somebody who watches: a progress display, a tracker, a test."""

    def message(self, text: str) -> None:
        """A sentence for the person at the screen."""

    def on_start(self, epochs: int, steps_per_epoch: int, first_epoch: int, first_step: int) -> None:
        """Training begins, or continues at step `first_step` of epoch `first_epoch` (from 1)."""

    def on_phase(self, steps_per_epoch: int) -> None:
        """From here on an epoch has another number of steps."""

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
        """A step has ended; `losses` by learner."""

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """An epoch has ended and is saved; `record` is its row of the history."""


class Silent:
    """An observer of a rank that leaves speaking to rank 0."""

    def message(self, text: str) -> None:
        """Nothing."""

    def on_start(self, epochs: int, steps_per_epoch: int, first_epoch: int, first_step: int) -> None:
        """Nothing."""

    def on_phase(self, steps_per_epoch: int) -> None:
        """Nothing."""

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
        """Nothing."""

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """Nothing."""
