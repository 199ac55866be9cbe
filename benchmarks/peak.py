"""Which share of the machine's peak a training step reaches: floating-point operations per second, counted by torch.

The peak is the fastest of a few products of matrices in the same arithmetic, in turn with the step in one process: as
products, and as convolutions of single pixels, since on a CPU the two are made by different libraries. Crafting (PGD of
AT) is timed alone, too. Operations of a step are counted for every network and method on few images; only convolutions
and matrix products count, by torch's own formulas.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from benchmarks.loops import Loop, generalist, minibatch, suite
from benchmarks.methods import CASES, FEW
from benchmarks.publishing import publish
from benchmarks.timing import Option, in_turn, rates, read_arguments, spread, timer
from pipeline.attacks.pgd import PGD
from pipeline.core.devices import Backend, choose_backend
from pipeline.evaluation.predictions import channels_last

OPTIONS = {
    "architecture": Option("resnet18", "small_cnn", "one for images of CIFAR-10's shape, timed"),
    "batch_size": Option(64, 4, "images of a step"),
    "cases": Option([name for name in CASES if name != "tiny"], ["tiny"], f"of {', '.join(CASES)}: counted"),
    "sides": Option([2048, 4096], [128], "of square matrices; on CUDA twice and four times as long ones as well"),
    "rounds": Option(3, 1, "timed steps of each"),
}
TERA = 1e12


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own formulas; its `FlopCounterMode` cannot watch `torch.autograd.grad`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of `work`: a multiplication and an addition count as two."""
    counter = Counter()
    with counter:
        work()
    return counter.total


def count_case(name: str, backend: Backend) -> dict[str, float]:
    """Billions of operations for an image in a step, by method."""
    case = CASES[name]
    params = suite(*case.overrides, *([] if "competitors=none" in case.overrides else ["competitors=none"]))
    images, labels = minibatch(params.data.name, 2, backend.device)
    counted = {}
    for method in FEW:
        loop = Loop.of(params.experiment(method, params.seeds[0]), backend)
        counted[method] = operations(partial(loop.step, images, labels)) / len(images) / 1e9
    return counted


def products(sides: list[int], dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Products of matrices of different sizes, by name."""
    sides = [*sides, *(factor * max(sides) for factor in (2, 4) if device.type == "cuda")]
    found: dict[str, Callable[[], Tensor]] = {}
    for side in sides:
        matrix = torch.rand((side, side), device=device).to(dtype)
        found[f"product {side}"] = partial(torch.mm, matrix, matrix)
        channels = side // 4
        pixels = channels_last(torch.rand((16, channels, 32, 32), device=device).to(dtype))
        kernels = channels_last(torch.rand((channels, channels, 1, 1), device=device).to(dtype))
        found[f"convolution {channels}"] = partial(torch.conv2d, pixels, kernels)
    return found


def measure_shares(
    architecture: str, batch_size: int, sides: list[int], rounds: int, backend: Backend
) -> dict[str, Any]:
    """Operations per second of AT's step and of its crafting, absolute and relative to the peak."""
    dtype = torch.bfloat16 if backend.bfloat16 else torch.float32
    device, attack = backend.device, PGD(norm="linf", epsilon=8 / 255, step_size=2 / 255, steps=10)
    images, labels = minibatch("cifar10", batch_size, device)
    images = channels_last(images)
    loop = generalist(architecture, "cifar10", {"linf": {"name": "adversarial", "norm": "linf"}}, backend)
    (_, step), _ = loop.parts(images, labels)
    noise = torch.Generator(device=device).manual_seed(0)

    def craft() -> None:
        with backend.autocast():
            attack.perturb(loop.learners[0].model, images, labels, noise)

    multiply = products(sides, dtype, device)
    timers = {"step": timer(step, device), "crafting": timer(craft, device)}
    timers |= {name: timer(product, device) for name, product in multiply.items()}
    in_turn(timers, 1)
    seconds = in_turn(timers, rounds)
    peak = max(operations(product) / min(seconds[name]) for name, product in multiply.items())
    counted = {"step": operations(step), "crafting": operations(craft)}
    return {
        "peak_teraflops": peak / TERA,
        **{
            name: {
                "gigaflops_per_image": count / batch_size / 1e9,
                "teraflops": rates(count / TERA, seconds[name]),
                "share_of_peak": rates(count / peak, seconds[name]),
                "seconds": spread(seconds[name]),
            }
            for name, count in counted.items()
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "peak", OPTIONS, arguments)
    backend = choose_backend("auto", "auto")
    backends = {"float32": Backend(backend.device, bfloat16=False)}
    if backend.bfloat16:
        backends["bfloat16"] = backend
    result = {
        "shares": {
            name: measure_shares(given.architecture, given.batch_size, given.sides, given.rounds, each)
            for name, each in backends.items()
        },
        "gigaflops_per_image": {name: count_case(name, backend) for name in given.cases},
        "architecture": given.architecture,
        "batch_size": given.batch_size,
        "rounds": given.rounds,
    }
    publish(given.output, result, backend.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
