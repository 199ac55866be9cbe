"""Weights as flat lists of tensors, so that mixing and averaging are a handful of fused calls."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.ranks import ALONE, Ranks


def weight_tensors(model: nn.Module) -> list[Tensor]:
    """Every floating-point parameter and persistent buffer once, detached, in the order of `state_dict`.

    BatchNorm's running mean and variance are among them: they are averaged, mixed and copied like weights (the papers
    are silent, the authors' code does so). A tensor that several layers share is one weight.
    """
    return [tensor.detach() for tensor in _tensors(model) if tensor.is_floating_point()]


def counters(model: nn.Module) -> list[Tensor]:
    """All other buffers, which no average can hold: BatchNorm's numbers of steps, indices, masks."""
    return [tensor.detach() for tensor in _tensors(model) if not tensor.is_floating_point()]


def _tensors(model: nn.Module) -> Iterable[Tensor]:
    return dict.fromkeys(model.state_dict(keep_vars=True).values())  # by identity


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state as safetensors takes it, by name, on the CPU: contiguous, none the memory of another."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }


def copy_weights(source: nn.Module, destination: nn.Module) -> None:
    """Overwrite every tensor of `destination`, buffers included, with that of `source`."""
    torch._foreach_copy_(weight_tensors(destination), weight_tensors(source))
    for ours, theirs in zip(counters(destination), counters(source), strict=True):
        ours.copy_(theirs)


@torch.no_grad()
def average_into(average: list[Tensor], sources: list[tuple[float, list[Tensor]]], decay: float) -> None:
    """average <- decay * average + (1 - decay) * sum of ratio * source, in place.

    Args:
        average: The moving average's tensors.
        sources: (ratio, tensors) of each contribution; a ratio of 0 contributes nothing and is skipped.
        decay: In [0, 1); 0 forgets the past entirely, even where it is not finite.
    """
    if decay == 0:
        torch._foreach_zero_(average)
    else:
        torch._foreach_mul_(average, decay)
    for ratio, tensors in sources:
        if ratio != 0:
            torch._foreach_add_(average, tensors, alpha=(1 - decay) * ratio)


@torch.no_grad()
def combine(sources: list[tuple[float, list[Tensor]]], ranks: Ranks = ALONE) -> list[Tensor]:
    """sum of ratio * tensors of `sources`, (ratio, tensors) each, and of those that other ranks have."""
    combined = [torch.empty_like(tensor) for tensor in sources[0][1]]
    average_into(combined, sources, decay=0)
    ranks.add_up(combined)
    return combined


def recompute_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace BatchNorm's running statistics by those of `batches` of images, each batch weighing the same."""
    torch.optim.swa_utils.update_bn(batches, model)


class MovingAverage:
    """An exponential moving average of one network's weights, or of a combination of several networks'.

    Args:
        model: Where the average starts; copied.
        decay: In [0, 1).
        warmup: Use min(decay, (s + 1) / (s + 10)) at update s = 0, 1, ...
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool) -> None:
        self.model = deepcopy(model).eval()
        self._decay = decay
        self._warmup = warmup
        self._updates = 0

    def update(self, sources: list[tuple[float, nn.Module]], ranks: Ranks = ALONE) -> None:
        """Move towards the combination of `sources`, (ratio, network) each, and of those that other ranks have."""
        self._updates += 1
        decay = self.last_decay
        tensors = [(ratio, weight_tensors(model)) for ratio, model in sources]
        if ranks.count > 1:
            tensors = [(1.0, combine(tensors, ranks))]
        average_into(weight_tensors(self.model), tensors, decay)
        for ours, theirs in zip(counters(self.model), counters(sources[0][1]), strict=True):
            ours.copy_(theirs)

    @property
    def last_decay(self) -> float:
        """What the last of its updates has multiplied the average by; there must be one."""
        update = self._updates - 1
        return min(self._decay, (update + 1) / (update + 10)) if self._warmup else self._decay

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint needs; tensors are references, not copies."""
        return {"model": self.model.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.model.load_state_dict(state["model"])
        self._updates = state["updates"]
