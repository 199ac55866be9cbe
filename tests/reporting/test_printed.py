"""Tables of several suites: groups of columns in every form, and what stands at a part that is missing."""

from __future__ import annotations

import csv
import io
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.config import Params, PrintedTables, load_printed, parse_params
from pipeline.core.errors import RequestError
from pipeline.reporting.answers import measured_tables
from pipeline.reporting.printed import compose_command, fill_printed
from pipeline.reporting.tables import ENDINGS, FilledTable, write_table
from tests.conftest import REPOSITORY, composed
from tests.reporting.conftest import RunRow

COLUMNS = [{"metric": "natural", "label": "Natural"}, {"metric": "aa_linf", "label": r"AA$_\infty$"}]
SUITES = {
    "first": {"label": "One epoch", "compose": ["suite=small"]},
    "second": {"label": "Two epochs", "compose": ["suite=small", "training.epochs=2"]},
}
TABLE: dict[str, Any] = {
    "caption": "Both",
    "table": "main",
    "columns": COLUMNS,
    "groups": [{"label": "First & foremost", "suite": "first"}, {"label": "Second", "suite": "second"}],
}
AT, SLOW = r"AT<sub>∞</sub> 100% \| " + "\N{SCRIPT SMALL L}<sub>∞</sub>", r"slow\_at"
NUMBERS = {"natural": 0.9, "aa_linf": 0.4, "pgd_l2": 0.2, "union": 0.3}
COMPOSE = 'make suite SUITE=small SET="training.epochs=2"'


@pytest.fixture
def suites(raw: dict[str, Any]) -> dict[str, Params]:
    """One with three methods, and one with two of them and another."""
    raw["seeds"] = [0]
    other = deepcopy(raw)
    other["training"]["epochs"] = 2
    other["methods"]["late"] = {**other["methods"]["at"], "label": "Late", "epochs": 3}
    del other["methods"]["slow_at"]
    other["tables"]["main"]["rows"] = ["nt", "late", "at"]
    return {"first": parse_params(raw), "second": parse_params(other)}


def printed(**changes: Any) -> PrintedTables:
    return PrintedTables.model_validate({"suites": SUITES, "tables": {"both": {**TABLE, **changes}}})


def filled(suites: dict[str, Params], planted: list[dict[str, Any]], **changes: Any) -> FilledTable:
    columns = ["run_id", "fingerprint", "evaluation_fingerprint", "end_time"]
    runs = pd.DataFrame(planted) if planted else pd.DataFrame(columns=columns)
    return fill_printed("both", printed(**changes), suites, runs)


def texts(table: FilledTable, folder: Path) -> tuple[str, str, str]:
    tex, rows, _, markdown = write_table(table, folder)[:4]
    return tex.read_text(), rows.read_text(), markdown.read_text()


def markdown_lines(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in [lines[0], *lines[2:]]]


@pytest.fixture
def both(suites: dict[str, Params], run_row: RunRow) -> FilledTable:
    """All of the first suite; of the second `nt` alone."""
    first, second = suites["first"], suites["second"]
    rows = [
        run_row(first.experiment("nt", 0), **NUMBERS),
        run_row(first.experiment("at", 0), **{**NUMBERS, "natural": 0.8}),
        run_row(first.experiment("slow_at", 0), **{**NUMBERS, "natural": 0.7}),
        run_row(second.experiment("nt", 0), **{**NUMBERS, "natural": 0.5}),
    ]
    return filled(suites, rows)


def test_latex_has_a_line_of_headings_over_its_columns(both: FilledTable, tmp_path: Path) -> None:
    tex, _, _ = texts(both, tmp_path)
    lines = tex.splitlines()
    assert lines[0] == (
        "% Written by 'python -m stages.printed'; do not edit. Needs the packages booktabs and graphicx."
    )
    start = lines.index(r"\toprule")
    assert lines[start - 1] == r"\begin{tabular}{lcccc}"
    assert lines[start + 1 : start + 5] == [
        r"& \multicolumn{2}{c}{First \& foremost} & \multicolumn{2}{c}{Second} \\",
        r"\cmidrule(lr){2-3}\cmidrule(lr){4-5}",
        r"Method & Natural & AA$_\infty$\textsuperscript{a} & Natural & AA$_\infty$ \\",
        r"\midrule",
    ]


def test_rows_are_those_of_all_suites_and_ranks_those_of_each_column(both: FilledTable, tmp_path: Path) -> None:
    _, _, markdown = texts(both, tmp_path)
    aa = "AA<sub>∞</sub>"
    header = ["Method", "First & foremost: Natural", f"First & foremost: {aa}<sup>a</sup>"]
    assert markdown_lines(markdown) == [
        [*header, "Second: Natural", f"Second: {aa}"],
        ["NT", "**90**", "**40**", "50", "40<sup>a</sup>"],
        [AT, "<u>80</u>", "**40**", "--<sup>b</sup>", "--<sup>b</sup>"],
        [SLOW, "70", "**40**", "--", "--"],
        ["Late", "--", "--", "--<sup>b</sup>", "--<sup>b</sup>"],
    ]


