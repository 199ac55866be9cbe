"""Methods, or settings of studies, as points between two metrics, and the frontier of those that none beats in both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator
from typing_extensions import override

from pipeline.config.figures import Axis, FigureSettings, FigureSource, Group, Kind, NothingToShow
from pipeline.config.metrics import metric_named
from pipeline.core.values import unique
from pipeline.reporting.labels import SAME_PLACE, place_labels
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    Look,
    bars_note,
    figure_text,
    keep_percentages,
    legend_above,
    method_looks,
    new_figure,
    note_below,
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
BAR: dict[str, Any] = {"elinewidth": 0.7, "zorder": 3, "clip_on": False}
FRONTIER: dict[str, Any] = {"color": "#4d4d4d", "linewidth": 0.9, "linestyle": (0, (4, 1.5))}
MARGIN = 0.18
"""Room on each side, as a share of what the points span."""
LEAST_SPAN = 1.0
"""Percentage points: what points that are closer are taken to span."""
FAR_OFF = 3.0
"""Interquartile ranges below the first quartile."""
MOST_BARS = 8
"""Points of one seed of which each has its error bars."""
REACH = ("x_below", "x_above", "y_below", "y_above")


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
    @override
    def method_groups(self) -> list[Group]:
        return [group for group in self.groups if group.methods]

    @property
    def signs(self) -> tuple[int, int]:
        """By axis 1 where more is better, as of accuracies, and -1 where less is."""
        x, y = (1 if metric_named(axis.metric).is_accuracy else -1 for axis in (self.x, self.y))
        return x, y

    @override
    def draw(self, source: FigureSource) -> Figure:
        points = points_between(self, source.params, source.runs, source.grid)
        measured = points.dropna(subset=["x", "y"])
        if measured.empty:
            raise NothingToShow(f"nothing has both {self.x.metric} and {self.y.metric}; '{self.command}' measures them")
        missing = points.drop(measured.index)["label"]
        figure = new_figure(COLUMN_WIDTH, 2.0 + 0.1 * len(points))
        axes = figure.add_subplot(xlabel=figure_text(self.x.label), ylabel=figure_text(self.y.label))
        measured, bars = _without_bars_of_a_crowd(measured)
        note_below(figure, f"{bars} Not measured: {', '.join(missing)}." if len(missing) else bars)
        percent = (self.signs[0] == 1, self.signs[1] == 1)
        draw_points(figure, axes, measured, frontier(measured, *self.signs), self._legend(measured), percent)
        return figure

    def _legend(self, points: pd.DataFrame) -> dict[str, Look]:
        """By group, its colour; a group of one look has its marker, too."""
        found = {}
        for label, own in points.groupby("group", sort=False)["look"]:
            markers = {look.marker for look in own}
            found[str(label)] = own.iloc[0] if len(markers) == 1 else replace(own.iloc[0], marker="o")
        return {group.label: found[group.label] for group in self.groups if group.label in found}


def points_between(
    settings: TradeOffFigure, params: Params, runs: pd.DataFrame, grid: Sequence[Cell] = ()
) -> pd.DataFrame:
    """One row per method, or per setting of a study: name, group, label, look, x and y, how far their error bars reach
    (`x_below`, ...), and the seeds and images that they rest on.

    Args:
        settings: Which points, between which metrics.
        params: What labels are taken from.
        runs: As `finished_runs` gives them for the methods and the cells.
        grid: The cells of the studies.
    """
    import pandas as pd

    from pipeline.reporting.results import measure

    members: list[tuple[str, str, str, Look]] = []
    chosen = method_looks(params)
    experiments: dict[str, dict[int, Experiment]] = {}
    for group in settings.groups:
        for name in group.methods:
            members.append((group.label, name, params.methods[name].label, chosen[name]))
            experiments[name] = {seed: params.experiment(name, seed) for seed in params.seeds}
        for cell in (cell for cell in grid if cell.study == group.study):
            name = f"{cell.study}/{cell.method}/{cell.setting}"
            if name not in experiments:
                members.append((group.label, name, cell.setting, chosen[cell.method]))
            experiments.setdefault(name, {})[cell.experiment.seed] = cell.experiment
    metrics = {"x": settings.x.metric, "y": settings.y.metric}
    cells = measure(experiments, dict.fromkeys(metrics.values()), runs).set_index(["name", "metric"])
    return pd.DataFrame(
        {
            "name": name,
            "group": group,
            "label": figure_text(label),
            "look": look,
            **{axis: cells.loc[(name, metric), "mean"] for axis, metric in metrics.items()},
            **{
                f"{axis}_{part}": cells.loc[(name, metric), part]
                for axis, metric in metrics.items()
                for part in ("below", "above", "seeds", "images")
            },
        }
        for group, name, label, look in members
    )


def _without_bars_of_a_crowd(points: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The points with the error bars that are drawn, and what the reader is told of them.

    Intervals over the same test images are about equally wide: of a crowd their typical width is said instead.
    """
    seeds = int(points[["x_seeds", "y_seeds"]].to_numpy(dtype=int).max())
    if points[list(REACH)].isna().all(axis=None):
        return points, ""
    if seeds > 1 or len(points) <= MOST_BARS:
        return points, bars_note(seeds)
    wide = {axis: points[[f"{axis}_below", f"{axis}_above"]].mean(axis=1).median() for axis in "xy"}
    sides = [(wide[axis], side) for axis, side in (("x", "across"), ("y", "up")) if not math.isnan(wide[axis])]
    ends = " and ".join(rf"$\pm${width:.1f} ({side})" for width, side in sides)
    return points.assign(**dict.fromkeys(REACH, math.nan)), f"95% intervals over test images, one seed: about {ends}."


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
    legend: Mapping[str, Look],
    percent: tuple[bool, bool],
) -> None:
    """Points with their names and the frontier, and the legend above.

    Args:
        figure: With nothing else to come.
        axes: Its only ones.
        points: At least one: `look`, `label` ("" for none), `x`, `y`, and how far their error bars reach, `x_below`,
            `x_above`, `y_below`, `y_above`; without NaN in `x` and `y`.
        best: Those on the frontier, ordered along x.
        legend: What looks are explained as.
        percent: By axis, whether it shows accuracies.
    """
    from matplotlib.lines import Line2D

    _fit_limits(axes, points, percent)
    axes.plot(best["x"], best["y"], **FRONTIER, zorder=1, gid="frontier")
    handles = [Line2D([], [], **_marker(look), label=figure_text(group)) for group, look in legend.items()]
    legend_above(figure, [*handles, Line2D([], [], **FRONTIER, label="frontier")])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed in the layout as it is now
    shown = _within(axes, points)
    shown["place"] = _places(axes, shown[["x_shown", "y_shown"]].to_numpy(dtype=float))
    rings = 1 + RING * shown.groupby("place").cumcount(ascending=False).clip(upper=MOST_RINGS)
    shown["size"] = rings * [_marker(look)["markersize"] for look in shown["look"]]
    steps = best[["x", "y"]].to_numpy(dtype=float)
    lines = list(np.stack([steps[:-1], steps[1:]], axis=1))
    for _, point in shown.iterrows():
        lines += _draw_point(axes, point)
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
    for axis, accuracies in (("x", percent[0]), ("y", percent[1])):
        quarter, three_quarters = points[axis].quantile([0.25, 0.75])
        near = points[points[axis] >= quarter - FAR_OFF * max(three_quarters - quarter, LEAST_SPAN)]
        low = (near[axis] - near[f"{axis}_below"].fillna(0)).min()
        high = (near[axis] + near[f"{axis}_above"].fillna(0)).max()
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
    shown.loc[shown["far_off"], list(REACH)] = math.nan  # bars around another place would be other intervals
    values = shown.apply(lambda point: f" ({point['x']:.1f}, {point['y']:.1f})" if point["far_off"] else "", axis=1)
    return shown.assign(label=shown["label"] + values.where(shown["label"] != "", ""))


