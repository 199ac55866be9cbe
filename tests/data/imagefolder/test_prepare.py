"""Shards, manifest and subset: what is written, what is refused, and what a stop or a failure leaves."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import Interrupted, PipelineError, RequestError
from pipeline.core.files import exclusive, file_digest, write_record
from pipeline.data.decoding import decode
from pipeline.data.imagefolder.prepare import ShardSettings, read_manifest
from pipeline.data.imagefolder.shards import read, read_names
from pipeline.data.imagefolder.tree import list_tree
from tests.data.imagefolder.conftest import SETTINGS, Harm, Prepared, digests, prepare
from tests.data.test_prepare import largest_file
from tests.pictures import CLASSES, DAMAGED, TRAIN_EACH, VAL_EACH, damage


def contents(folder: Path, part: str) -> dict[str, tuple[int, bytes]]:
    """Label and bytes by name of all images, from the shards alone."""
    found = {}
    for path in sorted(folder.glob(f"{part}-*.safetensors")):
        offsets, labels = read(path, "offsets").tolist(), read(path, "labels").tolist()
        for name, label, start, end in zip(read_names(path), labels, offsets[:-1], offsets[1:], strict=True):
            found[name] = (label, read(path, "bytes", slice(start, end)).tobytes())
    return found


def test_every_image_is_in_a_shard_once(prepared: Prepared) -> None:
    listed = list_tree(prepared.source)
    for part in ("train", "val"):
        found = contents(prepared.folder, part)
        assert list(found) == [file.name for file in listed.files[part]]
        assert [label for label, _ in found.values()] == [file.label for file in listed.files[part]]
        for name, (_, content) in found.items():
            if part == "val":
                assert content == (prepared.source / part / name).read_bytes()
            else:
                assert min(decode(content).size) == 48


def test_the_manifest_says_what_is_there(prepared: Prepared) -> None:
    manifest = prepared.manifest
    assert read_manifest(prepared.folder) == manifest
    assert manifest["classes"] == list(CLASSES)
    assert manifest["images"] == {"train": 3 * TRAIN_EACH, "val": 3 * VAL_EACH}
    assert manifest["images_per_class"]["val"] == dict.fromkeys(CLASSES, VAL_EACH)
    assert [entry["images"] for entry in manifest["shards"]["train"]] == [6, 6, 6, 6, 3]
    for entry in manifest["shards"]["train"] + manifest["shards"]["val"]:
        path = prepared.folder / entry["file"]
        assert (entry["bytes"], entry["sha256"]) == (path.stat().st_size, file_digest(path))
    assert manifest["source"] == {"files": {"train": 27, "val": 15}, "sha256": list_tree(prepared.source).digest}
    assert (manifest["damaged"], manifest["ignored_files"], manifest["size"], manifest["quality"]) == ({}, 1, 48, 95)
    assert set(manifest["versions"]) == {"numpy", "pillow", "safetensors", "libjpeg_turbo"}
    subset = (prepared.folder / "subset.txt").read_text().splitlines()
    assert sorted(subset) == sorted(contents(prepared.folder, "val"))
    assert manifest["subset"]["chosen_by"] == "our own choice" and manifest["subset"]["images"] == 15


def test_the_observer_hears_of_every_image(prepared: Prepared) -> None:
    watcher = prepared.watcher
    assert (watcher.total, watcher.made, watcher.found) == (42, 42, 0)
    assert watcher.messages == [
        f"listing {prepared.source}",
        "files that are no images and are ignored: 1, for example train/n01440764/notes.txt",
    ]


def test_the_number_of_processes_changes_no_byte(prepared: Prepared, tmp_path: Path) -> None:
    prepare(prepared.source, tmp_path / "again", workers=3)
    assert digests(tmp_path / "again") == digests(prepared.folder)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "made"),
    [
        (lambda folder: None, 0),
        (lambda folder: (folder / "manifest.json").unlink(), 0),
        (lambda folder: (folder / "subset.txt").unlink(), 0),
        (lambda folder: flip(folder / "train-00001.safetensors"), 6),
        (lambda folder: (folder / "train-00004.safetensors").unlink(), 3),
        (lambda folder: (folder / "val-00000.json").unlink(), 6),
        (lambda folder: (folder / "val-00000.json").write_text('{"key": 1}'), 6),
        (lambda folder: (folder / ".val-00000.safetensors.17.tmp").write_text("half"), 0),
        (lambda folder: (folder / "train-00005.safetensors").write_text("of a larger tree"), 0),
    ],
)
def test_running_again_makes_only_what_is_not_finished(
    prepared: Prepared, own_copy: Path, harm: Harm, made: int
) -> None:
    harm(own_copy)
    watcher = prepare(prepared.source, own_copy).watcher
    assert (watcher.made, watcher.found) == (made, 42 - made)
    assert digests(own_copy) == digests(prepared.folder)


def test_a_changed_file_changes_its_shard_alone(prepared: Prepared, own_copy: Path, tree: Path) -> None:
    path = tree / "val" / CLASSES[0] / f"{CLASSES[0]}_0.JPEG"
    path.write_bytes(path.read_bytes() + b"\0")
    changed = prepare(tree, own_copy)
    assert changed.watcher.made == 6
    before, after = digests(prepared.folder), digests(own_copy)
    assert {name for name in before if before[name] != after[name]} == {
        "val-00000.safetensors",
        "val-00000.json",
        "manifest.json",
    }
    assert changed.manifest["digest"] != prepared.manifest["digest"]


def test_damaged_files_are_named_and_an_error(tree: Path, tmp_path: Path) -> None:
    damage(tree)
    with pytest.raises(RequestError) as caught:
        prepare(tree, tmp_path / "to")
    first, *lines, way_out = str(caught.value).splitlines()
    assert first == "3 images are damaged:" and "--allow-damaged" in way_out
    for line, (name, reason) in zip(lines, DAMAGED.items(), strict=True):
        assert line.startswith(f"  {tree / name}: {reason}")
    assert not (tmp_path / "to" / "manifest.json").exists()
    for name in DAMAGED:
        (tree / name).unlink()
    restored = prepare(tree, tmp_path / "to")
    assert restored.manifest["damaged"] == {} and restored.manifest["images"]["train"] == 27


def test_damaged_files_may_be_left_out(prepared: Prepared, tree: Path, tmp_path: Path) -> None:
    damage(tree)
    with pytest.raises(PipelineError):
        prepare(tree, tmp_path / "to")
    allowed = prepare(tree, tmp_path / "to", allow_damaged=True)
    assert 0 < allowed.watcher.found < 45  # what was whole the first time is not made again
    assert list(allowed.manifest["damaged"]) == list(DAMAGED)
    assert all(allowed.manifest["damaged"][name].startswith(reason) for name, reason in DAMAGED.items())
    for part in ("train", "val"):
        assert contents(tmp_path / "to", part) == contents(prepared.folder, part)
    once = prepare(tree, tmp_path / "once", allow_damaged=True)
    assert once.manifest == allowed.manifest and digests(tmp_path / "once") == digests(tmp_path / "to")


def test_a_class_that_has_only_damaged_images_is_an_error(tree: Path, tmp_path: Path) -> None:
    for path in (tree / "val" / CLASSES[2]).iterdir():
        path.write_bytes(b"")
    with pytest.raises(PipelineError, match=f"val/: every image of {CLASSES[2]} is damaged"):
        prepare(tree, tmp_path / "to", allow_damaged=True)
    assert not (tmp_path / "to" / "manifest.json").exists()


def test_a_list_decides_the_subset(prepared: Prepared, own_copy: Path, tmp_path: Path) -> None:
    names = list(contents(prepared.folder, "val"))
    (tmp_path / "ids.txt").write_text("\n".join([names[7], names[2]]))
    again = prepare(prepared.source, own_copy, subset_list=tmp_path / "ids.txt")
    assert again.watcher.made == 0
    assert (own_copy / "subset.txt").read_text().splitlines() == [names[7], names[2]]
    assert again.manifest["subset"]["chosen_by"] == f"list {file_digest(tmp_path / 'ids.txt')}"
    assert again.manifest["digest"] != prepared.manifest["digest"]


def test_a_listed_image_must_not_be_damaged(tree: Path, tmp_path: Path) -> None:
    damage(tree)
    (tmp_path / "ids.txt").write_text(f"{CLASSES[1]}/text.JPEG")
    with pytest.raises(PipelineError, match=r"1 of the 1 images in the list are damaged, for example 'val/n01443537/t"):
        prepare(tree, tmp_path / "to", subset_list=tmp_path / "ids.txt", allow_damaged=True)


def test_a_wrong_list_is_refused_before_anything_is_written(prepared: Prepared, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read"):
        prepare(prepared.source, tmp_path / "to", subset_list=tmp_path / "none.txt")
    assert not (tmp_path / "to").exists()


def test_another_request_for_the_same_folder_is_refused(prepared: Prepared, own_copy: Path) -> None:
    before = digests(own_copy)
    for other in (replace(SETTINGS, size=None), replace(SETTINGS, images_per_shard=7)):
        with pytest.raises(
            RequestError, match=r"was begun with .*'size': 48.* give another folder, or remove this one"
        ):
            prepare(prepared.source, own_copy, other)
    assert digests(own_copy) == before


def test_a_folder_of_something_else_is_left_alone(prepared: Prepared, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "thesis.txt", prepared.source):
        with pytest.raises(RequestError, match="is there already and was not begun by this command"):
            prepare(prepared.source, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_second_process_is_turned_away(prepared: Prepared, own_copy: Path) -> None:
    before = digests(own_copy)
    with (
        exclusive(own_copy / "lock", "the folder"),
        pytest.raises(RequestError, match=f"is being worked on by another process \\(process {os.getpid()} on"),
    ):
        prepare(prepared.source, own_copy)
    assert digests(own_copy) == before


def test_a_stop_on_demand_keeps_what_is_finished(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / "to"

    def after_one() -> str | None:
        return "SIGTERM received" if list(folder.glob("*-*.json")) else None

    with pytest.raises(Interrupted, match="SIGTERM received: finished shards are kept, the same command continues"):
        prepare(prepared.source, folder, should_stop=after_one)
    assert not (folder / "manifest.json").exists()
    again = prepare(prepared.source, folder)
    assert again.watcher.found > 0
    assert digests(folder) == digests(prepared.folder)


def test_a_full_disk_leaves_whole_files_and_no_manifest(prepared: Prepared, tmp_path: Path) -> None:
    largest = max(path.stat().st_size for path in prepared.folder.iterdir())
    with largest_file(largest - 1), pytest.raises(OSError, match="File too large") as caught:
        prepare(prepared.source, tmp_path / "to")
    assert str(caught.value.filename).endswith(".safetensors")
    left, finished = digests(tmp_path / "to"), digests(prepared.folder)
    assert "manifest.json" not in left and all(finished[name] == digest for name, digest in left.items())
    prepare(prepared.source, tmp_path / "to")
    assert digests(tmp_path / "to") == finished


def test_a_worker_that_is_killed_is_an_error_with_a_way_out(prepared: Prepared, tmp_path: Path) -> None:
    def kill() -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(PipelineError, match=r"was killed, often for want of memory.* with fewer --workers than 1"):
        prepare(prepared.source, tmp_path / "to", should_stop=kill)
    assert not (tmp_path / "to" / "manifest.json").exists()


def test_original_sizes_keep_every_byte(tree: Path, tmp_path: Path) -> None:
    prepare(tree, tmp_path / "to", ShardSettings(size=None))
    found = contents(tmp_path / "to", "train")
    assert all(content == (tree / "train" / name).read_bytes() for name, (_, content) in found.items())


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (shutil.rmtree, "manifest.json: is missing, preparing was not begun or has not ended; run"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json: is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "manifest.json: is damaged"),
        (
            lambda folder: write_record(folder / "manifest.json", {"format": "other"}),
            "is of format 'other', expected 'imagefolder shards, version 1'",
        ),
    ],
)
def test_a_folder_that_is_not_finished_is_refused(own_copy: Path, harm: Harm, text: str) -> None:
    harm(own_copy)
    with pytest.raises(RequestError, match=text):
        read_manifest(own_copy)
