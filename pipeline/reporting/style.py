"""One look for every figure: for a column of a two-column paper, colour-blind safe, readable in grey, equal bytes.

    with style():
        figure = new_figure(COLUMN_WIDTH, 2.4)
        ...
        save(figure, destination, "class_wise_natural")

Nothing depends on the machine: the fonts are those that come with matplotlib, and files have no dates. Matplotlib is
imported where it draws, so that settings of figures are checked without it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.core.errors import RequestError
from pipeline.core.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.config.params import Params

COLUMN_WIDTH = 3.35
"""Inches: one column of a two-column paper."""
PAGE_WIDTH = 6.95
"""Inches: both columns."""
RESOLUTION = 300
"""Pixels per inch of the PNG."""
KINDS = ("pdf", "png", "svg")
"""The files of a figure, by their endings."""
MISSING = "#8a8a8a"
"""Colour of what marks that a number is not there."""
MISSING_TEXT = "#5f5f5f"
"""The same for text, which needs more contrast."""
MISSING_NOTE = "\N{MULTIPLICATION SIGN}: not measured."
ROW = 0.145
"""Inches for each setting of a study whose settings are rows."""

WORD = re.compile(r"(?:\\\$|\$[^$]*\$|[^\s$])+")
"""What a line is not broken in: math is one word."""
REMARK_SIZE = 6.0
"""Points."""
REDISTRIBUTION: dict[str, Any] = {"color": "#9a9a9a", "linewidth": 0.6, "linestyle": (0, (1, 1))}
"""How an epoch is marked in which the learners restart from the global learner."""

# Okabe and Ito's palette without its yellow, which vanishes on white; neighbours differ in lightness, too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#56B4E9", "#D55E00", "#CC79A7", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "p", ">", "h", "d")
LINES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1.2)),
    (0, (5, 1.2, 1, 1.2)),
    (0, (5, 1.2, 1, 1.2, 1, 1.2)),
)
HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "----", "||||", "++++")

SETTINGS: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "mathtext.fontset": "dejavusans",
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 1.8,
    "hatch.linewidth": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.borderaxespad": 0.2,
    "legend.columnspacing": 1.2,
    "pdf.fonttype": 42,  # TrueType: what journals ask for, and text that can be searched and copied
    "svg.hashsalt": "figure",  # the names of parts follow from what they are
    "savefig.dpi": RESOLUTION,
    "figure.dpi": RESOLUTION,
}


@dataclass(frozen=True)
class Look:
    """What distinguishes one method or quantity from the others, by colour and without it."""

    colour: str
    marker: str
    line: str | tuple[int, tuple[float, ...]]
    hatch: str = ""

    @property
    def curve(self) -> dict[str, Any]:
        """The options of `Axes.plot`."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.line}

    @property
    def point(self) -> dict[str, Any]:
        """The same without a line."""
        return self.curve | {"linestyle": ""}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, in order; no two of up to 60 share both marker and line."""
    return {
        name: Look(
            COLOURS[number % len(COLOURS)],
            MARKERS[number % len(MARKERS)],
            LINES[number % len(LINES)],
            HATCHES[number % len(HATCHES)],
        )
        for number, name in enumerate(dict.fromkeys(names))
    }


def method_looks(params: Params) -> dict[str, Look]:
    """The look of every method, the same in all figures of a suite.

    Methods of one of the suite's groups share a colour, and differ in marker and line. A method without a group has a
    colour of its own.
    """
    together = [group.methods for group in params.groups]
    together += [[name] for name in params.methods if not any(name in methods for methods in together)]
    return {
        name: replace(look, colour=COLOURS[number % len(COLOURS)])
        for number, methods in enumerate(together)
        for name, look in looks(methods).items()
    }


def learner_looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for the global learner, which is black and solid, and one for each learner, in order."""
    black = COLOURS.index("#000000")
    own = (look for number, look in enumerate(looks(map(str, range(len(COLOURS)))).values()) if number != black)
    return {"global": Look("#000000", MARKERS[black], "-"), **dict(zip(names, cycle(own), strict=False))}


_remark = ContextVar("remark", default="")


@contextmanager
def style(remark: str = "") -> Iterator[None]:
    """Draw in this look, whatever matplotlib is set to elsewhere on the machine, with a remark below every figure."""
    import matplotlib

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it remarks on the dates in matplotlib's own fonts
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        token = _remark.set(remark)
        try:
            yield
        finally:
            _remark.reset(token)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, `width` x `height` inches, that keeps what is drawn on it from overlapping."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    note_below(figure, _remark.get())
    return figure


