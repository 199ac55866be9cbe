"""What is measured on test images: the sections `evaluation` and `ood` of `params.yaml`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, field_validator

from pipeline.config.metrics import METRICS
from pipeline.core.extensions import Family
from pipeline.core.values import (
    Budget,
    Name,
    Norm,
    StrictModel,
    Whole,
    _digest,
    declared,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    Perturb = Callable[[Tensor, Tensor], Tensor]
    """(images, labels) -> adversarial images; images that could not be fooled may come back as they were."""


class Passes(NamedTuple):
    """What an attack costs for an image that resists it."""

    gradients: float = 0
    """Forward passes with their backward passes."""
    forwards: float = 0
    """Forward passes alone."""


class EvaluationAttack(StrictModel):
    """An attack that networks are tested with; its fields are its options in `params.yaml`.

    An attack derives from one of the two below.
    """

    label: ClassVar[str] = ""
    """How reports call it; "" for its `name`."""
    norm: Norm
    epsilon: Budget
    images: Whole | None = Field(default=None, gt=0)
    """Attack only the first so many test images (null: all)."""
    name: str

    @abstractmethod
    def passes(self) -> Passes:
        """What it costs for each image."""

    def effort(self) -> str:
        """How hard it tries, in words such as '20 steps'; "" where there is nothing to say."""
        return ""

    def remark(self, is_in_union: bool) -> str:
        """What a table must say of its numbers, as the end of a sentence; "" where there is nothing to say.

        Args:
            is_in_union: Whether it is one of the attacks that the union is made of.
        """
        return ""


class SingleAttack(EvaluationAttack):
    """One attack, which sees every image, whether or not the network is right on it."""

    @abstractmethod
    def perturb(self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Adversarial examples for `images`.

        Args:
            model: Maps images to logits; in eval mode, and left as it is.
            images: (batch, channels, height, width), float32 in [0, 1].
            labels: (batch,), int64.
            generator: Source of all randomness, on the device of `images`.

        Returns:
            Detached images of the same shape, in [0, 1] and within `epsilon` of `images` in `norm`.
        """


class EnsembleAttack(EvaluationAttack):
    """Several attacks in a row, each on the images that no earlier one has fooled."""

    members: list[Any] = Field(min_length=1)
    """Their names, in the order in which they run."""

    @abstractmethod
    def attacks(self, model: nn.Module, seed: int) -> Mapping[Any, Perturb]:
        """The attacks by the names in `members`.

        Args:
            model: Maps images to logits; in eval mode.
            seed: Of all their randomness, for one batch.
        """


ATTACKS = Family("attack", "pipeline.evaluation.attacks.*:ATTACK", EvaluationAttack)  # type: ignore[type-abstract]
AnyAttack = Annotated[EvaluationAttack, ATTACKS]


class OODSettings(StrictModel):
    """Corruptions (C) and perturbation sequences (P) of the test images; Generalist++ IV-D."""

    source: Literal["auto", "official", "regenerated"] = "auto"
    """`official`: the released files below `data.root`; `regenerated`: our own, made from the test images; `auto`: the
    released ones where they lie there."""
    images: Whole | None = Field(default=None, gt=0)
    """Only the first so many test images, in the official order (null: all)."""
    seed: Whole = Field(default=0, ge=0)
    """Seed of the random corruptions that are regenerated."""


class SuiteOOD(OODSettings):
    """What `ood` of `params.yaml` says: the corrupted images, and which methods meet them."""

    methods: Annotated[list[str], declared("method", "methods")] = Field(default=[])
    """Keys of `methods` that `dvc repro` measures on them; none: Table IV is left out."""


OOD_METRICS = ("ood_c_severity_5", "ood_c", "ood_mce", "ood_p", "ood_mfp")
"""What `stages.ood` gives: accuracy under corruptions at severity 5 and over all severities, mean corruption error,
accuracy along sequences, mean flip probability."""
TRAINING_SECONDS = "training_seconds"
"""What every training gives: the time of its steps, without measurements in between."""


class EvaluationSettings(StrictModel):
    """What is measured on the test images."""

    batch_size: Whole = Field(ge=1)
    seed: Whole = Field(default=0, ge=0)
    attacks: dict[Name, AnyAttack] = Field(min_length=1)
    """By the name of the metric that each gives, for example `aa_linf`. One that is null is left out."""
    union: Annotated[list[Name], Field(min_length=2), declared("attack", "attacks")]
    """The attacks whose mean accuracy is the paper's Union, and whose per-image minimum is the worst-case union."""

    def digest(self, test_images: int | None) -> str:
        """16 hexadecimal digits over everything that changes the verdicts of one model on so many test images."""
        content = {"version": 2, "test_images": test_images, **self.model_dump(mode="json")}
        return _digest(content)

    def passes(self, images: int) -> dict[str, float]:
        """Roughly what each attack costs on so many test images, in forward passes; a backward pass takes two.

        An ensemble is taken to fool half of the images at once.
        """
        found: dict[str, float] = {"natural": images}
        for name, attack in self.attacks.items():
            cost, share = attack.passes(), 0.5 if isinstance(attack, EnsembleAttack) else 1
            found[name] = share * min(attack.images or images, images) * (3 * cost.gradients + cost.forwards)
        return found

    @field_validator("attacks", mode="before")
    @classmethod
    def _leave_out_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: attack for name, attack in value.items() if attack is not None}

    @field_validator("attacks")
    @classmethod
    def _leave_names_of_metrics(cls, value: dict[str, EvaluationAttack]) -> dict[str, EvaluationAttack]:
        taken = [name for name in METRICS.names() if name in value]
        if taken:
            raise ValueError(f"{', '.join(taken)}: the name of a metric that is always there; choose another one")
        return value
