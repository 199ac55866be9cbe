"""The papers' numbers are whole and named as the project names things."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.config import parse_params
from pipeline.reporting import papers
from pipeline.reporting.papers import CELL, TITLES, printed_cells, readings
from stages.compose import compose
from tests.conftest import REPOSITORY

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
    import yaml

    params = parse_params(yaml.safe_load(compose(["suite=cifar10", "attacks=full"], REPOSITORY / "conf")))
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
