"""Listing an ImageFolder tree, and refusing what is not one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from pipeline.core.errors import RequestError
from pipeline.data.imagefolder.tree import list_tree
from tests.data.imagefolder.conftest import Harm
from tests.pictures import CLASSES


def test_classes_labels_and_order_are_those_of_torchvision(shared_tree: Path) -> None:
    tree = list_tree(shared_tree)
    for part in ("train", "val"):
        reference = ImageFolder(str(shared_tree / part))
        assert list(tree.classes) == reference.classes
        assert [(str(shared_tree / part / file.name), file.label) for file in tree.files[part]] == reference.samples
    assert all((shared_tree / "val" / file.name).stat().st_size == file.size for file in tree.files["val"])
    assert tree.ignored == ("train/n01440764/notes.txt",)


def test_a_class_may_have_folders_of_its_own(tree: Path) -> None:
    below = tree / "train" / CLASSES[1] / "images"
    below.mkdir()
    for path in sorted((tree / "train" / CLASSES[1]).glob("*.JPEG"))[:4]:
        path.rename(below / path.name)
    names = [file.name for file in list_tree(tree).files["train"] if file.label == 1]
    assert len(names) == 9 and sum(name.startswith(f"{CLASSES[1]}/images/") for name in names) == 4


def test_the_digest_covers_path_and_size(tree: Path) -> None:
    before = list_tree(tree).digest
    assert list_tree(tree).digest == before
    first = tree / "train" / CLASSES[1] / f"{CLASSES[1]}_0.JPEG"
    first.write_bytes(first.read_bytes() + b"\0")
    longer = list_tree(tree).digest
    first.rename(first.with_name("renamed.JPEG"))
    assert len({before, longer, list_tree(tree).digest}) == 3


def empty_class(tree: Path) -> None:
    for path in (tree / "val" / CLASSES[1]).iterdir():
        path.rename(path.with_suffix(".jpegs"))


def flatten(tree: Path) -> None:
    for path in sorted((tree / "val").rglob("*.JPEG")):
        path.rename(tree / "val" / path.name)
    for name in CLASSES:
        (tree / "val" / name).rmdir()


def make_train_a_file(tree: Path) -> None:
    shutil.rmtree(tree / "train")
    (tree / "train").write_text("a file")


@pytest.mark.parametrize(
    ("harm", "texts"),
    [
        (shutil.rmtree, ["tree/train: cannot be read (No such", "expected a folder SOURCE with train/<class>/*.JPEG"]),
        (lambda tree: shutil.rmtree(tree / "val"), ["tree/val: cannot be read (No such"]),
        (make_train_a_file, ["tree/train: cannot be read (Not a directory)"]),
        (flatten, ["tree/val: has no folders, but 15 files", "sort its images into one folder per class first"]),
        (lambda tree: (tree / "val" / "cat").mkdir(), ["train has 3 classes and val 4", "only in", "tree/val: cat"]),
        (
            lambda tree: shutil.rmtree(tree / "val" / CLASSES[2]),
            [f"tree/train: {CLASSES[2]}", "move or remove"],
        ),
        (empty_class, ["classes without an image", ".jpeg", f"tree/val: {CLASSES[1]}"]),
        (
            lambda tree: (tree / "val" / CLASSES[0] / "a.JPEG").symlink_to("nowhere"),
            ["a.JPEG: cannot be read (No such"],
        ),
        (
            lambda tree: (tree / "val" / CLASSES[0] / "again").symlink_to("../.."),
            [f"{CLASSES[0]}/again: is a link to a folder that it lies in"],
        ),
        (
            lambda tree: os.mkfifo(tree / "val" / CLASSES[0] / "a.JPEG"),
            ["a.JPEG: is a pipe or a device, not a file; remove it"],
        ),
    ],
)
def test_what_is_no_such_tree_is_refused_with_the_way_out(tree: Path, harm: Harm, texts: list[str]) -> None:
    harm(tree)
    with pytest.raises(RequestError) as caught:
        list_tree(tree)
    for text in texts:
        assert text in str(caught.value)


def test_many_differing_classes_are_counted_not_listed(tree: Path) -> None:
    for number in range(9):
        (tree / "val" / f"extra{number}").mkdir()
    with pytest.raises(RequestError, match=r"extra0, extra1, extra2, extra3, extra4 and 4 more"):
        list_tree(tree)


def test_a_folder_without_permission_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything: what the system says to others is put in its place."""
    scandir, locked = os.scandir, tree / "train" / CLASSES[1]

    def refuse(folder: Path | str) -> object:
        if Path(folder) == locked:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(
        RequestError, match=r"n01443537: cannot be read \(Permission denied\); expected .* that may be read"
    ):
        list_tree(tree)
