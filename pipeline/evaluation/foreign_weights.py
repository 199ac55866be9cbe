"""Weights from elsewhere: read, fitted to one of the project's networks, and checked before hours are spent on them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet
from pipeline.evaluation.predictions import channels_last

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights")
"""Keys under which training scripts keep the state dict in a larger checkpoint."""
IMAGES = 256
"""How many test images the checks look at."""
BETTER = 0.2
"""Another scaling of the inputs must raise the natural accuracy by this much to be called the right one."""


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a `.pt` file that holds nothing but tensors and plain values.

    Raises:
        RequestError: the file is missing, damaged, holds code, or holds no state dict.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise RequestError(f"{path}: no such file; expected a state dict as .safetensors, .pt or .pth")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, of what is refused below in words of our own
            tensors = path.suffix == ".safetensors"
            content: Any = load_file(path) if tensors else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise RequestError(f"{path}: is damaged or no file of tensors ({' '.join(str(error).split())[:200]})") from None
    except Exception as error:  # pickle's own errors have no common base
        raise RequestError(
            f"{path}: holds more than tensors and is not loaded ({type(error).__name__}). Save its state dict alone: "
            "torch.save(model.state_dict(), ...)"
        ) from None
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise RequestError(f"{path}: expected a state dict, names with tensors, got {type(content).__name__}")
    return {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}


def load_into(model: nn.Module, state: dict[str, Tensor], origin: str) -> str:
    """Put the tensors of `state` into `model`: by name, or, where names differ, by order and shape.

    Returns:
        How they were matched, for the person to see.

    Raises:
        RequestError: number or shapes of the tensors are not those of the network.
    """
    own = model.state_dict()
    if own.keys() == state.keys():
        names = dict(zip(own, own, strict=True))
    elif len(own) == len(state):
        names = dict(zip(own, state, strict=True))
    else:
        raise RequestError(
            f"{origin}: {len(state)} tensors, but the network has {len(own)}; choose the one it was saved from "
            "(--architecture)"
        )
    for ours, theirs in names.items():
        if not _is_plain(state[theirs]):
            raise RequestError(
                f"{origin}: tensor '{theirs}' is {_kind(state[theirs])}, expected {_kind(own[ours])}; save the "
                "model's state dict with ordinary tensors"
            )
        if own[ours].shape != state[theirs].shape:
            raise RequestError(
                f"{origin}: tensor '{theirs}' has shape {list(state[theirs].shape)}, but the network's '{ours}' has "
                f"{list(own[ours].shape)}; choose the network it was saved from (--architecture) and its data set"
            )
    model.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    return "by name" if own.keys() == state.keys() else "by order and shape, since names differ"


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor holds a real number for each element: not complex, sparse, quantised or without data."""
    real = not tensor.is_complex() and not tensor.is_quantized
    return real and not tensor.is_meta and tensor.layout == torch.strided


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} ({str(tensor.layout).removeprefix('torch.')}, on {tensor.device})"


@torch.no_grad()
def check_model(model: nn.Module, images: ImageSet, classes: int) -> float:
    """Refuse a model whose robust accuracy would mean nothing.

    Args:
        model: What is to be attacked, in the mode it is to be attacked in.
        images: Test images; the first 256 are used.
        classes: Number of classes of the data set.

    Returns:
        The natural accuracy on those images.

    Raises:
        RequestError: train mode, outputs that are no logits of that many classes, outputs that change from call to
            call, or inputs that are expected in another scale than [0, 1]; with the way out.
    """
    inputs, labels = images.batch(torch.arange(min(IMAGES, len(images)), device=images.images.device))
    if model.training:
        raise RequestError("the model is in train mode: its predictions depend on the batch. Call model.eval() first.")
    logits = model(channels_last(inputs))
    _check_logits(logits, len(inputs), classes)
    if not torch.equal(logits, model(channels_last(inputs))):
        raise RequestError(
            "the model gives other outputs for the same images: it is random, and AutoAttack standard says little "
            "about it. Switch its noise off, or evaluate with expectation over its randomness."
        )
    accuracy = _accuracy(logits, labels)
    scales: dict[str, Tensor] = {
        "[-1, 1] (give --mean 0.5 --std 0.5)": 2 * inputs - 1,
        "[0, 255] (give --mean 0 --std 0.00392157)": 255 * inputs,
        "standardised images (give --mean and --std of its training)": _standardised(inputs),
    }
    for name, scaled in scales.items():
        if (other := _accuracy(model(channels_last(scaled)), labels)) > accuracy + BETTER:
            raise RequestError(
                f"the model is right on {accuracy:.1%} of images in [0, 1] and on {other:.1%} of the same images as "
                f"{name}: attacks work in [0, 1], so its own scaling must happen inside the model"
            )
    return accuracy


def _check_logits(logits: Tensor, count: int, classes: int) -> None:
    if logits.shape != (count, classes):
        raise RequestError(
            f"the model maps {count} images to {list(logits.shape)}, expected [{count}, {classes}]: one logit for each "
            f"of {classes} classes. Choose the data set it was trained on."
        )
    if not torch.isfinite(logits).all():
        raise RequestError("the model gives outputs that are not finite for images in [0, 1]")
    sums = logits.sum(1)
    if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise RequestError(
            "the model returns probabilities (all >= 0, each row sums to 1): attacks need logits, since the gradient "
            "of a saturated softmax vanishes. Remove the last softmax."
        )


def _standardised(inputs: Tensor) -> Tensor:
    mean, std = inputs.mean((0, 2, 3), keepdim=True), inputs.std((0, 2, 3), keepdim=True)
    return (inputs - mean) / std.clamp_min(1e-6)


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())
