"""What a person sees while a stage works: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

NAME, BAR = 28, 14
"""Columns of a name at most, and of a bar: with epochs and times they leave something of 80."""
LINE_INTERVAL = 30.0
"""Seconds between plain lines within an epoch or an attack."""
NOTEBOOK_INTERVAL = 0.3
"""Seconds between two looks of the bars in a notebook."""


def discard_output() -> None:
    """Let what is printed from here on go nowhere: who read it is gone, and the streams are flushed at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def leave_terminal() -> None:
    """Let nothing be printed to a terminal that was closed: every word would be an input/output error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        with suppress(OSError):  # it is closed
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.dup2(nowhere, stream)
    os.close(nowhere)


class Display:
    """Bars with time left on a terminal or in a notebook; one line per event where output is a file or a pipe."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._rich: RichProgress | None = None
        self._spoken = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stdout.isatty() or _in_notebook():
            self._rich = _bars()
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def message(self, text: str) -> None:
        """Print a sentence above the bars."""
        line = f"{self._title}: {text}"
        if self._rich is not None:
            self._rich.console.print(line, highlight=False, soft_wrap=True, markup=False)
        else:
            print(line, flush=True)

    def rarely(self, text: str) -> None:
        """Print a sentence if none was printed for a while and there are no bars to look at."""
        if self._rich is None and time.monotonic() - self._spoken > LINE_INTERVAL:
            self._spoken = time.monotonic()
            self.message(text)


