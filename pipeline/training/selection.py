"""Which epoch's weights are kept: measured on held-out training images, never on test images under `paper`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.attacks.pgd import PGD
from pipeline.config import Experiment, SelectionSettings
from pipeline.core.devices import Backend
from pipeline.core.ranks import Ranks
from pipeline.core.streams import stream_seed
from pipeline.core.values import Norm
from pipeline.data.split import Split
from pipeline.evaluation.predictions import predictions
from pipeline.training.learner import Learner
from pipeline.training.mesh import ONE_PROCESS, Mesh


class Validation:
    """Accuracies after an epoch: of the result in every norm, of each learner in its own task.

    Args:
        experiment: Names the split (`held_out`, or `test` as the authors' code does) and the budgets.
        split: The images.
        backend: Device and arithmetic of the crafting.
        mesh: Who share the work: all that of the result, those who train a learner that of the learner.
    """

    def __init__(self, experiment: Experiment, split: Split, backend: Backend, mesh: Mesh = ONE_PROCESS) -> None:
        self._settings = experiment.training
        self._mesh = mesh
        self._batch_size = experiment.sizes_in(experiment.training.epochs).batch
        self._seed = experiment.seed
        self._backend = backend
        self._split_name = "test" if experiment.training.selection.split == "test" else "held_out"
        self._images = getattr(split, self._split_name).to(backend.device)
        objectives = [learner.objective for learner in experiment.method.learners.values()]
        self._trained_norms = sorted({norm for objective in objectives for norm in objective.norms()})
        measured = {*self._trained_norms, *(attack.norm for attack in experiment.evaluation.attacks.values())}
        self._attacks = {
            norm: PGD(norm=norm, **budget.model_dump())
            for norm, budget in experiment.threat_model.items()
            if norm in measured
        }

    def is_due(self, epoch: int) -> bool:
        """Whether to measure after `epoch`."""
        return epoch % self._settings.validation_interval == 0 or epoch == self._settings.epochs

    def measure(self, result: nn.Module, learners: list[Learner], epoch: int) -> dict[str, float]:
        """Accuracies in [0, 1], for example `held_out/global/natural` or `held_out/linf/pgd_linf`.

        Where a learner trains against attacks, `held_out/global/worst_case_union` is the share of images that the
        result gets right under the attacks of every norm that a learner trains in.
        """
        correct = self._correct("global", result, list(self._attacks), epoch, self._mesh.everyone)
        if self._trained_norms:
            attacked = torch.stack([correct[f"pgd_{norm}"] for norm in self._trained_norms])
            correct["worst_case_union"] = attacked.all(dim=0)
        record = self._accuracies("global", correct)
        for learner in learners:
            norms = list(learner.objective.norms())
            correct = self._correct(learner.name, learner.model, norms, epoch, self._mesh.data)
            record |= self._accuracies(learner.name, correct)
        return self._mesh.merge(record)

    def _correct(self, name: str, model: nn.Module, norms: list[Norm], epoch: int, ranks: Ranks) -> dict[str, Tensor]:
        """By metric, which images a network gets right: (n,) truth values."""
        attacks: dict[str, PGD | None] = {f"pgd_{norm}": self._attacks[norm] for norm in norms}
        correct = {}
        for metric, attack in [("natural", None), *attacks.items()]:
            seed = stream_seed(self._seed, "validation", name, metric, epoch)
            predicted = predictions(model, self._images, attack, seed, self._backend, self._batch_size, ranks=ranks)
            correct[metric] = predicted == self._images.labels.cpu()
        return correct

    def _accuracies(self, name: str, correct: Mapping[str, Tensor]) -> dict[str, float]:
        return {f"{self._split_name}/{name}/{metric}": each.double().mean().item() for metric, each in correct.items()}

    def score(self, accuracies: Mapping[str, float]) -> float:
        """Mean of the result's natural accuracy and its PGD accuracy in every norm that a learner trains in."""
        metrics = ["natural", *(f"pgd_{norm}" for norm in self._trained_norms)]
        return sum(accuracies[f"{self._split_name}/global/{metric}"] for metric in metrics) / len(metrics)


class BestEpoch:
    """The weights of the best epoch so far, kept on the CPU; ties go to the earlier epoch.

    Args:
        settings: Which split chooses, and the least natural accuracy.
        first_epoch: The first candidate. With a mixture, the one in which its last learner enters: before, the global
            learner is an average of the others alone, which is another method.
    """

    def __init__(self, settings: SelectionSettings, first_epoch: int = 1) -> None:
        self._settings = settings
        self._first_epoch = first_epoch
        self._best: dict[str, Any] | None = None

    def consider(self, epoch: int, score: float, accuracies: Mapping[str, float], model: nn.Module) -> None:
        """Keep `model`'s weights if this epoch is the best so far."""
        natural = next(value for key, value in accuracies.items() if key.endswith("/global/natural"))
        if self._settings.split == "last" or natural < self._settings.natural_floor or epoch < self._first_epoch:
            return
        if self._best is None or score > self._best["score"]:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            self._best = {"epoch": epoch, "score": score, "weights": weights}

    def load_into(self, model: nn.Module) -> int | None:
        """Put the best epoch's weights into `model`; returns that epoch, or None when the last epoch stands."""
        if self._best is None:
            return None
        model.load_state_dict(self._best["weights"])
        epoch: int = self._best["epoch"]
        return epoch

    def state_dict(self) -> dict[str, Any] | None:
        """All that a checkpoint needs."""
        return self._best

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Continue from `state_dict`."""
        self._best = state
