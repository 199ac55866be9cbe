"""Machines, terminals and users that are not as one expects: a training ends well or says what to do."""

from __future__ import annotations

import fcntl
import math
import os
import pty
import random
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.core.errors import RequestError
from pipeline.core.machine import free_memory
from pipeline.core.surroundings import remarks
from pipeline.experiments.doctor import _space
from pipeline.grid.local import end_leftovers, free_port
from tests.conftest import PATIENCE, REPOSITORY
from tests.stages.conftest import (
    METHOD,
    Finished,
    MakeWorkplace,
    Workplace,
    clean_environment,
    finish,
    lengthen,
    wait_for,
)
from tests.tracking.results import all_runs

TRAIN = [sys.executable, "-m", "stages.train"]
NT = [*TRAIN, "nt", "--seed", "1"]


def shell(place: Workplace, text: str, **options: Any) -> Finished:
    """A line of the shell in which "$@" is a training."""
    done = subprocess.run(
        ["bash", "-c", text, "bash", *NT],
        cwd=place.folder,
        env=clean_environment() | options.pop("environment", {}),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **options,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def undisturbed(make_workplace: MakeWorkplace) -> bytes:
    place = make_workplace()
    shell(place, '"$@"').expect(0)
    return place.weights("nt")


CONDITIONS: dict[str, str] = {
    "stdin is closed": '"$@" <&-',
    "stdout is closed": '"$@" >&-',
    "stderr is closed": '"$@" 2>&-',
    "all streams are closed": '"$@" <&- >&- 2>&-',
    "stdin is a terminal that is gone": 'exec "$@" </dev/null',
    "started by nohup": 'nohup "$@"',
    "in a session of its own": 'setsid -w "$@"',
    "one core": 'taskset -c 0 "$@"',
    "nice": 'nice -n 19 "$@"',
    "few open files": 'ulimit -n 64; "$@"',
    "no core dumps, a small stack": 'ulimit -c 0 -s 1024; "$@"',
    "umask 077": 'umask 077; "$@"',
    "umask 0": 'umask 0; "$@"',
    "an empty environment": 'exec env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" "$@"',
    "SIGINT and SIGHUP are ignored": "trap '' INT HUP; \"$@\"",
    "SIGPIPE is ignored": "trap '' PIPE; \"$@\"",
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_training_comes_to_its_bits(workplace: Workplace, undisturbed: bytes, condition: str) -> None:
    shell(workplace, CONDITIONS[condition]).expect(0)
    assert workplace.weights("nt") == undisturbed


WITHOUT_PROC = "/proc is not there"
NOBODY = "setpriv --reuid 65534 --regid 65534 --clear-groups"
CAPABLE = "--inh-caps=+dac_override --ambient-caps=+dac_override"  # who may go where this project is installed
FULL = "mount -t tmpfs -o size=4k tmpfs $TRIED; head -c 4096 /dev/zero >$TRIED/full;"
AS_ROOT: dict[str, str] = {
    "/dev/shm is full": "mount -t tmpfs -o size=4k tmpfs /dev/shm; head -c 4096 /dev/zero >/dev/shm/full; ",
    "/dev/shm is not there": "mount -t tmpfs -o size=4k,mode=000 tmpfs /dev/shm; ",
    "TMPDIR is full": f"{FULL} export TMPDIR=$TRIED; ",
    "home is read-only": "mount -t tmpfs -o ro tmpfs $TRIED; export HOME=$TRIED; ",
    "home is full": f"{FULL} export HOME=$TRIED; ",
    "processes of others are hidden": f"mount -o remount,hidepid=2 /proc; exec {NOBODY} {CAPABLE} ",
    WITHOUT_PROC: "mount -t tmpfs tmpfs /proc; ",
}


@pytest.mark.parametrize("condition", AS_ROOT)
def test_a_training_comes_to_its_bits_on_odd_mounts(
    workplace: Workplace, undisturbed: bytes, condition: str, tmp_path: Path
) -> None:
    """In a name space of mounts of its own, which the machine does not see."""
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=False).returncode:
        pytest.skip("NOT TESTED: odd mounts, mounting is not permitted here")
    tried = {"TRIED": str(tmp_path)}
    command = f'unshare -m bash -c \'{AS_ROOT[condition]} "$@"\' bash "$@"'
    shell(workplace, command, environment=tried).expect(0)
    if condition != WITHOUT_PROC:  # where torch does not know the processor
        assert workplace.weights("nt") == undisturbed


def test_a_grid_that_could_not_end_its_processes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before its server is started; what else asks /proc says that it does not know."""
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"/proc, which shows them, cannot be read\. Mount it"):
        end_leftovers(tmp_path)
    assert free_memory() == math.inf
    (*_, memory) = _space(tmp_path)
    assert (memory.status, memory.text) == ("ok", "the system does not tell")
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith("/proc"))
    assert [way_out for text, way_out in remarks({}) if text.startswith("/proc cannot be read")] == ["mount /proc"]


def test_a_user_without_a_name_and_a_home_trains(workplace: Workplace, undisturbed: bytes) -> None:
    """In a name space of users of its own, where this one has a number that the system does not know."""
    become = "unshare --user --map-user=12345"
    if subprocess.run([*become.split(), "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT TESTED: a user without a name, which is not permitted here")
    shell(workplace, f'exec {become} env -u HOME -u USER -u LOGNAME "$@"').expect(0)
    assert workplace.weights("nt") == undisturbed


def on_terminal(place: Workplace, arguments: list[str], columns: int) -> tuple[int, int]:
    """A training on a terminal of its own: its process, and the other end of the terminal."""
    process, terminal = pty.fork()
    if process == 0:  # pragma: no cover - the command
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may run under nohup, which ignores it for good
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.chdir(place.folder)
        os.execvpe(arguments[0], arguments, clean_environment() | {"TERM": "xterm"})
    return process, terminal


def read_to_the_end(terminal: int, until: Callable[[], object] = lambda: False) -> str:
    said = b""
    while not until():
        try:
            block = os.read(terminal, 65536)
        except OSError:  # the other end has closed
            break
        if not block:
            break
        said += block
    return said.decode()


@pytest.mark.parametrize("columns", [1, 40, 80, 200])
def test_terminals_of_any_width(workplace: Workplace, undisturbed: bytes, columns: int) -> None:
    process, terminal = on_terminal(workplace, NT, columns)
    said = read_to_the_end(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, said
    assert "Traceback" not in said and workplace.weights("nt") == undisturbed


def status_in_mlflow(place: Workplace) -> str:
    (run,) = all_runs(place.folder / "mlflow.db")
    return str(run.info.status)


def history(place: Workplace) -> bytes:
    return place.weights(METHOD)


def test_a_terminal_that_is_closed_costs_nothing(make_workplace: MakeWorkplace, uninterrupted: Workplace) -> None:
    """SIGHUP, and words that nobody reads, the first perhaps before the signal is heard."""
    place = make_workplace(lengthen)
    process, terminal = on_terminal(place, [*TRAIN, METHOD, "--seed", "1"], 80)
    read_to_the_end(terminal, until=lambda: place.checkpoints()[-1:])
    before = place.checkpoints()[-1:]
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert place.checkpoints()[-1:] != before or place.checkpoints(), "what was begun is saved"
    place.run("deliver").expect(0)  # what MLflow was too slow for
    assert (code, status_in_mlflow(place)) == (75, "KILLED")
    go_on = place.run("train", METHOD, "--seed", "1")
    go_on.expect(0)
    assert "continuing after epoch" in go_on.out
    assert history(place) == history(uninterrupted)


SPEAK_TO_NOBODY = """
import signal, sys, time
import stages

heard = []
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1:] else lambda *given: heard.append(1))
begun = time.monotonic()
while time.monotonic() < begun + 2:
    print("word", flush=True)
    print("error", file=sys.stderr)
    time.sleep(0.001)