class TrainingDisplay(Display):
    """Epochs, steps, losses, accuracies, images/s and time left of one training; an `Observer`.

    Args:
        title: What is trained.
        on_record: Also told of every finished epoch, before the person is: a tracker.
    """

    def __init__(self, title: str, on_record: Callable[[Mapping[str, float]], None]) -> None:
        super().__init__(title)
        self._on_record = on_record

    def on_start(self, epochs: int, steps_per_epoch: int, first_epoch: int, first_step: int) -> None:
        """Training begins or continues."""
        self._epochs, self._steps = epochs, steps_per_epoch
        if self._rich is not None:
            title = self._title
            self._epoch_bar = self._rich.add_task(title, total=epochs, completed=first_epoch - 1, detail="", below="")
            self._step_bar = self._rich.add_task(
                "  steps", total=steps_per_epoch, completed=first_step, detail="", below=""
            )

    def on_phase(self, steps_per_epoch: int) -> None:
        """From here on an epoch has another number of steps."""
        self._steps = steps_per_epoch
        if self._rich is not None:
            self._rich.reset(self._step_bar, total=steps_per_epoch, detail="", below="")

    def on_step(self, epoch: int, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
        """A step has ended."""
        shown = "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        detail = f"loss {shown}  {images_per_second:,.0f} images/s"
        if self._rich is not None:
            self._rich.update(self._step_bar, completed=step, below=f"  step {step}: {detail}")
        self.rarely(f"epoch {epoch}/{self._epochs}  step {step}/{self._steps}  {detail}")

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """An epoch has ended."""
        self._on_record(record)
        epoch = int(record["epoch"])
        losses = _shown(record, "loss/", "{:.3f}")
        accuracies = _shown(record, "held_out/global/", "{:.1%}") or _shown(record, "test/global/", "{:.1%}")
        detail = f"loss {losses}  accuracy {accuracies}" if accuracies else f"loss {losses}"
        if record.get("redistributed"):
            detail += "  redistributed"
        if self._rich is not None:
            self._rich.update(self._epoch_bar, completed=epoch, below=f"  epoch {epoch}: {detail}")
            self._rich.reset(self._step_bar, total=self._steps, detail="", below="")
        else:
            self.message(f"epoch {epoch}/{self._epochs}  {detail}  {record['images_per_second']:,.0f} images/s")


class EvaluationDisplay(Display):
    """Attacks, batches, accuracy so far and time left of one evaluation; an `EvaluationObserver`."""

    def on_attack(self, attack: str, pieces: int) -> None:
        """An attack begins."""
        self._name, self._started = attack, time.monotonic()
        self._pieces, self._done, self._robust, self._images = pieces, 0, 0, 0
        if self._rich is not None:
            self._bar = self._rich.add_task(self._name, total=pieces, detail="", below="")

    def on_piece(self, part: str, robust: int, images: int, ends_batch: bool) -> None:
        """A part of the attack has ended on a batch."""
        self._done += 1
        detail = f"{self._robust + robust} of {self._images + images} images correct"
        if ends_batch:
            self._robust, self._images = self._robust + robust, self._images + images
        after = f" after {part}" if part else ""
        if self._rich is not None:
            self._rich.update(self._bar, completed=self._done, detail=detail + after)
        elif self._done == self._pieces:
            self.message(f"{self._name}: {detail}")
        left = (time.monotonic() - self._started) / self._done * (self._pieces - self._done)
        self.rarely(f"{self._name}: {self._done}/{self._pieces}, {detail}{after}, about {left / 60:.0f} min left")


class PreparationDisplay(Display):
    """Images, images/s and time left of preparing an ImageFolder tree."""

    def on_start(self, images: int) -> None:
        """Preparing begins or continues."""
        self._images, self._done, self._made, self._started = images, 0, 0, time.monotonic()
        if self._rich is not None:
            self._bar = self._rich.add_task(self._title, total=images, detail="", below="")

    def on_images(self, count: int, found: bool) -> None:
        """A shard of so many images was made, or was found finished."""
        self._done, self._made = self._done + count, self._made + (0 if found else count)
        rate = self._made / max(time.monotonic() - self._started, 1e-9)
        detail = f"{rate:,.0f} images/s" if self._made else "found finished"
        if self._rich is not None:
            self._rich.update(self._bar, completed=self._done, detail=detail)
        elif self._done == self._images:
            self.message(f"{self._done:,} of {self._images:,} images, {detail}")
        else:
            self.rarely(f"{self._done:,} of {self._images:,} images, {detail}")


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    interactive = sys.modules.get("IPython")
    return interactive is not None and hasattr(interactive.get_ipython(), "kernel")


def _bars() -> RichProgress:
    """Bars whose name, epoch and time left are whole at 80 columns, however long what they tell besides.

    A task's `detail` has what is left of its line, its `below` a line of its own under all bars.
    """
    from rich.console import RenderableType
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Detail(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.fields["detail"], no_wrap=True, overflow="ellipsis")

    class Bars(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield from super().get_renderables()
            for task in self.tasks:
                if task.fields["below"]:
                    yield Text(task.fields["below"], no_wrap=True, overflow="ellipsis")

    class InNotebook(Bars):
        """One output of the cell, shown anew at most so often."""

        def start(self) -> None:
            from IPython.display import display

            self._output, self._shown = display(self, display_id=True), time.monotonic()

        def update(self, *arguments: Any, **fields: Any) -> None:
            super().update(*arguments, **fields)
            if time.monotonic() - self._shown > NOTEBOOK_INTERVAL:
                self.stop()

        def stop(self) -> None:
            self._output.update(self)
            self._shown = time.monotonic()

    def whole() -> Column:
        return Column(no_wrap=True, max_width=NAME, overflow="ellipsis")

    return (InNotebook if _in_notebook() else Bars)(
        TextColumn("[bold]{task.description}", table_column=whole()),
        BarColumn(BAR, table_column=whole()),
        MofNCompleteColumn(table_column=whole()),
        TimeElapsedColumn(table_column=whole()),
        TextColumn("<", table_column=whole()),
        TimeRemainingColumn(table_column=whole()),
        Detail(table_column=Column()),
    )


def _shown(record: Mapping[str, float], prefix: str, form: str) -> str:
    """The values under a prefix, for example 'natural 97.1%  pgd_linf 61.3%'."""
    values = {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}
    return "  ".join(f"{name} {form.format(value)}" for name, value in values.items())
