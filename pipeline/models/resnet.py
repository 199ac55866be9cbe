"""The CIFAR ResNet-18 of the papers (3 x 3 stem with stride 1, no max-pooling, stages of 64, 128, 256, 512), narrow
ones for CPUs, and ResNet-20."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, post-activation (He et al., 2016)."""

    def __init__(self, narrow: int, wide: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(narrow, wide, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)
        self.shortcut = nn.Sequential()
        if stride != 1 or narrow != wide:
            self.shortcut = nn.Sequential(nn.Conv2d(narrow, wide, 1, stride, bias=False), nn.BatchNorm2d(wide))

    def forward(self, features: Tensor) -> Tensor:
        """(batch, narrow, h, w) -> (batch, wide, h / stride, w / stride)."""
        out = torch.relu(self.bn1(self.conv1(features)))
        return torch.relu(self.bn2(self.conv2(out)) + self.shortcut(features))


class CifarResNet(nn.Module):
    """A residual network with a stage for each of `widths`, for images of 32 x 32 and others of that order as they are.

    MNIST is neither padded nor resized: the stages are 28, 14, 7 and 4 pixels high instead of 32, 16, 8 and 4, and the
    global mean takes either. Digits give 8, 4, 2 and 1.
    """

    def __init__(self, channels: int, classes: int, blocks: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        layers: list[nn.Module] = []
        narrow = widths[0]
        for stage, (count, wide) in enumerate(zip(blocks, widths, strict=True)):
            for block in range(count):
                layers.append(BasicBlock(narrow, wide, stride=2 if stage > 0 and block == 0 else 1))
                narrow = wide
        self.last_stage = nn.Sequential(*layers)
        self.linear = nn.Linear(narrow, classes)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) in [0, 1] -> logits (batch, classes)."""
        features = self.last_stage(torch.relu(self.bn1(self.conv1(images))))
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits


def resnet18(channels: int, classes: int) -> CifarResNet:
    """ResNet-18 for CIFAR: 11,173,962 parameters for three channels and ten classes."""
    return CifarResNet(channels, classes, blocks=(2, 2, 2, 2), widths=(64, 128, 256, 512))


def resnet18_width16(channels: int, classes: int) -> CifarResNet:
    """A quarter of ResNet-18's channels in every stage: 701,466 parameters for three channels and ten classes."""
    return CifarResNet(channels, classes, blocks=(2, 2, 2, 2), widths=(16, 32, 64, 128))


def resnet18_width32(channels: int, classes: int) -> CifarResNet:
    """Half of ResNet-18's channels in every stage: 2,797,610 parameters for three channels and ten classes."""
    return CifarResNet(channels, classes, blocks=(2, 2, 2, 2), widths=(32, 64, 128, 256))


def resnet20(channels: int, classes: int) -> CifarResNet:
    """ResNet-20 for CIFAR: 272,474 parameters for three channels and ten classes.

    Shortcuts that change the shape are projections (option B of He et al., 2016), as in most code; their own, without
    parameters (option A), give 269,722.
    """
    return CifarResNet(channels, classes, blocks=(3, 3, 3), widths=(16, 32, 64))
