"""Charts as coordinates, which the page's template draws as SVG: they follow the reader's colours and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.ticker import MaxNLocator

Points = Sequence[tuple[float, float]]
Box = tuple[float, float, float, float]
Anchor = Literal["start", "end", "middle"]
WIDTH, HEIGHT = 400.0, 280.0
"""The size of every chart, in its own units."""
LEFT, RIGHT, TOP, BOTTOM = 52.0, WIDTH - 12.0, 12.0, HEIGHT - 42.0
"""Where its axes are."""
FRAME = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
LETTER, LINE = 6.2, 13.0
"""About the width and height of a label's letters."""


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


class _Scale:
    """Values to places, with room around them and round numbers at the ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float, most: float | None = None) -> None:
        low, high = min(values), max(values)
        room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
        self._low, self._high = low - room, high + room
        if most is not None:
            self._low, self._high = max(self._low, -0.02 * most), min(self._high, 1.02 * most)
        self._start, self._end = start, end

    def place(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def axis(self, label: str, whole: bool = False) -> dict[str, Any]:
        """The axis, its ticks as places with labels; `whole`: ticks at whole numbers alone."""
        values = MaxNLocator(nbins=5, integer=whole).tick_values(self._low, self._high)
        inside = [float(value) for value in values if self._low <= value <= self._high]
        numbers = [f"{round(value, 10):g}".replace("-", "\N{MINUS SIGN}") for value in inside]
        return {"label": label, "ticks": list(zip(map(self.place, inside), numbers, strict=True))}


def line_chart(
    title: str, series: Mapping[str, Points], unit: str, marked: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """A chart of quantities over the epochs, as the template takes it.

    Args:
        title: What it shows.
        series: (epoch, value) by label; at least one point.
        unit: Label of the values' axis.
        marked: An epoch to mark.
        most: The greatest value that is possible.

    Returns:
        `title`; the axes `x` and `y`; `lines`, each with its `label`, its points as SVG's `polyline` takes them
        (`path`) and its `last` value as it is printed; `marked`, the place of the epoch.
    """
    every = [point for points in series.values() for point in points]
    x = _Scale([epoch for epoch, _ in every], LEFT, RIGHT)
    y = _Scale([value for _, value in every], BOTTOM, TOP, most)
    paths = {
        label: [f"{x.place(epoch)},{y.place(value)}" for epoch, value in points] for label, points in series.items()
    }
    return {
        "title": title,
        "x": x.axis("epoch", whole=True),
        "y": y.axis(unit),
        "lines": [
            {"label": label, "path": " ".join(path), "last": f"{series[label][-1][1]:.3g}"}
            for label, path in paths.items()
        ],
        "marked": None if marked is None else x.place(marked),
    }


def scatter(title: str, x_label: str, y_label: str, groups: list[str], points: list[Point]) -> dict[str, Any]:
    """Methods between two metrics, whose places are filled in; labels where there is room, those of the last group and
    the frontier first."""
    x = _Scale([point.values[0] for point in points], LEFT, RIGHT)
    y = _Scale([point.values[1] for point in points], BOTTOM, TOP)
    for point in points:
        point.x, point.y = x.place(point.values[0]), y.place(point.values[1])
    _place_labels(sorted(points, key=lambda point: (point.group < len(groups) - 1, not point.on_frontier)))
    return {"title": title, "x": x.axis(x_label), "y": y.axis(y_label), "groups": groups, "points": points}


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
            inside = left >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM + 4
            if inside and not any(_overlap(box, other) for other in taken):
                point.anchor, point.label_x, point.label_y = anchor, round(label_x, 1), round(label_y, 1)
                taken.append(box)
                break


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
