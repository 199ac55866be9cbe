"""A device that is not there: its tensors lie in the CPU's memory, and it is as particular as a GPU.

It refuses tensors of two devices in one operation, and, inside `never_waits`, everything that would make the host wait
for a device. It gives numbers that were sent to the host only to who waits for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from typing_extensions import override

import pipeline.core.streams
from pipeline.core.ranks import Part

NAME = "pretend"
aten = torch.ops.aten
READS_VALUES = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.nonzero.default,
}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
COPIES = {aten._to_copy.default, aten.copy_.default}


class WaitsForDevice(Exception):
    """The host would wait for what the device still has to do."""


class MixedDevices(Exception):
    """An operation on tensors of the host and of the device."""


class Mark:
    """A mark in the queue of operations."""

    def __init__(self) -> None:
        self._count = 0

    def record(self) -> None:
        """Mark what the device was given until now."""
        self._count = host.operations

    def synchronize(self) -> None:
        """Wait for it; what was sent to the host before has arrived."""
        host.arrive(self._count)


@dataclass
class Host:
    """What the host knows of the device."""

    operations: int = 0
    """How many the device was given, in order."""
    under_way: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    """Tensors of the host, what they will hold, and the operation that sends it."""
    may_wait: bool = True

    def arrive(self, count: int) -> None:
        """Everything that was sent to the host by the first `count` operations is there."""
        for target, content, number in self.under_way:
            if number <= count:
                target.copy_(content)


host = Host()


class Device:
    """What torch asks of a device's module."""

    Event = Mark

    @staticmethod
    def synchronize() -> None:
        """Wait for everything."""
        _refuse_to_wait("synchronize")
        for target, content, _ in host.under_way:
            target.copy_(content)

    def is_initialized(self) -> bool:
        """Always."""
        return True

    is_available = is_initialized

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        """The only one."""
        return 0

    def device_count(self) -> int:
        """One."""
        return 1

    def manual_seed_all(self, seed: int) -> None:
        """It draws nothing that no generator is given for."""

    def get_rng_state(self, device: torch.device | int = 0) -> Tensor:
        """That of the CPU, from which its generators draw."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: torch.device | int = 0) -> None:
        """That of the CPU."""
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """For autocast."""
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(NAME, backend_module=Device())
DEVICE = torch.device(NAME, 0)


class Held(torch.Tensor):
    """A tensor on the device."""

    content: Tensor
    """Its values, on the CPU."""

    @staticmethod
    def __new__(cls, content: Tensor) -> Held:
        """Wrap values."""
        held: Held = torch.Tensor._make_wrapper_subclass(
            cls,
            content.shape,
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=DEVICE,
        )
        held.content = content
        return held

    @override
    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{NAME}:{self.content!r}"

    @override
    def tolist(self) -> Any:
        """Its values on the host; torch refuses this to tensors of other classes."""
        _refuse_to_wait("tolist")
        return self.content.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


class Present(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The device is there: tensors are made on it where that is asked for."""

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        asked = device is not None and torch.device(device).type == NAME
        return _run(func, args, kwargs) if asked else func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """An operation on tensors of the device, or that makes some."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    held = [tensor for tensor in tensors if isinstance(tensor, Held)]
    target = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    to_host = bool(held) and func in COPIES and (target == "cpu" or not isinstance(args[0], Held))
    _refuse(func, args, kwargs, tensors, held, to_host)
    if target == NAME:
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain_args, plain_kwargs = tree_map_only(Held, lambda tensor: tensor.content, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    wraps = {id(tensor.content): tensor for tensor in held}
    host.operations += 1
    if not to_host:
        return tree_map_only(Tensor, lambda tensor: wraps[id(tensor)] if id(tensor) in wraps else Held(tensor), result)
    if kwargs.get("non_blocking"):
        empty = torch.full_like(result, math.nan)
        host.under_way.append((empty, result, host.operations))
        return empty
    return result


def _refuse(func: Any, args: Any, kwargs: Any, tensors: list[Tensor], held: list[Held], to_host: bool) -> None:
    strangers = [tensor for tensor in tensors if not isinstance(tensor, Held)]
    if func in COPIES:
        if (to_host or strangers) and not kwargs.get("non_blocking"):
            _refuse_to_wait(str(func))
        return
    if not held:
        return
    if func in INDEXING:  # by indices of the host, which are copied, or by a mask, whose true values are counted
        indices = [leaf for leaf in tree_leaves(args[1]) if leaf is not None]
        if strangers or any(index.dtype == torch.bool for index in indices):
            _refuse_to_wait(str(func))
    elif any(tensor.ndim > 0 for tensor in strangers):
        raise MixedDevices(f"{func}: tensors of the host and of the device")
    if func in READS_VALUES:
        _refuse_to_wait(str(func))


def _refuse_to_wait(what: str) -> None:
    if not host.may_wait:
        raise WaitsForDevice(what)


def _tensor(make: Callable[..., Tensor], content: Any, *, device: Any = None, **options: Any) -> Tensor:
    """`torch.tensor`, which makes a tensor on the host and copies it, where no mode sees it."""
    made = make(content, **options)
    return made if device is None or torch.device(device).type != NAME else made.to(DEVICE)


@contextmanager
def present(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device, with nothing on it yet, until the end of the block."""
    vars(host).update(vars(Host()))
    # A parameter's new data would be set without what the wrapper holds.
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    monkeypatch.setattr(torch, "tensor", partial(_tensor, torch.tensor))
    monkeypatch.setattr(torch, "Generator", Generator)
    monkeypatch.setattr(pipeline.core.streams, "SharedGenerator", Generator)
    with Present():  # type: ignore[no-untyped-call]
        yield DEVICE


@contextmanager
def never_waits() -> Iterator[None]:
    """Let the host be refused to wait for the device inside the block."""
    host.may_wait = False
    try:
        yield
    finally:
        host.may_wait = True


class Generator(torch.Generator):
    """One of the CPU's, so that the device draws the same numbers, which says that it is the device's."""

    part: Part
    _place: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> Self:
        """Begin on any device."""
        generator = super().__new__(cls)
        generator._place = torch.device(device)
        return generator

    def __init__(self, device: torch.device | str = "cpu") -> None: ...

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where it says to be."""
        return self._place