def _places(axes: Axes, points: NDArray[np.float64]) -> list[int]:
    """For each point, the first one that is drawn at the same place."""
    pixels = axes.transData.transform(points)
    apart = np.abs(pixels - pixels[:, None]).max(axis=2) > SAME_PLACE * axes.figure.dpi / 72
    return [int(np.argmin(row)) for row in apart]


def _draw_point(axes: Axes, point: pd.Series) -> list[NDArray[np.float64]]:
    """Draw a marker with its error bars, and an arrow from the edge to where a point is that is far off.

    Returns:
        What a name should not cover: the error bars and the arrow, from end to end.
    """
    x, y, look = point["x_shown"], point["y_shown"], point["look"]
    left_of, right_of, under, over = (point[name] for name in REACH)
    marker = _marker(look) | {"markersize": point["size"]}
    axes.errorbar([x], [y], [[under], [over]], [[left_of], [right_of]], **marker, **BAR)
    left_of, right_of, under, over = np.nan_to_num([left_of, right_of, under, over])
    lines = [np.array([[x - left_of, y], [x + right_of, y]]), np.array([[x, y - under], [x, y + over]])]
    if point["far_off"]:
        (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
        end = (left if point["x"] < left else x, bottom if point["y"] < bottom else y)
        arrow = {"arrowstyle": "->", "color": look.colour, "linewidth": 0.8, "shrinkA": 2.5, "shrinkB": 0}
        axes.annotate("", xy=end, xytext=(x, y), arrowprops=arrow)
        lines.append(np.array([[x, y], end]))
    return lines


def _marker(look: Look) -> dict[str, Any]:
    return {
        **look.point,
        "markersize": STAR_SIZE if look.marker == "*" else MARKER_SIZE,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    }


FIGURE = TradeOffFigure
