"""Images of one's own as they are read and checked."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config import DataSettings
from pipeline.core.errors import RequestError
from pipeline.data.images import is_prepared, load_split
from pipeline.data.own import read_own
from pipeline.data.own.base import OwnData
from pipeline.data.prepare import find, prepare
from pipeline.provenance.own_images import are_touched, stamp
from tests.data.own import CLASSES, grey_arrays, pixels, write_folders

Change = Callable[[Path], object]


def settings(name: str, root: Path, **others: Any) -> DataSettings:
    return DataSettings(name=name, root=root, held_out_images=1, **others)


def read(name: str, root: Path, **others: Any) -> OwnData:
    return read_own(settings(name, root, **others))


def test_folders_are_read_in_the_order_of_classes_and_names(tmp_path: Path) -> None:
    found = read("images", write_folders(tmp_path))
    assert found.classes == CLASSES and len(found.train) == 36 and len(found.test) == 12
    assert found.train.labels.tolist() == [0] * 12 + [1] * 12 + [2] * 12
    expected = torch.from_numpy(pixels(1, 3)).permute(2, 0, 1)
    assert torch.equal(found.train.images[15], expected) and found.train.images.is_contiguous()


def test_val_is_tested_on_where_there_is_no_test(tmp_path: Path) -> None:
    assert len(read("images", write_folders(tmp_path, train=3, val=2)).test) == 6


def test_classes_alone_are_split_by_class_and_seed(tmp_path: Path) -> None:
    write_folders(tmp_path, all=10)
    found, again, other = (read("images", tmp_path, split_seed=seed) for seed in (0, 0, 1))
    assert torch.bincount(found.test.labels).tolist() == [2, 2, 2] and len(found.train) == 24
    assert torch.equal(found.test.images, again.test.images) and not torch.equal(found.test.images, other.test.images)
    shutil.copytree(tmp_path / "cat", tmp_path / "a new class")
    more = {image.numpy().tobytes() for image in read("images", tmp_path).test.images}
    assert more >= {image.numpy().tobytes() for image in found.test.images}


def test_the_first_test_images_are_of_every_class(tmp_path: Path) -> None:
    assert set(read("images", write_folders(tmp_path, train=1, test=20)).test.labels[:15].tolist()) == {0, 1, 2}


def test_sizes_are_kept_where_they_agree_and_made_where_they_are_asked_for(tmp_path: Path) -> None:
    root = write_folders(tmp_path, height=20, width=32)
    assert read("images", root).train.images.shape == (36, 3, 20, 32)
    assert read("images", root, size=(10, 16)).train.images.shape == (36, 3, 10, 16)
    square = read("images", root, size=20).train.images
    assert torch.equal(square, read("images", root).train.images[:, :, :, 6:26]), "the middle, without distortion"


def test_grey_images_have_one_channel_and_mixed_ones_three(tmp_path: Path) -> None:
    root = write_folders(tmp_path)
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    assert read("images", root).train.images.shape[1] == 1
    Image.new("RGB", (64, 64), "red").save(root / "test/cat/000.png")
    mixed = read("images", root)
    assert mixed.train.images.shape[1] == 3 and [255, 0, 0] in mixed.test.images[:, :, 0, 0].tolist()


def write_arrays(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez_compressed(path, **arrays)
    return path


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "bytes": lambda images: images,
    "floats": lambda images: images / 255,
    "channels last": lambda images: images[..., None],
    "channels first": lambda images: images[:, None],
    "integers": lambda images: images.astype(np.int64),
}


@pytest.mark.parametrize("change", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("names", ["{part}_images {part}_labels", "x_{part} y_{part}"])
def test_arrays_are_read_in_every_common_form(tmp_path: Path, change: Callable[[Any], Any], names: str) -> None:
    given = grey_arrays()
    arrays: dict[str, Any] = {}
    for part in ("train", "test"):
        images, labels = names.format(part=part).split()
        arrays |= {images: change(given[f"{part}_images"]), labels: given[f"{part}_labels"][:, None]}
    found = read("arrays", write_arrays(tmp_path / "a.npz", arrays | {"classes": np.array(["no", "yes"])}))
    assert found.classes == ("no", "yes") and found.train.images.shape == (36, 1, 12, 20)
    assert np.array_equal(found.train.images[:, 0].numpy(), given["train_images"])
    assert sorted(found.test.labels.tolist()) == sorted(given["test_labels"])


def test_a_thousand_classes_keep_their_labels(tmp_path: Path) -> None:
    labels = np.arange(1000)
    pictures = np.full((1000, 4, 4), 250, np.uint8)
    pictures[:, 0, 0], pictures[:, 0, 1] = labels % 250, labels // 250
    arrays = {
        f"{part}_{what}": one for part in ("train", "test") for what, one in (("images", pictures), ("labels", labels))
    }
    path = write_arrays(tmp_path / "a.npz", arrays)
    given = settings("arrays", path, found=find(settings("arrays", path)))
    prepare(given, tmp_path / "prepared")
    test = load_split(tmp_path / "prepared", given).test
    assert len(given.facts.classes) == 1000 and torch.equal(
        test.labels, test.images[:, 0, 0, 0].long() + 250 * test.images[:, 0, 0, 1].long()
    )
    pictures, labels = np.concatenate([pictures] * 2)[:1001], np.arange(1001)
    write_arrays(
        path, {"train_images": pictures, "train_labels": labels, "test_images": pictures, "test_labels": labels}
    )
    with pytest.raises(RequestError, match=r"has 1001 classes .*expected 2 to 1,000"):
        read("arrays", path)


def test_one_array_is_split(tmp_path: Path) -> None:
    given = grey_arrays(train=10)
    path = write_arrays(tmp_path / "a.npz", {"images": given["train_images"], "labels": given["train_labels"]})
    found = read("arrays", path)
    assert torch.bincount(found.test.labels).tolist() == [2, 2] and found.classes == ("0", "1")


def test_data_sets_of_torchvision_and_functions(tmp_path: Path) -> None:
    found = read("tests.data.own:fake_data", tmp_path)
    assert found.train.images.shape == (60, 3, 16, 16) and len(found.test) == 24 and len(found.classes) == 4
    folders = read("torchvision.datasets:ImageFolder", write_folders(tmp_path, all=5))
    assert folders.classes == CLASSES and torch.bincount(folders.test.labels).tolist() == [1, 1, 1]


def test_other_images_are_never_taken_for_the_ones_that_were_found(tmp_path: Path) -> None:
    one, other = write_folders(tmp_path / "one"), write_folders(tmp_path / "other", train=13, test=4)
    first = settings("images", one, found=find(settings("images", one)))
    second = settings("images", other, found=find(settings("images", other)))
    assert first.facts.classes == CLASSES and first.facts.shape == (3, 64, 64) and first.facts.train_images == 36
    prepared = tmp_path / "prepared"
    prepare(first, prepared)
    assert is_prepared(prepared, first) and len(load_split(prepared, first).test) == 12
    with pytest.raises(RequestError, match=r"is of images with digest .*stages.prepare"):
        load_split(prepared, second)
    prepare(second, prepared)
    assert is_prepared(prepared, second) and not is_prepared(prepared, first)
    (one / "train/cat/000.png").unlink()
    with pytest.raises(RequestError, match=r"train_images 36 -> 35.*--accept"):
        prepare(first, prepared)
    assert is_prepared(prepared, second), "what is prepared is left alone"


def changed(**changes: Callable[[Any], Any]) -> Change:
    """Arrays with some of them changed."""

    def write(path: Path) -> None:
        arrays = grey_arrays()
        write_arrays(path, arrays | {name: change(arrays[name]) for name, change in changes.items()})

    return write


def each_label(change: Callable[[Any], Any]) -> Change:
    return changed(train_labels=change, test_labels=change)


def with_value(value: float) -> Callable[[Any], Any]:
    def change(images: Any) -> Any:
        made = images / 255
        made[0, 0, 0] = value
        return made

    return change


def cut(path: Path) -> None:
    changed()(path)
    path.write_bytes(path.read_bytes()[:-300])


def overwritten(path: Path) -> None:
    changed()(path)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)


WRONG_ARRAYS: dict[str, tuple[Change, str]] = {
    "no file": (lambda path: None, "is no file; expected one that numpy.savez"),
    "no NPZ": (lambda path: path.write_bytes(b"text"), "is no NPZ file"),
    "a plain pickle": (lambda path: path.write_bytes(pickle.dumps([1])), "is no NPZ file"),
    "pickles": (changed(train_images=lambda images: np.array([{}, {}], object)), "pickles.*never loaded"),
    "cut": (cut, "is no NPZ file|is damaged"),
    "other names": (lambda path: np.savez(path, a=np.zeros(3)), "holds a; expected train_images, train_labels, test"),
    "labels from 1": (
        each_label(lambda labels: labels + 1),
        "labels are 1 to 2, without 0; expected 0 to 1.*numpy.unique",
    ),
    "labels with gaps": (each_label(lambda labels: labels * 2), "labels are 0 to 2, without 1; expected 0 to 1"),
    "negative labels": (each_label(lambda labels: labels - 1), "labels are -1 to 0; expected 0 to 1"),
    "one-hot labels": (each_label(lambda labels: np.eye(2, dtype=int)[labels]), "argmax"),
    "labels that are floats": (each_label(lambda labels: labels / 1), r"labels are of type float64.*astype\(int\)"),
    "labels that are text": (each_label(lambda labels: labels.astype(str)), "labels are of type <U.*numpy.unique"),
    "one label far off": (
        each_label(lambda labels: np.where(labels == 1, 2**40, 0)),
        "labels are 0 to 1099511627776, without 1, 2, 3, 4, 5 and 1,099,511,627,770 more; expected 0 to 1",
    ),
    "damaged in the middle": (overwritten, "is damaged"),
    "names that are objects": (
        lambda path: write_arrays(path, grey_arrays() | {"classes": np.array(["a", "b"], object)}),
        r"classes are Python objects .* astype\(str\)",
    ),
    "floats to 255": (
        changed(train_images=lambda images: images / 1.0),
        r"floats are from 0 to 239, expected 0 to 1.*as",
    ),
    "floats from -1": (changed(train_images=lambda images: images / 128 - 1), "floats are from -1 .*scale them"),
    "16 bits": (changed(train_images=lambda images: images.astype(np.uint16) * 257), "values are from 0 to 61423, exp"),
    "NaN": (changed(train_images=with_value(float("nan"))), "1 values are NaN or infinite"),
    "black": (changed(train_images=lambda images: images // 128), "no value .* more than 1 of 255"),
    "text": (changed(train_images=lambda images: images.astype(str)), "is of type <U3"),
    "one class": (each_label(lambda labels: labels * 0), r"the data has 1 class \(0\), expected 2 to 1,000"),
    "a class without test images": (changed(test_labels=lambda labels: labels * 0), "test images have none of 1 of 2"),
    "a class without training images": (changed(train_labels=lambda labels: labels * 0), "train images have none of 1"),
    "sizes that differ": (changed(test_images=lambda images: images[:, :9]), "expected the same"),
    "fewer labels": (changed(train_labels=lambda labels: labels[1:]), "has 36 train_images and 35 train_labels"),
    "two channels": (changed(train_images=lambda i: np.stack([i, i], -1)), r"is of shape \(36, 12, 20, 2\); expected"),
    "channels anywhere": (changed(train_images=lambda i: i[:, None, :, :3]), "channels may come first or last"),
}


@pytest.mark.parametrize(("make", "message"), WRONG_ARRAYS.values(), ids=WRONG_ARRAYS)
def test_arrays_that_do_not_fit(tmp_path: Path, make: Change, message: str) -> None:
    make(tmp_path / "a.npz")
    with pytest.raises(RequestError, match=message):
        read("arrays", tmp_path / "a.npz")


def emptied(folder: str) -> Change:
    def empty(root: Path) -> None:
        for path in (root / folder).iterdir():
            path.unlink()

    return empty


def moved(source: str, target: str) -> Change:
    return lambda root: (root / source).rename(root / target)


WRONG_FOLDERS: dict[str, tuple[Change, str]] = {
    "no folder": (shutil.rmtree, "is no folder; expected train/<class>/"),
    "an empty class": (emptied("test/cat"), "classes without an image"),
    "other classes": (moved("test/cat", "test/lion"), r"move or remove(.|\n)*train: cat\n.*test: lion"),
    "no test images": (lambda root: shutil.rmtree(root / "test"), "has train/, but neither test/ nor val/"),
    "no training images": (lambda root: shutil.rmtree(root / "train"), "has test/, but no train/"),
    "an empty file": (
        lambda root: (root / "train/cat/000.png").write_bytes(b""),
        "1 image cannot.*\n.*000.png: the fil",
    ),
    "a cut file": (
        lambda root: (root / "train/cat/000.png").write_bytes((root / "train/cat/001.png").read_bytes()[:999]),
        "cat/000.png: ",
    ),
    "another size": (
        lambda root: Image.new("RGB", (9, 7)).save(root / "train/cat/005.png"),
        r"2 sizes \(height x width\): 64 x 64 \(47.*7 x 9 \(1, for example train/cat/005.png\).*data.size=64",
    ),
    "a link that leads nowhere": (lambda root: (root / "train/cat/x.png").symlink_to("gone"), "cannot be read"),
}


@pytest.mark.parametrize(("change", "message"), WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_folders_that_do_not_fit(tmp_path: Path, change: Change, message: str) -> None:
    change(write_folders(tmp_path / "tree"))
    with pytest.raises(RequestError, match=message):
        read("images", tmp_path / "tree")


def test_a_class_whose_name_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"class names are no text that can be shown: '.udcff'; rename"):
        read("images", write_folders(tmp_path, ("cat", "\udcff"), all=3))


def test_a_class_of_a_single_image_cannot_be_split(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="class cat: has a single image; one to train on and one to test on"):
        read("images", write_folders(tmp_path, all=1))


def test_what_memory_does_not_hold_is_said_with_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.own.base.free_memory", lambda: 10**6)
    with pytest.raises(RequestError, match=r"48 images of 3 x 64 x 64 take 0.0 GB .* 0.0 GB are free.*imagefo"):
        read("images", write_folders(tmp_path))


FACTORIES = {
    "tests.data.own:missing": "cannot be imported",
    "no_such_module:function": "cannot be imported",
    "tests.data.own:CLASSES": "cannot be called",
    "torchvision.datasets:FakeData": r"takes no root; write a function of your own",
    "torchvision.datasets:MNIST": "fails for data.root .*Dataset not found",
    "pathlib:Path": "takes no root|gives a PosixPath|expected",
    "os:listdir": "gives|no pair|fails",
    "tests.data.own:failing": "item 3 cannot be had: TypeError: a file of the third kind",
}


@pytest.mark.parametrize(("name", "message"), FACTORIES.items())
def test_functions_that_give_no_images(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read(name, tmp_path)


def test_the_documented_split_is_read_with_its_class_names(tmp_path: Path) -> None:
    found = read("tests.data.own:randomly_split", tmp_path)
    assert (len(found.train), len(found.test), found.classes) == (64, 16, ("a", "b", "c", "d"))


def test_arrays_are_resized_on_request(tmp_path: Path) -> None:
    write_arrays(tmp_path / "arrays.npz", grey_arrays())
    assert read("arrays", tmp_path / "arrays.npz", size=(6, 10)).test.images.shape == (12, 1, 6, 10)
    colours = grey_arrays() | {"train_images": np.zeros((36, 12, 20, 3), np.uint8) + 200}
    write_arrays(tmp_path / "arrays.npz", colours | {"test_images": np.zeros((12, 12, 20, 3), np.uint8) + 100})
    assert read("arrays", tmp_path / "arrays.npz", size=8).train.images.shape == (36, 3, 8, 8)


def test_objects_that_nobody_asks_for_and_names_in_bytes_do_no_harm(tmp_path: Path) -> None:
    others = {"files": np.array([{}, None], object), "classes": np.array([b"cat", b"dog"])}
    write_arrays(tmp_path / "arrays.npz", grey_arrays() | others)
    assert read("arrays", tmp_path / "arrays.npz").classes == ("cat", "dog")
    write_arrays(tmp_path / "arrays.npz", grey_arrays() | {"classes": np.array([b"cat", b"\xe4sche"])})
    assert read("arrays", tmp_path / "arrays.npz").classes == ("cat", r"\xe4sche"), "not UTF-8, but no traceback"


def test_a_touch_behind_a_link_is_seen(tmp_path: Path) -> None:
    elsewhere = write_folders(tmp_path / "elsewhere")
    root = tmp_path / "tree"
    root.mkdir()
    (root / "train").symlink_to(elsewhere / "train")
    (root / "test").symlink_to(elsewhere / "test")
    (elsewhere / "train/back").symlink_to(root)
    before = stamp(root)
    os.utime(elsewhere / "train/cat/000.png", (1, 1))
    assert stamp(root) != before


def test_a_touch_is_seen_without_opening_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = write_folders(tmp_path / "tree")
    params = tmp_path / "params.yaml"
    params.write_text(f"data: {{name: images, root: {root}}}")
    assert not are_touched(params), "not prepared yet"
    prepare(settings("images", root, found=find(settings("images", root))), Path("data/prepared/images"))
    assert not are_touched(params)
    os.utime(root / "train/cat/000.png", (1, 1))
    assert are_touched(params)
    for text in ("data: {name: digits, root: data/raw}", "data: [", "data: 3", ""):
        params.write_text(text)
        assert not are_touched(params)