def test_a_dash_names_the_one_command_that_fills_the_part(both: FilledTable, tmp_path: Path) -> None:
    tex, _, markdown = texts(both, tmp_path)
    assert f"<sup>b</sup> Not measured yet: `{COMPOSE} && dvc repro evaluate@at-0 evaluate@late-0`." in markdown
    assert "dvc repro evaluate@at-0 evaluate@late-0}.\n" in tex
    assert "slow_at-0" not in markdown, "the second suite has no such method"


def test_a_part_without_any_number_says_so_at_its_heading(
    suites: dict[str, Params], run_row: RunRow, tmp_path: Path
) -> None:
    table = filled(suites, [run_row(suites["first"].experiment("nt", 0), **NUMBERS)])
    tex, _, markdown = texts(table, tmp_path)
    assert r"\multicolumn{2}{c}{Second\textsuperscript{a}}" in tex
    header, *rows = markdown_lines(markdown)
    assert header[3:] == ["Second<sup>a</sup>: Natural", "Second<sup>a</sup>: AA<sub>∞</sub>"]
    assert all(row[3:] == ["--", "--"] for row in rows)
    assert f"<sup>a</sup> Not measured yet: `{COMPOSE} && make repro`." in markdown
    rest = "Not measured yet: `make suite SUITE=small && dvc repro evaluate@at-0 evaluate@slow_at-0`."
    assert rest in markdown and markdown.count("Not measured yet") == 2


def test_columns_of_one_heading_may_be_of_several_suites(
    suites: dict[str, Params], run_row: RunRow, tmp_path: Path
) -> None:
    groups = [
        {
            "label": label,
            "columns": [{"metric": metric, "label": suite[0], "suite": suite} for suite in ("first", "second")],
        }
        for label, metric in (("Clean", "natural"), ("Corrupted", "ood_p"))
    ]
    table = filled(suites, [run_row(suites["first"].experiment("nt", 0), natural=0.5, ood_p=0.25)], groups=groups)
    _, _, markdown = texts(table, tmp_path)
    header, first, *_ = markdown_lines(markdown)
    assert header == ["Method", "Clean: f", "Clean: s<sup>a</sup>", "Corrupted: f", "Corrupted: s<sup>a</sup>"]
    assert first[1::2] == ["50", "25<sup>b</sup>"]
    assert f"<sup>a</sup> Not measured yet: `{COMPOSE} && make repro`." in markdown
    images = "One epoch: Accuracy (%) of `small_cnn` on test images of `digits` (n = 360: Clean; n = 64: Corrupted)."
    assert images in markdown, "a suite's columns are told apart by their headings"


def test_the_caption_says_once_what_holds_for_all_suites(both: FilledTable, tmp_path: Path) -> None:
    _, _, markdown = texts(both, tmp_path)
    assert markdown.startswith(
        "**Both.** Accuracy (%) of `small_cnn` on test images of `digits` (n = 360: Natural; n = 64: AA<sub>∞</sub>). "
    )
    assert markdown.count("Seed 0.") == markdown.count("Protocol: reference code.") == 1
    assert "One epoch:" not in markdown and "Two epochs:" not in markdown


def test_the_caption_says_of_each_suite_what_it_alone_says(suites: dict[str, Params], tmp_path: Path) -> None:
    other = suites["second"].model_copy(update={"protocol": "paper", "description": "Another"})
    table = filled({**suites, "second": other}, [])
    assert not table.is_measured
    _, _, markdown = texts(table, tmp_path)
    line = markdown.splitlines()[0]
    assert "One epoch: Protocol: reference code; A suite for tests & no more." in line
    assert "Two epochs: Protocol: paper; Another." in line and line.count("Seed 0.") == 1


def test_the_csv_says_panel_and_suite_of_every_number(both: FilledTable, tmp_path: Path) -> None:
    _, rows, _ = texts(both, tmp_path)
    frame = pd.read_csv(io.StringIO(rows))
    assert list(frame.columns[:4]) == ["panel", "suite", "method", "label"]
    assert len(frame) == 2 * 3 + 2 * 3
    found = frame.set_index(["panel", "suite", "method", "metric"])
    assert found.loc[("First & foremost", "first", "at", "natural"), "value"] == 80
    assert found.loc[("Second", "second", "nt", "natural"), "value"] == 50
    missing = found.loc[("Second", "second", "at", "natural"), :]
    assert missing["missing"] and missing["command"] == f"{COMPOSE} && dvc repro evaluate@at-0 evaluate@late-0"
    header, *lines = csv.reader(rows.splitlines())
    assert [line[header.index("method")] for line in lines] == ["nt"] * 4 + ["at"] * 4 + ["slow_at"] * 2 + ["late"] * 2


