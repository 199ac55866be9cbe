"""Trainings and evaluations on a terminal of 80 and of 120 columns: what is done, what remains and when it ends."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.stages.conftest import METHOD, MakeWorkplace, clean_environment
from tests.terminals import watch

TIME = re.compile(r"\d+:\d\d:\d\d left, ends (?:\w{3} )?\d\d:\d\d|done in \d+:\d\d:\d\d|time left not known yet")
LEFT = re.compile(r"\d+:\d\d:\d\d left, ends")


def lengthen(content: dict[str, Any]) -> None:
    """Ten steps in an epoch, and six batches in an attack."""
    content["data"]["train_images"], content["evaluation"]["batch_size"] = 160, 4


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_bar_epoch_and_time_left_are_there_at_every_moment(
    make_workplace: MakeWorkplace, columns: int
) -> None:
    """A real training of two learners and its evaluation, as the screen shows them from the first step to the last."""
    place = make_workplace(lengthen)
    for stage, what in (("train", r"epoch \d/4"), ("evaluate", r"attack \d+/\d+")):
        seen = watch(["-m", f"stages.{stage}", METHOD], columns, place.folder, clean_environment())
        assert seen.code == 0, seen.text
        whole = re.compile(rf"{METHOD}-1 [━─]{{10}} {what} +(?:{TIME.pattern})")
        bars = [
            [line for line in screen if re.search(what, line) and re.search("[━─]", line)] for screen in seen.screens
        ]
        first = next(place for place, found in enumerate(bars) if found)
        odd = [found for found in bars[first:] if len(found) != 1 or not whole.match(found[0])]
        assert not odd, odd[:5]
        assert sum(bool(LEFT.search(found[0])) for found in bars[first:]) > len(bars[first:]) / 2
        assert any("done in" in line for line in seen.screens[-1])
        if stage == "train":
            assert any(line.startswith("  step ") for screen in seen.screens for line in screen)
            assert any(line.startswith("  epoch 3: accuracy natural ") for screen in seen.screens for line in screen)


@pytest.mark.parametrize("columns", [80, 120])
def test_several_side_by_side_are_shown_with_all_of_them(make_workplace: MakeWorkplace, columns: int) -> None:
    """Real trainings and evaluations, two at a time; only DVC, which records them, is left out."""
    place = make_workplace(lambda content: content["evaluation"].update(batch_size=8))
    program = """
from pathlib import Path
from pipeline.config import load_params
from stages import experiments
experiments._dvc = lambda *arguments: ""
wanted = {one.identifier: one for one in load_params(Path("params.yaml")).experiments()}
experiments.run(Path("params.yaml"), wanted, set(wanted), 2, others=3)
"""
    seen = watch(["-c", program], columns, place.folder, clean_environment())
    assert seen.code == 0, seen.text
    with_bars = [[line for line in screen if TIME.search(line) and "─" in line] for screen in seen.screens]
    assert max(map(len, with_bars)) == 3, "two at a time and the sum"
    totals = [line for found in with_bars for line in found if line.startswith("all experiments ")]
    counts = [int(match[1]) for line in totals if (match := re.search(r" (\d+)/\d+ done  ", line))]
    assert counts == sorted(counts) and counts[0] == 3 and len(counts) == len(totals)
    assert sum(bool(LEFT.search(line)) for line in totals) > len(totals) / 3
    assert all(len(line) < columns for found in with_bars for line in found)
    assert "trained at-1" in seen.text and "evaluated at-1" in seen.text
