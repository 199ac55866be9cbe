"""Files of weights from anywhere: which tensors they hold, under which names; never code."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import RequestError

PLACES = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema",
)
"""Keys under which training scripts keep a state dict in a larger checkpoint, the likeliest first."""
NO_NETWORKS = ("optim", "sched", "lr_", "scaler", "amp", "loss", "criterion")
"""How the keys begin of what a checkpoint holds besides."""
DEEPEST = 4
"""Mappings within mappings that are looked into."""


@dataclass(frozen=True)
class WeightFile:
    """One state dict of a file."""

    origin: str
    """The file, for messages."""
    tensors: dict[str, Tensor]
    """By their names in the file."""
    place: str
    """The keys that lead to the state dict, 'model.state_dict'; '' where it is the whole file."""
    others: tuple[str, ...]
    """The places of other state dicts in the file."""
    is_ordered: bool
    """Whether the tensors come in the order in which the network defines them."""


def read_weights(path: Path, key: str | None = None) -> WeightFile:
    """A state dict of a `.safetensors` file, or of a file of `torch.save` that holds tensors and plain values alone.

    Args:
        path: The file.
        key: The place of the state dict in it, or a prefix of the names in the likeliest; None: the likeliest.

    Raises:
        RequestError: the file is missing, damaged, holds code, holds no state dict, or several of equal likelihood.
    """
    content = _load(path)
    found = {place: _named(one) for place, one in _state_dicts(content, ())}
    if not found:
        raise RequestError(f"{path}: expected a state dict, names with tensors, got {type(content).__name__}")
    place = _chosen(path, found, key)
    others = tuple(sorted(found.keys() - {place, ""}))
    # The order of a safetensors file is that of types and names.
    return WeightFile(str(path), found[place], place, others, path.suffix != ".safetensors")


def _load(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise RequestError(f"{path}: no such file; expected a state dict as .safetensors, .pt, .pth or .ckpt")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's, of what is refused below in words of our own
            if path.suffix == ".safetensors":
                return load_file(path)
            return torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise RequestError(f"{path}: is damaged or no file of tensors ({' '.join(str(error).split())[:200]})") from None
    except Exception as error:  # pickle's own errors have no common base
        if not (code := re.search(r"GLOBAL (\S+)", str(error))):
            raise RequestError(f"{path}: is damaged or no file of tensors ({type(error).__name__})") from None
        raise RequestError(
            f"{path}: holds more than tensors and is not loaded (it calls {code[1]}). Save its state dict alone where "
            "you trust it: torch.save(model.state_dict(), ...)"
        ) from None


def _named(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _state_dicts(content: Any, keys: tuple[str, ...]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping from names to tensors within mappings, by its place."""
    if not isinstance(content, Mapping) or len(keys) > DEEPEST:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    if any(isinstance(value, Tensor) for value in named.values()):
        yield ".".join(keys), named
    for name, value in named.items():
        if not name.startswith(NO_NETWORKS):
            yield from _state_dicts(value, (*keys, name))


def _chosen(path: Path, found: dict[str, dict[str, Tensor]], key: str | None) -> str:
    """The place of the state dict that is meant; one that is meant by a prefix is added to `found`."""
    if key in found:
        return str(key)
    shown = ", ".join(f"'{place}'" for place in found if place) or "none besides the whole file"
    first = min(_rank(place, found) for place in found)
    likeliest = [place for place in found if _rank(place, found) == first]
    if key is not None:
        inside = {name: tensor for name, tensor in found[likeliest[0]].items() if name.startswith(f"{key}.")}
        if not inside:
            raise RequestError(f"{path}: has no state dict at '{key}', and no name begins so; there are: {shown}")
        found[key] = inside
        return key
    if len(likeliest) > 1:
        raise RequestError(f"{path}: holds several state dicts, {shown}; say which is meant (key)")
    return likeliest[0]


def _rank(place: str, found: Mapping[str, Mapping[str, Tensor]]) -> tuple[int, int]:
    """The lower, the likelier: by the key, then by the number of tensors."""
    key = place.partition(".")[0]
    return (PLACES.index(key) if key in PLACES else len(PLACES), -len(found[place]))
