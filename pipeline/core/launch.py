"""Which process of a job this one is, as its launcher says in the environment.

Only torchrun is believed without being asked to: wrappers of jobs leave RANK and WORLD_SIZE behind for one process too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from pipeline.core.errors import RequestError

OPTION = "--ranks-from-environment"
"""What a person says where another launcher has set `VARIABLES`."""
TORCHRUN = "TORCHELASTIC_RUN_ID"
"""A variable that torchrun alone sets."""
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
VARIABLES = (*NUMBERS, "MASTER_ADDR")

_believed = False


@dataclass(frozen=True)
class Launch:
    """A process of a job."""

    rank: int = 0
    """From 0."""
    count: int = 1
    local_rank: int = 0
    """Among those on this machine."""
    local_count: int = 1
    host: str = ""
    """Where the first process listens."""
    port: int = 0


def believe_environment() -> None:
    """Take what the environment says as `OPTION` asks, whoever has set it."""
    global _believed
    _believed = True


def is_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return TORCHRUN in os.environ


def is_torchrun_store() -> bool:
    """Whether torchrun itself listens where the processes are to meet."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def launch() -> Launch:
    """This process among those of its job; one alone where neither torchrun nor `OPTION` says otherwise.

    Raises:
        RequestError: a variable that it takes is missing, or no number.
    """
    if not is_torchrun() and not _believed:
        return Launch()
    found = {name: os.environ.get(name, "") for name in VARIABLES}
    wrong = [f"{name}='{found[name]}'" for name in NUMBERS if not found[name].isdecimal()]
    if missing := [name for name in VARIABLES if not found[name]] or wrong:
        raise RequestError(
            f"several processes are told apart by {', '.join(VARIABLES)}; missing or not a whole number: "
            f"{', '.join(missing)}. Start them with torchrun, or set these variables for each process"
        )
    rank, count, local_rank, local_count, port = (int(found[name]) for name in NUMBERS)
    if rank >= count or not local_count:
        raise RequestError(f"RANK={rank} is not one of WORLD_SIZE={count} processes, which count from 0")
    return Launch(rank, count, local_rank, local_count, found["MASTER_ADDR"], port)


def remark() -> str | None:
    """What to say where the environment speaks of several processes, and is not believed."""
    size = os.environ.get("WORLD_SIZE", "1")
    if is_torchrun() or _believed or size == "1":
        return None
    return (
        f"WORLD_SIZE={size} is in the environment, but torchrun has not started this process: it works alone "
        f"({OPTION} takes RANK, WORLD_SIZE and the like from another launcher)"
    )
