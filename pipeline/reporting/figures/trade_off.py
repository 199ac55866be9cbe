"""Methods, or settings of studies, as points between two metrics, and the frontier of those that none beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import textalloc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.config import Experiment, Params
from pipeline.config.metrics import metric_named
from pipeline.reporting.figure_kinds.trade_off import TradeOffFigure
from pipeline.reporting.results import measure
from pipeline.reporting.style import COLUMN_WIDTH, MISSING_TEXT, Look, figure_text, looks, new_figure, note_below
from pipeline.studies.cells import Cell

Line = tuple[list[float], list[float]]
"""x and y of its points."""
Member = tuple[str, str, dict[int, Experiment]]
"""A name of its own, what a reader calls it, and its experiments by seed."""
LABEL_SIZE = 5.8
MARKER_SIZE = 5.0
STAR_SIZE = 9.0
"""Points: a star fills less of its size than other markers do."""
LEGEND_COLUMNS = 2
EDGE = 0.045
"""Where a point that is far off is drawn, as a share of the axes."""
FRONTIER: dict[str, Any] = {"color": "#4d4d4d", "linewidth": 0.9, "linestyle": (0, (4, 1.5))}
MARGIN = 0.18
"""Room on each side, as a share of what the points span."""
LEAST_SPAN = 1.0
"""Percentage points: what points that are closer are taken to span."""
FAR_OFF = 3.0
"""Interquartile ranges below the first quartile."""


def draw(settings: TradeOffFigure, params: Params, runs: pd.DataFrame, grid: Sequence[Cell] = ()) -> Figure:
    """The figure of `settings`; call it inside `style()`.

    Args:
        settings: Which points, between which metrics.
        params: What labels are taken from.
        runs: As `finished_runs` gives them for the methods and the cells.
        grid: The cells of the studies that it shows.
    """
    points = points_between(settings, params, runs, grid)
    measured = points.dropna(subset=["x", "y"])
    signs = [1 if metric_named(axis.metric).is_accuracy else -1 for axis in (settings.x, settings.y)]
    missing = points.drop(measured.index)
    figure = new_figure(COLUMN_WIDTH, 2.4 + 0.05 * len(points))
    axes = figure.add_subplot()
    axes.set(xlabel=figure_text(settings.x.label), ylabel=figure_text(settings.y.label))
    note_below(figure, f"Not measured: {', '.join(missing['label'])}." if len(missing) else "")
    grouped = looks(group.label for group in settings.groups)
    draw_points(figure, axes, measured, frontier(measured, *signs), grouped, "nothing is measured")
    return figure


def draw_points(
    figure: Figure, axes: Axes, points: pd.DataFrame, best: pd.DataFrame, grouped: dict[str, Look], empty: str
) -> None:
    """Points with their names and the frontier, and the legend above.

    Args:
        figure: With nothing else to come.
        axes: Its only ones.
        points: `group`, `label` ("" for none), `x`, `y`, `x_std`, `y_std`; without NaN in `x` and `y`.
        best: Those on the frontier, ordered along x.
        grouped: The look of every group.
        empty: What is said where there is no point.
    """
    _fit_limits(axes, points, empty)
    axes.plot(best["x"], best["y"], **FRONTIER, zorder=1, gid="frontier")
    shown = _within(axes, points)
    for group, members in shown.groupby("group", sort=False):
        _draw_points(axes, members, grouped[str(group)])
    for _, point in shown[shown["far_off"]].iterrows():
        _draw_arrow(axes, point, grouped[point["group"]])
    _draw_legend(figure, grouped)
    _label(figure, axes, shown, _lines(shown, best))


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


def points_between(
    settings: TradeOffFigure, params: Params, runs: pd.DataFrame, grid: Sequence[Cell] = ()
) -> pd.DataFrame:
    """One row per method, or per setting of a study: name, group, label, x, y, and their deviations over seeds."""
    members = [
        (group.label, *member)
        for group in settings.groups
        for member in (_settings(group.study, grid) if group.study else _methods(group.methods, params))
    ]
    metrics = {"x": settings.x.metric, "y": settings.y.metric}
    experiments = {name: seeded for _, name, _, seeded in members}
    cells = measure(experiments, dict.fromkeys(metrics.values()), runs).set_index(["name", "metric"])
    return pd.DataFrame(
        {
            "name": name,
            "group": group,
            "label": figure_text(label),
            **{axis: cells.loc[(name, metric), "mean"] for axis, metric in metrics.items()},
            **{f"{axis}_std": cells.loc[(name, metric), "std"] for axis, metric in metrics.items()},
        }
        for group, name, label, _ in members
    )


def _methods(names: Sequence[str], params: Params) -> Iterator[Member]:
    for name in names:
        yield name, params.methods[name].label, {seed: params.experiment(name, seed) for seed in params.seeds}


def _settings(study: str, grid: Sequence[Cell]) -> Iterator[Member]:
    """The settings of a study, in its order."""
    seeded: dict[tuple[str, str], dict[int, Experiment]] = {}
    for cell in (one for one in grid if one.study == study):
        seeded.setdefault((cell.method, cell.setting), {})[cell.experiment.seed] = cell.experiment
    for (method, setting), experiments in seeded.items():
        yield f"{study}/{method}/{setting}", setting, experiments


def _fit_limits(axes: Axes, points: pd.DataFrame, empty: str) -> None:
    """Room for labels on all sides of all points but those that lie so far below that the others would merge."""
    if points.empty:
        axes.text(0.5, 0.5, empty, transform=axes.transAxes, ha="center", color=MISSING_TEXT)
        return
    for axis, set_limits in (("x", axes.set_xlim), ("y", axes.set_ylim)):
        quarter, three_quarters = points[axis].quantile([0.25, 0.75])
        near = points[points[axis] >= quarter - FAR_OFF * max(three_quarters - quarter, LEAST_SPAN)]
        errors = near[f"{axis}_std"].fillna(0)
        low, high = (near[axis] - errors).min(), (near[axis] + errors).max()
        margin = MARGIN * max(high - low, LEAST_SPAN)
        set_limits(low - margin, high + margin)


def _within(axes: Axes, points: pd.DataFrame) -> pd.DataFrame:
    """The points with where they are drawn, `x_shown` and `y_shown`: `far_off` ones at the edge, their values named."""
    shown = points.assign(far_off=False)
    for axis, (low, high) in (("x", axes.get_xlim()), ("y", axes.get_ylim())):
        far = points[axis] < low
        shown[f"{axis}_shown"] = points[axis].mask(far, low + EDGE * (high - low))
        shown["far_off"] |= far
    values = shown.apply(lambda point: f" ({point['x']:.1f}, {point['y']:.1f})" if point["far_off"] else "", axis=1)
    return shown.assign(label=shown["label"] + values) if len(shown) else shown


def _draw_points(axes: Axes, points: pd.DataFrame, look: Look) -> None:
    x, y, y_error, x_error = (points[column].tolist() for column in ("x_shown", "y_shown", "y_std", "x_std"))
    axes.errorbar(x, y, y_error, x_error, **_marker(look), elinewidth=0.7, zorder=3)


def _draw_arrow(axes: Axes, point: pd.Series, look: Look) -> None:
    """From the edge towards where the point really is."""
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    end = (left if point["x"] < left else point["x_shown"], bottom if point["y"] < bottom else point["y_shown"])
    arrow = {"arrowstyle": "->", "color": look.colour, "linewidth": 0.8, "shrinkA": 2.5, "shrinkB": 0}
    axes.annotate("", xy=end, xytext=(point["x_shown"], point["y_shown"]), arrowprops=arrow)


def _marker(look: Look) -> dict[str, Any]:
    return {
        "marker": look.marker,
        "color": look.colour,
        "linestyle": "",
        "markersize": STAR_SIZE if look.marker == "*" else MARKER_SIZE,
        "markeredgecolor": "white",
        "markeredgewidth": 0.4,
    }


def _draw_legend(figure: Figure, grouped: dict[str, Look]) -> None:
    handles = [Line2D([], [], **_marker(look), label=figure_text(group)) for group, look in grouped.items()]
    handles.append(Line2D([], [], **FRONTIER, label="frontier"))
    figure.legend(handles=handles, loc="outside upper center", ncols=LEGEND_COLUMNS, columnspacing=1.2)


def _lines(points: pd.DataFrame, best: pd.DataFrame) -> list[Line]:
    """The frontier and the error bars: labels stay off them."""
    lines: list[Line] = [(best["x"].tolist(), best["y"].tolist())] if len(best) > 1 else []
    numbers = points[["x_shown", "y_shown", "x_std", "y_std"]].fillna(0).to_numpy(dtype=float).tolist()
    for x, y, x_std, y_std in numbers:
        lines += [([x - x_std, x + x_std], [y, y]), ([x, x], [y - y_std, y + y_std])]
    return lines


def _label(figure: Figure, axes: Axes, points: pd.DataFrame, lines: list[Line]) -> None:
    """Names beside the points, or joined to them by a line where there is no room; those of equal points together."""
    named = points[points["label"] != ""]
    if named.empty:
        return
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed in the layout as it is now
    together = named.groupby([named["x_shown"].round(1), named["y_shown"].round(1)], sort=False)
    places = together[["x_shown", "y_shown"]].first()
    textalloc.allocate(
        axes,
        places["x_shown"].to_numpy(),
        places["y_shown"].to_numpy(),
        together["label"].agg("\n".join).tolist(),
        x_scatter=points["x_shown"].to_numpy(),
        y_scatter=points["y_shown"].to_numpy(),
        x_lines=[x for x, _ in lines],
        y_lines=[y for _, y in lines],
        textsize=LABEL_SIZE,
        linecolor="#9a9a9a",
        linewidth=0.4,
        linespacing=1.05,
        min_distance=0.012,
        max_distance=0.6,
        margin=0.004,
        nbr_candidates=1000,
        priority_strategy="largest",
        avoid_label_lines_overlap=True,
        avoid_crossing_label_lines=True,
        xlims=axes.get_xlim(),
        ylims=axes.get_ylim(),
    )
