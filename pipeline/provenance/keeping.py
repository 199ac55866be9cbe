"""The code of a piece of work, kept beside it from its beginning on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.config import Experiment
from pipeline.core.files import Damaged, read_record, write_json
from pipeline.provenance.code import Code, Stage, changes, code_of, named

CODE_FILE, EVALUATION_CODE_FILE = "code.json", "evaluation_code.json"
"""Beside a result, what made it: the digests of all that its computation reaches."""
DONE: dict[Stage, str] = {"train": "trained", "evaluate": "evaluated", "ood": "measured", "stability": "compared"}


def begin(stage: Stage, experiment: Experiment, folder: Path, before: Iterable[Path], unmarked: Path) -> None:
    """Keep with the work of a stage which code does it, and say why it begins anew where other code has done it.

    Args:
        folder: Where the work of this code is kept.
        before: Files that describe the code of earlier work of the same settings, the one to compare with first; they
            need not exist.
        unmarked: Where work by code which is not known lies, if there is any.
    """
    path = folder / CODE_FILE
    if path.exists():
        return
    now, known = code_of(stage, experiment), next((code for one in before if (code := read_code(one))), None)
    if known is not None:
        if what := named(changes(known, now)):
            print(f"{experiment.identifier}: {DONE[stage]} anew, since code has changed: {what}", flush=True)
    elif unmarked != folder and unmarked.exists():
        print(f"{experiment.identifier}: {DONE[stage]} anew, {unmarked} does not say which code made it", flush=True)
    write_json(path, now.as_json())


def is_of(record: Path, **fingerprints: str) -> bool:
    """Whether the record of a result is of settings with these fingerprints; False where none can be read."""
    try:
        found = read_record(record)
    except (FileNotFoundError, Damaged):
        return False
    return fingerprints.items() <= found.items()


def newest(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that describe code, the newest first."""
    return sorted(folder.glob(f"{pattern}/{CODE_FILE}"), key=lambda path: path.stat().st_mtime, reverse=True)


def read_code(path: Path) -> Code | None:
    """The code that a file describes; None where there is none, or it is damaged."""
    try:
        return Code.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
