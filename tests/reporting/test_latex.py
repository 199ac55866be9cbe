"""LaTeX texts, and real PDFs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import Params
from pipeline.core.errors import PipelineError
from pipeline.reporting import latex
from pipeline.reporting.latex import MARGIN, compile_pdf, draw_pictures
from pipeline.reporting.results import fill
from pipeline.reporting.tables import of_suite, write_table
from tests.conftest import composed
from tests.reporting.conftest import RunRow


@pytest.fixture
def pdflatex() -> None:
    """Skips a test where LaTeX is not installed; on CI it must be."""
    if shutil.which("pdflatex") is None:
        way_out = "apt-get install --no-install-recommends texlive-latex-base texlive-latex-recommended"
        message = f"PDFs WERE NOT TESTED: pdflatex is not installed ({way_out})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("100% of a_b & #1", r"100\% of a\_b \& \#1"),
        (r"$\ell_2$ and $\ell_\infty$", r"$\ell_2$ and $\ell_\infty$"),
        (r"AT_{\infty}^{20}", r"AT$_{\infty}$$^{20}$"),
        ("`dvc repro evaluate@at_l2-0`", r"\texttt{dvc repro evaluate@at\char95{}l2-0}"),
        ("5$ \\ {x} ~ ^", r"5\$ \textbackslash{} \{x\} \textasciitilde{} \textasciicircum{}"),
    ],
)
def test_texts_are_escaped_and_math_is_kept(source: str, expected: str) -> None:
    assert latex.text(source) == expected


@given(st.text(alphabet=st.characters(blacklist_characters="$`{}", min_codepoint=32, max_codepoint=126)))
def test_no_special_character_survives(source: str) -> None:
    plain = latex.text(source)
    for command in sorted(latex.SPECIAL.values(), key=len, reverse=True):
        plain = plain.replace(command, "")
    assert not set(plain) & set(latex.SPECIAL)


def tables(params: Params, runs: pd.DataFrame, folder: Path) -> list[Path]:
    """Write them; gives the fragments."""
    written = [
        write_table(of_suite(name, params, fill(params, table, runs)), folder)
        for name, table in sorted(params.tables.items(), key=lambda item: item[1].file or item[0])
    ]
    return [path for paths in written for path in paths if path.suffix == ".tex"]


@pytest.mark.usefixtures("pdflatex")
def test_a_pdf_shows_all_tables(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    pdf = compile_pdf(tables(params, runs, tmp_path / "tables"), tmp_path / "tables")
    assert pdf == tmp_path / "tables" / "tables.pdf"
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert {path.suffix for path in pdf.parent.iterdir()} == {".tex", ".csv", ".md", ".pdf"}
    if shutil.which("pdftotext"):
        shown = subprocess.run(["pdftotext", "-raw", pdf, "-"], capture_output=True, text=True, check=True).stdout
        for expected in (
            "Table 1: Main results.",
            "41",
            "Table 2: Worst case only.",
            "dvc repro evaluate@slow_at-0",
        ):
            assert expected in shown


@pytest.mark.usefixtures("pdflatex")
def test_every_table_is_a_picture_that_ends_where_it_ends(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    fragments = tables(params, runs, tmp_path)
    (tmp_path / "other.tex").write_text("not one of them")
    pictures = draw_pictures(fragments)
    assert [path.stem for path in pictures] == ["main", "one_column"]
    for path in pictures:
        pixels = np.asarray(Image.open(path))
        assert (pixels[:MARGIN] == 255).all() and (pixels[:, :MARGIN] == 255).all()
        assert (pixels[MARGIN] < 255).any() and (pixels[:, MARGIN] < 255).any() and (pixels[-MARGIN - 1] < 255).any()
    before = [path.read_bytes() for path in pictures]
    assert [path.read_bytes() for path in draw_pictures(fragments)] == before


@pytest.mark.usefixtures("pdflatex")
def test_every_character_that_tex_treats_specially_compiles(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    fragments = tables(params, runs, tmp_path)
    fragment = fragments[0]
    printable = "".join(map(chr, range(32, 127))).replace("`", "")
    fragment.write_text(fragment.read_text().replace("NT &", f"{latex.text(printable)} é &"))
    assert compile_pdf(fragments, tmp_path) is not None


@pytest.mark.usefixtures("pdflatex")
def test_equal_tables_give_equal_bytes(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    first, second = (
        compile_pdf(tables(params, runs, tmp_path / name), tmp_path / name) for name in ("first", "second")
    )
    assert first is not None
    assert second is not None
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.usefixtures("pdflatex")
def test_a_failure_shows_the_error_and_keeps_the_old_pdf(params: Params, runs: pd.DataFrame, tmp_path: Path) -> None:
    fragments = tables(params, runs, tmp_path)
    pdf = compile_pdf(fragments, tmp_path)
    assert pdf is not None
    before = pdf.read_bytes()
    (tmp_path / "main.tex").write_text(r"$\nosuchcommand$")
    with pytest.raises(
        PipelineError, match=r"(?s)LaTeX failed on the tables in .*! Undefined control sequence.*\\nosuchcommand"
    ):
        compile_pdf(fragments, tmp_path)
    assert pdf.read_bytes() == before


def test_without_latex_there_is_no_pdf(
    params: Params, runs: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_pdf(tables(params, runs, tmp_path), tmp_path) is None
    assert not (tmp_path / "tables.pdf").exists()


def test_nothing_to_compile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no table was written"):
        compile_pdf([], tmp_path)


@pytest.mark.usefixtures("pdflatex")
@pytest.mark.parametrize(
    ("overrides", "names", "beside"),
    [
        (
            ["suite=digits", "competitors=all", "attacks=full"],
            ["attacks_l2", "attacks_linf", "costs", "table1", "table4"],
            [],
        ),
        (
            ["suite=cifar10", "attacks=full", "seeds=[1,2]"],
            ["attacks_l2", "attacks_linf", "costs", "table1", "table4"],
            ["attacks_linf", "table1", "table4"],
        ),
        (["suite=cifar100", "architecture=wrn32_10"], ["costs", "table2", "table4"], ["table2", "table4"]),
    ],
)
def test_every_table_of_a_suite_compiles(
    overrides: list[str], names: list[str], beside: list[str], run_row: RunRow, tmp_path: Path
) -> None:
    params = composed(*overrides)
    metrics = sorted({column.metric for table in params.tables.values() for column in table.columns})
    measured = [experiment for experiment in params.experiments() if experiment.name != "rst"]
    rows = [
        run_row(experiment, **{metric: (7 * place + number) % 97 / 100 for number, metric in enumerate(metrics)})
        for place, experiment in enumerate(measured)
    ]
    pdf = compile_pdf(tables(params, pd.DataFrame(rows), tmp_path), tmp_path)
    assert pdf is not None
    expected = sorted([*names, *(f"{name}_minus_paper" for name in beside)])
    assert sorted(path.stem for path in tmp_path.glob("*.tex")) == expected
    if shutil.which("pdftotext"):
        shown = subprocess.run(["pdftotext", "-raw", pdf, "-"], capture_output=True, text=True, check=True).stdout
        assert len(re.findall(r"(?:^|\f)Table \d+:", shown, re.MULTILINE)) == len(expected)
        assert shown.count("Reproduced minus paper") == len(beside)
        assert "Not measured yet: dvc repro evaluate@rst-1" in shown.replace("\n", " ")
