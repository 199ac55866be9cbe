"""Arguments, signals and exit codes that all stages share."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.core.signals import stop_on_signal
from stages import cli, compare, compose, evaluate, ood, train
from tests.conftest import PATIENCE, REPOSITORY
from tests.stages.conftest import Workplace, clean_environment

STAGES = sorted(path.stem for path in (REPOSITORY / "stages").glob("[!_]*.py") if path.stem != "cli")


ASK_EVERY_STAGE = """
import contextlib, importlib, sys
for stage in sys.argv[1:]:
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"stages.{stage}").main(["--help"])
    print(f"--- {stage}")
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
HEAVY = {"matplotlib", "mlflow", "optuna", "pandas", "prefect", "torch"}


def test_help_of_every_stage_names_exit_codes_and_imports_nothing_heavy(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ASK_EVERY_STAGE, *STAGES]
    asked = subprocess.run(command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=True)
    said = re.split(r"--- (.+)\n", asked.stdout)
    helps = dict(zip(said[1::2], said[:-1:2], strict=True))
    assert set(helps) == set(STAGES) and all(text.startswith("usage: ") for text in helps.values())
    assert all(cli.EXIT_CODES in text for text in helps.values())
    assert not HEAVY & set(said[-1].split())
    assert asked.stderr == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PipelineError("a loss"), 1, "error: a loss\n"),
        (RequestError("a key"), 2, "error: a key\n"),
        (Interrupted("SIGTERM: saved"), 75, "stopped: SIGTERM: saved\n"),
        (MemoryError(), 1, "error: out of memory (a small request was refused). What was finished is kept; free"),
        (RuntimeError("CUDA out of memory. Tried\nmore"), 1, "error: out of memory (CUDA out of memory. Tried). What"),
        (KeyboardInterrupt(), 75, "stopped: the same command continues from what is saved\n"),
        (
            OSError(errno.ENOSPC, "No space", "a/b"),
            1,
            "error: the disk is full (a/b). What was finished is kept; ",
        ),
        (OSError(errno.EDQUOT, "Quota"), 1, "error: the disk is full. What was finished is kept"),
        (PermissionError(errno.EACCES, "Denied", "a/b"), 1, "error: no permission to write (a/b). Nothing was changed"),
        (OSError(errno.EIO, "Input/output error", "a/b"), 1, "error: Input/output error (a/b)\n"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "a"), 2, "error: Is a directory (a). Give another path, or"),
        (OSError(errno.ELOOP, "Too many links", "a"), 2, "error: Too many links (a). Give another path, or remove"),
        (RequestError("a \x1b[31m red \ttab"), 2, "error: a \\x1b[31m red \\ttab\n"),
        (RequestError("x" * 5000), 2, f"error: {'x' * 1000} ...\n"),
    ],
)
def test_every_failure_is_one_message_and_its_exit_code(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def stage() -> None:
        raise error

    assert cli.run(stage) == code
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(message) and captured.err.count("\n") == 1


def test_a_stage_without_an_answer_of_its_own_ends_well_on_sigterm(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stage() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("goes on")

    assert cli.run(stage) == 75
    assert capsys.readouterr().err == "stopped: the same command continues from what is saved\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_that_a_library_makes_an_error_of_is_a_stop() -> None:
    def stage() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise ValueError("in a callback") from error

    assert cli.run(stage) == 75


INTERRUPTED_BY_A_DESTRUCTOR = """
import os, signal, sys, time
from pipeline.core.errors import Interrupted
from stages import cli

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)

def library():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt as error:
        raise ValueError("an error of its own") from error

def stage():
    held = Held()
    {then}

sys.exit(cli.run(stage, ends_process=True))
"""


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("del held; time.sleep(60)", "the same command continues from what is saved"),
        ("raise Interrupted('saved')", "saved"),
        ("library()", "the same command continues from what is saved"),
    ],
)
def test_a_signal_within_a_destructor_is_neither_lost_nor_a_traceback(then: str, said: str) -> None:
    """Python swallows what a destructor raises; the second one is freed with the error, after the message."""
    source = INTERRUPTED_BY_A_DESTRUCTOR.format(then=then)
    ended = subprocess.run(
        [sys.executable, "-c", source], cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (ended.returncode, ended.stderr) == (75, f"stopped: {said}\n")


def test_an_interrupt_while_a_class_is_made_ends_with_the_exit_code_too(tmp_path: Path) -> None:
    """Dataclasses are made by exec(): CPython ends 'python -m' by SIGINT where an interrupt has left one."""
    source = "import sys\nfrom stages import cli\n\n\ndef stage():\n    exec('raise KeyboardInterrupt')\n\n\n"
    (tmp_path / "interrupted.py").write_text(f"{source}sys.exit(cli.run(stage, ends_process=True))")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    ended = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, env=environment, timeout=PATIENCE)
    assert ended.returncode == 75


