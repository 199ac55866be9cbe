"""Accuracy and flips, against a network whose predictions are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.data.corruptions.facts import CORRUPTIONS, PERTURBATIONS
from pipeline.data.corruptions.folders import ImageFolder, Kind, open_regenerated
from pipeline.data.corruptions.generate import CleanImages, regenerate
from pipeline.data.images import ImageSplit
from pipeline.evaluation.corruption_scores import (
    corruption_accuracies,
    corruption_summary,
    perturbation_scores,
    perturbation_summary,
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
def test_accuracies_of_corruptions(corruptions: ImageFolder, batch_size: int) -> None:
    model = FirstValue().train()
    table = corruption_accuracies(model, corruptions, CPU, batch_size, report=quiet)
    assert model.training
    assert set(table["provenance"]) == {"regenerated"}
    assert table.columns.tolist() == ["corruption", "group", "severity", "images", "accuracy", "provenance"]
    assert table["corruption"].tolist() == ["snow"] * 5 + ["fog"] * 5
    assert table["severity"].tolist() == [1, 2, 3, 4, 5] * 2
    assert table["accuracy"].tolist() == [1, 1, 1, 1, 0.5, 1, 1, 0, 0, 0.5]
    assert set(table["group"]) == {"weather"} and set(table["images"]) == {2}
    summary = corruption_summary(table, names=("snow", "fog"))
    assert summary == pytest.approx({"accuracy_severity_5": 0.5, "accuracy": 0.7, "mce": 0.3})


def test_some_images(corruptions: ImageFolder) -> None:
    table = corruption_accuracies(FirstValue(), corruptions, CPU, images=1, report=quiet)
    assert table["accuracy"].tolist() == [1, 1, 1, 1, 0, 1, 1, 0, 0, 0]
    assert set(table["images"]) == {1}
    summary = corruption_summary(table, ("snow", "fog"))
    assert summary == pytest.approx({"accuracy_severity_5": 0, "accuracy": 0.6, "mce": 0.4})


def test_every_file_is_reported(corruptions: ImageFolder) -> None:
    said: list[str] = []
    corruption_accuracies(FirstValue(), corruptions, CPU, report=said.append)
    assert [line.split(" ", 1)[1] for line in said] == [
        "snow: 90.0% of 10 images correct",
        "fog: 50.0% of 10 images correct",
    ]


def test_a_mean_over_corruptions_that_are_missing_is_refused(corruptions: ImageFolder) -> None:
    table = corruption_accuracies(FirstValue(), corruptions, CPU, report=quiet)
    with pytest.raises(KeyError, match="glass_blur"):
        corruption_summary(table)


@pytest.fixture
def sequences(tmp_path: Path) -> ImageFolder:
    """Two sequences of four frames."""
    noise = np.array([[1, 0, 0, 1], [2, 2, 2, 2]])
    rotate = np.array([[1, 0, 0, 1], [2, 3, 2, 3]])
    return folder_of(tmp_path, "perturbations", {"gaussian_noise": noise, "rotate": rotate}, [1, 2])


@pytest.mark.parametrize("batch_size", [1, 4, 7, 100])
def test_scores_of_sequences(sequences: ImageFolder, batch_size: int) -> None:
    table = perturbation_scores(FirstValue(), sequences, CPU, batch_size, report=quiet)
    scores = table.set_index("perturbation")
    assert scores["frames"].tolist() == [4, 4]
    assert scores["accuracy"].tolist() == [6 / 8, 4 / 8]
    assert scores["flip_probability"].tolist() == [2 / 6, 5 / 6]  # noise: against the first frame
    assert set(scores["provenance"]) == {"regenerated"} and set(scores["images"]) == {2}
    summary = perturbation_summary(table, ("gaussian_noise", "rotate"))
    assert summary == pytest.approx({"accuracy": 5 / 8, "mfp": 7 / 12})


def test_digits_from_images_to_numbers(tmp_path: Path, tiny_split: ImageSplit, digits_model: nn.Module) -> None:
    test = tiny_split.test
    clean = CleanImages("digits", test.images.permute(0, 2, 3, 1).numpy(), test.labels.numpy())
    options: dict[str, Any] = {"seed": 0}
    regenerate("corruptions", clean, tmp_path / "C", CORRUPTIONS, **options)
    regenerate("perturbations", clean, tmp_path / "P", PERTURBATIONS, **options)
    folder = open_regenerated(tmp_path / "C", "corruptions", CORRUPTIONS)
    table = corruption_accuracies(digits_model, folder, CPU, report=quiet)
    assert len(table) == 19 * 5
    with torch.no_grad():
        predicted = digits_model(test.images.float() / 255).argmax(1)
    clean_accuracy = float((predicted == test.labels).float().mean())
    summary = corruption_summary(table)
    assert 0.1 < summary["accuracy_severity_5"] <= summary["accuracy"] < clean_accuracy
    sequences = open_regenerated(tmp_path / "P", "perturbations", PERTURBATIONS)
    scores = perturbation_scores(digits_model, sequences, CPU, report=quiet)
    assert len(scores) == 20
    assert 0 < perturbation_summary(scores)["mfp"] < 1
