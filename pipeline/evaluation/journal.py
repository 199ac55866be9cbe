"""Finished pieces of an evaluation, one small file each: what is there is never computed again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.core.files import Damaged, read_record, write_record


class Journal:
    """Predictions by (attack, part, batch), written atomically, each with its checksum.

    Args:
        folder: Belongs to one set of weights and one set of evaluation settings.
        warn: Told of every damaged piece.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None] = print) -> None:
        self._folder = folder
        self._warn = warn

    def read(self, attack: str, part: str, batch: int, images: int) -> list[int] | None:
        """The predicted classes of a finished piece, or None when it is yet to be computed, or to be computed again:
        a damaged piece, or one of another number of images, is worth nothing, and nothing is lost with it."""
        path = self._path(attack, part, batch)
        try:
            predicted: list[int] = read_record(path)["predicted"]
        except FileNotFoundError:
            return None
        except Damaged as error:
            self._warn(f"{error}; it is computed again")
            return None
        if len(predicted) != images:
            self._warn(f"{path}: is of {len(predicted)} images, expected {images}; it is computed again")
            return None
        return predicted

    def write(self, attack: str, part: str, batch: int, predicted: list[int]) -> None:
        """Record a finished piece."""
        write_record(self._path(attack, part, batch), {"predicted": predicted})

    def __len__(self) -> int:
        """How many pieces are finished."""
        return sum(1 for _ in self._folder.glob("*/*.json"))

    def _path(self, attack: str, part: str, batch: int) -> Path:
        return self._folder / attack / f"{part}-{batch:05d}.json"
