"""The figures of `params.yaml`, from MLflow alone."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from pipeline.config import Experiment, FigureSettings, FigureSource, Params
from pipeline.core.errors import PipelineError, RequestError, did_you_mean
from pipeline.core.files import write_json
from pipeline.reporting.style import note_below, save, style
from pipeline.studies.cells import Cell, cells
from pipeline.tracking import OTHER_CODE, UNKNOWN_CODE, finished_runs, mask, tracking_uri

if TYPE_CHECKING:
    from pipeline.reporting.examples import Pictures

COMPARED = 2
"""Experiments from which on a study has something to compare."""
COVERAGE = "coverage.json"
"""Says beside the figures how much of each is measured: a picture does not tell a program."""


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
    shown = {name: _experiments(settings, params, grid) for name, settings in figures.items()}
    wanted = [experiment for experiments in shown.values() for experiment in experiments.values()]
    runs = finished_runs(wanted) if wanted else pd.DataFrame(columns=["fingerprint", "made_by"])
    if wanted and runs.empty:
        raise PipelineError(
            f"MLflow at {mask(tracking_uri())} has no finished run of what the figures of suite '{params.suite}' show, "
            "nothing was drawn. 'make repro' trains and evaluates; MLFLOW_TRACKING_URI names another store."
        )
    source = FigureSource(params, runs, grid, pictures)
    for name, settings in figures.items():
        last = runs[runs["fingerprint"].isin(shown[name])].drop_duplicates("fingerprint", keep="last")
        coverage = settings.coverage(source, len(last), len(shown[name]))
        if skip and settings.is_study and coverage[0] < COMPARED:
            for ending in ("pdf", "png"):
                (destination / f"{name}.{ending}").unlink(missing_ok=True)
            skip(name, coverage)
            continue
        gc.freeze()  # what was there before is not looked through, which takes longer than most figures
        paths = _write(settings, source, last, destination / name)
        gc.collect()  # artists refer to each other, so that a figure's pixels would stay
        gc.unfreeze()
        write_coverage(destination, {name: coverage})
        yield from paths


def read_coverage(folder: Path) -> dict[str, list[int]]:
    """By name of a figure in `folder`, how many experiments are measured of how many that it shows."""
    path = folder / COVERAGE
    found: dict[str, list[int]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_coverage(folder: Path, found: Mapping[str, list[int]]) -> None:
    """Note the coverage of figures; what is known of others in `folder` stays."""
    write_json(folder / COVERAGE, dict(sorted({**read_coverage(folder), **found}.items())))


def _write(settings: FigureSettings, source: FigureSource, last: pd.DataFrame, path: Path) -> list[Path]:
    """Draw and save one figure, and say below it which of its numbers other code than this has made."""
    with style():
        figure = settings.draw(source)
        older = int(last["made_by"].isin((OTHER_CODE, UNKNOWN_CODE)).sum())
        if older:
            note_below(figure, f"{older} of {len(last)} experiments were run by other code than this checkout's.")
        title = f"{settings.paper}: {settings.caption}" if settings.paper else settings.caption
        return save(figure, path.parent, path.name, title)


def _chosen(params: Params, names: Sequence[str]) -> dict[str, FigureSettings]:
    """The figures of these names."""
    known = list(params.figures)
    unknown = [f"unknown figure '{name}': {did_you_mean(name, known)}" for name in names if name not in known]
    if unknown:
        raise RequestError("; ".join(unknown))
    return {name: params.figures[name] for name in names}


def _experiments(settings: FigureSettings, params: Params, grid: Sequence[Cell]) -> dict[str, Experiment]:
    """What a figure shows, by fingerprint: its methods, and the cells of its studies."""
    methods = [params.experiment(method, seed) for method in settings.methods_shown for seed in params.seeds]
    studied = [cell.experiment for cell in grid if cell.study in settings.studies_shown]
    return {experiment.fingerprint: experiment for experiment in [*methods, *studied]}
