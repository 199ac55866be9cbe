"""Weights from anywhere brought to a network: prefixes, names of other layouts, normalisation layers, precision."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.core.datasets import DataFacts
from pipeline.core.errors import RequestError
from pipeline.core.extensions import imported
from pipeline.models import ARCHITECTURES
from pipeline.models.weight_files import WeightFile

if TYPE_CHECKING:
    from pipeline.core.values import Normalization

COUNTER = "num_batches_tracked"
"""BatchNorm's count of its steps: older files lack it, and no output depends on it."""
MEANS, DEVIATIONS = ("mean", "mu", "new_mean"), ("std", "sigma", "new_std")
"""How normalisation layers name their constants."""
BESIDE = (COUNTER, *MEANS, *DEVIATIONS)
"""What is never missed, nor told of where it is left out."""
BLOCK = re.compile(r"(?:last_stage|(?:layer|block|stage)s?_?(\d+)(?:\.layer|\.block)?)\.(\d+)\.(.+)")
"""A tensor of a residual block: stage, number in the stage, name in the block."""
IN_BLOCKS = (
    (re.compile(r"(?:convShortcut|projection|(?:shortcut|downsample)\.0)\.|shortcut\.(?=weight$)"), "shortcut.conv."),
    (re.compile(r"(?:shortcut|downsample)\.1\."), "shortcut.norm."),
)
OUTSIDE = ((re.compile(r"(?:bn1|bn|norm)\."), "norm."), (re.compile(r"(?:fc|linear|classifier)\."), "linear."))
UNUSED = re.compile(r"(?:.*\.)?(?:sub_block1|attacker)\.|(?:.*\.)?n_averaged$")
"""Tensors that no output depends on: a stage that TRADES' network defines and never runs, the copies that MadryLab's
attacker holds, the count of an averaged model."""
OTHER_FUNCTION = re.compile(r"(?:.*\.)?(?:init_conv|batchnorm_0|conv_2d)\.|.*\.batchnorm_0\.")
"""DeepMind's networks: tensors have the shapes of a WRN, but strided convolutions are padded on one side alone, and
most have another activation."""
Shapes = Mapping[str, torch.Size]
SHOWN = 3
"""Names in a message."""


@dataclass(frozen=True)
class Fit:
    """Which tensor of a file is which of a network."""

    names: dict[str, str]
    """The file's name by the network's; what no output depends on and constants of a normalisation are left out."""
    prefix: str
    """What the file's names have in front."""
    how: str
    left_out: tuple[str, ...]
    """Tensors that the network has no place for."""


@dataclass(frozen=True)
class Misfit:
    """Why a file's tensors are not a network's."""

    reason: str
    faults: int
    """How many tensors are missing or of another shape."""


def load_into(model: nn.Module, weights: WeightFile, images: DataFacts) -> list[str]:
    """Put the tensors of a file into a network; a normalisation layer in the file is left to `normalization_of`.

    Args:
        model: The network.
        weights: The file.
        images: What the network is for.

    Returns:
        Lines for a person: what was matched, stripped and left out.

    Raises:
        RequestError: a tensor is missing, or has another shape or kind, or the normalisation is not usable; the message
            names the network that fits, where one of the project's does.
    """
    own = model.state_dict()
    found = _fit_or_refuse(own, weights, images)
    names, before = dict(found.names), _own_prefix(found.names)
    outside = found.prefix.removesuffix(before)
    for ours in own.keys() - names.keys():  # no output depends on these: taken where the file has them
        layer = found.names.get(ours.replace(COUNTER, "running_mean"))
        alike = f"{found.prefix}{ours.removeprefix(before)}" if ours.startswith(before) else f"{outside}{ours}"
        theirs = alike if layer is None else layer.replace("running_mean", COUNTER)
        if theirs in weights.tensors and weights.tensors[theirs].shape == own[ours].shape:
            names[ours] = theirs
    model.load_state_dict(own | {ours: weights.tensors[theirs] for ours, theirs in names.items()})
    left_out = [name for name in found.left_out if name not in names.values()]
    return list(_told(found, left_out, own, weights))


