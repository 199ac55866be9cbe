"""The framework as a method resolves it: its learners, the global learner, and the schedule between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind
from pipeline.config.mixtures.moving_average import MovingAverageSettings
from pipeline.reporting.style import COLUMN_WIDTH, PAGE_WIDTH, REDISTRIBUTION, Look, learner_looks, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.config.experiment import Experiment
    from pipeline.config.methods import LearnerSettings
    from pipeline.config.params import Params

LEARNERS_IN_A_COLUMN = 3
BATCH, LEARNERS, GLOBAL = (0.91, 1.0), (0.41, 0.79), (0.02, 0.2)
"""Lower and upper edge of the boxes."""
EDGE = "#4d4d4d"
OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}


class FrameworkFigure(FigureSettings):
    """The learners, the mixture and the schedule of a method with the mixture `moving_average`."""

    kind: Literal["framework"]
    method: str

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "method", self.method

    @override
    def misfits(self, params: Params) -> Iterator[str]:
        valid = [name for name, one in params.methods.items() if isinstance(one.mixture, MovingAverageSettings)]
        if self.method not in valid:
            yield (
                f"the framework of '{self.method}' cannot be drawn: it has no mixture with the rule 'moving_average'. "
                f"Valid: {', '.join(valid) or 'none in this file'}"
            )

    @property
    @override
    def methods_shown(self) -> list[str]:
        return []  # drawn from the settings alone

    @override
    def coverage(self, source: FigureSource, measured: int, shown: int) -> list[int]:
        return [1, 1]

    @override
    def draw(self, source: FigureSource) -> Figure:
        params = source.params
        experiment = params.experiment(self.method, params.seeds[0])
        mixture = experiment.method.mixture
        assert isinstance(mixture, MovingAverageSettings)  # as `misfits` demands
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
    _box(axes, 0.5, 0.72, BATCH, EDGE, f"minibatch of {experiment.training.batch_size} images, the same for all")
    source = r"\bar\theta_a" if mixture.source == "weight_averages" else r"\theta_a"
    text = (
        rf"global learner $\theta_g \leftarrow \alpha^\prime \theta_g + (1 - \alpha^\prime) \sum_a \gamma_a {source}$"
        "\n"
        rf"after every step, $\alpha^\prime = {mixture.decay:g}$"
    )
    _box(axes, 0.5, 0.92, GLOBAL, learners["global"].colour, text)
    count = len(experiment.method.learners)
    for number, (name, learner) in enumerate(experiment.method.learners.items()):
        x, width, colour = (number + 0.5) / count, 0.97 / count, learners[name].colour
        _box(axes, x, width, LEARNERS, colour, "\n".join(_describe(learner)), title=name)
        _arrow(axes, (0.5 + 0.4 * (x - 0.5), BATCH[0]), (x, LEARNERS[1]), EDGE, "-")
        _arrow(axes, (x - 0.22 * width, LEARNERS[0]), (x - 0.22 * width, GLOBAL[1]), colour, "-")
        _arrow(axes, (x + 0.22 * width, GLOBAL[1]), (x + 0.22 * width, LEARNERS[0]), EDGE, (0, (3, 1.5)))
        middle = (LEARNERS[0] + GLOBAL[1]) / 2
        axes.text(x - 0.25 * width, middle, rf"$\gamma_{{{number + 1}}}$", ha="right", va="center", fontsize=7)
        axes.text(x + 0.25 * width, middle, r"$\theta_g$", ha="left", va="center", fontsize=7)
    text = rf"dashed: all learners restart from $\theta_g$ at {_restarts(mixture, experiment.training.epochs)}"
    axes.text(0.5, -0.02, text, ha="center", va="top", fontsize=6.2)


def _restarts(mixture: MovingAverageSettings, last: int) -> str:
    """When learners restart, for example 'the end of epochs 5, 10, ..., 100'."""
    epochs = [epoch for epoch in range(1, last + 1) if mixture.redistributes_in(epoch, last)]
    shown = epochs if len(epochs) <= 3 else [*epochs[:2], "...", epochs[-1]]
    when = "every step of" if mixture.redistribution == "every_batch" else "the end of"
    return f"{when} epochs {', '.join(map(str, shown))}"


def _describe(learner: LearnerSettings) -> Iterator[str]:
    """Its objective, its attacks and its optimizer, a line each."""
    from pipeline.reporting.layout import NORM_SYMBOLS, radius

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
    from matplotlib.patches import FancyBboxPatch

    low, high = edges
    outline: dict[str, Any] = {"facecolor": "white", "edgecolor": colour, "linewidth": 0.7 if colour == EDGE else 1.2}
    rounded = "round,pad=0,rounding_size=0.02"
    axes.add_patch(FancyBboxPatch((x - width / 2, low), width, high - low, boxstyle=rounded, **outline))
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
        ratios = [mixture.ratios_at(epoch)[name] for epoch in range(epochs + 1)]
        label = rf"$\gamma_{{{number}}}$ ({name})"
        axes.plot(range(epochs + 1), ratios, **learners[name].curve, markersize=3, markevery=0.13, label=label)
    for epoch in (one for one in range(1, epochs + 1) if mixture.redistributes_in(one, epochs)):
        axes.axvline(epoch, zorder=0.5, gid="redistribution", **REDISTRIBUTION)
    axes.set(xlabel="epoch", ylabel=r"mixing ratio $\gamma$", ylim=(-0.06, 1.06), yticks=[0, 0.5, 1])
    axes.set_xlim(0, 1.015 * epochs)
    axes.legend(loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=len(learners), columnspacing=1)


FIGURE = FrameworkFigure
