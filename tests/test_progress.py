"""Plain lines where output is no terminal, bars where it is."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import sys
import threading
from collections.abc import Callable, Mapping
from itertools import count

import pytest

from pipeline.core.progress import EvaluationDisplay, PreparationDisplay, TrainingDisplay
from tests.conftest import PATIENCE

RECORD = {
    "epoch": 2.0,
    "loss/linf": 1.25,
    "held_out/global/natural": 0.875,
    "held_out/global/pgd_linf": 0.5,
    "images_per_second": 1234.5,
    "redistributed": 1.0,
}


def test_an_epoch_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[Mapping[str, float]] = []
    with TrainingDisplay("at-1", on_record=told.append) as display:
        display.on_start(epochs=3, steps_per_epoch=5, first_epoch=2, first_step=0)
        display.on_step(2, 1, {"linf": 1.5}, 1000.0)
        display.on_epoch(RECORD)
    expected = "at-1: epoch 2/3  loss linf 1.250  accuracy natural 87.5%  pgd_linf 50.0%  redistributed  1,234 images/s"
    assert capsys.readouterr().out == expected + "\n"
    assert told == [RECORD]


def test_an_attack_is_one_line_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with EvaluationDisplay("at-1") as display:
        display.on_attack("aa_linf", pieces=4)
        display.on_piece("apgd_ce", 4, 4, ends_batch=False)
        display.on_piece("apgd_t", 3, 4, ends_batch=True)
        display.on_piece("apgd_ce", 3, 4, ends_batch=False)
        display.on_piece("apgd_t", 2, 4, ends_batch=True)
    assert capsys.readouterr().out == "at-1: aa_linf: 5 of 8 images correct\n"


def test_preparing_is_one_line_at_its_end(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = count(0.0, 10.0)
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    with PreparationDisplay("preparing a/b") as display:
        display.on_start(3000)
        display.on_images(1000, found=True)
        display.on_images(2000, found=False)
    assert capsys.readouterr().out == "preparing a/b: 3,000 of 3,000 images, 67 images/s\n"


def test_what_was_found_finished_has_no_speed(capsys: pytest.CaptureFixture[str]) -> None:
    with PreparationDisplay("preparing a/b") as display:
        display.on_start(30)
        display.on_images(30, found=True)
    assert capsys.readouterr().out == "preparing a/b: 30 of 30 images, found finished\n"


def read_until_closed(leader: int, shown: list[str]) -> None:
    """Collect what is written to a terminal, piece by piece, until its other side is closed."""
    with contextlib.suppress(OSError):
        while piece := os.read(leader, 65536):
            shown.append(piece.decode(errors="replace"))


def on_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, work: Callable[[], None]) -> str:
    """What `work` shows on a terminal so wide, without what steers it."""
    leader, follower = pty.openpty()
    pieces: list[str] = []
    reader = threading.Thread(target=read_until_closed, args=(leader, pieces))
    reader.start()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr("rich._console", None)  # made once, with the width of then
        work()
    reader.join(timeout=PATIENCE)
    os.close(leader)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(pieces))


def test_a_terminal_shows_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with TrainingDisplay("at-1", on_record=lambda record: None) as display:
            display.on_start(epochs=3, steps_per_epoch=5, first_epoch=1, first_step=0)
            display.on_step(1, 4, {"linf": 1.5}, 1000.0)
            display.message("a sentence")
        with PreparationDisplay("preparing a/b") as preparing:
            preparing.on_start(images=30)
            preparing.on_images(10, found=True)

    shown = on_terminal(monkeypatch, 160, work)
    assert "at-1" in shown and "4/5" in shown and "loss linf 1.500  1,000 images/s" in shown and "a sentence" in shown
    assert "preparing a/b" in shown and "10/30" in shown and "found finished" in shown


@pytest.mark.parametrize("columns", [80, 120])
def test_bar_epoch_and_time_left_are_whole_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    """Of three learners, after an epoch whose losses and accuracies alone are longer than the line."""
    learners = ("natural", "linf", "l2")
    record = {f"loss/{name}": 0.123 for name in learners} | {
        f"held_out/global/{name}": 0.5 for name in ("natural", "pgd_linf", "pgd_l2", "worst_case_union")
    }

    def work() -> None:
        with TrainingDisplay("generalist_d_nt_linf-1", on_record=lambda record: None) as display:
            display.on_start(epochs=120, steps_per_epoch=383, first_epoch=1, first_step=0)
            display.on_epoch({**record, "epoch": 12.0, "redistributed": 1.0, "images_per_second": 391.0})
            display.on_step(13, 219, dict.fromkeys(learners, 1.045), 391.0)
        with EvaluationDisplay("at-1") as evaluation:
            evaluation.on_attack("pgd100_linf", pieces=400)
            evaluation.on_piece("apgd_ce", 124, 128, ends_batch=True)

    lines = on_terminal(monkeypatch, columns, work).replace("\r", "\n").split("\n")
    assert [line for line in lines if len(line) > columns] == []
    time = r"\d:\d\d:\d\d"
    for name, done in (("generalist_d_nt_linf-1", "12/120"), ("  steps", "219/383"), ("pgd100_linf", "1/400")):
        whole = re.compile(rf"{name} +[━╸╺ ]*━[━╸╺]* +{done} {time} < (?:{time}|-:--:--)")
        assert any(whole.search(line) for line in lines), (name, [line for line in lines if name in line])
    assert any(line.startswith("  epoch 12: loss natural 0.123  linf 0.123") for line in lines)
    assert any(line.startswith("  step 219: loss natural 1.045") for line in lines)
