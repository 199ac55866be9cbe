"""Accuracy and flips, against a network whose predictions are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.core.errors import RequestError
from pipeline.data.corruptions.facts import BENCHMARK_CORRUPTIONS, CORRUPTIONS, PERTURBATIONS
from pipeline.data.corruptions.folders import ImageFolder, Kind, open_regenerated
from pipeline.data.corruptions.generate import CleanImages, regenerate
from pipeline.data.images import ImageSplit
from pipeline.evaluation.corruption_scores import (
    corruption_accuracies,
    corruption_summary,
    corruption_verdicts,
    flips,
    perturbation_scores,
    perturbation_summary,
    perturbation_verdicts,
)

CPU = torch.device("cpu")


class FirstValue(nn.Module):
    """Predicts the class that the first value of an image, 0..255, is."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self._classes = classes

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        assert images.dtype == torch.float32 and images.max() <= 1
        return nn.functional.one_hot((images[:, 0, 0, 0] * 255).round().long(), self._classes).float()


def quiet(_: str) -> None:
    """Say nothing."""


def folder_of(path: Path, kind: Kind, arrays_: dict[str, NDArray[np.uint8]], labels: list[int]) -> ImageFolder:
    """A folder whose arrays have the given first values; images are 4 x 5, RGB."""
    for name, values in arrays_.items():
        images = np.zeros((*values.shape, 4, 5, 3), np.uint8)
        images[..., 0, 0, 0] = values
        np.save(path / f"{name}.npy", images)
    return ImageFolder(path, kind, "regenerated", tuple(arrays_), np.array(labels))


@pytest.fixture
def corruptions(tmp_path: Path) -> ImageFolder:
    """Two images, classes 1 and 2: fog is right until severity 2, snow always but for one image at severity 5."""
    fog = [1, 2, 1, 2, 0, 0, 0, 0, 0, 2]
    snow = [1, 2, 1, 2, 1, 2, 1, 2, 9, 2]
    return folder_of(tmp_path, "corruptions", {"snow": np.array(snow), "fog": np.array(fog)}, [1, 2])


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_verdicts_and_accuracies_of_corruptions(corruptions: ImageFolder, batch_size: int) -> None:
    model = FirstValue().train()
    verdicts = corruption_verdicts(model, corruptions, CPU, batch_size, report=quiet)
    assert model.training
    assert verdicts["predicted"].tolist() == [1, 2, 1, 2, 1, 2, 1, 2, 9, 2, 1, 2, 1, 2, 0, 0, 0, 0, 0, 2]
    assert verdicts["label"].tolist() == [1, 2] * 10
    assert set(verdicts["provenance"]) == {"regenerated"}
    table = corruption_accuracies(verdicts)
    assert table.columns.tolist() == ["corruption", "group", "severity", "images", "accuracy", "provenance"]
    assert table["corruption"].tolist() == ["snow"] * 5 + ["fog"] * 5
    assert table["severity"].tolist() == [1, 2, 3, 4, 5] * 2
    assert table["accuracy"].tolist() == [1, 1, 1, 1, 0.5, 1, 1, 0, 0, 0.5]
    assert set(table["group"]) == {"weather"} and set(table["images"]) == {2}
    summary = corruption_summary(table, names=("snow", "fog"))
    assert summary == pytest.approx({"accuracy_severity_5": 0.5, "accuracy": 0.7, "mce": 0.3})


def test_some_severities_and_some_images(corruptions: ImageFolder) -> None:
    verdicts = corruption_verdicts(FirstValue(), corruptions, CPU, severities=(5,), images=1, report=quiet)
    assert verdicts["predicted"].tolist() == [9, 0]
    summary = corruption_summary(corruption_accuracies(verdicts), names=("snow", "fog"))
    assert summary == {"accuracy_severity_5": 0.0}


def test_every_file_is_reported(corruptions: ImageFolder) -> None:
    said: list[str] = []
    corruption_verdicts(FirstValue(), corruptions, CPU, report=said.append)
    assert [line.split(" ", 1)[1] for line in said] == [
        "snow: 90.0% of 10 images correct",
        "fog: 50.0% of 10 images correct",
    ]


def accuracies(**by_corruption: list[float]) -> pd.DataFrame:
    rows = [
        {"corruption": name, "severity": severity, "accuracy": value}
        for name, values in by_corruption.items()
        for severity, value in enumerate(values, 1)
    ]
    return pd.DataFrame(rows)


def test_errors_relative_to_a_reference() -> None:
    ours = accuracies(fog=[0.9, 0.8, 0.7, 0.6, 0.5], snow=[0.8] * 5)
    reference = accuracies(snow=[0.6] * 5, fog=[0.8, 0.6, 0.4, 0.2, 0.0])
    summary = corruption_summary(ours, reference, 0.95, 0.9, ("fog", "snow"))
    assert summary["mce"] == pytest.approx((1.5 / 3 + 1.0 / 2) / 2)
    assert summary["relative_mce"] == pytest.approx(((1.5 - 0.25) / (3 - 0.5) + (1 - 0.25) / (2 - 0.5)) / 2)
    assert corruption_summary(ours, ours, names=("fog",))["mce"] == pytest.approx(1)
    assert "relative_mce" not in corruption_summary(ours, reference, names=("fog",))