@pytest.mark.parametrize("program", ["print('x')", "for _ in range(10**6): print('x', flush=True)"])
def test_a_reader_that_is_gone_ends_a_stage_with_one_message(program: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    source = f"import sys\nfrom stages import cli\n\n\ndef stage():\n    {program}\n\n\nsys.exit(cli.run(stage))"
    command = [sys.executable, "-c", source]
    ended = subprocess.run(command, cwd=REPOSITORY, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert ended.returncode == 75
    assert ended.stderr == "stopped: nobody reads what is printed any more; the same command continues\n"


def test_a_defect_of_the_project_is_not_hidden() -> None:
    def stage() -> None:
        raise AssertionError("a defect")

    with pytest.raises(AssertionError, match="a defect"):
        cli.run(stage)


def test_an_interrupt_that_a_library_catches_is_raised_again() -> None:
    with cli.stop_at_once() as check:
        check()
        with contextlib.suppress(KeyboardInterrupt):  # as a bare except would
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            check()


def wait_for_an_interrupt() -> None:
    """As `signal.pause`, which waits for ever where the signal came just before."""
    for _ in range(int(10 * PATIENCE)):
        time.sleep(0.1)


def test_a_stop_waits_for_the_end_of_a_transaction(tmp_path: Path) -> None:
    from sqlalchemy import create_engine, event, text

    engine = create_engine(f"sqlite:///{tmp_path}/store.db")
    event.listen(engine, "commit", lambda connection: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt), cli.stop_at_once():
        with engine.begin() as connection:
            connection.execute(text("create table numbers (value)"))
            connection.execute(text("insert into numbers values (1)"))
        wait_for_an_interrupt()
    with engine.connect() as connection:
        assert connection.execute(text("select value from numbers")).scalar() == 1


def test_a_stop_waits_for_the_end_of_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice, as a person does who gets no answer: torch aborts where Python raises while its C++ is imported."""
    (tmp_path / "interrupted_twice.py").write_text(
        "import os, signal, sys, time\n\nfor _ in range(2):\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(0.1)\nsys.imported_whole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "imported_whole", False, raising=False)
    with pytest.raises(KeyboardInterrupt), cli.stop_at_once():
        importlib.import_module("interrupted_twice")
        wait_for_an_interrupt()
    assert sys.imported_whole  # type: ignore[attr-defined]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_remembered_and_the_second_one_stops(first: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_on_signal() as should_stop:
        assert should_stop() is None
        os.kill(os.getpid(), first)
        assert should_stop() == f"{first.name} received"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), first)
            time.sleep(1)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_supervisor_that_repeats_itself_stops_nothing_at_once() -> None:
    with stop_on_signal(second_at_once=False) as should_stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        assert should_stop() == "SIGTERM received"


def test_compose_writes_a_suite_or_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    output = tmp_path / "params.yaml"
    assert compose.main(["suite=cifar10", "architecture=wrn32_10", "--output", str(output)]) == 0
    assert "next: make repro" in capsys.readouterr().out
    written = output.read_text()
    assert written.startswith(
        "# Composed from conf/ by: python -m stages.compose suite=cifar10 architecture=wrn32_10\n"
    )
    for wrong in (["suite=nope"], ["training.epochs=0"], ["suite=mnist", "architecture=wrn50_2"]):
        assert compose.main([*wrong, "--output", str(output)]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert output.read_text() == written and list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("stage", [train, evaluate, ood, compare])
def test_the_only_seed_need_not_be_given(
    stage: ModuleType,
    tmp_path: Path,
    tiny_content: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without data every stage ends later than where it asks for a seed."""
    monkeypatch.chdir(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump({**tiny_content, "seeds": [1, 2]}))
    command = ["at", *(["nt"] if stage is compare else [])]
    assert stage.main(command) == 2
    assert "several seeds, [1, 2]: say which is meant, --seed 1" in capsys.readouterr().err
    params.write_text(yaml.safe_dump(tiny_content))
    assert stage.main(command) == 2
    said = capsys.readouterr().err
    assert "at-1 is not" in said or "'digits' is not prepared" in said


def test_impossible_cells_of_a_drawn_study_are_refused_before_anything_is_trained(workplace: Workplace) -> None:
    """The figures would be refused, after all training."""

    def change(content: dict[str, Any]) -> None:
        content["ablation"]["studies"]["communication_interval"]["values"] = [9]

    workplace.change(change)
    workplace.call("addresses").expect(2, "the grid has", "c = 9: it divides none of the epochs")
    assert not (workplace.folder / "results").exists()


def test_a_method_that_a_figure_names_and_nobody_has_is_refused_before_anything_is_trained(
    workplace: Workplace,
) -> None:
    workplace.change(lambda content: content["figures"]["framework"].update(method="generalist_x"))
    workplace.call("addresses").expect(2, "figures.framework: unknown method 'generalist_x': did you mean")
