"""Our corruptions against facts about the official ones, on the real CIFAR-10 test images; writes docs/corruptions.md.

    python -m benchmarks.corruptions --root data/raw --folder FOLDER

Of a corruption that draws nothing, the bytes must be the released ones. Of a random one, whose release was never
seeded, the mean PSNR over the first 200 images is compared: the deviation is given in standard deviations over seeds of
the authors' algorithm, and means over our seeds scatter a third as much as single ones.

The facts, in two CSV files beside this one: MD5 of uint8 arrays (n, 32, 32, 3), and mean and spread of PSNR over eight
seeds; PSNR is the mean over images of 10 log10(255^2 / MSE), images without a difference left out.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.corruptions.catalogue import CATALOGUE, corrupt, image_generator
from pipeline.data.corruptions.facts import CORRUPTIONS, DETERMINISTIC, PERTURBATIONS, SEVERITIES
from pipeline.data.corruptions.folders import array_file, row_chunks
from pipeline.data.corruptions.generate import CleanImages, regenerate
from pipeline.data.corruptions.jpeg import by_pillow, codec, pillow_codec
from pipeline.data.corruptions.perturbations import perturb
from pipeline.data.sources import read_official
from pipeline.files import write_text
from pipeline.provenance.commit import git_commit, versions

HERE = Path(__file__).resolve().parent
IMAGES = 200
SEEDS = 8
NOT_MEASURED = "not measured"
TURBO = "jpeg_compression_libjpeg_turbo"

Images = NDArray[np.uint8]
Row = list[str]


class Fact(NamedTuple):
    """What is known of one corruption at one severity; random ones have no digests (''), the others no spread (0)."""

    psnr: float
    psnr_sd: float
    md5_200: str
    md5_10000: str


Facts = dict[tuple[str, int], Fact]


def corruption_facts() -> Facts:
    """By corruption and severity."""
    rows = _rows("corruption_facts.csv")
    return {
        (row["corruption"], int(row["severity"])): Fact(
            float(row["psnr"]), float(row["psnr_sd"] or 0), row["md5_200"], row["md5_10000"]
        )
        for row in rows
    }


def perturbation_facts() -> dict[str, tuple[float, float, float]]:
    """By perturbation: PSNR against the clean image, the first frame and the frame before."""
    return {
        row["perturbation"]: (float(row["psnr_clean"]), float(row["psnr_first"]), float(row["psnr_previous"]))
        for row in _rows("perturbation_facts.csv")
    }


def _rows(file: str) -> list[dict[str, str]]:
    with open(HERE / file, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def load_images(root: Path) -> CleanImages:
    """CIFAR-10's, in the official order."""
    _, test = read_official("cifar10", root)
    images = np.ascontiguousarray(test.images.permute(0, 2, 3, 1).numpy())
    return CleanImages("cifar10", images, test.labels.numpy())


def psnr(first: Images, second: Images) -> float:
    """Mean over images (the first axis) that differ, in dB; infinite if none does."""
    squares = (first.astype(np.float64) - second) ** 2
    means = squares.reshape(len(squares), -1).mean(axis=1)
    means = means[means > 0]
    return float((10 * np.log10(255**2 / means)).mean()) if len(means) else float("inf")


def corrupted(name: str, severity: int, images: Images, seed: int) -> Images:
    """All of `images`, corrupted."""
    return np.stack(
        [
            corrupt(name, image, severity, image_generator(seed, "corruptions", "cifar10", name, severity, index))
            for index, image in enumerate(images)
        ]
    )


def deterministic_row(name: str, images: Images, facts: Facts, whole: list[str]) -> Row:
    """Name, first 200 images at severities 1 to 5, all images, whole file, milliseconds per image."""
    begin = time.perf_counter()
    cells = [equality(name, severity, corrupted(name, severity, images, seed=0), facts) for severity in SEVERITIES]
    shown = f"{name}, {codec()}" if name == "jpeg_compression" else name
    return [shown, *cells, *whole, milliseconds(begin, len(SEVERITIES) * len(images))]


def pillow_row(images: Images, facts: Facts) -> Row:
    """The same for JPEG by Pillow's libjpeg-turbo, against what the authors' algorithm gives with that codec."""
    begin = time.perf_counter()
    qualities = [quality for (quality,) in CATALOGUE["jpeg_compression"].parameters]
    made = [np.stack([by_pillow(image, quality) for image in images]) for quality in qualities]
    cells = [equality(TURBO, severity, found, facts) for severity, found in zip(SEVERITIES, made, strict=True)]
    cells = [cell.replace("equal", "equal to turbo's") for cell in cells]
    shown = f"jpeg_compression, {pillow_codec()}"
    return [shown, *cells, NOT_MEASURED, "never", milliseconds(begin, len(SEVERITIES) * len(images))]


def equality(name: str, severity: int, made: Images, facts: Facts) -> str:
    """Whether these are the known bytes of the first images."""
    known = facts[name, severity].md5_200
    return "equal" if hashlib.md5(made.tobytes()).hexdigest() == known else "**differs**"


