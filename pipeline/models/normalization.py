"""Input standardisation as part of the network, so that attacks and callers only ever see images in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalized(nn.Module):
    """`network((images - mean) / std)` with per-channel constants, which are not part of the state."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] -> logits (batch, classes)."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits
