"""What networks look at in images that some methods get right and others get wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from typing_extensions import override

from pipeline.config.figures import FigureSettings, FigureSource, Kind, Methods, NothingToShow
from pipeline.core.errors import PipelineError
from pipeline.core.files import read_frame
from pipeline.core.values import Whole
from pipeline.evaluation.attacks.pgd import PGDAttack
from pipeline.reporting.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    figure_text,
    new_figure,
    note_below,
    plain_text,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pipeline.config.params import Params
    from pipeline.data.images import ImageSet
    from pipeline.reporting.examples import View

CELLS_IN_A_COLUMN = 5
"""So many pictures beside each other fit into one column of a page."""
RIGHT, WRONG = "#00704e", "#b3261e"


class GradCAMFigure(FigureSettings):
    """What networks look at in images that some methods get right and others get wrong.

    Networks are those of the first seed.
    """

    kind: Literal["grad_cam"]
    view: str
    """`natural`, or a PGD attack, which each method is attacked with by itself."""
    baselines: Methods
    """The methods that are wrong: images that more of them get wrong come first."""
    methods: Methods
    """The methods that are right, all of them."""
    images: Whole = Field(default=4, ge=1, le=12)

    @override
    def names(self) -> Iterator[tuple[Kind, str]]:
        yield "attack", self.view
        yield from (("method", method) for method in [*self.baselines, *self.methods])

    @override
    def misfits(self, params: Params) -> Iterator[str]:
        attacks = params.evaluation.attacks
        valid = ["natural", *(name for name, attack in attacks.items() if isinstance(attack, PGDAttack))]
        if self.view not in valid:
            yield (
                f"a grad_cam figure cannot show '{self.view}': only images of PGD can be crafted again alone. "
                f"Valid: {', '.join(valid)}"
            )

    @override
    def coverage(self, source: FigureSource, measured: int, shown: int) -> list[int]:
        return [0 if source.pictures is None else measured, shown]

    @override
    def draw(self, source: FigureSource) -> Figure:
        """Raises as `pipeline.tracking.read_artifacts`."""
        import torch

        from pipeline.reporting.results import latest_runs

        params, seed = source.params, source.params.seeds[0]
        experiments = {name: params.experiment(name, seed) for name in [*self.baselines, *self.methods]}
        labels = {name: figure_text(params.methods[name].label) for name in experiments}
        counting = {name: latest_runs([one], source.runs).get(seed) for name, one in experiments.items()}
        runs = {name: run for name, run in counting.items() if run is not None}
        right, wrong = ([name for name in names if name in runs] for names in (self.methods, self.baselines))
        lacking = ", ".join(label for name, label in labels.items() if name not in runs)
        remark = f"Not measured: {lacking}." if lacking else ""
        if not right or not wrong:
            raise NothingToShow(f"{lacking} not measured; '{self.command}' runs them")
        chosen = self._choose(runs)
        if not chosen:
            ours, others = " and ".join(labels[name] for name in right), ", ".join(labels[name] for name in wrong)
            raise NothingToShow(f"there is no test image that {ours} get right and any of {others} gets wrong")
        if source.pictures is None:
            raise NothingToShow("the test images are not at hand")
        try:
            seen: dict[str, View] = {
                labels[name]: source.pictures.seen(experiments[name], run, chosen, [self.view])[self.view]
                for name, run in runs.items()
            }
        except PipelineError as error:
            raise NothingToShow(str(error)) from None
        if blind := [label for label, view in seen.items() if not view.maps.any()]:
            raise NothingToShow(f"the networks of {', '.join(blind)} have no feature maps, which Grad-CAM is made of")
        shown = source.pictures.split(experiments[right[0]]).test.subset(torch.tensor(chosen))
        classes = tuple(map(plain_text, experiments[right[0]].data.facts.classes))
        return _draw(shown, classes, seen, remark)

    def _choose(self, runs: dict[str, str]) -> list[int]:
        """Positions of images in the suite's test order."""
        from pipeline.reporting.examples import correctness, disputed
        from pipeline.tracking import read_artifacts

        verdicts = read_artifacts(runs.values(), "verdicts.parquet", read_frame)
        tables = {
            name: verdicts[run][verdicts[run]["attack"] == self.view] for name, run in runs.items() if run in verdicts
        }
        right = [name for name in self.methods if name in tables]
        if not right or len(tables) == len(right):
            return []
        labels = tables[right[0]].set_index("image")["label"]
        return disputed(correctness(tables), labels, right, self.images)


def _draw(shown: ImageSet, classes: tuple[str, ...], seen: Mapping[str, View], remark: str) -> Figure:
    """Rows are images; columns are the image itself and each method's view of it."""
    columns = len(seen) + 1
    width = COLUMN_WIDTH if columns <= CELLS_IN_A_COLUMN else PAGE_WIDTH
    figure = new_figure(width, len(shown) * (width / columns + 0.12) + 0.35 + 0.15 * bool(remark))
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for place, row in enumerate(grid):
        label = int(shown.labels[place])
        show_image(row[0], shown.images[place].permute(1, 2, 0).numpy())
        row[0].set_xlabel(classes[label], labelpad=2)
        for axes, view in zip(row[1:], seen.values(), strict=True):
            predicted = int(view.predicted[place])
            show_image(axes, view.pixels[place].permute(1, 2, 0).numpy(), view.maps[place].numpy())
            mark, colour = ("✓", RIGHT) if predicted == label else ("✗", WRONG)
            axes.set_xlabel(f"{mark} {classes[predicted]}", color=colour, labelpad=2)
    for axes, title in zip(grid[0], ["image", *seen], strict=True):
        axes.set_title(title.replace(" (", "\n("), fontsize=6.5)
    note_below(figure, remark)
    return figure


def show_image(axes: Axes, pixels: np.ndarray, strengths: np.ndarray | None = None) -> None:
    """An image, (height, width, channels) uint8, under a map, (height, width) uint8: red speaks for the class most."""
    from matplotlib import colormaps

    axes.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=255)
    if strengths is not None:
        coloured = colormaps["turbo"](strengths)
        coloured[..., 3] = 0.1 + 0.6 * strengths / 255
        axes.imshow(coloured, interpolation="bilinear")
    axes.set(xticks=[], yticks=[], frame_on=False)


FIGURE = GradCAMFigure
