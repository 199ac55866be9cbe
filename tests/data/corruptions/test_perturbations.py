"""The 20 sequences: their form, the frames that are known, and how they move."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.corruptions.facts import BENCHMARK_PERTURBATIONS, FRAMES, PERTURBATIONS, is_noise
from pipeline.data.corruptions.filters import to_uint8, unit32
from pipeline.data.corruptions.perturbations import MIDDLE, SEQUENCES, perturb, tilt_matrix
from pipeline.data.corruptions.weather import watered
from tests.data.corruptions.conftest import cloudy


def sequence(name: str, image: NDArray[np.uint8], seed: int = 0) -> NDArray[np.uint8]:
    return perturb(name, image, np.random.default_rng(seed))


def test_names_are_complete() -> None:
    assert len(PERTURBATIONS) == len(SEQUENCES) == 20
    assert set(SEQUENCES) == set(PERTURBATIONS) > set(BENCHMARK_PERTURBATIONS)
    assert len(BENCHMARK_PERTURBATIONS) == 10
    assert sum(FRAMES.values()) == 595


@pytest.mark.parametrize("name", PERTURBATIONS)
@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8, 1), (12, 9, 3)], ids=str)
def test_every_sequence_has_its_frames(name: str, shape: tuple[int, int, int]) -> None:
    image = cloudy(*shape)
    frames = sequence(name, image)
    assert frames.shape == (FRAMES[name], *shape)
    assert frames.dtype == np.uint8
    assert np.array_equal(image, cloudy(*shape))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_only_noise_snow_and_spatter_are_random(name: str) -> None:
    image = cloudy(32, 32, 3)
    first, again, other = (sequence(name, image, seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (not is_noise(name) and name not in ("snow", "spatter"))


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        *[(name, 0) for name in PERTURBATIONS if is_noise(name)],
        ("zoom_blur", 0),
        ("translate", 7),
        ("rotate", MIDDLE),
        ("scale", MIDDLE),
        ("shear", MIDDLE),
    ],
)
def test_one_frame_is_the_clean_image(name: str, frame: int) -> None:
    image = cloudy(32, 32, 3)
    assert np.array_equal(sequence(name, image)[frame], image)


def test_translation_moves_to_the_right_and_leaves_black() -> None:
    image = cloudy(8, 8, 1)
    frames = sequence("translate", image)
    assert np.array_equal(frames[9][:, 2:], image[:, :-2])
    assert frames[9][:, :2].sum() == 0
    assert np.array_equal(frames[6][:, :-1], image[:, 1:])


def test_brightness_grows_through_the_clean_image() -> None:
    image = cloudy(16, 16, 3)
    frames = sequence("brightness", image).astype(int)
    means = frames.mean(axis=(1, 2, 3))
    assert np.all(np.diff(means) > 0)
    assert np.abs(frames[MIDDLE] - image).max() <= 1


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "speckle_noise"])
def test_later_difficulties_are_noisier(name: str) -> None:
    image = cloudy(32, 32, 3)
    noises = [np.std(sequence(f"{name}{suffix}", image)[1:] - image.astype(float)) for suffix in ("", "_2", "_3")]
    assert noises == sorted(noises)
    assert noises[2] > 1.3 * noises[0]


def test_noise_frames_are_independent_draws() -> None:
    image = cloudy(32, 32, 3)
    noise = sequence("gaussian_noise", image)[1:].astype(float) - image
    correlations = np.corrcoef(noise.reshape(30, -1)) - np.eye(30)
    assert np.abs(correlations).max() < 0.1


def test_a_tilt_by_nothing_shrinks_a_little_around_the_middle() -> None:
    focal = np.hypot(32, 32)
    matrix = tilt_matrix(32, 32, 0.0)
    corner, middle = matrix @ [0, 0, 1], matrix @ [16, 16, 1]
    assert middle[:2] / middle[2] == pytest.approx([16, 16])
    assert 16 - corner[:2] / corner[2] == pytest.approx([16 * focal / (focal + 1)] * 2)


def test_without_water_the_image_stays() -> None:
    image = cloudy(16, 16, 3)
    assert np.array_equal(watered(image, np.zeros((16, 16)), 0.6), to_uint8(unit32(image)))
