"""Evaluation of one model: natural predictions and attacks, each as a verdict per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pandas as pd
import torch
from torch import nn

from pipeline.config import EnsembleAttack, EvaluationSettings, SingleAttack
from pipeline.core.devices import Backend
from pipeline.core.errors import RequestError
from pipeline.core.streams import stream_seed
from pipeline.data.images import ImageSet
from pipeline.evaluation.journal import Journal
from pipeline.evaluation.pieces import fitting
from pipeline.evaluation.predictions import channels_last, predictions
from pipeline.evaluation.verdicts import verdict_frame


class EvaluationObserver(Protocol):
    """Somebody who watches an evaluation."""

    def on_attack(self, attack: str, pieces: int) -> None:
        """An attack begins; it consists of this many pieces of work."""

    def on_piece(self, part: str, robust: int, images: int, ends_batch: bool) -> None:
        """A piece has ended: a part of the attack ("" where it has none) on one batch of test images.

        Args:
            part: Its name.
            robust: Images of the batch that are still classified correctly.
            images: All images of the batch.
            ends_batch: Whether nothing more will happen to this batch.
        """


@dataclass(frozen=True)
class Shard:
    """A slice of the batches of every attack: those whose number leaves `index` when divided by `count`."""

    index: int = 0
    """From 0."""
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """'2/4', the second of four.

        Raises:
            RequestError: it is not of this form, or not between 1 and the count.
        """
        index, _, count = text.partition("/")
        whole = all(part.isdecimal() and len(part) < 10 for part in (index, count))
        if not (whole and 1 <= int(index) <= int(count)):
            raise RequestError(f"shard '{text}': expected i/n with 1 <= i <= n, for example 2/4")
        return cls(int(index) - 1, int(count))

    def has(self, batch: int) -> bool:
        """Whether a batch is in the slice."""
        return batch % self.count == self.index


class Evaluation:
    """Measures one model on test images; every finished piece is journaled, so that a killed evaluation goes on.

    Images are attacked in batches that do not depend on each other: each has its own seed, and an ensemble goes through
    all its members on one batch before the next begins. So any machine may do any batch, and all get the same verdicts.

    Args:
        model: Maps images to logits; put in eval mode. All arithmetic is float32.
        images: Test images, on the model's device.
        settings: Attacks and batch size.
        journal: Of this model and these settings.
        observer: Told of progress.
        check: Called after every piece that was not in the journal; raises to stop.
    """

    def __init__(
        self,
        model: nn.Module,
        images: ImageSet,
        settings: EvaluationSettings,
        journal: Journal,
        observer: EvaluationObserver,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._model = fitting(model.eval(), images.images.shape[1:], settings.batch_size, images.images.device)
        self._images = images
        self._settings = settings
        self._journal = journal
        self._observer = observer
        self._check = check
        self._backend = Backend(images.images.device, bfloat16=False)

    def run(self, shard: Shard = Shard()) -> pd.DataFrame:
        """The verdicts of all attacks on the images of a shard; see `verdict_frame` for the columns."""
        frames = [self._simple("natural", None, len(self._images), shard)]
        natural = frames[0].set_index("image")["predicted"]
        for name, attack in self._settings.attacks.items():
            count = min(attack.images or len(self._images), len(self._images))
            if isinstance(attack, EnsembleAttack):
                frames.append(self._ensemble(name, attack, count, shard, natural))
            else:
                assert isinstance(attack, SingleAttack)
                frames.append(self._simple(name, attack, count, shard))
        return pd.concat(frames, ignore_index=True)

    def _batches(self, count: int, shard: Shard) -> Iterator[tuple[int, torch.Tensor]]:
        """Number and image indices of every batch of the shard among the first `count` images."""
        size = self._settings.batch_size
        for number in range(-(-count // size)):
            if shard.has(number):
                yield number, torch.arange(number * size, min((number + 1) * size, count))

    def _simple(self, name: str, attack: SingleAttack | None, count: int, shard: Shard) -> pd.DataFrame:
        """An attack that sees every image, correct or not."""
        size, seed = self._settings.batch_size, stream_seed(self._settings.seed, name)
        batches, frames = list(self._batches(count, shard)), []
        images = self._images.subset(torch.arange(count, device=self._backend.device))
        self._observer.on_attack(name, len(batches))
        for number, indices in batches:
            labels = images.labels[indices.to(self._backend.device)].tolist()
            piece = self._journal.read(name, "all", number, len(labels))
            if piece is None:
                piece = predictions(self._model, images, attack, seed, self._backend, size, number, 1).tolist()
                self._journal.write(name, "all", number, piece)
                self._check()
            frames.append(verdict_frame(name, labels, piece, first=number * size))
            self._observer.on_piece("", int(frames[-1]["correct"].sum()), len(labels), ends_batch=True)
        return pd.concat(frames, ignore_index=True) if frames else verdict_frame(name, [], [])

    def _ensemble(
        self, name: str, settings: EnsembleAttack, count: int, shard: Shard, natural: pd.Series
    ) -> pd.DataFrame:
        """Attacks in a row, each on the images of a batch that no earlier one has fooled."""
        batches, frames = list(self._batches(count, shard)), []
        self._observer.on_attack(name, len(batches) * len(settings.members))
        for number, indices in batches:
            predicted = natural[indices.tolist()].tolist()
            frames.append(self._attack_batch(name, settings, number, indices, predicted))
        return pd.concat(frames, ignore_index=True) if frames else verdict_frame(name, [], [])

    def _attack_batch(
        self, name: str, settings: EnsembleAttack, number: int, indices: torch.Tensor, predicted: list[int]
    ) -> pd.DataFrame:
        """One batch, whose natural predictions are given."""
        images, labels = self._images.batch(indices.to(self._backend.device))
        fooled_by, truth = [""] * len(labels), labels.tolist()
        attacks = settings.attacks(self._model, stream_seed(self._settings.seed, settings.name, number))
        for part, perturb in attacks.items():
            robust = [place for place, label in enumerate(truth) if predicted[place] == label]
            piece = self._journal.read(name, part, number, len(robust))
            if piece is None:
                chosen = torch.tensor(robust, device=self._backend.device, dtype=torch.long)
                piece = self._classify(perturb(images[chosen], labels[chosen])) if robust else []
                self._journal.write(name, part, number, piece)
                self._check()
            for place, guess in zip(robust, piece, strict=True):
                predicted[place] = guess
                fooled_by[place] = "" if guess == truth[place] else part
            robust_now = sum(map(int.__eq__, predicted, truth))
            self._observer.on_piece(part, robust_now, len(truth), ends_batch=part == settings.members[-1])
        return verdict_frame(name, truth, predicted, fooled_by, first=int(indices[0]))

    @torch.no_grad()
    def _classify(self, images: torch.Tensor) -> list[int]:
        classes: list[int] = self._model(channels_last(images)).argmax(1).tolist()
        return classes
