"""A network whose weights lie on a curve between those of two others."""

from __future__ import annotations

from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override


def bernstein(position: float) -> tuple[float, float, float]:
    """The weights of start, middle and end of a quadratic Bezier curve at `position` in [0, 1]; their sum is 1."""
    return (1 - position) ** 2, 2 * position * (1 - position), position**2


class BezierPath(nn.Module):
    """phi(t) = (1 - t)^2 theta_1 + 2 t (1 - t) theta_m + t^2 theta_2 (Garipov et al., 2018).

    Its parameters are those of theta_m. Buffers are not on the curve: BatchNorm's running statistics belong to whatever
    mixture of positions was forwarded, and are to be recomputed before a point of the path is used on its own.

    Args:
        middle: theta_m, and the network that is run.
        start: theta_1; never changed, and no part of this module's state.
        end: theta_2, likewise.
    """

    def __init__(self, middle: nn.Module, start: nn.Module, end: nn.Module) -> None:
        super().__init__()
        self.middle = middle
        self._ends = (start, end)
        self.position = 0.5
        """t in [0, 1] of the next forward passes."""

    def weights(self) -> dict[str, Tensor]:
        """phi(t) by parameter name; gradients reach theta_m only."""
        first, second, third = bernstein(self.position)
        start, end = (dict(network.named_parameters()) for network in self._ends)
        return {
            name: first * start[name].detach() + second * parameter + third * end[name].detach()
            for name, parameter in self.middle.named_parameters()
        }

    @override
    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> logits (batch, classes), with the weights phi(t)."""
        logits: Tensor = functional_call(self.middle, self.weights(), (images,))
        return logits
