"""Where the time of a training step goes, and from how much work on compiling its networks pays."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.profiler import profile as profiled
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from benchmarks.frame import benchmark, rates, ratios, spread, timed
from benchmarks.limits import Counter, operations, plain_copy, products
from benchmarks.loops import THREADS, Loop, minibatch, suite
from benchmarks.steps import METHOD
from pipeline.attacks import pgd
from pipeline.core.devices import Backend, choose_backend
from pipeline.data.images import ImageSet, ImageSplit
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.learner import Learner
from pipeline.training.run import TrainingRun

FORWARD, BACKWARD, CRAFTING = "crafting, forward", "crafting, backward", "crafting, the rest"
UPDATE, MIXTURE, DATA, REST = "update", "mixture", "data", "the rest"
PARTS = (FORWARD, BACKWARD, CRAFTING, UPDATE, MIXTURE, DATA, REST)
LEAST_SHARE = 0.05
"""The least part of the time of all operators for which one is named."""
DIGITS = ("small_cnn",)
"""Networks that are profiled on the digits, as `make repro` trains them; the others on CIFAR-10's shape."""
Limits = tuple[float, float]
"""The most operations and the most bytes in a second."""


class Clock:
    """Seconds by part of a program; what is within another part counts for itself alone."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.part = REST
        self._device, self._since = device, time.perf_counter()

    def enter(self, part: str) -> str:
        """Count for another part from now on; returns the one until now."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now, before = time.perf_counter(), self.part
        self.seconds[before] += now - self._since
        self.part, self._since = part, now
        return before

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, counted for a part."""

        def counted(*arguments: Any, **options: Any) -> Any:
            before = self.enter(part)
            try:
                return function(*arguments, **options)
            finally:
                self.enter(before)

        return counted

    @contextmanager
    def at_the_seams(self) -> Iterator[None]:
        """Count the parts of training steps inside the block."""
        frozen, perturb, batches = pgd.frozen, pgd.PGD.perturb, TrainingRun.batches

        @contextmanager
        def counted_passes(model: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
            backward = self.around(BACKWARD, torch.autograd.grad)
            with frozen(model) as network, mock.patch.object(torch.autograd, "grad", backward):
                yield self.around(FORWARD, network)

        def counted_batches(*arguments: Any, **options: Any) -> Iterator[Any]:
            step = self.around(DATA, partial(next, batches(*arguments, **options), None))
            return iter(step, None)

        with ExitStack() as stack:
            for where, name, what in (
                (pgd, "frozen", counted_passes),
                (pgd.PGD, "perturb", self.around(CRAFTING, perturb)),
                (Learner, "step", self.around(UPDATE, Learner.step)),
                (TrainingRun, "follow", self.around(MIXTURE, TrainingRun.follow)),
                (TrainingRun, "batches", counted_batches),
            ):
                stack.enter_context(mock.patch.object(where, name, what))
            yield


class Traffic(Counter):  # type: ignore[no-untyped-call]
    """Operations and bytes by the clock's part, and the seconds below which the machine's limits allow none.

    Every operator reads its inputs and writes its outputs once; it takes as long as its operations at the peak or its
    bytes at the speed of a plain copy, whichever is longer.
    """

    def __init__(self, clock: Clock, limits: Limits) -> None:
        super().__init__()
        self.found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._clock, self._limits = clock, limits

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.total
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if not func.is_view and "empty" not in func.name():
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
            moved, counted = sum(tensor.nbytes for tensor in tensors), self.total - before
            by_operations, by_bytes = counted / self._limits[0], moved / self._limits[1]
            found = self.found[self._clock.part]
            found["operations"] += counted
            found["bytes"] += moved
            found["bound_seconds"] += max(by_operations, by_bytes)
            found["memory_bound_seconds"] += by_bytes if by_bytes > by_operations else 0
        return result


@benchmark(architectures=("small_cnn",), batch_size=8, rounds=1, sides=(128,))
def profile(
    architectures: Sequence[str] = ("resnet18_width16", "resnet18", "small_cnn"),
    batch_size: int = 128,
    rounds: int = 5,
    sides: Sequence[int] = (1024, 2048, 4096),
) -> dict[str, Any]:
    """Which part of a training step of Generalist-D (NT + linf) takes how long, and what limits it.

    Steps of a training are timed at the seams: what crafts (forward and backward passes, and what is between them),
    the update of the weights, the mixture, the data, and the rest, which is Python between them. One step more is
    counted, operator by operator, against the machine's limits: the fastest product of matrices, and a plain copy. Of
    one more, torch's profiler says which operators it consists of.
    """
    return {"networks": {name: _profile(name, batch_size, rounds, sides) for name in architectures}}


def _profile(architecture: str, batch_size: int, rounds: int, sides: Sequence[int]) -> dict[str, Any]:
    """The parts of a step of one network."""
    dataset = "digits" if architecture in DIGITS else "cifar10"
    params = suite(f"suite={dataset}", f"architecture={architecture}", f"training.batch_size={batch_size}")
    experiment = params.experiment(METHOD, 1)
    settings = experiment.training
    backend = choose_backend("auto", settings.precision, settings.threads or THREADS)
    before, clock = _limits(backend, sides), Clock(backend.device)
    images, labels = minibatch(dataset, (rounds + 4) * batch_size, backend.device)
    data = ImageSet((255 * images).to(torch.uint8), labels)
    with TemporaryDirectory() as folder, clock.at_the_seams():
        kept = CheckpointFolder(Path(folder), experiment.fingerprint)
        run = TrainingRun(experiment, ImageSplit(data, data, data, digest=""), backend, kept)
        minibatches = run.minibatches_left(1)
        step = partial(_step, run, minibatches)
        step()
        rows = []
        for _ in range(rounds):
            clock.enter(REST)
            clock.seconds.clear()
            step()
            clock.enter(REST)
            rows.append({part: clock.seconds[part] for part in PARTS})
        after = _limits(backend, sides)
        limits = max(before[0], after[0]), max(before[1], after[1])
        with Traffic(clock, limits) as traffic:
            step()
        with profiled() as recorded:
            step()
    return {
        "dataset": dataset,
        "bfloat16": backend.bfloat16,
        "threads": torch.get_num_threads(),
        "peak_teraflops": limits[0] / 1e12,
        "copy_gigabytes_per_second": limits[1] / 1e9,
        "images_per_second": rates(batch_size, [sum(row.values()) for row in rows]),
        "parts": {
            part: {
                "seconds": spread(row[part] for row in rows),
                "share": spread(row[part] / sum(row.values()) for row in rows),
                **traffic.found[part],
            }
            for part in PARTS
        },
        "operators": _operators(recorded),
    }


def _step(run: TrainingRun, minibatches: Iterator[tuple[Tensor, Tensor]]) -> None:
    """A step of all learners, as `pipeline.training.loop.train` does it."""
    images, labels = next(minibatches)
    for learner in run.training_in(1):
        run.step(learner, images, labels, 1)
    run.follow(1)
    run.end_step(1)


def _limits(backend: Backend, sides: Sequence[int]) -> Limits:
    """The fastest of a few products in the backend's arithmetic, and a plain copy, which reads and writes."""
    works = products(sides, torch.bfloat16 if backend.bfloat16 else torch.float32, backend.device)
    copy, moved = plain_copy(backend.device)
    seconds = timed({**works, "copy": copy}, backend.device, 8)
    return max(operations(work) / min(seconds[name]) for name, work in works.items()), moved / min(seconds["copy"])


