"""Evaluation of one model: natural predictions, PGD, AutoAttack, each as a verdict per image."""

from __future__ import annotations

from typing import Protocol

import pandas as pd
import torch
from torch import nn

from pipeline.attacks.pgd import PGD
from pipeline.attacks.predictions import channels_last, predictions
from pipeline.config import AutoAttackSettings, EvaluationSettings, PGDAttackSettings
from pipeline.data.images import ImageSet
from pipeline.devices import Backend
from pipeline.evaluation.autoattack import standard_attacks
from pipeline.evaluation.journal import Journal
from pipeline.evaluation.verdicts import verdict_frame
from pipeline.streams import stream_seed


class EvaluationObserver(Protocol):
    """Somebody who watches an evaluation."""

    def on_attack(self, attack: str, part: str, batches: int) -> None:
        """An attack (or a part of AutoAttack) begins, over this many batches."""

    def on_batch(self, robust: int, images: int) -> None:
        """A batch has ended: how many of its images are still classified correctly."""


class Evaluation:
    """Measures one model on test images; every finished batch is journaled, so that a killed evaluation goes on.

    Args:
        model: Maps images to logits; put in eval mode. All arithmetic is float32.
        images: Test images, on the model's device.
        settings: Attacks and batch size.
        journal: Of this model and these settings.
        observer: Told of progress.
    """

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        settings: EvaluationSettings,
        journal: Journal,
        observer: EvaluationObserver,
    ) -> None:
        self._model = model.eval()
        self._images = images
        self._settings = settings
        self._journal = journal
        self._observer = observer
        self._backend = Backend(images.images.device, bfloat16=False)

    def run(self) -> pd.DataFrame:
        """The verdicts of all attacks; see `verdict_frame` for the columns."""
        natural = self._predict("natural", None, self._images)
        frames = [self._verdicts("natural", natural)]
        for name, attack in self._settings.attacks.items():
            everything = torch.arange(min(attack.images or len(self._images), len(self._images)))
            images = self._images.subset(everything.to(self._images.images.device))
            if attack.name == "pgd":
                predicted = self._pgd(name, attack, images)
            else:
                predicted = self._autoattack(name, attack, images, natural[: len(images)])
            frames.append(self._verdicts(name, predicted))
        return pd.concat(frames, ignore_index=True)

    def _verdicts(self, attack: str, predicted: list[int]) -> pd.DataFrame:
        return verdict_frame(attack, self._images.labels[: len(predicted)].tolist(), predicted)

    def _pgd(self, name: str, settings: PGDAttackSettings, images: ImageSet) -> list[int]:
        attack = PGD(norm=settings.norm, epsilon=settings.epsilon, step_size=settings.step_size, steps=settings.steps)
        return self._predict(name, attack, images)

    def _predict(self, name: str, attack: PGD | None, images: ImageSet) -> list[int]:
        size, seed = self._settings.batch_size, stream_seed(self._settings.seed, name)
        predicted: list[int] = []
        self._observer.on_attack(name, "", -(-len(images) // size))
        for batch in range(-(-len(images) // size)):
            labels = images.labels[batch * size : (batch + 1) * size].tolist()
            piece = self._journal.read(name, "all", batch, len(labels))
            if piece is None:
                piece = predictions(self._model, images, attack, seed, self._backend, size, batch, 1).tolist()
                self._journal.write(name, "all", batch, piece)
            predicted += piece
            self._observer.on_batch(sum(map(int.__eq__, piece, labels)), len(labels))
        return predicted

    def _autoattack(self, name: str, settings: AutoAttackSettings, images: ImageSet, natural: list[int]) -> list[int]:
        """Each attack of the ensemble sees only images that no earlier one has fooled, gathered into full batches."""
        predicted = list(natural)
        labels = images.labels.tolist()
        for part, perturb in standard_attacks(self._model, settings, self._settings.seed).items():
            robust = [index for index, label in enumerate(labels) if predicted[index] == label]
            size = self._settings.batch_size
            batches = [robust[start : start + size] for start in range(0, len(robust), size)]
            self._observer.on_attack(name, part, len(batches))
            for number, batch in enumerate(batches):
                piece = self._journal.read(name, part, number, len(batch))
                if piece is None:
                    inputs, targets = images.batch(torch.tensor(batch, device=self._backend.device))
                    adversarial = perturb(inputs, targets)
                    with torch.no_grad():
                        piece = self._model(channels_last(adversarial)).argmax(1).tolist()
                    self._journal.write(name, part, number, piece)
                for index, guess in zip(batch, piece, strict=True):
                    predicted[index] = guess
                self._observer.on_batch(sum(predicted[index] == labels[index] for index in batch), len(batch))
        return predicted
