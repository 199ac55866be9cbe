"""Pairs whose training sets differ in one example: how far losses lie apart, the generalisation gap, the bound."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from pipeline.config import Params
from pipeline.config.studies import ReplacedExampleStudy
from pipeline.core.errors import RequestError
from pipeline.reporting.figure_kinds.stability import StabilityFigure
from pipeline.reporting.figures.ablation import MISSING_NOTE, ROW, mark_missing
from pipeline.reporting.style import COLUMN_WIDTH, figure_text, looks, new_figure, note_below
from pipeline.studies.cells import Cell

PREFIX = "stability."
MARKS = {
    "{loss}_max": "largest difference",
    "{loss}_mean": "mean difference",
    "{loss}_gap_replaced": "|generalisation gap|",
    "bound": "bound, if losses were convex",
}
"""What a row has, by its name in MLflow after the attack's."""
LOSSES = {"error_probability": "Error probability", "cross_entropy": "Cross-entropy in nats"}
NORMS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}
Numbers = dict[str, dict[str, float]]
"""By fingerprint of the experiment with the replaced example, and name; what is not measured is left out."""


def draw(settings: StabilityFigure, params: Params, runs: pd.DataFrame, cells: Sequence[Cell]) -> Figure:
    """The figure of `settings`; call it inside `style()`.

    A row for every replaced example, the methods one above the other, and a column for every attack. Every seed has a
    mark of each kind.

    Args:
        settings: Of which study and methods.
        params: What labels are taken from.
        runs: As `finished_runs` gives them for the cells.
        cells: Of the study; those of other studies and methods are left out.

    Raises:
        RequestError: the study replaces no examples, or has none of the methods.
    """
    methods, numbers = _pairs(settings, params, cells), _numbers(runs)
    attacks = _attacks(numbers)
    heights = [ROW * (len(own) + 0.6) for own in methods.values()]
    figure = new_figure(COLUMN_WIDTH, 1.15 + 0.18 * len(methods) + sum(heights))
    grid: list[list[Axes]] = figure.subplots(
        len(methods), len(attacks), squeeze=False, sharex=True, height_ratios=heights
    ).tolist()
    for panels, (method, own) in zip(grid, methods.items(), strict=True):
        for axes, attack in zip(panels, attacks, strict=True):
            _draw_panel(axes, own, numbers, attack, settings.loss)
            axes.tick_params(labelleft=axes is panels[0])
        panels[0].set_title(figure_text(params.methods[method].label), loc="left", pad=3)
    for axes, attack in zip(grid[-1], attacks, strict=True):
        axes.set_xlabel(_label(attack))
    shown = [cell for own in methods.values() for seeds in own.values() for cell in seeds]
    whole = all(cell.experiment.fingerprint in numbers for cell in shown)
    _explain(figure, settings.loss, whole)
    return figure


def _explain(figure: Figure, loss: str, whole: bool) -> None:
    """Say above the axes what the marks are, and below what they are of."""
    remark = f"{LOSSES[loss]} of networks whose training sets differ in one image."
    largest = "Grey line: the largest that it can be." if loss == "error_probability" else ""
    note_below(figure, " ".join(filter(None, [remark, largest, "" if whole else MISSING_NOTE])))
    handles = [
        Line2D([], [], linestyle="", marker=look.marker, color=look.colour, label=label)
        for label, look in looks(MARKS.values()).items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, columnspacing=1.2)


def _pairs(settings: StabilityFigure, params: Params, cells: Sequence[Cell]) -> dict[str, dict[str, list[Cell]]]:
    """By method and setting, the cells with a replaced example: one for each seed."""
    study = params.ablation.studies[settings.study]
    if not isinstance(study, ReplacedExampleStudy):
        raise RequestError(
            f"a stability figure shows a study that varies replaced_example, '{settings.study}' varies {study.varies}"
        )
    wanted = settings.methods or study.methods
    found: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        if cell.study == settings.study and cell.method in wanted and cell.experiment.data.replaced_example is not None:
            found.setdefault(cell.method, {}).setdefault(cell.setting, []).append(cell)
    if not found:
        raise RequestError(
            f"study '{settings.study}' has none of {', '.join(wanted)}. Valid: {', '.join(study.methods)}"
        )
    return found


def _numbers(runs: pd.DataFrame) -> Numbers:
    """What `stages.stability` has logged; of several runs, the last that was compared counts."""
    found: Numbers = {}
    for row in runs.to_dict("records"):
        named = {str(name): value for name, value in row.items()}
        measured = {name.removeprefix(PREFIX): value for name, value in named.items() if name.startswith(PREFIX)}
        if known := {name: value for name, value in measured.items() if pd.notna(value)}:
            found[named["fingerprint"]] = known
    return found


def _attacks(numbers: Numbers) -> list[str]:
    """The attacks with a generalisation gap, images as they are first."""
    names = [re.fullmatch(r"(.+)/error_probability_gap_replaced", name) for own in numbers.values() for name in own]
    return list(dict.fromkeys(["natural", *sorted({match[1] for match in names if match})]))


def _label(attack: str) -> str:
    """'PGD-20 l2'."""
    steps, _, norm = attack.removeprefix("pgd").partition("_")
    return f"PGD-{steps}, {NORMS[norm]}" if norm in NORMS else attack


def _draw_panel(axes: Axes, own: Mapping[str, Sequence[Cell]], numbers: Numbers, attack: str, loss: str) -> None:
    """The pairs of one method under one attack, the first at the top."""
    styles = looks(MARKS.values())
    missing = []
    for row, cells in enumerate(own.values()):
        measured = [numbers[cell.experiment.fingerprint] for cell in cells if cell.experiment.fingerprint in numbers]
        missing += [] if measured else [row]
        for name, label in MARKS.items():
            values = [abs(found[key]) for found in measured if (key := f"{attack}/{name.format(loss=loss)}") in found]
            look = styles[label]
            axes.plot(values, [row] * len(values), look.marker, color=look.colour, markersize=3.5, gid=label)
    mark_missing(axes, [0.05] * len(missing), missing, axes.get_yaxis_transform())
    if loss == "error_probability":
        axes.axvline(1, color="#9a9a9a", linewidth=1, zorder=0, gid="largest")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set(ylim=(len(own) - 0.4, -0.6))
    axes.set_yticks(range(len(own)), list(own))
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
