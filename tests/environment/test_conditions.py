"""Machines, terminals and users that are not as one expects: a training ends well or says what to do."""

from __future__ import annotations

import fcntl
import os
import pty
import random
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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


FULL = "mount -t tmpfs -o size=4k tmpfs $TRIED; head -c 4096 /dev/zero >$TRIED/full;"
AS_ROOT: dict[str, str] = {
    "/dev/shm is full": "mount -t tmpfs -o size=4k tmpfs /dev/shm; head -c 4096 /dev/zero >/dev/shm/full; ",
    "/dev/shm is not there": "mount -t tmpfs -o size=4k,mode=000 tmpfs /dev/shm; ",
    "TMPDIR is full": f"{FULL} export TMPDIR=$TRIED; ",
    "home is read-only": "mount -t tmpfs -o ro tmpfs $TRIED; export HOME=$TRIED; ",
    "home is full": f"{FULL} export HOME=$TRIED; ",
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
    assert workplace.weights("nt") == undisturbed


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
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{place.folder}/mlflow.db")
    (run,) = client.search_runs([item.experiment_id for item in client.search_experiments()])
    return str(run.info.status)


def history(place: Workplace) -> bytes:
    return place.weights(METHOD)


def test_a_terminal_that_is_closed_costs_nothing(make_workplace: MakeWorkplace, uninterrupted: Workplace) -> None:
    """SIGHUP, and each word from then on an input/output error: nothing saved is lost, MLflow has no open run.

    A word that is being written at that very moment fails before the signal is heard.
    """
    place = make_workplace(lengthen)
    process, terminal = on_terminal(place, [*TRAIN, METHOD, "--seed", "1"], 80)
    read_to_the_end(terminal, until=lambda: place.checkpoints()[-1:])
    before = place.checkpoints()[-1:]
    os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert place.checkpoints()[-1:] != before or place.checkpoints(), "what was begun is saved"
    assert (code, status_in_mlflow(place)) in {(75, "KILLED"), (1, "FAILED")}
    go_on = place.run("train", METHOD, "--seed", "1")
    go_on.expect(0)
    assert "continuing after epoch" in go_on.out
    assert history(place) == history(uninterrupted)


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
    import psutil

    from pipeline.grid.local import free_port

    process = workplace.start("ui", "--port", str(free_port()))
    wait_for(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    stopped = time.monotonic()
    finished = finish(process)
    assert time.monotonic() - stopped < 10 and finished.code in (0, 75), finished
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


def count() -> int:
    """Conditions that are tried here, for the documentation."""
    return len(CONDITIONS) + len(AS_ROOT) + 4 + 3 + 6


def test_the_documentation_counts_them() -> None:
    assert f"{count()} conditions" in (REPOSITORY / "docs/reliability.md").read_text()
