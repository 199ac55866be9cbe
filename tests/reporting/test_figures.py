"""Figures drawn from a real MLflow store: what is on them, what they say is missing, and that bytes are equal."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.config import FigureSource, Params, parse_params
from pipeline.config.figures import Group, NothingToShow
from pipeline.core.errors import RequestError
from pipeline.evaluation.attacks.cw import CWAttack
from pipeline.reporting.drawing import COVERAGE, check_figures, read_coverage, write_figures
from pipeline.reporting.figures.protocols import ProtocolsFigure
from pipeline.reporting.figures.theory import TheoryFigure
from pipeline.reporting.figures.trade_off import REACH, _without_bars_of_a_crowd, frontier
from pipeline.reporting.figures.training_curves import Curves, draw_curves
from pipeline.reporting.results import fill
from pipeline.reporting.style import KINDS, learner_looks, method_looks, style
from pipeline.studies.cells import Cell, cells
from pipeline.studies.trials import Point, Search
from pipeline.tracking import finished_runs, mark_trial, read_class_accuracies
from stages.figures import main
from tests.conftest import TINY, content_of
from tests.reporting.overlaps import check_layout, texts, xs, ys
from tests.reporting.planting import plant

NATURAL = {"nt": 0.99, "at": 0.8, "at_l2": 0.82, "generalist_d_nt_linf": 0.9, "generalist_t": 0.85}
ROBUST = {"nt": 0.0, "at": 0.5, "at_l2": 0.4, "generalist_d_nt_linf": 0.48, "generalist_t": 0.52}
EPOCHS = 4
LOW_CLASSES = [0.1 * label for label in range(10)]
BARS = "Bars: standard deviation over seeds."
TRIALS = {Point(0.1, 1, 2): (0.5, 0.1), Point(0.2, 2, 2): (0.4, 0.3), Point(0.3, 1, 3): (0.3, 0.2)}
"""Natural accuracy and worst-case union on held-out images of the settings that a search has tried."""


def numbers(method: str, seed: int) -> dict[str, float]:
    """Seed 2 is two points above seed 1."""
    shift = 0.02 * (seed - 1)
    robust = ROBUST[method] + shift
    return {"natural": NATURAL[method] - shift / 2, "aa_linf": robust, "aa_l2": robust + 0.1}


def history(learners: list[str], seed: int, split: str = "held_out") -> list[dict[str, float]]:
    return [
        {
            "epoch": epoch,
            "redistributed": float(epoch % 2 == 0),
            **{f"mixing_ratio/{name}": 1 / len(learners) for name in learners},
            **{f"loss/{name}": (seed + 1) / epoch for name in learners},
            **{f"{split}/{name}/natural": 0.1 * epoch + 0.02 * seed for name in [*learners, "global"] if epoch > 1},
            **({f"{split}/global/pgd_linf": 0.05 * epoch} if epoch > 1 else {}),
            **({f"{split}/global/worst_case_union": 0.04 * epoch} if epoch > 1 else {}),
            **(
                {f"theorem_2/{bar}": 8.0 / epoch for bar in ("previous_iterate", "last_restart")}
                if epoch % 2 == 0
                else {}
            ),
            **({f"theory/regret/{name}": 0.1 * seed / epoch for name in learners} if epoch % 2 == 0 else {}),
            **({"theory/trade_off_regret": 0.1 * seed / epoch} if epoch % 2 == 0 else {}),
            **({"theory/cosine/linf/natural": -0.5} if epoch % 2 == 0 and len(learners) == 3 else {}),
        }
        for epoch in range(1, EPOCHS + 1)
    ]


def content_with_two_seeds(tiny_content: dict[str, Any]) -> dict[str, Any]:
    content = deepcopy(tiny_content)
    content["seeds"] = [1, 2]
    content["search"]["seeds"] = [1, 2]
    return content


@pytest.fixture(scope="module")
def suite(tiny_content: dict[str, Any]) -> Params:
    """The digits suite with four epochs and two seeds; names are those of the real file."""
    return parse_params(content_with_two_seeds(tiny_content))


def _plant_all(suite: Params, folder: Path) -> None:
    with contextlib.chdir(folder):  # what waits for the store is below the current folder
        for method in NATURAL:
            for seed in (1, 2)[: 1 if method == "at_l2" else 2]:
                experiment = suite.experiment(method, seed)
                classes = {
                    "natural": [share + 0.05 * seed for share in LOW_CLASSES],
                    "aa_linf": [0.4 * share + 0.03 * seed for share in LOW_CLASSES],
                    "aa_l2": [0.6 * share + 0.07 * seed + 0.05 for share in LOW_CLASSES],
                }
                records = history(list(experiment.method.learners), seed)
                plant(folder / f"{method}-{seed}", experiment, numbers(method, seed), records, classes)
        theirs = suite.model_dump(mode="json") | {"protocol": "reference_code"}
        theirs["training"]["selection"]["split"] = "test"
        experiment = parse_params(theirs).experiment("generalist_t", 1)
        records = history(list(experiment.method.learners), 10, "test")
        plant(folder / "reference_code", experiment, {}, records)
        for cell in grid(suite):
            number = {"c = 1": 0.6, "increasing": 0.7}.get(cell.setting)
            if number is not None:
                metrics = {"natural": number, "aa_linf": number / 2, "aa_l2": number / 3}
                name = f"{cell.study}-{cell.method}-{cell.setting}-{cell.experiment.seed}"
                if cell.study in ("communication_interval", "gamma_trend"):
                    plant(folder / name, cell.experiment, metrics)
        plant_trials(suite, folder)


@pytest.fixture(scope="module", autouse=True)
def store(suite: Params, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both seeds of four methods, one of AT (l2), none of Generalist-D (linf + l2), and some cells of the grid."""
    folder = tmp_path_factory.mktemp("planted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/runs.db")
        _plant_all(suite, folder)
        yield folder


