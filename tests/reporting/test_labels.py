"""Names beside crowded points: they touch nothing, and the lines that join them touch nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.reporting.figures.trade_off import REACH, draw_points, frontier
from pipeline.reporting.style import COLUMN_WIDTH, Look, figure_text, looks, new_figure, style
from tests.conftest import REPOSITORY, composed

PUBLISHED = REPOSITORY / "reports/published/digits/small_cnn/tables/table1_wide.csv"


def of_published(x: str, y: str) -> pd.DataFrame:
    """Every published method of the digits between two metrics, in four groups."""
    labels = {name: figure_text(one.label) for name, one in composed("suite=digits", "competitors=all").methods.items()}
    wide = pd.read_csv(PUBLISHED).assign(label=lambda cells: cells["method"].map(labels)).sort_values("label")
    frame = wide.set_index("label")[[x, y]].set_axis(["x", "y"], axis=1).reset_index()
    return frame.assign(**dict.fromkeys(REACH, np.nan), look=pd.Series(looks_of(len(frame))))


def crowd(count: int, deviation: float) -> pd.DataFrame:
    """Points that lie close together, many at the same place."""
    numbers = np.arange(count)
    return pd.DataFrame(
        {
            "x": 97 + 0.28 * (numbers * 7 % 11),
            "y": 70 + 3.13 * (numbers % 5),
            "label": [f"Method {number}" for number in numbers],
            "look": looks_of(count),
        }
    ).assign(**dict.fromkeys(REACH, deviation))


def looks_of(count: int) -> list[Look]:
    return list(looks(map(str, range(count))).values())


def drawn(points: pd.DataFrame) -> tuple[Figure, Axes]:
    with style():
        figure = new_figure(COLUMN_WIDTH, 2.0 + 0.1 * len(points))
        axes = figure.add_subplot(xlabel="natural accuracy (%)", ylabel="AutoAttack accuracy (%)")
        draw_points(figure, axes, points, frontier(points, 1, 1), looks(["one", "other"]), (True, True))
        figure.draw_without_rendering()
    return figure, axes


def markers(axes: Axes) -> list[tuple[float, float, float]]:
    """Places and radii in pixels, one for each place: the smallest, which is at the top."""
    found: dict[tuple[float, float], float] = {}
    for container in axes.containers:
        line = container[0]
        ((x, y),) = axes.transData.transform(np.column_stack(line.get_data()))
        place = (round(float(x), 1), round(float(y), 1))
        found[place] = min(line.get_markersize() * axes.figure.dpi / 144, found.get(place, np.inf))
    return [(x, y, radius) for (x, y), radius in found.items()]


def names(axes: Axes) -> list[Text]:
    return [text for text in axes.texts if text.get_text()]


CROWDS = [
    of_published("natural", "aa_linf"),
    of_published("aa_linf", "aa_l2"),
    crowd(24, float("nan")),
    crowd(12, 0.3),
]


@pytest.mark.parametrize("points", CROWDS, ids=["natural", "norms", "24", "bars"])
def test_names_touch_neither_each_other_nor_markers_and_stay_inside(points: pd.DataFrame) -> None:
    _, axes = drawn(points)
    assert sum(len(text.get_text().splitlines()) for text in names(axes)) == len(points)
    boxes = [text.get_window_extent() for text in names(axes)]
    inside = axes.get_window_extent().padded(1)
    for number, box in enumerate(boxes):
        said = names(axes)[number].get_text()
        assert inside.x0 <= box.x0 and inside.y0 <= box.y0 and box.x1 <= inside.x1 and box.y1 <= inside.y1, said
        assert not any(box.overlaps(other) for other in boxes[:number]), said
        for x, y, radius in markers(axes):
            across, along = max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0)
            assert np.hypot(across, along) >= radius, said


@pytest.mark.parametrize("points", CROWDS, ids=["natural", "norms", "24", "bars"])
def test_lines_that_join_cross_no_other_name_marker_or_line(points: pd.DataFrame) -> None:
    _, axes = drawn(points)
    joins = [line for line in axes.get_lines() if line.get_gid() == "leader"]
    paths = [axes.transData.transform(np.column_stack(line.get_data())) for line in joins]
    for number, path in enumerate(paths):
        along = path[0] + np.linspace(0, 1, 200)[:, None] * (path[1] - path[0])
        own = path[0]
        for x, y, radius in markers(axes):
            if np.hypot(*(own - (x, y))) > 1.5 * radius:  # what is on the very point cannot be kept off
                assert np.hypot(*(along - (x, y)).T).min() >= radius
        through = [text for text in names(axes) if text.get_window_extent().padded(-2).count_contains(along)]
        assert not through, [text.get_text() for text in through]
        for other in paths[:number]:
            assert not crosses(path, other)


def crosses(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two lines cross, but for such as begin at the same place."""
    matrix = np.column_stack([one[1] - one[0], other[0] - other[1]])
    if abs(np.linalg.det(matrix)) < 1e-9:
        return False
    shares = np.linalg.solve(matrix, other[0] - one[0])
    return bool(((shares > 1e-6) & (shares < 1 - 1e-6)).all())


def test_all_that_share_a_place_are_seen_and_named_together() -> None:
    frame = crowd(3, float("nan")).assign(x=[98.0, 98.0, 99.0], y=[70.0, 70.0, 71.0])
    _, axes = drawn(frame)
    assert sorted(text.get_text() for text in names(axes)) == ["Method 0\nMethod 1", "Method 2"]
    below, above = (container[0] for container in axes.containers[:2])
    assert below.get_markersize() > 1.4 * above.get_markersize(), "the lower one is a ring around the upper one"


def test_axes_of_accuracies_end_at_0_and_100_percent() -> None:
    frame = crowd(3, 1.0).assign(x=[99.5, 98.0, 99.0], y=[1.0, 2.0, 50.0])
    _, axes = drawn(frame)
    assert axes.get_xlim()[1] == 100 and axes.get_ylim()[0] == 0
