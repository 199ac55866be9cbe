"""PreActResNet-18 (He et al., 2016, 'Identity mappings'), the usual network of fast and of overfitting adversarial
training. Tensors are named as in published checkpoints."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PreActBlock(nn.Module):
    """Two pre-activated 3 x 3 convolutions and a shortcut, which projects the activated features.

    Some published checkpoints have the same names and project the features before the activation: these load, and
    predict badly.
    """

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(narrow)
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        changes = stride != 1 or narrow != wide
        self.shortcut = nn.Sequential(nn.Conv2d(narrow, wide, 1, stride, bias=False)) if changes else None

    def forward(self, features: Tensor) -> Tensor:
        """(batch, narrow, h, w) -> (batch, wide, h / stride, w / stride)."""
        activated = torch.relu(self.bn1(features))
        out = self.conv2(torch.relu(self.bn2(self.conv1(activated))))
        summed: Tensor = out + (features if self.shortcut is None else self.shortcut(activated))
        return summed


class PreActResNet(nn.Module):
    """Four stages of 64, 128, 256 and 512 channels, BatchNorm after the last; images as small as `CifarResNet`'s."""

    def __init__(self, channels: int, classes: int, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        self.layer1 = _stage(64, 64, blocks[0], stride=1)
        self.layer2 = _stage(64, 128, blocks[1], stride=2)
        self.layer3 = _stage(128, 256, blocks[2], stride=2)
        self.layer4 = _stage(256, 512, blocks[3], stride=2)
        self.bn = nn.BatchNorm2d(512)
        self.linear = nn.Linear(512, classes)

    @property
    def last_stage(self) -> nn.Module:
        """Where class-activation maps are taken from. A property, so that its weights are in the state once."""
        return self.layer4

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] -> logits (batch, classes)."""
        features = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(images)))))
        logits: Tensor = self.linear(torch.relu(self.bn(features)).mean((2, 3)))
        return logits


def _stage(narrow: int, wide: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActBlock(narrow, wide, stride)
    return nn.Sequential(first, *(PreActBlock(wide, wide, 1) for _ in range(blocks - 1)))


def preact_resnet18(channels: int, classes: int) -> PreActResNet:
    """PreActResNet-18: 11,172,170 parameters for three channels and ten classes."""
    return PreActResNet(channels, classes, blocks=(2, 2, 2, 2))
