"""How the learners of a method are combined."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any, ClassVar

from typing_extensions import override

from pipeline.core.extensions import Family, imported
from pipeline.core.values import StrictModel


class MixtureSettings(StrictModel):
    """A rule by which learners become one network; its fields are its options in `params.yaml`."""

    starts_together: ClassVar[bool] = True
    """Learners need the same initial weights, as those have that are averaged."""
    rule: str

    @abstractmethod
    def build(self, learners: list[Any], epochs: int, mesh: Any) -> Any:
        """What mixes, a `pipeline.training.mixture.Mixture`.

        Args:
            learners: `pipeline.training.learner.Learner`, in the order of the file.
            epochs: The last epoch.
            mesh: Which of them this process trains (`pipeline.training.mesh.Mesh`).
        """

    def networks(self, own: dict[str, Any]) -> dict[str, Any]:
        """The networks (`nn.Module`) that learners train in place of their `own`, by learner: none."""
        return {}

    @classmethod
    def combines(cls, given: dict[str, Any]) -> list[str]:
        """The learners that a mixture names; `given` is as in the file. None: it takes any."""
        return []

    def complete_from(self, epochs: int) -> int:
        """The first of `epochs` (from 1) after which the result holds every learner: the last."""
        return epochs

    def trains(self, learner: str, epoch: int) -> bool:
        """Whether a learner is updated in `epoch`: always."""
        return True

    def apart_until(self, epochs: int) -> int:
        """The last of `epochs` (from 1) in all whose steps each learner is trained as it would be alone: none."""
        return 0

    def lasting(self, epochs: int) -> dict[str, Any]:
        """All that the rule does in every one of `epochs` alike, as plain values: whatever is not in `course`."""
        return {**self.model_dump(mode="json"), "epochs": epochs}

    def course(self, epoch: int, epochs: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that the rule does in the steps of one of `epochs`, and after its last step, as plain values: nothing."""
        return {}, {}

    def branch_points(self, epochs: int) -> list[int]:
        """The epochs after whose last step a checkpoint is kept, for others that differ only afterwards: none."""
        return []


class SingleSettings(MixtureSettings):
    """The rule of a method that has one learner, and so none in `params.yaml`."""

    rule: str = "single"

    @override
    def complete_from(self, epochs: int) -> int:
        return 1

    @override
    def apart_until(self, epochs: int) -> int:
        return epochs

    @override
    def lasting(self, epochs: int) -> dict[str, Any]:
        return {}

    @override
    def build(self, learners: list[Any], epochs: int, mesh: Any) -> Any:
        return imported("pipeline.training.mixture:Single")(*learners)


MIXTURES = Family("mixture", "pipeline.config.mixtures.*:MIXTURE", MixtureSettings, "rule")  # type: ignore[type-abstract]
AnyMixture = Annotated[MixtureSettings, MIXTURES]
