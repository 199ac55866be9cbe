"""What networks look at in images that some methods get right and others get wrong."""

from __future__ import annotations

import re
from textwrap import fill

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.config import Params
from pipeline.core.errors import PipelineError, RequestError
from pipeline.data.images import ImageSet
from pipeline.evaluation.attacks.pgd import PGDAttack
from pipeline.reporting.examples import NATURAL, Pictures, View, correctness, disputed
from pipeline.reporting.figure_kinds.grad_cam import GradCAMFigure
from pipeline.reporting.results import latest_runs
from pipeline.reporting.style import COLUMN_WIDTH, MISSING_TEXT, PAGE_WIDTH, figure_text, new_figure
from pipeline.tracking import read_artifacts

CELLS_IN_A_COLUMN = 5
"""So many pictures beside each other fit into one column of a page."""
RIGHT, WRONG = "#00704e", "#b3261e"


def draw(settings: GradCAMFigure, params: Params, runs: pd.DataFrame, pictures: Pictures | None) -> Figure:
    """The figure of `settings` from the frame that `finished_runs` gives; call it inside `style()`.

    Experiments are those of the first seed. Where something is not at hand, the figure says which command brings it.

    Raises:
        RequestError: `view` is no attack whose images can be crafted again.
        PipelineError: as `pipeline.tracking.read_artifacts`.
    """
    _check_view(settings, params)
    seed = params.seeds[0]
    methods = [*settings.baselines, *settings.methods]
    counting = {name: latest_runs([params.experiment(name, seed)], runs).get(seed) for name in methods}
    run_ids = {name: run for name, run in counting.items() if run is not None}
    lacking = [figure_text(params.methods[name].label) for name in methods if name not in run_ids]
    right, wrong = ([name for name in names if name in run_ids] for names in (settings.methods, settings.baselines))
    if not right or not wrong:
        return _message(f"Not measured: {', '.join(lacking)}.")
    chosen = _choose(settings, run_ids)
    if not chosen:
        ours, others = ([figure_text(params.methods[name].label) for name in names] for names in (right, wrong))
        return _message(
            f"There is no test image that {' and '.join(ours)} get right and any of {', '.join(others)} gets wrong."
        )
    if pictures is None:
        return _message("The test images are not at hand.")
    try:
        seen = {
            name: pictures.seen(params.experiment(name, seed), run, chosen, [settings.view])[settings.view]
            for name, run in run_ids.items()
        }
    except PipelineError as error:
        return _message(figure_text(str(error)))
    labels = {name: figure_text(params.methods[name].label) for name in seen}
    judged = params.experiment(right[0], seed)
    shown = pictures.split(judged).test.subset(torch.tensor(chosen))
    return _draw(
        shown, judged.data.class_names, seen, labels, f"Not measured: {', '.join(lacking)}." if lacking else ""
    )


def _check_view(settings: GradCAMFigure, params: Params) -> None:
    attacks = params.evaluation.attacks
    valid = [NATURAL, *(name for name, attack in attacks.items() if isinstance(attack, PGDAttack))]
    if settings.view not in valid:
        raise RequestError(
            f"a grad_cam figure cannot show '{settings.view}': only images of PGD can be crafted again alone. "
            f"Valid: {', '.join(valid)}"
        )


def _choose(settings: GradCAMFigure, run_ids: dict[str, str]) -> list[int]:
    verdicts = read_artifacts(run_ids.values(), "verdicts.parquet", pd.read_parquet)
    tables = {
        name: verdicts[run][verdicts[run]["attack"] == settings.view]
        for name, run in run_ids.items()
        if run in verdicts
    }
    right = [name for name in settings.methods if name in tables]
    if not right or len(tables) == len(right):
        return []
    labels = tables[right[0]].set_index("image")["label"]
    return disputed(correctness(tables), labels, right, settings.images)


def _message(text: str) -> Figure:
    """A figure that says why it shows nothing."""
    figure = new_figure(COLUMN_WIDTH, 1.0)
    # Math without spaces is not broken; {} ends a command as a space does.
    whole = re.sub(r"\$[^$]*\$", lambda math: math[0].replace(" ", "{}"), text)
    lines = fill(whole, 62, break_long_words=False, break_on_hyphens=False)
    figure.text(0.5, 0.5, lines, ha="center", va="center", fontsize=6.5, color=MISSING_TEXT)
    return figure


def _draw(
    shown: ImageSet, classes: tuple[str, ...], seen: dict[str, View], labels: dict[str, str], remark: str
) -> Figure:
    """Rows are images; columns are the image itself and each method's view of it."""
    columns = len(seen) + 1
    width = COLUMN_WIDTH if columns <= CELLS_IN_A_COLUMN else PAGE_WIDTH
    figure = new_figure(width, len(shown) * (width / columns + 0.12) + 0.35 + 0.15 * bool(remark))
    grid: list[list[Axes]] = figure.subplots(len(shown), columns, squeeze=False).tolist()
    for place, row in enumerate(grid):
        label = int(shown.labels[place])
        _show(row[0], shown.images[place].permute(1, 2, 0).numpy(), None)
        row[0].set_xlabel(classes[label], labelpad=2)
        for axes, view in zip(row[1:], seen.values(), strict=True):
            predicted = int(view.predicted[place])
            _show(axes, view.pixels[place].permute(1, 2, 0).numpy(), view.maps[place].numpy())
            right = predicted == label
            axes.set_xlabel(
                f"{'✓' if right else '✗'} {classes[predicted]}", color=RIGHT if right else WRONG, labelpad=2
            )
    for axes, title in zip(grid[0], ["image", *labels.values()], strict=True):
        axes.set_title(title.replace(" (", "\n("), fontsize=6.5)
    if remark:
        figure.supxlabel(remark, fontsize=6, color=MISSING_TEXT, x=0.01, ha="left")
    return figure


def _show(axes: Axes, pixels: np.ndarray, strengths: np.ndarray | None) -> None:
    """An image, (height, width, channels) uint8, under a map, (height, width) uint8: red speaks for the class most."""
    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=255)
    if strengths is not None:
        coloured = colormaps["turbo"](strengths)
        coloured[..., 3] = 0.1 + 0.6 * strengths / 255
        axes.imshow(coloured, interpolation="bilinear")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
