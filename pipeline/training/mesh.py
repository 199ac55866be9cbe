"""Which process trains which learners on which part of a minibatch: data parallel, learner parallel, or both.

Learner parallel: the processes form a mesh of learners x parts of the minibatch. Those of one row train the same
learner and average its gradients; those of one column, one of every learner, mix: the global learner is one all-reduce
of the weighted weights.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch.distributed.device_mesh import init_device_mesh

from pipeline.config import MovingAverageSettings
from pipeline.config.methods import MethodSettings
from pipeline.core.errors import RequestError
from pipeline.core.ranks import ALONE, Ranks

T = TypeVar("T")


@dataclass(frozen=True)
class Mesh:
    """This process among those of a training."""

    everyone: Ranks = ALONE
    data: Ranks = ALONE
    """The ranks that train what this one trains, each on its part of the minibatch."""
    across: Ranks = ALONE
    """One of every learner's, with the same part of the minibatch; alone where every process trains all learners."""
    own: str | None = None
    """The learner that this process trains; None: all."""

    def trains(self, learner: str) -> bool:
        """Whether this process trains a learner."""
        return self.own in (None, learner)

    def merge(self, own: Mapping[str, T]) -> dict[str, T]:
        """What all processes know by learner, of what each knows of its own; plain values."""
        return {key: value for part in self.across.collect(dict(own)) for key, value in part.items()}

    def gather(self, states: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """All learners' states on the first process, of each one's own; on the others only some.

        Args:
            states: By learner, loadable with `weights_only=True`.
            device: Where tensors of other processes are put.
        """
        if self.across.count == 1 or not self.data.is_first:
            return states
        buffer = io.BytesIO()
        torch.save(states, buffer)
        found: dict[str, Any] = {}
        for content in self.across.gather(buffer.getvalue()):
            found |= torch.load(io.BytesIO(content), map_location=device, weights_only=True)
        return found


ONE_PROCESS = Mesh()


def shared_out(ranks: Ranks, method: MethodSettings, device: torch.device) -> Mesh:
    """Every process trains one learner: a row of the mesh for each, of as many processes as there are for it.

    Raises:
        RequestError: the method has no learners that only meet in a moving average, or the processes cannot be shared
            out evenly among them.
    """
    if not isinstance(method.mixture, MovingAverageSettings):
        raise RequestError(
            "learner parallel training needs a method whose learners meet in a mixture of rule moving_average; train "
            "this one data parallel, without --learner-parallel"
        )
    learners = list(method.learners)
    rows = len(learners)
    if ranks.count % rows:
        raise RequestError(
            f"{ranks.count} processes cannot be shared out evenly among {rows} learners ({', '.join(learners)}); start "
            f"{rows}, or a multiple of it: torchrun --nproc-per-node {rows}"
        )
    columns = ranks.count // rows
    mesh = init_device_mesh(device.type, (rows, columns), mesh_dim_names=("learner", "data"))
    row, column = divmod(ranks.rank, columns)
    return Mesh(
        everyone=ranks,
        data=Ranks(column, columns, mesh.get_group("data")),
        across=Ranks(row, rows, mesh.get_group("learner")),
        own=learners[row],
    )
