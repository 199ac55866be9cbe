"""The global learner of Generalist: an EMA of the learners' convex combination."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal

from pydantic import Field, StrictBool, ValidationInfo, field_validator
from typing_extensions import override

from pipeline.config.mixture import MixtureSettings
from pipeline.core.extensions import imported
from pipeline.core.values import (
    Breakpoints,
    Duration,
    Location,
    Name,
    Real,
    context,
    in_epochs,
    interpolate,
    mapping,
    unless,
)


class MovingAverageSettings(MixtureSettings):
    """The global learner (Generalist++ Alg. 1 and 2): an EMA of the convex combination of the learners' weights."""

    rule: Literal["moving_average"]
    breakpoints: Breakpoints
    """Epochs between which the mixing ratios are linear."""
    mixing_ratios: dict[Name, list[Real]]
    """gamma of each learner at every breakpoint: a point on the simplex each."""
    decay: Real = Field(ge=0, lt=1)
    """alpha' of the paper: theta_g <- decay * theta_g + (1 - decay) * mixture, after every step."""
    warmup_epochs: Duration
    """t': the first epoch after which the learners may restart from the global learner."""
    communication_interval: Duration
    """c: they do so after every multiple of c epochs from t' on. A share such as '5/120' that is no whole number of
    epochs has them do so within epochs, each time after the first step at or past the multiple."""
    redistribution: Literal["epoch_end", "every_batch"] = "epoch_end"
    """`every_batch`: after every minibatch of the epochs in which a multiple of c lies, as the authors' code does
    (methods.md 2.2, item 11)."""
    decay_warmup: StrictBool = False
    """Use min(decay, (s + 1) / (s + 10)) at update s (item 8)."""
    source: Literal["learners", "weight_averages"] = "learners"
    """What is mixed: the raw weights, or, of the learners that keep one, their own moving average (item 7)."""
    batch_norm: Literal["average", "recompute"] = "average"
    """BatchNorm statistics of the global learner: mixed like weights, or recomputed on clean training images."""
    optimizer_state: Literal["keep", "reset"] = Field(default="keep", exclude_if=lambda value: value == "keep")
    """What becomes of the learners' momentum when they restart: it goes on, as in the authors' code, or from zero."""
    ratios: Literal["scheduled", "tuned"] = Field(default="scheduled", exclude_if=lambda value: value == "scheduled")
    """`tuned`: from t' on, whenever the learners are about to restart, the ratios move to the best of some
    neighbours on held-out images, instead of following their schedule; see `pipeline.training.combinations`."""
    result: Literal["global_learner", "uniform_soup", "greedy_soup"] = Field(
        default="global_learner", exclude_if=lambda value: value == "global_learner"
    )
    """What the method is judged by: the global learner, or a soup of the final learners (Wortsman et al., 2022)."""

    @field_validator("mixing_ratios")
    @classmethod
    def _stay_on_the_simplex(cls, value: dict[str, list[float]]) -> dict[str, list[float]]:
        problems = []
        for number, ratios in enumerate(zip(*value.values(), strict=False), start=1):
            if min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-9:
                shown = ", ".join(f"{name} {ratio:g}" for name, ratio in zip(value, ratios, strict=True))
                problems.append(
                    f"ratios at breakpoint number {number} leave the simplex: {shown} "
                    f"(each must be >= 0 and their sum 1, the sum is {sum(ratios):g})"
                )
        return unless(problems, value)

    @field_validator("ratios", "result")
    @classmethod
    def _fit_the_other_settings(cls, value: str, info: ValidationInfo) -> str:
        problems, interval = [], info.data.get("communication_interval")
        if value in ("tuned", "greedy_soup") and context(info, "selection_split") == "test":
            problems.append(
                f"'{value}' compares networks on the images that select epochs, which are the test images here; "
                "expected training.selection.split held_out or last"
            )
        if value not in ("scheduled", "global_learner") and isinstance(interval, str):
            problems.append(
                f"'{value}' combines learners after epochs, and communication_interval {interval} is no whole number "
                "of them; expected whole epochs there, or the default here"
            )
        return unless(problems, value)

    @field_validator("warmup_epochs", "communication_interval")
    @classmethod
    def _count_whole_epochs(cls, value: int | str, info: ValidationInfo) -> int | str:
        """5/120 of 120 epochs is 5, and so the same experiment."""
        epochs = context(info, "epochs")
        duration = None if epochs is None else in_epochs(value, epochs)
        return duration.numerator if duration is not None and duration.denominator == 1 else value

    @field_validator("warmup_epochs")
    @classmethod
    def _end_before_training(cls, value: int | str, info: ValidationInfo) -> int | str:
        last = context(info, "epochs")
        if last is not None and in_epochs(value, last) > last:
            raise ValueError(
                f"{value} lies beyond the last epoch {last} (training.epochs): the learners would never restart from "
                "the global learner"
            )
        return value

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """A ratio of every learner for every breakpoint."""
        breakpoints = given.get("breakpoints")
        for learner, ratios in mapping(given, "mixing_ratios").items():
            if isinstance(breakpoints, list) and isinstance(ratios, list) and len(ratios) != len(breakpoints):
                expected = f"expected {len(breakpoints)} ratios, one for each of breakpoints"
                yield ("mixing_ratios", str(learner)), f"{expected}, got {len(ratios)}"
        if given.get("redistribution") == "every_batch":
            for key, default in (("ratios", "scheduled"), ("result", "global_learner")):
                if given.get(key, default) != default:
                    same = "combines learners as they are after an epoch, which every_batch has made the same network"
                    yield (key,), f"'{given[key]}' {same}; expected {default}, or redistribution epoch_end"

    @classmethod
    @override
    def combines(cls, given: dict[str, Any]) -> list[str]:
        return [str(name) for name in mapping(given, "mixing_ratios")]

    @override
    def complete_from(self, epochs: int) -> int:
        if self.result != "global_learner":
            return epochs
        entered: dict[str, int] = {}
        for epoch in range(1, epochs + 1):
            for learner, ratio in self.ratios_at(epoch).items():
                if ratio > 0:
                    entered.setdefault(learner, epoch)
        return max(entered.values())

    @override
    def apart_until(self, epochs: int) -> int:
        restarts = (epoch for epoch in range(1, epochs + 1) if self.redistributes_in(epoch, epochs))
        first = next(restarts, None)
        if first is None:
            return epochs
        whole = in_epochs(self.communication_interval, epochs).denominator == 1
        return first if whole and self.redistribution == "epoch_end" else first - 1

    def redistributes_in(self, epoch: int, epochs: int) -> bool:
        """Whether the learners restart from the global learner in this one of `epochs`: from t' on, every c epochs."""
        return self.redistributes_between(Fraction(epoch - 1), Fraction(epoch), epochs)

    def redistributes_between(self, before: Fraction, after: Fraction, epochs: int) -> bool:
        """Whether a multiple of c that is t' or more lies in (`before`, `after`], both in epochs since the start."""
        interval = in_epochs(self.communication_interval, epochs)
        latest = after // interval * interval
        return latest > before and latest >= in_epochs(self.warmup_epochs, epochs)

    def ratios_at(self, epoch: float) -> dict[str, float]:
        """The mixing ratio of every learner at `epoch`; they are >= 0 and sum to 1."""
        return {name: interpolate(self.breakpoints, values, epoch) for name, values in self.mixing_ratios.items()}

    @override
    def lasting(self, epochs: int) -> dict[str, Any]:
        scheduled = {"breakpoints", "mixing_ratios", "warmup_epochs", "communication_interval", "result"}
        return self.model_dump(mode="json", exclude=scheduled)

    @override
    def course(self, epoch: int, epochs: int) -> tuple[dict[str, Any], dict[str, Any]]:
        interval, first = in_epochs(self.communication_interval, epochs), in_epochs(self.warmup_epochs, epochs)
        multiples = range(math.floor((epoch - 1) / interval) + 1, math.floor(epoch / interval) + 1)
        restarts = [str(number * interval) for number in multiples if number * interval >= first]
        whole = str(epoch) in restarts and self.redistribution == "epoch_end"
        within = [moment for moment in restarts if not (whole and moment == str(epoch))]
        cooked = self.result if epoch == epochs and self.result != "global_learner" else None
        return {"mixing ratios": self.ratios_at(epoch), "restarts within": within}, {"restart": whole, "result": cooked}

    @override
    def branch_points(self, epochs: int) -> list[int]:
        turns = {math.floor(epoch) for epoch in self.breakpoints} | {self.apart_until(epochs)}
        return sorted(epoch for epoch in turns if self.apart_until(epochs) <= epoch < epochs and epoch > 0)

    @override
    def build(self, learners: list[Any], epochs: int, mesh: Any) -> Any:
        return imported("pipeline.training.mixture:GlobalLearner")(self, learners, epochs, mesh)


MIXTURE = MovingAverageSettings
