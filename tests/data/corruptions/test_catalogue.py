"""The 19 corruptions: what holds for all of them, and the laws of single ones."""

from __future__ import annotations

import hashlib
import sys
from types import ModuleType

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import features

from pipeline.data.corruptions import filters, jpeg
from pipeline.data.corruptions.blur import glass_blur
from pipeline.data.corruptions.catalogue import CATALOGUE, corrupt, image_generator
from pipeline.data.corruptions.facts import (
    BENCHMARK_CORRUPTIONS,
    CORRUPTIONS,
    DETERMINISTIC,
    PERTURBATIONS,
    RELEASES,
    SEVERITIES,
)
from pipeline.data.corruptions.filters import Image, clipped_zoom, gaussian, motion_blur, plasma, to_uint8, unit
from pipeline.data.corruptions.weather import TEXTURES, frost_texture
from tests.data.corruptions.conftest import cloudy
from tests.data.corruptions.known import TURBO, corruption_facts, perturbation_facts

RANDOM = [name for name in CORRUPTIONS if name not in DETERMINISTIC]
KEEP_CONSTANTS = [
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "gaussian_blur",
    "pixelate",
    "elastic_transform",
]


def test_facts_are_known_of_every_corruption_and_perturbation() -> None:
    known = corruption_facts()
    assert set(known) == {(name, severity) for name in (*CORRUPTIONS, TURBO) for severity in SEVERITIES}
    for (name, _), fact in known.items():
        assert (fact.psnr_sd > 0) == (name in RANDOM) == (fact.md5_200 == "") == (fact.md5_10000 == "")
    assert set(perturbation_facts()) == set(PERTURBATIONS)


def flat(level: int, size: int = 32, channels: int = 3) -> Image:
    return np.full((size, size, channels), level, np.uint8)


def corrupted(name: str, image: Image, severity: int, seed: int = 0) -> Image:
    return corrupt(name, image, severity, np.random.default_rng(seed))


def test_names_are_complete() -> None:
    assert len(CORRUPTIONS) == len(set(CORRUPTIONS)) == len(CATALOGUE) == 19
    assert set(CATALOGUE) == set(CORRUPTIONS)
    assert len(BENCHMARK_CORRUPTIONS) == 15
    assert all(set(release.files) == {"labels", *CORRUPTIONS} for release in RELEASES.values())
    assert all(len(corruption.parameters) == 5 for corruption in CATALOGUE.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (12, 9, 3), (28, 28, 1), (4, 4, 1)], ids=str)
def test_every_corruption_keeps_the_form_of_an_image_and_leaves_the_original(
    name: str, shape: tuple[int, int, int]
) -> None:
    image = cloudy(*shape)
    before = image.copy()
    for severity in SEVERITIES:
        made = corrupted(name, image, severity)
        assert made.shape == shape
        assert made.dtype == np.uint8
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_generator_alone_decides(name: str) -> None:
    image = cloudy(32, 32, 3)
    first, again, other = (corrupted(name, image, 5, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name in DETERMINISTIC)
    assert not np.array_equal(first, image)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_ones_draw_nothing(name: str) -> None:
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    corrupt(name, cloudy(16, 16, 3), 3, generator)
    assert generator.bit_generator.state == before


@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if CATALOGUE[name].rgb])
def test_a_grey_image_is_treated_as_its_rgb_image(name: str) -> None:
    grey = cloudy(16, 16, 1)
    coloured = corrupted(name, np.repeat(grey, 3, axis=2), 4)
    assert np.array_equal(corrupted(name, grey, 4)[..., 0], cv2.cvtColor(coloured, cv2.COLOR_RGB2GRAY))


@pytest.mark.parametrize("name", KEEP_CONSTANTS)
@pytest.mark.parametrize("level", [0, 7, 128, 200, 255])
def test_blurs_and_distortions_leave_a_constant_image(name: str, level: int) -> None:
    for severity in SEVERITIES:
        assert np.array_equal(corrupted(name, flat(level), severity), flat(level))


