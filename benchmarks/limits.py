"""How near a step comes to what the machine can do: the mixture to a copy, the networks to products of matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from benchmarks.frame import benchmark, rates, ratios, spread, timed
from benchmarks.loops import EPSILON, STEP_SIZE, STEPS, Loop, generalist, minibatch, suite
from benchmarks.reference_style import averages_by_cloning
from benchmarks.steps import ALL_CASES, CASES, FEW
from pipeline.attacks.pgd import PGD
from pipeline.core.devices import Backend, choose_backend
from pipeline.evaluation.predictions import channels_last
from pipeline.training.weights import weight_tensors

DATASETS = {
    "small_cnn": "digits",
    "resnet18": "cifar10",
    "wrn32_10": "cifar10",
    "resnet50": "imagenet",
    "wrn50_2": "imagenet",
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "natural": {"name": "natural"},
    **{norm: {"name": "adversarial", "norm": norm} for norm in ("linf", "l2")},
}
LEAST_BYTES = 2**28
"""The least size of the plain copy: more than the processor's caches hold."""


@benchmark(architecture="small_cnn", batch_size=4, architectures=["small_cnn"], learners=[2, 3], rounds=1)
def mixture(
    architecture: str = "resnet18",
    batch_size: int = 64,
    architectures: Sequence[str] = tuple(DATASETS),
    learners: Sequence[int] = (2, 3, 5, 8),
    rounds: int = 5,
) -> dict[str, Any]:
    """What the global learner costs: a step of Generalist-T against its learners alone, and the mixture by itself.

    The mixture is timed for every network and number of learners, as seconds and as bytes that it reads and writes,
    beside a plain copy of as many bytes and beside the same average by cloning. It reads and writes the average once to
    scale it (2 passes over the weights), and with every learner it reads both and writes the average (3 more).
    """
    backend = choose_backend("auto", "auto")
    return {
        "generalist_t": _whole_and_parts(architecture, batch_size, rounds, backend),
        "mixture": {
            name: {count: _mixture_alone(name, count, rounds, backend) for count in learners} for name in architectures
        },
    }


def _whole_and_parts(architecture: str, batch_size: int, rounds: int, backend: Backend) -> dict[str, Any]:
    """A step of Generalist-T, and those of three on their own."""
    images, labels = minibatch("cifar10", batch_size, backend.device)
    whole = generalist(architecture, "cifar10", OBJECTIVES, backend)
    assert whole.mixture is not None
    works: dict[str, Callable[[], None]] = {"whole": partial(whole.step, images, labels)}
    for name, objective in OBJECTIVES.items():
        alone = Loop(generalist(architecture, "cifar10", {name: objective}, backend).learners, None, backend)
        works[name] = partial(alone.step, images, labels)
    works["mixture"] = partial(whole.mixture.after_step, 1)
    seconds = timed(works, backend.device, rounds)
    sums = [sum(values) for values in zip(*(seconds[name] for name in OBJECTIVES), strict=True)]
    return {
        "ratio": ratios(seconds["whole"], sums),
        "mixture_share": ratios(seconds["mixture"], seconds["whole"]),
        "architecture": architecture,
        "batch_size": batch_size,
    }


def _mixture_alone(architecture: str, learners: int, rounds: int, backend: Backend) -> dict[str, Any]:
    """An update of the global learner of so many networks."""
    objectives = {f"learner_{number}": {"name": "natural"} for number in range(learners)}
    mixture = generalist(architecture, DATASETS[architecture], objectives, backend).mixture
    assert mixture is not None
    size = sum(tensor.nbytes for tensor in weight_tensors(mixture.model))
    moved = (2 + 3 * learners) * size
    copy, copied = plain_copy(backend.device, size)
    works: dict[str, Callable[[], Any]] = {
        "ours": partial(mixture.after_step, 1),
        "cloning": averages_by_cloning()(partial(mixture.after_step, 1)),
        "copy": copy,
    }
    seconds = timed(works, backend.device, rounds)
    return {
        "weights_megabytes": size / 1e6,
        "seconds": spread(seconds["ours"]),
        "gigabytes_per_second": rates(moved / 1e9, seconds["ours"]),
        "copy_gigabytes_per_second": rates(copied / 1e9, seconds["copy"]),
        "cloning_ratio": ratios(seconds["cloning"], seconds["ours"]),
    }


