"""What the methods' official code computes, and the same by ours: inputs, comparisons, and their table in the docs.

    python -m tests.objectives.official

The numbers of `official.json` were made once, outside this repository, by the code that each `Comparison` names, on the
network and images of this module, in float64. Here is none of that code. The command writes the table anew.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.objectives import Moment, resolve_objective
from pipeline.reporting.markdown import fill_blocks, markdown_table
from tests.conftest import REPOSITORY
from tests.training.golden import double_precision

OFFICIAL = REPOSITORY / "tests/objectives/official.json"
PAGE = REPOSITORY / "docs/methods.md"
SHAPE = (8, 3, 32, 32)
"""Some sources take images of CIFAR-10's size alone."""
SEED = 5
"""Of the random draws, which official code takes from torch's own generator."""
GOLDEN_RATIO = 0.6180339887498949
Numbers = dict[str, list[float]]


def pattern(shape: tuple[int, ...], number: int) -> Tensor:
    """Values that look random in [0, 1), the same on every machine: fractions of multiples of the golden ratio."""
    counted = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return ((counted * (counted + 7) * GOLDEN_RATIO + 0.37 * number) % 1).view(shape)


def images(margin: float) -> Tensor:
    """Smooth images in [margin, 1 - margin], which a margin of 0 leaves at 0 and 1 in places."""
    coarse = nn.functional.interpolate(pattern((8, 3, 8, 8), 1), scale_factor=4, mode="bilinear")
    noisy = 1.6 * (coarse + 0.2 * pattern(SHAPE, 2) - 0.6) + 0.5
    return margin + (1 - 2 * margin) * noisy.clamp(0, 1)


LABELS = torch.tensor([0, 1, 2, 3, 4, 5, 7, 6])
"""All are different, so that permuted images can be told apart; the last two are wrong in the network's eyes."""


def network(stage: str = "last_stage", number: int = 0) -> nn.Module:
    """A network of two convolutions with BatchNorm, in train mode, that takes image i for class i.

    Weights are a `pattern`, and BatchNorm's statistics those of the images; the last layer's weights are the images'
    own features, compared with the mean of them. Call it where torch's default type is float64.

    Args:
        stage: What the second convolution is called, where a source looks for it.
        number: Another network for another number.
    """
    parts = [("stem", _convolution(3, 8)), (stage, _convolution(8, 12))]
    tail = [("pool", nn.AdaptiveAvgPool2d(2)), ("flatten", nn.Flatten()), ("linear", nn.Linear(48, 10))]
    model = nn.Sequential(OrderedDict([*parts, *tail]))
    with torch.no_grad():
        for place, (name, tensor) in enumerate(model.named_parameters()):
            values = 2 * pattern(tuple(tensor.shape), 10 + place + 100 * number) - 1
            if tensor.ndim > 1:
                tensor.copy_(values * (3 / tensor[0].numel()) ** 0.5)
            else:
                tensor.copy_(0.2 * values + float(name.endswith("1.weight")))  # BatchNorm's scales are around 1
        model.train()(images(0))
        features = model.eval()[:-1](images(0))
        apart = features - features.mean(0)
        head = model.get_submodule("linear")
        assert isinstance(head, nn.Linear)
        head.weight.zero_()
        head.weight[: len(LABELS)] = 4 * apart / apart.square().sum(1, keepdim=True)
        head.bias.copy_(-head.weight @ features.mean(0))
    return model.train()


