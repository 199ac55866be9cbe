"""WRN-28-10, and the network that the papers call WRN-32-10: pre-activation, four and five blocks a stage, widths 160,
320, 640.

Counting as its source does ((32 - 2) // 6 = 5 blocks a stage) it has 34 convolutions: everybody else calls it
WRN-34-10. The papers' name is kept, so that rows can be compared; `wrn34_10` is another name of the same network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WideBlock(nn.Module):
    """Two pre-activated 3 x 3 convolutions and a shortcut (Zagoruyko and Komodakis, 2016), no dropout."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.projection = None if narrow == wide else nn.Conv2d(narrow, wide, 1, stride, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, narrow, h, w) -> (batch, wide, h / stride, w / stride)."""
        activated = torch.relu(self.bn1(features))
        out = self.conv2(torch.relu(self.bn2(self.conv1(activated))))
        shortcut = features if self.projection is None else self.projection(activated)
        summed: Tensor = out + shortcut
        return summed


class WideResNet(nn.Module):
    """A wide residual network with three stages for images of 32 x 32 and others of that order as they are.

    MNIST is neither padded nor resized: the stages are 28, 14 and 7 pixels high instead of 32, 16 and 8, and the global
    mean takes either.
    """

    def __init__(self, channels: int, classes: int, blocks: int, widen: int) -> None:
        super().__init__()
        widths = (16 * widen, 32 * widen, 64 * widen)
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        layers: list[nn.Module] = []
        narrow = 16
        for stage, wide in enumerate(widths):
            for block in range(blocks):
                layers.append(WideBlock(narrow, wide, stride=2 if stage > 0 and block == 0 else 1))
                narrow = wide
        self.last_stage = nn.Sequential(*layers)
        self.bn = nn.BatchNorm2d(narrow)
        self.linear = nn.Linear(narrow, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] -> logits (batch, classes)."""
        features = torch.relu(self.bn(self.last_stage(self.conv1(images))))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


def wrn28_10(channels: int, classes: int) -> WideResNet:
    """WRN-28-10: 36,479,194 parameters for three channels and ten classes."""
    return WideResNet(channels, classes, blocks=4, widen=10)


def wrn32_10(channels: int, classes: int) -> WideResNet:
    """The papers' WRN-32-10, elsewhere WRN-34-10: 46,160,474 parameters for three channels and ten classes."""
    return WideResNet(channels, classes, blocks=5, widen=10)
