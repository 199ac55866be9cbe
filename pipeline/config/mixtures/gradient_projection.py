"""RAMP's fusion of a natural and a robust learner."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from pipeline.config.mixture import MixtureSettings
from pipeline.core.extensions import imported
from pipeline.core.values import Name, Real


class GradientProjectionSettings(MixtureSettings):
    """RAMP (Jiang and Singh, 2024): after every epoch both learners restart from the sum of their two updates.

    theta <- theta + natural_share * max(cos(d_n, d_a), 0) * d_n + (1 - natural_share) * d_a, for every tensor, with d_n
    and d_a what the natural and the robust learner moved in the epoch.
    """

    rule: Literal["gradient_projection"]
    natural: Name
    """The learner of which only what agrees with the other one is taken."""
    robust: Name
    """The other learner."""
    natural_share: Real = Field(default=0.5, ge=0, le=1)
    """b (the source: 0.5)."""

    @classmethod
    @override
    def combines(cls, given: dict[str, Any]) -> list[str]:
        return [str(given[role]) for role in ("natural", "robust") if role in given]

    @override
    def complete_from(self, epochs: int) -> int:
        return 1

    @override
    def build(self, learners: list[Any], epochs: int, mesh: Any) -> Any:
        return imported("pipeline.training.gradient_projection:GradientProjection")(self, learners)


MIXTURE = GradientProjectionSettings
