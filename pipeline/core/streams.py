"""Independent random streams, derived from one experiment seed by name.

A stream is addressed, not consumed: the noise of learner 'linf' in epoch 3, step 17 is a function of the seed and
those words alone. So adding a learner never changes another learner's randomness, and a continued run needs no saved
generator state to go on to the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from pipeline.core.ranks import Part


def stream_seed(seed: int, *address: str | int) -> int:
    """A 63-bit seed for the stream at `address` below the experiment's `seed`."""
    text = "/".join(str(part) for part in (seed, *address))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class SharedGenerator(torch.Generator):
    """A random stream that every rank has, and this rank's part of the batch that it is drawn for."""

    part: Part


def stream(
    seed: int, *address: str | int, device: torch.device | str = "cpu", part: Part | None = None
) -> torch.Generator:
    """A fresh `torch.Generator` on `device`, seeded for the stream at `address`, for all rows of a batch or a part."""
    if part is None:
        return torch.Generator(device=device).manual_seed(stream_seed(seed, *address))
    shared = SharedGenerator(device=device)
    shared.part = part
    return shared.manual_seed(stream_seed(seed, *address))


@contextmanager
def drawing(seed: int, *address: str | int, device: torch.device) -> Iterator[None]:
    """Let what draws from torch's own generators, as dropout does, draw from the stream at `address` in the block."""
    with torch.random.fork_rng([torch.cuda.current_device()] if device.type == "cuda" else []):
        torch.manual_seed(stream_seed(seed, *address))
        yield


def on_host(generator: torch.Generator) -> torch.Generator:
    """A generator whose numbers the host can read at once: `generator` itself where it is the host's.

    Reading a number from a device would wait for all that the device still has to do. So what the host decides by is
    drawn on the host, of the same seed; ask once for a stream, since every generator begins with its first number.
    """
    if generator.device.type == "cpu":
        return generator
    return torch.Generator().manual_seed(generator.initial_seed())


def part_of(generator: torch.Generator, rows: int) -> Part:
    """The part that a generator is for; of one that knows none, all of `rows`."""
    return generator.part if isinstance(generator, SharedGenerator) else Part(0, rows, rows)


def draw(
    function: Callable[..., Tensor], shape: Sequence[int], generator: torch.Generator, part: Part | None = None
) -> Tensor:
    """This rank's rows of random numbers for the whole batch.

    Args:
        function: `torch.rand` or `torch.randn`.
        shape: Of the own rows; one batch's, or several joined.
        generator: The same on every rank.
        part: Which rows these are; None: the generator knows.
    """
    part = part or part_of(generator, shape[0])
    drawn = function((part.whole(shape[0]), *shape[1:]), generator=generator, device=generator.device)
    return part.own(drawn)
