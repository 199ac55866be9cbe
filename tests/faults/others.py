"""Two processes at once, clocks that jump, memory that runs out, and images that are not numbers."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults.disks import expect_message
from tests.faults.host import PATIENCE
from tests.faults.places import PREPARED, Place, Workshop
from tests.faults.trials import TAIL, Outcome, count_repeated, go_on, run, settle, start, watched

ANSWER = 5.0
"""Seconds in which a stop must be answered on a machine that is busy; how long it took is in the results."""
DAY = 86400
MEBIBYTE = 1 << 20


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait, but not for ever."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not come about"
        time.sleep(0.002)


def is_held(lock: Path) -> bool:
    """Whether a holder has written its name."""
    return lock.exists() and lock.stat().st_size > 0


def is_running(pid: int) -> bool:
    """Whether a child has not ended."""
    return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)


def hold(workshop: Workshop, place: Place, stage: str, lock: Path) -> int:
    """Start a stage, and freeze it as soon as it has written its name into a lock."""
    freeze = {"FAULTS_FOLDER": str(lock), "FAULTS_CALLS": "write", "FAULTS_POINT": "1", "FAULTS_ACTION": "freeze"}
    first = start(workshop, place, stage, freeze)
    wait_until(lambda: is_held(lock), f"a process that holds {lock}")
    return first


def turned_away(workshop: Workshop, generator: random.Random) -> Outcome:
    """A second process on an experiment leaves with the name of the first. The first goes on, or is killed: then the
    next one takes the lock over, and says so."""
    stage = generator.choice(("train", "evaluate"))
    place, outcome = workshop.place(stage), Outcome()
    first = hold(workshop, place, stage, place.working_folder / "lock")
    before = place.whole()
    second = run(workshop, place, stage)
    outcome.took(stage)
    name = f"is being worked on by another process (process {first} on "
    if second.code != 2 or name not in second.out:
        outcome.unsaid.append(f"second {stage}: exit code {second.code}: {second.out[-TAIL:]}")
    outcome.changed += [path for path, digest in place.whole().items() if before.get(path) != digest]
    dies = generator.random() < 0.5
    os.kill(first, signal.SIGKILL if dies else signal.SIGCONT)
    ended = workshop.host.wait(first)
    last = go_on(workshop, place, stage, outcome)
    if dies and f"process {first} on " not in last.out:
        outcome.unsaid.append(f"the lock of a process that was killed is taken without a word: {last.out[-TAIL:]}")
    if not dies and ended.code != 0:
        outcome.lost.append(f"first {stage}: exit code {ended.code}: {ended.out[-TAIL:]}")
    return settle(workshop, place, outcome)


def waits(workshop: Workshop, generator: random.Random) -> Outcome:
    """A worker waits for another one that prepares the same data or works on the same experiment; a stop ends its
    wait, and otherwise both end well."""
    place, outcome = workshop.place("experiment"), Outcome()
    prepared = place.folder / PREPARED
    lock = generator.choice((prepared.with_name(f".{prepared.name}.lock"), place.working_folder / "lock"))
    first = hold(workshop, place, "experiment", lock)
    second = start(workshop, place, "experiment")
    wait_until(lambda: "waiting" in workshop.host.said(second), "a second process that waits")
    outcome.took("for data" if lock.parent == prepared.parent else "for the experiment")
    if f"process {first} on " not in workshop.host.said(second):
        outcome.unsaid.append(f"the first process is not named: {workshop.host.said(second)[-TAIL:]}")
    stopped = generator.random() < 0.5
    if stopped:
        time.sleep(generator.uniform(0, 0.5))
        os.kill(second, signal.SIGTERM)
        asked = time.monotonic()
        ended = workshop.host.wait(second)
        outcome.slowest = time.monotonic() - asked
        if ended.code != 75 or outcome.slowest > ANSWER:
            outcome.unsaid.append(f"stopped after {outcome.slowest:.1f} s, code {ended.code}: {ended.out[-TAIL:]}")
    os.kill(first, signal.SIGCONT)
    codes = [workshop.host.wait(pid).code for pid in ((first,) if stopped else (first, second))]
    if any(codes):
        outcome.lost.append(f"exit codes {codes}")
    go_on(workshop, place, "experiment", outcome)
    return settle(workshop, place, outcome)


def clock(workshop: Workshop, generator: random.Random) -> Outcome:
    """The time of day jumps, by up to 400 days to either side, again and again."""
    place, outcome = workshop.place("experiment"), Outcome()
    offset = place.work.with_suffix(".clock")
    offset.write_text("0")
    pid = start(workshop, place, "experiment", {"FAULTS_CLOCK": str(offset)})
    while is_running(pid):
        offset.write_text(str(generator.randint(-400 * DAY, 400 * DAY)))
        outcome.took("forwards" if int(offset.read_text()) > 0 else "backwards")
        time.sleep(generator.uniform(0.05, 0.5))
    ended = workshop.host.wait(pid)
    if ended.code != 0:
        outcome.unsaid.append(f"exit code {ended.code}: {ended.out[-TAIL:]}")
    go_on(workshop, place, "experiment", outcome)
    offset.unlink()
    return settle(workshop, place, outcome)


def memory(workshop: Workshop, generator: random.Random) -> Outcome:
    """The system refuses memory (RLIMIT_AS) from a random amount on."""
    stage = generator.choice(("prepare", "train", "evaluate", "ood", "tables"))
    place, outcome = workshop.place(stage), Outcome()
    with watched(place, outcome):
        ended = run(workshop, place, stage, memory=generator.randint(0, 48) * MEBIBYTE)
    if ended.code == 0:
        return settle(workshop, place, outcome)
    said = "one message" if "Traceback" not in ended.out and "error: " in ended.out else "a traceback"
    outcome.took(said if ended.code == 1 else f"signal {-ended.code}")
    if ended.code not in (1, -signal.SIGABRT, -signal.SIGSEGV):
        outcome.unsaid.append(f"{stage}: exit code {ended.code}: {ended.out[-TAIL:]}")
    go_on(workshop, place, stage, outcome)
    return settle(workshop, place, outcome)


def not_a_number(workshop: Workshop, generator: random.Random) -> Outcome:
    """A learner gets images that are not numbers, at a random step."""
    place, outcome = workshop.place("train"), Outcome()
    learners = 2
    number = generator.randint(1, len([line for line in workshop.work["train"] if line.startswith("step")]) * learners)
    with watched(place, outcome):
        ended = run(workshop, place, "train", {"FAULTS_NAN": str(number)})
    outcome.took("train")
    expect_message(outcome, "train", ended.code, ended.out, "epoch", "batch", "the loss of learner", "nan")
    boundaries = [len(place.done())]
    go_on(workshop, place, "train", outcome)
    count_repeated(place, boundaries, outcome)
    return settle(workshop, place, outcome)