def random_row(name: str, images: Images, facts: Facts) -> tuple[Row, list[float]]:
    """Name, deviation of the mean PSNR at severities 1 to 5, milliseconds per image; and the deviations."""
    begin = time.perf_counter()
    deviations = []
    for severity in SEVERITIES:
        found = np.mean([psnr(corrupted(name, severity, images, seed), images) for seed in range(SEEDS)])
        fact = facts[name, severity]
        deviations.append(float((found - fact.psnr) / fact.psnr_sd))
    cells = [f"{deviation:+.2f}" for deviation in deviations]
    return [name, *cells, milliseconds(begin, SEEDS * len(SEVERITIES) * len(images))], deviations


def perturbation_row(name: str, images: Images, facts: tuple[float, float, float]) -> Row:
    """Name, frames, PSNR against the clean image, the first frame, the frame before (and the fact), milliseconds."""
    begin = time.perf_counter()
    made = np.stack(
        [
            perturb(name, image, image_generator(0, "perturbations", "cifar10", name, 0, index))
            for index, image in enumerate(images)
        ]
    )
    spent = milliseconds(begin, len(images))

    def frames(array: Images) -> Images:
        return array.reshape(-1, *images.shape[1:])

    clean = frames(np.broadcast_to(images[:, None], made.shape))
    first = frames(np.broadcast_to(made[:, :1], made[:, 1:].shape))
    found = [
        psnr(frames(made), clean),
        psnr(frames(made[:, 1:]), first),
        psnr(frames(made[:, 1:]), frames(made[:, :-1])),
    ]
    cells = [f"{value:.3f} ({known:.3f})" for value, known in zip(found, facts, strict=True)]
    return [name, str(made.shape[1]), *cells, spent]


def milliseconds(begin: float, images: int) -> str:
    """Per image since `begin`."""
    return f"{(time.perf_counter() - begin) / images * 1000:.2f}"


def whole_files(clean: CleanImages, folder: Path, names: tuple[str, ...], facts: Facts) -> dict[str, list[str]]:
    """By name: are all images of all severities the released ones, and is the file that `regenerate` writes?"""
    manifest = regenerate("corruptions", clean, folder, names, seed=0)
    cells = {}
    for name in names:
        equal = 0
        for severity in SEVERITIES:
            count = len(clean.images)
            rows = row_chunks(array_file(folder, name), (severity - 1) * count, count, 1000)
            digest = hashlib.md5(b"".join(chunk.tobytes() for chunk in rows)).hexdigest()
            equal += digest == facts[name, severity].md5_10000
        released = "the released one" if manifest["files"][name]["official_bytes"] else "**not the released one**"
        cells[name] = [f"{equal} of {len(SEVERITIES)} equal", released]
    return cells


def table(header: Row, rows: list[Row]) -> str:
    """In Markdown."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(deterministic: list[Row], random: list[Row], deviations: list[float], sequences: list[Row]) -> str:
    """docs/corruptions.md."""
    severities = [f"severity {severity}" for severity in SEVERITIES]
    root_mean_square = float(np.sqrt(np.mean(np.square(deviations))))
    largest = max(map(abs, deviations))
    introduction = (HERE / "corruptions.md").read_text(encoding="utf-8").split("<!-- table -->\n")
    environment = ", ".join(f"{name} {found}" for name, found in versions().items())
    tables = [
        table(["corruption", *severities, "all 10,000", "file", "ms/image"], deterministic),
        table(["corruption", *severities, "ms/image"], random)
        + f"\n\nLargest deviation {largest:.2f}, root mean square {root_mean_square:.2f} ({len(deviations)} cells).",
        table(["perturbation", "frames", "clean image", "first frame", "frame before", "ms/sequence"], sequences)
        + f"\n\nMeasured once, on one core of a machine that other jobs used too; {environment}; "
        f"commit {git_commit()}.",
    ]
    pairs = zip(introduction, [*tables, ""], strict=True)
    return "".join(f"{text}{content}\n" if content else text for text, content in pairs)


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 if every digest is the released one and no deviation is above three."""
    parser = argparse.ArgumentParser(prog="benchmarks.corruptions", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("data/raw"), help="folder of the official CIFAR-10")
    parser.add_argument("--folder", type=Path, help="also all 10,000 images, written here and kept (1.2 GB, minutes)")
    parser.add_argument("--names", nargs="+", default=DETERMINISTIC, choices=DETERMINISTIC, help="only these of them")
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "corruptions.md")
    options = parser.parse_args(arguments)
    clean, facts = load_images(options.root), corruption_facts()
    images = clean.images[:IMAGES]
    whole = whole_files(clean, options.folder, tuple(options.names), facts) if options.folder else {}
    deterministic = [
        deterministic_row(name, images, facts, whole.get(name, [NOT_MEASURED] * 2)) for name in DETERMINISTIC
    ]
    if pillow_codec() != codec() and "turbo" in pillow_codec():
        deterministic.append(pillow_row(images, facts))
    known = perturbation_facts()
    measured = [random_row(name, images, facts) for name in CORRUPTIONS if name not in DETERMINISTIC]
    deviations = [deviation for _, found in measured for deviation in found]
    sequences = [perturbation_row(name, images, known[name]) for name in PERTURBATIONS]
    text = document(deterministic, [row for row, _ in measured], deviations, sequences)
    write_text(options.output, text)
    print(text)
    return 1 if "**" in text or max(map(abs, deviations)) > 3 else 0


if __name__ == "__main__":
    sys.exit(main())
