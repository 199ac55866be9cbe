"""What is measured on test images: the sections `evaluation` and `ood` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.core.values import (
    Budget,
    Closed,
    Name,
    Norm,
    Positive,
    Real,
    Whole,
    _digest,
    context,
    repeated,
    unknown,
    unless,
)


class AttackedImages(Closed):
    """What all attacks of an evaluation share."""

    norm: Norm
    epsilon: Budget
    images: Whole | None = Field(default=None, gt=0)
    """Attack only the first so many test images (null: all)."""


class PGDAttackSettings(AttackedImages):
    """PGD with a fixed number of steps and a random start, the last iterate counts."""

    name: Literal["pgd"]
    step_size: Positive
    steps: Whole = Field(ge=1)


class MIMAttackSettings(AttackedImages):
    """The momentum iterative method (Dong et al., 2018)."""

    name: Literal["mim"]
    step_size: Positive
    steps: Whole = Field(ge=1)
    decay: Real = Field(default=1.0, ge=0)
    """mu: how much of the accumulated gradient stays."""


class CWAttackSettings(AttackedImages):
    """PGD on the margin of Carlini and Wagner (2017)."""

    name: Literal["cw"]
    step_size: Positive
    steps: Whole = Field(ge=1)
    confidence: Real = Field(default=50.0, ge=0)
    """kappa."""


class NoiseAttackSettings(AttackedImages):
    """Random points on the ball; an image must be classified correctly at all of them."""

    name: Literal["noise"]
    draws: Whole = Field(default=100, ge=1)


AutoAttackMember = Literal["apgd_ce", "apgd_dlr", "apgd_t", "fab_t", "square"]
MEMBER_NAMES: dict[AutoAttackMember, str] = {
    "apgd_ce": "APGD-CE",
    "apgd_dlr": "APGD-DLR",
    "apgd_t": "APGD-T",
    "fab_t": "FAB-T",
    "square": "Square",
}
"""As the field writes them."""
STANDARD_MEMBERS: list[AutoAttackMember] = ["apgd_ce", "apgd_t", "fab_t", "square"]
STANDARD_TARGETS = 9
STANDARD_QUERIES = 5000


class AutoAttackSettings(AttackedImages):
    """Attacks of AutoAttack (Croce and Hein, 2020), by its authors' package, each on what the ones before left."""

    name: Literal["autoattack"]
    members: list[AutoAttackMember] = Field(default=STANDARD_MEMBERS, min_length=1)
    """The standard ensemble unless it says otherwise; one alone is that attack by itself."""
    targets: Whole = Field(
        default=STANDARD_TARGETS, ge=1, le=STANDARD_TARGETS, exclude_if=lambda value: value == STANDARD_TARGETS
    )
    """Classes that `apgd_t` and `fab_t` aim at, the likeliest first, or as many as there are; the standard is 9."""
    queries: Whole = Field(default=STANDARD_QUERIES, ge=1, exclude_if=lambda value: value == STANDARD_QUERIES)
    """Queries of Square; the standard is 5,000."""

    def differences(self) -> list[str]:
        """How this is not the standard ensemble, in words; none where it is."""
        found = []
        if self.members != STANDARD_MEMBERS:
            found.append(" and ".join(MEMBER_NAMES[member] for member in self.members) + " alone")
        if self.targets != STANDARD_TARGETS and {"apgd_t", "fab_t"} & set(self.members):
            found.append(f"targeted attacks at {self.targets} classes instead of {STANDARD_TARGETS}")
        if self.queries != STANDARD_QUERIES and "square" in self.members:
            found.append(f"Square with {self.queries:,} queries instead of {STANDARD_QUERIES:,}")
        return found


EvaluationAttack = Annotated[
    PGDAttackSettings | MIMAttackSettings | CWAttackSettings | NoiseAttackSettings | AutoAttackSettings,
    Field(discriminator="name"),
]


class OODSettings(Closed):
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

    methods: list[str] = Field(default=[])
    """Keys of `methods` that `dvc repro` measures on them; none: Table IV is left out."""

    @field_validator("methods")
    @classmethod
    def _are_methods(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return unless([*unknown("method", value, context(info, "methods")), *repeated(value)], value)


OOD_METRICS = ("ood_c_severity_5", "ood_c", "ood_mce", "ood_p", "ood_mfp")
"""What `stages.ood` gives: accuracy under corruptions at severity 5 and over all severities, mean corruption error,
accuracy along sequences, mean flip probability."""
DERIVED_METRICS = ("natural", "union", "worst_case_union")
"""What every evaluation gives besides the accuracy under each attack."""
TRAINING_SECONDS = "training_seconds"
"""What every training gives: the time of its steps, without measurements in between."""


class EvaluationSettings(Closed):
    """What is measured on the test images."""

    batch_size: Whole = Field(ge=1)
    seed: Whole = Field(default=0, ge=0)
    attacks: dict[Name, EvaluationAttack] = Field(min_length=1)
    """By the name of the metric that each gives, for example `aa_linf`. One that is null is left out."""
    union: list[Name] = Field(min_length=2)
    """The attacks whose mean accuracy is the paper's Union, and whose per-image minimum is the worst-case union."""

    def digest(self, test_images: int | None) -> str:
        """16 hexadecimal digits over everything that changes the verdicts of one model on so many test images."""
        content = {"version": 2, "test_images": test_images, **self.model_dump(mode="json")}
        return _digest(content)

    @field_validator("attacks", mode="before")
    @classmethod
    def _leave_out_null(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: attack for name, attack in value.items() if attack is not None}

    @field_validator("attacks")
    @classmethod
    def _leave_names_of_metrics(cls, value: dict[str, EvaluationAttack]) -> dict[str, EvaluationAttack]:
        taken = [name for name in DERIVED_METRICS if name in value]
        if taken:
            raise ValueError(f"{', '.join(taken)}: the name of a metric that is always there; choose another one")
        return value

    @field_validator("union")
    @classmethod
    def _names_attacks(cls, value: list[str], info: ValidationInfo) -> list[str]:
        problems = unknown("attack", value, context(info, "attacks"))
        return unless([*problems, *repeated(value)], value)
