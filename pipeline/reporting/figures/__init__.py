"""The figures of `params.yaml`, from MLflow alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config import (
    Experiment,
    FigureSettings,
    FigureSource,
    Params,
)
from pipeline.config.metrics import unknown_metric
from pipeline.core.errors import PipelineError, RequestError, did_you_mean
from pipeline.reporting.examples import Pictures
from pipeline.reporting.figures.coverage import write_coverage
from pipeline.reporting.style import note_below, save, style
from pipeline.studies.cells import Cell, cells
from pipeline.tracking import OTHER_CODE, UNKNOWN_CODE, finished_runs, mask, tracking_uri

COMPARED = 2
"""Experiments from which on a study has something to compare."""


def write_figures(
    params: Params,
    names: Sequence[str],
    destination: Path,
    pictures: Pictures | None = None,
    skip: Callable[[str, list[int]], None] | None = None,
) -> Iterator[Path]:
    """Write figures of `params` to `destination` as `<name>.pdf` and `<name>.png`; equal runs give equal bytes.

    Args:
        params: Which figures there are, and what they show.
        names: Keys of `figures`.
        destination: A folder; it is created where it is missing.
        pictures: The test images, which Grad-CAM figures show; None: those figures say that they are missing.
        skip: Told the name and coverage of every study and search that has nothing to compare yet: it is left out, and
            what was drawn of it before is removed. None: all are drawn, with what is missing marked.

    Yields:
        Each file as soon as it is written.

    Raises:
        RequestError: a figure is unknown, or cannot be drawn of what it names.
        PipelineError: the MLflow store does not exist, is out of reach, or has no run of what the figures show.
    """
    figures = _chosen(params, names)
    studies = dict.fromkeys(study for figure in figures.values() for study in figure.studies_shown)
    grid = cells(params, list(studies)) if studies else []
    wanted = [*_experiments(params, figures), *(cell.experiment for cell in grid)]
    runs = finished_runs(wanted) if wanted else pd.DataFrame(columns=["fingerprint", "made_by"])
    if wanted and runs.empty:
        raise PipelineError(
            f"MLflow at {mask(tracking_uri())} has no finished run of what the figures of suite '{params.suite}' show, "
            "nothing was drawn. 'make repro' trains and evaluates; MLFLOW_TRACKING_URI names another store."
        )
    for name, settings in figures.items():
        shown = _shown(settings, params, grid)
        last = runs[runs["fingerprint"].isin(shown)].drop_duplicates("fingerprint", keep="last")
        source = FigureSource(params, runs, grid, pictures)
        coverage = settings.coverage(source, len(last), len(shown))
        if skip and settings.is_study and coverage[0] < COMPARED:
            for ending in ("pdf", "png"):
                (destination / f"{name}.{ending}").unlink(missing_ok=True)
            skip(name, coverage)
            continue
        with _freed_afterwards():
            paths = _write(settings, source, last, destination / name)
        write_coverage(destination, {name: coverage})
        yield from paths


def _write(settings: FigureSettings, source: FigureSource, last: pd.DataFrame, path: Path) -> list[Path]:
    with style():
        figure = settings.draw(source)
        _note_older_code(figure, last)
        return save(figure, path.parent, path.name, _plain(settings))


@contextmanager
def _freed_afterwards() -> Iterator[None]:
    """Free a figure once it is written: artists refer to each other, so that its pixels would stay.

    What was there before is not looked through, which takes longer than most figures.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()


def _shown(settings: FigureSettings, params: Params, grid: Sequence[Cell]) -> set[str]:
    """The fingerprints of the experiments that a figure shows."""
    shown = {one.fingerprint for one in _experiments(params, {"": settings})}
    if settings.is_study:
        shown |= {cell.experiment.fingerprint for cell in grid if cell.study in settings.studies_shown}
    return shown


def _note_older_code(figure: Figure, last: pd.DataFrame) -> None:
    """Say below a figure which of its numbers other code than this has made."""
    older = last[last["made_by"].isin((OTHER_CODE, UNKNOWN_CODE))]
    if len(older):
        note_below(figure, f"{len(older)} of {len(last)} experiments were run by other code than this checkout's.")


def _chosen(params: Params, names: Sequence[str]) -> dict[str, FigureSettings]:
    """The figures of these names, checked against the rest of the file."""
    unknown = [name for name in names if name not in params.figures]
    if unknown:
        known = list(params.figures)
        raise RequestError("; ".join(f"unknown figure '{name}': {did_you_mean(name, known)}" for name in unknown))
    attacks = list(params.evaluation.attacks)
    valid: dict[str, list[str]] = {
        "method": list(params.methods),
        "attack": ["natural", "union", *attacks],
        "study": list(params.ablation.studies),
    }
    problems = [
        f"figures.{figure}: {problem}"
        for figure in names
        for kind, name in params.figures[figure].names()
        if (problem := unknown_metric(name, attacks) if kind == "metric" else _unknown(kind, name, valid[kind]))
    ]
    if problems:
        raise RequestError("\n  ".join(["params.yaml: nothing was drawn", *problems]))
    return {name: params.figures[name] for name in names}


def _unknown(kind: str, name: str, valid: list[str]) -> str:
    return "" if name in valid else f"unknown {kind} '{name}': {did_you_mean(name, valid)}"


def _experiments(params: Params, figures: dict[str, FigureSettings]) -> Iterator[Experiment]:
    """The experiments of the methods that figures show, each once."""
    methods = dict.fromkeys(method for figure in figures.values() for method in figure.methods_shown)
    return (params.experiment(method, seed) for method in methods for seed in params.seeds)


def _plain(settings: FigureSettings) -> str:
    """The caption for the files' metadata."""
    return f"{settings.paper}: {settings.caption}" if settings.paper else settings.caption