def test_a_mean_over_corruptions_that_are_missing_is_refused() -> None:
    ours = accuracies(**{name: [0.5] * 5 for name in BENCHMARK_CORRUPTIONS if name != "fog"})
    with pytest.raises(RequestError, match="the mean is over 15 corruptions, fog not among the results"):
        corruption_summary(ours)
    whole = accuracies(**{name: [0.5] * 5 for name in CORRUPTIONS})
    with pytest.raises(RequestError, match="fog"):
        corruption_summary(whole, reference=ours)


@pytest.fixture
def sequences(tmp_path: Path) -> ImageFolder:
    """Two sequences of four frames."""
    noise = np.array([[1, 0, 0, 1], [2, 2, 2, 2]])
    rotate = np.array([[1, 0, 0, 1], [2, 3, 2, 3]])
    return folder_of(tmp_path, "perturbations", {"gaussian_noise": noise, "rotate": rotate}, [1, 2])


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_verdicts_and_scores_of_sequences(sequences: ImageFolder, batch_size: int) -> None:
    verdicts = perturbation_verdicts(FirstValue(), sequences, CPU, batch_size, report=quiet)
    assert verdicts["correct"].tolist() == [2, 4, 2, 2]
    assert verdicts["flips"].tolist() == [2, 0, 2, 3]  # noise: against the first frame
    assert set(verdicts["pairs"]) == {3} and set(verdicts["frames"]) == {4}
    scores = perturbation_scores(verdicts).set_index("perturbation")
    assert scores["accuracy"].tolist() == [6 / 8, 4 / 8]
    assert scores["flip_probability"].tolist() == [2 / 6, 5 / 6]
    assert set(scores["provenance"]) == {"regenerated"} and set(scores["images"]) == {2}
    names = ("gaussian_noise", "rotate")
    summary = perturbation_summary(scores.reset_index(), scores.reset_index(), names)
    assert summary == pytest.approx({"accuracy": 5 / 8, "mfp": 7 / 12, "mfr": 1})


def test_difficulty_compares_frames_further_apart_except_in_noise(sequences: ImageFolder) -> None:
    verdicts = perturbation_verdicts(FirstValue(), sequences, CPU, difficulty=2, report=quiet)
    assert verdicts["flips"].tolist() == [2, 0, 2, 0]
    assert verdicts["pairs"].tolist() == [3, 3, 2, 2]


@settings(max_examples=50)
@given(predicted=arrays(np.int16, (3, 9), elements=st.integers(0, 2)), difficulty=st.integers(1, 8))
def test_a_difficulty_is_the_mean_over_interleaved_sequences(predicted: NDArray[np.int16], difficulty: int) -> None:
    parts = [predicted[:, start::difficulty] for start in range(difficulty)]
    expected = sum(int((part[:, 1:] != part[:, :-1]).sum()) for part in parts)
    assert int(flips(predicted, noise=False, difficulty=difficulty).sum()) == expected


def test_sums_over_many_sequences_do_not_overflow() -> None:
    count = 3000
    verdicts = pd.DataFrame(
        {
            "perturbation": "rotate",
            "provenance": "regenerated",
            "frames": np.full(count, 31, np.int16),
            "correct": np.full(count, 31, np.int16),
            "pairs": np.full(count, 30, np.int16),
            "flips": np.full(count, 15, np.int16),
        }
    )
    scores = perturbation_scores(verdicts).iloc[0]
    assert (scores["accuracy"], scores["flip_probability"], scores["frames"]) == (1, 0.5, 31)


def test_the_other_kind_of_folder_is_refused(corruptions: ImageFolder) -> None:
    with pytest.raises(RequestError, match="holds corruptions, perturbations were asked for"):
        perturbation_verdicts(FirstValue(), corruptions, CPU)


def test_digits_from_images_to_numbers(tmp_path: Path, tiny_split: ImageSplit, digits_model: nn.Module) -> None:
    test = tiny_split.test
    clean = CleanImages("digits", test.images.permute(0, 2, 3, 1).numpy(), test.labels.numpy())
    options: dict[str, Any] = {"seed": 0, "report": quiet}
    regenerate("corruptions", clean, tmp_path / "C", CORRUPTIONS, **options)
    regenerate("perturbations", clean, tmp_path / "P", PERTURBATIONS, **options)
    folder = open_regenerated(tmp_path / "C", "corruptions", CORRUPTIONS)
    table = corruption_accuracies(corruption_verdicts(digits_model, folder, CPU, report=quiet))
    assert len(table) == 19 * 5
    with torch.no_grad():
        predicted = digits_model(test.images.float() / 255).argmax(1)
    clean_accuracy = float((predicted == test.labels).float().mean())
    summary = corruption_summary(table)
    assert 0.1 < summary["accuracy_severity_5"] <= summary["accuracy"] < clean_accuracy
    sequences = open_regenerated(tmp_path / "P", "perturbations", PERTURBATIONS)
    scores = perturbation_scores(perturbation_verdicts(digits_model, sequences, CPU, report=quiet))
    assert len(scores) == 20
    assert 0 < perturbation_summary(scores)["mfp"] < 1
