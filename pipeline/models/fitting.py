"""Fit a network that was made for other images: its first convolution and its last linear layer."""

from __future__ import annotations

from torch import nn

from pipeline.core.datasets import DataFacts
from pipeline.core.errors import RequestError

SMALL = 64
"""Height and width up to which a stem that halves the image at once loses most of it."""


def fit(network: nn.Module, images: DataFacts) -> None:
    """Give a network the channels and classes of `images`, in place; to small ones, a stem that keeps their size.

    What fits already is left as it is; layers that do not are replaced by fresh ones. For images of up to 64 x 64 a
    first convolution that steps over pixels becomes one of 3 x 3 with stride 1, and the max-pool right after it goes,
    as in the ResNets for CIFAR. A convolution that cuts the image into patches keeps its size and stride.

    Raises:
        RequestError: there is no linear layer to replace, or the first convolution is in groups that channels do not
            fill.
    """
    _fit_stem(network, images)
    _fit_head(network, len(images.classes))


def _fit_stem(network: nn.Module, images: DataFacts) -> None:
    layers = list(network.named_modules())
    name, first = next(((name, layer) for name, layer in layers if isinstance(layer, nn.Conv2d)), ("", None))
    if first is None:
        return
    overlaps = max(first.kernel_size) > max(first.stride) > 1
    small = overlaps and max(images.height, images.width) <= SMALL
    if first.in_channels == images.channels and not small:
        return
    if images.channels % first.groups:
        raise RequestError(
            f"fit: the first convolution '{name}' has {first.groups} groups for {images.channels} channels"
        )
    kept = {key: getattr(first, key) for key in ("kernel_size", "stride", "padding", "dilation")}
    size = {"kernel_size": 3, "stride": 1, "padding": 1} if small else kept
    fresh = nn.Conv2d(
        images.channels,
        first.out_channels,
        **size,
        groups=first.groups,
        bias=first.bias is not None,
        padding_mode=first.padding_mode,
    )
    network.set_submodule(name, fresh)
    if small and (pool := _pool_of_stem(network)) is not None:
        network.set_submodule(pool, nn.Identity())


def _pool_of_stem(network: nn.Module) -> str | None:
    """The name of the max-pool between the first and the second convolution."""
    convolutions = 0
    for name, layer in network.named_modules():
        convolutions += isinstance(layer, nn.Conv2d)
        if isinstance(layer, nn.MaxPool2d) and convolutions == 1:
            return str(name)
    return None


def _fit_head(network: nn.Module, classes: int) -> None:
    heads = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, nn.Linear)]
    if not heads:
        raise RequestError(
            f"fit: {type(network).__name__} has no linear layer that could be one for {classes} classes; leave out "
            "model.fit and say it in model.arguments, for example {num_classes: " + str(classes) + "}"
        )
    name, head = heads[-1]
    if head.out_features != classes:
        network.set_submodule(name, nn.Linear(head.in_features, classes, bias=head.bias is not None))
