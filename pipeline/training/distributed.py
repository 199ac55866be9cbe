"""Data parallel training under torchrun: joining the other processes, and BatchNorm over all of them.

Every rank has all learners and their mixture, steps on its part of each minibatch, and averages gradients with the
others before the update; so weights are the same everywhere, and everything that works on weights (mixtures, moving
averages, selection) runs on each rank as it does on one. Gradients are exchanged in one flat tensor after the backward
pass, not during it: most of a step is crafting, which exchanges nothing, and objectives may make their own gradients.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import override

from pipeline.core.errors import RequestError
from pipeline.core.ranks import Ranks, connection

PATIENCE = timedelta(minutes=30)
"""How long the others are waited for: rank 0 may be writing a checkpoint or waiting for the tracking server."""


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of the job that torchrun has started; this process alone where it has not.

    Args:
        device: Of this rank's tensors. On CUDA, the device of its LOCAL_RANK is made the current one.

    Raises:
        RequestError: there are fewer CUDA devices than processes on this machine.
        PipelineError: another process was lost before all had met.
    """
    ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    if ranks.count == 1:
        yield ranks
        return
    backend = "gloo"
    if device.type == "cuda":
        # Compared by every process, not only by those left without a device: the first one is to say it.
        processes, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes > devices:
            raise RequestError(
                f"{processes} processes were started on this machine, which has {devices} CUDA "
                f"{'device' if devices == 1 else 'devices'}; start as many processes as devices: "
                "torchrun --nproc-per-node gpu"
            )
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    with connection(ranks):
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield ranks
    finally:
        dist.destroy_process_group()


def synchronise_batch_norm(model: nn.Module, ranks: Ranks, device: torch.device) -> nn.Module:
    """Let BatchNorm normalise by the statistics of the whole minibatch instead of each rank's part.

    Otherwise weights would depend on the number of ranks. torch's own module is for CUDA alone.

    Raises:
        RequestError: a layer cannot be shared.
    """
    if ranks.count == 1:
        return model
    if device.type == "cuda" and ranks.group is None:  # with a group, torch's cannot be copied
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if type(module) is not nn.BatchNorm2d or not module.affine or not module.track_running_stats:
                raise RequestError(
                    f"{type(module).__name__} '{name}' of the network would have the statistics of each process's part "
                    "of a minibatch: on several processes without CUDA only nn.BatchNorm2d with its usual options can "
                    "be shared. Train on one process"
                )
            module.__class__ = SynchronisedBatchNorm  # with the parameters, buffers and hooks that it has
            module.ranks = ranks  # type: ignore[assignment]
    return model


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the minibatches of all ranks, on any device."""

    ranks: Ranks

    @override
    def forward(self, input: Tensor) -> Tensor:
        """(batch, channels, height, width) -> the same shape; a collective call in train mode."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        count = torch.full((1,), values.numel() / values.shape[1], device=values.device)
        sums = _sum_over(self.ranks, torch.cat([values.sum((0, 2, 3)), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = values - mean[:, None, None]
        # In two passes: the difference of large sums would lose what the variance consists of.
        variance = _sum_over(self.ranks, centred.square().sum((0, 2, 3))) / total
        self._follow(mean.detach(), variance.detach() * total / (total - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as `nn.BatchNorm2d` does."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def _sum_over(ranks: Ranks, values: Tensor) -> Tensor:
    summed: Tensor = _Sum.apply(values, ranks)
    return summed


class _Sum(torch.autograd.Function):
    """The sum over ranks; so is its gradient, since every rank's loss depends on every rank's values."""

    @staticmethod
    @override
    def forward(ctx: Any, values: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.total(values)

    @staticmethod
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.total(gradient), None
