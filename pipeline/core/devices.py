"""Where tensors live and in which arithmetic training steps run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from pipeline.core.errors import RequestError

T = TypeVar("T", bound=nn.Module)


class Arrival:
    """Numbers on their way from a device to the host, which waits for them when it reads them, and for nothing else.

    Reading a tensor on a device waits for all that the device was given until then. This waits for what the device was
    given until the numbers left, while it goes on with the rest.

    Args:
        values: (n,), on any device; not to be changed in place afterwards.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to("cpu", non_blocking=True)
        self._left = torch.get_device_module(values.device).Event()
        self._left.record()

    def read(self) -> list[float]:
        """The numbers; waits until they are here."""
        self._left.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers


@dataclass(frozen=True)
class Backend:
    """A device and the arithmetic of training steps on it."""

    device: torch.device
    bfloat16: bool
    compiled: bool = False
    """Whether networks go through torch.compile: the same arithmetic in fewer, larger kernels."""
    deferred: bool = False
    """Whether the host reads a step's loss when the next step is under way, so that the device never waits for it."""

    def place(self, model: T) -> T:
        """`model` on the device, in the memory layout that convolutions are fastest on, compiled if chosen."""
        placed = model.to(self.device).to(memory_format=torch.channels_last)
        if self.compiled:
            from torch.compiler import config  # takes a second

            # Shapes and modes beyond it would not be compiled: an experiment may need the eight that torch allows, and
            # a process of the grid trains several experiments.
            config.recompile_limit = 64
            placed.compile()
        return placed

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 for convolutions and matrix products inside the block, when chosen."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)


def choose_backend(
    device: Literal["auto", "cpu", "cuda"],
    precision: Literal["float32", "bfloat16", "auto"],
    threads: int | None = None,
    compiled: bool = False,
) -> Backend:
    """Resolve `auto`, and make torch deterministic: the same seed on the same machine gives the same bits.

    Raises:
        RequestError: CUDA is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RequestError("training.device is 'cuda', but torch sees no CUDA device here; use 'auto' or 'cpu'")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    # As `use_deterministic_algorithms(True)`, which imports torch's compiler, seconds of every short run.
    torch.set_deterministic_debug_mode("error")
    # It would write into every new tensor before its values do: thousands of kernels more in a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    bfloat16 = precision == "bfloat16" or (precision == "auto" and _fast_bfloat16(chosen))
    compiled = compiled and _can_compile(chosen)
    return Backend(chosen, bfloat16, compiled, deferred=chosen.type == "cuda")


def _can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: on a CPU the compiler that it calls, a C++ compiler that works."""
    compiler = os.environ.get("CXX") or "g++"
    if device.type != "cpu":
        return True
    problem = _problem(compiler) if shutil.which(compiler) else "is not found"
    if problem is None:
        return True
    print(
        f"training.compile needs a C++ compiler, and '{compiler}' {problem}: networks run without it. On Debian "
        "'apt-get install g++ python3-dev' brings what it needs, the variable CXX names another compiler.",
        flush=True,
    )
    return False


def _problem(compiler: str) -> str | None:
    """What keeps a C++ compiler from reading what torch's compiler writes: the first line that it says."""
    arguments = ["-x", "c++", "-std=c++17", "-fsyntax-only", f"-I{sysconfig.get_path('include')}", "-"]
    source = "#include <Python.h>\n#include <cmath>\n"
    ended = subprocess.run([compiler, *arguments], input=source, capture_output=True, text=True, check=False)
    said = next(iter(ended.stderr.splitlines()), f"exit code {ended.returncode}")
    return f"fails ({said})" if ended.returncode else None


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
