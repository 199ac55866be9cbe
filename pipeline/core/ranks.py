"""The processes of one training, which part of a batch is whose, and what they tell each other.

A batch is split over the ranks in its order; what is random is drawn for the whole batch by every rank, which then
keeps its own rows. So an image meets the same augmentation and the same noise with any number of ranks, and where an
objective needs a number of the whole batch, it is a number of all ranks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.core.errors import PipelineError
from pipeline.core.waiting import kind, until

T = TypeVar("T")

PATIENCE = 1800.0
"""Seconds that the others are waited for: rank 0 may be writing a checkpoint or waiting for the tracking server."""
EXCHANGE = kind("exchange", "the other processes of a training, in its course", PATIENCE, grace=3.0)


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training. One alone exchanges nothing: what it gives is returned as it is."""

    rank: int = 0
    """From 0."""
    count: int = 1
    group: dist.ProcessGroup | None = field(default=None, compare=False, repr=False)
    """The process group of these ranks, where they are not all of the job."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        """Itself: copies of a network speak to the same processes."""
        return self

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def part(self, total: int) -> Part:
        """This rank's part of `total` rows; parts differ by at most one row, and may be empty where rows are few."""
        first, last = (total * rank // self.count for rank in (self.rank, self.rank + 1))
        return Part(first, last, total, self)

    def total(self, values: Tensor) -> Tensor:
        """The sum of all ranks' `values`, which have the same shape everywhere."""
        if self.count == 1:
            return values
        summed = values.detach().clone()
        with connection(self):
            self._finish(dist.all_reduce(summed, group=self.group, async_op=True), summed)
        return summed

    def _finish(self, exchange: dist.Work, values: Tensor) -> None:
        """Wait for the others to take part: a device by itself, this process so that it answers signals."""
        if values.is_cuda:
            exchange.wait()
        else:
            others = f"the other processes of {self.count} (this is process {self.rank})"
            until(EXCHANGE, others, lambda: _is_over(exchange), poll=0)

    def _meet(self) -> None:
        """Wait for the others, where what follows waits in torch and answers no signal."""
        self.total(torch.zeros(1))

    def add_up(self, gradients: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks, in place and in one exchange."""
        if self.count == 1:
            return
        summed = self.total(torch.cat([gradient.flatten() for gradient in gradients]))
        pieces = torch.split(summed, [gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            list(gradients), [piece.view(own.shape) for piece, own in zip(pieces, gradients, strict=True)]
        )

    def any(self, flag: bool) -> bool:
        """Whether one of the ranks says so."""
        return bool(self.total(torch.tensor(int(flag))))

    def share(self, value: Any) -> Any:
        """Rank 0's value, on every rank: tensors (on the CPU), numbers, strings and what is made of them."""
        if self.count == 1:
            return value
        box = [value if self.is_first else None]
        self._meet()
        with connection(self):
            dist.broadcast_object_list(box, group=self.group, group_src=0, device=torch.device("cpu"))
        return box[0]

    def collect(self, value: T) -> list[T]:
        """Every rank's value, in order, on every rank: numbers, strings and what is made of them."""
        if self.count == 1:
            return [value]
        box: list[Any] = [None] * self.count
        self._meet()
        with connection(self):
            dist.all_gather_object(box, value, group=self.group)
        return box

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in order, on the first rank; none on the others."""
        if self.count == 1:
            return [value]
        box: list[Any] | None = [None] * self.count if self.is_first else None
        self._meet()
        with connection(self):
            dist.gather_object(value, box, group=self.group, group_dst=0)
        return box or []

    def join(self, rows: Tensor) -> Tensor:
        """The rows of all ranks in order; their numbers may differ."""
        if self.count == 1:
            return rows
        counts = self._counts(len(rows))
        padded = rows.new_zeros((max(counts), *rows.shape[1:]))
        padded[: len(rows)] = rows.detach()
        found = [torch.empty_like(padded) for _ in counts]
        with connection(self):
            self._finish(dist.all_gather(found, padded, group=self.group, async_op=True), padded)
        return torch.cat([part[:count] for part, count in zip(found, counts, strict=True)])

    def place(self, count: int) -> Part:
        """Where `count` rows of this rank lie among those of all ranks, whose numbers may be any."""
        if self.count == 1:
            return Part(0, count, count, self)
        counts = self._counts(count)
        first = sum(counts[: self.rank])
        return Part(first, first + count, sum(counts), self)

    def _counts(self, own: int) -> list[int]:
        counts: list[int] = self.total(torch.nn.functional.one_hot(torch.tensor(self.rank), self.count) * own).tolist()
        return counts


ALONE = Ranks()


@dataclass(frozen=True)
class Part:
    """The rows `first` to `last` (exclusive) of a batch of `total`, which are one rank's."""

    first: int
    last: int
    total: int
    ranks: Ranks = ALONE

    @property
    def weight(self) -> float:
        """What a mean over this part counts in the mean over the batch."""
        return (self.last - self.first) / self.total

    def own(self, rows: Tensor) -> Tensor:
        """This part of something that was made for every row of the batch, or of several batches one after another."""
        if self.ranks.count == 1:
            return rows
        batches = rows.view(-1, self.total, *rows.shape[1:])
        return batches[:, self.first : self.last].flatten(0, 1)

    def whole(self, own_rows: int) -> int:
        """How many rows all ranks have together where this one has `own_rows`: one batch, or several joined."""
        if self.ranks.count == 1:
            return own_rows
        rows = self.last - self.first
        return self.total * (own_rows // rows if rows else 1)

    def weigh(self, loss: Tensor) -> Tensor:
        """What a mean over this part contributes to the mean over the batch: all ranks' contributions add up to it."""
        return loss if self.ranks.count == 1 else loss * self.weight

    def gradients(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of the batch's loss, of which `loss` is the mean over this part; None for what it does not use."""
        gradients: list[Tensor | None] = [*torch.autograd.grad(self.weigh(loss), parameters, allow_unused=True)]
        self.ranks.add_up([gradient for gradient in gradients if gradient is not None])
        return gradients

    def mean_where(self, values: Tensor, chosen: Tensor) -> Tensor:
        """This part's contribution to the batch's mean of the `chosen` values: its mean over the parts is that mean.

        Args:
            values: (own rows,)
            chosen: (own rows,), 1 or 0.
        """
        summed = (values * chosen).sum() / self.ranks.total(chosen.sum()).clamp_min(1)
        return summed if self.ranks.count == 1 else summed / self.weight


def _is_over(exchange: dist.Work) -> bool:
    try:
        exchange.wait(timedelta(seconds=1))
    except RuntimeError:
        if exchange.is_completed():
            raise
        return False
    return True


@contextmanager
def connection(ranks: Ranks) -> Iterator[None]:
    """Turn the loss of another process while talking to it into a message."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^\[\S+\] ", "", " ".join(str(error).split()))[:80]
        raise PipelineError(
            f"process {ranks.rank} of {ranks.count} (from 0) lost the others: one was killed, ran out of memory or "
            "left with an error of its own, which it has printed. The last checkpoint is kept; the same command "
            f"continues from there, with any number of processes ({reason})"
        ) from None
