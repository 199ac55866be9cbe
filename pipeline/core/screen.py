"""Lines at the foot of a terminal or a notebook that say how far work is and when it ends."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

NAME, BAR = 28, 10
"""Columns of a name at most, and of a bar: with what is done and when it ends they fit into 80."""
REFRESH = 0.3
"""Seconds between two looks."""
MARK = "\x1e"
"""What a line begins with that is a standing."""


@dataclass(frozen=True)
class Standing:
    """How far a piece of work is."""

    title: str
    what: str
    """What is done of how much, such as 'epoch 13/120'."""
    share: float
    """What is done of 1."""
    began: float
    """When it began here, in seconds since 1970."""
    ends: float | None = None
    """When it is expected to end, or has ended; None while that is not known."""
    stage: str = ""
    """'train' or 'evaluate', '' for anything else."""
    details: tuple[str, ...] = ()
    """What is shown as far as there is room."""
    found: float = 0.0
    """What was done of 1 when it began here: a training may continue."""

    @property
    def time(self) -> str:
        """'0:42:10 left, ends 14:32'."""
        if self.share >= 1:
            return f"done in {_span((self.ends or time.time()) - self.began)}"
        return "time left not known yet" if self.ends is None else time_left(self.ends)

    def as_line(self) -> str:
        """The standing as one line that `heard` understands."""
        return f"{MARK}{json.dumps(asdict(self))}"


def heard(line: str) -> Standing:
    """The standing that a line is, which begins with `MARK`."""
    content = json.loads(line.removeprefix(MARK))
    return Standing(**{**content, "details": tuple(content["details"])})


def time_left(ends: float) -> str:
    """How long it is to a moment, and when that is: the day, too, where it is another one."""
    now, end = datetime.now(), datetime.fromtimestamp(ends)
    day = "" if end.date() == now.date() else f"{end:%a} " if (end.date() - now.date()).days < 7 else f"{end:%d %b} "
    return f"{_span(ends - time.time())} left, ends {day}{end:%H:%M}"


def _span(seconds: float) -> str:
    """'0:42:10', '3 d 04:10'."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours < 100 else f"{hours // 24} d {hours % 24:02}:{minutes:02}"


class Pace:
    """When work ends that goes on as it went since its first sign of life."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None

    def ends(self, share: float) -> float | None:
        """The moment, once something was done after the first call."""
        now = time.time()
        if self._first is None:
            self._first = now, share
        since, begun = self._first
        return None if share <= begun else now + (now - since) * (1 - share) / (share - begun)

    def leave_out(self, share: float) -> None:
        """Take so much that is done as found: it took no time, and says nothing of what is left."""
        if self._first is not None:
            since, begun = self._first
            self._first = since, begun + share


def has_screen() -> bool:
    """Whether there is a terminal or a notebook where lines can be shown anew."""
    return (sys.stdout.isatty() and os.environ.get("TERM") != "dumb") or _in_notebook()


def lines(standings: Iterable[Standing], width: int, below: bool = False) -> list[str]:
    """A line for each, of `width` columns at most: its name gives way first, when it ends last.

    Args:
        standings: From top to bottom.
        width: Columns.
        below: Each detail has a line of its own, below.
    """
    given = list(standings)
    whats = [max(len(one.what) for one in given), max(len(one.time) for one in given)] if given else [0, 0]
    bar = BAR if width >= 60 else 0
    name = max(1, min(NAME, max((len(one.title) for one in given), default=0), width - sum(whats) - bar - 5))
    found = []
    for one in given:
        done = round(bar * min(one.share, 1))
        shown = f"{'━' * done}{'─' * (bar - done)} " if bar else ""
        text = f"{_cut(one.title, name):<{name}} {shown}{one.what:<{whats[0]}}  {one.time:<{whats[1]}}"
        if below:
            found += [text, *(f"  {detail}" for detail in one.details)]
        else:
            found.append("  ".join([text, *one.details]))
    return [_cut(text.rstrip(), width) for text in found]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


class Screen:
    """Lines at the foot of a terminal, or in the output of a notebook's cell, that are shown anew.

    Args:
        render: Gives them for a number of columns.
        has_thread: Show them anew without being asked, too: time goes by.
    """

    def __init__(self, render: Callable[[int], Iterable[str]], has_thread: bool = True) -> None:
        from rich.console import Console
        from rich.live import Live

        self._render, self._has_thread, self._shown, self._output = render, has_thread, time.monotonic(), None
        self._console, self._live = Console(), None
        if _in_notebook():
            from IPython.display import display

            self._output = display(self._text(), display_id=True)
        else:
            self._live = Live(
                console=self._console,
                get_renderable=self._text,
                auto_refresh=has_thread,
                redirect_stdout=has_thread,
                redirect_stderr=has_thread,
            )
            self._live.start()

    def _text(self) -> Text:
        from rich.text import Text

        rows = self._render(self._console.width - 1)
        if not self._console.encoding.startswith("utf"):
            rows = [row.translate({ord("━"): "=", ord("─"): "-", ord("…"): "~"}) for row in rows]
        return Text("\n".join(rows), no_wrap=True, overflow="crop")

    def print(self, line: str) -> None:
        """Print a line above them."""
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def refresh(self) -> None:
        """Show them anew where no thread does, if the last time was a while ago."""
        if not (self._has_thread and self._live) and time.monotonic() - self._shown > REFRESH:
            self._show()

    def stop(self) -> None:
        """Show them for the last time."""
        self._show()
        if self._live is not None:
            self._live.stop()

    def _show(self) -> None:
        self._shown = time.monotonic()
        if self._live is not None:
            self._live.refresh()
        elif self._output is not None:
            self._output.update(self._text())


def _in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    interactive = sys.modules.get("IPython")
    return interactive is not None and hasattr(interactive.get_ipython(), "kernel")
