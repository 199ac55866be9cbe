"""Checkpoints are whole or absent, damage is found, and the one before is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.core.errors import PipelineError
from pipeline.training.checkpoint import KEPT, CheckpointFolder

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    """A folder with checkpoints of epochs 1 and 2."""
    checkpoints = CheckpointFolder(tmp_path / "checkpoints", "0123456789abcdef")
    for epoch in (1, 2):
        checkpoints.save({"weights": torch.arange(1000.0) * epoch, "epoch": epoch}, epoch, 0)
    return checkpoints


def never(text: str) -> None:
    raise AssertionError(f"unexpected warning: {text}")


def test_the_newest_is_loaded(folder: CheckpointFolder) -> None:
    state = folder.load_newest(CPU, never)
    assert state is not None
    assert state["epoch"] == 2
    assert torch.equal(state["weights"], torch.arange(1000.0) * 2)


def test_no_checkpoint_is_no_state(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "none", "0123456789abcdef").load_newest(CPU, never) is None


def test_a_step_within_an_epoch_is_newer_than_its_start(folder: CheckpointFolder) -> None:
    folder.save({"epoch": 2, "step": 7}, 2, 7)
    state = folder.load_newest(CPU, never)
    assert state is not None and state["step"] == 7


def test_only_the_newest_are_kept(folder: CheckpointFolder) -> None:
    for epoch in (3, 4, 5):
        folder.save({"epoch": epoch}, epoch, 0)
    assert sorted(path.name for path in folder.folder.glob("*.pt")) == ["00004-0000000.pt", "00005-0000000.pt"]
    assert len(list(folder.folder.iterdir())) == 2 * KEPT


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "missing", "commit"])
def test_a_damaged_checkpoint_is_passed_over_aloud(folder: CheckpointFolder, damage: str) -> None:
    path = folder.folder / "00002-0000000.pt"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "missing":
        path.unlink()
    else:
        path.with_suffix(".json").write_text("{")
    warnings: list[str] = []
    state = folder.load_newest(CPU, warnings.append)
    assert state is not None and state["epoch"] == 1
    assert len(warnings) == 1 and "00002-0000000.pt is damaged" in warnings[0]


def test_a_damaged_checkpoint_does_not_count_as_one_of_those_that_are_kept(folder: CheckpointFolder) -> None:
    folder.save({"epoch": 2, "step": 7}, 2, 7)
    folder.path(2, 7).write_bytes(b"rubbish")
    again = CheckpointFolder(folder.folder, "0123456789abcdef")
    again.load_newest(CPU, lambda text: None)
    again.save({"epoch": 2, "step": 3}, 2, 3)
    assert sorted(path.name for path in folder.folder.glob("*.pt")) == ["00002-0000000.pt", "00002-0000003.pt"]
    assert again.load_newest(CPU, never) == {
        "fingerprint": "0123456789abcdef",
        "code": "unknown",
        "epoch": 2,
        "step": 3,
    }


def test_when_all_are_damaged_nothing_is_touched(folder: CheckpointFolder) -> None:
    for path in folder.folder.glob("*.pt"):
        path.write_bytes(b"rubbish")
    before = {path: path.read_bytes() for path in folder.folder.iterdir()}
    with pytest.raises(PipelineError, match=r"every checkpoint in .* is damaged"):
        folder.load_newest(CPU, lambda text: None)
    assert before == {path: path.read_bytes() for path in folder.folder.iterdir()}


def test_an_unfinished_checkpoint_is_no_checkpoint_and_goes_with_the_next_one(folder: CheckpointFolder) -> None:
    (folder.folder / "00003-0000000.pt").write_bytes(b"the kill came before the digest was written")
    (folder.folder / ".00004-0000000.pt.123.tmp").write_bytes(b"the kill came while this was written")
    state = folder.load_newest(CPU, never)
    assert state is not None and state["epoch"] == 2
    folder.save({"epoch": 3}, 3, 1)
    assert {path.stem for path in folder.folder.iterdir()} == {"00002-0000000", "00003-0000001"}


def test_a_checkpoint_of_another_experiment_is_refused(folder: CheckpointFolder) -> None:
    warnings: list[str] = []
    other = CheckpointFolder(folder.folder, "fedcba9876543210")
    with pytest.raises(PipelineError, match="damaged"):
        other.load_newest(CPU, warnings.append)
    assert "belongs to experiment 0123456789abcdef" in warnings[0]
