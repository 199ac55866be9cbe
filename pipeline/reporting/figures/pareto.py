"""Every trial of a search between its two objectives, with the frontier of those that no other one beats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource
from pipeline.core.errors import RequestError
from pipeline.reporting.figures.trade_off import draw_points, frontier
from pipeline.reporting.style import (
    COLOURS,
    COLUMN_WIDTH,
    Look,
    bars_note,
    deviations,
    figure_text,
    new_figure,
    note_below,
)
from pipeline.studies.trials import OBJECTIVES, Point, Search

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pipeline.config.params import Params

TRIAL, FRONT, TABLES = "trial", "on the frontier", "as in the tables"
LOOKS = {
    TRIAL: Look(COLOURS[3], "o", ""),
    FRONT: Look(COLOURS[0], "s", ""),
    TABLES: Look("#000000", "*", ""),
}
SETTINGS = [field.name for field in fields(Point)]


class ParetoFigure(FigureSettings):
    """Every trial of the search between its two objectives, and the frontier of those that no other one beats."""

    fewest: ClassVar[int] = 2
    command: ClassVar[str] = "make search"
    kind: Literal["pareto"]

    @override
    def misfits(self, params: Params) -> Iterator[str]:
        try:
            Search.of(params)
        except RequestError as error:
            yield str(error)

    @override
    def coverage(self, source: FigureSource, measured: int, shown: int) -> list[int]:
        """How many trials are measured, and of how many."""
        search = Search.of(source.params)
        return [len(_trials(search)), search.settings.trials]

    @override
    def draw(self, source: FigureSource) -> Figure:
        """Raises as `pipeline.tracking.finished_runs`."""
        import pandas as pd

        search = Search.of(source.params)
        trials, default = _trials(search), _as_in_the_tables(search)
        best = frontier(trials, 1, 1)
        trials.loc[best.index, "group"] = FRONT
        trials.loc[trials["group"] != FRONT, "label"] = ""
        figure = new_figure(COLUMN_WIDTH, 2.7)
        axes = figure.add_subplot()
        axes.set(xlabel="natural accuracy, held-out images (%)", ylabel="worst-case union, held-out images (%)")
        note_below(figure, _remark(search, trials, default))
        points = pd.concat([trials.sort_values("group", ascending=False), default], ignore_index=True)
        points["look"] = points["group"].map(LOOKS)
        draw_points(figure, axes, points, best, LOOKS, percent=(True, True))
        return figure


def _trials(search: Search) -> pd.DataFrame:
    """One row per point that was tried: its settings, `group`, `label`, means and deviations over seeds in percent."""
    from pipeline.tracking import read_trials

    runs = read_trials(search.params.suite, search.digest).astype(dict.fromkeys(SETTINGS, float))
    by_trial = runs.merge(_accuracies(runs["run_id"]), on="run_id").groupby("trial")
    found = _with_bars(by_trial[[*SETTINGS, "x", "y"]].mean(), by_trial[["x", "y"]].std())
    found = found.drop_duplicates(SETTINGS).reset_index()
    found["label"] = [
        rf"$\gamma_1$ {ratio:g}, $c$ {interval:g}, $t'$ {warmup:g}"
        for ratio, interval, warmup in found[SETTINGS].itertuples(index=False)
    ]
    return found.assign(group=TRIAL).astype({"label": object})


def _as_in_the_tables(search: Search) -> pd.DataFrame:
    """The method as it is: one row, or none where MLflow does not have it."""
    from pipeline.reporting.results import latest_runs
    from pipeline.tracking import finished_runs

    experiments = search.experiments(search.default)
    found = _accuracies(latest_runs(experiments, finished_runs(experiments)).values())[["x", "y"]]
    points = _with_bars(found.mean().to_frame().T, found.std().to_frame().T)
    return points.assign(group=TABLES, label="").dropna(subset=["x", "y"])


def _with_bars(means: pd.DataFrame, stds: pd.DataFrame) -> pd.DataFrame:
    """Points with how far their error bars reach."""
    reach = {}
    for axis in ("x", "y"):
        reach[f"{axis}_below"], reach[f"{axis}_above"] = deviations(means[axis], stds[axis])
    return means.assign(**reach)


def _accuracies(run_ids: Iterable[str]) -> pd.DataFrame:
    """The objectives of runs in percent: `run_id`, `x`, `y`; runs that lack one are left out."""
    import pandas as pd

    from pipeline.tracking import read_selected_epochs

    rows = [
        {"run_id": run, "x": 100 * record[OBJECTIVES[0]], "y": 100 * record[OBJECTIVES[1]]}
        for run, record in read_selected_epochs(run_ids).items()
        if set(OBJECTIVES) <= record.keys()
    ]
    return pd.DataFrame(rows, columns=["run_id", "x", "y"]).astype({"x": float, "y": float})


def _remark(search: Search, trials: pd.DataFrame, default: pd.DataFrame) -> str:
    """What the points are, and what is missing."""
    label, count = figure_text(search.method.label), len(trials)
    parts = [
        f"{label}, {count} settings; $\\gamma_1$ at the last breakpoint.",
        bars_note(2) if len(search.settings.seeds) > 1 else "",
        "Not measured: the setting in the tables." if default.empty else "",
    ]
    return " ".join(filter(None, parts))


FIGURE = ParetoFigure
