"""The papers' numbers are whole and named as the project names things."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest

from pipeline.config import FigureSettings, Params
from pipeline.reporting import papers
from pipeline.reporting.figures.ablation import AblationFigure
from pipeline.reporting.papers import CELL, TITLES, printed_cells, printed_figures, readings
from tests.conftest import REPOSITORY, composed

SIZES = {"1a": 99, "1b": 99, "I": 180, "II": 180, "III": 60, "IV": 120}


def test_every_cell_of_every_table_is_there_once() -> None:
    cells = printed_cells()
    assert cells["table"].value_counts().to_dict() == SIZES
    assert set(SIZES) == set(TITLES)
    assert not cells.duplicated(CELL).any()
    assert cells["value"].between(0, 100).all()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("1a", "cifar10", "resnet18", "generalist_d_nt_linf", "aa_linf"), 46.07),
        (("1b", "cifar10", "wrn32_10", "iat", "pgd20_linf"), 50.55),
        (("I", "cifar10", "resnet18", "generalist_t", "aa_linf"), 43.23),
        (("II", "cifar100", "resnet18", "generalist_d_linf_l2", "union"), 33.84),
        (("III", "imagenet", "resnet50", "fast_at", "aa_linf"), 26.24),
        (("IV", "cifar10", "wrn32_10", "msd", "ood_p"), 85.75),
    ],
)
def test_numbers_are_the_printed_ones(place: tuple[str, ...], value: float) -> None:
    assert printed_cells().set_index(CELL)["value"][place] == value


def test_every_name_in_the_papers_is_one_of_the_project() -> None:
    params = composed("suite=cifar10", "attacks=full")
    cells = printed_cells()
    assert not cells[CELL].isna().any().any()
    assert set(cells["method"]) <= set(params.methods)
    metrics = {column.metric for table in params.tables.values() for column in table.columns}
    assert set(cells["metric"]) <= metrics
    for table in ("generalist_cvpr.csv", "generalist_pp.csv"):
        raw = pd.read_csv(REPOSITORY / "pipeline/reporting/paper" / table)
        names = papers._read("names.csv")
        for kind in ("method", "metric"):
            assert set(raw[kind]) <= set(names[names["kind"] == kind]["paper"])


def test_our_readings_are_of_cells_that_exist() -> None:
    assert len(readings().merge(printed_cells(), on=CELL)) == len(readings()) == 2


SUITES = sorted(path.stem for path in (REPOSITORY / "conf/suite").glob("*.yaml"))
Drawn = dict[str, list[dict[str, Any]]]


def resolved(*overrides: str) -> Params:
    return composed(*overrides)


def shown(params: Params, settings: FigureSettings) -> dict[str, Any]:
    """What a figure of `params.yaml` shows, in the terms of the papers' captions."""
    content = settings.model_dump()
    if isinstance(settings, AblationFigure):
        study = params.ablation.studies[settings.study]
        methods, metrics = settings.methods or study.methods, [axis.metric for axis in settings.metrics]
        return {"kind": settings.kind, "varies": study.varies, "methods": methods, "metrics": metrics}
    metrics = [content[key] for key in ("attack", "view") if key in content]
    metrics += [content[key]["metric"] for key in ("x", "y") if key in content]
    chosen = {key: content.get(key) or [] for key in ("methods", "baselines")}
    return {"kind": settings.kind, "varies": "", **chosen, "metrics": metrics}


def drawn(params: Params) -> Drawn:
    """By the papers' panel, what the figures show that draw it."""
    found: Drawn = {}
    for settings in params.figures.values():
        for panel in filter(None, settings.paper.split("; ")):
            found.setdefault(panel, []).append(shown(params, settings))
    return found


PANELS = {f"{row['paper']}, Figure {row['panel']}": row for row in printed_figures().to_dict("records")}


@pytest.fixture(scope="module")
def of_cifar10() -> tuple[Params, Drawn]:
    params = resolved("suite=cifar10", "attacks=full")
    return params, drawn(params)


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_is_drawn_of_the_methods_and_metrics_of_its_caption(
    panel: str, of_cifar10: tuple[Params, Drawn]
) -> None:
    row, ours = PANELS[panel], of_cifar10[1].get(panel, [])
    assert ours, f"no figure says that it draws {panel}"
    assert {one["kind"] for one in ours} == {row["kind"]}
    assert {one["varies"] for one in ours} == {row["varies"]}
    for part in ("methods", "baselines"):
        if row[part]:
            assert {name for one in ours for name in one.get(part, [])} == set(row[part].split())
    metrics = {name for one in ours for name in one["metrics"]}
    assert set(row["metrics"].split()) <= metrics


@pytest.mark.parametrize("suite", SUITES)
def test_no_figure_of_any_suite_claims_to_be_what_it_is_not(suite: str) -> None:
    for panel, ours in drawn(resolved(f"suite={suite}")).items():
        row = PANELS[panel]
        for one in ours:
            assert (one["kind"], one["varies"]) == (row["kind"], row["varies"]), panel
            if row["kind"] == "ablation":
                assert set(one["methods"]) <= set(row["methods"].split()), panel


def test_captions_speak_of_methods_and_metrics_of_the_project(of_cifar10: tuple[Params, Drawn]) -> None:
    params, _ = of_cifar10
    for row in PANELS.values():
        assert {*row["methods"].split(), *row["baselines"].split()} <= set(params.methods)
        assert set(row["metrics"].split()) <= {"natural", "union", *params.evaluation.attacks}
    assert len(PANELS) == len(printed_figures())


def test_pages_speak_of_figures_that_the_papers_have() -> None:
    numbers = {(row["paper"], row["panel"].partition(",")[0]) for row in PANELS.values()}
    known = numbers | {(paper, number.partition("(")[0]) for paper, number in numbers}
    named = re.compile(r"(Generalist\+\+|CVPR),? Figure (\d+(?:\([a-z]\))?)")
    pages = [*(REPOSITORY / "docs").glob("*.md"), REPOSITORY / "README.md"]
    found = {one for path in pages for one in named.findall(path.read_text())}
    assert found and found <= known
