"""Disks that are full, that fail, that may not be written, and the order in which they are asked to keep things."""

from __future__ import annotations

import contextlib
import errno
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.places import Place, Workshop
from tests.faults.trials import TAIL, Outcome, go_on, run, settle, watched

WRITTEN = {
    "prepare": ("data",),
    "train": ("runs", "results"),
    "evaluate": ("runs", "results"),
    "experiment": ("data", "runs", "results"),
    "corrupt": ("data",),
    "ood": ("results",),
    "tables": ("reports",),
}
"""Where each stage writes; MLflow's store has faults of its own (docs/tracking.md)."""
KIBIBYTE = 1024


def choose(workshop: Workshop, generator: random.Random) -> tuple[str, str, Place]:
    """A stage, one of the folders where it writes, and a place for it."""
    stage = generator.choice(list(WRITTEN))
    return stage, generator.choice(WRITTEN[stage]), workshop.place(stage)


def full(workshop: Workshop, generator: random.Random) -> Outcome:
    """The disk is full after a random number of bytes: a small tmpfs where this machine lets us mount one, or else
    writes that fail as on a full disk. Then there is room again."""
    stage, folder, place = choose(workshop, generator)
    within = {"FAULTS_FOLDER": str(place.folder / folder)}
    outcome, room = Outcome(), generator.randint(0, workshop.written(stage, folder))
    with small_disk(place.folder / folder, room) as resize:
        with watched(place, outcome):
            if resize is None:
                ended = run(workshop, place, stage, {**within, "FAULTS_ROOM": str(room)})
            else:
                ended = run(workshop, place, stage)
        if ended.code != 0:
            outcome.took("writes that fail" if resize is None else "small tmpfs")
            expect_message(outcome, stage, ended.code, ended.out, "error: the disk is full", "run the same command")
            no_leftovers(outcome, place)
        if resize is not None:
            resize("size=64m")
        go_on(workshop, place, stage, outcome)
    return settle(workshop, place, outcome)


def read_only(workshop: Workshop, generator: random.Random) -> Outcome:
    """Nothing can be written: a tmpfs that is mounted so, or calls that fail so."""
    stage, folder, place = choose(workshop, generator)
    outcome = Outcome()
    with small_disk(place.folder / folder, 64 * KIBIBYTE**2) as resize, watched(place, outcome):
        if resize is None:
            error = {"FAULTS_POINT": "1", "FAULTS_ACTION": str(errno.EROFS)}
            ended = run(workshop, place, stage, {"FAULTS_FOLDER": str(place.folder / folder), **error})
        else:
            resize("ro")
            ended = run(workshop, place, stage)
            resize("rw")
        outcome.took("calls that fail" if resize is None else "tmpfs, mounted read-only")
        expect_message(outcome, stage, ended.code, ended.out, "error: no permission to write")
        go_on(workshop, place, stage, outcome)
    return settle(workshop, place, outcome)


def failing(workshop: Workshop, generator: random.Random) -> Outcome:
    """From a random call on, fsync, rename, write or open fails with an input/output error. Then the disk is mended."""
    stage, folder, place = choose(workshop, generator)
    outcome, call = Outcome(), generator.choice(("sync", "rename", "write", "open"))
    count = sum(name == call and Path(path).is_relative_to(folder) for name, path in workshop.calls[stage])
    point = str(generator.randint(1, max(count, 1)))
    error = {"FAULTS_CALLS": call, "FAULTS_POINT": point, "FAULTS_ACTION": str(errno.EIO)}
    with watched(place, outcome):
        ended = run(workshop, place, stage, {"FAULTS_FOLDER": str(place.folder / folder), **error})
    if ended.code != 0:
        outcome.took(call)
        expect_message(outcome, stage, ended.code, ended.out, "Input/output error")
        no_leftovers(outcome, place)
    go_on(workshop, place, stage, outcome)
    return settle(workshop, place, outcome)


def order(workshop: Workshop, generator: random.Random) -> Outcome:
    """What a loss of power could take: a file gets its name when its bytes are on the disk, and what comes after waits
    until its name is. Read from the calls of an undisturbed stage."""
    stage, outcome = generator.choice(list(WRITTEN)), Outcome()
    calls = [(call, Path(path)) for call, path in workshop.calls[stage] if path.split("/")[0] in WRITTEN[stage]]
    for number, (call, path) in enumerate(calls):
        if call != "rename":
            continue
        outcome.took(stage)
        last = [name for name, other in calls[:number] if _is_temporary(other, path)][-1:]
        if last != ["sync"]:
            outcome.unsaid.append(f"{stage}: {path} was renamed after {last}, not after a sync")
        rest = calls[number + 1 :]
        following = next((place for place, (name, _) in enumerate(rest) if name == "rename"), len(rest))
        if ("sync", path.parent) not in rest[:following]:
            outcome.unsaid.append(f"{stage}: the name {path} was not synced before the next one")
    return outcome


def _is_temporary(path: Path, target: Path) -> bool:
    return path.parent == target.parent and path.name.startswith(f".{target.name}.") and path.suffix == ".tmp"


def expect_message(outcome: Outcome, stage: str, code: int, out: str, *texts: str) -> None:
    """Note it where a stage does not end with exit code 1 and one message that has these texts."""
    if code != 1 or "Traceback" in out or any(text not in out for text in texts):
        outcome.unsaid.append(f"{stage}: exit code {code}, expected 1 and {texts}: {out[-TAIL:]}")


def no_leftovers(outcome: Outcome, place: Place) -> None:
    """Note half-written files that a stage has left which was not killed."""
    outcome.unsaid += [f"half-written: {path}" for path in place.folder.rglob(".*.tmp")]


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[str], None] | None]:
    """A tmpfs of `size` bytes at a folder with its content; gives what changes its options.

    None where this machine lets us mount nothing: then the calls themselves have to fail.
    """
    existing = list(folder.rglob("*")) if folder.is_dir() else []
    if existing or not _mount(folder, "tmpfs", f"size={max(size // KIBIBYTE, 4)}k"):
        yield None
        return
    try:
        yield lambda options: _remount(folder, options)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _mount(folder: Path, kind: str, options: str) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", kind, "-o", options, kind, str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