def plant_trials(suite: Params, folder: Path) -> None:
    """Both seeds of every trial, the second two points above the first."""
    search = Search.of(suite)
    for number, (point, (natural, robust)) in enumerate(TRIALS.items()):
        for one in search.experiments(point):
            shift = 0.02 * (one.seed - 1) - 0.01
            held_out = {"natural": natural + shift, "worst_case_union": robust + shift}
            records = [{"epoch": 1, **{f"held_out/global/{name}": value for name, value in held_out.items()}}]
            plant(folder / f"trial-{number}-{one.seed}", one, {}, records)
            mark_trial(one, search.digest, number, point)


def grid(suite: Params) -> list[Cell]:
    return cells(suite)


@pytest.fixture(scope="module")
def runs(suite: Params, store: Path) -> pd.DataFrame:
    return finished_runs([*suite.experiments(), *(cell.experiment for cell in grid(suite))])


def drawn(name: str, suite: Params, runs: pd.DataFrame, **changes: Any) -> Figure:
    settings = suite.figures[name].model_copy(update=changes)
    with style():
        figure = settings.draw(FigureSource(suite, runs, grid(suite)))
        figure.draw_without_rendering()
        return figure


def lines(axes: Axes, gid: str) -> list[Line2D]:
    return [line for line in axes.get_lines() if line.get_gid() == gid]


def points(axes: Axes) -> set[tuple[float, float]]:
    """Where error bars and markers are, in data coordinates."""
    data = [container[0] for container in axes.containers]
    return {
        (round(float(x), 6), round(float(y), 6))
        for line in data
        if isinstance(line, Line2D)
        for x, y in zip(xs(line), ys(line), strict=True)
        if math.isfinite(x) and math.isfinite(y)
    }


def remark(figure: Figure) -> str:
    return " ".join(figure.get_supxlabel().split())


