"""The framework as a method resolves it: its learners, the global learner, and the schedule between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from pipeline.config import Experiment, LearnerSettings, MovingAverageSettings, Params
from pipeline.core.errors import RequestError
from pipeline.reporting.figure_kinds.framework import FrameworkFigure
from pipeline.reporting.layout import NORM_SYMBOLS, radius
from pipeline.reporting.style import COLUMN_WIDTH, PAGE_WIDTH, REDISTRIBUTION, Look, learner_looks, new_figure

LEARNERS_IN_A_COLUMN = 3
BATCH, LEARNERS, GLOBAL = (0.91, 1.0), (0.41, 0.79), (0.02, 0.2)
"""Lower and upper edge of the boxes."""
EDGE = "#4d4d4d"
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}


def draw(settings: FrameworkFigure, params: Params) -> Figure:
    """The figure of `settings`, from the file alone; call it inside `style()`.

    Raises:
        RequestError: the method has no mixture with the rule `moving_average`.
    """
    experiment = params.experiment(settings.method, params.seeds[0])
    mixture = experiment.method.mixture
    if not isinstance(mixture, MovingAverageSettings):
        valid = [name for name, method in params.methods.items() if isinstance(method.mixture, MovingAverageSettings)]
        raise RequestError(
            f"the framework of '{settings.method}' cannot be drawn: it has no mixture with the rule 'moving_average'. "
            f"Valid: {', '.join(valid) or 'none in this file'}"
        )
    narrow = len(experiment.method.learners) <= LEARNERS_IN_A_COLUMN
    figure = new_figure(COLUMN_WIDTH if narrow else PAGE_WIDTH, 3.6)
    diagram, schedule = figure.subplots(2, height_ratios=[2.6, 1])
    learners = learner_looks(experiment.method.learners)
    _draw_diagram(diagram, experiment, mixture, learners)
    _draw_schedule(schedule, mixture, experiment.training.epochs, learners)
    return figure


def _draw_diagram(
    axes: Axes, experiment: Experiment, mixture: MovingAverageSettings, learners: Mapping[str, Look]
) -> None:
    axes.set(xlim=(-0.005, 1.005), ylim=(-0.07, 1.01))
    axes.set_axis_off()
    count = len(experiment.method.learners)
    _box(axes, 0.5, 0.72, BATCH, EDGE, f"minibatch of {experiment.training.batch_size} images, the same for all")
    when = "every step of epochs" if mixture.redistribution == "every_batch" else "the end of epochs"
    last = experiment.training.epochs
    restarts = [epoch for epoch in range(1, last + 1) if mixture.redistributes_in(epoch, last)]
    source = r"\bar\theta_a" if mixture.source == "weight_averages" else r"\theta_a"
    text = (
        rf"global learner $\theta_g \leftarrow \alpha^\prime \theta_g + (1 - \alpha^\prime) \sum_a \gamma_a {source}$"
        "\n"
        rf"after every step, $\alpha^\prime = {mixture.decay:g}$"
    )
    _box(axes, 0.5, 0.92, GLOBAL, learners["global"].colour, text)
    for number, (name, learner) in enumerate(experiment.method.learners.items()):
        x = (number + 0.5) / count
        width = 0.97 / count
        _box(axes, x, width, LEARNERS, learners[name].colour, "\n".join(_describe(learner)), title=name)
        _arrow(axes, (0.5 + 0.4 * (x - 0.5), BATCH[0]), (x, LEARNERS[1]), EDGE, "-")
        _arrow(axes, (x - 0.22 * width, LEARNERS[0]), (x - 0.22 * width, GLOBAL[1]), learners[name].colour, "-")
        _arrow(axes, (x + 0.22 * width, GLOBAL[1]), (x + 0.22 * width, LEARNERS[0]), EDGE, (0, (3, 1.5)))
        middle = (LEARNERS[0] + GLOBAL[1]) / 2
        axes.text(x - 0.25 * width, middle, rf"$\gamma_{{{number + 1}}}$", ha="right", va="center", fontsize=7)
        axes.text(x + 0.25 * width, middle, r"$\theta_g$", ha="left", va="center", fontsize=7)
    few = len(restarts) <= 3
    epochs = ", ".join(map(str, restarts if few else [*restarts[:2], "...", restarts[-1]]))
    axes.text(
        0.5,
        -0.02,
        rf"dashed: all learners restart from $\theta_g$ at {when} {epochs}",
        ha="center",
        va="top",
        fontsize=6.2,
    )


def _describe(learner: LearnerSettings) -> Iterator[str]:
    """Its objective, its attacks and its optimizer, a line each."""
    objective: dict[str, Any] = learner.objective.model_dump(mode="json")
    yield str(objective["name"]).rpartition(".")[2].replace("_", " ")
    attack = objective.get("attack")
    for each in [attack] if attack else objective.get("attacks", []):
        yield rf"$\ell_{NORM_SYMBOLS[each['norm']]}$, $\epsilon = {radius(each['epsilon'])}$"
        yield f"{each['steps']} steps"
    optimizer = learner.optimizer
    yield f"{OPTIMIZERS[optimizer.name]}, rate {optimizer.learning_rate:g}"
    yield f"weight decay {optimizer.weight_decay:g}"


def _box(
    axes: Axes, x: float, width: float, edges: tuple[float, float], colour: str, text: str, title: str = ""
) -> None:
    low, high = edges
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, low),
            width,
            high - low,
            boxstyle="round,pad=0,rounding_size=0.02",
            facecolor="white",
            edgecolor=colour,
            linewidth=1.2 if title or colour != EDGE else 0.7,
        )
    )
    if title:
        axes.text(x, high - 0.02, title, ha="center", va="top", fontsize=7, fontweight="bold", color=colour)
        axes.text(x, (low + high - 0.065) / 2, text, ha="center", va="center", fontsize=5.4, linespacing=1.35)
    else:
        axes.text(x, (low + high) / 2, text, ha="center", va="center", fontsize=6.2, linespacing=1.4)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, line: Any) -> None:
    properties = {"arrowstyle": "-|>", "color": colour, "linestyle": line, "linewidth": 0.8}
    axes.annotate("", xy=end, xytext=start, arrowprops={**properties, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6})


def _draw_schedule(axes: Axes, mixture: MovingAverageSettings, epochs: int, learners: Mapping[str, Look]) -> None:
    """The mixing ratios over the epochs, and when the learners restart."""
    for number, name in enumerate(mixture.mixing_ratios, start=1):
        look = learners[name]
        ratios = [mixture.ratios_at(epoch)[name] for epoch in range(epochs + 1)]
        label = rf"$\gamma_{{{number}}}$ ({name})"
        axes.plot(range(epochs + 1), ratios, **look.curve, markersize=3, markevery=0.13, label=label)
    for epoch in (one for one in range(1, epochs + 1) if mixture.redistributes_in(one, epochs)):
        axes.axvline(epoch, zorder=0.5, gid="redistribution", **REDISTRIBUTION)
    axes.set(xlabel="epoch", ylabel=r"mixing ratio $\gamma$", ylim=(-0.06, 1.06), yticks=[0, 0.5, 1])
    axes.set_xlim(0, 1.015 * epochs)
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=len(learners), columnspacing=1)
