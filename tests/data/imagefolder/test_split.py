"""The split of prepared folders: fixed, the same for every size, and refused where folders do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import DataSettings
from pipeline.core.errors import RequestError
from pipeline.core.files import read_record, write_record
from pipeline.data.imagefolder.prepare import ShardSettings
from pipeline.data.imagefolder.split import FolderSplit, open_folders
from tests.data.imagefolder.conftest import prepare

STREAMING = {"stored_size": 48, "crop_size": 32, "test_crop": {"size": 24, "resize": 32}}
SHARDS = {"48": 48, "40": 40}


def settings(**changes: Any) -> DataSettings:
    content = {"name": "imagefolder", "classes": 4, "held_out_images": 5, "streaming": STREAMING, **changes}
    return DataSettings.model_validate(content).model_copy(update={"classes": changes.get("classes", 3)})


@pytest.fixture(scope="module")
def folders(shared_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sizes")
    for name, size in SHARDS.items():
        prepare(shared_tree, made / name, ShardSettings(size, images_per_shard=10))
    return made


def numbers(split: FolderSplit) -> tuple[list[int], list[int]]:
    return split.train[48].numbers.tolist(), split.held_out_images.numbers.tolist()


def test_training_and_held_out_images_are_all_images_once(folders: Path) -> None:
    trained, held_out = numbers(open_folders(folders, settings(), [48]))
    assert len(held_out) == 5 and sorted([*trained, *held_out]) == list(range(27))
    assert numbers(open_folders(folders, settings(), [48])) == (trained, held_out)
    assert numbers(open_folders(folders, settings(split_seed=1), [48])) != (trained, held_out)
    fewer = numbers(open_folders(folders, settings(train_images=7), [48]))
    assert fewer == (trained[:7], held_out)


def test_one_training_image_gives_way_to_a_held_out_one(folders: Path) -> None:
    trained, held_out = numbers(open_folders(folders, settings(), [48]))
    assert numbers(open_folders(folders, settings(replaced_example=7), [48])) == (
        [*trained[:7], held_out[2], *trained[8:]],
        held_out,
    )
    with pytest.raises(RequestError, match="22 is not among the 22 training images"):
        open_folders(folders, settings(replaced_example=22), [48])


def test_sizes_have_the_same_images_and_another_digest(folders: Path) -> None:
    one, both = (open_folders(folders, settings(), sizes) for sizes in ([48], [40, 48]))
    assert both.train[40].numbers.tolist() == both.train[48].numbers.tolist() == one.train[48].numbers.tolist()
    assert both.held_out_images.files == one.held_out_images.files and both.digest != one.digest
    assert one.counts == {"train": 22, "test": 15}


def test_images_to_judge_on_are_cropped_and_whole_in_memory(folders: Path) -> None:
    split = open_folders(folders, settings(test_images=4), [48])
    assert split.held_out.images.shape == (5, 3, 24, 24) and split.test.images.shape == (4, 3, 24, 24)
    assert split.test.labels.tolist() == split.test_images.labels.tolist()


def remove_manifest(folder: Path) -> None:
    (folder / "40/manifest.json").unlink()


def use_another_tree(folder: Path) -> None:
    path = folder / "40/manifest.json"
    content = read_record(path)
    content["source"]["sha256"] = "0" * 64
    write_record(path, content)


@pytest.mark.parametrize(
    ("harm", "changes", "text"),
    [
        (
            remove_manifest,
            {},
            r"40/manifest.json: is missing, preparing was not begun .*stages.prepare'",
        ),
        (use_another_tree, {}, r"40: was not prepared from the same images as .*48, they differ in: source"),
        (None, {"classes": 5}, r"has 3 classes, data.name 'imagefolder' has 5"),
        (
            None,
            {"held_out_images": 27},
            r"has 27 training images, data.held_out_images \+ data.train_images needs 28",
        ),
        (None, {"test_images": 16}, r"has 15 images to evaluate on, data.test_images needs 16"),
    ],
)
def test_what_does_not_fit_is_refused(
    folders: Path, tmp_path: Path, harm: Callable[[Path], None] | None, changes: dict[str, Any], text: str
) -> None:
    copy = Path(shutil.copytree(folders, tmp_path / "copy"))
    if harm is not None:
        harm(copy)
    with pytest.raises(RequestError, match=text):
        open_folders(copy, settings(**changes), [48, 40])
