"""Data parallel training under torchrun: joining the other processes, and BatchNorm over all of them.

Every rank has all learners and their mixture, steps on its part of each minibatch, and averages gradients with the
others before the update; so weights are the same everywhere, and everything that works on weights (mixtures, moving
averages, selection) runs on each rank as it does on one. Gradients are exchanged in one flat tensor after the backward
pass, not during it: most of a step is crafting, which exchanges nothing, and objectives may make their own gradients.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, TCPStore
from typing_extensions import override

from pipeline.core.errors import Interrupted, RequestError, StoppedWaiting
from pipeline.core.launch import Launch, is_torchrun_store, launch
from pipeline.core.ranks import PATIENCE, Ranks, connection
from pipeline.core.waiting import kind, until

MEETING = kind("meeting", "the other processes of a training, at its start", PATIENCE)


@contextmanager
def joined(device: torch.device) -> Iterator[Ranks]:
    """The ranks of the job that torchrun has started; this process alone where it has not (`pipeline.core.launch`).

    Args:
        device: Of this rank's tensors. On CUDA, the device of its LOCAL_RANK is made the current one.

    Raises:
        RequestError: there are fewer CUDA devices than processes on this machine, or the job's port is taken.
        Interrupted: a signal came before all had met.
        PipelineError: another process did not come, or was lost.
    """
    here = launch()
    ranks = Ranks(here.rank, here.count)
    if ranks.count == 1:
        yield ranks
        return
    backend = "gloo"
    if device.type == "cuda":
        # Compared by every process, not only by those left without a device: the first one is to say it.
        processes, devices = here.local_count, torch.cuda.device_count()
        if processes > devices:
            error = RequestError(
                f"{processes} processes were started on this machine, which has {devices} CUDA "
                f"{'device' if devices == 1 else 'devices'}; start as many processes as devices: "
                "torchrun --nproc-per-node gpu"
            )
            error.is_of_all_ranks = True
            raise error
        torch.cuda.set_device(here.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    with connection(ranks):
        patience = timedelta(seconds=PATIENCE)
        dist.init_process_group(backend, store=_met(here), rank=here.rank, world_size=here.count, timeout=patience)
    try:
        yield ranks
    except StoppedWaiting:
        raise  # with the exchange under way: taking the group apart would wait for the others
    except BaseException as error:
        if isinstance(error, RequestError | Interrupted):
            error.is_of_all_ranks = True
        dist.destroy_process_group()
        raise
    else:
        dist.destroy_process_group()


def _met(here: Launch) -> PrefixStore:
    """The store in which all processes have written that they are there.

    torch would wait for them without a word, and without an answer to a signal.
    """
    address = f"{here.host}:{here.port}"
    others = [rank for rank in range(here.count) if rank != here.rank]
    serves = here.rank == 0 and not is_torchrun_store()
    if not serves:
        until(MEETING, f"process 0 of {here.count}, which is to listen at {address},", lambda: _listens(here))
    try:
        store = TCPStore(
            here.host,
            here.port,
            is_master=serves,
            timeout=timedelta(seconds=PATIENCE),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistNetworkError as error:
        raise RequestError(
            f"process {here.rank} cannot {'listen' if serves else 'call'} at {address}, as MASTER_ADDR and MASTER_PORT "
            f"say ({' '.join(str(error).split())[:120]}); another port may be free"
        ) from None
    store.set(_name(here.rank), "here")

    def missing() -> list[int]:
        return [rank for rank in others if not store.check([_name(rank)])]

    until(
        MEETING,
        lambda: (
            f"{'processes' if len(missing()) > 1 else 'process'} {', '.join(map(str, missing()))} of {here.count} "
            f"(this is process {here.rank}; they meet at {address})"
        ),
        lambda: not missing(),
    )
    return PrefixStore("joined", store)


def _name(rank: int) -> str:
    return f"process {rank}"


def _listens(here: Launch) -> bool:
    try:
        socket.create_connection((here.host, here.port), timeout=1).close()
    except OSError:
        return False
    return True


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
