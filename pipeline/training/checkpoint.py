"""Checkpoints: whole or absent, checked by digest, the newest two kept.

A checkpoint is `EPOCH-STEP.pt` (loadable with `weights_only=True`: tensors, numbers, strings) and `EPOCH-STEP.json`
with its SHA-256, written last: a checkpoint without that file was never finished.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pipeline.core.errors import PipelineError
from pipeline.core.files import atomic_write, file_digest, write_json
from pipeline.provenance.code import UNKNOWN

KEPT = 2


class CheckpointFolder:
    """The checkpoints of one experiment.

    Args:
        folder: Made when the first checkpoint is written.
        fingerprint: Of the experiment; checkpoints of another one are refused.
        code: Digest of the code that trains it; checkpoints of other code are refused, too.
    """

    def __init__(self, folder: Path, fingerprint: str, code: str = UNKNOWN) -> None:
        self.folder = folder
        self._fingerprint = fingerprint
        self._code = code
        self._passed_over: set[Path] = set()

    def path(self, epoch: int, step: int) -> Path:
        """Where the state after `step` steps of the epoch that follows `epoch` finished ones is, or will be."""
        return self.folder / f"{epoch:05d}-{step:07d}.pt"

    @property
    def is_empty(self) -> bool:
        """Whether none was ever finished here."""
        return not self._finished()

    @property
    def epochs(self) -> int:
        """Epochs that are over in the newest one, damaged or not; 0 where there is none."""
        return max((int(commit.name.partition("-")[0]) for commit in self._finished()), default=0)

    def save(self, state: dict[str, Any], epoch: int, step: int) -> None:
        """Write the state after `step` steps of the epoch that follows `epoch` finished ones; drop older ones."""
        path = self.path(epoch, step)
        with atomic_write(path) as stream:
            _save({"fingerprint": self._fingerprint, "code": self._code, **state}, stream)
        commit = path.with_suffix(".json")
        write_json(commit, {"sha256": file_digest(path), "epoch": epoch, "step": step})
        self._passed_over.discard(commit)
        self._clear()

    def load_newest(self, device: torch.device, warn: Callable[[str], None]) -> dict[str, Any] | None:
        """The newest undamaged state, or None when there is no checkpoint.

        Args:
            device: Where tensors are put.
            warn: Told of every damaged checkpoint that is passed over.

        Raises:
            PipelineError: there are checkpoints, but every one is damaged.
        """
        damaged = []
        for commit in reversed(self._finished()):
            path = commit.with_suffix(".pt")
            problem = self._problem(path, commit)
            if problem is None:
                state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
                return state
            damaged.append(path.name)
            self._passed_over.add(commit)
            warn(f"checkpoint {path} is damaged ({problem}); the one before it is used")
        if damaged:
            raise PipelineError(
                f"every checkpoint in {self.folder} is damaged: {', '.join(damaged)}. Nothing was changed. "
                "Restore one from a backup, or remove the folder to train from the start."
            )
        return None

    def _clear(self) -> None:
        """Remove all but the newest checkpoints: older ones, damaged ones, and what a kill left half-written."""
        whole = [commit for commit in self._finished() if commit not in self._passed_over]
        kept = {file for commit in whole[-KEPT:] for file in (commit, commit.with_suffix(".pt"))}
        # The digest goes first: a kill in between must not leave one without its checkpoint.
        for file in sorted(set(self.folder.iterdir()) - kept, key=lambda file: file.suffix):
            file.unlink()

    def _finished(self) -> list[Path]:
        return sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []

    def _problem(self, path: Path, commit: Path) -> str | None:
        """What is wrong with a checkpoint, None when it is whole."""
        if not path.exists():
            return "the file is missing"
        try:
            expected = json.loads(commit.read_text())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return f"{commit.name} cannot be read"
        try:
            found = file_digest(path)
        except OSError as error:
            return f"cannot be read: {error.strerror}"
        if found != expected:
            return f"SHA-256 {found[:12]}..., expected {expected[:12]}..."
        try:
            header = torch.load(path, map_location="meta", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError) as error:
            return f"cannot be loaded: {error}"
        if header["fingerprint"] != self._fingerprint:
            return f"it belongs to experiment {header['fingerprint']}"
        if header.get("code", UNKNOWN) != self._code:
            return f"code {header.get('code', UNKNOWN)} made it, this is code {self._code}"
        return None


def _save(state: dict[str, Any], stream: BinaryIO) -> None:
    """`torch.save`, which hides the OSError of a full disk behind a RuntimeError of its archive."""
    try:
        torch.save(state, stream)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
