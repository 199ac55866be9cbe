"""The curves and the schedule of a training as one picture, an artifact of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "held-out accuracy (%)": "held_out/global/",
    "test accuracy (%)": "test/global/",
    "training loss": "loss/",
    "learning rate": "learning_rate/",
    "mixing ratio": "mixing_ratio/",
}
"""What each panel shows, and what its curves begin with in the history."""


def curves(history: Sequence[Mapping[str, float]]) -> Figure | None:
    """One panel above the other, those alone that the history has something of; None where that is none."""
    from matplotlib.figure import Figure

    names = sorted({name for record in history for name in record})
    panels = {
        title: (prefix, found)
        for title, prefix in PANELS.items()
        if (found := [name for name in names if name.startswith(prefix)])
    }
    if not panels:
        return None
    figure = Figure(figsize=(7, 2 * len(panels) + 0.5), layout="constrained")
    for axes, (title, (prefix, found)) in zip(
        figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0], panels.items(), strict=True
    ):
        scale = 100 if "%" in title else 1
        for name in found:
            points = [(record["epoch"], scale * record[name]) for record in history if name in record]
            axes.plot(*zip(*points, strict=True), marker=".", label=name.removeprefix(prefix))
        axes.set_ylabel(title)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
    axes.set_xlabel("epoch")
    return figure
