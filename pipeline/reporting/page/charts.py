"""Charts as data, which the page's script draws with Plotly: they follow the reader's colours, size and picks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.reporting.figures.trade_off import FAR_OFF, LEAST_SPAN
from pipeline.reporting.style import MARKERS, Look

Points = Sequence[tuple[float, float]]
NAMES = [
    *("circle", "square", "triangle-up", "diamond", "triangle-down", "cross"),
    *("x", "triangle-left", "pentagon", "triangle-right", "hexagon", "diamond-tall"),
]
SYMBOLS = dict(zip(MARKERS, NAMES, strict=True))
"""Plotly's names of the figures' markers."""
DIGITS = 5
"""Significant digits of what a chart shows."""
ROOM = 0.08
"""Room on each side of the points that are not far off, as a share of what they span."""


def line_chart(
    title: str, series: Mapping[str, Points], unit: str, looks: Mapping[str, Look], marked: float | None = None
) -> dict[str, Any]:
    """A chart of quantities over the epochs, as the template takes it.

    Args:
        title: What it shows.
        series: (epoch, value) by label; at least one point.
        unit: Label of the values' axis.
        looks: By label.
        marked: An epoch to mark.
    """
    lines = [
        {"name": label, "x": [x for x, _ in points], "y": _short(y for _, y in points), **_look(looks[label])}
        for label, points in series.items()
    ]
    return {"title": title, "x": "epoch", "y": unit, "series": lines, "marked": marked}


def scatter(
    title: str, x_label: str, y_label: str, points: pd.DataFrame, best: pd.DataFrame, looks: Mapping[str, Look]
) -> dict[str, Any]:
    """Methods between two metrics, as the template takes it.

    Args:
        title: What it shows.
        x_label: Label of the axis.
        y_label: Likewise.
        points: `group`, `label`, `key` (the experiment that a point leads to), `x`, `y`, and both in words, `x_said`,
            `y_said`.
        best: Those on the frontier, ordered along x.
        looks: By group.
    """
    groups = [
        {
            "name": name,
            **_columns(own),
            "labels": list(own["label"]),
            "keys": list(own["key"]),
            "said": own[["x_said", "y_said"]].to_numpy().tolist(),
            **_look(looks[str(name)]),
        }
        for name, own in points.groupby("group", sort=False)
    ]
    (left, right), (low, high) = _near(points["x"]), _near(points["y"])
    inside = points["x"].between(left, right) & points["y"].between(low, high)
    return {
        "title": title,
        "x": x_label,
        "y": y_label,
        "series": groups,
        "frontier": {**_columns(best), "keys": list(best["key"])},
        "near": {"x": [left, right], "y": [low, high]},
        "outside": list(points.loc[~inside, "label"]),
    }


def _columns(points: pd.DataFrame) -> dict[str, list[float]]:
    return {axis: _short(points[axis]) for axis in ("x", "y")}


def _near(values: pd.Series) -> list[float]:
    """The ends of an axis without points that lie so far below that the others would merge, as in the figures."""
    quarter, three_quarters = values.quantile([0.25, 0.75])
    near = values[values >= quarter - FAR_OFF * max(three_quarters - quarter, LEAST_SPAN)]
    room = ROOM * max(near.max() - near.min(), LEAST_SPAN)
    low, high = max(near.min() - room, 0), near.max() + room
    return _short([low, min(high, 100) if near.max() <= 100 else high])  # accuracies end there


def _look(look: Look) -> dict[str, str]:
    dash = look.line if isinstance(look.line, str) else ",".join(f"{2 * length:g}px" for length in look.line[1])
    return {"colour": look.colour, "marker": SYMBOLS[look.marker], "dash": "solid" if dash == "-" else dash}


def _short(values: Any) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]