sys.exit(10 + len(heard))
"""


@pytest.mark.parametrize("deaf", [[], ["deaf"]])
def test_no_word_to_a_terminal_that_is_gone_is_an_error(workplace: Workplace, deaf: list[str]) -> None:
    """Neither before the signal is heard nor where it is ignored."""
    process, terminal = on_terminal(workplace, [sys.executable, "-c", SPEAK_TO_NOBODY, *deaf], 80)
    while b"word" not in os.read(terminal, 65536):
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == (10 if deaf else 11)


@pytest.mark.parametrize("gap", [0.0, 0.05, 0.5])
def test_ctrl_c_twice_leaves_no_traceback(make_workplace: MakeWorkplace, uninterrupted: Workplace, gap: float) -> None:
    place = make_workplace(lengthen)
    process = place.start("train", METHOD, "--seed", "1")
    wait_for(lambda: place.checkpoints(), process)
    time.sleep(random.uniform(0, 0.2))
    process.send_signal(signal.SIGINT)
    time.sleep(gap)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    stopped = finish(process)
    said = [line for line in stopped.err.splitlines() if "for MLflow left in" not in line]  # a busy machine's
    assert stopped.code == 75 and len(said) == 1 and said[0].startswith("stopped: "), stopped.err
    place.run("train", METHOD, "--seed", "1").expect(0)
    assert history(place) == history(uninterrupted)


@pytest.fixture(scope="module")
def evaluated(uninterrupted: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A copy of a folder with one evaluated experiment, whose tables were written once."""
    folder = tmp_path_factory.mktemp("evaluated") / "workplace"
    place = Workplace(Path(shutil.copytree(uninterrupted.folder, folder)))
    table = {"caption": "One", "rows": [METHOD], "columns": [{"metric": "natural", "label": "Natural"}]}
    place.change(lambda content: content.update(tables={"table1": table}))
    assert place.run("tables").code == 0  # and says that the store was copied
    return place


