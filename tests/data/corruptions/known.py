"""Facts about the official corruptions of CIFAR-10, in two CSV files beside this one.

MD5 of uint8 arrays (n, 32, 32, 3), and mean and spread of PSNR over eight seeds of the authors' algorithm, whose
release was never seeded; PSNR is the mean over images of 10 log10(255^2 / MSE), images without a difference left out.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TURBO = "jpeg_compression_libjpeg_turbo"


class Fact(NamedTuple):
    """What is known of one corruption at one severity; random ones have no digests (''), the others no spread (0)."""

    psnr: float
    psnr_sd: float
    md5_200: str
    md5_10000: str


def corruption_facts() -> dict[tuple[str, int], Fact]:
    """Facts by corruption and severity."""
    return {
        (row["corruption"], int(row["severity"])): Fact(
            float(row["psnr"]), float(row["psnr_sd"] or 0), row["md5_200"], row["md5_10000"]
        )
        for row in _rows("corruption_facts.csv")
    }


def perturbation_facts() -> dict[str, tuple[float, float, float]]:
    """PSNR against the clean image, the first frame and the frame before, by perturbation."""
    return {
        row["perturbation"]: (float(row["psnr_clean"]), float(row["psnr_first"]), float(row["psnr_previous"]))
        for row in _rows("perturbation_facts.csv")
    }


def _rows(file: str) -> list[dict[str, str]]:
    with open(Path(__file__).parent / file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Mean over images (the first axis) that differ, in dB; infinite if none does."""
    squares = (first.astype(np.float64) - second) ** 2
    means = squares.reshape(len(squares), -1).mean(axis=1)
    means = means[means > 0]
    return float((10 * np.log10(255**2 / means)).mean()) if len(means) else float("inf")
