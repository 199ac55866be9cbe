"""Independent random streams, derived from one experiment seed by name.

A stream is addressed, not consumed: the noise of learner 'linf' in epoch 3, step 17 is a function of the seed and
those words alone. So adding a learner never changes another learner's randomness, and a continued run needs no saved
generator state to go on to the same bits.
"""

from __future__ import annotations

import hashlib

import torch


def stream_seed(seed: int, *address: str | int) -> int:
    """A 63-bit seed for the stream at `address` below the experiment's `seed`."""
    text = "/".join(str(part) for part in (seed, *address))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *address: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh `torch.Generator` on `device`, seeded for the stream at `address`."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, *address))
