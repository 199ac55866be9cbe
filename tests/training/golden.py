"""What a short training does to every tensor of every method, kept in `golden.json`; this writes it anew.

    python -m tests.training.golden

Two epochs of three steps, which reach every late phase, of: every method of the suite `digits`, competitors and their
own recipes among them; the authors' code's switches; and some methods with formulas that these do not have.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted
from pipeline.core.streams import stream
from pipeline.data.images import ImageSplit, load_split
from pipeline.data.prepare import prepare
from pipeline.training.loop import train
from pipeline.training.run import build_network
from tests.conftest import REPOSITORY, TINY, content_of
from tests.running import Recorder, Weights
from tests.training.test_methods import two_epochs

GOLDEN = REPOSITORY / "tests/training/golden.json"
GROUPS = {
    "digits": ["competitors=all", "recipes=sources"],
    "reference_code": ["protocol=reference_code", "competitors=none"],
    "beyond": ["suite=digits_beyond", "competitors=none"],
    "variants": [
        "competitors=all",
        "training.validation_interval=1",
        "data.augmentation={crop_padding: 1, horizontal_flip: true}",
        "+methods.fast_at.learners.linf.objective.clip_noise=false",
        "methods.score_pgd.learners.linf.objective.clip=0.9",
        "+methods.generalist_d_nt_linf.mixture.ratios=tuned",
        "methods.generalist_d_nt_linf.mixture.batch_norm=recompute",
    ],
}
"""Hydra overrides by group."""
CHOSEN = {
    "beyond": [
        "batch_norm_recomputed",
        "optimizer_state_reset",
        "tuned_ratios",
        "uniform_soup",
        "greedy_soup",
        "generalist_5",
    ],
    "variants": ["nt", "fast_at", "score_pgd", "generalist_d_nt_linf"],
}
"""Of these groups some methods, whose formulas the others do not have; of the rest, all."""
STEPS = 3
"""Of attacks: APGD first halves its step sizes after two."""
TOLERANCE = 5e-5
"""Greatest deviation, in parts of the norm; `test_golden.py` says what was measured."""
Summary = dict[str, tuple[float, float]]
"""By tensor: the norm of what it moved, and a projection of that."""
Golden = dict[str, Summary]
"""By network of a method."""


@cache
def contents() -> dict[str, dict[str, Any]]:
    """The composed settings of every group."""
    tiny = [option for option in TINY if not option.startswith(("competitors=", "ablation."))]
    shared = [*tiny, "training.validation_interval=2"]
    shared += [f"threat_model.{norm}.steps={STEPS}" for norm in ("linf", "l2", "l1")]
    found = {}
    for group, overrides in GROUPS.items():
        found[group] = content_of(*shared, *overrides)
        found[group]["training"].pop("theory", None)
    return found


@cache
def cases() -> dict[str, Experiment]:
    """Every experiment of the golden numbers, as `group/method`."""
    return {
        f"{group}/{method}": two_epochs(method, content=content)
        for group, content in contents().items()
        for method in CHOSEN.get(group, content["methods"])
    }


class _Doubling(TorchFunctionMode):
    """Casts to single precision become casts to double precision."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        elif func is Tensor.to:
            args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
        return func(*args, **(kwargs or {}))


@contextmanager
def double_precision() -> Iterator[None]:
    """Compute all of a training in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        with _Doubling():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def measure(experiment: Experiment, split: ImageSplit, folder: Path) -> Golden:
    """Train an experiment and summarise what each network's tensors moved: of the learners, their own
    averages and their mixture after the last step, before they restart; of the result, in the end."""
    backend = Backend(torch.device("cpu"), bfloat16=False)
    total = experiment.training.epochs * -(-len(split.train) // experiment.training.batch_size)
    left = iter(range(total - 1, -1, -1))
    with double_precision():
        start = build_network(experiment, next(iter(experiment.method.learners)), backend).state_dict()
        with suppress(Interrupted):
            train(experiment, split, backend, folder, Recorder(), lambda: None if next(left) else "the last step")
        state = torch.load(max((folder / "checkpoints").glob("*.pt")), weights_only=True)
        result = train(experiment, split, backend, folder, Recorder()).model.state_dict()
    networks = {name: learner["model"] for name, learner in state["learners"].items()}
    for name, learner in state["learners"].items():
        if learner["average"] is not None:
            networks[f"{name}, averaged"] = learner["average"]["model"]
    if state["mixture"]:
        networks["mixture"] = state["mixture"]["model"]
    networks["result"] = result
    return {name: _summary(start, tensors) for name, tensors in networks.items()}


def _summary(start: Weights, end: Weights) -> Summary:
    """Norm and projection of what each tensor moved.

    A projection on random signs is as long as the norm, whatever the number of elements, and sees changed directions.
    """
    found = {}
    for name, tensor in end.items():
        name = name.removeprefix("middle.")
        moved = (tensor.double() - start[name].double()).flatten()
        signs = 2.0 * torch.randint(2, moved.shape, generator=stream(0, "golden", name)) - 1
        found[name] = (moved.norm().item(), (moved @ signs.double()).item())
    return found


def deviation(found: Golden, expected: Golden) -> float:
    """The greatest change of a norm or a projection, in parts of the expected norm; infinite where other tensors are
    found than expected."""
    if {name: list(found[name]) for name in found} != {name: list(expected[name]) for name in expected}:
        return math.inf
    changes = [0.0]
    for name, tensors in expected.items():
        for tensor, (norm, projection) in tensors.items():
            changed = max(abs(found[name][tensor][0] - norm), abs(found[name][tensor][1] - projection))
            changes.append(changed / norm if norm > 0 else math.inf * changed if changed else 0.0)
    return max(changes)


def write(path: Path) -> None:
    """Train every case and keep its golden numbers, one line for each tensor, with six significant digits."""
    torch.set_num_threads(1)
    golden: dict[str, Golden] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = next(iter(cases().values())).data
        prepare(data, Path(folder) / "data")
        split = load_split(Path(folder) / "data", data)
        for case, experiment in cases().items():
            golden[case] = measure(experiment, split, Path(folder) / case)
    path.write_text(rendered(golden))
    tensors = sum(len(summary) for networks in golden.values() for summary in networks.values())
    print(f"{path.relative_to(REPOSITORY)}: {len(golden)} methods, {tensors} tensors")


def rendered(golden: Mapping[str, Golden]) -> str:
    """The text of the file."""
    lines = []
    for case, networks in golden.items():
        shown = []
        for network, summary in networks.items():
            rows = (f'   "{name}": [{norm:.6g}, {along:.6g}]' for name, (norm, along) in summary.items())
            shown.append(f'  "{network}": {{\n' + ",\n".join(rows) + "\n  }")
        lines.append(f' "{case}": {{\n' + ",\n".join(shown) + "\n }")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def read() -> dict[str, Golden]:
    """The golden numbers as they are kept."""
    found: dict[str, Golden] = json.loads(GOLDEN.read_text())
    return found


if __name__ == "__main__":
    write(GOLDEN)
