"""What the papers' theorems speak of, measured while training: regret, task gradients, barriers between learners."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from copy import deepcopy
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.pgd import PGD, frozen
from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.core.errors import PipelineError
from pipeline.core.files import atomic_write
from pipeline.core.streams import stream
from pipeline.data.split import Split
from pipeline.evaluation.predictions import channels_last
from pipeline.training.learner import Learner
from pipeline.training.mesh import Mesh
from pipeline.training.weights import combine, own_tensors, weight_tensors

GLOBAL = "global"
CONFIDENCE = 0.95
"""1 - delta of Theorem 1."""
POSITIONS = (0.25, 0.5, 0.75)
"""Where the line between a learner and the global learner is sampled."""
MINIBATCHES = 4
"""Into which the images are parted to compare the gradients of different minibatches."""
Series = tuple[str, str]
"""A network, by the name of its learner or `global`, and the learner whose task it is judged by."""


def error_probability(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """The mean of 1 - p_y, in [0, 1]: the loss of everything here, bounded as Theorem 1 asks."""
    with frozen(model), torch.no_grad():
        probabilities = model(inputs).float().softmax(1)
    return 1 - float(probabilities.gather(1, labels.unsqueeze(1)).mean())


def regret(losses: Sequence[Sequence[float]]) -> float:
    """R_T / T: the mean loss of what was played minus that of the best single snapshot in hindsight.

    Args:
        losses: losses[t][s] of snapshot s on the inputs of moment t, square; the diagonal is what was played.
    """
    played = sum(row[moment] for moment, row in enumerate(losses)) / len(losses)
    return played - best_in_hindsight(losses)


def best_in_hindsight(losses: Sequence[Sequence[float]]) -> float:
    """The least mean loss of one snapshot over the inputs of all moments."""
    sums: list[float] = [math.fsum(column) for column in zip(*losses, strict=True)]
    return min(sums) / len(losses)


def deviation(rounds: int) -> float:
    """2 sqrt(2 / T log(1 / delta)), the last term of Theorem 1 (Generalist, Wang and Wang, 2023)."""
    return 2 * math.sqrt(2 / rounds * math.log(1 / (1 - CONFIDENCE)))


def gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy by all parameters, as one vector; BatchNorm has its running statistics.

    It is 0 for parameters that the network does not use.
    """
    was_training = model.training
    model.eval()
    loss = functional.cross_entropy(model(inputs).float(), labels)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    found = torch.autograd.grad(loss, weights, allow_unused=True, materialize_grads=True)
    model.train(was_training)
    return torch.cat([part.flatten() for part in found])


def agreement(gradients: Sequence[Tensor]) -> tuple[float, float]:
    """The mean inner product, and the mean cosine, of every two of the gradients of different minibatches."""
    pairs = list(combinations(gradients, 2))
    product = sum(torch.dot(first, second).item() for first, second in pairs) / len(pairs)
    cosine = sum(functional.cosine_similarity(*pair, dim=0).item() for pair in pairs) / len(pairs)
    return product, cosine


class Snapshots:
    """The networks of earlier moments, and the inputs that were crafted against them, in files.

    Args:
        folder: Made when the first one is written.
        device: Where tensors are put.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder = folder
        self._device = device

    def _path(self, epoch: int, player: str) -> Path:
        return self._folder / f"{epoch:05d}-{player}.safetensors"

    def write(self, epoch: int, player: str, network: nn.Module, inputs: dict[str, Tensor]) -> None:
        """Keep a network as it was after `epoch`, and its inputs by task."""
        tensors = {f"weights/{name}": tensor for name, tensor in own_tensors(network).items()}
        tensors |= {f"inputs/{task}": tensor.contiguous() for task, tensor in inputs.items()}
        with atomic_write(self._path(epoch, player)) as file:
            file.write(save(tensors))

    def read(self, epoch: int, player: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The network's weights by name, and the inputs by task.

        Raises:
            PipelineError: the file is missing or damaged.
        """
        path = self._path(epoch, player)
        try:
            tensors = load_file(path, device=str(self._device))
        except (OSError, SafetensorError) as error:
            raise PipelineError(
                f"{path} cannot be read ({error}), so what was measured of the theory cannot be continued; train "
                "without training.theory, or remove the experiment's working folder to train from the start"
            ) from None
        weights, inputs = (
            {name.removeprefix(kind): tensor for name, tensor in tensors.items() if name.startswith(kind)}
            for kind in ("weights/", "inputs/")
        )
        return weights, {task: channels_last(tensor) for task, tensor in inputs.items()}


