"""Charts as coordinates, which the page's template draws as SVG: they follow the reader's colours and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from matplotlib.ticker import MaxNLocator

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 400.0, 280.0
"""The size of every chart, in its own units."""
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 42.0
LETTER, LINE = 6.2, 13.0
"""About the width and height of a label's letters."""
Anchor = Literal["start", "end", "middle"]


@dataclass(frozen=True)
class Frame:
    """Where a chart's axes are."""

    width: float = WIDTH
    height: float = HEIGHT
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP
    bottom: float = HEIGHT - BOTTOM


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    place: float
    label: str


@dataclass(frozen=True)
class Axis:
    """An axis between two values."""

    label: str
    ticks: list[Tick]


@dataclass(frozen=True)
class Line:
    """One quantity over the epochs."""

    label: str
    path: str
    """Its points, as SVG's `polyline` takes them."""
    last: str
    """The last value, as it is printed."""


@dataclass(frozen=True)
class LineChart:
    """Several quantities over the epochs."""

    title: str
    x: Axis
    y: Axis
    lines: list[Line]
    marked: float | None
    """Where the selected epoch is."""
    frame: Frame = field(default_factory=Frame)


@dataclass
class Point:
    """One method between two metrics."""

    label: str
    link: str
    """The part of the page that says more."""
    values: tuple[float, float]
    group: int
    """The place of its group."""
    on_frontier: bool
    """No other method is at least as good in both metrics and better in one."""
    x: float = 0.0
    y: float = 0.0
    anchor: Anchor | None = None
    """How its label is set; None where there is no room for one."""
    label_x: float = 0.0
    label_y: float = 0.0


@dataclass(frozen=True)
class Scatter:
    """Methods between two metrics."""

    title: str
    x: Axis
    y: Axis
    groups: list[str]
    points: list[Point]
    frame: Frame = field(default_factory=Frame)


class _Scale:
    """Values to places, with room around them and round numbers at the ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, most: float | None) -> None:
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
        self._low, self._high = low - room, high + room
        if most is not None:
            self._low, self._high = max(self._low, -0.02 * most), min(self._high, 1.02 * most)
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def axis(self, label: str, whole: bool = False) -> Axis:
        """The axis; `whole`: ticks at whole numbers alone."""
        values = MaxNLocator(nbins=5, integer=whole).tick_values(self._low, self._high)
        inside = [float(value) for value in values if self._low <= value <= self._high]
        return Axis(label, [Tick(self.place(value), _number(value)) for value in inside])


def _number(value: float) -> str:
    return f"{round(value, 10):g}".replace("-", "\N{MINUS SIGN}")


def line_chart(
    title: str, series: Mapping[str, Points], unit: str, marked: float | None = None, most: float | None = None
) -> LineChart:
    """A chart of quantities over the epochs.

    Args:
        title: What it shows.
        series: (epoch, value) by label; at least one point.
        unit: Label of the values' axis.
        marked: An epoch to mark.
        most: The greatest value that is possible.
    """
    every = [point for points in series.values() for point in points]
    x = _Scale([epoch for epoch, _ in every], LEFT, WIDTH - RIGHT, None)
    y = _Scale([value for _, value in every], HEIGHT - BOTTOM, TOP, most)
    lines = [
        Line(label, " ".join(f"{x.place(epoch)},{y.place(value)}" for epoch, value in points), f"{points[-1][1]:.3g}")
        for label, points in series.items()
    ]
    place = None if marked is None else x.place(marked)
    return LineChart(title, x.axis("epoch", whole=True), y.axis(unit), lines, place)


def scatter(title: str, x_label: str, y_label: str, groups: list[str], points: list[Point]) -> Scatter:
    """Methods between two metrics; labels where there is room, those of the last group and the frontier first.

    Args:
        title: What it shows.
        x_label: Of the first value of every point.
        y_label: Of the second.
        groups: Their names.
        points: At least one; their places are filled in.
    """
    x = _Scale([point.values[0] for point in points], LEFT, WIDTH - RIGHT, None)
    y = _Scale([point.values[1] for point in points], HEIGHT - BOTTOM, TOP, None)
    for point in points:
        point.x, point.y = x.place(point.values[0]), y.place(point.values[1])
    _place_labels(sorted(points, key=lambda point: (point.group < len(groups) - 1, not point.on_frontier)))
    return Scatter(title, x.axis(x_label), y.axis(y_label), groups, points)


Box = tuple[float, float, float, float]


def _place_labels(points: list[Point]) -> None:
    """Put each label beside its point, where it covers nothing and stays inside; those that find no place have none."""
    taken: list[Box] = [(point.x - 5, point.y - 5, point.x + 5, point.y + 5) for point in points]
    for point in points:
        width = LETTER * len(point.label)
        places: list[tuple[Anchor, float, float, float]] = [
            ("start", point.x + 8, point.y + 4, point.x + 8),
            ("end", point.x - 8, point.y + 4, point.x - 8 - width),
            ("middle", point.x, point.y - 9, point.x - width / 2),
            ("middle", point.x, point.y + 17, point.x - width / 2),
        ]
        for anchor, label_x, label_y, left in places:
            box = (left, label_y - LINE + 2, left + width, label_y + 2)
            inside = left >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= HEIGHT - BOTTOM + 4
            if inside and not any(_overlap(box, other) for other in taken):
                point.anchor, point.label_x, point.label_y = anchor, round(label_x, 1), round(label_y, 1)
                taken.append(box)
                break


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