def check_fit(architecture: str, weights: WeightFile, images: DataFacts) -> None:
    """Refuse a file that `load_into` a network of that architecture would refuse; without the memory of a network."""
    _fit_or_refuse(_outline(architecture, images.channels, len(images.classes)), weights, images)


def _fit_or_refuse(own: Mapping[str, Tensor], weights: WeightFile, images: DataFacts) -> Fit:
    found = fit(own, weights)
    if isinstance(found, Misfit):
        raise RequestError(f"{weights.origin}: {found.reason}{_way_out(weights, images)}")
    for ours, theirs in found.names.items():
        tensor = weights.tensors[theirs]
        # A real number for each element where the network has one: not complex, sparse, quantised or without data.
        real = tensor.is_floating_point() if own[ours].is_floating_point() else tensor.dtype == own[ours].dtype
        if not real or tensor.is_meta or tensor.layout != torch.strided:
            layout = str(tensor.layout).removeprefix("torch.")
            raise RequestError(
                f"{weights.origin}: tensor '{theirs}' is {tensor.dtype} ({layout}, on {tensor.device}), expected "
                f"{own[ours].dtype}; save the model's state dict with ordinary tensors"
            )
    return found


def fit(own: Mapping[str, Tensor], weights: WeightFile) -> Fit | Misfit:
    """Find which tensor of a file is which of a network: by name, or, where names say nothing, by order and shape.

    Args:
        own: The state dict of the network, whose tensors may be without data.
        weights: The file.

    Raises:
        RequestError: it holds several networks that would fit.
    """
    shapes = {name: own[name].shape for name in own if not _is_beside(name)}
    usable = [name for name in weights.tensors if not _is_beside(name)]
    if any(map(OTHER_FUNCTION.match, usable)) and not any(map(OTHER_FUNCTION.match, shapes)):
        return Misfit(
            "is a network in DeepMind's layout, which pads strided convolutions on one side alone: none of the "
            "project's networks computes what it does",
            len(shapes),
        )
    found = _by_names(shapes, weights, usable)
    if isinstance(found, Fit):
        return found
    for prefix, names in _groups(usable, least=len(shapes)):
        for wanted in (shapes, {name: own[name].shape for name in own}):
            if _agree_in_order(wanted, weights, names):
                ours = dict(zip(wanted, names, strict=True))
                matched = {name: ours[name] for name in shapes}
                return Fit(matched, prefix, "by order and shape, since names differ", _rest(weights, names))
    return found