@pytest.mark.parametrize(
    ("name", "deviations"),
    [
        ("gaussian_noise", [255 * share for share in (0.04, 0.06, 0.08, 0.09, 0.10)]),
        ("speckle_noise", [128 * share for share in (0.06, 0.10, 0.12, 0.16, 0.20)]),
        ("shot_noise", [255 * np.sqrt(128 / 255 / photons) for photons in (500, 250, 100, 75, 50)]),
    ],
)
def test_noise_has_its_standard_deviation_and_is_cut_off_downwards(name: str, deviations: list[float]) -> None:
    image = flat(128, size=200)
    for severity, expected in zip(SEVERITIES, deviations, strict=True):
        change = corrupted(name, image, severity).astype(int) - 128
        assert change.std() == pytest.approx(expected, rel=0.02)  # photons come in steps of up to 5 levels
        assert -1.1 < change.mean() < 0.1


def test_impulses_replace_single_values_by_black_or_white() -> None:
    image = flat(128, size=300)
    for severity, share in zip(SEVERITIES, (0.01, 0.02, 0.03, 0.05, 0.07), strict=True):
        made = corrupted("impulse_noise", image, severity)
        assert set(np.unique(made)) == {0, 128, 255}
        assert (made != 128).mean() == pytest.approx(share, rel=0.05)
        assert (made == 255).mean() == pytest.approx(share / 2, rel=0.08)
        touched = (made != 128).any(axis=2).mean()
        assert touched == pytest.approx(1 - (1 - share) ** 3, rel=0.05)


def test_contrast_scales_the_distance_to_the_mean() -> None:
    image = cloudy(32, 32, 3)
    for severity, factor in zip(SEVERITIES, (0.75, 0.5, 0.4, 0.3, 0.15), strict=True):
        made = corrupted("contrast", image, severity)
        assert made.std(axis=(0, 1)) == pytest.approx(image.std(axis=(0, 1)) * factor, rel=0.02)
        assert np.mean(made.astype(int) - image) == pytest.approx(-0.5, abs=0.1)


@pytest.mark.parametrize("name", ["gaussian_noise", "defocus_blur", "fog", "brightness", "contrast", "pixelate"])
def test_severities_grow(name: str) -> None:
    image = cloudy(32, 32, 3)
    errors = [np.mean((corrupted(name, image, severity) - image.astype(float)) ** 2) for severity in SEVERITIES]
    assert errors == sorted(errors)


def test_glass_blur_copies_pixels_in_the_order_of_the_released_loop() -> None:
    image, (sigma, shift, passes) = cloudy(12, 9, 3), (0.4, 1, 2)
    generator = np.random.default_rng(3)
    expected = to_uint8(gaussian(unit(image), sigma))
    for _ in range(passes):
        right, down = generator.integers(-shift, shift, (2, 12 - 2, 9 - 2))
        for row in range(11, 1, -1):
            for column in range(8, 1, -1):
                source = (row + down[row - 2, column - 2], column + right[row - 2, column - 2])
                expected[row, column] = expected[source]
    expected = to_uint8(gaussian(unit(expected), sigma))
    assert np.array_equal(glass_blur(image, np.random.default_rng(3), sigma, shift, passes), expected)


def test_motion_blur_spreads_a_point_to_one_side() -> None:
    image = np.zeros((1, 21), np.uint8)
    image[0, 15] = 255
    blurred = motion_blur(image, radius=2, sigma=1, angle=0)[0]
    weights = np.exp(-(np.arange(5) ** 2) / 2)
    expected = np.floor(255 * weights / weights.sum())
    assert np.abs(blurred[11:16][::-1] - expected).max() <= 1
    assert blurred[:11].sum() == blurred[16:].sum() == 0
    assert np.array_equal(motion_blur(image.T, 2, 1, 90)[:, 0], blurred)


