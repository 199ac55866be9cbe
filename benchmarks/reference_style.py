"""The habits of plain research code on the very same objectives: what our engine does without, one by one or together.

The engine is not copied: while a habit is on, the few functions that make the difference are exchanged for ones that
spare nothing, in every module that uses them. The other habits are settings of learners; see `benchmarks.loops`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from pipeline.attacks.pgd import frozen
from pipeline.core.devices import Backend
from pipeline.objectives import OBJECTIVES
from pipeline.training import weights

PARAMETER_GRADIENTS = "parameter gradients while crafting"
CHANNELS_FIRST = "channels first"
FLOAT32 = "float32"
TENSOR_BY_TENSOR = "optimizers tensor by tensor"
CLONED_AVERAGES = "weight averages by cloning"
METER = "a forward pass more for the meter"
LOSS_AT_ONCE = "the loss is waited for"
HABITS = (PARAMETER_GRADIENTS, CHANNELS_FIRST, FLOAT32, TENSOR_BY_TENSOR, CLONED_AVERAGES, METER, LOSS_AT_ONCE)
"""The habits of the authors' published code."""


def without_habit(habit: str, backend: Backend) -> bool:
    """Whether a habit makes no difference, since the engine has it itself with this backend."""
    return (habit == FLOAT32 and not backend.bfloat16) or (habit == LOSS_AT_ONCE and not backend.deferred)


@contextmanager
def parameter_gradients_while_crafting() -> Iterator[None]:
    """Attacks only switch to eval mode, and get input gradients from a whole backward pass."""
    for name in OBJECTIVES.names():
        import_module(f"pipeline.objectives.{name}")
    with ExitStack() as stack:
        for module in [module for name, module in sys.modules.items() if name.startswith("pipeline.")]:
            if getattr(module, "frozen", None) is frozen:
                stack.enter_context(mock.patch.object(module, "frozen", _eval_mode))
        yield


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Give `model` itself to craft against, with BatchNorm as it is and parameters that want gradients."""

    def whole_backward(outputs: Tensor, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        wanted = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        model.zero_grad()
        for tensor in wanted:
            tensor.retain_grad()
        torch.autograd.backward(outputs)
        return tuple(tensor.grad for tensor in wanted if tensor.grad is not None)

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with mock.patch.object(torch.autograd, "grad", whole_backward):
            yield model
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def averages_by_cloning() -> Iterator[None]:
    """Moving averages are made of new tensors, one after another."""
    with mock.patch.object(weights, "average_into", _average_by_cloning):
        yield


@torch.no_grad()
def _average_by_cloning(average: list[Tensor], sources: list[tuple[float, list[Tensor]]], decay: float) -> None:
    for number, tensor in enumerate(average):
        mixed = torch.zeros_like(tensor)
        for ratio, tensors in sources:
            mixed = mixed + ratio * tensors[number].clone()
        tensor.copy_(decay * tensor.clone() + (1 - decay) * mixed)


def follow_by_cloning(average: dict[str, Any], model: nn.Module) -> None:
    """Move a cloned state dict towards `model`'s, as the authors' code does for every learner."""
    current = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    average.update({name: 0.999 * average[name] + 0.001 * current[name] for name in average})