def test_methods_are_points_at_their_means_and_the_frontier_joins_the_best(suite: Params, runs: pd.DataFrame) -> None:
    figure = drawn("trade_off_natural", suite, runs)
    (axes,) = figure.axes
    near = {(79.5, 51.0), (82.0, 40.0), (89.5, 49.0), (84.5, 53.0)}
    assert points(axes) > near
    ((x, y),) = points(axes) - near
    assert x == 98.5 and axes.get_ylim()[0] < y < 40, "NT is far off, at the lower edge"
    (best,) = lines(axes, "frontier")
    assert xs(best) == pytest.approx([84.5, 89.5, 98.5])
    assert ys(best) == pytest.approx([53, 49, 1])
    said = {text.get_text() for text in texts(figure)}
    assert {r"AT ($\ell_\infty$)", "Generalist-T", "NT (98.5, 1.0)", "natural accuracy (%)", "frontier"} <= said
    assert remark(figure) == rf"{BARS} Not measured: Generalist-D ($\ell_\infty$ + $\ell_2$)."


def test_error_bars_are_standard_deviations_over_seeds(suite: Params, runs: pd.DataFrame) -> None:
    (axes,) = drawn("trade_off_natural", suite, runs).axes
    segments = [
        segment for collection in axes.collections for segment in getattr(collection, "get_segments", lambda: [])()
    ]
    heights = {round(abs(segment[1][1] - segment[0][1]), 4) for segment in segments if len(segment) == 2}
    assert round(2 * math.sqrt(2), 4) in heights, "50 and 52 %: one sample standard deviation to each side"


def test_of_a_crowd_only_intervals_that_there_are_are_told() -> None:
    crowd = pd.DataFrame(1.0, index=range(20), columns=["x_seeds", "y_seeds", *REACH])
    crowd[["x_below", "x_above"]] = math.nan
    shown, said = _without_bars_of_a_crowd(crowd)
    assert said == r"95% intervals over test images, one seed: about $\pm$1.0 (up)."
    assert shown[list(REACH)].isna().all(axis=None)


def test_a_figure_that_would_show_nothing_is_refused(suite: Params, runs: pd.DataFrame) -> None:
    for name in ("trade_off_natural", "class_wise_natural", "training_curves_t"):
        with pytest.raises(NothingToShow, match="'make repro figures'"):
            drawn(name, suite, runs.iloc[:0])


coordinates = st.integers(0, 6)


def test_the_settings_of_studies_are_points_too(suite: Params, runs: pd.DataFrame) -> None:
    """c = 2 is the method as it is, c = 3 was not run."""
    groups = [Group(label="c", study="communication_interval"), Group(label="AT", methods=["at"])]
    figure = drawn("trade_off_natural", suite, runs, groups=groups)
    (axes,) = figure.axes
    assert points(axes) == {(60, 30), (84.5, 53), (79.5, 51)}
    assert xs(lines(axes, "frontier")[0]) == pytest.approx([84.5])
    assert {"c = 1", "c = 2", r"AT ($\ell_\infty$)"} <= {text.get_text() for text in texts(figure)}
    assert remark(figure) == f"{BARS} Not measured: c = 3."


def test_a_group_is_of_methods_or_of_a_study(tiny_content: dict[str, Any]) -> None:
    for group in ({"label": "both", "methods": ["at"], "study": "gamma_trend"}, {"label": "none"}):
        content = content_with_two_seeds(tiny_content)
        content["figures"]["trade_off_natural"]["groups"] = [group]
        with pytest.raises(RequestError, match="expected either 'methods', at least one, or a 'study'"):
            parse_params(content)


def test_an_unknown_study_of_a_group_is_refused(tiny_content: dict[str, Any]) -> None:
    content = content_with_two_seeds(tiny_content)
    content["figures"]["trade_off_natural"]["groups"] = [{"label": "x", "study": "gama_trend"}]
    with pytest.raises(
        RequestError, match=r"trade_off_natural: unknown study 'gama_trend': did you mean 'gamma_trend'"
    ):
        parse_params(content)


