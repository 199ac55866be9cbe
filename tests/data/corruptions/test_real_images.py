"""The released bytes and distributions, on the first 200 test images of the real CIFAR-10 in data/raw."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.data.corruptions.catalogue import corrupt, image_generator
from pipeline.data.corruptions.facts import CORRUPTIONS, DETERMINISTIC, SEVERITIES
from pipeline.data.corruptions.jpeg import codec
from pipeline.data.corruptions.perturbations import perturb
from pipeline.data.sources import read_official
from tests.conftest import REPOSITORY
from tests.data.corruptions.known import TURBO, corruption_facts, perturbation_facts, psnr

IMAGES = 200
ROOT = REPOSITORY / "data" / "raw"
EXACT_SEQUENCES = ("motion_blur", "zoom_blur", "brightness", "translate", "rotate", "tilt", "scale", "gaussian_blur")

pytestmark = pytest.mark.skipif(
    not (ROOT / "cifar-10-batches-py" / "test_batch").exists(), reason="needs the real CIFAR-10 in data/raw"
)


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    _, test = read_official("cifar10", ROOT)
    return np.ascontiguousarray(test.images[:IMAGES].permute(0, 2, 3, 1).numpy())


def corrupted(name: str, severity: int, images: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """All of `images`, corrupted."""
    addresses = [(seed, "corruptions", "cifar10", name, severity, index) for index in range(len(images))]
    return np.stack(
        [
            corrupt(name, image, severity, image_generator(*address))
            for image, address in zip(images, addresses, strict=True)
        ]
    )


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_corruptions_have_the_released_bytes(images: NDArray[np.uint8], name: str) -> None:
    known = name
    if name == "jpeg_compression" and "turbo" in codec():
        known = TURBO
    facts = corruption_facts()
    for severity in SEVERITIES:
        made = corrupted(name, severity, images, seed=0)
        assert hashlib.md5(made.tobytes()).hexdigest() == facts[known, severity].md5_200
        assert psnr(made, images) == pytest.approx(facts[known, severity].psnr, abs=0.001)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in DETERMINISTIC])
def test_random_corruptions_have_the_released_distribution(images: NDArray[np.uint8], name: str) -> None:
    for severity in SEVERITIES:
        fact = corruption_facts()[name, severity]
        found = np.mean([psnr(corrupted(name, severity, images, seed), images) for seed in range(2)])
        assert abs(found - fact.psnr) < 3 * fact.psnr_sd


@pytest.mark.parametrize("name", EXACT_SEQUENCES)
def test_deterministic_sequences_have_the_known_psnr(images: NDArray[np.uint8], name: str) -> None:
    made = np.stack([perturb(name, image, image_generator(0)) for image in images])
    clean = np.broadcast_to(images[:, None], made.shape)
    found = psnr(made.reshape(-1, 32, 32, 3), clean.reshape(-1, 32, 32, 3))
    assert found == pytest.approx(perturbation_facts()[name][0], abs=0.001)
