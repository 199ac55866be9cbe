"""Processes that an earlier start of the grid's server has left behind: ended if they are the same, and still there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipeline.core.files import write_json
from pipeline.core.processes import end
from pipeline.grid.local import PROCESSES, end_leftovers


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def test_those_of_an_earlier_start_are_ended(
    sleeping: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / PROCESSES, {str(sleeping.pid): psutil.Process(sleeping.pid).create_time()})
    end_leftovers(tmp_path)
    assert sleeping.poll() is not None and "ending 1 processes" in capsys.readouterr().out


def test_another_process_with_the_number_of_one_goes_on(sleeping: subprocess.Popen[bytes], tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    write_json(tmp_path / PROCESSES, {str(sleeping.pid): 1.0, str(ended.pid): 1.0})
    end_leftovers(tmp_path)
    assert sleeping.poll() is None


def test_one_that_ends_by_itself_meanwhile_is_no_error(sleeping: subprocess.Popen[bytes]) -> None:
    process = psutil.Process(sleeping.pid)
    sleeping.kill()
    sleeping.wait()
    end([process])
