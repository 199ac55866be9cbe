"""Every method as a point between two metrics, with the frontier of those that no other method beats in both."""

from __future__ import annotations

import math

import pandas as pd
import textalloc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.config import Params, TradeOffFigure
from pipeline.reporting.results import UNRANKED, measure
from pipeline.reporting.style import COLUMN_WIDTH, MISSING_TEXT, Look, figure_text, looks, new_figure, note_below

LABEL_SIZE = 5.8
LEGEND_COLUMNS = 2
EDGE = 0.045
"""Where a point that is far off is drawn, as a share of the axes."""


def draw(settings: TradeOffFigure, params: Params, runs: pd.DataFrame) -> Figure:
    """The figure of `settings` from the frame that `finished_runs` gives; call it inside `style()`."""
    points = methods_between(settings, params, runs)
    measured = points.dropna(subset=["x", "y"])
    figure = new_figure(COLUMN_WIDTH, 2.5 + 0.03 * len(points))
    axes = figure.add_subplot()
    axes.set(xlabel=figure_text(settings.x.label), ylabel=figure_text(settings.y.label))
    grouped = looks(settings.groups)
    near = _without_the_far_off(measured)
    _fit_limits(axes, near)
    _draw_frontier(axes, measured, settings)
    for group, members in near.groupby("group", sort=False):
        _draw_points(axes, members, grouped[str(group)])
    for _, point in measured.drop(near.index).iterrows():
        _draw_far_off(axes, point, grouped[point["group"]])
    missing = points.drop(measured.index)
    note_below(axes, f"Not measured: {', '.join(missing['label'])}." if len(missing) else "")
    _draw_legend(figure, settings, grouped)
    _label(figure, axes, near)
    return figure


def frontier(points: pd.DataFrame, x_sign: int, y_sign: int) -> pd.DataFrame:
    """The points that no other point beats, ordered along x.

    Args:
        points: Columns `x` and `y`, without NaN.
        x_sign: 1 where more is better, -1 where less is.
        y_sign: The same for y.

    Returns:
        Those for which no other point is at least as good in both and better in one.
    """
    ordered = points.assign(_x=points["x"] * x_sign, _y=points["y"] * y_sign).sort_values(["_x", "_y"], ascending=False)
    best_before = ordered.groupby("_x")["_y"].max().iloc[::-1].cummax().shift()  # of all that are better in x
    leads = ordered["_y"].eq(ordered.groupby("_x")["_y"].transform("max"))
    kept = ordered[leads & ~(ordered["_x"].map(best_before) >= ordered["_y"])]
    return kept.drop(columns=["_x", "_y"]).sort_values("x", kind="stable")


