"""Accuracy under corruptions and along perturbation sequences.

Definitions: Hendrycks and Dietterich, ICLR 2019, without AlexNet's errors as the unit: for CIFAR there is no reference
model, its authors take plain means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

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

Report = Callable[[str], None]


def corruption_accuracies(
    model: nn.Module,
    folder: ImageFolder,
    device: torch.device,
    batch_size: int = 256,
    images: int | None = None,
    report: Report = print,
) -> pd.DataFrame:
    """Accuracy in [0, 1] by corruption and severity.

    Files are read a batch at a time: memory does not grow with them.

    Args:
        model: Maps images (n, channels, height, width) in [0, 1] to logits; used in eval mode, its mode is restored.
        folder: Of corruptions.
        device: The model's.
        batch_size: Images at once.
        images: Only the first so many of each severity (None: all).
        report: Told in a sentence of every file.

    Returns:
        `corruption`, `group` ('noise', 'blur', 'weather', 'digital', 'extra'), `severity`, `images`, `accuracy`,
        `provenance`, in the order of the files.
    """
    count = min(images or len(folder), len(folder))
    rows, predicted = [], np.empty(count, np.int16)
    with _evaluating(model):
        for name in folder.names:
            for severity in SEVERITIES:
                chunks = row_chunks(folder.file(name), (severity - 1) * len(folder), count, batch_size)
                _predict_into(predicted, model, chunks, device)
                accuracy = float((predicted == folder.labels[:count]).mean())
                rows.append((name, GROUP_OF[name], severity, count, accuracy, folder.provenance))
            mean = np.mean([row[4] for row in rows[-len(SEVERITIES) :]])
            report(f"{folder.path.name} {name}: {mean:.1%} of {count * len(SEVERITIES)} images correct")
    return pd.DataFrame(rows, columns=["corruption", "group", "severity", "images", "accuracy", "provenance"])


def corruption_summary(accuracies: pd.DataFrame, names: tuple[str, ...] = BENCHMARK_CORRUPTIONS) -> dict[str, float]:
    """The means that papers report, each an unweighted mean over corruptions, in [0, 1].

    Args:
        accuracies: As made by `corruption_accuracies`.
        names: The corruptions to take.

    Returns:
        `accuracy_severity_5`, `accuracy` (all severities) and `mce` (mean corruption error, 1 - `accuracy`).
    """
    chosen = accuracies[accuracies["corruption"].isin(names)]
    errors = 1 - chosen.pivot(index="corruption", columns="severity", values="accuracy").loc[list(names)]
    return {
        "accuracy_severity_5": float(1 - errors[5].mean()),
        "accuracy": float(1 - errors.to_numpy().mean()),
        "mce": float(errors.to_numpy().mean()),
    }


def perturbation_scores(
    model: nn.Module,
    folder: ImageFolder,
    device: torch.device,
    batch_size: int = 256,
    images: int | None = None,
    report: Report = print,
) -> pd.DataFrame:
    """Accuracy over all frames and flip probability by perturbation, both in [0, 1].

    A flip is a pair of frames with different predictions: in noise sequences each frame with the clean first one,
    otherwise each frame with the one before it.

    Args:
        model: As for `corruption_accuracies`.
        folder: Of perturbations.
        device: The model's.
        batch_size: Images (frames) at once; a sequence is never divided.
        images: Only the first so many sequences of each perturbation (None: all).
        report: Told in a sentence of every file.

    Returns:
        `perturbation`, `images`, `frames` (of one sequence, the clean one among them), `accuracy`, `flip_probability`,
        `provenance` ('unverified' or 'regenerated').
    """
    count = min(images or len(folder), len(folder))
    rows = []
    with _evaluating(model):
        for name in folder.names:
            frames = int(np.load(folder.file(name), mmap_mode="r").shape[1])
            chunks = row_chunks(folder.file(name), 0, count, max(batch_size // frames, 1))
            predicted = np.empty((count, frames), np.int16)
            _predict_into(
                predicted.reshape(-1), model, (chunk.reshape(-1, *chunk.shape[2:]) for chunk in chunks), device
            )
            earlier = predicted[:, :1] if is_noise(name) else predicted[:, :-1]
            accuracy = float((predicted == folder.labels[:count, None]).mean())
            flips = float((predicted[:, 1:] != earlier).mean())
            rows.append((name, count, frames, accuracy, flips, folder.provenance))
            report(f"{folder.path.name} {name}: {accuracy:.1%} of frames correct")
    return pd.DataFrame(
        rows, columns=["perturbation", "images", "frames", "accuracy", "flip_probability", "provenance"]
    )


def perturbation_summary(scores: pd.DataFrame, names: tuple[str, ...] = BENCHMARK_PERTURBATIONS) -> dict[str, float]:
    """Unweighted means over perturbations: `accuracy` and `mfp` (mean flip probability).

    Args:
        scores: As made by `perturbation_scores`.
        names: The perturbations to take.
    """
    chosen = scores.set_index("perturbation").loc[list(names)]
    return {"accuracy": float(chosen["accuracy"].mean()), "mfp": float(chosen["flip_probability"].mean())}


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
