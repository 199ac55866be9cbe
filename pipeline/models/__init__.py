"""Classifiers: inputs in [0, 1] of shape (batch, channels, height, width), outputs logits of shape (batch, classes)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core.datasets import DATASETS, DataFacts
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.extensions import imported
from pipeline.models.own import check_path, is_path

if TYPE_CHECKING:
    from torch import nn

    from pipeline.core.values import Normalization


@dataclass(frozen=True)
class Architecture:
    """Where a network is defined, and which images it takes."""

    constructor: str
    """'module:object', imported when it is asked for: torchvision takes a second."""
    channels: int | None = None
    """None: any number."""
    least: int = 1
    """Pixels that height and width must have."""
    most: int | None = None
    """Pixels that neither may exceed, since the network is not made for so many; None: any number."""
    standardises: bool = False
    """The network standardises its inputs itself."""


ARCHITECTURES: dict[str, Architecture] = {
    "small_cnn": Architecture("pipeline.models.small_cnn:SmallCNN", least=4),
    "resnet18": Architecture("pipeline.models.resnet:resnet18", least=16, most=96),
    "resnet18_width16": Architecture("pipeline.models.resnet:resnet18_width16", least=8, most=96),
    "resnet18_width32": Architecture("pipeline.models.resnet:resnet18_width32", least=8, most=96),
    "resnet20": Architecture("pipeline.models.resnet:resnet20", least=8, most=96),
    "preact_resnet18": Architecture("pipeline.models.preact_resnet:preact_resnet18", least=16, most=96),
    "wrn28_10": Architecture("pipeline.models.wide_resnet:wrn28_10", least=16, most=96),
    "wrn32_10": Architecture("pipeline.models.wide_resnet:wrn32_10", least=16, most=96),
    "wrn34_10": Architecture("pipeline.models.wide_resnet:wrn32_10", least=16, most=96),
    "resnet50": Architecture("pipeline.models.imagenet:resnet50", channels=3, least=64, standardises=True),
    "wrn50_2": Architecture("pipeline.models.imagenet:wrn50_2", channels=3, least=64, standardises=True),
}


def check_input(architecture: str, images: DataFacts) -> None:
    """Refuse (ValueError) an unknown architecture, or one that cannot take such images.

    What a network from elsewhere takes is known when it is built: `pipeline.models.checks`.
    """
    if is_path(architecture):
        check_path(architecture)
        return
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture '{architecture}': {did_you_mean(architecture, list(ARCHITECTURES))}; a network of "
            "your own is 'package.module:object'"
        )
    wanted = ARCHITECTURES[architecture]
    if not _takes(wanted, images):
        raise ValueError(
            f"{architecture} takes images {_shapes(wanted)}, but the data has "
            f"{' x '.join(map(str, images.shape))}; networks that take it: {_fitting(images)}"
        )


def _takes(architecture: Architecture, images: DataFacts) -> bool:
    sides = (images.height, images.width)
    fits = architecture.least <= min(sides) and max(sides) <= (architecture.most or max(sides))
    return architecture.channels in (None, images.channels) and fits


def _fitting(images: DataFacts) -> str:
    """The names of the networks that take such images; asked for where one is refused, so that none depends on all."""
    return ", ".join(name for name, other in ARCHITECTURES.items() if _takes(other, images))


def _shapes(architecture: Architecture) -> str:
    """What it takes, for example 'with 3 channels, from 64 x 64 pixels'."""
    channels = "" if architecture.channels is None else f"with {architecture.channels} channels, "
    end = "" if architecture.most is None else f" to {architecture.most} x {architecture.most}"
    return f"{channels}from {architecture.least} x {architecture.least}{end} pixels"


def build_model(
    architecture: str,
    data: str | DataFacts,
    normalization: Normalization | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    fit: bool = False,
    last_stage: str | None = None,
) -> nn.Module:
    """A freshly initialised network for the images and classes of `data`, drawn from torch's default generator.

    Args:
        architecture: A key of `ARCHITECTURES`, or 'package.module:object' of any other: a class or a function, which is
            called with `arguments` and with those of channels, classes (also num_classes), height and width that it has
            parameters for.
        data: A key of `DATASETS`, or the shape and classes of other images.
        normalization: Standardise inputs inside the network; attacks still see [0, 1].
        arguments: What another network is called with.
        fit: Replace another network's first convolution and last linear layer where they do not fit the data.
        last_stage: The name of another network's module that gives the last feature maps (None: it is found).

    Raises:
        RequestError: the architecture is unknown, cannot be built, cannot take the data set's images, or standardises
            its inputs itself.
    """
    images = DATASETS[data] if isinstance(data, str) else data
    if is_path(architecture):
        model = _own(architecture, images, arguments or {}, fit, last_stage)
    else:
        model = _built_in(architecture, images, normalization)
    if normalization is None:
        return model
    from pipeline.models.normalization import Normalized

    return Normalized(model, normalization.mean, normalization.std)


def _built_in(architecture: str, images: DataFacts, normalization: Normalization | None) -> nn.Module:
    try:
        check_input(architecture, images)
    except ValueError as error:
        raise RequestError(str(error)) from None
    wanted = ARCHITECTURES[architecture]
    if wanted.standardises and normalization is not None:
        raise RequestError(f"{architecture} standardises its inputs itself, and must not a second time; leave it out")
    model: nn.Module = imported(wanted.constructor)(channels=images.channels, classes=len(images.classes))
    return model


def _own(path: str, images: DataFacts, arguments: Mapping[str, Any], fit: bool, last_stage: str | None) -> nn.Module:
    from pipeline.models.own import construct

    model = construct(path, images, arguments)
    if fit:
        from pipeline.models.fitting import fit as fit_to

        fit_to(model, images)
    if last_stage is not None:
        from pipeline.models.stages import name_last_stage

        name_last_stage(model, last_stage)
    return model
