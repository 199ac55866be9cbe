"""Training objectives, one module each: what loss a learner minimises, on which inputs.

Adding one is adding a file: a module here (or anywhere, named by its dotted path) with one subclass of `Objective`
named `OBJECTIVE`. Its pydantic fields are its options in `params.yaml`.
"""

from __future__ import annotations

from typing import Any, get_args

from pydantic import ValidationError, ValidationInfo
from typing_extensions import override

from pipeline.core.extensions import Family
from pipeline.core.values import context
from pipeline.objectives.base import Losses, Moment, Objective

__all__ = [
    "OBJECTIVES",
    "Losses",
    "Moment",
    "Objective",
    "refuse_label_smoothing",
    "resolve_objective",
]


class _Objectives(Family[Objective]):
    """Objectives, whose attacks have the budgets of `threat_model` where a section of the file names norms alone."""

    @override
    def check(self, given: Any, info: ValidationInfo) -> Objective:
        if not isinstance(given, dict):
            return super().check(given, info)
        return resolve_objective(given, context(info, "threat_model") or {})


OBJECTIVES = _Objectives("objective", "pipeline.objectives.*:OBJECTIVE", Objective)  # type: ignore[type-abstract]


def resolve_objective(options: dict[str, Any], threat_model: dict[str, Any]) -> Objective:
    """The objective that a section of the file describes, with the attack budgets of its norms; its own dump gives it
    again.

    Args:
        options: `name`, the objective's own options, and `norm` (or `norms`) instead of complete attack settings;
            `attack` may override some of the norm's budget.
        threat_model: norm -> budget (epsilon, step_size, steps).

    Raises:
        ValueError: the name, an option or a norm is not valid; the message lists the valid ones.
    """
    options = dict(options)
    kind = OBJECTIVES.find(options.get("name"))
    if "attack" in kind.model_fields and "norm" in options:
        own = options.get("attack", {})
        if not isinstance(own, dict):
            raise ValueError("option 'attack': expected a mapping of epsilon, step_size, steps")
        budget = _budget(options.pop("norm"), threat_model)
        options["attack"] = {**_fitting(budget, kind.model_fields["attack"].annotation), **own}
    if "attacks" in kind.model_fields and "norms" in options:
        norms = options.pop("norms")
        if not isinstance(norms, list):
            raise ValueError("option 'norms': expected a list of norms")
        (attack_kind,) = get_args(kind.model_fields["attacks"].annotation)
        options["attacks"] = [_fitting(_budget(norm, threat_model), attack_kind) for norm in norms]
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        raise ValueError(_describe(error)) from None


def refuse_label_smoothing(objective: Objective) -> None:
    """Refuse (ValueError) label smoothing for an objective whose loss has no `Moment.cross_entropy`."""
    if not objective.takes_label_smoothing:
        fitting = [other for other in OBJECTIVES.names() if OBJECTIVES.find(other).takes_label_smoothing]
        raise ValueError(
            f"the loss of objective '{objective.name}' has no cross-entropy whose targets could be smoothed; expected "
            f"0 (leave it out), or one of the objectives {', '.join(fitting)}"
        )


def _budget(norm: Any, threat_model: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(norm, str) or norm not in threat_model:
        known = ", ".join(map(str, threat_model)) or "none"
        raise ValueError(f"norm '{norm}' has no budget in threat_model; norms with one: {known}")
    budget = threat_model[norm]
    return {**(budget if isinstance(budget, dict) else budget.model_dump()), "norm": norm}


def _fitting(budget: dict[str, Any], attack_kind: Any) -> dict[str, Any]:
    """The parts of a budget that an attack takes: APGD finds its step sizes itself."""
    return {key: value for key, value in budget.items() if key in attack_kind.model_fields}


def _describe(error: ValidationError) -> str:
    """Every mistake in an objective's options in one line."""
    parts = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        way_out = " (give 'norm')" if problem["type"] == "missing" and path == "attack" else ""
        parts.append(f"option '{path}': {problem['msg'].removeprefix('Value error, ')}{way_out}")
    return "; ".join(parts)
