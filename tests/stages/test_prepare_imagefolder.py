"""Preparing an ImageFolder tree as a real process: killed, stopped, refused, and out of space."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE
from tests.data.imagefolder.conftest import digests
from tests.pictures import CLASSES, damage, encoded, photos, write_tree
from tests.stages.conftest import Finished, clean_environment, finish, interrupt, wait_for

OPTIONS = ("--size", "100", "--workers", "2", "--images-per-shard", "4")


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stages.prepare_imagefolder", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=clean_environment(), stdout=pipe, stderr=pipe, text=True)


def run(*arguments: str | Path) -> Finished:
    return finish(start(*arguments))


@pytest.fixture(scope="module")
def long_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that takes a second: 80 photos more."""
    root = write_tree(tmp_path_factory.mktemp("tree"))
    contents = [encoded(photo, quality=90) for photo in photos()]
    for number in range(80):
        path = root / "train" / CLASSES[number % 3] / f"photo_{number}.JPEG"
        path.write_bytes(contents[number % 2])
    return root


@pytest.fixture(scope="module")
def undisturbed(long_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tree is prepared to without a stop, by one process."""
    folder = tmp_path_factory.mktemp("undisturbed") / "to"
    finished = run(long_tree, folder, *OPTIONS, "--workers", "1")
    finished.expect(0)
    assert "122 of 122 images, " in finished.out and " images/s\n" in finished.out
    assert f"prepared 107 training and 15 validation images of 3 classes in {folder}: digest " in finished.out
    assert "evaluation on 15 validation images (our own choice)" in finished.out
    return folder


@pytest.fixture
def running(long_tree: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start preparing to `tmp_path / "to"`, and wait until a shard more is finished and more are under way."""
    started: list[subprocess.Popen[str]] = []
    folder = tmp_path / "to"

    def begin() -> subprocess.Popen[str]:
        before = len(list(folder.glob("*-*.json")))
        started.append(start(long_tree, folder, *OPTIONS))
        wait_for(lambda: len(list(folder.glob("*-*.json"))) > before, started[-1])
        return started[-1]

    yield begin
    for process in started:
        if process.poll() is None:  # the test has failed half-way
            process.kill()
            process.communicate()


def is_alive(pid: str) -> bool:
    """Whether a process runs; one that has ended may still be listed until its new parent asks for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_kills_and_stops_change_no_byte(
    running: Callable[[], subprocess.Popen[str]], long_tree: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder, moments = tmp_path / "to", random.Random(20240513)
    for number, code in ((signal.SIGKILL, -9), (signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        process = running()
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        time.sleep(moments.uniform(0, 0.1))
        stopped = interrupt(process, number)
        assert stopped.code == code and not (folder / "manifest.json").exists()
        if code == 75:
            stopped.expect(75, f"{number.name} received: finished shards are kept, the same command continues from")
        deadline = time.monotonic() + PATIENCE
        while any(map(is_alive, workers)):
            assert time.monotonic() < deadline, "a process outlives the main one"
            time.sleep(0.01)
    run(long_tree, folder, *OPTIONS).expect(0)
    assert digests(folder) == digests(undisturbed)


def test_the_command_line(long_tree: Path, tmp_path: Path) -> None:
    for arguments, text in (
        (("--size", "0"), "expected a whole number from 1 on, got '0'"),
        (("--workers", "many"), "expected a whole number from 1 on, got 'many'"),
    ):
        wrong = run(long_tree, tmp_path / "to", *arguments)
        assert wrong.code == 2 and text in wrong.err
    missing = "none/train: cannot be read (No such file or directory); expected a folder SOURCE with train/"
    run(tmp_path / "none", tmp_path / "to").expect(2, missing)
    assert not (tmp_path / "to").exists()


def test_damaged_images_fail_or_are_left_out(tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree")
    damage(tree)
    (tmp_path / "ids.txt").write_text(f"{CLASSES[0]}/{CLASSES[0]}_4.JPEG\n")
    command = (tree, tmp_path / "to", "--size", "original", "--subset-list", tmp_path / "ids.txt")
    run(*command).expect(2, "3 images are damaged", "val/n01443537/text.JPEG: is not an image in a known format")
    allowed = run(*command, "--allow-damaged")
    allowed.expect(0)
    assert "evaluation on 1 validation images (list " in allowed.out
    assert "left out: 3 damaged images, listed in manifest.json" in allowed.out


def test_full_and_read_only_disks_lose_nothing(
    long_tree: Path, undisturbed: Path, small_disk: Callable[..., None], tmp_path: Path
) -> None:
    disk, folder = tmp_path / "disk", tmp_path / "disk" / "to"
    small_disk(disk, 400)
    run(long_tree, folder, *OPTIONS).expect(1, "error: the disk is full (", "run the same command again.")
    left, whole = digests(folder), digests(undisturbed)
    assert left and all(whole[name] == digest for name, digest in left.items()) and "manifest.json" not in left

    small_disk(disk, 400, "ro")
    run(long_tree, folder, *OPTIONS).expect(1, "error: no permission to write (", "check the owner and mode of the")
    assert digests(folder) == left

    small_disk(disk, 20_000)
    run(long_tree, folder, *OPTIONS).expect(0)
    assert digests(folder) == whole
