"""The search: from the section `search` of `params.yaml` to the experiments of its trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pipeline.config.experiment import Experiment
from pipeline.config.methods import MethodSettings
from pipeline.config.mixtures.moving_average import MovingAverageSettings
from pipeline.config.params import Params
from pipeline.config.search import HUNDREDTHS, SearchSettings
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.studies.cells import cell_name, checked_method, rounded, shares_of_rest, with_mixture

OBJECTIVES = ("held_out/global/natural", "held_out/global/worst_case_union")
"""What a search maximises: accuracies of the result on held-out training images, in the epoch that is kept."""


@dataclass(frozen=True)
class Point:
    """One setting of everything that is varied, by the names of `search.space`."""

    first_ratio_end: float
    communication_interval: int | str
    warmup_epochs: int | str

    @property
    def text(self) -> str:
        """As people read it: 'gamma_1 0.25, c 2, t' 9'."""
        return f"gamma_1 {self.first_ratio_end:g}, c {self.communication_interval}, t' {self.warmup_epochs}"


@dataclass(frozen=True)
class Search:
    """A search over settings of one method.

    Args:
        params: The file.
        settings: Its section `search`.
        mixture: Of the method as it is.
    """

    params: Params
    settings: SearchSettings
    mixture: MovingAverageSettings

    @classmethod
    def of(cls, params: Params) -> Search:
        """The search that a file declares.

        Raises:
            RequestError: there is none, or its method cannot be varied.
        """
        settings = params.search
        if settings is None:
            raise RequestError("params.yaml has no section 'search'; conf/base.yaml shows one")
        possible = {
            name: method.mixture
            for name, method in params.methods.items()
            if isinstance(method.mixture, MovingAverageSettings)
        }
        if settings.method not in possible:
            known = settings.method in params.methods
            what = "has no mixture with the rule 'moving_average' to vary" if known else "is unknown"
            raise RequestError(
                f"search.method: '{settings.method}' {what}: {did_you_mean(settings.method, [*possible])}"
            )
        return cls(params, settings, possible[settings.method])

    @property
    def method(self) -> MethodSettings:
        """What is varied, as it is."""
        return self.params.methods[self.settings.method]

    @property
    def default(self) -> Point:
        """The method as it is."""
        first = next(iter(self.mixture.mixing_ratios.values()))
        return Point(first[-1], self.mixture.communication_interval, self.mixture.warmup_epochs)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over everything that changes what is asked for, or what it comes to.

        Not over how many trials there are, nor over how many are asked for together: a search can be continued with
        other numbers.
        """
        fixed = self.settings.model_dump(mode="json", include={"space", "startup_trials", "sampler_seed"})
        base = [one.evaluation_fingerprint for one in self._resolved(self.settings.method, self.method)]
        return hashlib.sha256(json.dumps([fixed, base], sort_keys=True).encode()).hexdigest()[:16]

    def holds(self, point: Point) -> bool:
        """Whether a point lies in the space."""
        space, ratio = self.settings.space, point.first_ratio_end
        return (
            space.first_ratio_end.low <= ratio <= space.first_ratio_end.high
            and ratio == round(ratio * HUNDREDTHS) / HUNDREDTHS
            and point.communication_interval in space.communication_interval.values
            and point.warmup_epochs in space.warmup_epochs.values
        )

    def experiments(self, point: Point) -> list[Experiment]:
        """What is trained at a point, for each seed; the method as it is has its own name, and is trained once.

        Raises:
            ValueError: there is no such method.
        """
        if point == self.default:
            return self._resolved(self.settings.method, self.method)
        name = cell_name("search", self.settings.method, point.text)
        return self._resolved(name, checked_method(self._varied(point), self.params))

    def check(self, trials: int) -> None:
        """Find out before anything starts that every point of the space is a possible method.

        Raises:
            RequestError: it is not so, or there are fewer points than trials; the message lists everything.
        """
        problems = list(self._problems(trials))
        if problems:
            lines = "\n".join(f"  {line}" for line in problems)
            raise RequestError(f"the search is not possible, nothing was started\n{lines}")

    def _resolved(self, name: str, method: MethodSettings) -> list[Experiment]:
        resolved = (self.params.resolve(name, method, seed) for seed in self.settings.seeds)
        return [experiment.model_copy(update={"grid": True}) for experiment in resolved]

    def _varied(self, point: Point) -> dict[str, Any]:
        """The method at a point, as plain values."""
        first = next(iter(self.mixture.mixing_ratios))
        rest = {
            name: rounded(share * (1 - point.first_ratio_end)) for name, share in shares_of_rest(self.mixture).items()
        }
        last = {first: point.first_ratio_end, **rest}
        return with_mixture(
            self.method.model_dump(mode="json"),
            mixing_ratios={name: [*ratios[:-1], last[name]] for name, ratios in self.mixture.mixing_ratios.items()},
            communication_interval=point.communication_interval,
            warmup_epochs=point.warmup_epochs,
        )

    def _problems(self, trials: int) -> Iterator[str]:
        space = self.settings.space
        if self.params.training.selection.split == "test":
            yield (
                "training.selection.split: 'test' would choose settings on test images, to which their accuracies then "
                "leak; expected 'held_out' or 'last'"
            )
        if space.settings < trials:
            yield (
                f"search.space: {trials} trials are more than the {space.settings} settings that it has; widen a "
                "range, or ask for fewer trials"
            )
        yield from self._problems_of_redistribution()
        for ratio in sorted({space.first_ratio_end.low, space.first_ratio_end.high}):
            try:
                checked_method(self._varied(Point(ratio, 1, 1)), self.params)
            except ValueError as error:
                yield f"search.space.first_ratio_end: {ratio:g}: {error}"

    def _problems_of_redistribution(self) -> Iterator[str]:
        """Settings with which the learners would never restart from the global learner."""
        space, last = self.settings.space, self.method.epochs or self.params.training.epochs
        if space.warmup_epochs.high > last:
            beyond = f"{space.warmup_epochs.high} lies beyond the last epoch"
            yield f"search.space.warmup_epochs.high: {beyond}; valid: 1-{last}"
        latest = min(space.warmup_epochs.high, last)
        valid = [interval for interval in range(1, last + 1) if last // interval * interval >= latest]
        intervals = space.communication_interval
        if intervals.high > last or not set(intervals.values) <= set(valid):
            yield (
                f"search.space.communication_interval: of {intervals.low} to {intervals.high}, some divide none of the "
                f"epochs from t' = {latest} to the last, {last}: the learners would never restart from the global "
                f"learner; valid: {_runs(valid)}"
            )


def point_from(values: dict[str, Any]) -> Point:
    """A point from plain values by name; others are passed over."""
    return Point(
        round(float(values["first_ratio_end"]), 2), int(values["communication_interval"]), int(values["warmup_epochs"])
    )


def _runs(values: Sequence[int]) -> str:
    """'1-4, 7' for 1, 2, 3, 4, 7."""
    neighbours = (
        [value for _, value in group] for _, group in groupby(enumerate(values), key=lambda item: item[1] - item[0])
    )
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in neighbours)
