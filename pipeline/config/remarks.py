"""What is allowed in params.yaml and yet often a mistake: said, not refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.config.methods import MethodSettings
from pipeline.config.mixtures.mode_connectivity import ModeConnectivitySettings
from pipeline.config.mixtures.moving_average import MovingAverageSettings
from pipeline.config.params import Params


def early_end(params: Params, methods: Iterable[str] | None = None) -> str | None:
    """A line on schedules that end before the last epoch, as after a change of `training.epochs` by hand; None: there
    are none.

    Nothing is said of what nobody can have overlooked: a method with its own `epochs` beside them, values that change
    in steps, which stay constant between breakpoints anyway, and learners that rest after the end.
    """
    last = params.training.epochs
    chosen = params.methods if methods is None else methods
    ends = [
        (place, end)
        for name in chosen
        for place, end in _ends(name, params.methods[name], last)
        if round(end, 3) < last
    ]
    if not ends:
        return None
    (place, end), others = ends[0], len(ends) - 1
    more = f", and {others} more end before it" if others else ""
    return (
        f"{place} ends at epoch {end:g} of {last}{more}: constant from there on. Where that is not meant, move the "
        f"breakpoints, or compose anew with training.epochs={last}, which scales them"
    )


def _ends(name: str, method: MethodSettings, last: int) -> Iterator[tuple[str, float]]:
    """Schedules of a method, and the epochs at which they end."""
    if method.epochs is not None:
        return
    mixture = method.mixture
    for learner, settings in method.learners.items():
        schedule = settings.schedule
        rests = isinstance(mixture, ModeConnectivitySettings) and not mixture.trains(learner, last)
        if schedule.interpolation != "step" and len(schedule.epochs) > 1 and not rests:
            yield f"schedule of methods.{name}.learners.{learner}", schedule.epochs[-1]
    if isinstance(mixture, MovingAverageSettings) and len(mixture.breakpoints) > 1:
        yield f"mixing_ratios of methods.{name}.mixture", mixture.breakpoints[-1]
