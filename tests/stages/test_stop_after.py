"""--stop-after: pieces of a run that fit a time limit, each of which saves and says how to go on."""

from __future__ import annotations

import argparse
import shutil

import pytest

from stages import cli
from tests.stages.conftest import METHOD, MakeWorkplace, Workplace, lengthen

ARGUMENTS = (METHOD, "--seed", "1")
AT_ONCE = ("--stop-after", "0.001s")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("9m", 540), ("1.5h", 5400), ("0.5s", 0.5)])
def test_times_have_a_unit(text: str, seconds: float) -> None:
    assert cli.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "9", "m", "9d", "-1s", "0s", "nans", "infh", "9 minutes"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected a time like 90s, 9m or 1\.5h, got '"):
        cli.duration(text)


def test_without_a_limit_nothing_stops() -> None:
    assert cli.in_time(argparse.Namespace(stop_after=None))() is None
    assert cli.in_time(argparse.Namespace(stop_after=3600.0))() is None


def test_a_run_in_pieces_comes_to_its_end(make_workplace: MakeWorkplace, uninterrupted: Workplace) -> None:
    place = make_workplace(lengthen)
    for _ in range(2):
        stopped = place.call("train", *ARGUMENTS, *AT_ONCE)
        stopped.expect(75, "stopped: the 0.001 seconds of --stop-after are over: saved runs/", "continues from there")
    assert "continuing after epoch 0, step 1\n" in stopped.out
    assert [path.name for path in place.checkpoints()] == ["00000-0000001.pt", "00000-0000002.pt"]
    trained = f"results/digits/{METHOD}-1/train"
    shutil.copytree(uninterrupted.folder / trained, place.folder / trained)
    for _ in range(2):
        stopped = place.call("evaluate", *ARGUMENTS, *AT_ONCE)
        stopped.expect(75, "--stop-after are over: what is finished is journaled; the same command continues")
    assert len(list(place.folder.glob("runs/*/*/evaluation/*/*/*.json"))) == 2
