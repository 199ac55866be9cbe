"""The contradictions in the papers' tables, and that a consistent table has none."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.reporting.audit import audit, describe
from pipeline.reporting.papers import CELL, printed_cells
from stages import audit as stage
from tests.conftest import REPOSITORY

UNION = "Union is the mean of both AutoAttacks"
BELOW_PGD = "AutoAttack lies below PGD-20 by about as much as in the other rows"
STEPS = "PGD-100 is no weaker than PGD-20"
PAPERS = "Generalist++ repeats the CVPR paper's number"
METHODS = [f"method_{number}" for number in range(12)]


def cells_of(found: pd.DataFrame, check: str) -> set[tuple[str, ...]]:
    return {tuple(row) for row in found[found["check"] == check][CELL[:-1]].itertuples(index=False)}


def printed(*place: str) -> float:
    return float(printed_cells().set_index(CELL)["value"][place])


def test_three_unions_are_not_the_mean() -> None:
    found = audit()
    assert cells_of(found, UNION) == {
        ("I", "cifar10", "resnet18", "agr"),
        ("II", "cifar100", "resnet18", "generalist_d_linf_l2"),
        ("III", "imagenet", "wrn50_2", "generalist_d_linf_l2"),
    }
    worst = found[found["check"] == UNION].sort_values("difference").iloc[-1]
    assert (worst["printed"], worst["expected"], worst["difference"]) == pytest.approx((33.84, 31.24, 2.60))


def test_three_cells_of_table_two_are_garbled() -> None:
    assert cells_of(audit(), BELOW_PGD) == {
        ("II", "cifar100", "resnet18", "iat"),
        ("II", "cifar100", "wrn32_10", "agr"),
        ("II", "cifar100", "wrn32_10", "at_nt_linf"),
    }


def test_more_steps_are_weaker_in_eleven_rows() -> None:
    rows = cells_of(audit(), STEPS)
    assert len(rows) == 11
    assert all(printed(*row, "pgd100_linf") > printed(*row, "pgd20_linf") for row in rows)


def test_what_the_two_papers_say_of_the_same_run_differs_in_five_cells() -> None:
    found = audit()
    found = found[found["check"] == PAPERS]
    assert {(row["architecture"], row["method"], row["metric"]): row["difference"] for _, row in found.iterrows()} == {
        ("resnet18", "at_nt_linf", "natural"): -0.5,
        ("resnet18", "iat", "natural"): -0.9,
        ("wrn32_10", "iat", "natural"): 0.11,
        ("wrn32_10", "iat", "pgd20_linf"): -1.7,
        ("wrn32_10", "iat", "aa_linf"): -1.57,
    }


def consistent() -> pd.DataFrame:
    """Tables of the papers' form that hold together; AutoAttack lies 4 to 5 points below PGD."""
    rows = []
    for number, method in enumerate(METHODS):
        attacked = {"pgd20_linf": 50 - 0.1 * number, "aa_linf": 46 - 0.2 * number, "natural": 85 + 0.1 * number}
        attacked |= {"pgd20_l2": 60 - 0.1 * number, "aa_l2": 56 - 0.2 * number}
        attacked["union"] = round((attacked["aa_linf"] + attacked["aa_l2"]) / 2, 2)
        corrupted = {"ood_c_severity_5": 75 - 0.2 * number, "ood_p": 83 + 0.05 * number}
        full = {"pgd20_linf": attacked["pgd20_linf"], "pgd100_linf": attacked["pgd20_linf"] - 0.1}
        full |= {name: attacked["aa_linf"] + 0.2 for name in ("apgd_ce_linf", "apgd_t_linf", "fab_t_linf")}
        full |= {"square_linf": attacked["aa_linf"] + 5, "aa_linf": attacked["aa_linf"]}
        for table, metrics in (("I", attacked), ("IV", corrupted), ("1a", full)):
            for metric, number_printed in metrics.items():
                rows.append([table, "cifar10", "resnet18", method, metric, round(number_printed, 2)])
    return pd.DataFrame(rows, columns=[*CELL, "value"])


def changed(table: str, method: str, metric: str, by: float) -> pd.DataFrame:
    cells = consistent()
    place = (cells["table"] == table) & (cells["method"] == method) & (cells["metric"] == metric)
    assert place.sum() == 1
    cells.loc[place, "value"] += by
    return cells


def test_consistent_tables_have_no_findings() -> None:
    assert audit(consistent()).empty
    assert "0 findings" in describe(audit(consistent()))


@settings(max_examples=20)
@given(st.sampled_from(METHODS), st.floats(0.03, 40).flatmap(lambda size: st.sampled_from([size, -size])))
def test_every_wrong_union_is_found(method: str, by: float) -> None:
    assert cells_of(audit(changed("I", method, "union", by)), UNION) == {("I", "cifar10", "resnet18", method)}


@pytest.mark.parametrize(
    ("table", "metric", "by", "check"),
    [
        ("I", "pgd20_l2", 20.0, BELOW_PGD),
        ("1a", "pgd100_linf", 0.2, STEPS),
        ("1a", "pgd100_linf", -3.0, "PGD-100 lies below PGD-20 by about as much as in the other rows"),
        ("1a", "fab_t_linf", -3.0, "AutoAttack is no weaker than its members"),
        ("1a", "aa_linf", -3.0, "AutoAttack lies below its strongest member by about as much as in the other rows"),
        ("1a", "pgd20_linf", 0.5, PAPERS),
        ("IV", "ood_p", -30.0, "Sequences are easier than severity 5 by about as much as in the other rows"),
    ],
)
def test_every_kind_of_mistake_is_found(table: str, metric: str, by: float, check: str) -> None:
    found = cells_of(audit(changed(table, METHODS[3], metric, by)), check)
    assert {row[-1] for row in found} == {METHODS[3]}


def test_the_committed_audit_is_what_the_numbers_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage.main(["--output", str(tmp_path)]) == 0
    assert f"{len(audit())} findings" in capsys.readouterr().out
    for name in ("audit.md", "audit.csv"):
        assert (tmp_path / name).read_bytes() == (REPOSITORY / "reports/published" / name).read_bytes()