@cache
def plain_text(source: str) -> str:
    """A text of the data, which may have any letters, as matplotlib shows it: without math."""
    return source.replace("$", r"\$")


def figure_text(source: str) -> str:
    """A label of `params.yaml` as matplotlib shows it: `$math$`, `_{...}` and `^{...}` are math, code is plain.

    >>> print(figure_text(r"AT_{2} & $\\ell_2$, 5 US$"))
    AT$_{2}$ & $\\ell_2$, 5 US\\$

    Raises:
        RequestError: matplotlib cannot draw the math.
    """
    from matplotlib.mathtext import MathTextParser

    from pipeline.reporting.latex import MARKUP

    parts, position = [], 0
    for match in MARKUP.finditer(source):
        parts.append(source[position : match.start()].replace("$", r"\$"))
        math, script, code = match.group("math", "script", "code")
        parts.append(math or (f"${script}$" if script else code.replace("$", r"\$")))
        position = match.end()
    text = "".join(parts) + source[position:].replace("$", r"\$")
    try:
        MathTextParser("path").parse(text)
    except ValueError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RequestError(f"the label '{source}' has math that figures cannot show: {reason}") from None
    return text


def note_below(figure: Figure, text: str) -> None:
    """A remark in grey at the lower edge, behind what stands there, broken to the figure's width."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import MathTextParser

    parser, font = MathTextParser("path"), FontProperties(size=REMARK_SIZE)
    lines: list[str] = []
    for word in WORD.findall(f"{figure.get_supxlabel()} {text}"):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and float(parser.parse(longer, 72, font).width) / 72 < 0.97 * figure.get_figwidth():
            lines[-1] = longer
        else:
            lines.append(word)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=REMARK_SIZE, color=MISSING_TEXT)


def legend_above(figure: Figure, handles: Sequence[Any], columns: int = 2) -> None:
    """What is what, above all axes; `handles` have their labels."""
    figure.legend(handles=handles, loc="outside upper center", ncols=columns)


def say_missing(axes: Axes, text: str = "not measured") -> None:
    """Say in the middle of empty axes why they are empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MISSING_TEXT)


def mark_missing(axes: Axes, places: Sequence[float], along: Literal["x", "y"]) -> None:
    """Grey crosses at `places` along one axis, near the start of the other, where numbers are not there."""
    if len(places):
        start = [0.05] * len(places)
        x, y = (places, start) if along == "x" else (start, places)
        transform = axes.get_xaxis_transform() if along == "x" else axes.get_yaxis_transform()
        look: dict[str, Any] = {"color": MISSING, "markersize": 4, "markeredgewidth": 1, "gid": "missing"}
        axes.plot(x, y, "x", **look, transform=transform, clip_on=False)


def deviations(means: ArrayLike, stds: ArrayLike, percent: bool = True) -> NDArray[np.float64]:
    """How far error bars of one standard deviation reach below and above the means.

    Args:
        means: NaN where there is none.
        stds: NaN where there is none.
        percent: Whether they are shares in percent: then bars end at 0 and 100.

    Returns:
        (2, n): below, above.
    """
    mean, std = np.asarray(means, dtype=float), np.asarray(stds, dtype=float)
    if not percent:
        return np.stack([std, std])
    return np.stack([np.minimum(std, mean), np.minimum(std, np.maximum(100 - mean, 0))])


def bars_note(seeds: int) -> str:
    """What error bars are; `seeds`: the most that a number rests on."""
    if seeds > 1:
        return "Bars: standard deviation over seeds."
    return "Bars: 95% interval of Wilson over test images, one seed."


def keep_percentages(axes: Axes, along: Literal["x", "y"]) -> None:
    """Cut off what an axis of accuracies shows below 0 and above 100 %."""
    low, high = axes.get_xlim() if along == "x" else axes.get_ylim()
    axes.set(**{f"{along}lim": (max(low, 0), min(high, 100))})


def save(figure: Figure, destination: Path, name: str, title: str = "") -> list[Path]:
    """Write `<name>.pdf`, `.png` and `.svg` to the folder `destination`; equal figures give equal bytes.

    Call it inside `style()`. The title is in the files' metadata, not on the page.
    """
    titled = {"Title": title} if title else {}
    metadata: dict[str, dict[str, Any]] = {
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None, **titled},
        "png": {"Software": None, **titled},
        "svg": {"Date": None, "Creator": None, **titled},
    }
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once: all files look the same
    for kind, entries in metadata.items():
        with atomic_write(destination / f"{name}.{kind}") as stream:
            figure.savefig(stream, format=kind, metadata=entries)
    return [destination / f"{name}.{kind}" for kind in metadata]
