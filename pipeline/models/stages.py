"""The last feature maps of a network: Grad-CAM shows them, PART weights pixels by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import RequestError
from pipeline.models.own import nearest

ATTRIBUTE = "last_stage"
"""A network's own module for them."""
NAME = "name_of_last_stage"
"""Where the name of any other module is kept."""


def name_last_stage(network: nn.Module, name: str) -> None:
    """Let the module of that name be the last stage.

    Raises:
        RequestError: there is none.
    """
    modules = dict(network.named_modules())
    if not name or name not in modules:
        names = [other for other, _ in network.named_children()]
        raise RequestError(
            f"model.last_stage: {type(network).__name__} has no module '{name}'; {nearest(name, list(modules)[1:])} "
            f"(at the top: {', '.join(names)})"
        )
    setattr(network, NAME, name)


def last_stage(network: nn.Module, images: Tensor) -> nn.Module:
    """The module whose output is the last feature maps: named, or the last one that gives more than one position.

    Args:
        network: Is run once in eval mode where nobody has named it; what is found is kept with it.
        images: (batch, channels, height, width) that it takes.

    Raises:
        RequestError: no module gives features of shape (batch, channels, height, width).
    """
    for module in network.modules():
        if hasattr(module, NAME):
            return module.get_submodule(getattr(module, NAME))
        if isinstance(stage := getattr(module, ATTRIBUTE, None), nn.Module):
            return stage
    found = _last_maps(network, images[:1])
    if found is None:
        raise RequestError(
            f"{type(network).__name__} has no feature maps, which class-activation maps are made of: none of its "
            "modules gives features of shape (batch, channels, height, width). Leave out the objective 'part' and "
            "figures of the kind 'grad_cam', or name a module that does: model.last_stage"
        )
    setattr(network, NAME, found)
    return network.get_submodule(found)


def _last_maps(network: nn.Module, images: Tensor) -> str | None:
    """The name of the module that was the last to give maps of more than one position."""
    seen: list[str] = []

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and _are_maps(output, images):
            seen.append(name)

    named = [(name, module) for name, module in network.named_modules() if name]
    handles = [module.register_forward_hook(partial(note, name)) for name, module in named]
    try:
        with in_eval_mode(network), torch.no_grad():
            network(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen[-1] if seen else None


def _are_maps(features: Tensor, images: Tensor) -> bool:
    """Whether the last two sizes are height and width: those of the image in proportion, and more than one position.

    Some layers have the channels last.
    """
    (high, wide), (height, width) = features.shape[2:], images.shape[2:]
    alike = (high - 1) * width <= (wide + 1) * height and (wide - 1) * height <= (high + 1) * width
    return alike and 1 < high * wide <= height * width


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Put every module into eval mode inside the block, and back into its own mode after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
