"""The five tasks of docs/bring_your_own.md, run as printed in a copy of the repository, on tiny pieces."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torchvision.models import shufflenet_v2_x0_5

from tests.conftest import REPOSITORY
from tests.data.own import CLASSES, write_folders
from tests.test_chain import copy_working_tree
from tests.test_tutorial import run, shrink

PAGE = (REPOSITORY / "docs/bring_your_own.md").read_text()
BLOCK = re.compile(r"^```(console|python)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """The copy, and what each command of the page said."""
    folder = tmp_path_factory.mktemp("newcomer") / "repository"
    copy_working_tree(folder)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    shrink(folder, "own", "digits")
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/.installed").write_text(f"{folder}\n")  # `make` finds everything in place
    write_folders(folder / "pictures", train=20, test=10)
    torch.manual_seed(0)
    state = shufflenet_v2_x0_5(num_classes=len(CLASSES)).state_dict()
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in state.items()}}, folder / "mine.pt")
    said = {}
    for kind, content in BLOCK.findall(PAGE):
        if kind == "python":
            (folder / "predicting.py").write_text(content)
            content = "$ python predicting.py\n"
        for line in content.splitlines():
            command = line.removeprefix("$ ")
            said[command] = run(command, folder)
    yield folder, said


def found(said: dict[str, str], *words: str) -> str:
    """What the only command with these words said."""
    (text,) = (text for command, text in said.items() if all(word in command for word in words))
    return text


def test_own_images_are_trained_on_and_attacked(place: tuple[Path, dict[str, str]]) -> None:
    folder, said = place
    assert "evaluated at-1" in found(said, "SUITE=own")
    metrics = json.loads((folder / "results/own/at-1/evaluate/metrics.json").read_text())
    assert metrics["counts"]["natural"] == 30
    assert "| NT |" in (folder / "reports/own/small_cnn/tables/table1.md").read_text()


def test_two_settings_are_compared(place: tuple[Path, dict[str, str]]) -> None:
    said = found(place[1], "make compare")
    assert "natural: nt-1" in said and "p = " in said and "method.learners.natural.objective.name: " in said


def test_weights_from_elsewhere_are_attacked(place: tuple[Path, dict[str, str]]) -> None:
    said = found(place[1], "evaluate_weights")
    assert "'module.' in front of each" in said and "pgd20_linf" in said


def test_an_exported_model_predicts_in_six_lines(place: tuple[Path, dict[str, str]]) -> None:
    folder, said = place
    assert len((folder / "predicting.py").read_text().split("\n")) <= 7
    assert sum(found(said, "predicting.py").count(name) for name in CLASSES) == 30


def test_a_network_of_torchvision_is_trained(place: tuple[Path, dict[str, str]]) -> None:
    folder, said = place
    assert "evaluated at-1" in found(said, "SUITE=digits")
    assert list((folder / "reports/digits").glob("*shufflenet*/tables/table1.md"))
