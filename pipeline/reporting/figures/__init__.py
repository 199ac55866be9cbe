"""The figures of `params.yaml`, from MLflow alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from pipeline.config import (
    DERIVED_METRICS,
    OOD_METRICS,
    TRAINING_SECONDS,
    AblationFigure,
    ClassWiseFigure,
    Experiment,
    FigureSettings,
    FrameworkFigure,
    GradCAMFigure,
    Params,
    ParetoFigure,
    ProtocolsFigure,
    StabilityFigure,
    TheoryFigure,
    TradeOffFigure,
    TrainingCurvesFigure,
)
from pipeline.core.errors import PipelineError, RequestError, did_you_mean
from pipeline.reporting.examples import Pictures
from pipeline.reporting.figures import (
    ablation,
    class_wise,
    framework,
    grad_cam,
    pareto,
    protocols,
    stability,
    theory,
    trade_off,
    training_curves,
)
from pipeline.reporting.figures.coverage import write_coverage
from pipeline.reporting.style import note_below, save, style
from pipeline.studies.cells import Cell, cells
from pipeline.studies.trials import Search
from pipeline.tracking import OTHER_CODE, UNKNOWN_CODE, finished_runs, mask, tracking_uri

__all__ = ["draw_figure", "write_figures"]

STUDIES = (AblationFigure, StabilityFigure, ParetoFigure)
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
    studies = [figure.study for figure in figures.values() if isinstance(figure, AblationFigure | StabilityFigure)]
    studies += [study for figure in figures.values() if isinstance(figure, TradeOffFigure) for study in figure.studies]
    grid = cells(params, list(dict.fromkeys(studies))) if studies else []
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
        coverage = _coverage(settings, params, shown, last, pictures)
        if skip and isinstance(settings, STUDIES) and coverage[0] < COMPARED:
            for ending in ("pdf", "png"):
                (destination / f"{name}.{ending}").unlink(missing_ok=True)
            skip(name, coverage)
            continue
        with style():
            figure = draw_figure(settings, params, runs, grid, pictures)
            _note_older_code(figure, last)
            paths = save(figure, destination, name, _plain(settings))
        write_coverage(destination, {name: coverage})
        gc.collect()  # artists refer to each other: without it, every figure's pixels stay
        yield from paths


def draw_figure(
    settings: FigureSettings,
    params: Params,
    runs: pd.DataFrame,
    grid: Sequence[Cell] = (),
    pictures: Pictures | None = None,
) -> Figure:
    """One figure; call it inside `style()`.

    Args:
        settings: What it shows.
        params: The file that declares it.
        runs: As `finished_runs` gives them for the experiments that it shows.
        grid: The cells of its study, where it shows one.
        pictures: As `write_figures`.
    """
    match settings:
        case TradeOffFigure():
            return trade_off.draw(settings, params, runs, grid)
        case ClassWiseFigure():
            return class_wise.draw(settings, params, runs)
        case TrainingCurvesFigure():
            return training_curves.draw(settings, params, runs)
        case ProtocolsFigure():
            return protocols.draw(settings, params, runs)
        case TheoryFigure():
            return theory.draw(settings, params, runs)
        case FrameworkFigure():
            return framework.draw(settings, params)
        case AblationFigure() | StabilityFigure():
            return _draw_study(settings, params, runs, grid)
        case GradCAMFigure():
            return grad_cam.draw(settings, params, runs, pictures)
        case ParetoFigure():
            return pareto.draw(params)


def _shown(settings: FigureSettings, params: Params, grid: Sequence[Cell]) -> set[str]:
    """The fingerprints of the experiments that a figure shows."""
    shown = {one.fingerprint for one in _experiments(params, {"": settings})}
    if isinstance(settings, AblationFigure | StabilityFigure):
        shown |= {cell.experiment.fingerprint for cell in grid if cell.study == settings.study}
    return shown


def _coverage(
    settings: FigureSettings, params: Params, shown: set[str], last: pd.DataFrame, pictures: Pictures | None
) -> list[int]:
    """How many experiments of a figure are measured, and how many it shows; of a search, how many of its trials."""
    if isinstance(settings, FrameworkFigure):
        return [1, 1]  # drawn from the settings alone
    if isinstance(settings, ParetoFigure):
        search = Search.of(params)
        return [len(pareto.trials_of(search)), search.settings.trials]
    lacks_pictures = isinstance(settings, GradCAMFigure) and pictures is None
    return [0 if lacks_pictures else len(last), len(shown)]


def _note_older_code(figure: Figure, last: pd.DataFrame) -> None:
    """Say below a figure which of its numbers other code than this has made."""
    older = last[last["made_by"].isin((OTHER_CODE, UNKNOWN_CODE))]
    if len(older):
        note_below(figure, f"{len(older)} of {len(last)} experiments were run by other code than this checkout's.")


def _draw_study(
    settings: AblationFigure | StabilityFigure, params: Params, runs: pd.DataFrame, grid: Sequence[Cell]
) -> Figure:
    if isinstance(settings, AblationFigure):
        return ablation.draw(settings, params, runs, grid)
    return stability.draw(settings, params, runs, grid)


def _chosen(params: Params, names: Sequence[str]) -> dict[str, FigureSettings]:
    """The figures of these names, checked against the rest of the file."""
    unknown = [name for name in names if name not in params.figures]
    if unknown:
        known = list(params.figures)
        raise RequestError("; ".join(f"unknown figure '{name}': {did_you_mean(name, known)}" for name in unknown))
    attacks = list(params.evaluation.attacks)
    valid: dict[str, list[str]] = {
        "method": list(params.methods),
        "metric": [*DERIVED_METRICS, *OOD_METRICS, TRAINING_SECONDS, *attacks],
        "attack": ["natural", "union", *attacks],
        "study": list(params.ablation.studies),
    }
    problems = [
        f"figures.{figure}: unknown {kind} '{name}': {did_you_mean(name, valid[kind])}"
        for figure in names
        for kind, name in params.figures[figure].names()
        if name not in valid[kind]
    ]
    if problems:
        raise RequestError("\n  ".join(["params.yaml: nothing was drawn", *problems]))
    return {name: params.figures[name] for name in names}


def _experiments(params: Params, figures: dict[str, FigureSettings]) -> Iterator[Experiment]:
    """The experiments of the methods that figures show, each once."""
    methods: dict[str, None] = {}
    for figure in figures.values():
        if isinstance(figure, TradeOffFigure | ClassWiseFigure):
            methods |= dict.fromkeys(figure.methods)
        elif isinstance(figure, GradCAMFigure):
            methods |= dict.fromkeys([*figure.baselines, *figure.methods])
        elif isinstance(figure, TrainingCurvesFigure | ProtocolsFigure | TheoryFigure):
            methods[figure.method] = None
    return (params.experiment(method, seed) for method in methods for seed in params.seeds)


def _plain(settings: FigureSettings) -> str:
    """The caption for the files' metadata."""
    return f"{settings.paper}: {settings.caption}" if settings.paper else settings.caption
