"""Weights from elsewhere, checked before hours are spent on them."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.core.errors import RequestError
from pipeline.data.images import ImageSet
from pipeline.evaluation.predictions import channels_last
from pipeline.evaluation.statistics import mcnemar
from pipeline.models.checks import logits_of

IMAGES = 256
"""How many test images the checks look at."""
BETTER = 0.2
"""Another scaling of the inputs must raise the natural accuracy by this much to be called the right one, ..."""
CHANCE = 0.001
"""... and by more than chance does with this probability (McNemar's test on the same images)."""


@torch.no_grad()
def check_model(model: nn.Module, images: ImageSet, classes: int, any_scale: bool = False) -> float:
    """Refuse a model whose robust accuracy would mean nothing.

    Args:
        model: What is to be attacked, in the mode it is to be attacked in.
        images: Test images; the first 256 are used.
        classes: Number of classes of the data set.
        any_scale: Only say it where the model is better on inputs in another scale than [0, 1].

    Returns:
        The natural accuracy on those images.

    Raises:
        RequestError: train mode, outputs that are no logits of that many classes, outputs that change from call to
            call, or inputs that are expected in another scale than [0, 1]; with the way out.
    """
    inputs, labels = images.batch(torch.arange(min(IMAGES, len(images)), device=images.images.device))
    if model.training:
        raise RequestError("the model is in train mode: its predictions depend on the batch. Call model.eval() first.")
    way_out = "Choose the data set it was trained on."
    logits = logits_of("the model", model, inputs, classes, "in eval mode", way_out)
    if not torch.equal(logits, model(channels_last(inputs))):
        raise RequestError(
            "the model gives other outputs for the same images: it is random, and AutoAttack standard says little "
            "about it. Switch its noise off, or evaluate with expectation over its randomness."
        )
    correct = logits.argmax(1) == labels
    problem = _wrong_scale(model, inputs, labels, correct)
    if problem and not any_scale:
        raise RequestError(f"{problem}. Where [0, 1] is its scale all the same: --any-scale")
    if problem:
        print(f"--any-scale: {problem}", flush=True)
    return float(correct.float().mean())


def _wrong_scale(model: nn.Module, inputs: Tensor, labels: Tensor, correct: Tensor) -> str:
    """In words, in which other scale a model is right on significantly more images; "" where in none."""
    scales: dict[str, Tensor] = {
        "[-1, 1] (give --mean 0.5 --std 0.5)": 2 * inputs - 1,
        "[0, 255] (give --mean 0 --std 0.00392157)": 255 * inputs,
        "standardised images (give --mean and --std of its training)": _standardised(inputs),
    }
    for name, scaled in scales.items():
        other = model(channels_last(scaled)).argmax(1) == labels
        better = float(other.float().mean() - correct.float().mean())
        test = mcnemar(pd.Series(other.cpu().numpy()), pd.Series(correct.cpu().numpy()))
        if better > BETTER and test.p_value < CHANCE:
            return (
                f"the model is right on {correct.float().mean():.1%} of {len(labels)} images in [0, 1] and on "
                f"{other.float().mean():.1%} of the same images as {name}: attacks work in [0, 1], so its own scaling "
                "must happen inside the model"
            )
    return ""


def _standardised(inputs: Tensor) -> Tensor:
    mean, std = inputs.mean((0, 2, 3), keepdim=True), inputs.std((0, 2, 3), keepdim=True)
    return (inputs - mean) / std.clamp_min(1e-6)
