"""The format of shards, and the images in them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import functional

from pipeline.core.errors import RequestError
from pipeline.data.decoding import DamagedImage, decode
from pipeline.data.imagefolder.shards import EncodedImage, encode, read, read_names, write_shard
from tests.data.imagefolder.conftest import Harm
from tests.pictures import encoded, photos, picture

IMAGES = [EncodedImage("b/\udcff\n.JPEG", 1, b"abc"), EncodedImage("a/x.JPEG", 0, b""), EncodedImage("c", 2, b"defg")]


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "shard.safetensors"
    write_shard(path, IMAGES)
    labels, offsets = read(path, "labels"), read(path, "offsets")
    assert labels.tolist() == [1, 0, 2] and labels.dtype == np.int64
    assert read_names(path) == [image.name for image in IMAGES]
    places = zip(offsets.tolist(), offsets.tolist()[1:], strict=False)
    assert [read(path, "bytes", slice(*place)).tobytes() for place in places] == [b"abc", b"", b"defg"]
    plain = load_file(path)
    assert {name: array.dtype.name for name, array in plain.items()} == {
        "bytes": "uint8",
        "offsets": "int64",
        "labels": "int64",
        "names": "uint8",
    }


def test_a_shard_without_images(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    write_shard(path, [])
    assert len(read(path, "labels")) == 0 and read(path, "offsets").tolist() == [0] and read_names(path) == []


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (Path.unlink, "is missing"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "is damaged"),
        (lambda path: path.write_bytes(b"\xff" * 200), "is damaged"),
    ],
)
def test_a_shard_that_is_not_whole_is_named(tmp_path: Path, harm: Harm, text: str) -> None:
    path = tmp_path / "shard.safetensors"
    write_shard(path, IMAGES)
    harm(path)
    with pytest.raises(RequestError, match=rf"shard.safetensors: {text}.*stages.prepare"):
        read(path, "bytes", slice(0, 1))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_every_kind_of_image_is_decoded_as_torchvision_does(tmp_path: Path, mode: str) -> None:
    image = picture(3).convert(mode)
    path = tmp_path / "odd.JPEG"
    path.write_bytes(encoded(image, "JPEG" if mode in ("L", "CMYK") else "PNG"))
    decoded = decode(path.read_bytes()).convert("RGB")
    assert np.array_equal(np.asarray(decoded), np.asarray(pil_loader(str(path))))


@pytest.mark.parametrize("size", [(500, 333), (333, 500), (400, 400), (257, 300)])
def test_the_shorter_side_is_reduced_as_torchvision_does(size: tuple[int, int]) -> None:
    photo = photos()[0].resize(size)
    content = encoded(photo, quality=95)
    reduced = Image.open(io.BytesIO(encode(content, 256)))
    assert (reduced.format, reduced.mode, min(reduced.size)) == ("JPEG", "RGB", 256)
    expected = functional.resize(decode(content), 256)
    assert reduced.size == expected.size
    error = np.asarray(reduced, dtype=float) - np.asarray(expected)
    assert np.sqrt((error**2).mean()) < 2.5  # 40 dB


def test_what_needs_no_reduction_keeps_its_bytes() -> None:
    content = encoded(photos()[0], "PNG")
    assert encode(content, None) == content
    assert encode(content, 427) == content
    assert encode(content, 426) != content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>", "is not an image in a known format"),
        (encoded(picture(1))[:-500], "image file is truncated"),
        (encoded(picture(1), "PNG")[:-500], "image file is truncated"),
        (encoded(picture(1))[:300], "Truncated File Read"),
    ],
    ids=["empty", "text", "jpeg", "png", "header"],
)
def test_damage_is_seen_and_its_reason_is_the_same_each_time(content: bytes, reason: str) -> None:
    reasons = []
    for _ in range(2):
        with pytest.raises(DamagedImage) as caught:
            encode(content, 256)
        reasons.append(str(caught.value))
    assert reasons[0].startswith(reason) and reasons[0] == reasons[1]


def test_an_image_is_turned_where_that_is_asked_for() -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    content = encoded(photos()[0], exif=turned)
    assert encode(content, None) == content and decode(encode(content, 64), upright=False).size == (95, 64)
    assert decode(encode(content, None, upright=True), upright=False).size == (427, 640)
    assert decode(encode(content, 64, upright=True), upright=False).size == (64, 95)
    upright = encoded(photos()[0])
    assert encode(upright, None, upright=True) == upright
