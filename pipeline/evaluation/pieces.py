"""Batches that are larger than the device's memory: the network sees them piece by piece.

The batch size of an evaluation is part of its address, since random starts are drawn for a batch. So what fits into a
device must not change it: an attack keeps its batch, and only the network's passes are cut.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

PROBED = (4, 8)
"""Batch sizes whose difference in memory tells that of an image."""
SHARE_OF_MEMORY = 0.7
"""The share of free memory that is used: an attack holds images of its own beside the network's activations."""


class InPieces(nn.Module):
    """A network in eval mode that is given at most so many images at once, and gives what it gives for all together.

    Where gradients are wanted and the batch is cut, activations are made again in the backward pass, piece by piece: a
    third more work, and the memory of one piece.

    Args:
        model: Maps images to logits, each image's independent of the others.
        limit: Images at once, at least 1.
    """

    def __init__(self, model: nn.Module, limit: int) -> None:
        super().__init__()
        self.model = model
        self.limit = limit

    def forward(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) -> (batch, classes)."""
        if len(images) <= self.limit:
            logits: Tensor = self.model(images)
            return logits
        pieces = torch.split(images, self.limit)
        return torch.cat([checkpoint(self.model, piece, use_reentrant=False) for piece in pieces])


def fitting(model: nn.Module, shape: Sequence[int], batch: int, device: torch.device) -> nn.Module:
    """`model` as it is where a batch of images fits into the device's memory, otherwise in pieces.

    Args:
        model: In eval mode, on `device`.
        shape: (channels, height, width) of an image.
        batch: Images in a batch.
        device: Memory is looked at on CUDA alone; elsewhere the system pages.
    """
    if device.type != "cuda":
        return model
    small, large = (_peak_bytes(model, shape, size, device) for size in PROBED)
    image_bytes = max((large - small) / (PROBED[1] - PROBED[0]), 1)
    limit = int(SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0] / image_bytes)
    return model if limit >= batch else InPieces(model, max(limit, 1)).eval()


def _peak_bytes(model: nn.Module, shape: Sequence[int], size: int, device: torch.device) -> int:
    """What a gradient of so many images needs at most at once."""
    torch.cuda.reset_peak_memory_stats(device)
    images = torch.zeros(size, *shape, device=device).requires_grad_()
    loss = functional.cross_entropy(model(images), torch.zeros(size, dtype=torch.long, device=device))
    torch.autograd.grad(loss, images)
    return torch.cuda.max_memory_allocated(device)