class TheoryMeter:
    """Measures a mixture's learners at intervals, on the same few held-out images, before they may restart.

    Theorem 1 is about a sequence of loss functions; the one of moment t is the error probability on inputs crafted, by
    the learner's own attack, against the network as it was at t. Those inputs and the networks are kept in files, so
    that every snapshot can be judged by every moment. What is measured changes no weight and draws from streams of its
    own.

    Args:
        experiment: A method with a mixture, and `training.theory`.
        split: Of which the held-out images are used.
        backend: Device and arithmetic of the crafting; losses are float32.
        learners: All, with the networks that are trained.
        folder: Of the snapshots.
        mesh: Who trains which learner; the first process measures.
    """

    def __init__(
        self,
        experiment: Experiment,
        split: Split,
        backend: Backend,
        learners: Sequence[Learner],
        folder: Path,
        mesh: Mesh,
    ) -> None:
        assert experiment.training.theory is not None
        self._settings = experiment.training.theory
        self._experiment = experiment
        self._backend = backend
        self._learners = {learner.name: learner for learner in learners}
        self._snapshots = Snapshots(folder, backend.device)
        self._mesh = mesh
        count = min(self._settings.images, len(split.held_out))
        self._images, self._labels = split.held_out.to(backend.device).batch(torch.arange(count, device=backend.device))
        self._epochs: list[int] = []
        self._losses: dict[str, list[list[float]]] = {}

    def is_due(self, epoch: int) -> bool:
        """Whether to measure after `epoch`: at every interval, and after the last one."""
        return epoch % self._settings.interval == 0 or epoch == self._experiment.training.epochs

    def measure(self, epoch: int, steps: int, result: nn.Module) -> dict[str, float]:
        """What the record of `epoch` should say: `theory/...`, see docs/theory.md; empty but on the first process.

        Args:
            epoch: The one that has ended; the learners have not restarted after it.
            steps: Updates of every learner so far: T of Theorem 1.
            result: The global learner.
        """
        started = time.perf_counter()
        own = {name: one.model.state_dict() for name, one in self._learners.items() if self._mesh.trains(name)}
        states = self._mesh.gather(own, self._backend.device)
        if not self._mesh.everyone.is_first:
            return {}
        for name, learner in self._learners.items():
            if not self._mesh.trains(name):  # a copy that this process never trains
                learner.model.load_state_dict(states[name])
        networks = {name: learner.model for name, learner in self._learners.items()} | {GLOBAL: result}
        inputs = {
            (player, task): self._inputs(player, task, networks[player], epoch)
            for task in self._learners
            for player in (task, GLOBAL)
        }
        self._judge(epoch, networks, inputs)
        record = {
            **self._regrets(steps),
            **self._cosines(result, inputs),
            **self._agreements(networks, inputs),
            **self._barriers(result, inputs),
        }
        return {f"theory/{key}": value for key, value in record.items()} | {
            "theory/seconds": time.perf_counter() - started
        }

    def _inputs(self, player: str, task: str, model: nn.Module, epoch: int) -> Tensor:
        """The images as the task's own attacks leave them, crafted against `model`; of several norms, joined."""
        seed, objective = self._experiment.seed, self._learners[task].objective
        noise = stream(seed, "theory", player, task, epoch, device=self._backend.device)
        images = channels_last(objective.disturbed(self._images, noise))
        crafted = [images] if not objective.norms() else []
        for norm in objective.norms():
            attack = PGD(norm=norm, **self._experiment.threat_model[norm].model_dump())
            with self._backend.autocast():
                crafted.append(attack.perturb(model, images, self._labels, noise))
        return torch.cat(crafted)

    def _loss(self, model: nn.Module, inputs: Tensor) -> float:
        return error_probability(model, inputs, self._labels_of(inputs))

    def _labels_of(self, inputs: Tensor) -> Tensor:
        return self._labels.repeat(len(inputs) // len(self._labels))

    def _judge(self, epoch: int, networks: dict[str, nn.Module], inputs: dict[Series, Tensor]) -> None:
        """Complete the square of losses by this moment's inputs and networks, and keep both."""
        rows: dict[Series, list[float]] = {series: [] for series in inputs}
        before = deepcopy(networks[GLOBAL])
        for moment, earlier in enumerate(self._epochs):
            for player, network in networks.items():
                weights, kept = self._snapshots.read(earlier, player)
                before.load_state_dict(weights)
                for series in (one for one in inputs if one[0] == player):
                    rows[series].append(self._loss(before, inputs[series]))
                    self._losses[_key(series)][moment].append(self._loss(network, kept[series[1]]))
        for series, row in rows.items():
            row.append(self._loss(networks[series[0]], inputs[series]))
            self._losses.setdefault(_key(series), []).append(row)
        for player, network in networks.items():
            own = {task: tensor for (one, task), tensor in inputs.items() if one == player}
            self._snapshots.write(epoch, player, network, own)
        self._epochs.append(epoch)

    def _regrets(self, steps: int) -> dict[str, float]:
        """Losses, regrets, and how far the global learner's loss lies below Theorem 1's bound; by task, and R_T and the
        bound as Definition 1 and Theorem 1 have them, means over tasks."""
        record: dict[str, float] = {}
        for task in self._learners:
            own, common = self._losses[_key((task, task))], self._losses[_key((GLOBAL, task))]
            bound = best_in_hindsight(own) + regret(own) + deviation(steps)
            record |= {
                f"loss/{task}": own[-1][-1],
                f"loss/{GLOBAL}/{task}": common[-1][-1],
                f"regret/{task}": regret(own),
                f"regret/{GLOBAL}/{task}": regret(common),
                f"bound_slack/{task}": bound - common[-1][-1],
            }
        for mean, part in (("trade_off_regret", "regret"), ("trade_off_bound_slack", "bound_slack")):
            record[mean] = sum(record[f"{part}/{task}"] for task in self._learners) / len(self._learners)
        return record

    def _cosines(self, result: nn.Module, inputs: dict[Series, Tensor]) -> dict[str, float]:
        """Between the gradients of two tasks' cross-entropies at the global learner."""
        crafted = {task: inputs[GLOBAL, task] for task in self._learners}
        gradients = {task: gradient(result, own, self._labels_of(own)) for task, own in crafted.items()}
        return {
            f"cosine/{first}/{second}": functional.cosine_similarity(gradients[first], gradients[second], dim=0).item()
            for first, second in combinations(gradients, 2)
        }

    def _agreements(self, networks: dict[str, nn.Module], inputs: dict[Series, Tensor]) -> dict[str, float]:
        """Inner products and cosines of the gradients of different minibatches of one task, at the task's learner and
        at the global learner; none of fewer than two images."""
        record: dict[str, float] = {}
        parts = torch.arange(len(self._labels), device=self._labels.device).chunk(MINIBATCHES)
        for series, own in inputs.items() if len(parts) > 1 else ():
            by_norm = own.view(-1, len(self._labels), *own.shape[1:])
            minibatches = [(by_norm[:, part].flatten(0, 1), self._labels[part].repeat(len(by_norm))) for part in parts]
            gradients = [gradient(networks[series[0]], *minibatch) for minibatch in minibatches]
            place = series[1] if series[0] == series[1] else _key(series)
            record[f"minibatch_product/{place}"], record[f"minibatch_cosine/{place}"] = agreement(gradients)
        return record

    def _barriers(self, result: nn.Module, inputs: dict[Series, Tensor]) -> dict[str, float]:
        """How far the loss on a learner's own inputs rises, on the line from it to the global learner, above the
        straight line between both ends (Frankle et al., 2020); 0 where it nowhere does."""
        between, record = deepcopy(result), {}
        for task, learner in self._learners.items():
            ends = [self._loss(model, inputs[task, task]) for model in (learner.model, result)]
            rises = [0.0]
            for position in POSITIONS:
                sources = [(1 - position, weight_tensors(learner.model)), (position, weight_tensors(result))]
                torch._foreach_copy_(weight_tensors(between), combine(sources))
                straight = (1 - position) * ends[0] + position * ends[1]
                rises.append(self._loss(between, inputs[task, task]) - straight)
            record[f"barrier/{task}"] = max(rises)
        return record

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs, besides the snapshots' files."""
        return {"epochs": self._epochs, "losses": self._losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._epochs, self._losses = state["epochs"], state["losses"]


def _key(series: Series) -> str:
    return "/".join(series)
