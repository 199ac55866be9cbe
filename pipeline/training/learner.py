"""A learner: a network, an objective, and its own optimizer, schedule and weight average."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.config import AdamSettings, LearnerSettings, SGDSettings
from pipeline.devices import Backend
from pipeline.errors import PipelineError
from pipeline.objectives import Moment, build_objective
from pipeline.training.weights import MovingAverage


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
        self.objective = build_objective(settings.objective)
        self.optimizer = build_optimizer(settings.optimizer, model)
        averaging = settings.weight_averaging
        self.average = None if averaging is None else MovingAverage(model, averaging.decay, averaging.warmup)
        self.memory: dict[str, Any] = {}
        """What the objective remembers from step to step."""
        self._settings = settings
        self._backend = backend

    def learning_rate(self, epoch: int) -> float:
        """The learning rate of `epoch` (from 1), constant within it."""
        return self._settings.optimizer.learning_rate * self._settings.schedule.at(epoch)

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate of `epoch`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(epoch)

    def step(self, images: Tensor, labels: Tensor, moment: Moment) -> tuple[float, int]:
        """One update on one minibatch.

        Returns:
            The loss, and how many of the inputs that it was computed on were classified correctly.

        Raises:
            PipelineError: the loss is not finite; the weights are still those from before the step.
        """
        self.model.train()
        with self._backend.autocast():
            losses = self.objective(self.model, images, labels, moment)
        loss = losses.loss.item()
        if not torch.isfinite(losses.loss):
            raise PipelineError(f"the loss of learner '{self.name}' is {loss}, stopped before the update")
        self.optimizer.zero_grad(set_to_none=True)
        if losses.gradients is None:
            torch.autograd.backward(losses.loss)
        else:
            for parameter, gradient in zip(self.model.parameters(), losses.gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()
        if self.average is not None:
            self.average.update([(1.0, self.model)])
        return loss, int((losses.logits.argmax(1) == labels).sum())

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


def build_optimizer(settings: SGDSettings | AdamSettings, model: nn.Module) -> torch.optim.Optimizer:
    """The torch optimizer over all parameters of `model`."""
    if isinstance(settings, SGDSettings):
        return torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate,
            momentum=settings.momentum,
            nesterov=settings.nesterov,
            weight_decay=settings.weight_decay,
            foreach=True,
        )
    return torch.optim.Adam(
        model.parameters(),
        lr=settings.learning_rate,
        betas=settings.betas,
        weight_decay=settings.weight_decay,
        foreach=True,
    )
