"""Checkpoints: whole or absent, checked by digest, the newest two kept, and those that other settings may branch from.

A checkpoint is `EPOCH-STEP.pt` (loadable with `weights_only=True`: tensors, numbers, strings) and `EPOCH-STEP.json`
with its SHA-256, written last: a checkpoint without that file was never finished. It also has the key of all that
decided the state (`pipeline.studies.course`), by which a training with other settings from there on finds it.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterable, Mapping
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

    def save(
        self, state: dict[str, Any], epoch: int, step: int, key: str | None = None, is_branch_point: bool = False
    ) -> None:
        """Write the state after `step` steps of the epoch that follows `epoch` finished ones; drop older ones.

        Args:
            state: What `load_newest` gives back.
            epoch: Finished epochs.
            step: Steps since.
            key: What decided the state; None where nothing else can go on from it.
            is_branch_point: Keep it when newer ones are there.
        """
        path = self.path(epoch, step)
        with atomic_write(path) as stream:
            _save({"fingerprint": self._fingerprint, "code": self._code, **state}, stream)
        commit = path.with_suffix(".json")
        note = {"epoch": epoch, "step": step, "code": self._code, "key": key, "is_branch_point": is_branch_point}
        write_json(commit, {"sha256": file_digest(path), **note})
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
            problem = _problem(path, commit, self._fingerprint, self._code)
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
        """Remove all but the newest checkpoints and branch points: older ones, damaged ones, what a kill left."""
        whole = [commit for commit in self._finished() if commit not in self._passed_over]
        branch_points = [commit for commit in whole if read_note(commit).get("is_branch_point")]
        kept = {file for commit in {*whole[-KEPT:], *branch_points} for file in (commit, commit.with_suffix(".pt"))}
        _remove(set(self.folder.iterdir()) - kept)

    def _finished(self) -> list[Path]:
        return sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []

    def branch_from(
        self, points: Iterable[Path], keys: Mapping[tuple[int, int], str], device: torch.device
    ) -> Path | None:
        """Begin with the furthest whole checkpoint of others whose state is also this training's at that point.

        Args:
            points: The `.json` files of checkpoints of any experiment.
            keys: What decides this training up to each point, by epoch and step.
            device: Where tensors are put on the way.

        Returns:
            The `.json` file of the one that was taken over, None where none fits.
        """
        notes = {point: read_note(point) for point in points}
        fitting = {
            point: (note["epoch"], note["step"])
            for point, note in notes.items()
            if note.get("key") and note["code"] == self._code and keys.get((note["epoch"], note["step"])) == note["key"]
        }
        for point, (epoch, step) in sorted(fitting.items(), key=lambda item: item[1], reverse=True):
            path = point.with_suffix(".pt")
            if _problem(path, point, None, self._code) is None:
                try:
                    os.utime(point)  # used now, and so dropped last
                    state = torch.load(path, map_location=device, weights_only=True)
                except FileNotFoundError:
                    continue  # another process has just dropped it
                shared = f"epochs 1 to {epoch + (step > 0)} of {state['experiment']} ({state['fingerprint']})"
                earlier = state["progress"]["shared"]
                state["progress"]["shared"] = f"{shared}, {earlier}" if earlier else shared
                self.save({**state, "fingerprint": self._fingerprint}, epoch, step, notes[point]["key"])
                return point
        return None


def read_note(commit: Path) -> dict[str, Any]:
    """What the `.json` file of a checkpoint says; empty where it cannot be read."""
    try:
        note = json.loads(commit.read_text())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def drop_branch_points(folders: Iterable[Path], most_bytes: float) -> None:
    """Remove those kept branch points that were used least recently, until the others take `most_bytes` at most.

    Args:
        folders: Of checkpoints; the newest of each are left, of which no branch is needed to go on.
        most_bytes: Of all of them together.
    """
    found = [commit for folder in folders for commit in sorted(folder.glob("*.json"))[:-KEPT]]
    kept = {commit: _used(commit) for commit in found if read_note(commit).get("is_branch_point")}
    total = sum(size for _, size in kept.values())
    for commit, (_, size) in sorted(kept.items(), key=lambda item: item[1]):
        if total > most_bytes:
            _remove({commit, commit.with_suffix(".pt")})
            total -= size


def _used(commit: Path) -> tuple[float, int]:
    """When a checkpoint was written or used last, and its bytes; both 0 where it has just been removed."""
    try:
        return commit.stat().st_mtime, commit.with_suffix(".pt").stat().st_size
    except FileNotFoundError:
        return 0.0, 0


def _remove(files: set[Path]) -> None:
    """Remove checkpoints; the digest goes first: a kill in between must not leave one without its checkpoint."""
    for file in sorted(files, key=lambda file: file.suffix):
        file.unlink(missing_ok=True)


def _problem(path: Path, commit: Path, fingerprint: str | None, code: str) -> str | None:
    """What is wrong with a checkpoint, None when it is whole; of any experiment where there is no `fingerprint`."""
    if not path.exists():
        return "the file is missing"
    expected = read_note(commit).get("sha256")
    if expected is None:
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
    if fingerprint is not None and header["fingerprint"] != fingerprint:
        return f"it belongs to experiment {header['fingerprint']}"
    if header.get("code", UNKNOWN) != code:
        return f"code {header.get('code', UNKNOWN)} made it, this is code {code}"
    return None


def _save(state: dict[str, Any], stream: BinaryIO) -> None:
    """`torch.save`, which hides the OSError of a full disk behind a RuntimeError of its archive."""
    try:
        torch.save(state, stream)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
