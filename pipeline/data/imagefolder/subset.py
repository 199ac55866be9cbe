"""The fixed part of the validation images that attacks are evaluated on: 5,000 of ImageNet's 50,000."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.core.errors import RequestError
from pipeline.core.streams import stream

SUBSET_IMAGES = 5_000
"""As many as RobustBench evaluates ImageNet models on."""
OWN_CHOICE = "our own choice"


@dataclass(frozen=True)
class Subset:
    """Which validation images, in which order, and who chose them."""

    names: tuple[str, ...]
    """Paths below val/."""
    label: str
    """OWN_CHOICE, or 'list <sha256 of the file>': results on different subsets must not be compared."""

    @property
    def content(self) -> bytes:
        """One path a line: what `read_list` reads."""
        return b"".join(os.fsencode(name) + b"\n" for name in self.names)


def own_choice(names: Sequence[str], damaged: Collection[str], count: int = SUBSET_IMAGES) -> Subset:
    """The first `count` whole images of a fixed random order of all validation images `names`.

    RobustBench's list is a file of its own, not a draw that could be repeated; where it is not at hand this stands in
    for it. Damaged images are left out after the draw, so that they change no other choice.
    """
    order = torch.randperm(len(names), generator=stream(0, "evaluation subset")).tolist()
    whole = [names[position] for position in order if names[position] not in damaged]
    return Subset(tuple(whole[:count]), OWN_CHOICE)


def read_list(path: Path, names: Collection[str]) -> Subset:
    """Read a list of validation images: one path a line, below val/ or with 'val/' in front; empty lines are skipped.

    RobustBench's `imagenet_test_image_ids.txt` is such a list.

    Raises:
        RequestError: the file cannot be read or is empty, or names images twice or that are not among `names`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}); expected one path below val/ a line") from None
    listed = [os.fsdecode(line).strip().removeprefix("val/") for line in content.splitlines() if line.strip()]
    if not listed:
        raise RequestError(f"{path}: is empty; expected one path below val/ a line")
    known = set(names)
    unknown = [name for name in listed if name not in known]
    if unknown:
        raise RequestError(
            f"{path}: {len(unknown)} of {len(listed)} paths are not in val/, for example '{unknown[0]}'; "
            f"expected paths like '{min(known)}'"
        )
    name, times = Counter(listed).most_common(1)[0]
    if times > 1:
        raise RequestError(f"{path}: names '{name}' {times} times; a subset has every image once")
    return Subset(tuple(listed), f"list {hashlib.sha256(content).hexdigest()}")
