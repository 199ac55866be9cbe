"""AutoAttack (Croce and Hein, 2020), or some of its attacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from torch import nn
from typing_extensions import override

from pipeline.config.evaluation import EnsembleAttack, Passes
from pipeline.core.values import Whole, context

if TYPE_CHECKING:
    from pipeline.config.evaluation import Perturb

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
LEAST_CLASSES: dict[AutoAttackMember, int] = {"apgd_dlr": 3, "apgd_t": 4}
"""What their losses compare: the difference of logits ratio (DLR) divides by the distance of the first logit to the
third, its targeted form by that to the third and the fourth. The others need two classes."""
STANDARD_TARGETS = 9
STANDARD_QUERIES = 5000
PASSES: dict[AutoAttackMember, Passes] = {
    "apgd_ce": Passes(gradients=100),
    "apgd_dlr": Passes(gradients=100),
    "apgd_t": Passes(gradients=900),
    "fab_t": Passes(gradients=1800),
    "square": Passes(forwards=STANDARD_QUERIES),
}
"""What each costs at the standard's effort: FAB's steps take two gradients each, Square's none."""


def defined_members(classes: int) -> list[AutoAttackMember]:
    """The standard ensemble without what so few classes do not define; for three, DLR in place of its targeted form."""
    wanted: list[AutoAttackMember] = [
        "apgd_dlr" if member == "apgd_t" and classes == 3 else member for member in STANDARD_MEMBERS
    ]
    return [member for member in wanted if LEAST_CLASSES.get(member, 2) <= classes]


class AutoAttack(EnsembleAttack):
    """Attacks of AutoAttack (Croce and Hein, 2020), by its authors' package, each on what the ones before left."""

    label: ClassVar[str] = "AutoAttack"
    name: Literal["autoattack"]
    members: list[AutoAttackMember] = Field(default=STANDARD_MEMBERS, min_length=1, validate_default=True)
    """The standard ensemble unless it says otherwise; one alone is that attack by itself."""
    targets: Whole = Field(
        default=STANDARD_TARGETS, ge=1, le=STANDARD_TARGETS, exclude_if=lambda value: value == STANDARD_TARGETS
    )
    """Classes that `apgd_t` and `fab_t` aim at, the likeliest first, or as many as there are; the standard is 9."""
    queries: Whole = Field(default=STANDARD_QUERIES, ge=1, exclude_if=lambda value: value == STANDARD_QUERIES)
    """Queries of Square; the standard is 5,000."""

    @field_validator("members")
    @classmethod
    def _are_defined(cls, value: list[AutoAttackMember], info: ValidationInfo) -> list[AutoAttackMember]:
        images = context(info, "images")
        classes = max(LEAST_CLASSES.values()) if images is None else len(images.classes)
        if undefined := [member for member in value if LEAST_CLASSES.get(member, 2) > classes]:
            needs = " and ".join(f"{member} needs {LEAST_CLASSES[member]}" for member in undefined)
            raise ValueError(
                f"the data has {classes} classes, {needs}; expected [{', '.join(defined_members(classes))}]"
            )
        return value

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

    @override
    def attacks(self, model: nn.Module, seed: int) -> Mapping[AutoAttackMember, Perturb]:
        from pipeline.evaluation.autoattack import ensemble  # it imports the data sets

        return ensemble(model, self, seed)

    @override
    def passes(self) -> Passes:
        targets, queries = self.targets / STANDARD_TARGETS, self.queries / STANDARD_QUERIES
        shares = {"apgd_t": targets, "fab_t": targets, "square": queries}
        standard = [(PASSES[member], shares.get(member, 1)) for member in self.members]
        return Passes(
            gradients=sum(cost.gradients * share for cost, share in standard),
            forwards=sum(cost.forwards * share for cost, share in standard),
        )

    @override
    def remark(self, is_in_union: bool) -> str:
        """What it leaves out, unless it is one member alone, whose column says so."""
        counts = is_in_union or len(self.members) > 1
        found = self.differences() if counts else []
        return f"not the standard ensemble, but {'; '.join(found)}" if found else ""


ATTACK = AutoAttack
