"""A device that is not there: its tensors lie in the CPU's memory, and it is as particular as a GPU.

It refuses tensors of two devices in one operation, and, inside `never_waits`, everything that would make the host wait
for a device. It gives numbers that were sent to the host only to who waits for them. And it finds races: two operations
on the same memory from different streams, one of which writes, without anything that orders them; and memory that its
stream could hand out again while another stream still uses it. Only streams that wait for each other are in order: that
the host waits orders nothing here, and hides no race.
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
from torch.multiprocessing.reductions import StorageWeakRef
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


class Race(Exception):
    """Nothing orders two operations on the same memory."""


Moment = dict[int, int]
"""How many operations of each stream are over, by the stream's number."""


class Queue:
    """A queue of operations."""

    count = 0

    def __init__(self) -> None:
        self.number, Queue.count = Queue.count, Queue.count + 1
        self.past: Moment = {self.number: 0}
        """What is over when the next operation begins."""

    def wait_stream(self, other: Queue) -> None:
        """Begin the next operation when all that `other` was given is over."""
        for number, count in other.past.items():
            self.past[number] = max(self.past.get(number, 0), count)


class Mark:
    """A mark in the current stream."""

    def __init__(self) -> None:
        self._past: Moment = {}

    def record(self) -> None:
        """Mark what the stream was given until now."""
        self._past = dict(host.current.past)

    def synchronize(self) -> None:
        """Wait for it; what was sent to the host before has arrived."""
        host.arrive(self._past)


@dataclass
class Memory:
    """Who used a piece of the device's memory."""

    storage: Any
    """A weak reference."""
    owner: int
    """The stream that it was allocated in, and whose next allocation may be given it when it is free."""
    write: tuple[int, int]
    """The last one: stream, and its count of operations."""
    reads: Moment = field(default_factory=dict)
    """The last ones since then, by stream."""


@dataclass
class Host:
    """What the host knows of the device."""

    current: Queue = field(default_factory=Queue)
    memories: dict[int, Memory] = field(default_factory=dict)
    under_way: list[tuple[Tensor, Tensor, tuple[int, int]]] = field(default_factory=list)
    """Tensors of the host, what they will hold, and the operation that sends it."""
    may_wait: bool = True

    def use(self, read: list[Tensor], written: list[Tensor], made: list[Tensor]) -> tuple[int, int]:
        """One operation on tensors of the CPU that hold the device's."""
        past, number = self.current.past, self.current.number
        past[number] += 1
        now = number, past[number]
        self._forget_free_memory()
        for tensor in made:
            key = tensor.untyped_storage()._cdata
            if key not in self.memories:
                self.memories[key] = Memory(_weakly(tensor), number, now)
        for tensor in read:
            memory = self.memories[tensor.untyped_storage()._cdata]
            _check(past, [memory.write], "reads what another one writes")
            memory.reads[number] = past[number]
        for tensor in written:
            memory = self.memories[tensor.untyped_storage()._cdata]
            _check(past, [memory.write, *memory.reads.items()], "writes what another one uses")
            memory.write, memory.reads = now, {}
        return now

    def _forget_free_memory(self) -> None:
        """Let the current stream have what is free again, which others must have finished with."""
        past, number = self.current.past, self.current.number
        for key, memory in list(self.memories.items()):
            if memory.storage.expired() and memory.owner == number:
                _check(past, [memory.write, *memory.reads.items()], "is given memory that another one uses")
                del self.memories[key]

    def arrive(self, past: Moment) -> None:
        """Everything that was sent to the host by then is there."""
        for target, content, (number, count) in self.under_way:
            if past.get(number, 0) >= count:
                target.copy_(content)


def _weakly(tensor: Tensor) -> Any:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _check(past: Moment, uses: list[tuple[int, int]], what: str) -> None:
    for number, count in uses:
        if past.get(number, 0) < count:
            raise Race(f"a stream {what}, stream {number}, and nothing orders the two")


host = Host()


class Device:
    """What torch asks of a device's module."""

    Event = Mark
    Stream = Queue

    @staticmethod
    def current_stream() -> Queue:
        """Where operations go."""
        return host.current

    @staticmethod
    @contextmanager
    def stream(stream: Queue) -> Iterator[None]:
        """Let operations go there."""
        before, host.current = host.current, stream
        try:
            yield
        finally:
            host.current = before

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
    made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and id(leaf) not in wraps]
    now = host.use([tensor.content for tensor in held], _written(func, args, kwargs), [] if to_host else made)
    if not to_host:
        return tree_map_only(Tensor, lambda tensor: wraps[id(tensor)] if id(tensor) in wraps else Held(tensor), result)
    if kwargs.get("non_blocking"):
        empty = torch.full_like(result, math.nan)
        host.under_way.append((empty, result, now))
        return empty
    return result


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """What an operation changes in place."""
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    changed = [
        given.get(argument.name)
        for argument in func._schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return [leaf.content for leaf in tree_leaves(changed) if isinstance(leaf, Held)]


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
