"""Pictures of two models side by side: their trainings over each other, and the images that only one gets right."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.data.images import ImageSet
from pipeline.reporting.figures.grad_cam import WRONG, show_image
from pipeline.reporting.figures.training_curves import METRICS, Curves
from pipeline.reporting.page.text import data_uri
from pipeline.reporting.style import (
    PAGE_WIDTH,
    figure_text,
    keep_percentages,
    legend_above,
    looks,
    new_figure,
    note_below,
    say_missing,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = "loss/"
COLUMNS, FEWEST = 2, 6
"""Panels side by side, and the fewest images that a row has room for."""


@dataclass(frozen=True)
class Disputed:
    """Images that only one of two models gets right."""

    title: str
    images: ImageSet
    seen: list[str]
    """The classes that the other model sees instead."""


def flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Every value of nested settings by its path, as YAML would show it on a line."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", json.dumps(value)


def draw_curves(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracies of the result and losses of the learners over the epochs, a look for each model.

    Args:
        histories: By the model's name, a row per epoch.
    """
    curves = {name: Curves(table.set_index("epoch"), pd.DataFrame(), 1) for name, table in histories.items()}
    metrics = [metric for metric in METRICS if any(metric in one.metrics for one in curves.values())]
    chosen = looks(curves)
    with style():
        from matplotlib.lines import Line2D
        from matplotlib.ticker import MaxNLocator

        rows = -(-(len(metrics) + 1) // COLUMNS)
        figure = new_figure(PAGE_WIDTH, 1.9 * rows + 0.4)
        panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
        for panel in panels[len(metrics) + 1 :]:
            panel.remove()
        titles = [f"{METRICS[metric]} accuracy, %" for metric in metrics]
        for panel, title in zip(panels, [*titles, "training loss"], strict=False):
            panel.set(xlabel="epoch", ylabel=title)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        for name, one in curves.items():
            columns = [f"{one.split}/global/{metric}" for metric in metrics]
            for panel, column in zip(panels, columns, strict=False):
                if column in one.mean:
                    values = 100 * one.mean[column].dropna()
                    panel.plot(values.index, values, **chosen[name].curve, markersize=3)
            for column in [name for name in map(str, one.mean) if name.startswith(LOSSES)]:
                losses, learner = one.mean[column].dropna(), column.removeprefix(LOSSES)
                panels[len(metrics)].plot(losses.index, losses, **chosen[name].curve, markersize=3)
                place = (losses.index[-1], losses.iloc[-1])
                panels[len(metrics)].annotate(learner, place, xytext=(3, 0), textcoords="offset points", fontsize=5)
        for panel in panels[: len(metrics)]:
            keep_percentages(panel, "y")
        handles = [Line2D([], [], **chosen[name].curve, markersize=3, label=figure_text(name)) for name in curves]
        legend_above(figure, handles)
        note_below(
            figure, f"Accuracies on {' and '.join(dict.fromkeys(one.images for one in curves.values()))} images."
        )
    return figure


def draw_images(rows: Sequence[Disputed], classes: Sequence[str], attack: str) -> Figure:
    """Test images as they are, a row for each model, below each its class and the one that the other model sees.

    Args:
        rows: Each of at most as many images as fit a page.
        classes: Their names.
        attack: Under which the other model is wrong.
    """
    columns = max(FEWEST, *(len(row.seen) for row in rows))
    with style():
        figure = new_figure(PAGE_WIDTH, 1.35 * len(rows) + 0.2)
        for part, row in zip(figure.subfigures(len(rows), 1, squeeze=False).flatten(), rows, strict=True):
            part.suptitle(figure_text(row.title), fontsize=7)
            for place, axes in enumerate(part.subplots(1, columns, squeeze=False)[0]):
                axes.set(xticks=[], yticks=[], frame_on=False)
                if place < len(row.seen):
                    show_image(axes, row.images.images[place].permute(1, 2, 0).numpy())
                    axes.set_title(classes[int(row.images.labels[place])], fontsize=6, pad=2)
                    axes.set_xlabel(f"✗ {row.seen[place]}", color=WRONG, labelpad=2)
                elif place == 0:
                    say_missing(axes, "none")
        note_below(figure, f"Above each image its class, below it what the other model sees under {attack}.")
    return figure


def png(figure: Figure) -> str:
    """The address of a picture that holds it."""
    stream = io.BytesIO()
    with style():
        figure.savefig(stream, format="png", dpi=150)
    return data_uri(stream.getvalue())
