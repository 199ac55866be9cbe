"""The committed pages say what the committed results say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import performance
from benchmarks.blocks import BLOCKS, Results, number
from benchmarks.frame import RESULTS
from benchmarks.performance import GPU, PAGES, PICTURES, block, fill, main, read_results
from benchmarks.pictures import draw
from pipeline.reporting.markdown import BLOCK
from tests.conftest import REPOSITORY

EMPTY: dict[str, Results] = {"cpu": {}, "cuda": {}}


def test_pages_are_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out


def test_the_pages_show_every_block() -> None:
    texts = [(REPOSITORY / name).read_text() for name in PAGES]
    assert {found[2] for text in texts for found in BLOCK.finditer(text)} == {*BLOCKS, GPU}


def test_what_was_not_measured_is_said_with_its_command() -> None:
    page = "before\n<!-- measured: peak -->\nold numbers: 1.0\n<!-- end -->\nafter\n"
    filled = fill(page, EMPTY)
    assert "old numbers" not in filled
    assert filled.count("Not measured (`python -m benchmarks peak`).") == 1
    assert filled.startswith("before\n") and filled.endswith("\nafter\n")
    assert fill(filled, EMPTY) == filled
    assert "AMX" not in filled


def test_what_was_measured_on_another_cpu_is_shown_between_cpu_and_gpu() -> None:
    found = read_results(RESULTS)["cpu"]
    text = block("autoattack", {**EMPTY, "cpu": found, "cpu_without_amx": found})
    first, second = text.split("On a CPU without AMX:\n\n")
    assert second == first.strip()
    everywhere = block("autoattack", {"cpu": found, "cpu_without_amx": found, "cuda": found})
    assert everywhere == f"{text}\n\nOn a GPU:\n\n{second}"


def test_whether_a_gpu_was_measured_is_said_once() -> None:
    assert block(GPU, EMPTY) == "Nothing has been measured on a GPU yet."
    assert block(GPU, {"cpu": {}, "cuda": {"step": {}, "peak": {}}}) == "On a GPU: `step`, `peak`."


def test_an_old_number_is_noticed_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PAGES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            re.sub(r"ratio, median of \d+", "ratio, median of 77", (REPOSITORY / name).read_text())
        )
    monkeypatch.setattr(performance, "REPOSITORY", tmp_path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    for name in PAGES:
        assert (tmp_path / name).read_text() == (REPOSITORY / name).read_text()


def test_the_committed_pictures_are_those_of_the_results(tmp_path: Path) -> None:
    drawn = draw(read_results(RESULTS)["cpu"], tmp_path)
    committed_forms = {path.name for path in (REPOSITORY / PICTURES).glob("*.p*")}  # git keeps no third form, as SVG
    assert {path.name for path in drawn if path.suffix != ".svg"} == committed_forms
    for path in drawn:
        if path.suffix == ".png":
            with Image.open(path) as new, Image.open(REPOSITORY / PICTURES / path.name) as committed:
                assert new.size == committed.size and new.tobytes() == committed.tobytes()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (1234.5, "1,234"), (99.96, "100.0"), (12.345, "12.3"), (1.0, "1.00"), (0.012345, "0.0123")],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown
