"""What a person sees while a stage works: lines shown anew on a terminal or in a notebook, plain lines elsewhere.

Where several pieces of work go on side by side, or on a worker of the grid, a display tells who listens (`report_to`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Self

from pipeline.core.screen import Pace, Screen, Standing, has_screen, lines

LINE_INTERVAL = 30.0
"""Seconds between plain lines within an epoch or an attack."""
TOLD = 0.5
"""Seconds between two words to whoever listens."""
FOUND = 0.02
"""Seconds: what an evaluation has done sooner it has found in its journal, or it is too little to tell of what is left.
"""


def discard_output() -> None:
    """Let what is printed from here on go nowhere: who read it is gone, and the streams are flushed at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


_listener: Callable[[Standing], None] | None = None
_has_bars = False


def report_to(listener: Callable[[Standing], None] | None, has_bars: bool = False) -> None:
    """Tell somebody else how far the work of this process is.

    Args:
        listener: Is told, seldom enough; None for nobody.
        has_bars: It shows that on a terminal, so that plain lines need not say it.
    """
    global _listener, _has_bars
    _listener, _has_bars = listener, has_bars


class Display:
    """One piece of work: at the foot of a terminal or a notebook, or one line per event."""

    stage = ""

    def __init__(self, title: str) -> None:
        self._title = title
        self._screen: Screen | None = None
        self._spoken = time.monotonic()
        self._told = 0.0
        self._began = time.time()
        self._found: float | None = None
        self._standing: Standing | None = None

    def __enter__(self) -> Self:
        if _listener is None and has_screen():
            self._screen = Screen(lambda width: lines(filter(None, [self._standing]), width, below=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._screen is not None:
            self._screen.stop()

    def message(self, text: str) -> None:
        """Print a sentence above what is shown."""
        line = f"{self._title}: {text}"
        if self._screen is not None:
            self._screen.print(line)
        else:
            print(line, flush=True)

    def show(self, what: str, share: float, ends: float | None, *details: str) -> None:
        """Show how far it is."""
        self._found = share if self._found is None else self._found
        self._standing = Standing(
            self._title, what, share, self._began, time.time() if share >= 1 else ends, self.stage, details, self._found
        )
        if self._screen is not None:
            self._screen.refresh()
        if _listener is not None and (share >= 1 or time.monotonic() - self._told > TOLD):
            self._told = time.monotonic()
            _listener(self._standing)

    def take_as_found(self, share: float, pace: Pace) -> None:
        """Take so much of what is done as found."""
        self._found = (self._found or 0) + share
        pace.leave_out(share)

    def event(self, text: str) -> None:
        """Print a sentence if nothing else shows how far it is."""
        if self._screen is None and not _has_bars:
            self._spoken = time.monotonic()
            self.message(text)

    def rarely(self, text: str) -> None:
        """As `event`, if none was printed for a while."""
        if time.monotonic() - self._spoken > LINE_INTERVAL:
            self.event(text)


class TrainingDisplay(Display):
    """Epochs, steps, losses, accuracies, images/s and time left of one training; an `Observer`.

    Args:
        title: What is trained.
        on_record: Also told of every finished epoch, before the person is: a tracker.
    """

    stage = "train"

    def __init__(self, title: str, on_record: Callable[[Mapping[str, float]], None]) -> None:
        super().__init__(title)
        self._on_record = on_record
        self._pace, self._step, self._epoch = Pace(), "", ""

    def on_start(self, epochs: int, steps_per_epoch: int, first_epoch: int, first_step: int) -> None:
        """Training begins or continues."""
        self._epochs, self._steps = epochs, steps_per_epoch
        self._show(first_epoch, first_step)

    def on_phase(self, steps_per_epoch: int) -> None:
        """From here on an epoch has another number of steps."""
        self._steps = steps_per_epoch

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
        """A step has ended."""
        shown = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        self._step = f"step {step}/{self._steps}  {images_per_second:,.0f} images/s  loss {shown}"
        ends = self._pace.ends((epoch - 1 + step / self._steps) / self._epochs)  # the first step takes longer
        self._show(epoch, step, ends)
        assert self._standing is not None
        self.rarely(f"epoch {epoch}/{self._epochs}  {self._standing.time}  {self._step}")

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """An epoch has ended."""
        self._on_record(record)
        epoch = int(record["epoch"])
        losses = _shown(record, "loss/", "{:.3f}")
        accuracies = _shown(record, "held_out/global/", "{:.1%}") or _shown(record, "test/global/", "{:.1%}")
        detail = f"accuracy {accuracies}  loss {losses}" if accuracies else f"loss {losses}"
        if record.get("redistributed"):
            detail += "  redistributed"
        self._step, self._epoch = "", f"epoch {epoch}: {detail}"
        self._show(epoch, self._steps, self._pace.ends(epoch / self._epochs))
        assert self._standing is not None
        rate = f"{record['images_per_second']:,.0f} images/s"
        self.event(f"epoch {epoch}/{self._epochs}  {self._standing.time}  {detail}  {rate}")

    def _show(self, epoch: int, step: int, ends: float | None = None) -> None:
        share = (epoch - 1 + step / self._steps) / self._epochs
        if self._step:  # the epoch is still to be measured
            share = min(share, 0.999)
        self.show(f"epoch {epoch}/{self._epochs}", share, ends, *filter(None, [self._step, self._epoch]))


_announced: dict[str, Mapping[str, float]] = {}


def announce(title: str, work: Mapping[str, float]) -> None:
    """Let the display of an evaluation know what is ahead: what each attack takes beside the others, by its name."""
    _announced[title] = work


class EvaluationDisplay(Display):
    """Attacks, batches, accuracy so far and time left of one evaluation; an `EvaluationObserver`.

    Args:
        title: What is evaluated.
        work: As of `announce`, and in its place.
    """

    stage = "evaluate"

    def __init__(self, title: str, work: Mapping[str, float] | None = None) -> None:
        super().__init__(title)
        work = _announced.get(title, {}) if work is None else work
        self._work, self._before, self._number, self._pace = work, 0.0, 0, Pace()
        self._name = ""

    def on_attack(self, attack: str, pieces: int) -> None:
        """An attack begins."""
        self._before += self._work.get(self._name, 0)
        self._number += 1
        self._name, self._pieces, self._done, self._robust, self._images = attack, pieces, 0, 0, 0
        self._heard = time.time()
        self._show(attack)

    def on_piece(self, part: str, robust: int, images: int, ends_batch: bool) -> None:
        """A part of the attack has ended on a batch."""
        before, self._heard = self._heard, time.time()
        share = self._share()
        self._done += 1
        if self._heard - before < FOUND:
            self.take_as_found(self._share() - share, self._pace)
        detail = f"{self._robust + robust} of {self._images + images} images correct"
        if ends_batch:
            self._robust, self._images = self._robust + robust, self._images + images
        after = f" after {part}" if part else ""
        ends = self._pace.ends(self._share())  # the first piece takes longer
        self._show(f"{self._name} {self._done}/{self._pieces}: {detail}{after}", ends)
        assert self._standing is not None
        if self._done == self._pieces:
            self.event(f"{self._name}: {detail}")
        self.rarely(f"{self._name}: {self._done}/{self._pieces}, {detail}{after}, {self._standing.time}")

    def _show(self, detail: str, ends: float | None = None) -> None:
        of_all = f"/{len(self._work)}" if self._work else ""
        self.show(f"attack {self._number}{of_all}", self._share(), ends, detail)

    def _share(self) -> float:
        of_this = self._done / max(self._pieces, 1)
        done = self._before + self._work.get(self._name, 0) * of_this
        return done / sum(self._work.values()) if self._work else of_this


class PreparationDisplay(Display):
    """Images, images/s and time left of preparing an ImageFolder tree."""

    def on_start(self, images: int) -> None:
        """Preparing begins or continues."""
        self._images, self._done, self._made, self._started = images, 0, 0, time.monotonic()
        self._pace = Pace()

    def on_images(self, count: int, found: bool) -> None:
        """A shard of so many images was made, or was found finished."""
        self._done, self._made = self._done + count, self._made + (0 if found else count)
        if found:
            self.take_as_found(count / self._images, self._pace)
        rate = self._made / max(time.monotonic() - self._started, 1e-9)
        detail = f"{rate:,.0f} images/s" if self._made else "found finished"
        share = self._done / self._images
        self.show(f"{self._done:,}/{self._images:,} images", share, self._pace.ends(share), detail)
        text = f"{self._done:,} of {self._images:,} images, {detail}"
        self.event(text) if share >= 1 else self.rarely(text)


def _shown(record: Mapping[str, float], prefix: str, form: str) -> str:
    """The values under a prefix, for example 'natural 97.1%  pgd_linf 61.3%'."""
    values = {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}
    return "  ".join(f"{name} {form.format(value)}" for name, value in values.items())
