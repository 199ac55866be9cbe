"""Work in forked processes: what it says, how it ends, what stops it. Each case is a process, as a command is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import PATIENCE, REPOSITORY

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from pipeline.core.board import Board
from pipeline.experiments.side_by_side import side_by_side

def work(name):
    Path(name).touch()
    {work}

board = Board({{}}, 0, [], "", {jobs})
print(json.dumps(side_by_side(work, {names}, {jobs}, board, {after})), flush=True)
"""


def start(
    folder: Path, work: str, names: list[str], jobs: int, after: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """The program, with what one piece of work does."""
    text = PROGRAM.format(work=work, names=names, jobs=jobs, after=after)
    return subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def said(process: subprocess.Popen[str]) -> list[str]:
    """Lines of a program that ends by itself."""
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, out
    return out.splitlines()


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_every_name_is_worked_on_once_and_none_takes_another_along(tmp_path: Path, jobs: int) -> None:
    ends = "'a': lambda: 0, 'b': lambda: 1 / 0, 'c': lambda: sys.exit(2), 'd': lambda: os.kill(os.getpid(), 9)"
    lines = said(start(tmp_path, f"return {{{ends}, 'e': lambda: 0}}[name]()", ["a", "b", "c", "d", "e"], jobs))
    assert sorted(lines[-1].strip("{}").split(", ")) == ['"a": 0', '"b": 1', '"c": 2', '"d": 137', '"e": 0']
    assert "ZeroDivisionError: division by zero" in lines


def test_lines_of_several_do_not_mix(tmp_path: Path) -> None:
    work = "[(os.write(1, name.encode() * 50), time.sleep(0.001), os.write(2, b'\\n')) for _ in range(50)]; return 0"
    lines = said(start(tmp_path, work, ["a", "b", "c"], 3))
    assert sorted(lines[:-1]) == sorted(name * 50 for name in "abc" for _ in range(50))


def test_what_is_said_within_a_standing_is_a_line_like_others(tmp_path: Path) -> None:
    """Another thread's words may come between, and nothing is left to itself because of that."""
    standing = '{"title": "a", "what": "epoch 1/2", "share": 0.5, "began": 0.0, "details": []}'
    work = f"os.write(1, b'\\x1e{standing}' + b'a warning\\n' + b'before\\x1e{standing}\\n'); return 0"
    *lines, codes = said(start(tmp_path, work, ["a"], 1))
    assert lines == [f"{standing}a warning", "before"] and codes == '{"a": 0}'


def test_an_unfinished_last_line_is_printed(tmp_path: Path) -> None:
    assert "no end" in said(start(tmp_path, "os.write(1, b'no end'); return 0", ["a"], 2))[0]


def test_no_more_run_at_a_time_than_jobs(tmp_path: Path) -> None:
    work = "n = len([p for p in Path().iterdir() if p.name.startswith('on')]); Path('on' + name).touch(); "
    work += "time.sleep(0.2); Path('on' + name).unlink(); print('beside', n, flush=True); return 0"
    lines = said(start(tmp_path, work, ["a", "b", "c", "d"], 2))
    assert {line for line in lines if line.startswith("beside")} <= {"beside 0", "beside 1"}


@pytest.mark.parametrize("jobs", [1, 3])
def test_one_begins_after_the_other_however_that_ended(tmp_path: Path, jobs: int) -> None:
    work = "print(name, flush=True); name == 'a' and (time.sleep(0.3), os.kill(os.getpid(), 9)); return 0"
    lines = said(start(tmp_path, work, ["b", "a", "c", "d"], jobs, {"b": "a", "d": "a", "c": "nobody"}))
    assert lines.index("a") < min(lines.index("b"), lines.index("d"))
    assert sorted(lines[-1].strip("{}").split(", ")) == ['"a": 137', '"b": 0', '"c": 0', '"d": 0']
    assert jobs == 1 or lines.index("c") < lines.index("b"), "who waits for nobody does not wait"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_those_that_run_and_begins_no_other(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM reaches the first process alone, Ctrl-C all of the terminal's."""
    work = "Path('ready' + name).touch(); time.sleep(600)"  # which has no answer of its own
    process = start(tmp_path, work, ["a", "b", "c"], 2)
    until = time.monotonic() + PATIENCE
    while not all((tmp_path / f"ready{name}").exists() for name in "ab"):
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    os.kill(process.pid, number) if number == signal.SIGTERM else os.killpg(process.pid, number)
    assert sorted(said(process)[-1].strip("{}").split(", ")) == ['"a": 75', '"b": 75']
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("then", ["print('another', flush=True)", "pass"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_where_nobody_reads_any_more_those_that_run_stop_without_a_traceback(
    tmp_path: Path, jobs: int, then: str
) -> None:
    """`make repro | head`, be it a piece that is the next to say something or the board: each piece is a stage."""
    program = """
import sys, time
from pipeline.core import board
from pipeline.experiments.side_by_side import side_by_side
from stages import cli

def stage():
    print("a line", flush=True)
    while True:
        {then}
        time.sleep(0.01)

board.LINE_INTERVAL = 0.2
codes = side_by_side(lambda name: cli.run(stage), ["a", "b"], {jobs}, board.Board({}, 0, "ab", "pieces", {jobs}))
sys.exit(set(codes.values()) != {75})
"""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", program.replace("{jobs}", str(jobs)).replace("{then}", then)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert os.read(reading, 100)
    os.close(reading)
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors and "BrokenPipe" not in errors
