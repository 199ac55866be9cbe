"""Balls around images in [0, 1]: norms, steepest directions and projections in linf, l2 and l1."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from pipeline.core.values import Norm

TINY = 1e-12
L1_COORDINATES = 0.05
"""Share of the coordinates that a steepest l1 step moves (Croce and Hein, 2022, in training)."""
BISECTIONS = 40
"""Halvings of the threshold's interval in the l1 projection: far below float32's resolution."""


def per_sample(values: Tensor) -> Tensor:
    """(batch,) -> (batch, 1, 1, 1), so that it multiplies images."""
    return values.view(-1, 1, 1, 1)


def norms(norm: Norm, perturbation: Tensor) -> Tensor:
    """The norm of each sample: (batch, ...) -> (batch,)."""
    order = {"linf": float("inf"), "l2": 2, "l1": 1}[norm]
    lengths: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), ord=order, dim=1)
    return lengths


def steepest_direction(norm: Norm, gradient: Tensor) -> Tensor:
    """A direction of length one in `norm` along which the loss grows fast, per sample; zero for a zero gradient.

    In l1 the steepest step moves one coordinate; as in the field it moves the 5 % with the largest gradient, equally.
    """
    if norm == "linf":
        return gradient.sign()
    if norm == "l2":
        return gradient / per_sample(norms("l2", gradient).clamp_min(TINY))
    chosen = max(1, int(L1_COORDINATES * gradient[0].numel()))
    return sparse_sign(gradient, torch.full((len(gradient),), chosen, device=gradient.device))


def sparse_sign(gradient: Tensor, coordinates: Tensor) -> Tensor:
    """sign(gradient) on each sample's `coordinates` (batch,) largest entries, scaled to an l1 norm of one."""
    magnitudes = gradient.flatten(1).abs()
    threshold = magnitudes.sort(dim=1, descending=True).values.gather(1, (coordinates - 1).clamp_min(0).unsqueeze(1))
    signs = gradient.sign() * (magnitudes >= threshold).view_as(gradient)
    return signs / per_sample(norms("l1", signs).clamp_min(1))


def project(norm: Norm, perturbed: Tensor, images: Tensor, epsilon: float | Tensor) -> Tensor:
    """The point of the ball around `images` and of the box [0, 1] that belongs to `perturbed`.

    linf and l2: the ball, then the box (which never makes a perturbation of an image in the box larger). l1: the
    nearest point of the intersection, since the box would cut off what the ball leaves. linf takes a radius per pixel
    too.
    """
    perturbation = perturbed - images
    if norm == "linf":
        bound = cast(Tensor, epsilon)  # clamp takes numbers as well as tensors, its type says one or the other
        perturbation = perturbation.clamp(min=-bound, max=bound)
    elif norm == "l2":
        perturbation = perturbation * per_sample((epsilon / norms("l2", perturbation).clamp_min(TINY)).clamp_max(1.0))
    else:
        perturbation = _project_l1(perturbation, images, epsilon)
    return (images + perturbation).clamp(0.0, 1.0)


def _project_l1(perturbation: Tensor, images: Tensor, epsilon: float | Tensor) -> Tensor:
    """Soft-threshold by the least lambda >= 0 for which the box-clipped result has an l1 norm of at most epsilon."""
    room = torch.where(perturbation > 0, 1 - images, images)
    magnitudes = perturbation.abs()

    def shrunk(threshold: Tensor) -> Tensor:
        return torch.minimum((magnitudes - per_sample(threshold)).clamp_min(0), room)

    low = torch.zeros(len(images), device=images.device)
    high = magnitudes.flatten(1).amax(1)
    inside = norms("l1", shrunk(low)) <= epsilon
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        too_long = norms("l1", shrunk(middle)) > epsilon
        low, high = torch.where(too_long, middle, low), torch.where(too_long, high, middle)
    return perturbation.sign() * shrunk(torch.where(inside, torch.zeros_like(high), high))
