"""Several processes that train together, as torchrun starts them, without the seconds that each takes to start."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
import torch
from torch.multiprocessing.spawn import ProcessContext, start_processes

from pipeline.core.launch import believe_environment
from pipeline.core.ranks import Ranks
from pipeline.grid.local import free_port
from pipeline.training.distributed import joined

Work = Callable[[Ranks], Any]
PATIENCE = 480.0


def together(count: int, work: Work, folder: Path) -> list[Any]:
    """What `work` returns on each of `count` ranks; it must be loadable with `weights_only=True`.

    Ranks are forked from a server that has computed nothing: where threads of autograd have run, as other tests may let
    them, a fork cannot compute gradients.
    """
    get_context("forkserver").set_forkserver_preload(["pipeline.training.loop"])
    port = free_port()
    started: ProcessContext | None = start_processes(  # type: ignore[no-untyped-call]
        _rank, (count, port, cloudpickle.dumps(work), folder), count, join=False, start_method="forkserver"
    )
    assert started is not None
    deadline = time.monotonic() + PATIENCE
    while not started.join(1):  # returns when one has ended, raises when one has failed
        assert time.monotonic() < deadline, "the ranks wait for each other"
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _rank(rank: int, count: int, port: int, work: bytes, folder: Path) -> None:
    torch.set_num_threads(1)
    address = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in address.items()} | {"MASTER_ADDR": "127.0.0.1"})
    believe_environment()
    with joined(torch.device("cpu")) as ranks:
        torch.save(cloudpickle.loads(work)(ranks), folder / f"{rank}.pt")
