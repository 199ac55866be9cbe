"""docs/papers.md: every item of the papers is on it, and its state is what the committed evidence says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from pipeline.config import Params
from pipeline.reporting.answers import (
    NEVER,
    PAGE,
    Measured,
    figure_state,
    fill_page,
    item_state,
    measured_tables,
    table_state,
)
from pipeline.reporting.papers import TITLES, numbered_items, printed_cells, printed_figures, stated_claims
from tests.conftest import REPOSITORY, composed

D, T = "generalist_d_nt_linf", "generalist_t"
WANTED = printed_cells().query("table == 'I' and architecture == 'resnet18'")
WHOLE = frozenset(zip(WANTED["method"], WANTED["metric"], strict=True))
AT = frozenset(cell for cell in WHOLE if cell[0] == "at")


@pytest.fixture(scope="module")
def suites() -> dict[str, Params]:
    found = {"cifar10": [], "cifar10_study": [], "digits": ["competitors=all"]}
    return {name: composed(f"suite={name}", *others) for name, others in found.items()}


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    return tmp_path / "reports"


@pytest.mark.parametrize(
    ("measured", "state"),
    [
        ([], NEVER),
        ([Measured("cifar10", "resnet18", False, WHOLE)], "full scale: 15 of 15 rows"),
        ([Measured("cifar10", "resnet18", True, WHOLE)], "reduced: 15 of 15 rows"),
        ([Measured("cifar10", "small_cnn", False, AT)], "reduced: 1 of 15 rows"),
        ([Measured("cifar10", "wrn32_10", False, AT)], "reduced: 1 of 15 rows"),
        (
            [Measured("digits", "small_cnn", False, AT), Measured("cifar10", "resnet18", False, AT)],
            "full scale: 1 of 15",
        ),
        ([Measured("digits", "small_cnn", False, AT)], "digits only: 1 of 15 rows"),
        ([Measured("svhn", "resnet18", False, WHOLE)], NEVER),
        ([Measured("cifar10", "resnet18", False, AT - {("at", "union")})], NEVER),
        (
            [Measured("cifar10", "resnet18", False, frozenset(part)) for part in (list(AT)[:3], list(AT)[3:])],
            "full scale: 1 of 15 rows",
        ),
    ],
)
def test_a_tables_state_is_its_whole_rows_at_the_best_scale(measured: list[Measured], state: str) -> None:
    assert table_state(measured, WANTED).startswith(state)


def test_committed_tables_are_read_with_their_scale_and_without_what_is_missing(reports: Path) -> None:
    for suite in ("cifar10_study/small_cnn/tables", "cifar10_reduced", "digits"):
        shutil.copytree(REPOSITORY / "reports/published" / suite, reports / suite)
    found = {(one.dataset, one.architecture): one for one in measured_tables(reports)}
    study = found["cifar10", "small_cnn"]
    assert study.is_reduced and ("at", "aa_linf") in study.cells
    reduced = found["cifar10", "resnet18"]
    assert reduced.is_reduced and {method for method, _ in reduced.cells} == {D, "at"}, "the other four are dashes"
    assert not found["digits", "small_cnn"].is_reduced


def test_a_figure_counts_for_the_panels_that_its_suite_says_it_draws(suites: dict[str, Params], reports: Path) -> None:
    def state(panel: str, *wanted: str) -> str:
        return figure_state(panel, set(wanted), suites.values(), reports)

    def draw(folder: str, name: str) -> None:
        path = reports / folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    natural = "Generalist++, Figure 7(a)"
    assert state(natural, D, T, "iat") == NEVER
    draw("digits/small_cnn/figures", "class_wise_natural")
    assert state(natural, D, T, "iat") == "digits only"
    draw("cifar10_study/small_cnn/figures", "class_wise_natural")
    assert state(natural, D, T, "iat") == "reduced: 2 of 3 methods"
    draw("cifar10/resnet18/figures", "class_wise_natural")
    assert state(natural, D, T, "iat") == "full scale"
    draw("cifar10_study/small_cnn/figures", "decay_stages")
    assert state("Generalist++, Figure 3(b)", T) == NEVER, "the study's figure is of Generalist-D"


@pytest.mark.parametrize("row", numbered_items(), ids=lambda row: f"{row['paper']}, {row['item']}")
def test_the_evidence_of_every_item_is_there(row: dict[str, str]) -> None:
    state = item_state(row["evidence"], REPOSITORY / "reports/published")
    assert state != NEVER and (state == "--") == (row["answer"] == "nothing to compute")
    kind, _, where = row["evidence"].partition(":")
    if kind == "test":
        path, _, name = where.partition("::")
        assert f"def {name}(" in (REPOSITORY / path).read_text() and name in state
    for path in re.findall(r"`((?:pipeline|benchmarks)/[^`]+)`", row["answer"]):
        assert (REPOSITORY / path).exists()


def test_without_evidence_an_item_was_never_run(reports: Path) -> None:
    assert item_state("curves:theory/regret/", reports) == NEVER
    assert item_state("file:digits_beyond/small_cnn/stability.csv", reports) == NEVER


def test_items_are_all_that_the_papers_number() -> None:
    def numbers(paper: str) -> set[int]:
        found: set[int] = set()
        for row in numbered_items():
            for first, last in re.findall(
                r"Eqs?\. (\d+)(?:(?: to | and )(\d+))?", row["item"] if row["paper"] == paper else ""
            ):
                found |= set(range(int(first), int(last or first) + 1))
        return found

    assert numbers("Generalist++") == set(range(1, 38)) and numbers("CVPR") == set(range(1, 10))
    items = " ".join(row["item"] for row in numbered_items() if row["paper"] == "Generalist++")
    for name in (
        "Algorithm 1",
        "Algorithm 2",
        "Definition 1",
        "Definition 2",
        "Definition 3",
        "Theorem 1",
        "Theorem 2",
    ):
        assert name in items


def test_the_page_without_any_evidence_has_every_item_and_says_that_nothing_was_run(
    suites: dict[str, Params], reports: Path
) -> None:
    page = fill_page((REPOSITORY / PAGE).read_text(), suites, reports, None)
    halves = len(printed_cells()[["table", "dataset", "architecture"]].drop_duplicates())
    assert all(title in page for title in TITLES.values()) and halves == 12
    assert all(f"{row['paper']}, Figure {row['panel']}" in page for row in printed_figures().to_dict("records"))
    assert all(f"| {row['text']} |" in page for row in stated_claims())
    assert not any(state in page for state in ("full scale:", "reduced:", "digits only:", "measured: `", "confirmed |"))
    assert page.count(f"| {NEVER} |") >= halves + len(printed_figures()) + len(stated_claims())


def test_verdicts_of_claims_are_those_of_the_suites(suites: dict[str, Params], reports: Path) -> None:
    (reports / "mine/network").mkdir(parents=True)
    rows = [{"claim": "wa_all", "verdict": "confirmed"}, {"claim": "c_7", "verdict": "not measured"}]
    pd.DataFrame(rows).to_csv(reports / "mine/network/claims.csv", index=False)
    page = fill_page((REPOSITORY / PAGE).read_text(), suites, reports, None)
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    (averaged,) = (line for line in lines if "weight averaging on all learners" in line)
    (seldom,) = (line for line in lines if "c = 7 of 120" in line)
    assert averaged.endswith("| `mine`: confirmed |") and seldom.endswith(f"| {NEVER} |")
