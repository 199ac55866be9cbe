"""What the README shows is what the pipeline wrote."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY


def rows(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("| ")]


@pytest.mark.parametrize("table", ["digits/small_cnn/tables/table1.md", "cifar10_reduced/resnet18/tables/table1.md"])
def test_the_readmes_numbers_are_those_of_the_committed_tables(table: str) -> None:
    shown = set(rows(REPOSITORY / "README.md"))
    measured = [row for row in rows(REPOSITORY / "reports/published" / table) if "--<sup>" not in row]
    assert len(measured) > 2
    assert [row for row in measured if row not in shown] == []


def test_no_conflict_of_a_merge_is_committed() -> None:
    command = ["git", "grep", "-lE", "^(<{7}|>{7}) ", "--", "."]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")
