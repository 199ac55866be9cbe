"""Accuracy under corruptions and along perturbation sequences: predictions first, every number from them afterwards.

Definitions: Hendrycks and Dietterich, ICLR 2019, without AlexNet's errors as the unit: for CIFAR there is no reference
model, its authors take plain means. Another model's results can be given as the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.core.errors import RequestError
from pipeline.data.corruptions.facts import (
    BENCHMARK_CORRUPTIONS,
    BENCHMARK_PERTURBATIONS,
    GROUP_OF,
    SEVERITIES,
    is_noise,
)
from pipeline.data.corruptions.folders import ImageFolder, row_chunks
from pipeline.data.images import to_unit_interval
from pipeline.evaluation.predictions import channels_last

WORST = 5
"""The severity of the paper's table."""

Report = Callable[[str], None]


def corruption_verdicts(
    model: nn.Module,
    folder: ImageFolder,
    device: torch.device,
    batch_size: int = 256,
    severities: tuple[int, ...] = SEVERITIES,
    images: int | None = None,
    report: Report = print,
) -> pd.DataFrame:
    """What a model predicts for every corrupted image.

    Files are read a batch at a time: memory does not grow with them.

    Args:
        model: Maps images (n, channels, height, width) in [0, 1] to logits; used in eval mode, its mode is restored.
        folder: Of corruptions.
        device: The model's.
        batch_size: Images at once.
        severities: Among 1 to 5.
        images: Only the first so many of each severity (None: all).
        report: Told in a sentence of every file.

    Returns:
        One row per image: `corruption`, `severity`, `image` (position in the test set), `label`, `predicted`,
        `correct`, `provenance` ('official' or 'regenerated').

    Raises:
        RequestError: the folder is of perturbations.
    """
    _require("corruptions", folder)
    count = min(images or len(folder), len(folder))
    predicted = np.empty((len(folder.names), len(severities), count), np.int16)
    with _evaluating(model):
        for rows, name in zip(predicted, folder.names, strict=True):
            for row, severity in zip(rows, severities, strict=True):
                first = (severity - 1) * len(folder)
                _predict_into(row, model, row_chunks(folder.file(name), first, count, batch_size), device)
            correct = rows == folder.labels[:count]
            report(f"{folder.path.name} {name}: {correct.mean():.1%} of {correct.size} images correct")
    frames = [
        _corruption_rows(name, severity, folder.labels[:count], row)
        for name, rows in zip(folder.names, predicted, strict=True)
        for severity, row in zip(severities, rows, strict=True)
    ]
    verdicts = pd.concat(frames, ignore_index=True)
    verdicts["corruption"] = pd.Categorical(verdicts["corruption"], categories=list(folder.names))
    return verdicts.assign(provenance=pd.Categorical([folder.provenance] * len(verdicts)))