def _operators(recorded: Any) -> dict[str, float]:
    """By operator, its share of the time of all, its calls of others not counted; small ones together."""
    on_device = any(event.self_device_time_total for event in recorded.key_averages())
    kind = "self_device_time_total" if on_device else "self_cpu_time_total"
    taken = {event.key: getattr(event, kind) for event in recorded.key_averages()}
    whole = sum(taken.values())
    named = {name: value / whole for name, value in taken.items() if value >= LEAST_SHARE * whole}
    return dict(sorted(named.items(), key=lambda one: -one[1])) | {"others": 1 - sum(named.values())}


@benchmark(architecture="small_cnn", batch_size=4, threads=(1,), rounds=1)
def compilation(
    architecture: str = "resnet18_width16", batch_size: int = 128, threads: Sequence[int] = (2, 1), rounds: int = 5
) -> dict[str, Any]:
    """From how many planned operations on compiling pays: steps of AT, compiled and not, in turn.

    What compiling takes is what the first step takes longer than the later ones, with nothing kept from before.
    """
    return {"threads": {count: _compile(architecture, batch_size, count, rounds) for count in threads}}


def _compile(architecture: str, batch_size: int, threads: int, rounds: int) -> dict[str, Any]:
    """With so many threads: seconds of the first step, how much faster later ones are, and when that has paid."""
    from torch._inductor.utils import fresh_cache

    torch.compiler.reset()
    experiment = suite("suite=cifar10", f"architecture={architecture}", "competitors=none").experiment("at", 1)
    backend = choose_backend("auto", "auto", threads)
    images, labels = minibatch("cifar10", batch_size, backend.device)
    kinds = {"eager": backend, "compiled": replace(backend, compiled=True)}
    works = {name: partial(Loop.of(experiment, each).step, images, labels) for name, each in kinds.items()}
    counted = operations(works["eager"])
    with fresh_cache():
        (first,) = timed({"first": works["compiled"]}, backend.device, 1, warm_up=False)["first"]
        seconds = timed(works, backend.device, rounds)
    spent = spread(seconds["compiled"])["median"]
    saved = spread(seconds["eager"])["median"] - spent
    return {
        "bfloat16": backend.bfloat16,
        "first_seconds": first,
        "images_per_second": {name: rates(batch_size, values) for name, values in seconds.items()},
        "ratio": ratios(seconds["eager"], seconds["compiled"]),
        "pays_from_operations_per_thread": (first - spent) / saved * counted / threads if saved > 0 else None,
    }
