"""The networks of ImageNet: torchvision's, with the standardisation that they were published with inside."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torchvision import models

from pipeline.models.normalization import Normalized

MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


class ImageNetNetwork(Normalized):
    """A torchvision residual network that takes images in [0, 1] of any size from 32 x 32.

    Weights that others published for torchvision's class go into `network`: `model.network.load_state_dict(...)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network, MEAN, STD)

    @property
    def last_stage(self) -> nn.Module:
        """Where class-activation maps are taken from. A property, so that its weights are in the state once."""
        stage: nn.Module = self.network.get_submodule("layer4")
        return stage


def resnet50(channels: int, classes: int) -> ImageNetNetwork:
    """ResNet-50 (He et al., 2016), stride in the 3 x 3 convolutions: 25,557,032 parameters for 1,000 classes."""
    return _build(models.resnet50, channels, classes)


def wrn50_2(channels: int, classes: int) -> ImageNetNetwork:
    """ResNet-50 with inner convolutions twice as wide (WRN-50-2): 68,883,240 parameters for 1,000 classes."""
    return _build(models.wide_resnet50_2, channels, classes)


def _build(constructor: Callable[..., nn.Module], channels: int, classes: int) -> ImageNetNetwork:
    if channels != 3:
        raise ValueError(f"networks of ImageNet take 3 channels, got {channels}")
    return ImageNetNetwork(constructor(num_classes=classes))
