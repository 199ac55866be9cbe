"""RMC's path between two trained networks."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from typing_extensions import override

from pipeline.config.mixture import MixtureSettings
from pipeline.core.extensions import imported
from pipeline.core.values import Name, Whole, context


class ModeConnectivitySettings(MixtureSettings):
    """RMC (Wang et al., 2023): a Bezier path between two trained networks; its best point is the result.

    Until `path_starts_after` the endpoints are trained; then they rest and the path's middle is; at the end, points of
    the path are compared on held-out images.
    """

    starts_together: ClassVar[bool] = False
    rule: Literal["mode_connectivity"]
    endpoints: Annotated[list[Name], Field(min_length=2, max_length=2)]
    """The learners at t = 0 and t = 1."""
    middle: Name
    """The learner that bends the path: phi(t) = (1 - t)^2 theta_1 + 2 t (1 - t) theta_m + t^2 theta_2."""
    path_starts_after: Whole = Field(ge=1)
    """The endpoints' last epoch."""
    points: Whole = Field(default=21, ge=2)
    """How many points of the path are compared, evenly spaced from t = 0 to t = 1 (the source: 61)."""

    @field_validator("path_starts_after")
    @classmethod
    def _leave_epochs(cls, value: int, info: ValidationInfo) -> int:
        last = context(info, "epochs")
        if last is not None and value >= last:
            raise ValueError(f"{value} leaves no epoch for the path before the last one, {last} (training.epochs)")
        return value

    @classmethod
    @override
    def combines(cls, given: dict[str, Any]) -> list[str]:
        endpoints = given["endpoints"] if isinstance(given.get("endpoints"), list) else []
        return [str(name) for name in (*endpoints, given.get("middle")) if name is not None]

    @override
    def trains(self, learner: str, epoch: int) -> bool:
        """Whether a learner is updated in `epoch`: first the endpoints, then the middle."""
        return (learner == self.middle) == (epoch > self.path_starts_after)

    @override
    def networks(self, own: dict[str, Any]) -> dict[str, Any]:
        """The middle's learner trains the path between the endpoints."""
        path: dict[str, Any] = imported("pipeline.training.mode_connectivity:path_between")(self, own)
        return path

    @override
    def build(self, learners: list[Any], epochs: int, mesh: Any) -> Any:
        return imported("pipeline.training.mode_connectivity:ModeConnectivity")(self, learners, epochs)


MIXTURE = ModeConnectivitySettings
