"""Finished pieces of an evaluation, one small file each: what is there is never computed again."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import write_json


class Journal:
    """Predictions by (attack, part, batch), written atomically.

    Args:
        folder: Belongs to one set of weights and one set of evaluation settings.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, attack: str, part: str, batch: int, images: int) -> list[int] | None:
        """The predicted classes of a finished piece, or None when it is yet to be computed.

        Raises:
            PipelineError: the piece cannot be read, or is not of this many images.
        """
        path = self._path(attack, part, batch)
        if not path.exists():
            return None
        try:
            predicted: list[int] = json.loads(path.read_text())["predicted"]
        except (ValueError, KeyError, TypeError):
            predicted = []
        if len(predicted) != images:
            raise PipelineError(
                f"{path} is damaged: expected predictions of {images} images. Remove it to compute it again."
            )
        return predicted

    def write(self, attack: str, part: str, batch: int, predicted: list[int]) -> None:
        """Record a finished piece."""
        write_json(self._path(attack, part, batch), {"predicted": predicted})

    def __len__(self) -> int:
        """How many pieces are finished."""
        return sum(1 for _ in self._folder.glob("*/*.json"))

    def _path(self, attack: str, part: str, batch: int) -> Path:
        return self._folder / attack / f"{part}-{batch:05d}.json"
