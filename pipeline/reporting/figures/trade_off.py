"""Methods, or settings of studies, as points between two metrics, and the frontier of those that none beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from typing_extensions import override

from pipeline.config.figures import Axis, FigureSettings, FigureSource, Group, Kind
from pipeline.config.metrics import metric_named
from pipeline.core.values import unique
from pipeline.reporting.labels import SAME_PLACE, place_labels
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    Look,
    deviations,
    figure_text,
    keep_percentages,
    legend_above,
    looks,
    new_figure,
    note_below,
    say_missing,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.config.experiment import Experiment
    from pipeline.config.params import Params
    from pipeline.studies.cells import Cell

LABEL_SIZE = 5.8
MARKER_SIZE, STAR_SIZE = 5.0, 9.0
"""Points: a star fills less of its size than other markers do."""
RING = 0.6
"""The share by which a marker is larger than the one that lies above it at the same place, of at most `MOST_RINGS`."""
MOST_RINGS = 3
EDGE = 0.045
"""Where a point that is far off is drawn, as a share of the axes."""
FRONTIER: dict[str, Any] = {"color": "#4d4d4d", "linewidth": 0.9, "linestyle": (0, (4, 1.5))}
MARGIN = 0.18
"""Room on each side, as a share of what the points span."""
LEAST_SPAN = 1.0
"""Percentage points: what points that are closer are taken to span."""
FAR_OFF = 3.0
"""Interquartile ranges below the first quartile."""


class TradeOffFigure(FigureSettings):
    """Methods, or settings of studies, as points between two metrics, and the frontier of those that no other one beats
    in both."""

    kind: Literal["trade_off"]
    x: Axis
    y: Axis
    groups: Annotated[list[Group], Field(min_length=1)]
    """In the order of the legend; later ones are drawn above earlier ones."""

    @field_validator("groups")
    @classmethod
    def _differ(cls, value: list[Group]) -> list[Group]:
        unique([group.label for group in value])
        unique([method for group in value for method in group.methods])
        return value

    @property
    def studies(self) -> list[str]:
        """The studies of all groups."""
        return [group.study for group in self.groups if group.study is not None]

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield from (("metric", axis.metric) for axis in (self.x, self.y))
        yield from (("method", method) for group in self.groups for method in group.methods)
        yield from (("study", study) for study in self.studies)

    @property
    def signs(self) -> tuple[int, int]:
        """By axis 1 where more is better, as of accuracies, and -1 where less is."""
        x, y = (1 if metric_named(axis.metric).is_accuracy else -1 for axis in (self.x, self.y))
        return x, y

    @override
    def draw(self, source: FigureSource) -> Figure:
        points = points_between(self, source.params, source.runs, source.grid)
        measured = points.dropna(subset=["x", "y"])
        missing = points.drop(measured.index)["label"]
        figure = new_figure(COLUMN_WIDTH, 2.0 + 0.1 * len(points))
        axes = figure.add_subplot(xlabel=figure_text(self.x.label), ylabel=figure_text(self.y.label))
        note_below(figure, f"Not measured: {', '.join(missing)}." if len(missing) else "")
        grouped = looks(group.label for group in self.groups)
        percent = (self.signs[0] == 1, self.signs[1] == 1)
        draw_points(figure, axes, measured, frontier(measured, *self.signs), grouped, percent)
        return figure


def points_between(
    settings: TradeOffFigure, params: Params, runs: pd.DataFrame, grid: Sequence[Cell] = ()
) -> pd.DataFrame:
    """One row per method, or per setting of a study: name, group, label, x, y, and their deviations over seeds.

    Args:
        settings: Which points, between which metrics.
        params: What labels are taken from.
        runs: As `finished_runs` gives them for the methods and the cells.
        grid: The cells of the studies.
    """
    import pandas as pd

    from pipeline.reporting.results import measure

    members: list[tuple[str, str, str]] = []
    experiments: dict[str, dict[int, Experiment]] = {}
    for group in settings.groups:
        for name in group.methods:
            members.append((group.label, name, params.methods[name].label))
            experiments[name] = {seed: params.experiment(name, seed) for seed in params.seeds}
        for cell in (cell for cell in grid if cell.study == group.study):
            name = f"{cell.study}/{cell.method}/{cell.setting}"
            if name not in experiments:
                members.append((group.label, name, cell.setting))
            experiments.setdefault(name, {})[cell.experiment.seed] = cell.experiment
    metrics = {"x": settings.x.metric, "y": settings.y.metric}
    cells = measure(experiments, dict.fromkeys(metrics.values()), runs).set_index(["name", "metric"])
    return pd.DataFrame(
        {
            "name": name,
            "group": group,
            "label": figure_text(label),
            **{axis: cells.loc[(name, metric), "mean"] for axis, metric in metrics.items()},
            **{f"{axis}_std": cells.loc[(name, metric), "std"] for axis, metric in metrics.items()},
        }
        for group, name, label in members
    )


def frontier(points: pd.DataFrame, x_sign: int, y_sign: int) -> pd.DataFrame:
    """The points that no other point beats, ordered along x.

    Args:
        points: Columns `x` and `y`, without NaN.
        x_sign: 1 where more is better, -1 where less is.
        y_sign: The same for y.

    Returns:
        Those for which no other point is at least as good in both and better in one.
    """
    x, y = (points[axis].to_numpy(dtype=float) * sign for axis, sign in (("x", x_sign), ("y", y_sign)))
    gain_x, gain_y = x - x[:, None], y - y[:, None]
    beaten = ((gain_x >= 0) & (gain_y >= 0) & (gain_x + gain_y > 0)).any(axis=1)
    kept: pd.DataFrame = points[~beaten].sort_values("x", kind="stable")
    return kept


def draw_points(
    figure: Figure,
    axes: Axes,
    points: pd.DataFrame,
    best: pd.DataFrame,
    grouped: Mapping[str, Look],
    percent: tuple[bool, bool],
) -> None:
    """Points with their names and the frontier, and the legend above.

    Args:
        figure: With nothing else to come.
        axes: Its only ones.
        points: `group`, `label` ("" for none), `x`, `y`, `x_std`, `y_std`; without NaN in `x` and `y`.
        best: Those on the frontier, ordered along x.
        grouped: The look of every group.
        percent: By axis, whether it shows accuracies.
    """
    from matplotlib.lines import Line2D

    _fit_limits(axes, points, percent)
    axes.plot(best["x"], best["y"], **FRONTIER, zorder=1, gid="frontier")
    handles = [Line2D([], [], **_marker(look), label=figure_text(group)) for group, look in grouped.items()]
    legend_above(figure, [*handles, Line2D([], [], **FRONTIER, label="frontier")])
    if points.empty:
        say_missing(axes, "nothing is measured")
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed in the layout as it is now
    shown = _within(axes, points)
    shown["place"] = _places(axes, shown[["x_shown", "y_shown"]].to_numpy(dtype=float))
    rings = 1 + RING * shown.groupby("place").cumcount(ascending=False).clip(upper=MOST_RINGS)
    shown["size"] = rings * [_marker(grouped[group])["markersize"] for group in shown["group"]]
    steps = best[["x", "y"]].to_numpy(dtype=float)
    lines = list(np.stack([steps[:-1], steps[1:]], axis=1))
    for _, point in shown.iterrows():
        lines += _draw_point(axes, point, grouped[point["group"]], percent)
    named = shown[shown["label"] != ""].groupby("place")
    place_labels(
        axes,
        named[["x_shown", "y_shown"]].first().to_numpy(dtype=float),
        named["label"].agg("\n".join).tolist(),
        LABEL_SIZE,
        shown[["x_shown", "y_shown"]].to_numpy(dtype=float),
        shown["size"].to_numpy(dtype=float),
        np.array(lines),
    )


def _fit_limits(axes: Axes, points: pd.DataFrame, percent: tuple[bool, bool]) -> None:
    """Room for labels on all sides of all points but those that lie so far below that the others would merge."""
    axis: Literal["x", "y"]
    for axis, accuracies in (("x", percent[0]), ("y", percent[1])) if len(points) else ():
        quarter, three_quarters = points[axis].quantile([0.25, 0.75])
        near = points[points[axis] >= quarter - FAR_OFF * max(three_quarters - quarter, LEAST_SPAN)]
        below, above = deviations(near[axis], near[f"{axis}_std"].fillna(0), accuracies)
        low, high = (near[axis] - below).min(), (near[axis] + above).max()
        margin = MARGIN * max(high - low, LEAST_SPAN)
        axes.set(**{f"{axis}lim": (low - margin, high + margin)})
        if accuracies:
            keep_percentages(axes, axis)


def _within(axes: Axes, points: pd.DataFrame) -> pd.DataFrame:
    """The points with where they are drawn, `x_shown` and `y_shown`: `far_off` ones at the edge, their values named."""
    shown = points.assign(far_off=False)
    for axis, (low, high) in (("x", axes.get_xlim()), ("y", axes.get_ylim())):
        far = points[axis] < low
        shown[f"{axis}_shown"] = points[axis].mask(far, low + EDGE * (high - low))
        shown["far_off"] |= far
    values = shown.apply(lambda point: f" ({point['x']:.1f}, {point['y']:.1f})" if point["far_off"] else "", axis=1)
    return shown.assign(label=shown["label"] + values.where(shown["label"] != "", ""))


def _places(axes: Axes, points: NDArray[np.float64]) -> list[int]:
    """For each point, the first one that is drawn at the same place."""
    pixels = axes.transData.transform(points)
    apart = np.abs(pixels - pixels[:, None]).max(axis=2) > SAME_PLACE * axes.figure.dpi / 72
    return [int(np.argmin(row)) for row in apart]


def _draw_point(axes: Axes, point: pd.Series, look: Look, percent: tuple[bool, bool]) -> list[NDArray[np.float64]]:
    """Draw a marker with its error bars, and an arrow from the edge to where a point is that is far off.

    Returns:
        The error bars, from end to end.
    """
    x, y = point["x_shown"], point["y_shown"]
    x_error, y_error = (
        deviations([point[axis]], [point[f"{axis}_std"]], of) for axis, of in zip("xy", percent, strict=True)
    )
    marker = _marker(look) | {"markersize": point["size"]}
    axes.errorbar([x], [y], y_error, x_error, **marker, elinewidth=0.7, zorder=3, clip_on=False)
    if point["far_off"]:
        (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
        end = (left if point["x"] < left else x, bottom if point["y"] < bottom else y)
        arrow = {"arrowstyle": "->", "color": look.colour, "linewidth": 0.8, "shrinkA": 2.5, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=(x, y), arrowprops=arrow)
    ((left,), (right,)), ((below,), (above,)) = np.nan_to_num(x_error), np.nan_to_num(y_error)
    return [np.array([[x - left, y], [x + right, y]]), np.array([[x, y - below], [x, y + above]])]


def _marker(look: Look) -> dict[str, Any]:
    return {
        "marker": look.marker,
        "color": look.colour,
        "linestyle": "",
        "markersize": STAR_SIZE if look.marker == "*" else MARKER_SIZE,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    }


FIGURE = TradeOffFigure