def methods_between(settings: TradeOffFigure, params: Params, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per method: group, label, x, y, and their standard deviations over seeds."""
    experiments = {name: {seed: params.experiment(name, seed) for seed in params.seeds} for name in settings.methods}
    metrics = {"x": settings.x.metric, "y": settings.y.metric}
    cells = measure(experiments, dict.fromkeys(metrics.values()), runs).set_index(["name", "metric"])
    return pd.DataFrame(
        {
            "method": method,
            "group": group,
            "label": figure_text(params.methods[method].label),
            **{axis: cells.loc[(method, metric), "mean"] for axis, metric in metrics.items()},
            **{f"{axis}_std": cells.loc[(method, metric), "std"] for axis, metric in metrics.items()},
        }
        for group, methods in settings.groups.items()
        for method in methods
    )


def _without_the_far_off(points: pd.DataFrame) -> pd.DataFrame:
    """Leave out a point that lies further below the others than they spread, so that they can be told apart."""
    for axis in ("x", "y"):
        values = points[axis].sort_values()
        if len(values) > 3 and values.iloc[1] - values.iloc[0] > values.iloc[-1] - values.iloc[1]:
            points = points.drop(values.index[0])
    return points


def _fit_limits(axes: Axes, points: pd.DataFrame) -> None:
    """Room for labels on all sides."""
    if points.empty:
        axes.text(0.5, 0.5, "no method is measured", transform=axes.transAxes, ha="center", color=MISSING_TEXT)
        return
    for axis, set_limits in (("x", axes.set_xlim), ("y", axes.set_ylim)):
        errors = points[f"{axis}_std"].fillna(0)
        low, high = (points[axis] - errors).min(), (points[axis] + errors).max()
        margin = 0.18 * (high - low) or 1.0
        set_limits(low - margin, high + margin)


def _draw_frontier(axes: Axes, points: pd.DataFrame, settings: TradeOffFigure) -> None:
    signs = [-1 if axis.metric in UNRANKED else 1 for axis in (settings.x, settings.y)]
    best = frontier(points, *signs)
    axes.plot(best["x"], best["y"], color="#4d4d4d", linewidth=0.9, linestyle=(0, (4, 1.5)), zorder=1, gid="frontier")


def _draw_points(axes: Axes, points: pd.DataFrame, look: Look) -> None:
    axes.errorbar(
        points["x"],
        points["y"],
        points["y_std"],
        points["x_std"],
        fmt=look.marker,
        color=look.colour,
        markeredgecolor="white",
        markeredgewidth=0.4,
        markersize=5,
        elinewidth=0.7,
        zorder=3,
    )


def _draw_far_off(axes: Axes, point: pd.Series, look: Look) -> None:
    """At the edge, with an arrow outwards and its value."""
    places, arrows = [], []
    for value, limits in ((point["x"], axes.get_xlim()), (point["y"], axes.get_ylim())):
        share = (value - limits[0]) / (limits[1] - limits[0])
        places.append(min(max(share, EDGE), 1 - EDGE))
        arrows.append(math.copysign(1, share - 0.5) if places[-1] != share else 0.0)
    axes.plot(
        *places, look.marker, transform=axes.transAxes, color=look.colour, markeredgecolor="white", markeredgewidth=0.4
    )
    axes.annotate(
        f"{point['label']} ({point['x']:.1f}, {point['y']:.1f})",
        xy=(places[0] + EDGE * arrows[0], places[1] + EDGE * arrows[1]),
        xytext=(places[0] - 0.02, places[1]),
        xycoords="axes fraction",
        textcoords="axes fraction",
        ha="right",
        va="center",
        fontsize=LABEL_SIZE,
    )
    axes.annotate(
        "",
        xy=(places[0] + EDGE * arrows[0], places[1] + EDGE * arrows[1]),
        xytext=tuple(places),
        xycoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": look.colour, "linewidth": 0.8, "shrinkA": 2.5},
    )


def _draw_legend(figure: Figure, settings: TradeOffFigure, grouped: dict[str, Look]) -> None:
    handles = [
        Line2D([], [], linestyle="", marker=look.marker, color=look.colour, label=figure_text(group))
        for group, look in grouped.items()
    ]
    handles.append(Line2D([], [], color="#4d4d4d", linewidth=0.9, linestyle=(0, (4, 1.5)), label="frontier"))
    figure.legend(handles=handles, loc="outside upper center", ncols=LEGEND_COLUMNS, columnspacing=1.2)


def _label(figure: Figure, axes: Axes, points: pd.DataFrame) -> None:
    """Names beside the points, or joined to them by a line where there is no room."""
    if points.empty:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed in the layout as it is now
    textalloc.allocate(
        axes,
        points["x"].to_numpy(),
        points["y"].to_numpy(),
        points["label"].tolist(),
        x_scatter=points["x"].to_numpy(),
        y_scatter=points["y"].to_numpy(),
        textsize=LABEL_SIZE,
        linecolor="#9a9a9a",
        linewidth=0.4,
        min_distance=0.012,
        max_distance=0.6,
        margin=0.004,
        nbr_candidates=600,
        avoid_label_lines_overlap=True,
        avoid_crossing_label_lines=True,
        xlims=axes.get_xlim(),
        ylims=axes.get_ylim(),
    )
