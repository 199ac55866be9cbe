"""Every form of image that Pillow opens, with known pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decoding import DamagedImage, decode
from tests.pictures import encoded

WIDE = np.array([[0, 1000, 32_896, 65_535]], np.uint16)
NARROW = [0, 4, 128, 255]
COLOURS = np.array([[[255, 0, 0], [10, 20, 30]]], np.uint8)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # a camera that was held upright: to be turned clockwise by a quarter


def image(values: Any, mode: str | None = None) -> Image.Image:
    array = np.asarray(values, np.uint8) if not isinstance(values, np.ndarray) else values
    return Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes()) if mode else Image.fromarray(array)


def palette(transparent: bool = False) -> bytes:
    made = image([[0, 1]], "P")
    made.putpalette([255, 0, 0, 10, 20, 30])
    return encoded(made, "PNG", **({"transparency": 1} if transparent else {}))


FORMS: dict[str, tuple[bytes, list[Any]]] = {
    "grey": (encoded(image([[0, 7, 255]]), "PNG"), [0, 7, 255]),
    "1 bit": (encoded(image([[0, 255]]).convert("1"), "PNG"), [0, 255]),
    "16-bit grey PNG": (encoded(image(WIDE), "PNG"), NARROW),
    "16-bit grey TIFF": (encoded(image(WIDE), "TIFF"), NARROW),
    "16-bit grey TIFF, big-endian": (encoded(image(WIDE.astype(">u2"), "I;16B"), "TIFF"), NARROW),
    "16-bit grey PGM": (b"P5\n4 1\n65535\n" + WIDE.astype(">u2").tobytes(), NARROW),
    "grey with transparency": (encoded(image([[[10, 255], [10, 0], [0, 128]]], "LA"), "PNG"), [10, 255, 127]),
    "grey GIF of one frame": (encoded(image([[0, 255]]), "GIF"), [[0] * 3, [255] * 3]),
    "colour": (encoded(image(COLOURS), "PNG"), COLOURS[0].tolist()),
    "palette": (palette(), COLOURS[0].tolist()),
    "palette with transparency": (palette(transparent=True), [[255, 0, 0], [255, 255, 255]]),
    "opaque": (encoded(image([[[10, 20, 30, 255]]], "RGBA"), "PNG"), [[10, 20, 30]]),
    "transparent": (encoded(image([[[10, 20, 30, 0], [0, 0, 0, 51]]], "RGBA"), "PNG"), [[255] * 3, [204] * 3]),
    "CMYK": (encoded(image([[[0, 255, 255, 0]]], "CMYK"), "TIFF"), [[255, 0, 0]]),
    "YCbCr": (encoded(image([[[100, 128, 128]]], "YCbCr"), "TIFF"), [[100, 100, 100]]),
    "photo of a phone with a preview": (
        encoded(Image.new("RGB", (1, 1)), "MPO", save_all=True, append_images=[Image.new("RGB", (1, 1), "white")]),
        [[0, 0, 0]],
    ),
    "to be turned": (encoded(image([[1], [2], [3]]), "PNG", exif=TURNED), [3, 2, 1]),
    "16-bit grey, to be turned": (encoded(image(WIDE.T.copy()), "PNG", exif=TURNED), NARROW[::-1]),
}


@pytest.mark.parametrize(("content", "expected"), FORMS.values(), ids=FORMS)
def test_every_form_has_its_pixels(content: bytes, expected: list[Any]) -> None:
    decoded = decode(content)
    assert decoded.mode == ("RGB" if isinstance(expected[0], list) else "L")
    assert np.asarray(decoded).tolist() == [expected]


def frames(kind: str) -> bytes:
    return encoded(Image.new("RGB", (2, 2)), kind, save_all=True, append_images=[Image.new("RGB", (2, 2), "red")])


REFUSED = {
    "animated GIF": (frames("GIF"), "has 2 frames; save the one"),
    "animated PNG": (frames("PNG"), "has 2 frames"),
    "animated WebP": (frames("WEBP"), "has 2 frames"),
    "TIFF of two pages": (frames("TIFF"), "has 2 frames"),
    "32-bit integers": (encoded(Image.fromarray(np.array([[70_000]], np.int32)), "TIFF"), "has 32-bit integers"),
    "floats": (encoded(Image.fromarray(np.array([[0.5]], np.float32)), "TIFF"), "has floating-point numbers"),
    "LAB": (encoded(image([[[100, 128, 128]]], "LAB"), "TIFF"), "is in mode LAB, which Pillow does not convert"),
    "nothing": (b"", "the file is empty"),
    "text": (b"no image", "is not an image in a known format"),
    "cut": (encoded(Image.new("RGB", (64, 64), "red"), "JPEG")[:-40], "truncated"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_known_is_refused_by_name(content: bytes, reason: str) -> None:
    with pytest.raises(DamagedImage, match=reason):
        decode(content)


def test_imagenet_is_read_as_it_is_stored() -> None:
    assert decode(encoded(image([[1], [2]]), "PNG", exif=TURNED), upright=False).size == (1, 2)
