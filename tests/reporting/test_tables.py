"""Tables on disk: every number, mark and footnote, in all three forms."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import Params, parse_params
from pipeline.core.values import Norm
from pipeline.reporting.layout import NORM_SYMBOLS, ranks
from pipeline.reporting.results import fill
from pipeline.reporting.tables import ENDINGS, of_suite, remove_leftovers, write_table


def planted(params: Params, means: dict[str, list[float | None]], table: str = "main", **columns: Any) -> pd.DataFrame:
    """Results in which method -> means (None: missing), one per column of the table."""
    rows = []
    for method, values in means.items():
        for column, mean in zip(params.tables[table].columns, values, strict=True):
            row = {"method": method, "metric": column.metric, "mean": float("nan") if mean is None else mean}
            row |= {"std": float("nan"), "seeds": int(mean is not None), "seeds_expected": 1, "images": 64}
            row |= {"missing": mean is None, "command": "" if mean is not None else f"dvc repro evaluate@{method}-0"}
            row |= {"low": float("nan"), "high": float("nan"), "notes": (), "like_best": False}
            rows.append({**row, "digits": params.tables[table].digits, **columns})
    return pd.DataFrame(rows).astype({"images": "Int64"})


def write(params: Params, results: pd.DataFrame, folder: Path, name: str = "main") -> tuple[str, str, str]:
    tex, table, _, markdown = write_table(of_suite(name, params, results), folder)
    return tex.read_text(), table.read_text(), markdown.read_text()


def tex_rows(tex: str) -> list[list[str]]:
    body = tex.partition("\\midrule\n")[2].partition("\n\\bottomrule")[0]
    return [row.removesuffix(r" \\").split(" & ") for row in body.splitlines()]


def markdown_rows(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [re.split(r" (?<!\\)\| ", line.strip("| ")) for line in lines[2:]]


def test_known_results_give_known_cells(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    tex, _, markdown = write(params, fill(params, params.tables["main"], runs), tmp_path)

    def spread(std: str) -> str:
        return rf"{{\scriptsize\,$\pm$\,{std}}}"

    a, b = r"\rlap{\textsuperscript{b}}", r"\rlap{\textsuperscript{c}}"
    hidden = rf"\phantom{{{spread('1')}}}", rf"\phantom{{{spread('0')}}}", rf"\phantom{{{spread('14')}}}"
    assert tex_rows(tex) == [
        [
            "NT",
            rf"\textbf{{99}}{spread('1')}",
            rf"\phantom{{0}}\underline{{0}}{spread('0')}",
            rf"\textbf{{20}}{spread('14')}",
            rf"\underline{{10}}{spread('7')}",
        ],
        [
            r"AT$_{\infty}$ 100\% \textbar{} $\ell_\infty$",
            rf"\underline{{90}}{hidden[0]}{a}",
            rf"\textbf{{41}}{hidden[1]}{a}",
            rf"\textbf{{20}}{hidden[2]}{a}",
            rf"\textbf{{31}}\phantom{{{spread('7')}}}{a}",
        ],
        [r"slow\_at", *(f"--{b}" for _ in range(4))],
    ]
    assert markdown_rows(markdown) == [
        ["NT", "**99** ± 1", "<u>0</u> ± 0", "**20** ± 14", "<u>10</u> ± 7"],
        [
            r"AT<sub>∞</sub> 100% \| " + "\N{SCRIPT SMALL L}<sub>∞</sub>",
            "<u>90</u><sup>b</sup>",
            "**41**<sup>b</sup>",
            "**20**<sup>b</sup>",
            "**31**<sup>b</sup>",
        ],
        [r"slow\_at", *("--<sup>c</sup>" for _ in range(4))],
    ]


def test_footnotes_say_which_command_fills_a_cell(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    tex, _, markdown = write(params, fill(params, params.tables["main"], runs), tmp_path)
    notes = tex.partition(r"\begin{minipage}")[2].partition(r"\end{minipage}")[0].splitlines()[1:]
    assert notes == [
        r"\textsuperscript{a}\,64 of 360 test images. \\",
        r"\textsuperscript{b}\,1 of 2 seeds; for the others: \texttt{dvc repro evaluate@at-1}. \\",
        r"\textsuperscript{c}\,Not measured yet: "
        r"\texttt{dvc repro evaluate@slow\char95{}at-0 evaluate@slow\char95{}at-1}. \\",
        r"Union: mean of AA$_\infty$, PGD$_{2}$.",
    ]
    assert "<sup>c</sup> Not measured yet: `dvc repro evaluate@slow_at-0 evaluate@slow_at-1`." in markdown
    assert "Union: mean of AA<sub>∞</sub>, PGD<sub>2</sub>." in markdown


def test_the_caption_says_what_was_measured(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    tex, _, markdown = write(params, fill(params, params.tables["main"], runs), tmp_path)
    assert tex.index(r"\caption") < tex.index(r"\begin{tabular}")
    caption = next(line for line in tex.splitlines() if line.startswith(r"\caption"))
    assert caption == (
        r"\caption[{Main results.}]{\frenchspacing Main results. Accuracy (\%) of \texttt{small\char95{}cnn} on test "
        r"images of \texttt{digits} ($n = 360$: Natural; $n = 64$: AA$_\infty$, PGD$_{2}$, Union). Attack budgets: "
        r"$\ell_\infty$ $\epsilon = 8/255$; $\ell_2$ $\epsilon = 0.5$. Mean $\pm$ sample standard deviation over seeds "
        r"0, 1. Protocol: reference code. A suite for tests \& no more.}"
    )
    assert "ε = 8/255" in markdown.splitlines()[0]


def test_the_csv_has_the_printed_numbers(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    _, table, _ = write(params, fill(params, params.tables["main"], runs), tmp_path)
    header, *rows = csv.reader(table.splitlines())
    assert header[:7] == ["method", "label", "metric", "value", "std", "low", "high"]
    assert header[7:] == ["shown", "mark", "seeds", "images", "missing", "command", "notes"]
    assert len(rows) == 12
    assert rows[0] == ["nt", "NT", "natural", "99.00", "1.41", "", "", "99", "best", "2", "360", "false", "", ""]
    assert rows[5][:7] == ["at", "AT∞ 100% | \N{SCRIPT SMALL L}∞", "aa_linf", "41.25", "", "", ""]
    assert rows[5][7:] == ["41", "best", "1", "64", "false", "dvc repro evaluate@at-1", "64 of 360 test images."]
    assert rows[11][:12] == ["slow_at", "slow_at", "union", *6 * [""], "0", "", "true"]
    assert rows[11][12] == "dvc repro evaluate@slow_at-0 evaluate@slow_at-1"
    wide = pd.read_csv(next(tmp_path.glob("*_wide.csv")))
    metrics = list(dict.fromkeys(row[2] for row in rows))
    assert list(wide.columns) == ["method", "label", *metrics] and list(wide["method"]) == ["nt", "at", "slow_at"]
    numbers = [float(row[7]) if row[7] else float("nan") for row in rows]
    assert wide[metrics].to_numpy().ravel().tolist() == pytest.approx(numbers, nan_ok=True)


def test_ties_at_the_printed_precision_share_a_mark(params: Params, tmp_path: Path) -> None:
    means: dict[str, list[float | None]] = {
        "nt": [50.001, 10.0, None, 70.0],
        "at": [50.004, 20.0, None, 70.0],
        "slow_at": [49.996, 20.004, 5.0, 70.004],
    }
    tex, _, _ = write(params, planted(params, means), tmp_path)
    first, second, third = tex_rows(tex)
    missing = [rf"--\rlap{{\textsuperscript{{{letter}}}}}" for letter in "ab"]
    assert first[1:] == [r"\textbf{50.00}", r"\underline{10.00}", missing[0], r"\textbf{70.00}"]
    assert second[1:] == [r"\textbf{50.00}", r"\textbf{20.00}", missing[1], r"\textbf{70.00}"]
    assert third[1:] == [r"\textbf{50.00}", r"\textbf{20.00}", "5.00", r"\textbf{70.00}"]


def test_one_filled_row_has_no_mark(params: Params, tmp_path: Path) -> None:
    results = planted(params, {"at": [12.345]}, "one_column")
    tex, table, markdown = write(params, results, tmp_path, "one_column")
    assert tex_rows(tex)[0][1] == "12.3"
    assert markdown_rows(markdown)[0][1] == "12.3"
    assert "at,AT∞ 100% | \N{SCRIPT SMALL L}∞,worst_case_union,12.3,,,,12.3,,1,64,false,," in table


def test_one_seed_and_one_number_of_images_are_said_plainly(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["seeds"] = [3]
    params = parse_params(raw)
    tex, _, _ = write(params, planted(params, {"at": [12.345]}, "one_column"), tmp_path, "one_column")
    assert r"on test images of \texttt{digits} ($n = 64$)." in tex
    assert "Seed 3." in tex
    assert "deviation" not in tex
    assert (
        r"Worst case: images that are correct under each of \texttt{aa\char95{}linf}, \texttt{pgd\char95{}l2}." in tex
    )


def test_training_budgets_are_said_where_they_differ(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["threat_model"]["linf"]["epsilon"] = "4/255"
    params = parse_params(raw)
    tex, _, _ = write(params, planted(params, {"at": [12.345]}, "one_column"), tmp_path, "one_column")
    assert r"$\ell_\infty$ $\epsilon = 8/255$ (training: $4/255$)" in tex


@pytest.mark.parametrize(("split", "said"), [("test", True), ("held_out", False)])
def test_a_checkpoint_that_test_images_chose_is_confessed(
    raw: dict[str, Any], tmp_path: Path, split: str, said: bool
) -> None:
    raw["training"]["selection"]["split"] = split
    params = parse_params(raw)
    tex, _, markdown = write(params, planted(params, {"at": [12.345]}, "one_column"), tmp_path, "one_column")
    assert ("The test images chose the checkpoint" in tex) is said
    assert ("The test images chose the checkpoint" in markdown) is said


def test_runs_that_differ_are_a_footnote(params: Params, tmp_path: Path) -> None:
    note = "Runs of at with seed 0 differ; the one that finished last is used."
    results = planted(params, {"at": [12.345]}, "one_column", notes=(note,))
    tex, _, markdown = write(params, results, tmp_path, "one_column")
    assert tex_rows(tex)[0][1] == r"12.3\rlap{\textsuperscript{a}}"
    assert rf"\textsuperscript{{a}}\,{note}" in tex
    assert f"<sup>a</sup> {note}" in markdown


def test_more_footnotes_than_letters(raw: dict[str, Any], tmp_path: Path) -> None:
    names = [f"method_{number}" for number in range(28)]
    raw["methods"] |= {name: raw["methods"]["nt"] for name in names}
    raw["tables"]["main"]["rows"] = names
    params = parse_params(raw)
    tex, _, _ = write(params, planted(params, {name: [None] * 4 for name in names}), tmp_path)
    marks = [re.findall(r"textsuperscript\{(\w+)\}", row[1])[0] for row in tex_rows(tex)]
    assert marks == [*"abcdefghijklmnopqrstuvwxyz", "aa", "ab"]


def test_equal_input_gives_equal_bytes(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        write(params, fill(params, params.tables["main"], runs.sample(frac=1, random_state=0)), tmp_path / folder)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()


def test_a_note_on_all_numbers_of_a_column_stands_at_its_label(
    params: Params, runs: pd.DataFrame, tmp_path: Path
) -> None:
    tex, _, markdown = write(params, fill(params, params.tables["main"], runs), tmp_path)
    header = next(line for line in tex.splitlines() if line.startswith("Method & "))
    mark = r"\textsuperscript{a}"
    assert header == rf"Method & Natural & AA$_\infty${mark} & PGD$_{{2}}${mark} & Union{mark} \\"
    assert (
        "| Method | Natural | AA<sub>∞</sub><sup>a</sup> | PGD<sub>2</sub><sup>a</sup> | Union<sup>a</sup> |"
        in markdown
    )


def test_a_note_on_all_numbers_of_a_row_stands_at_its_label(params: Params, tmp_path: Path) -> None:
    results = planted(params, {"nt": [1.0, 2.0, 3.0, 4.0], "at": [1.0, 2.0, 3.0, 4.0]})
    results["notes"] = [("Of another protocol.",)] * 4 + [()] * 4
    _, _, markdown = write(params, results, tmp_path)
    assert markdown_rows(markdown)[0][0] == "NT<sup>a</sup>"
    assert "sup" not in "".join(markdown_rows(markdown)[0][1:])


def test_a_note_on_every_number_stands_below_the_table(params: Params, tmp_path: Path) -> None:
    results = planted(params, {"nt": [1.0, 2.0, 3.0, None], "at": [1.0, 2.0, 3.0, 4.0]})
    results["notes"] = [() if missing else ("Regenerated.",) for missing in results["missing"]]
    tex, _, markdown = write(params, results, tmp_path)
    assert "\n\nRegenerated.\n" in markdown
    assert "\nRegenerated. \\\\\n" in tex
    assert markdown.count("<sup>a</sup>") == 2  # the missing cell and its footnote


def test_intervals_stand_in_brackets(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["tables"]["main"]["uncertainty"] = "wilson"
    params = parse_params(raw)
    results = planted(params, {"nt": [50.0, 1.0, 2.0, None], "at": [60.0, 1.0, 2.0, None]})
    results.loc[results["metric"] == "natural", ["low", "high"]] = [[9.5, 70.25], [51.0, 71.0]]
    tex, _, markdown = write(params, results, tmp_path)
    assert [row[1] for row in tex_rows(tex)[:2]] == [
        r"\underline{50.00}{\scriptsize\,[9.50,\,70.25]}{\scriptsize\phantom{0}}",
        r"\textbf{60.00}{\scriptsize\,[51.00,\,71.00]}",
    ]
    assert [row[1] for row in markdown_rows(markdown)[:2]] == ["<u>50.00</u> [9.50, 70.25]", "**60.00** [51.00, 71.00]"]
    assert "In brackets: 95\\% intervals of Wilson" in tex


@pytest.mark.parametrize(
    ("marks", "shown"),
    [
        ([], ["1.00", "2.00", "3.00"]),
        (["best"], ["1.00", "2.00", "**3.00**"]),
        (["second"], ["1.00", "<u>2.00</u>", "3.00"]),
    ],
)
def test_marks_are_those_that_the_table_asks_for(
    raw: dict[str, Any], tmp_path: Path, marks: list[str], shown: list[str]
) -> None:
    raw["tables"]["main"]["marks"] = marks
    params = parse_params(raw)
    means: dict[str, list[float | None]] = {
        name: [value] * 4 for name, value in zip(("nt", "at", "slow_at"), (1.0, 2.0, 3.0), strict=True)
    }
    _, _, markdown = write(params, planted(params, means), tmp_path)
    assert [row[1] for row in markdown_rows(markdown)] == shown


def test_a_mark_that_many_share_is_left_out(params: Params) -> None:
    column = pd.DataFrame({"method": list("abcdef"), "mean": [3.0, 3.0, 2.0, 2.0, 2.0, 2.0]})
    column = column.assign(missing=False, digits=2, like_best=False)
    assert ranks(column, params.tables["main"]) == {"a": "best", "b": "best"}


def test_what_cannot_be_told_from_the_best_is_marked_as_the_best_is(params: Params, tmp_path: Path) -> None:
    results = planted(params, {"nt": [90.0] * 4, "at": [80.0] * 4, "slow_at": [70.0] * 4}, digits=0)
    results["like_best"] = results["method"].isin(["nt", "at"])
    tex, table, markdown = write(params, results, tmp_path)
    assert [row[1] for row in tex_rows(tex)] == [r"\textbf{90}", r"\textbf{80}", r"\underline{70}"]
    assert [row[1] for row in markdown_rows(markdown)] == ["**90**", "**80**", "<u>70</u>"]
    assert list(pd.read_csv(io.StringIO(table))["mark"][::4]) == ["best", "best", "second"]
    assert all("cannot be told from it on the same images" in text for text in (tex, markdown))
    results["like_best"] = True
    tex, _, markdown = write(params, results, tmp_path)  # a mark that all have says nothing
    assert "textbf{9" not in tex and "cannot be told" not in tex + markdown


def test_no_more_digits_are_shown_than_the_images_tell(params: Params, runs: pd.DataFrame) -> None:
    many = runs.assign(**{"count.natural": 10_000})
    found = fill(params, params.tables["main"], many).set_index(["method", "metric"])["digits"]
    assert found["nt", "natural"] == 1 and found["nt", "aa_linf"] == 0


def test_groups_of_methods_are_set_apart(raw: dict[str, Any], tmp_path: Path) -> None:
    axis = {"metric": "natural", "label": "natural"}
    groups = [{"label": "natural", "methods": ["nt"]}, {"label": "adversarial", "methods": ["at", "slow_at"]}]
    raw["figures"] = {"points": {"kind": "trade_off", "caption": "", "x": axis, "y": axis, "groups": groups}}
    params = parse_params(raw)
    means: dict[str, list[float | None]] = {name: [1.0] * 4 for name in ("nt", "at", "slow_at")}
    tex, *_ = write(params, planted(params, means), tmp_path)
    body = tex.split(r"\midrule")
    assert [part.count(r"\\") for part in body[1:3]] == [1, 2] and len(body) == 3


Means = st.lists(st.one_of(st.none(), st.floats(0, 100)), min_size=4, max_size=4)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(Means, min_size=3, max_size=3))
def test_every_number_mark_and_dash_is_printed_where_it_belongs(
    params: Params, tmp_path: Path, means: list[list[float | None]]
) -> None:
    methods = dict(zip(("nt", "at", "slow_at"), means, strict=True))
    tex, table, markdown = write(params, planted(params, methods), tmp_path)
    expected = [["" if value is None else f"{value:.2f}" for value in row] for row in means]
    for column in range(4):
        texts = [row[column] for row in expected]
        order = sorted({float(text) for text in texts if text}, reverse=True) if sum(map(bool, texts)) > 1 else []
        for row, text in enumerate(texts):
            place = order.index(float(text)) if text and order else 2
            in_tex, in_markdown = tex_rows(tex)[row][column + 1], markdown_rows(markdown)[row][column + 1]
            if not text:
                assert in_tex.startswith(r"--\rlap{\textsuperscript{") and re.fullmatch(
                    r"--<sup>[abc]</sup>", in_markdown
                )
                continue
            tex_mark, mark = ((r"\textbf{%s}", "**%s**"), (r"\underline{%s}", "<u>%s</u>"), ("%s", "%s"))[min(place, 2)]
            assert re.sub(r"\\phantom\{0+\}", "", in_tex) == tex_mark % text
            assert in_markdown == mark % text
    assert [line[3] for line in list(csv.reader(table.splitlines()))[1:]] == [text for row in expected for text in row]


def on_cifar10(raw: dict[str, Any]) -> Params:
    """The rows and columns of Table I that the small suite has, and a method that the paper lacks."""
    raw["data"] = {"name": "cifar10", "held_out_images": 1000}
    raw["model"]["architecture"] = "resnet18"
    raw["methods"]["iat"] = raw["methods"]["at"]
    table = {**raw["tables"]["main"], "rows": ["nt", "at", "iat"], "paper": ["I"], "file": "table_one"}
    raw["tables"] = {"main": table}
    return parse_params(raw)


def test_the_form_beside_the_paper_has_every_difference(raw: dict[str, Any], tmp_path: Path) -> None:
    params = on_cifar10(raw)
    # printed in Table I: AT 84.32, 44.37, 50.68 and IAT 83.70, 35.13, 43.26
    results = planted(params, {"nt": [90.0] * 4, "at": [85.0, 44.0, 1.0, 50.68], "iat": [None, 45.13, 1.0, 43.26]})
    paths = write_table(of_suite("main", params, results), tmp_path)
    names = [f"table_one{form}{kind}" for form in ("", "_minus_paper") for kind in ENDINGS]
    assert [path.name for path in paths] == names
    tex, table, wide, markdown = (path.read_text() for path in paths[4:])
    dash = r"--\rlap{\textsuperscript{a}}"
    assert [row[1:] for row in tex_rows(tex)] == [
        ["$+$0.68", r"\phantom{0}$-$0.37", r"$\pm$0.00"],
        [dash, "$+$10.00", r"$\pm$0.00"],
    ]
    assert [row[1:] for row in markdown_rows(markdown)] == [
        ["+0.68", "-0.37", "±0.00"],
        ["--<sup>a</sup>", "+10.00", "±0.00"],
    ]
    assert "<sup>a</sup> Not measured yet: `dvc repro evaluate@iat-0`." in markdown
    assert markdown.startswith("**Reproduced minus paper (Table I of Generalist++): Main results.** Percentage points.")
    assert pd.read_csv(io.StringIO(wide))["natural"].tolist() == pytest.approx([0.68, float("nan")], nan_ok=True)
    frame = pd.read_csv(io.StringIO(table)).set_index(["method", "metric"])
    assert list(frame["paper"]) == [84.32, 44.37, 50.68, 83.70, 35.13, 43.26]
    assert frame["difference"]["at", "natural"] == 0.68 and frame["value"]["at", "natural"] == 85.0
    assert pd.isna(frame["difference"]["iat", "natural"])


@pytest.mark.parametrize("uncertainty", ["seeds", "wilson"])
def test_the_caption_beside_the_paper_says_what_its_cells_have(
    raw: dict[str, Any], tmp_path: Path, uncertainty: str
) -> None:
    params = on_cifar10(raw)
    # Table 1(a) has AT's natural accuracy as well; the table that is listed first gives it.
    table = params.tables["main"].model_copy(update={"uncertainty": uncertainty, "paper": ["I", "1a"]})
    params = params.model_copy(update={"tables": {"main": table}})
    results = planted(params, {"at": [85.0, 44.0, 1.0, 50.68]})
    markdown = write_table(of_suite("main", params, results), tmp_path)[-1].read_text()
    assert markdown.startswith("**Reproduced minus paper (Table I of Generalist++): ")
    assert "Mean over seeds 0, 1." in markdown
    assert "deviation" not in markdown and "95%" not in markdown


def test_files_of_dropped_tables_are_removed_and_no_others(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    for name, table in params.tables.items():
        write_table(of_suite(name, params, fill(params, table, runs)), tmp_path)
    (tmp_path / "one_column.png").write_bytes(b"a picture")
    for name in ("mine.tex", "mine.csv", "notes.md", "figure.png", "tables.pdf"):
        (tmp_path / name).write_text("% My own")
    kept = write_table(of_suite("main", params, fill(params, params.tables["main"], runs)), tmp_path)
    removed = remove_leftovers(tmp_path, kept)
    assert sorted(path.name for path in removed) == sorted(f"one_column{end}" for end in (*ENDINGS, ".png"))
    mine = {"mine.tex", "mine.csv", "notes.md", "figure.png", "tables.pdf"}
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in kept} | mine
    assert remove_leftovers(tmp_path, kept) == []


def test_a_suite_that_the_papers_lack_has_no_such_form(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    table = params.tables["main"].model_copy(update={"paper": ["I"]})
    params = params.model_copy(update={"tables": {"main": table}})
    paths = write_table(of_suite("main", params, fill(params, table, runs)), tmp_path)
    assert [path.name for path in paths] == [f"main{end}" for end in ENDINGS]


def test_every_norm_has_a_symbol() -> None:
    assert set(NORM_SYMBOLS) == set(get_args(Norm))


def test_an_autoattack_that_is_not_the_standard_one_is_said(raw: dict[str, Any], tmp_path: Path) -> None:
    def remark() -> list[str]:
        params = parse_params(raw)
        _, _, markdown = write(params, planted(params, {"nt": [None] * 4, "at": [None] * 4}), tmp_path)
        return [line for line in markdown.splitlines() if "standard ensemble" in line]

    assert remark() == []
    raw["evaluation"]["attacks"]["aa_linf"] |= {"targets": 3, "queries": 1000}
    (said,) = remark()
    assert "targeted attacks at 3 classes instead of 9" in said
    assert "Square with 1,000 queries instead of 5,000" in said
