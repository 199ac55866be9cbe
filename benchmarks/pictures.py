"""Figures of docs/performance.md, in the look of all figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from benchmarks.findings import Results
from pipeline.reporting.style import PAGE_WIDTH, Look, figure_text, looks, new_figure, save, style

ROW = 0.19
"""Inches of a method."""
PANELS = {
    "batch_size": "images of a step",
    "attack_steps": "attack steps",
    "learners": "learners",
    "processes": "processes",
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Every figure that was measured, as PDF and PNG."""
    written = []
    with style():
        if "methods" in results and "resnet18" in results["methods"]["architectures"]:
            written += _draw_methods(results["methods"]["architectures"]["resnet18"]["methods"], folder)
        if "scaling" in results:
            written += _draw_growth(results["scaling"], folder)
    return written


def _draw_methods(methods: dict[str, Any], folder: Path) -> list[Path]:
    """Images per second in both styles, with the range of the rounds."""
    figure = new_figure(PAGE_WIDTH, 0.7 + ROW * len(methods))
    axes = figure.subplots()
    kinds = looks(["images_per_second", "reference_images_per_second"])
    names = {"images_per_second": "this project", "reference_images_per_second": "reference style"}
    for offset, (kind, look) in enumerate(kinds.items()):
        places = [place + 0.4 * offset - 0.2 for place in range(len(methods))]
        spreads = [method[kind] for method in methods.values()]
        axes.barh(
            places,
            [found["median"] for found in spreads],
            0.4,
            xerr=_errors(spreads),
            color=look.colour,
            hatch=look.hatch,
            label=names[kind],
            error_kw={"linewidth": 0.6},
        )
    axes.set_yticks(range(len(methods)), [figure_text(method["label"]) for method in methods.values()])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("images per second (a logarithmic scale)")
    axes.legend(loc="lower right")
    return save(figure, folder, "methods", "Speed of a training step of every method")


def _draw_growth(scaling: dict[str, Any], folder: Path) -> list[Path]:
    """Seconds of a step against each of what varies."""
    figure = new_figure(PAGE_WIDTH, 1.9)
    for axes, (name, label), look in zip(
        figure.subplots(1, len(PANELS)), PANELS.items(), looks(PANELS).values(), strict=True
    ):
        _panel(axes, scaling[name], look)
        axes.set_xlabel(label)
    figure.axes[0].set_ylabel("seconds of a step")
    return save(figure, folder, "growth", "How the time of a training step grows")


def _panel(axes: Axes, measured: dict[str, Any], look: Look) -> None:
    spreads = [one["seconds"] for one in measured.values()]
    counts = [int(key) for key in measured]
    axes.errorbar(counts, [found["median"] for found in spreads], yerr=_errors(spreads), **look.curve)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.set_xticks(counts)


def _errors(spreads: list[dict[str, float]]) -> list[list[float]]:
    """How far the least and the most are from the median."""
    lower = [found["median"] - found["least"] for found in spreads]
    upper = [found["most"] - found["median"] for found in spreads]
    return [lower, upper]