STAGES: dict[str, tuple[str, ...]] = {
    "evaluate": (METHOD, "--seed", "1", "--shard", "1/2"),
    "tables": (),
    "figures": (),
    "report": (),
    "reproduction": (),
    "explain": (f"table1:{METHOD}:natural",),
    "export": (f"{METHOD}-1",),
    "plan": (),
    "doctor": (),
    "compose": ("suite=cifar10", "--output", "composed.yaml"),
}


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_twice_ends_any_stage_in_a_sentence(evaluated: Workplace, stage: str) -> None:
    """From the moment on at which it catches signals; one that is done by then is done."""
    process = evaluated.start(stage, *STAGES[stage])
    wait_for(lambda: process.poll() is not None or _catches(process.pid, signal.SIGTERM), process)
    time.sleep(random.uniform(0, 2))
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    ended = finish(process)
    last = (ended.err.splitlines() or [""])[-1]
    assert "Traceback" not in ended.err and (ended.code == 0 or (ended.code, last[:9]) == (75, "stopped: ")), ended.err


def _catches(process: int, number: signal.Signals) -> bool:
    caught = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if "SigCgt" in line)
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def test_a_suspended_training_goes_on(make_workplace: MakeWorkplace, uninterrupted: Workplace) -> None:
    """SIGSTOP, as a shell's Ctrl-Z: SIGTSTP is dropped where a process has no shell."""
    place = make_workplace(lengthen)
    process = place.start("train", METHOD, "--seed", "1")
    wait_for(lambda: place.checkpoints(), process)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    finish(process).expect(0)
    assert history(place) == history(uninterrupted)


def test_a_port_that_is_taken_is_said(workplace: Workplace) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = workplace.run("ui", "--port", str(port))
    done.expect(2, f"port {port} of 127.0.0.1 is taken")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_browser_of_runs_ends_with_all_that_it_started(workplace: Workplace, number: signal.Signals) -> None:
    process = workplace.start("ui", "--port", str(free_port()))
    wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    assert finish(process).code in (0, 75)
    assert not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_the_commit_is_that_of_this_checkout_within_a_hook_of_another(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    ask = "import stages; from pipeline.provenance.commit import git_commit; print(git_commit())"
    clean = clean_environment()
    hook = clean | {"GIT_DIR": str(tmp_path / ".git"), "GIT_WORK_TREE": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", ask], cwd=REPOSITORY, env=one, capture_output=True, text=True).stdout
        for one in (clean, hook)
    ]
    assert said[0] == said[1] and len(said[0]) > 7


FOUND = {
    "stdout is closed": "a traceback",
    WITHOUT_PROC: "a grid ended in a traceback and left its server, the doctor ended early",
    "a user without a name and a home trains": "a traceback",
    "a terminal that is closed costs nothing": "an epoch lost, MLflow's run left open",
}
"""What was found wrong and mended."""


def conditions() -> dict[str, int]:
    """Every condition, or what a test says of one, and how many there are of it."""
    tests = {name: one for name, one in globals().items() if name.startswith("test_") and "counts_them" not in name}
    found = dict.fromkeys([*CONDITIONS, *AS_ROOT], 1)
    for name, one in tests.items():
        (given,) = [mark.args for mark in getattr(one, "pytestmark", []) if mark.name == "parametrize"] or [("", [0])]
        if given[0] != "condition":
            found[name.removeprefix("test_").replace("_", " ")] = len(given[1])
    return found


def text() -> str:
    """What the documentation says of them."""
    found = conditions()
    assert FOUND.keys() <= found.keys()
    named = "; ".join(f"{name} ({number})" if number > 1 else name for name, number in found.items())
    mended = "; ".join(f"{name} ({what})" for name, what in FOUND.items())
    return (
        f"{sum(found.values())} conditions: {named}.\n\nOf these, {len(FOUND)} were found wrong and mended: {mended}.\n"
    )


def test_the_documentation_counts_them() -> None:
    """`python -m tests.environment.test_conditions` prints it."""
    assert text() in (REPOSITORY / "docs/reliability.md").read_text()


if __name__ == "__main__":
    print(text())
