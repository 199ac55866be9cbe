"""The figures of `params.yaml`, from MLflow alone."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.config import Experiment, FigureSettings, FigureSource, Params
from pipeline.config.figures import NothingToShow
from pipeline.core.errors import PipelineError, RequestError, did_you_mean
from pipeline.core.files import write_json
from pipeline.reporting.style import KINDS, figure_text, save, style
from pipeline.studies.cells import Cell, cells
from pipeline.tracking import OTHER_CODE, UNKNOWN_CODE, finished_runs, mask, tracking_uri

if TYPE_CHECKING:
    from pipeline.reporting.examples import Pictures

COVERAGE = "coverage.json"
"""Says beside the figures how much of each is measured: a picture does not tell a program."""


def write_figures(
    params: Params,
    names: Sequence[str],
    destination: Path,
    pictures: Pictures | None = None,
    skip: Callable[[str, str], None] = lambda name, why: None,
) -> Iterator[Path]:
    """Write figures of `params` to `destination` as `<name>.pdf`, `.png` and `.svg`; equal runs give equal bytes.

    Args:
        params: Which figures there are, and what they show.
        names: Keys of `figures`.
        destination: A folder; it is created where it is missing.
        pictures: The test images, which Grad-CAM figures show; None: those figures are left out.
        skip: Told the name of every figure that has nothing to show, and why: it is left out, and what was drawn of it
            before is removed.

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
        measured, of_all = settings.coverage(source, len(last), len(shown[name]))
        gc.freeze()  # what was there before is not looked through, which takes longer than most figures
        try:
            if measured < settings.fewest:
                raise NothingToShow(f"{measured} of {of_all} are measured; '{settings.command}' measures the others")
            paths = _write(settings, source, last, destination / name)
            write_coverage(destination, {name: [measured, of_all]})
        except NothingToShow as reason:
            paths = []
            for ending in KINDS:
                (destination / f"{name}.{ending}").unlink(missing_ok=True)
            skip(name, str(reason))
        gc.collect()  # artists refer to each other, so that a figure's pixels would stay
        gc.unfreeze()
        yield from paths


def check_figures(params: Params) -> None:
    """Refuse what no run could mend.

    Raises:
        RequestError: cells of a study that a figure shows are impossible, or matplotlib does not know a label's math.
    """
    studies = dict.fromkeys(study for figure in params.figures.values() for study in figure.studies_shown)
    settings = [cell.setting for cell in cells(params, list(studies))] if studies else []
    content = params.model_dump(include={"methods", "figures", "ablation"})
    for text in dict.fromkeys([*settings, *_labels(content)]):
        figure_text(text)


def _labels(value: Any, key: str = "") -> Iterator[str]:
    """What figures call things, in the content of a file."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _labels(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _labels(part, key)
    elif key in ("label", "labels") and isinstance(value, str):
        yield value


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
    older = int(last["made_by"].isin((OTHER_CODE, UNKNOWN_CODE)).sum())
    with style(f"{older} of {len(last)} experiments were run by other code than this checkout's." if older else ""):
        figure = settings.draw(source)
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