def _convolution(channels: int, filters: int) -> nn.Sequential:
    """BatchNorm's statistics are those of the last batch."""
    norm = nn.BatchNorm2d(filters, momentum=1.0)
    return nn.Sequential(nn.Conv2d(channels, filters, 3, 2, 1), norm, nn.Softplus())


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs that `model` is given in train mode."""
    seen: list[Tensor] = []

    def see(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if module.training:
            seen.append(arguments[0].detach().clone())

    handle = model.register_forward_pre_hook(see)
    try:
        yield seen
    finally:
        handle.remove()


def crafted(seen: list[Tensor], clean: Tensor) -> list[Tensor]:
    """What was crafted of the `clean` images, each once."""
    found: list[Tensor] = []
    for points in seen:
        if not any(points.shape == other.shape and torch.equal(points, other) for other in (clean, *found)):
            found.append(points)
    return found


def points(perturbed: Tensor, clean: Tensor) -> list[float]:
    """Of every image how far it was moved, and along a fixed direction of signs."""
    moved = (perturbed - clean).flatten(1)
    signs = 2.0 * (pattern(tuple(moved.shape[1:]), 3) < 0.5) - 1
    return [*moved.norm(dim=1).tolist(), *(moved @ signs).tolist()]


def summary(loss: float | None, gradients: list[Tensor], seen: list[Tensor], clean: Tensor) -> Numbers:
    """A step's loss, the norm of each parameter's gradient, and the crafted `points`."""
    numbers: Numbers = {} if loss is None else {"loss": [float(loss)]}
    numbers["gradient norms"] = [gradient.norm().item() for gradient in gradients]
    for number, found in enumerate(crafted(seen, clean)):
        numbers[f"points {number + 1}"] = points(found, clean)
    return numbers


def step(
    options: dict[str, Any],
    margin: float = 0.0,
    epoch: int = 1,
    epochs: int = 1,
    has_loss: bool = True,
    model: nn.Module | None = None,
) -> Numbers:
    """What one step of an objective with these options computes.

    Args:
        options: As in `params.yaml`, with whole attacks.
        margin: Of the `images`.
        epoch: From 1.
        epochs: The last one.
        has_loss: Whether the loss is among what the official code can be asked for.
        model: Instead of `network()`.
    """
    model, clean = model or network(), images(margin)
    with watched(model) as seen:
        losses = resolve_objective(options, {})(model, clean, LABELS, Moment(epoch, epochs, generator()))
    parameters = list(model.parameters())
    gradients = losses.gradients or torch.autograd.grad(losses.loss, parameters)
    whole = [gradient for gradient in gradients if gradient is not None]
    return summary(losses.loss.item() if has_loss else None, whole, seen, clean)


@dataclass(frozen=True)
class Comparison:
    """A part of a method, what its official code computes, and how ours computes the same."""

    method: str
    repository: str
    commit: str
    ran: str
    """What was run of it."""
    ours: Callable[[], Numbers]
    adapted: str = ""
    """What was changed in it to be comparable, beside the device and the type of its numbers."""
    digits: int = 9
    """How many decimal digits agree at least."""


@dataclass(frozen=True)
class Missing:
    """A method whose official code is not compared with, and why."""

    method: str
    reason: str
    repository: str = "none"


def compute(comparison: Comparison) -> Numbers:
    """Our numbers."""
    with torch.random.fork_rng(devices=[]), double_precision():
        return comparison.ours()


def deviation(ours: Numbers, theirs: Numbers) -> float:
    """The greatest difference, in parts of the greatest value of its list.

    Raises:
        ValueError: they are not of the same things.
    """
    if {name: len(values) for name, values in ours.items()} != {name: len(values) for name, values in theirs.items()}:
        raise ValueError(f"ours are {list(ours)}, theirs {list(theirs)}, or their lengths differ")
    return max(
        max(abs(first - second) for first, second in zip(ours[name], values, strict=True)) / max(map(abs, values))
        for name, values in theirs.items()
    )


def read() -> dict[str, Numbers]:
    """The official code's numbers by comparison."""
    found: dict[str, Numbers] = json.loads(OFFICIAL.read_text())
    return found


def rendered(numbers: dict[str, Numbers]) -> str:
    """The text of the file: twelve digits, one line for each list."""
    blocks = []
    for case, found in numbers.items():
        rows = [f'  "{name}": [{", ".join(f"{value:.12g}" for value in values)}]' for name, values in found.items()]
        blocks.append(f' "{case}": {{\n' + ",\n".join(rows) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def table() -> str:
    """The comparisons for docs/methods.md."""
    from tests.objectives.official_cases import COMPARISONS, MISSING, masks_agree

    numbers, rows = read(), []
    for case, compared in COMPARISONS.items():
        source = f"{compared.repository} {compared.commit[:7]}"
        ran = compared.ran + (f" ({compared.adapted})" if compared.adapted else "")
        same = dict.fromkeys(name.rstrip(" 0123456789") for name in numbers[case])
        rows.append([compared.method, source, ran, ", ".join(same), str(compared.digits)])
        if case == "part":
            share = masks_agree(numbers["part_masks"]["rows"])
            rows.append([compared.method, source, "`craft_weight_matrix`", f"{share:.0%} of the radii", ""])
    rows += [[missing.method, missing.repository, f"not run: {missing.reason}", "", ""] for missing in MISSING]
    return markdown_table(["method", "source and commit", "what was run", "what agrees", "digits"], rows, left=4)


def page() -> str:
    """docs/methods.md with the table of this moment."""
    return fill_blocks(PAGE.read_text(), lambda name: {"official": table}[name]())


if __name__ == "__main__":
    PAGE.write_text(page())
