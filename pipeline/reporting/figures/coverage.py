"""How much of each figure is measured: a file beside the figures, since a picture does not tell a program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipeline.core.files import write_json

COVERAGE = "coverage.json"


def read_coverage(folder: Path) -> dict[str, list[int]]:
    """By name of a figure in `folder`, how many experiments are measured of how many that it shows."""
    path = folder / COVERAGE
    found: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_coverage(folder: Path, found: Mapping[str, list[int]]) -> None:
    """Note the coverage of figures; what is known of others in `folder` stays."""
    write_json(folder / COVERAGE, dict(sorted({**read_coverage(folder), **found}.items())))
