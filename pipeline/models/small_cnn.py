"""A small convolutional network for small grey images."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Three convolutions with BatchNorm, global average and maximum pooling, one linear layer.

    Takes images of any size from 4 x 4. 24,698 parameters for one channel and ten classes.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(narrow, wide, 3, padding=1, bias=False) for narrow, wide in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.last_stage = nn.Identity()
        """Where class-activation maps are taken from."""
        self.linear = nn.Linear(2 * widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] -> logits (batch, classes)."""
        features = images
        for position, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True)):
            features = torch.relu(norm(convolution(features)))
            if position == 1:
                features = nn.functional.max_pool2d(features, 2)
        features = self.last_stage(features)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        logits: Tensor = self.linear(pooled)
        return logits