def test_rows_and_columns_are_the_suites_own_where_none_are_given(suites: dict[str, Params], tmp_path: Path) -> None:
    header, *rows = markdown_lines(texts(filled(suites, [], columns=[]), tmp_path)[2])
    assert len(header) == 1 + 2 * 4 and [row[0] for row in rows] == ["NT", AT, SLOW, "Late"]
    header, *rows = markdown_lines(texts(filled(suites, [], rows=["late", "nt"]), tmp_path)[2])
    assert len(header) == 1 + 2 * 2 and [row[0] for row in rows] == ["Late", "NT"]


def test_equal_input_gives_equal_bytes(both: FilledTable, tmp_path: Path) -> None:
    assert texts(both, tmp_path / "one") == texts(both, tmp_path / "two")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": ["att"]}, "printed table 'both': unknown method 'att': did you mean 'at'?"),
        ({"table": "mane"}, "printed table 'both': suite 'first' has no table 'mane': did you mean 'main'?"),
        ({"columns": [{"metric": "aa_lin", "label": "AA"}]}, "suite 'first': unknown metric 'aa_lin': did you mean 'a"),
        (
            {"columns": [{"metric": "training_seconds", "label": "Time", "relative_to": "slow_at"}]},
            "printed table 'both': suite 'second' has no method 'slow_at'",
        ),
    ],
)
def test_what_no_suite_has_is_refused(suites: dict[str, Params], changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        filled(suites, [], **changes)


def test_a_suites_command_is_what_composes_it() -> None:
    suites = printed().suites
    assert compose_command(suites["first"]) == "make suite SUITE=small"
    assert compose_command(suites["second"]) == COMPOSE


def test_table_i_stands_beside_the_papers_for_both_networks(run_row: RunRow, tmp_path: Path) -> None:
    conf = REPOSITORY / "conf"
    tables = load_printed(conf / "printed.yaml")
    names = tables.tables["table1"].suites
    assert names == ["cifar10_resnet18", "cifar10_wrn32_10"]
    suites = {name: composed(*tables.suites[name].compose) for name in names}
    metrics = {"natural": 0.5, "pgd20_linf": 0.4, "aa_linf": 0.3, "pgd20_l2": 0.4, "aa_l2": 0.5, "union": 0.4}
    runs = [
        run_row(params.experiment(method, 1), **metrics)
        for params, methods in zip(suites.values(), (["at", "fat"], ["at"]), strict=True)
        for method in methods
    ]
    written = write_table(fill_printed("table1", tables, suites, pd.DataFrame(runs)), tmp_path)
    forms = [f"table1{form}{end}" for form in ("", "_minus_paper") for end in ENDINGS]
    assert [path.name for path in written] == forms
    cells = pd.read_csv(written[5]).set_index(["panel", "method", "metric"])
    assert len(cells) == 2 * 15 * 6
    # printed in Table I: AT 84.32 and 87.32, FAT 87.72 and 89.65
    assert cells.loc[("ResNet-18", "at", "natural"), "difference"] == pytest.approx(50 - 84.32)
    assert cells.loc[("WRN-32-10", "at", "natural"), "difference"] == pytest.approx(50 - 87.32)
    assert cells.loc[("ResNet-18", "fat", "natural"), "difference"] == pytest.approx(50 - 87.72)
    absent = cells.loc[("WRN-32-10", "fat", "natural"), :]
    assert absent["missing"] and absent["paper"] == 89.65
    assert absent["command"].startswith('make suite SUITE=cifar10 SET="architecture=wrn32_10" && dvc repro evaluate@')
    markdown = written[7].read_text()
    assert markdown.startswith("**Reproduced minus paper (Table I of Generalist++): CIFAR-10, natural accuracy")
    (line,) = (line for line in markdown_lines(markdown) if line[0].startswith("FAT"))
    assert line[1].startswith("-38") and line[7].startswith("--<sup>")


def test_a_table_without_any_number_has_no_second_form(suites: dict[str, Params], tmp_path: Path) -> None:
    assert [path.name for path in write_table(filled(suites, []), tmp_path)] == [f"both{end}" for end in ENDINGS]


def test_a_printed_table_is_no_evidence_beside_its_suites_own(both: FilledTable, tmp_path: Path) -> None:
    write_table(both, tmp_path)
    assert measured_tables(tmp_path) == []
