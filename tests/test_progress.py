"""What is done, what remains and when it ends: plain lines where output is no terminal, else on a real terminal."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime
from itertools import count

import pytest

from pipeline.core.board import Board
from pipeline.core.progress import EvaluationDisplay, PreparationDisplay, TrainingDisplay, report_to
from pipeline.core.screen import Standing, heard, lines, time_left

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
    end = r"0:00:\d\d left, ends (?:\w{3} )?\d\d:\d\d"
    detail = r"accuracy natural 87\.5%  pgd_linf 50\.0%  loss linf 1\.250  redistributed  1,234 images/s"
    assert re.fullmatch(f"at-1: epoch 2/3  {end}  {detail}\n", capsys.readouterr().out)
    assert told == [RECORD]


def test_an_attack_is_one_line_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    with EvaluationDisplay("at-1", {"aa_linf": 1}) as display:
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


def test_when_work_ends_has_its_day_where_that_is_another_one() -> None:
    now = time.time()
    assert re.fullmatch(r"0:01:30 left, ends (?:\w{3} )?\d\d:\d\d", time_left(now + 90.2))
    there = datetime.fromtimestamp(now + 3 * 86400 + 0.2)
    assert time_left(now + 3 * 86400 + 0.2) == f"72:00:00 left, ends {there:%a %H:%M}"
    assert time_left(now + 10 * 86400 + 0.2).startswith("10 d 00:00 left, ends ")


@pytest.mark.parametrize("columns", [20, 40, 80, 120, 200])
def test_a_name_gives_way_before_what_is_done_and_when_it_ends(columns: int) -> None:
    long = Standing(
        "generalist_with_quite_a_long_name-1", "epoch 113/120", 0.9, 0.0, time.time() + 5e5, "train", ("step " * 50,)
    )
    shown = lines([long, Standing("nt-1", "attack 2/5", 0.4, 0.0)], columns)
    assert all(len(line) <= columns for line in shown)
    if columns >= 80:
        assert "epoch 113/120" in shown[0] and "left, ends" in shown[0] and "time left not known yet" in shown[1]


def test_eighty_columns_have_the_whole_name_of_a_method_of_the_papers_at_night_too() -> None:
    ends = time.time() + 2 * 86_400
    (line,) = lines([Standing("generalist_d_nt_linf-1", "epoch 113/120", 0.5, 0.0, ends)], 79)
    assert line.startswith("generalist_d_nt_linf-1 ") and re.search(r"left, ends \w{3} \d\d:\d\d$", line)


def test_a_standing_goes_to_whoever_listens_as_one_line() -> None:
    told: list[Standing] = []
    report_to(told.append)
    try:
        with EvaluationDisplay("at-1", {"natural": 1, "aa_linf": 9}) as display:
            display.on_attack("natural", pieces=1)
            display.on_piece("", 4, 4, ends_batch=True)
            display.on_attack("aa_linf", pieces=1)
            display.on_piece("", 3, 4, ends_batch=True)
    finally:
        report_to(None)
    assert [one.share for one in told] == [0.0, 1.0] and told[-1].what == "attack 2/2", "the last one is always told"
    assert heard(told[-1].as_line()) == told[-1]


def test_the_first_piece_of_an_evaluation_says_nothing_about_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries and code are loaded in it: half a minute for a hundredth of the work."""
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    with EvaluationDisplay("at-1", {"natural": 1, "aa_linf": 100}) as display:
        display.on_attack("natural", pieces=1)
        now += 30
        display.on_piece("", 8, 8, ends_batch=True)
        assert display._standing is not None and display._standing.ends is None
        display.on_attack("aa_linf", pieces=2)
        now += 20
        display.on_piece("", 3, 4, ends_batch=True)
        assert display._standing.ends == pytest.approx(now + 20)


def test_what_an_evaluation_finds_in_its_journal_says_nothing_about_when_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    with EvaluationDisplay("at-1", {"aa_linf": 100}) as display:
        display.on_attack("aa_linf", pieces=100)
        for piece in range(90):
            now += 0.001 if piece < 80 else 60
            display.on_piece("", 3, 4, ends_batch=True)
        assert display._standing is not None
        assert display._standing.ends == pytest.approx(now + 10 * 60, rel=1e-6)
        assert display._standing.found == pytest.approx(0.8)


def test_a_training_that_branches_from_a_shared_one_takes_what_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five of ten epochs are shared by two, and each takes 10 s."""
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    work = {name: {"train": 7.0} for name in ("a", "b")}
    made = Board(work, 0, work, "experiments", 1, given={"a": 0.5, "b": 0.5})
    made.hear("a", Standing("a", "epoch 6/10", 0.6, now - 10, None, "train", found=0.5))
    assert made._whole().ends == pytest.approx(now + 90) and made._whole().share == pytest.approx(0.1)


def test_workers_that_come_later_shorten_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    made = Board({name: {"train": 1.0} for name in "abcd"}, 0, "abcd", "experiments", 1)
    made.hear_all(Standing(name, "epoch 5/10", 0.5, now - 50, None, "train") for name in "ab")
    assert made._whole().ends == pytest.approx(now + (50 + 50 + 100 + 100) / 2)


def test_a_piece_that_is_begun_again_has_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    made = Board({"a": {"train": 1.0}}, 0, ["a"], "experiments", 1)
    made.end("a")
    made.hear("a", Standing("a", "epoch 6/10", 0.6, now - 60, None, "train"))
    assert made._whole().ends == pytest.approx(now + 40)


def test_what_all_take_together_is_told_from_what_they_did(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of five are done, one at a time; 20 s for a quarter of a training, evaluations are not known yet.

    One word of a piece is enough, be it its last: experiments that take seconds are seldom heard of twice.
    """
    work = {name: {"train": 100.0, "evaluate": 50.0} for name in ("a", "b", "c")}
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    made = Board(work, 2, work, "experiments", 1)
    assert made._whole().time == "time left not known yet"
    made.hear("a", Standing("a", "epoch 2/4", 0.5, now - 20, None, "train", found=0.25))
    whole = made._whole()
    assert whole.what == "2/5 done" and whole.ends == pytest.approx(now + 0.8 * (50 + 50 + 2 * 150))
    made.hear("a", Standing("a", "attack 1/2", 0.5, now - 5, None, "evaluate"))
    now += 60
    made.hear("a", Standing("a", "attack 1/2", 0.5, now - 65, None, "evaluate"))
    assert made._whole().ends == pytest.approx(now + 0.8 * 200 + 0.2 * (25 + 100))
    made.hear("a", Standing("a", "attack 2/2", 1.0, now - 70, now - 60, "evaluate"))
    assert made._standings["a"].time == "done in 0:00:10"
    made.count("a")
    assert made._whole().what == "3/5 done"
