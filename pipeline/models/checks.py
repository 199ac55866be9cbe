"""What a network from elsewhere must do before hours are spent on it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import RequestError
from pipeline.models.own import said
from pipeline.models.stages import in_eval_mode, last_stage

IMAGES = 4
TOLERANCE = 1e-3
"""Relative to the largest logit: other numbers of images are summed in another order."""
WAY_OUT = (
    "model.fit: true fits the first convolution and the last linear layer to the data, model.arguments is what it is "
    "called with"
)


@torch.no_grad()
def check_network(name: str, model: nn.Module, shape: tuple[int, int, int], classes: int, maps: bool = False) -> None:
    """Refuse a network that cannot be trained or attacked as others are; it is left as it was.

    Args:
        name: How messages call it.
        model: On any device.
        shape: (channels, height, width) of the images.
        classes: Their number.
        maps: Whether its last feature maps are needed.

    Raises:
        RequestError: it has no parameters, or cannot take the images; outputs in eval or train mode are no finite
            logits of that many classes; in eval mode they are random or depend on the other images of the batch; or
            there are no feature maps where they are needed.
    """
    parameters = list(model.parameters())
    if not parameters:
        raise RequestError(f"network '{name}' has no parameters: there is nothing to train")
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in parameters):
        raise RequestError(f"network '{name}' has lazy layers, whose sizes are unknown; give them their sizes")
    generator, device = torch.Generator().manual_seed(0), parameters[0].device
    images = torch.rand((IMAGES, *shape), generator=generator).to(device)
    try:
        # BatchNorm follows the images in train mode, and the layout is the one of training.
        copy = deepcopy(model).to(memory_format=torch.channels_last)
    except Exception as error:  # other people's code: anything may come of it
        raise RequestError(
            f"network '{name}' cannot be copied, which averaging weights needs ({said(error)})"
        ) from error
    with torch.random.fork_rng(devices=[]):
        with in_eval_mode(copy):
            logits = _logits(name, copy, images, classes, "eval")
            again, alone = (_logits(name, copy, given, classes, "eval") for given in (images, images[:1]))
            if not torch.equal(logits, again):
                raise RequestError(
                    f"network '{name}' gives other logits for the same images in eval mode: it is random, and what "
                    "attacks find there means little; switch its noise off where self.training is False"
                )
            if (logits[:1] - alone).abs().max() > TOLERANCE * logits.abs().max():
                raise RequestError(
                    f"in eval mode the logits of network '{name}' for an image depend on the other images of its "
                    "batch; use layers that do not look at them there (BatchNorm needs track_running_stats=True)"
                )
            if maps:
                last_stage(copy, images)
        copy.train()
        _logits(name, copy, images, classes, "train")


def _logits(name: str, model: nn.Module, images: Tensor, classes: int, mode: str) -> Tensor:
    return logits_of(f"network '{name}'", model, images, classes, f"in {mode} mode", WAY_OUT)


def logits_of(who: str, model: nn.Module, images: Tensor, classes: int, where: str, way_out: str) -> Tensor:
    """The logits of a network, in the memory layout that it is trained and attacked in.

    Args:
        who: How messages call the network.
        model: The network.
        images: (n, channels, height, width), in [0, 1].
        classes: Their number.
        where: In which mode.
        way_out: What may mend it.

    Raises:
        RequestError: it cannot take the images, or `check_logits` refuses what it gives.
    """
    shape = " x ".join(map(str, images.shape[1:]))
    try:
        logits: Any = model(images.contiguous(memory_format=torch.channels_last))
    except Exception as error:  # other people's code: anything may come of it
        raise RequestError(f"{who} cannot take images of {shape} {where}: {said(error)}. {way_out}") from error
    if not isinstance(logits, Tensor):
        raise RequestError(
            f"{who} gives {type(logits).__name__} {where}, expected a tensor of logits; switch auxiliary outputs off "
            "(model.arguments), or wrap it"
        )
    check_logits(who, f"images of {shape}", logits, (len(images), classes), where, way_out)
    return logits


def check_logits(who: str, what: str, logits: Tensor, expected: tuple[int, int], where: str, way_out: str) -> None:
    """Refuse (RequestError) what is no finite logit for each image and class.

    Args:
        who: Gave them.
        what: Was given.
        logits: Of any shape.
        expected: (images, classes).
        where: In which mode.
        way_out: What may mend another number of classes.
    """
    count, classes = expected
    if logits.shape != expected:
        raise RequestError(
            f"{who} maps {count} {what} to {list(logits.shape)} {where}, expected [{count}, {classes}]: a logit for "
            f"each of {classes} classes. {way_out}"
        )
    if not torch.isfinite(logits).all():
        raise RequestError(f"{who} gives logits that are not finite for images in [0, 1] {where}")
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-3):
        raise RequestError(
            f"{who} gives probabilities {where}, expected logits: the gradient of a saturated softmax vanishes; remove "
            "the last softmax"
        )
