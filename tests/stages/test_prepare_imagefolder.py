"""Preparing an ImageFolder tree as a real process: killed, stopped, and out of space."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.conftest import PATIENCE
from tests.data.imagefolder.conftest import digests, settings_of
from tests.faults.disks import KIBIBYTE, small_disk
from tests.pictures import CLASSES, encoded, photos, write_tree
from tests.stages.conftest import Workplace, interrupt, wait_for

SIZES = [96, 80, 64, "original"]
"""Each is a folder with a shard for either part."""
PREPARED = Path("data/prepared/imagefolder")


@pytest.fixture(scope="module")
def long_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree that takes a second: 80 photos more."""
    root = write_tree(tmp_path_factory.mktemp("long") / "tree")
    contents = [encoded(photo, quality=90) for photo in photos()]
    for number in range(80):
        path = root / "train" / CLASSES[number % 3] / f"photo_{number}.JPEG"
        path.write_bytes(contents[number % 2])
    return root


def beside(tree: Path, folder: Path) -> Workplace:
    """A folder whose params.yaml names the tree."""
    content = settings_of(tree, len(CLASSES), stored_size=SIZES[0], other_stored_sizes=SIZES[1:])
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return Workplace(folder)


@pytest.fixture
def place(long_tree: Path, tmp_path: Path) -> Workplace:
    return beside(long_tree, tmp_path)


def contents(place: Workplace) -> dict[str, str]:
    """Digest by size and name of every file."""
    folders = sorted((place.folder / PREPARED).iterdir())
    return {f"{folder.name}/{name}": digest for folder in folders for name, digest in digests(folder).items()}


@pytest.fixture(scope="module")
def undisturbed(long_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the tree is prepared to without a stop."""
    place = beside(long_tree, tmp_path_factory.mktemp("undisturbed"))
    finished = place.run("prepare")
    finished.expect(0)
    assert "122 of 122 images, " in finished.out and " images/s\n" in finished.out
    assert f"prepared 107 training and 15 validation images of 3 classes in {PREPARED}/96: digest " in finished.out
    assert "evaluation on 15 validation images (our own choice)" in finished.out
    return contents(place)


def is_alive(pid: str) -> bool:
    """Whether a process runs; one that has ended may still be listed until its new parent asks for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_kills_and_stops_change_no_byte(place: Workplace, undisturbed: dict[str, str]) -> None:
    moments = random.Random(20240513)

    def until_another_shard() -> subprocess.Popen[str]:
        before = len(list(place.folder.glob(f"{PREPARED}/*/*-*.json")))
        process = place.start("prepare")
        wait_for(lambda: len(list(place.folder.glob(f"{PREPARED}/*/*-*.json"))) > before, process)
        return process

    for number, code in ((signal.SIGKILL, -9), (signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        process = until_another_shard()
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        time.sleep(moments.uniform(0, 0.1))
        stopped = interrupt(process, number)
        assert stopped.code == code and not (place.folder / PREPARED / "original/manifest.json").exists()
        if code == 75:
            stopped.expect(75, f"{number.name} received: finished shards are kept, the same command continues from")
        deadline = time.monotonic() + PATIENCE
        while any(map(is_alive, workers)):
            assert time.monotonic() < deadline, "a process outlives the main one"
            time.sleep(0.01)
    place.run("prepare").expect(0)
    assert contents(place) == undisturbed


def test_full_and_read_only_disks_lose_nothing(place: Workplace, undisturbed: dict[str, str]) -> None:
    with small_disk(place.folder / PREPARED, 600 * KIBIBYTE) as resize:
        if resize is None:
            assert not os.environ.get("CI"), "full and read-only disks: mounting is not permitted here"
            pytest.skip("NOT TESTED: full and read-only disks, mounting is not permitted here")
        place.run("prepare").expect(1, "error: the disk is full (", "run the same command again.")
        left = contents(place)
        assert left and all(undisturbed[name] == digest for name, digest in left.items()) and left != undisturbed

        resize("ro")
        place.run("prepare").expect(1, "error: no permission to write (", "check the owner and mode of the")
        assert contents(place) == left

        resize("rw,size=20000k")
        place.run("prepare").expect(0)
        assert contents(place) == undisturbed
