"""Training objectives, one module each: what loss a learner minimises, on which inputs.

Adding one is adding a file: a module here (or anywhere, named by its dotted path) with one subclass of `Objective`
named `OBJECTIVE`. Its pydantic fields are its options in `params.yaml`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError

from pipeline.errors import did_you_mean
from pipeline.objectives.base import Losses, Moment, Objective

__all__ = ["Losses", "Moment", "Objective", "build_objective", "objective_names", "resolve_objective"]


def objective_names() -> list[str]:
    """The names of the objectives that come with this project."""
    return sorted(module.name for module in iter_modules(__path__) if module.name != "base")


def resolve_objective(options: dict[str, Any], threat_model: dict[str, Any]) -> dict[str, Any]:
    """Fill in the attack budgets and check the options; the result is complete and resolves to itself.

    Args:
        options: `name`, the objective's own options, and `norm` (or `norms`) instead of complete attack settings;
            `attack` may override some of the norm's budget.
        threat_model: norm -> budget (epsilon, step_size, steps).

    Raises:
        ValueError: the name, an option or a norm is not valid; the message lists the valid ones.
    """
    options = dict(options)
    kind = _objective_class(options.get("name"))
    norm = options.pop("norm", None)
    if norm is not None:
        options["attack"] = {**_budget(norm, threat_model), **options.get("attack", {})}
    norms = options.pop("norms", None)
    if norms is not None:
        options["attacks"] = [_budget(each, threat_model) for each in norms]
    try:
        return kind.model_validate(options).model_dump(mode="json")
    except ValidationError as error:
        raise ValueError(_describe(kind, error)) from None


def build_objective(resolved: dict[str, Any]) -> Objective:
    """The objective that `resolve_objective` described."""
    return _objective_class(resolved["name"]).model_validate(resolved)


def _objective_class(name: Any) -> type[Objective]:
    if not isinstance(name, str):
        raise ValueError(f"an objective needs a 'name'; {did_you_mean(str(name), objective_names())}")
    path = name if "." in name else f"{__name__}.{name}"
    try:
        found = find_spec(path)
    except ModuleNotFoundError:
        found = None
    if found is None or name == "base":
        raise ValueError(f"unknown objective '{name}': {did_you_mean(name, objective_names())}")
    kind: type[Objective] = import_module(path).OBJECTIVE
    return kind


def _budget(norm: Any, threat_model: dict[str, Any]) -> dict[str, Any]:
    if norm not in threat_model:
        raise ValueError(
            f"norm '{norm}' has no budget in threat_model; norms with one: {', '.join(map(str, threat_model))}"
        )
    budget = threat_model[norm]
    return {**(budget if isinstance(budget, dict) else budget.model_dump()), "norm": norm}


def _describe(kind: type[Objective], error: ValidationError) -> str:
    """Every mistake in an objective's options in one line."""
    valid = [field for field in kind.model_fields if field != "name"]
    parts = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            parts.append(f"option '{path}' is not taken; {did_you_mean(path, valid) if valid else 'it takes none'}")
        else:
            parts.append(f"option '{path}': {problem['msg']}" + (" (give 'norm')" if path == "attack" else ""))
    return "; ".join(parts)