def corruption_accuracies(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in [0, 1] by corruption and severity.

    Args:
        verdicts: As made by `corruption_verdicts`.

    Returns:
        `corruption`, `group` ('noise', 'blur', 'weather', 'digital', 'extra'), `severity`, `images`, `accuracy`,
        `provenance`, in the order of the files.
    """
    keys = ["corruption", "severity", "provenance"]
    table = verdicts.groupby(keys, observed=True)["correct"].agg(images="count", accuracy="mean").reset_index()
    table.insert(1, "group", [GROUP_OF[name] for name in table["corruption"]])
    return table[["corruption", "group", "severity", "images", "accuracy", "provenance"]]


def corruption_summary(
    accuracies: pd.DataFrame,
    reference: pd.DataFrame | None = None,
    clean_accuracy: float | None = None,
    reference_clean_accuracy: float | None = None,
    names: tuple[str, ...] = BENCHMARK_CORRUPTIONS,
) -> dict[str, float]:
    """The means that papers report, each an unweighted mean over corruptions.

    Args:
        accuracies: As made by `corruption_accuracies`.
        reference: The same of another model; its errors become the unit of `mce`.
        clean_accuracy: Of the model on the uncorrupted images, for `relative_mce`.
        reference_clean_accuracy: Of the reference.
        names: The corruptions to take; all must be there.

    Returns:
        `accuracy_severity_5`, `accuracy` (all severities) and `mce` (mean corruption error: with a reference the mean
        over corruptions of the ratio of summed errors, otherwise 1 - `accuracy`), and `relative_mce` (the same of the
        errors beyond the clean one) if both clean accuracies are given. Means over severities that are not there are
        left out. Whole numbers are 1, not 100.

    Raises:
        RequestError: a corruption is missing in one of the tables.
    """
    errors = 1 - _by_severity(accuracies, names)
    summary = {}
    if WORST in errors:
        summary["accuracy_severity_5"] = float(1 - errors[WORST].mean())
    if set(SEVERITIES) <= set(errors.columns):
        summary["accuracy"] = float(1 - errors.to_numpy().mean())
        summary["mce"] = float(errors.to_numpy().mean())
    if reference is not None:
        unit = 1 - _by_severity(reference, names)[errors.columns]
        summary["mce"] = float((errors.sum(axis=1) / unit.sum(axis=1)).mean())
        if clean_accuracy is not None and reference_clean_accuracy is not None:
            beyond = (errors - (1 - clean_accuracy)).sum(axis=1)
            unit_beyond = (unit - (1 - reference_clean_accuracy)).sum(axis=1)
            summary["relative_mce"] = float((beyond / unit_beyond).mean())
    return summary


def perturbation_verdicts(
    model: nn.Module,
    folder: ImageFolder,
    device: torch.device,
    batch_size: int = 256,
    images: int | None = None,
    difficulty: int = 1,
    report: Report = print,
) -> pd.DataFrame:
    """What a model predicts along every sequence.

    A flip is a pair of frames with different predictions: in noise sequences each frame with the clean first one,
    otherwise each frame with the one `difficulty` frames before it.

    Args:
        model: As for `corruption_verdicts`.
        folder: Of perturbations.
        device: The model's.
        batch_size: Images (frames) at once; a sequence is never divided.
        images: Only the first so many sequences of each perturbation (None: all).
        difficulty: 1 is what everybody reports. For noise it is in the file's name, and this has no effect.
        report: Told in a sentence of every file.

    Returns:
        One row per sequence: `perturbation`, `image` (position in the test set), `label`, `frames`, `correct` (frames
        classified correctly, the clean one among them), `pairs`, `flips`, `provenance` ('unverified' or 'regenerated').

    Raises:
        RequestError: the folder is of corruptions.
    """
    _require("perturbations", folder)
    count = min(images or len(folder), len(folder))
    predicted = {}
    with _evaluating(model):
        for name in folder.names:
            length = int(np.load(folder.file(name), mmap_mode="r").shape[1])
            chunks = row_chunks(folder.file(name), 0, count, max(batch_size // length, 1))
            frames = np.empty(count * length, np.int16)
            _predict_into(frames, model, (chunk.reshape(-1, *chunk.shape[2:]) for chunk in chunks), device)
            predicted[name] = frames.reshape(count, length)
            correct = predicted[name] == folder.labels[:count, None]
            report(f"{folder.path.name} {name}: {correct.mean():.1%} of frames correct")
    rows = [_sequence_rows(name, folder.labels[:count], found, difficulty) for name, found in predicted.items()]
    verdicts = pd.concat(rows, ignore_index=True)
    verdicts["perturbation"] = pd.Categorical(verdicts["perturbation"], categories=list(folder.names))
    return verdicts.assign(provenance=pd.Categorical([folder.provenance] * len(verdicts)))


def flips(predicted: NDArray[np.int16], noise: bool, difficulty: int = 1) -> NDArray[np.bool_]:
    """Which pairs of frames differ.

    Args:
        predicted: (sequences, frames) classes.
        noise: Compare with the first frame, not with an earlier one.
        difficulty: How many frames earlier; at least 1 and less than the number of frames.

    Returns:
        (sequences, pairs): frames - 1 pairs for noise, frames - `difficulty` otherwise.
    """
    later, earlier = (
        (predicted[:, 1:], predicted[:, :1]) if noise else (predicted[:, difficulty:], predicted[:, :-difficulty])
    )
    differing: NDArray[np.bool_] = later != earlier
    return differing


def perturbation_scores(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Accuracy over all frames and flip probability by perturbation, both in [0, 1].

    Args:
        verdicts: As made by `perturbation_verdicts`.

    Returns:
        `perturbation`, `images`, `frames` (of one sequence), `accuracy`, `flip_probability`, `provenance`.
    """
    groups = verdicts.groupby(["perturbation", "provenance"], observed=True)
    sums = groups[["frames", "correct", "pairs", "flips"]].sum()
    images = groups.size()
    table = pd.DataFrame(
        {
            "images": images,
            "frames": sums["frames"] // images,
            "accuracy": sums["correct"] / sums["frames"],
            "flip_probability": sums["flips"] / sums["pairs"],
        }
    ).reset_index()
    return table[["perturbation", "images", "frames", "accuracy", "flip_probability", "provenance"]]


def perturbation_summary(
    scores: pd.DataFrame,
    reference: pd.DataFrame | None = None,
    names: tuple[str, ...] = BENCHMARK_PERTURBATIONS,
) -> dict[str, float]:
    """Unweighted means over perturbations.

    Args:
        scores: As made by `perturbation_scores`.
        reference: The same of another model; its flip probabilities become the unit of `mfr`.
        names: The perturbations to take; all must be there.

    Returns:
        `accuracy`, `mfp` (mean flip probability) and, with a reference, `mfr` (mean flip rate).

    Raises:
        RequestError: a perturbation is missing in one of the tables.
    """
    chosen = _only(scores, "perturbation", names).set_index("perturbation")
    summary = {"accuracy": float(chosen["accuracy"].mean()), "mfp": float(chosen["flip_probability"].mean())}
    if reference is not None:
        unit = _only(reference, "perturbation", names).set_index("perturbation")["flip_probability"]
        ratios = [chosen["flip_probability"][name] / unit[name] for name in names]
        summary["mfr"] = float(np.mean(ratios))
    return summary


def _require(kind: str, folder: ImageFolder) -> None:
    if folder.kind != kind:
        raise RequestError(f"{folder.path}: holds {folder.kind}, {kind} were asked for")


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.no_grad()
def _predict_into(
    predicted: NDArray[np.int16], model: nn.Module, chunks: Iterator[NDArray[np.uint8]], device: torch.device
) -> None:
    """Fill (n,) classes of images that come as chunks (., height, width, channels), n in all.

    Nothing that stays is allocated between batches: small blocks between large ones keep freed memory from being used
    again, and the process would grow with every file (measured: 33 MiB a corruption).
    """
    start = 0
    for chunk in chunks:
        inputs = to_unit_interval(torch.from_numpy(chunk).to(device).permute(0, 3, 1, 2))
        predicted[start : start + len(chunk)] = model(channels_last(inputs)).argmax(1).cpu().numpy()
        start += len(chunk)


def _corruption_rows(name: str, severity: int, labels: NDArray[np.int64], predicted: NDArray[np.int16]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "corruption": name,
            "severity": np.int8(severity),
            "image": np.arange(len(labels), dtype=np.int32),
            "label": labels.astype(np.int16),
            "predicted": predicted,
            "correct": predicted == labels,
        }
    )


def _sequence_rows(name: str, labels: NDArray[np.int64], predicted: NDArray[np.int16], difficulty: int) -> pd.DataFrame:
    differing = flips(predicted, is_noise(name), difficulty)
    return pd.DataFrame(
        {
            "perturbation": name,
            "image": np.arange(len(labels), dtype=np.int32),
            "label": labels.astype(np.int16),
            "frames": np.int16(predicted.shape[1]),
            "correct": (predicted == labels[:, None]).sum(axis=1).astype(np.int16),
            "pairs": np.int16(differing.shape[1]),
            "flips": differing.sum(axis=1).astype(np.int16),
        }
    )


def _by_severity(accuracies: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    """Accuracy, one row per corruption, one column per severity."""
    return _only(accuracies, "corruption", names).pivot_table(
        index="corruption", columns="severity", values="accuracy", observed=True
    )


def _only(table: pd.DataFrame, column: str, names: tuple[str, ...]) -> pd.DataFrame:
    missing = [name for name in names if name not in set(table[column])]
    if missing:
        raise RequestError(
            f"the mean is over {len(names)} {column}s, {', '.join(missing)} not among the results: evaluate them too, "
            "or name those that the mean is to be over"
        )
    return table[table[column].isin(names)]