def test_the_attack_of_carlini_and_wagner_is_drawn_where_the_suite_has_it(
    tiny_content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A metric of the CVPR paper's Figure 3: `attacks=full` has it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/cw.db")
    monkeypatch.chdir(tmp_path)
    full = content_of(*TINY, "attacks=full")
    full["figures"]["trade_off_natural"] |= {
        "y": {"metric": "cw_linf", "label": "C&W accuracy (%)"},
        "groups": [{"label": "AT", "methods": ["at"]}],
    }
    params = parse_params(full)
    attack, budget = params.evaluation.attacks["cw_linf"], params.threat_model["linf"]
    assert isinstance(attack, CWAttack)
    assert (attack.steps, attack.confidence) == (30, 50)
    assert (attack.epsilon, attack.step_size) == (budget.epsilon, budget.step_size)
    plant(tmp_path / "at", params.experiment("at", 1), {"natural": 0.8, "cw_linf": 0.45})
    with style():
        source = FigureSource(params, finished_runs(params.experiments()))
        figure = params.figures["trade_off_natural"].draw(source)
    assert points(figure.axes[0]) == {(80, 45)}
    assert figure.axes[0].get_ylabel() == "C&W accuracy (%)"
    cells_of_table = fill(params, params.tables["attacks_linf"], finished_runs(params.experiments()))
    row = cells_of_table[(cells_of_table["method"] == "at") & (cells_of_table["metric"] == "cw_linf")]
    assert row["mean"].tolist() == [45]


@given(st.lists(st.tuples(coordinates, coordinates), min_size=1), st.sampled_from([1, -1]), st.sampled_from([1, -1]))
def test_the_frontier_is_what_nothing_beats(places: list[tuple[int, int]], x_sign: int, y_sign: int) -> None:
    frame = pd.DataFrame(places, columns=["x", "y"])
    kept = frontier(frame, x_sign, y_sign)

    def beaten(x: int, y: int) -> bool:
        gains = [((other[0] - x) * x_sign, (other[1] - y) * y_sign) for other in places]
        return any(min(gain) >= 0 and max(gain) > 0 for gain in gains)

    assert sorted(kept.index) == [row for row, place in enumerate(places) if not beaten(*place)]
    assert kept["x"].is_monotonic_increasing


def test_points_are_the_accuracies_of_the_classes(suite: Params, runs: pd.DataFrame) -> None:
    methods = ["at", "generalist_d_nt_linf", "generalist_d_linf_l2", "generalist_t"]
    figure = drawn("class_wise_natural", suite, runs, methods=methods)
    (axes,) = figure.axes
    labels = [r"AT ($\ell_\infty$)", r"Generalist-D (NT + $\ell_\infty$)", "Generalist-T"]
    assert [container.get_label() for container in axes.containers] == labels
    for container in axes.containers:
        assert ys(container[0]) == pytest.approx([10 * label + 7.5 for label in range(10)])
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(digit) for digit in range(10)]
    assert remark(figure) == rf"{BARS} Not measured: Generalist-D ($\ell_\infty$ + $\ell_2$)."


def test_union_by_class_is_the_mean_of_its_attacks(suite: Params, runs: pd.DataFrame) -> None:
    figure = drawn("class_wise_union", suite, runs, methods=["at", "generalist_d_linf_l2"])
    (axes,) = figure.axes
    (own,) = axes.containers
    assert ys(own[0]) == pytest.approx([5 * label + 10 for label in range(10)]), "of linf 4 x + 4.5, of l2 6 x + 15.5"
    assert remark(figure) == rf"{BARS} Not measured: Generalist-D ($\ell_\infty$ + $\ell_2$)."
    assert axes.get_ylabel() == "Union (%)"


