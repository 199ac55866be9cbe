"""Plain lines where output is no terminal, bars where it is."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
import threading
from collections.abc import Mapping
from itertools import count

import pytest

from pipeline.progress import EvaluationDisplay, PreparationDisplay, TrainingDisplay

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


def test_a_terminal_shows_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    leader, follower = pty.openpty()
    pieces: list[str] = []
    reader = threading.Thread(target=read_until_closed, args=(leader, pieces))
    reader.start()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        monkeypatch.setenv("COLUMNS", "160")
        with TrainingDisplay("at-1", on_record=lambda record: None) as display:
            display.on_start(epochs=3, steps_per_epoch=5, first_epoch=1, first_step=0)
            display.on_step(1, 4, {"linf": 1.5}, 1000.0)
            display.message("a sentence")
        with PreparationDisplay("preparing a/b") as preparing:
            preparing.on_start(images=30)
            preparing.on_images(10, found=True)
    reader.join(timeout=30)
    os.close(leader)
    shown = "".join(pieces)
    assert "at-1" in shown and "4/5" in shown and "loss linf 1.500  1,000 images/s" in shown and "a sentence" in shown
    assert "preparing a/b" in shown and "10/30" in shown and "found finished" in shown