@settings(deadline=None, max_examples=30)
@given(height=st.integers(4, 40), width=st.integers(4, 40), factor=st.floats(1, 3), seed=st.integers(0, 9))
@example(height=4, width=40, factor=1.546875, seed=0)
def test_a_clipped_zoom_keeps_size_and_range(height: int, width: int, factor: float, seed: int) -> None:
    values = np.random.default_rng(seed).random((height, width, 2))
    zoomed = clipped_zoom(values, factor)
    assert zoomed.shape == values.shape
    # As in the official code, scipy gives 0 for a last row or column that rounding puts outside: 40 pixels, 1.546875.
    inside = zoomed[(zoomed != 0).all(2)]
    assert values.min() - 1e-9 <= inside.min() and zoomed.max() <= values.max() + 1e-9
    assert (zoomed[:-1, :-1] != 0).all()
    assert np.array_equal(clipped_zoom(values, 1), values)


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 40), width=st.integers(1, 40), decay=st.floats(1.2, 3), seed=st.integers(0, 9))
def test_a_cloud_fills_the_unit_interval(height: int, width: int, decay: float, seed: int) -> None:
    cloud = plasma(height, width, decay, np.random.default_rng(seed))
    assert cloud.shape == (height, width)
    assert cloud.min() >= 0 and cloud.max() <= 1
    if height == width == 1 << (height.bit_length() - 1) > 1:
        assert (cloud.min(), cloud.max()) == (0, 1)


@settings(deadline=None, max_examples=30)
@given(image=arrays(np.uint8, (6, 5, 3)))
def test_the_way_to_the_unit_interval_and_back_loses_nothing(image: NDArray[np.uint8]) -> None:
    assert np.array_equal(to_uint8(unit(image)), image)
    assert np.array_equal(to_uint8(filters.unit32(image)), image)


def test_all_256_values_survive_single_precision() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    assert np.array_equal(to_uint8(filters.unit32(levels)), levels)


@pytest.mark.parametrize(
    ("name", "shape", "md5"),
    [
        ("frost1", (120, 180, 3), "33858e011f44a1436a740badceb84f23"),
        ("frost2", (63, 112, 3), "873bfd5cd0cb568956e97532ea75c3ad"),
        ("frost4", (70, 105, 3), "a02809ab3eb8352d1c7b9a848da7c7ab"),
        ("frost5", (99, 132, 3), "443fd446bdb6fcc5c105120d32a8e276"),
    ],
)
def test_the_frost_textures_are_the_official_ones(name: str, shape: tuple[int, ...], md5: str) -> None:
    texture = frost_texture(name)
    assert name in TEXTURES
    assert texture.shape == shape
    assert hashlib.md5(texture.tobytes()).hexdigest() == md5


def test_frost_covers_an_image_that_is_larger_than_the_textures() -> None:
    assert corrupted("frost", cloudy(224, 300, 3), 3).shape == (224, 300, 3)


@pytest.mark.parametrize(
    ("package", "turbo", "version", "name"),
    [
        (False, True, "6.2", "libjpeg-turbo"),
        (False, False, "9.4", "libjpeg 9.4"),
        (True, True, "6.2", "libjpeg 9c"),
    ],
)
def test_the_jpeg_codec_is_named(
    monkeypatch: pytest.MonkeyPatch, package: bool, turbo: bool, version: str, name: str
) -> None:
    fake = ModuleType("jpeglib")
    fake.__dict__["__version__"] = "1.0.2"
    monkeypatch.setitem(sys.modules, "jpeglib", fake)
    monkeypatch.setattr(jpeg, "find_spec", lambda _: object() if package else None)
    monkeypatch.setattr(features, "check_feature", lambda _: turbo)
    monkeypatch.setattr(features, "version", lambda _: version)
    jpeg.codec.cache_clear()
    assert jpeg.codec().startswith(name)
    jpeg.codec.cache_clear()


def test_generators_are_addressed() -> None:
    first, again, other = (image_generator(0, "fog", index).random() for index in (1, 1, 2))
    assert first == again != other
