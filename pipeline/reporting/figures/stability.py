"""Pairs whose training sets differ in one example: how far losses lie apart, the generalisation gap, the bound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSource, StudyFigure
from pipeline.config.studies import ReplacedExampleStudy
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    MISSING_NOTE,
    ROW,
    figure_text,
    legend_above,
    looks,
    mark_missing,
    new_figure,
    note_below,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.config.params import Params
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


class StabilityFigure(StudyFigure):
    """How far losses lie apart whose networks' training sets differ in one example, beside the bound and the gap.

    The study varies `replaced_example`. A row for every replaced example, the methods one above the other, and a column
    for every attack. Every seed has a mark of each kind.
    """

    command: ClassVar[str] = "python -m stages.stability"
    kind: Literal["stability"]
    loss: Literal["error_probability", "cross_entropy"] = "error_probability"
    """1 - p of the true class, or the cross-entropy in nats."""

    @override
    def misfits(self, params: Params) -> Iterator[str]:
        study = params.ablation.studies[self.study]
        if not isinstance(study, ReplacedExampleStudy):
            yield f"a stability figure shows a study that varies replaced_example, '{self.study}' varies {study.varies}"
        yield from super().misfits(params)

    @override
    def coverage(self, source: FigureSource, measured: int, shown: int) -> list[int]:
        """How many pairs are compared, and of how many."""
        numbers, pairs = _numbers(source.runs), self._pairs(source)
        found = [
            cell.experiment.fingerprint in numbers for own in pairs.values() for cells in own.values() for cell in cells
        ]
        return [sum(found), len(found)]

    @override
    def draw(self, source: FigureSource) -> Figure:
        methods, numbers = self._pairs(source), _numbers(source.runs)
        attacks = _attacks(numbers)
        heights = [ROW * (len(own) + 0.6) for own in methods.values()]
        figure = new_figure(COLUMN_WIDTH, 1.15 + 0.18 * len(methods) + sum(heights))
        grid = figure.subplots(len(methods), len(attacks), squeeze=False, sharex=True, height_ratios=heights)
        for panels, (method, own) in zip(grid, methods.items(), strict=True):
            for axes, attack in zip(panels, attacks, strict=True):
                self._draw_panel(axes, own, numbers, attack)
                axes.tick_params(labelleft=axes is panels[0])
            panels[0].set_title(figure_text(source.params.methods[method].label), loc="left", pad=3)
        for axes, attack in zip(grid[-1], attacks, strict=True):
            axes.set_xlabel(_label(attack))
        legend_above(figure, grid[0][0].lines[: len(MARKS)])
        compared, pairs = self.coverage(source, 0, 0)
        remarks = [
            f"{LOSSES[self.loss]} of networks whose training sets differ in one image.",
            "Grey line: the largest that it can be." if self.loss == "error_probability" else "",
            "" if compared == pairs else MISSING_NOTE,
        ]
        note_below(figure, " ".join(filter(None, remarks)))
        return figure

    def _pairs(self, source: FigureSource) -> dict[str, dict[str, list[Cell]]]:
        """By method and setting, the cells with a replaced example: one for each seed."""
        study = source.params.ablation.studies[self.study]
        wanted = self.methods or study.methods
        found: dict[str, dict[str, list[Cell]]] = {}
        for cell in source.grid:
            replaced = cell.experiment.data.replaced_example is not None
            if cell.study == self.study and cell.method in wanted and replaced:
                found.setdefault(cell.method, {}).setdefault(cell.setting, []).append(cell)
        return found

    def _draw_panel(self, axes: Axes, own: Mapping[str, Sequence[Cell]], numbers: Numbers, attack: str) -> None:
        """The pairs of one method under one attack, the first at the top."""
        measured = [
            [numbers[cell.experiment.fingerprint] for cell in cells if cell.experiment.fingerprint in numbers]
            for cells in own.values()
        ]
        for (name, label), look in zip(MARKS.items(), looks(MARKS).values(), strict=True):
            key = f"{attack}/{name.format(loss=self.loss)}"
            marks = [(abs(found[key]), row) for row, seeds in enumerate(measured) for found in seeds if key in found]
            x, y = zip(*marks, strict=True) if marks else ((), ())
            axes.plot(x, y, look.marker, color=look.colour, markersize=3.5, label=label, gid=label)
        mark_missing(axes, [row for row, seeds in enumerate(measured) if not seeds], "y")
        if self.loss == "error_probability":
            axes.axvline(1, color="#9a9a9a", linewidth=1, zorder=0, gid="largest")
        axes.set_xscale("log")
        axes.locator_params(axis="x", numticks=5)
        axes.minorticks_off()
        axes.set(ylim=(len(own) - 0.4, -0.6))
        axes.set_yticks(range(len(own)), list(own))
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)


def _numbers(runs: pd.DataFrame) -> Numbers:
    """What `stages.stability` has logged; of several runs, the last that was compared counts."""
    found: Numbers = {}
    for row in runs.to_dict("records"):
        named = {str(name): value for name, value in row.items()}
        measured = {name.removeprefix(PREFIX): value for name, value in named.items() if name.startswith(PREFIX)}
        if known := {name: float(value) for name, value in measured.items() if value == value}:
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


FIGURE = StabilityFigure
