"""The prepared folder: what is written, and what is left when writing fails."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.config import DataSettings
from pipeline.core.errors import RequestError
from pipeline.core.files import file_digest, read_record
from pipeline.data.images import load_split
from pipeline.data.prepare import content_digest, prepare

DIGITS = DataSettings(name="digits", held_out_images=100)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written(tmp_path: Path) -> None:
    manifest = prepare(DIGITS, tmp_path / "new" / "digits")
    folder = tmp_path / "new" / "digits"
    assert sorted(path.name for path in folder.iterdir()) == ["images.safetensors", "manifest.json"]
    tensors = load_file(folder / "images.safetensors")
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()} == {
        "train_images": ((1437, 1, 8, 8), torch.uint8),
        "train_labels": ((1437,), torch.uint8),
        "test_images": ((360, 1, 8, 8), torch.uint8),
        "test_labels": ((360,), torch.uint8),
    }
    assert read_record(folder / "manifest.json") == manifest
    assert manifest["name"] == "digits"
    assert manifest["sha256"] == file_digest(folder / "images.safetensors")
    assert manifest["digest"] == content_digest(tensors)
    assert manifest["shapes"]["test_images"] == [360, 1, 8, 8]
    assert list(manifest["images_per_class"]["test"]) == [str(digit) for digit in range(10)]
    for part in ("train", "test"):
        counts = torch.bincount(tensors[f"{part}_labels"].long()).tolist()
        assert list(manifest["images_per_class"][part].values()) == counts
    assert list(manifest["versions"]) == ["numpy", "safetensors", "scikit-learn", "torch"]
    assert torch.__version__.startswith(manifest["versions"]["torch"])


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    assert prepare(DIGITS, tmp_path / "first") == prepare(DIGITS, tmp_path / "second")
    for file in ("images.safetensors", "manifest.json"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1, 2, 4], dtype=torch.uint8)},
        {"b": torch.tensor([1, 2, 3], dtype=torch.uint8)},
        {"a": torch.tensor([1, 2, 3], dtype=torch.int8)},
        {"a": torch.tensor([[1, 2, 3]], dtype=torch.uint8)},
    ],
    ids=["value", "name", "type", "shape"],
)
def test_the_digest_covers(other: dict[str, Tensor]) -> None:
    assert content_digest({"a": torch.tensor([1, 2, 3], dtype=torch.uint8)}) != content_digest(other)


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with largest_file(10_000), pytest.raises(OSError):
        prepare(DIGITS, tmp_path / "digits")
    assert list((tmp_path / "digits").iterdir()) == []


def test_a_full_disk_leaves_what_was_prepared_before(tmp_path: Path) -> None:
    prepare(DIGITS, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with largest_file(10_000), pytest.raises(OSError):
        prepare(DIGITS, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_destination_that_cannot_be_a_folder_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError):
        prepare(DIGITS, tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_stop_between_the_two_files_is_refused_by_loading(tmp_path: Path) -> None:
    prepare(DIGITS, tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "manifest.json").mkdir()  # so that writing the manifest fails
    with pytest.raises(OSError):
        prepare(DIGITS, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images.safetensors", "manifest.json"]
    (tmp_path / "manifest.json").rmdir()
    with pytest.raises(RequestError, match="is missing"):
        load_split(tmp_path, DIGITS)


def test_settings_of_the_split_change_no_byte(tmp_path: Path) -> None:
    other = DataSettings(name="digits", held_out_images=1, train_images=10, test_images=5, split_seed=3)
    assert prepare(DIGITS, tmp_path / "first") == prepare(other, tmp_path / "second")
