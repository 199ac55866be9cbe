"""Figures of docs/performance.md, in the look of all figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from benchmarks.blocks import Results
from pipeline.reporting.style import PAGE_WIDTH, Look, figure_text, looks, new_figure, save, style

ROW = 0.19
"""Inches of a method."""
STYLES = {"images_per_second": "this project", "reference_images_per_second": "reference style"}
PANELS = {
    "batch_size": "images of a step",
    "attack_steps": "attack steps",
    "learners": "learners",
    "processes": "processes",
}


def draw(results: Results, folder: Path) -> list[Path]:
    """Every figure that was measured, as PDF, PNG and SVG."""
    written = []
    with style():
        if "methods" in results and "resnet18" in results["methods"]["architectures"]:
            written += _draw_methods(results["methods"]["architectures"]["resnet18"]["methods"], folder)
        if "scaling" in results:
            written += _draw_growth(results["scaling"], folder)
        if "profile" in results:
            written += _draw_profile(results["profile"]["networks"], folder)
    return written


def _draw_methods(methods: dict[str, Any], folder: Path) -> list[Path]:
    """Images per second in both styles, with the range of the rounds."""
    figure = new_figure(PAGE_WIDTH, 0.8 + ROW * len(methods))
    axes = figure.subplots()
    for (kind, shown), look in zip(STYLES.items(), looks(STYLES).values(), strict=True):
        spreads = [method[kind] for method in methods.values()]
        medians = [found["median"] for found in spreads]
        axes.errorbar(
            medians, range(len(methods)), xerr=_errors(spreads), **look.curve | {"linestyle": ""}, label=shown
        )
    axes.set_yticks(range(len(methods)), [figure_text(method["label"]) for method in methods.values()])
    axes.invert_yaxis()
    axes.set_xscale("log")
    for axis_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_formatter(ScalarFormatter())
    axes.set_xlabel("images per second (a logarithmic scale)")
    figure.legend(loc="outside upper right", ncols=len(STYLES))
    return save(figure, folder, "methods", "Speed of a training step of every method")


def _draw_growth(scaling: dict[str, Any], folder: Path) -> list[Path]:
    """Seconds of a step against each of what varies."""
    figure = new_figure(PAGE_WIDTH, 1.9)
    panels = figure.subplots(1, len(PANELS))
    look, other = looks(["first", "second"]).values()
    for axes, (name, label) in zip(panels, PANELS.items(), strict=True):
        _draw_panel(axes, scaling[name], look, "data parallel")
        axes.set_xlabel(label)
    if scaling["learner_parallel"]:
        with_one = {"1": scaling["processes"]["1"], **scaling["learner_parallel"]}
        _draw_panel(panels[-1], with_one, other, "learner parallel")
        panels[-1].legend(loc="lower left")
    panels[0].set_ylabel("seconds of a step")
    return save(figure, folder, "growth", "How the time of a training step grows")


def _draw_profile(networks: dict[str, Any], folder: Path) -> list[Path]:
    """A bar for every network, of what takes which share of a step; data and mixture are too small to be seen alone."""
    figure = new_figure(PAGE_WIDTH, 0.8 + 2 * ROW * len(networks))
    axes = figure.subplots()
    parts = next(iter(networks.values()))["parts"]
    left = [0.0] * len(networks)
    for part, look in looks(parts).items():
        medians = [network["parts"][part]["seconds"]["median"] for network in networks.values()]
        wholes = [sum(one["seconds"]["median"] for one in network["parts"].values()) for network in networks.values()]
        shares = [100 * median / whole for median, whole in zip(medians, wholes, strict=True)]
        axes.barh(
            range(len(networks)), shares, 0.7, left, color=look.colour, hatch=look.hatch, edgecolor="white", label=part
        )
        left = [before + share for before, share in zip(left, shares, strict=True)]
    axes.set_yticks(range(len(networks)), list(networks))
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of a training step")
    figure.legend(loc="outside upper right", ncols=len(parts))
    return save(figure, folder, "profile", "Where the time of a training step goes")


def _draw_panel(axes: Axes, measured: dict[str, Any], look: Look, shown: str) -> None:
    spreads = [one["seconds"] for one in measured.values()]
    counts = [int(key) for key in measured]
    axes.errorbar(counts, [found["median"] for found in spreads], yerr=_errors(spreads), **look.curve, label=shown)
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=-0.05 * max(counts), right=1.05 * max(counts))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def _errors(spreads: list[dict[str, float]]) -> list[list[float]]:
    """How far the least and the most are from the median."""
    lower = [found["median"] - found["least"] for found in spreads]
    upper = [found["most"] - found["median"] for found in spreads]
    return [lower, upper]
