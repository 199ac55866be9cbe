"""The section `search` of `params.yaml`: which settings of a mixture are searched, and how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from pipeline.core.values import Location, Real, Seeds, StrictModel, Whole

HUNDREDTHS = 100
"""Steps of a mixing ratio in 1: two trials differ by something that a reader can tell apart."""


def _hundredth(value: float) -> float:
    if abs(value * HUNDREDTHS - round(value * HUNDREDTHS)) > 1e-9:
        raise ValueError(f"mixing ratios are searched in hundredths, got {value!r}")
    return value


Ratio = Annotated[Real, Field(ge=0, le=1), AfterValidator(_hundredth)]


class SearchRange(StrictModel):
    """The least and the greatest value, both included; where they are equal, nothing is searched."""

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """The least is not above the greatest."""
        low, high = given.get("low"), given.get("high")
        if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
            yield ("low",), f"{low} lies above high, {high}"


class RatioRange(SearchRange):
    """A range of mixing ratios, in hundredths."""

    low: Ratio
    high: Ratio


class WholeRange(SearchRange):
    """A range of whole numbers from 1 on."""

    low: Annotated[Whole, Field(ge=1)]
    high: Annotated[Whole, Field(ge=1)]

    @property
    def values(self) -> range:
        """All of them."""
        return range(self.low, self.high + 1)


class SearchSpace(StrictModel):
    """What is varied; everything else is as the method has it."""

    first_ratio_end: RatioRange
    """gamma_1, the first learner's mixing ratio, at the last breakpoint; the others share the rest as they did."""
    communication_interval: WholeRange
    """c: the learners restart from the global learner every c epochs."""
    warmup_epochs: WholeRange
    """t': the first epoch after which they may."""

    @property
    def settings(self) -> int:
        """How many settings there are in all."""
        ratios = round((self.first_ratio_end.high - self.first_ratio_end.low) * HUNDREDTHS) + 1
        return ratios * len(self.communication_interval.values) * len(self.warmup_epochs.values)


class SearchSettings(StrictModel):
    """The search for settings that no other one beats on held-out images: `python -m stages.search`."""

    method: str
    """A key of `methods` with the mixture `moving_average`."""
    space: SearchSpace
    trials: Whole = Field(default=24, ge=1)
    """Settings that are tried, the method as it is among them where it lies in the space."""
    at_a_time: Whole = Field(default=4, ge=1)
    """Trials that are asked for together: workers share them, and the next ones learn from them."""
    startup_trials: Whole = Field(default=8, ge=1)
    """Trials that must be done before the sampler draws from what it has learnt, not evenly from the space."""
    sampler_seed: Whole = Field(default=0, ge=0)
    seeds: Seeds = Field(default=[1])
    """Experiment seeds of every trial: it counts with its means over them."""