def plain_copy(device: torch.device, size: int = LEAST_BYTES) -> tuple[Callable[[], Any], int]:
    """A copy of so many bytes, and how many it reads and writes."""
    source = torch.zeros(max(size, LEAST_BYTES), dtype=torch.uint8, device=device)
    return partial(torch.empty_like(source).copy_, source), 2 * source.nbytes


@benchmark(architecture="small_cnn", batch_size=4, cases=["tiny"], sides=[128], rounds=1)
def peak(
    architecture: str = "resnet18",
    batch_size: int = 64,
    cases: Sequence[str] = ALL_CASES,
    sides: Sequence[int] = (2048, 4096),
    rounds: int = 3,
) -> dict[str, Any]:
    """Which share of the machine's peak a training step reaches, in floating-point operations per second.

    The peak is the fastest of a few products of matrices in the same arithmetic, in turn with the step in one process:
    as products, and as convolutions of single pixels, since on a CPU the two are made by different libraries. Crafting
    (PGD of AT) is timed alone, too. Operations of a step are counted for every network and method on few images; only
    convolutions and matrix products count, by torch's own formulas.
    """
    backend = choose_backend("auto", "auto")
    backends = {"float32": Backend(backend.device, bfloat16=False)}
    if backend.bfloat16:
        backends["bfloat16"] = backend
    return {
        "shares": {name: _shares(architecture, batch_size, sides, rounds, each) for name, each in backends.items()},
        "gigaflops_per_image": {name: _count_case(name, backend) for name in cases},
    }


def _shares(architecture: str, batch_size: int, sides: Sequence[int], rounds: int, backend: Backend) -> dict[str, Any]:
    """Operations per second of AT's step and of its crafting, absolute and relative to the peak."""
    dtype = torch.bfloat16 if backend.bfloat16 else torch.float32
    device, attack = backend.device, PGD(norm="linf", epsilon=EPSILON, step_size=STEP_SIZE, steps=STEPS)
    images, labels = minibatch("cifar10", batch_size, device)
    images = channels_last(images)
    loop = generalist(architecture, "cifar10", {"linf": OBJECTIVES["linf"]}, backend)
    (_, step), _ = loop.parts(images, labels)
    noise = torch.Generator(device=device).manual_seed(0)

    def craft() -> None:
        with backend.autocast():
            attack.perturb(loop.learners[0].model, images, labels, noise)

    multiply = products(sides, dtype, device)
    seconds = timed({"step": step, "crafting": craft, **multiply}, device, rounds)
    peak = max(operations(product) / min(seconds[name]) for name, product in multiply.items())
    counted = {"step": operations(step), "crafting": operations(craft)}
    return {
        "peak_teraflops": peak / 1e12,
        **{
            name: {
                "gigaflops_per_image": count / batch_size / 1e9,
                "teraflops": rates(count / 1e12, seconds[name]),
                "share_of_peak": rates(count / peak, seconds[name]),
            }
            for name, count in counted.items()
        },
    }


def _count_case(name: str, backend: Backend) -> dict[str, float]:
    """Billions of operations for an image in a step, by method."""
    params = suite(*dict.fromkeys([*CASES[name].overrides, "competitors=none"]))
    images, labels = minibatch(params.data.name, 2, backend.device)
    loops = {method: Loop.of(params.experiment(method, params.seeds[0]), backend) for method in FEW}
    return {
        method: operations(partial(loop.step, images, labels)) / len(images) / 1e9 for method, loop in loops.items()
    }


def products(sides: Sequence[int], dtype: torch.dtype, device: torch.device) -> dict[str, Callable[[], Any]]:
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
    with Counter() as counter:
        work()
    return int(counter.total)