def _by_names(shapes: Shapes, weights: WeightFile, usable: Collection[str]) -> Fit | Misfit:
    """The names with which a network lies in a file, behind whatever prefix."""
    why = "" if weights.is_ordered else ", none of them with a known name, and .safetensors keeps no order"
    best = Misfit(f"has {len(usable)} tensors, the network {len(shapes)}{why}", len(shapes))
    fits: list[Fit] = []
    for prefix, names in _groups(usable, least=max(2, len(shapes) // 2)):
        found = _by_name(shapes, weights, prefix, names)
        if isinstance(found, Fit):
            fits.append(found)
        elif found.faults < best.faults:
            best = found
    if fits and not all(_are_same(fits[0], other, weights) for other in fits[1:]):
        prefixes = ", ".join(f"'{one.prefix.removesuffix('.')}'" for one in fits)
        raise RequestError(f"{weights.origin}: holds several networks, {prefixes}; say which is meant (key)")
    return fits[0] if fits else best


def _is_beside(name: str) -> bool:
    """Whether a tensor is none of a network's weights: counters, constants of a normalisation layer, what is unused."""
    return name.rpartition(".")[2] in BESIDE or UNUSED.match(name) is not None


def _groups(names: Collection[str], least: int) -> Iterator[tuple[str, list[str]]]:
    """The tensors that have a prefix in common, for every prefix that so many have; the shortest first."""
    waiting = [("", list(names))]
    for prefix, inside in waiting:
        yield prefix, inside
        parts = (name[len(prefix) :].partition(".") for name in inside)
        for first, count in Counter(first for first, dot, _ in parts if dot).items():
            if count >= least:
                longer = f"{prefix}{first}."
                waiting.append((longer, [name for name in inside if name.startswith(longer)]))


def _by_name(shapes: Shapes, weights: WeightFile, prefix: str, names: Collection[str]) -> Fit | Misfit:
    before = _own_prefix(shapes)
    own, theirs = ({name: name[len(front) :] for name in one} for one, front in ((shapes, before), (names, prefix)))
    how = "by name"
    if not set(own.values()) <= set(theirs.values()):
        common = _common(own), _common(theirs)
        if all(len(set(one.values())) == len(one) for one in common):
            (own, theirs), how = common, "by the names of its layout"
    named = {common: name for name, common in theirs.items()}
    missing = [name for name, common in own.items() if common not in named]
    matched = {name: named[common] for name, common in own.items() if common in named}
    differing = [name for name, other in matched.items() if weights.tensors[other].shape != shapes[name]]
    if not missing and not differing:
        return Fit(matched, prefix, how, _rest(weights, matched.values()))
    faults = len(missing) + len(differing)
    if missing:
        return Misfit(f"lacks {len(missing)} of the network's {len(shapes)} tensors: {_listed(missing)}", faults)
    ours, other = differing[0], matched[differing[0]]
    return Misfit(
        f"tensor '{other}' has shape {list(weights.tensors[other].shape)}, but the network's '{ours}' has "
        f"{list(shapes[ours])}",
        faults,
    )


def _are_same(one: Fit, other: Fit, weights: WeightFile) -> bool:
    return all(torch.equal(weights.tensors[one.names[name]], weights.tensors[other.names[name]]) for name in one.names)


def _own_prefix(names: Collection[str]) -> str:
    """What all names of a network have in front."""
    return [prefix for prefix, _ in _groups(names, least=len(names))][-1]


def _common(inner: Mapping[str, str]) -> dict[str, str]:
    """A name for each tensor that does not depend on how a layout calls and counts its blocks."""
    found = {name: match for name in inner if (match := BLOCK.fullmatch(inner[name]))}
    places = sorted({_place(match) for match in found.values()})
    numbers = {place: number for number, place in enumerate(places)}
    common: dict[str, str] = {}
    for name in inner:
        if name in found:
            common[name] = f"{numbers[_place(found[name])]}.{_renamed(found[name][3], IN_BLOCKS)}"
        else:
            common[name] = _renamed(inner[name], OUTSIDE)
    return common


def _place(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1] or 0), int(match[2])


def _renamed(name: str, rules: Collection[tuple[re.Pattern[str], str]]) -> str:
    for pattern, common in rules:
        if match := pattern.match(name):
            return common + name[match.end() :]
    return name


def _agree_in_order(wanted: Shapes, weights: WeightFile, names: list[str]) -> bool:
    """Whether tensors in the order of the file have the shapes of the network's, and none is called another kind."""
    if not weights.is_ordered or len(names) != len(wanted):
        return False
    kinds = ("weight", "bias", "running_mean", "running_var")
    last = [(ours.rpartition(".")[2], theirs.rpartition(".")[2]) for ours, theirs in zip(wanted, names, strict=True)]
    if any(theirs in kinds and ours != theirs for ours, theirs in last):
        return False
    return all(shape == weights.tensors[name].shape for shape, name in zip(wanted.values(), names, strict=True))


def _rest(weights: WeightFile, taken: Collection[str]) -> tuple[str, ...]:
    return tuple(name for name in weights.tensors if name not in taken and name.rpartition(".")[2] not in BESIDE)


def standardises(model: nn.Module) -> bool:
    """Whether the state of a network has constants of a normalisation, which it then does itself."""
    return any(name.rpartition(".")[2] in MEANS for name in model.state_dict())


def normalization_of(weights: WeightFile, channels: int) -> Normalization | None:
    """The constants of a normalisation layer in the file.

    Raises:
        RequestError: several layers disagree, or the constants are none for images in [0, 1].
    """
    from pydantic import ValidationError

    from pipeline.core.values import Normalization

    found: dict[tuple[tuple[float, ...], tuple[float, ...]], str] = {}
    for name in weights.tensors:
        parent, _, last = name.rpartition(".")
        if last in MEANS:
            other = name[: len(name) - len(last)] + DEVIATIONS[MEANS.index(last)]
            if other in weights.tensors:
                found.setdefault((_values(weights, name, channels), _values(weights, other, channels)), parent)
    if not found:
        return None
    if len(found) > 1:
        raise RequestError(f"{weights.origin}: has normalisation layers that differ: {', '.join(found.values())}")
    mean, std = next(iter(found))
    try:
        known = Normalization(mean=list(mean), std=list(std))
    except ValidationError:
        known = None
    if known is None or len(mean) != channels or len(std) != channels or not all(0 <= one <= 1 for one in mean):
        raise RequestError(
            f"{weights.origin}: its normalisation layer, mean {list(mean)} and std {list(std)}, is none for images of "
            f"{channels} channels in [0, 1]; give the model's own mean and std for such images"
        )
    return known


def _values(weights: WeightFile, name: str, channels: int) -> tuple[float, ...]:
    values = tuple(weights.tensors[name].float().flatten().tolist())
    return values * channels if len(values) == 1 else values


def _told(found: Fit, left_out: Collection[str], own: Mapping[str, Tensor], weights: WeightFile) -> Iterator[str]:
    if weights.place or weights.others:
        others = f"; also there: {', '.join(weights.others)}" if weights.others else ""
        yield f"state dict: {weights.place or 'the whole file'}{others}"
    front = f", '{found.prefix}' in front of each" if found.prefix else ""
    kinds = {weights.tensors[name].dtype for name in found.names.values()} - {next(iter(own.values())).dtype}
    precision = "".join(f", {str(kind).removeprefix('torch.')} made float32" for kind in sorted(kinds, key=str))
    yield f"{len(found.names)} tensors matched {found.how}{front}{precision}"
    if left_out:
        yield f"left out: {_listed(left_out)}"


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more


def _way_out(weights: WeightFile, images: DataFacts) -> str:
    """Which of the project's networks the file is of, in the rest of a sentence."""
    shapes = [tensor.shape for name, tensor in weights.tensors.items() if not _is_beside(name)]
    stems, heads = [one[1] for one in shapes if len(one) == 4], [one[0] for one in shapes if len(one) == 2]
    if not stems or not heads:
        return "; choose the network that it was saved from (architecture)"
    channels, classes = min(stems), heads[-1]
    able = [name for name, one in ARCHITECTURES.items() if one.channels in (None, channels)]
    fitting = [name for name in able if isinstance(fit(_outline(name, channels, classes), weights), Fit)]
    if not fitting:
        return "; it fits none of the project's networks as it is (architecture)"
    wanted = f"{channels} channels and {classes} classes"
    if (channels, classes) == (images.channels, len(images.classes)):
        return f"; it fits {' and '.join(fitting)} (architecture)"
    return f"; it fits {' and '.join(fitting)} for {wanted}, the data has {images.channels} and {len(images.classes)}"


def _outline(architecture: str, channels: int, classes: int) -> dict[str, Tensor]:
    """The state dict of a network, without data in its tensors."""
    with torch.device("meta"):
        model: nn.Module = imported(ARCHITECTURES[architecture].constructor)(channels=channels, classes=classes)
    return model.state_dict()
