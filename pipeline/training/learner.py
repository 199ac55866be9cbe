"""A learner: a network, an objective, and its own optimizer, schedule and weight average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import AdamSettings, LearnerSettings, SGDSettings
from pipeline.core.devices import Arrival, Backend
from pipeline.core.errors import DivergedError
from pipeline.objectives import Moment
from pipeline.training.weights import MovingAverage


@dataclass(frozen=True)
class Outcome:
    """What a step gave, on its way to the host."""

    learner: str
    values: Arrival
    """The loss, and how many of the inputs it was computed on were classified correctly; of the whole minibatch."""

    def read(self) -> tuple[float, int]:
        """Loss and number of correct predictions; waits until the device has computed them.

        Raises:
            DivergedError: the loss is not finite; the weights are still those from before the step.
        """
        loss, correct = self.values.read()
        if not math.isfinite(loss):
            raise DivergedError(f"the loss of learner '{self.learner}' is {loss}, stopped before the update")
        return loss, int(correct)


class Learner:
    """An expert in one task (Generalist++ Alg. 1, line 'update theta_a').

    Args:
        name: Its name in `params.yaml`; the address of its random streams.
        settings: Objective, optimizer, schedule.
        model: Freshly initialised network on the backend's device; owned by the learner from now on.
        backend: Device and arithmetic.
    """

    def __init__(self, name: str, settings: LearnerSettings, model: nn.Module, backend: Backend) -> None:
        self.name = name
        self.model = model
        self.objective = settings.objective
        self.label_smoothing = settings.label_smoothing
        self.augmentation = settings.augmentation
        self.optimizer = build_optimizer(settings.optimizer, model, fused=backend.deferred)
        averaging = settings.weight_averaging
        self.average = None if averaging is None else MovingAverage(model, averaging.decay, averaging.warmup)
        self.memory: dict[str, Any] = {}
        """What the objective remembers from step to step."""
        self._settings = settings
        self._backend = backend

    def learning_rate(self, epoch: int, share: float = 1.0) -> float:
        """The learning rate in `epoch` (from 1), of which `share` (0 to 1) is over."""
        return self._settings.optimizer.learning_rate * self._settings.schedule.at(epoch, share)

    def set_learning_rate(self, epoch: int, share: float) -> None:
        """Use the learning rate of that moment from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(epoch, share)

    def step(self, images: Tensor, labels: Tensor, moment: Moment) -> Outcome:
        """One update on one minibatch, of which the images may be a part.

        A loss that is not finite never reaches the weights: it is raised before the update, or, where the host reads
        losses later, the optimizer leaves the weights as they are and reading the outcome raises.

        Raises:
            DivergedError: the loss is not finite, unless losses are read later.
            PipelineError: another rank was lost.
        """
        self.model.train()
        with self._backend.autocast():
            losses = self.objective(self.model, images, labels, moment)
        part = moment.part(labels)
        hits = (losses.logits.argmax(1) == (labels if losses.labels is None else losses.labels)).sum()
        values = part.ranks.total(torch.stack([part.weigh(losses.loss.detach()).double(), hits]))
        outcome = Outcome(self.name, Arrival(values))
        if self._backend.deferred:
            self.optimizer.found_inf = (~values[0].isfinite()).float()  # type: ignore[attr-defined]
        else:
            outcome.read()
        self.optimizer.zero_grad(set_to_none=True)
        if losses.gradients is None:
            torch.autograd.backward(part.weigh(losses.loss))
            part.ranks.add_up([parameter.grad for parameter in self.model.parameters() if parameter.grad is not None])
        else:
            trained = (parameter for parameter in self.model.parameters() if parameter.requires_grad)
            for parameter, gradient in zip(trained, losses.gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()
        if self.average is not None:
            self.average.update([(1.0, self.model)])
        return outcome

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs; tensors are references, not copies."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "memory": self.memory,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.memory = state["memory"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def build_optimizer(
    settings: SGDSettings | AdamSettings, model: nn.Module, fused: bool = False
) -> torch.optim.Optimizer:
    """The torch optimizer over all parameters of `model`.

    Args:
        settings: Which, with what options.
        model: Of which the parameters are.
        fused: One kernel for all of a step, which skips the step on the device where `found_inf` says so; otherwise a
            few calls over all tensors.
    """
    kernels: dict[str, Any] = {"fused": True} if fused else {"foreach": True}
    if isinstance(settings, SGDSettings):
        return torch.optim.SGD(
            model.parameters() if settings.decay_batch_norm else _without_decay_of_batch_norm(model),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            **kernels,
        )
    return torch.optim.Adam(
        model.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        **kernels,
    )


def _without_decay_of_batch_norm(model: nn.Module) -> list[dict[str, Any]]:
    """Parameters in two groups, of which the second, BatchNorm's scales and shifts, has no weight decay."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    exempt = [parameter for layer in layers for parameter in layer.parameters()]
    known = {id(parameter) for parameter in exempt}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [{"params": others}, {"params": exempt, "weight_decay": 0.0}]