def test_without_one_of_its_attacks_there_is_no_union_by_class(
    suite: Params, runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(run_ids: Iterable[str]) -> dict[str, pd.DataFrame]:
        return {run: table[table["attack"] != "aa_l2"] for run, table in read_class_accuracies(run_ids).items()}

    monkeypatch.setattr("pipeline.tracking.read_class_accuracies", one)
    with pytest.raises(NothingToShow, match="no accuracies by class under union"):
        drawn("class_wise_union", suite, runs)


def test_many_classes_are_curves_sorted_by_the_first_method(
    suite: Params, runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.reporting.figures.class_wise.POINTS_UP_TO", 5)
    (axes,) = drawn("class_wise_natural", suite, runs).axes
    for line in axes.get_lines():
        assert ys(line) == sorted(ys(line))
        assert len(ys(line)) == 10


def test_classes_without_test_images_are_left_out_of_the_curves(
    suite: Params, runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seven(run_ids: Iterable[str]) -> dict[str, pd.DataFrame]:
        return {run: table[table["label"] < 7] for run, table in read_class_accuracies(run_ids).items()}

    monkeypatch.setattr("pipeline.reporting.figures.class_wise.POINTS_UP_TO", 5)
    monkeypatch.setattr("pipeline.tracking.read_class_accuracies", seven)
    (axes,) = drawn("class_wise_natural", suite, runs).axes
    assert {len(ys(line)) for line in axes.get_lines()} == {7}


def test_curves_are_means_over_seeds_with_the_schedule_below(suite: Params, runs: pd.DataFrame) -> None:
    figure = drawn("training_curves_t", suite, runs)
    natural, robust, losses, ratios = figure.axes
    named = {line.get_label(): line for line in natural.get_lines()}
    assert xs(named["global"]) == [2, 3, 4]
    assert ys(named["global"]) == pytest.approx([23, 33, 43])
    assert {"global", "linf", "natural", "l2"} <= set(named)
    assert [line.get_label() for line in robust.get_lines() if line.get_gid() is None] == ["global"]
    assert [ys(line) for line in losses.get_lines()[:3]] == [pytest.approx([2.5 / epoch for epoch in (1, 2, 3, 4)])] * 3
    assert [ys(line)[0] for line in ratios.get_lines()[:3]] == pytest.approx([1 / 3] * 3)
    for axes in figure.axes:
        assert [xs(line)[0] for line in lines(axes, "redistribution")] == [2, 4]
    assert "held-out images" in remark(figure) and "2 seeds" in remark(figure)


@pytest.mark.parametrize(("points", "markers"), [(1, 1), (8, 1), (9, 0.13)])
def test_a_single_point_has_its_marker(points: int, markers: float) -> None:
    values = pd.DataFrame({"loss/linf": [2.0] * points})
    with style():
        axes = Figure().subplots()
        draw_curves(axes, Curves(values, values, 2), {"linf": "loss/linf"}, learner_looks(["linf"]))
    (line,) = axes.get_lines()
    assert line.get_markevery() == markers


@pytest.mark.parametrize(
    ("method", "measured", "said"),
    [
        ("generalist_t", True, "Protocol reference code: accuracies on test images, 1 seed."),
        ("generalist_d_nt_linf", False, "Protocol reference code: not measured."),
    ],
)
def test_protocols_are_side_by_side_and_one_without_a_run_says_so(
    suite: Params, runs: pd.DataFrame, method: str, measured: bool, said: str
) -> None:
    settings = ProtocolsFigure(kind="protocols", caption="both", method=method, protocols=["paper", "reference_code"])
    with style():
        figure = settings.draw(FigureSource(suite, runs))
        figure.draw_without_rendering()
    paper, theirs = (figure.axes[column::2][0] for column in range(2))
    assert [axes.get_title() for axes in (paper, theirs)] == ["paper", "reference code"]
    curves = [{line.get_label(): ys(line) for line in axes.get_lines()} for axes in (paper, theirs)]
    assert curves[0]["global"] == pytest.approx([23, 33, 43])
    assert curves[1].get("global", []) == (pytest.approx([40, 50, 60]) if measured else [])
    for axes in [paper, theirs][: 2 if measured else 1]:
        assert [xs(line)[0] for line in lines(axes, "redistribution")] == [2, 4]
    assert ["not measured" in [text.get_text() for text in axes.texts] for axes in (paper, theirs)] == [
        False,
        not measured,
    ]
    assert remark(figure) == (
        f"Protocol paper: accuracies on held-out images, mean and standard deviation of 2 seeds. {said}"
    )


def test_theory_has_a_panel_for_each_quantity_and_says_which_was_not_measured(
    suite: Params, runs: pd.DataFrame
) -> None:
    settings = TheoryFigure(kind="theory", caption="", method="generalist_t")
    with style():
        figure = settings.draw(FigureSource(suite, runs))
    regret, term, cosine = figure.axes
    assert {line.get_label() for line in regret.get_lines()} == {"linf", "natural", "l2", "mean"}
    curve = regret.get_lines()[0]
    assert xs(curve) == [2, 4]
    assert ys(curve) == pytest.approx([0.075, 0.0375])
    assert [line.get_label() for line in term.get_lines()] == ["previous iterate", "last restart"]
    assert ys(term.get_lines()[0]) == [4, 2]
    assert [line.get_label() for line in cosine.get_lines()] == ["linf, natural"]
    assert remark(figure).endswith("Not measured: cosine, of minibatches; loss barrier to global.")


def test_the_only_learner_is_drawn_once_as_the_result(suite: Params, runs: pd.DataFrame) -> None:
    figure = drawn("training_curves_t", suite, runs, method="nt")
    assert [line.get_label() for line in figure.axes[0].get_lines() if line.get_gid() is None] == ["global"]
    (legend,) = figure.legends
    assert legend.get_texts()[0].get_text() == "result"


def test_a_study_with_numbers_is_a_curve_with_gaps(suite: Params, runs: pd.DataFrame) -> None:
    figure = drawn("communication_interval", suite, runs)
    natural = figure.axes[0]
    assert points(natural) == {(1, 60), (2, 84.5)}, "c = 2 is the method as it is"
    (missing,) = lines(natural, "missing")
    assert xs(missing) == [3]
    (default,) = lines(natural, "default")
    assert xs(default)[0] == 2
    assert "not measured" in remark(figure) and "the setting in the tables" in remark(figure)
    assert [axes.get_ylabel() for axes in figure.axes] == ["natural (%)", r"AA $\ell_\infty$ (%)", r"AA $\ell_2$ (%)"]
    assert figure.axes[-1].get_xlabel() == "communication interval $c$"


def test_a_study_of_ratios_has_its_schedules_above_and_a_row_for_each(suite: Params, runs: pd.DataFrame) -> None:
    figure = drawn("gamma_trend", suite, runs)
    schedule, natural, *_ = figure.axes
    ratios = {line.get_label(): ys(line) for line in schedule.get_lines()}
    assert ratios == {"increasing": [0, 0, 0, 1], "constant": [0.5] * 4, "decreasing": [1, 1, 1, 0]}
    assert points(natural) == {(70, 0), (84.5, 2)}
    (missing,) = lines(natural, "missing")
    assert ys(missing) == [1]
    labels = natural.get_yticklabels()
    assert [label.get_text() for label in labels] == ["increasing", "constant", "decreasing"]
    assert [label.get_fontweight() for label in labels] == ["normal", "normal", "bold"]


@pytest.mark.parametrize(
    ("figure", "change", "message"),
    [
        ("gamma_trend", {"methods": ["nt"]}, r"study 'gamma_trend' does not vary nt: .*generalist_t"),
        ("framework", {"method": "at"}, r"'at' cannot be drawn: .*Valid: generalist_d_nt_linf, .*generalist_t"),
        ("pareto", {}, r"figures\.pareto: params\.yaml has no section 'search'"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_file(
    tiny_content: dict[str, Any], figure: str, change: dict[str, Any], message: str
) -> None:
    content = deepcopy(tiny_content)
    content["figures"][figure].update(change)
    if figure == "pareto":
        content["search"] = None
    with pytest.raises(RequestError, match=message):
        parse_params(content)


@pytest.mark.parametrize("place", ["method", "axis", "study", "setting"])
def test_math_that_cannot_be_drawn_is_refused_before_anything_is_trained(
    tiny_content: dict[str, Any], place: str
) -> None:
    content, wrong = deepcopy(tiny_content), r"$\nosuchthing$"
    study = content["ablation"]["studies"]["gamma_trend"]
    named = {"method": content["methods"]["nt"], "axis": content["figures"]["gamma_trend"]["metrics"][0]}
    if place == "setting":
        study["labels"][0] = wrong
    else:
        named.get(place, study)["label"] = wrong
    with pytest.raises(RequestError, match=r"the label '\$.nosuchthing\$' has math that figures cannot show"):
        check_figures(parse_params(content))
    check_figures(parse_params(tiny_content))


def test_a_search_is_its_trials_with_their_frontier_and_the_setting_in_the_tables(
    suite: Params, runs: pd.DataFrame
) -> None:
    figure = drawn("pareto", suite, runs)
    (axes,) = figure.axes
    assert points(axes) == {(50, 10), (40, 30), (30, 20), (43, 16)}
    (best,) = lines(axes, "frontier")
    assert xs(best) == pytest.approx([40, 50])
    assert ys(best) == pytest.approx([30, 10])
    said = {text.get_text() for text in texts(figure)}
    assert {r"$\gamma_1$ 0.1, $c$ 1, $t'$ 2", r"$\gamma_1$ 0.2, $c$ 2, $t'$ 2", "as in the tables"} <= said
    assert not any("0.3" in text for text in said if text.startswith(r"$\gamma_1$"))
    markers = {line.get_marker() for line in figure.legends[0].get_lines()}
    assert markers == {"o", "s", "*", "None"}, "all three differ without colour"
    assert remark(figure).startswith("Generalist-T, 3 settings") and "over seeds" in remark(figure)


def test_the_framework_is_that_of_the_resolved_experiment(suite: Params, runs: pd.DataFrame) -> None:
    figure = drawn("framework", suite, runs)
    said = "\n".join(text.get_text() for text in texts(figure))
    experiment = suite.experiment("generalist_t", 1)
    for expected in (
        *experiment.method.learners,
        "SGD, rate 0.05",
        r"\epsilon = 40/255",
        "2 steps",
        "= 0.95",
        "16 images",
    ):
        assert expected in said
    assert "restart from $\\theta_g$ at the end of epochs 2, 4" in said
    schedule = figure.axes[1]
    assert [xs(line)[0] for line in lines(schedule, "redistribution")] == [2, 4]
    ratios = {line.get_label(): ys(line)[-1] for line in schedule.get_lines() if line.get_gid() is None}
    assert list(ratios.values()) == [0, 0.5, 0.5]


@pytest.mark.parametrize("everything", [True, False])
def test_no_text_of_any_kind_of_figure_touches_another_or_a_marker(
    suite: Params, runs: pd.DataFrame, everything: bool
) -> None:
    known = runs if everything else runs.iloc[:4]
    shown = dict(suite.figures) | {
        "theory": TheoryFigure(kind="theory", caption="", method="generalist_t"),
        "protocols": ProtocolsFigure(
            kind="protocols", caption="", method="generalist_t", protocols=["paper", "reference_code"]
        ),
    }
    seen = set()
    for name, settings in shown.items():
        with style(), contextlib.suppress(NothingToShow):
            figure = settings.draw(FigureSource(suite, known, grid(suite)))
            figure.draw_without_rendering()
            check_layout(name, figure)
            seen.add(settings.kind)
    kinds = {"trade_off", "class_wise", "training_curves", "framework", "ablation", "pareto", "theory", "protocols"}
    assert not everything or seen == kinds, "stability is checked where it is measured; Grad-CAM is not"


def test_a_method_looks_the_same_in_every_figure(suite: Params, runs: pd.DataFrame) -> None:
    look = method_looks(suite)["generalist_t"]
    wanted = {"trade_off_natural": (84.5, 53), "communication_interval": (2, 84.5)}
    for name, place in wanted.items():
        lines = [line for axes in drawn(name, suite, runs).axes[:1] for line in axes.get_lines()]
        (own,) = [one for one in lines if one.get_gid() is None and place in set(zip(xs(one), ys(one), strict=True))]
        assert (own.get_marker(), own.get_color()) == (look.marker, look.colour), name
    assert len({(one.colour, one.marker) for one in method_looks(suite).values()}) == len(suite.methods)


def test_a_study_with_nothing_to_compare_is_left_out(suite: Params, tmp_path: Path) -> None:
    skipped: dict[str, str] = {}
    content = suite.model_dump(mode="json")
    content["search"]["sampler_seed"] = 99  # a search that nobody has run
    (tmp_path / "pareto.png").write_text("drawn when there were trials")
    names = ["trade_off_natural", "pareto"]
    written = list(write_figures(parse_params(content), names, tmp_path, skip=skipped.__setitem__))
    assert [path.stem for path in written] == ["trade_off_natural"] * len(KINDS)
    assert list(skipped) == ["pareto"] and re.fullmatch(r"0 of \d+ are measured; 'make search' .*", skipped["pareto"])
    assert not (tmp_path / "pareto.png").exists()


def test_files_are_equal_however_often_they_are_written(suite: Params, tmp_path: Path) -> None:
    names = ["gamma_trend", "pareto"]
    written = [list(write_figures(suite, names, tmp_path / folder)) for folder in ("first", "second")]
    expected = [f"{name}.{kind}" for name in names for kind in KINDS]
    assert [path.name for path in written[0]] == expected
    for first, second in zip(*written, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == sorted([*expected, COVERAGE])
    measured = read_coverage(tmp_path / "first")
    assert all(0 < found <= wanted for found, wanted in (measured[name] for name in names)), measured
    assert measured["pareto"][0] == 3


def test_every_unknown_name_is_found_before_anything_starts(suite: Params) -> None:
    content = suite.model_dump(mode="json")
    content["figures"]["class_wise_natural"]["methods"] = ["at", "generalist_x"]
    content["figures"]["class_wise_union"]["attack"] = "pgd20_l3"
    content["figures"]["gamma_trend"]["study"] = "gamma_trends"
    content["figures"]["trade_off_norms"]["x"]["metric"] = "naturl"
    with pytest.raises(RequestError) as refused:
        parse_params(content)
    for line in (
        "figures.class_wise_natural: unknown method 'generalist_x': did you mean 'generalist_t'?",
        "figures.class_wise_union: unknown attack 'pgd20_l3': did you mean 'pgd20_l2'?",
        "figures.gamma_trend: unknown study 'gamma_trends': did you mean 'gamma_trend'?",
        "figures.trade_off_norms: unknown metric 'naturl': did you mean 'natural'?",
    ):
        assert line in str(refused.value)


def test_a_method_in_two_groups_is_refused(tiny_content: dict[str, Any]) -> None:
    content = deepcopy(tiny_content)
    content["figures"]["trade_off_natural"]["groups"][0]["methods"].append("at")
    with pytest.raises(RequestError, match=r"figures.trade_off_natural.groups: 'at' is given more than once"):
        parse_params(content)


@pytest.fixture
def params_file(suite: Params, tmp_path: Path) -> Path:

    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(suite.model_dump(mode="json", exclude_none=True)))
    return path


def test_the_command_draws_what_is_asked_for(
    params_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--params", str(params_file), "--output", str(tmp_path / "out")]
    assert main(["framework", *arguments]) == 0
    assert capsys.readouterr().out.splitlines() == [f"wrote {tmp_path}/out/framework.{kind}" for kind in KINDS]
    assert main(["frame", *arguments]) == 2
    assert "unknown figure 'frame': did you mean 'framework'?" in capsys.readouterr().err


def test_an_empty_or_absent_store_is_told(
    params_file: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--params", str(params_file), "--output", str(tmp_path / "out")]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/absent.db")
    assert main(arguments) == 1
    assert "there is no MLflow store" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(arguments) == 1
    assert "out of reach" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}/runs.db")
    changed = params_file.read_text().replace("suite: digits", "suite: another")
    params_file.write_text(changed)
    assert main(arguments) == 1
    assert "has no finished run of what the figures of suite 'another' show" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
