"""Networks from anywhere, named by 'package.module:object': found, called, and checked to be networks."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from importlib.machinery import PathFinder
from importlib.util import find_spec
from inspect import Parameter, signature
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from pipeline.core.datasets import DataFacts
from pipeline.core.errors import RequestError
from pipeline.core.extensions import imported

if TYPE_CHECKING:
    from torch import nn

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
SHOWN = 12
"""Names that a message lists."""


def is_path(architecture: str) -> bool:
    """Whether a network is named by where it is, and not by one of the project's names."""
    return ":" in architecture


def check_path(path: str) -> None:
    """Refuse (ValueError) what is no 'package.module:object', and modules that are not there; nothing is imported."""
    if not PATH.fullmatch(path):
        raise ValueError(
            f"'{path}' is no network: expected 'package.module:object', such as torchvision.models:resnet18"
        )
    top, *below = path.partition(":")[0].split(".")
    found = find_spec(top)
    if found is None:
        close = get_close_matches(top, {module.name for module in iter_modules()}, n=1)
        guess = f": did you mean '{close[0]}'?" if close else ""
        raise ValueError(
            f"network '{path}': there is no module '{top}' in this folder or among what is installed{guess}"
        )
    so_far, places = top, found.submodule_search_locations
    for part in below:
        spec = PathFinder.find_spec(f"{so_far}.{part}", places)
        if spec is None:
            names = [module.name for module in iter_modules(places)]
            raise ValueError(f"network '{path}': '{so_far}' has no module '{part}'; {nearest(part, names)}")
        so_far, places = f"{so_far}.{part}", spec.submodule_search_locations


def nearest(given: str, names: list[str]) -> str:
    """The names that are most like `given`, or the first ones."""
    close = get_close_matches(given, names, n=3)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"valid: {', '.join(names[:SHOWN]) or 'none'}{more}"


def construct(path: str, images: DataFacts, arguments: Mapping[str, Any]) -> nn.Module:
    """Call what is at `path`.

    Args:
        path: 'package.module:object'.
        images: What is handed to parameters that are called as in `_given`.
        arguments: What else it is called with; they overrule the former.

    Raises:
        RequestError: there is nothing to call, the call fails, or what it gives is no network.
    """
    constructor = _constructor(path)
    called_with = {**_given(constructor, images), **arguments}
    _check_names(path, constructor, arguments)
    try:
        model = constructor(**called_with)
    except Exception as error:  # other people's code: anything may come of it
        shown = ", ".join(f"{name}={value!r}" for name, value in called_with.items())
        raise RequestError(
            f"network '{path}' cannot be built by calling it with ({shown}): {said(error)}. What it is called with is "
            "model.arguments"
        ) from error
    from torch.nn import Module

    if not isinstance(model, Module):
        raise RequestError(f"'{path}' gives {type(model).__name__}, expected a torch.nn.Module: a class, or a function")
    return model


def _constructor(path: str) -> Callable[..., Any]:
    try:
        check_path(path)
        found = imported(path)
    except ValueError as error:
        raise RequestError(str(error)) from None
    except AttributeError as error:
        if error.name != path.partition(":")[2]:  # raised by the module's own code
            raise RequestError(f"network '{path}': its module cannot be imported: {said(error)}") from error
        names = [name for name, value in vars(error.obj).items() if callable(value) and not name.startswith("_")]
        raise RequestError(f"network '{path}': {error}; {nearest(error.name, names)}") from None
    except Exception as error:
        raise RequestError(f"network '{path}': its module cannot be imported: {said(error)}") from error
    if not callable(found):
        raise RequestError(f"network '{path}' is {type(found).__name__}, expected a class or a function that gives one")
    return found  # type: ignore[no-any-return]


def _given(constructor: Callable[..., Any], images: DataFacts) -> dict[str, int]:
    """What is known of the images, by the names that a network's parameters usually have.

    `width` without `height` is the network's own, as is `channels` beside a parameter for those of the images.
    """
    has = _parameters(constructor)
    channels = next((name for name in ("in_channels", "in_chans", "channels") if name in has), None)
    classes = [name for name in ("classes", "num_classes") if name in has]
    sides = {"height": images.height, "width": images.width} if {"height", "width"} <= has.keys() else {}
    known = {channels: images.channels} if channels else {}
    return {**known, **dict.fromkeys(classes, len(images.classes)), **sides}


def _parameters(constructor: Callable[..., Any]) -> Mapping[str, Parameter]:
    try:
        return signature(constructor).parameters
    except (TypeError, ValueError):  # of some builtins
        return {}


def _check_names(path: str, constructor: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    parameters = _parameters(constructor)
    if not parameters or any(one.kind is Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    for name in arguments.keys() - parameters.keys():
        raise RequestError(f"network '{path}' has no argument '{name}'; {nearest(name, list(parameters))}")


def said(error: Exception) -> str:
    """Kind and message of an error that somebody else's code raised, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
