"""The address of every stage of `dvc.yaml`, settings and code, in one file that DVC takes its dependencies from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core.extensions import named_in
from pipeline.core.files import write_json
from pipeline.provenance.code import WATCHERS, Stage, code_of, digest_of, library_version, reached, sources, strings_in
from pipeline.provenance.folders import RUNS

if TYPE_CHECKING:
    from pipeline.config import Experiment, Params

PROGRAMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "prepare": ("pipeline.experiments.prepare:prepare_data", WATCHERS),
    "corrupt": ("pipeline.experiments.ood:prepare_corrupted", WATCHERS),
    "tables": ("stages.tables:main", ()),
    "figures": ("stages.figures:main", ()),
    "report": ("stages.report:main", ()),
}
"""Stages that are not of one experiment: what they start from, and what of it makes no difference to what they make."""
SHOWN = {
    "tables": ("evaluation", "tables"),
    "figures": ("evaluation", "tables", "figures"),
    "report": ("evaluation", "tables", "figures"),
}
"""Sections whose attacks, metrics and figures a program shows."""
EXPERIMENTS: tuple[Stage, ...] = ("train", "evaluate", "ood")
MADE_FROM = "made_from"


def write_addresses(params_file: Path, output: Path, check: Callable[[Params], object] = lambda params: None) -> bool:
    """Write the address of every stage to a JSON file, unless nothing that decides them has changed since; whether it
    was done.

    `check` is shown the settings first, and raises what it has against them.
    """
    if _is_made_from(params_file, _read(output)):
        return False
    from pipeline.config import load_params  # seconds: it imports what checks the objectives' options

    params = load_params(params_file)
    check(params)
    found = addresses(params)
    write_json(output, found | {MADE_FROM: _inputs(params_file, found, sources().packages)})
    return True


def addresses(params: Params) -> dict[str, Any]:
    """By stage the digest of its code, or by experiment its fingerprint and that digest; `libraries`, the names of
    those that any of them reaches; and `initial_weights`, the files that learners start from.

    What a person has vouched for has the digest of the former code, so that DVC runs nothing for it.
    """
    content = params.model_dump(mode="json")
    strings = set(strings_in(content))
    shown = {name: set(named_in([content[key] for key in sections])) for name, sections in SHOWN.items()}
    programs = {
        name: reached([root], strings, cut, extensions=shown.get(name, ())) for name, (root, cut) in PROGRAMS.items()
    }
    experiments = list(params.experiments())
    codes = [*programs.values(), *(code_of(stage, one) for stage in EXPERIMENTS for one in experiments)]
    return {
        **{name: code.digest for name, code in programs.items()},
        **{stage: {one.identifier: _address(stage, one) for one in experiments} for stage in EXPERIMENTS},
        "libraries": sorted({library for code in codes for library in code.libraries}),
        "initial_weights": sorted({str(one.file) for experiment in experiments for one in experiment.initial_weights}),
    }


def _address(stage: Stage, experiment: Experiment) -> str:
    fingerprints = {
        "train": experiment.fingerprint,
        "evaluate": experiment.evaluation_fingerprint,
        "ood": experiment.ood_fingerprint,
    }
    return f"{fingerprints[stage]}-{digest_of(stage, experiment)}"


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content


def _is_made_from(params_file: Path, known: dict[str, Any]) -> bool:
    """Whether the known addresses were made from what is there now."""
    recorded = known.get(MADE_FROM)
    if not isinstance(recorded, dict) or not params_file.is_file():
        return False
    packages = {name: Path(path) for name, path in recorded["packages"].items()}
    moved = sources().packages.items() - packages.items()  # or a copy, whose original is not what runs here
    if moved or not all(path.exists() for path in packages.values()):
        return False
    return _inputs(params_file, known, packages) == recorded


def _inputs(params_file: Path, known: dict[str, Any], packages: dict[str, Path]) -> dict[str, Any]:
    """Everything that decides the addresses: sources, settings, files of weights, versions, and what people have
    vouched for."""
    weights = [Path(name) for name in known.get("initial_weights", [])]
    files = [params_file, *(path for path in weights if path.is_file()), *sorted(RUNS.glob("*/vouched.json"))]
    for path in packages.values():
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0".encode() + file.read_bytes())
    return {
        "packages": {name: str(path) for name, path in packages.items()},
        "versions": {name: library_version(name) for name in known["libraries"]},
        "digest": digest.hexdigest(),
    }
