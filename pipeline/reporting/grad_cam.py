"""Grad-CAM (Selvaraju et al., 2017): which part of an image speaks for a class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models import LAST_STAGE
from pipeline.models.normalization import Normalized


def last_stage(model: nn.Module) -> nn.Module:
    """The module whose output maps are taken from: the last feature maps before the pooling.

    `pipeline.models.build_model` refuses a network that does not name its own.
    """
    wrapped = isinstance(model, Normalized) and not hasattr(model, LAST_STAGE)
    return model.get_submodule(f"network.{LAST_STAGE}" if wrapped else LAST_STAGE)


def class_activation_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM of one class for each image.

    Args:
        model: Maps images to logits; in eval mode, on the CPU. Left as it is, without gradients.
        images: (n, channels, height, width), float32 in [0, 1].
        classes: (n,), int64.

    Returns:
        (n, height, width), float32 in [0, 1]: scaled for every image so that its strongest place is 1; all zeros where
        nothing speaks for the class.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(number) for number in classes.tolist()]
    with GradCAM(model=model, target_layers=[last_stage(model)]) as extractor:
        maps = extractor(input_tensor=images.contiguous(), targets=targets)
    model.zero_grad(set_to_none=True)
    return torch.from_numpy(maps).to(torch.float32)
