"""The ablation grid: from the studies of `params.yaml` to experiments, each of them once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pydantic import ValidationError

from pipeline.config.data import DataSettings
from pipeline.config.experiment import LONGEST_NAME, Experiment
from pipeline.config.extending import merged
from pipeline.config.methods import MethodSettings
from pipeline.config.mixtures.moving_average import MovingAverageSettings
from pipeline.config.params import Params
from pipeline.config.reading import cross_references, describe
from pipeline.config.studies import (
    CommunicationIntervalStudy,
    FirstRatioStudy,
    OptimizersStudy,
    ReplacedExampleStudy,
    SecondRatioStudy,
    SettingsStudy,
    Study,
    WeightAveragingStudy,
)
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.values import in_epochs


@dataclass(frozen=True)
class Cell:
    """One point of the grid: a method with one setting of one study, and one seed."""

    study: str
    """A key of `ablation.studies`."""
    method: str
    """The method that is varied, a key of `methods`."""
    setting: str
    """The value as a reader sees it: '1-1-1-0', 'b = 0.4', 'c = 5', 'linf', 'SGD/Adam', 'example 17'."""
    value: float | None
    """The number on the axis, where the study has one."""
    experiment: Experiment
    """What is trained; several cells may share one, which its fingerprint tells."""


@dataclass(frozen=True)
class _Variation:
    """A setting of a study, and the method that has it, as plain values."""

    setting: str
    value: float | None
    method: dict[str, Any]
    problem: str | None = None
    """Why there is no such method, found before it is checked like any other."""
    data: DataSettings | None = None
    """The images, where they are not those of the file."""


def cells(params: Params, studies: Sequence[str] | None = None, seeds: Sequence[int] | None = None) -> list[Cell]:
    """The cells of the grid, in the order of the file; cells that are the same experiment share it.

    Args:
        params: The file.
        studies: Keys of `ablation.studies` (None: all).
        seeds: Any from 0 on (None: those of the file).

    Raises:
        RequestError: a study is unknown, a seed is negative, or cells of the chosen studies are impossible; the message
            lists every one.
    """
    declared = params.ablation.studies
    unknown = [name for name in studies or () if name not in declared]
    if unknown:
        valid = list(declared)
        raise RequestError("; ".join(f"unknown study '{name}': {did_you_mean(name, valid)}" for name in unknown))
    seeds = params.seeds if seeds is None else list(dict.fromkeys(seeds))
    negative = [seed for seed in seeds if seed < 0]
    if negative:
        raise RequestError(f"seeds are whole numbers from 0 on, got {', '.join(map(str, negative))}")
    found: list[Cell] = []
    problems: list[str] = []
    # Of the whole grid, whatever is chosen: what an experiment is called must not depend on what is asked for.
    experiments = _methods_as_they_are(params, seeds)
    named = {one.identifier: fingerprint for fingerprint, one in experiments.items()}
    for study in declared:
        chosen = studies is None or study in studies
        for cell in _study_cells(params, study, seeds):
            if isinstance(cell, str):
                problems += [cell] if chosen else []
                continue
            fingerprint = cell.experiment.fingerprint
            shared = experiments.setdefault(fingerprint, cell.experiment)
            if named.setdefault(shared.identifier, fingerprint) != fingerprint:
                problems += [_same_name(cell)] if chosen else []
                continue
            found += [replace(cell, experiment=shared)] if chosen else []
    problems = list(dict.fromkeys(problems))  # with several seeds, one name is taken several times
    if problems:
        count = "1 impossible cell" if len(problems) == 1 else f"{len(problems)} impossible cells"
        raise RequestError(f"the grid has {count}, nothing was started\n" + "\n".join(f"  {line}" for line in problems))
    return found


def _methods_as_they_are(params: Params, seeds: Sequence[int]) -> dict[str, Experiment]:
    """The experiments of `methods` by fingerprint: a cell that is one of them has its name."""
    resolved = (params.resolve(name, method, seed) for name, method in params.methods.items() for seed in seeds)
    return {experiment.fingerprint: experiment.model_copy(update={"grid": True}) for experiment in resolved}


def _study_cells(params: Params, study: str, seeds: Sequence[int]) -> Iterator[Cell | str]:
    """The cells of a study, and a line for every impossible one."""
    settings = params.ablation.studies[study]
    for method in settings.methods:
        for variation in _variations(params, settings, method):
            try:
                varied = _check(params, variation)
                name = cell_name(study, method, variation.setting)
            except ValueError as error:
                yield f"{study}: {method}, {variation.setting}: {error}"
                continue
            on = params if variation.data is None else params.model_copy(update={"data": variation.data})
            for seed in seeds:
                experiment = on.resolve(name, varied, seed).model_copy(update={"grid": True})
                yield Cell(study, method, variation.setting, variation.value, experiment)


def cell_name(study: str, method: str, setting: str) -> str:
    """What experiments of a cell are called, if they are no others. Raises ValueError where that is too long."""
    name = re.sub(r"[^a-z0-9]+", "_", f"{method}_{study}_{setting}".lower()).strip("_")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"its name has {len(name)} characters, at most {LONGEST_NAME} are possible: '{name}'")
    return name


def _same_name(cell: Cell) -> str:
    name = cell.experiment.name
    return (
        f"{cell.study}: {cell.method}, {cell.setting}: a different experiment is called '{name}', too; settings, and "
        "methods and studies, must differ in letters or digits"
    )


def _check(params: Params, variation: _Variation) -> MethodSettings:
    """The method of a variation, checked as if it were in the file. Raises ValueError with what is wrong."""
    if variation.problem is not None:
        raise ValueError(variation.problem)
    return checked_method(variation.method, params)


def checked_method(content: dict[str, Any], params: Params) -> MethodSettings:
    """A method from plain values, checked as if it were in the file. Raises ValueError with what is wrong."""
    context = cross_references(params.model_dump(mode="json", include={"training", "data", "model", "threat_model"}))
    try:
        return MethodSettings.model_validate(content, context=context)
    except ValidationError as error:
        messages = [describe(problem, content) for problem in error.errors()]
        raise ValueError("; ".join(messages)) from None


def _variations(params: Params, study: Study, name: str) -> Iterator[_Variation]:
    if name not in params.methods:
        yield _unknown_method("every setting", name, params)
        return
    method = params.methods[name]
    content = method.model_dump(mode="json")
    if isinstance(study, SettingsStudy):
        for setting, changes in study.values.items():
            yield _Variation(setting, None, merged(content, changes))
    elif isinstance(study, ReplacedExampleStudy):
        yield from _replaced_examples(study, params.data, content)
    elif isinstance(method.mixture, MovingAverageSettings):
        yield from _of_mixture(params, study, name, method.mixture, content)
    else:
        yield _Variation("every setting", None, content, "it has no mixture with the rule 'moving_average' to vary")


def _of_mixture(
    params: Params,
    study: Study,
    name: str,
    mixture: MovingAverageSettings,
    content: dict[str, Any],
) -> Iterator[_Variation]:
    """Variations that are about a moving average of several learners."""
    if isinstance(study, FirstRatioStudy):
        yield from _first_ratios(study, mixture, content)
    elif isinstance(study, SecondRatioStudy):
        yield from _second_ratios(study, mixture, content)
    elif isinstance(study, CommunicationIntervalStudy):
        yield from _intervals(study, mixture, content, content["epochs"] or params.training.epochs)
    elif isinstance(study, OptimizersStudy):
        yield from _optimizers(study, content)
        yield from _joint(study, params)
    elif isinstance(study, WeightAveragingStudy):
        yield from _averages(mixture, content)


def with_mixture(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A method, as plain values, with changes to its mixture."""
    return {**content, "mixture": {**content["mixture"], **changes}}


def _first_ratios(
    study: FirstRatioStudy, mixture: MovingAverageSettings, content: dict[str, Any]
) -> Iterator[_Variation]:
    first, shares = next(iter(mixture.mixing_ratios)), shares_of_rest(mixture)
    labels = study.labels or ["-".join(f"{ratio:g}" for ratio in values) for values in study.values]
    for label, values in zip(labels, study.values, strict=True):
        ratios = {first: values} | {
            name: [rounded(share * (1 - ratio)) for ratio in values] for name, share in shares.items()
        }
        yield _Variation(label, None, with_mixture(content, mixing_ratios=ratios))


def shares_of_rest(mixture: MovingAverageSettings) -> dict[str, float]:
    """How all learners but the first share what it leaves at the last breakpoint: evenly, where it leaves nothing."""
    _, *others = mixture.mixing_ratios
    last = {name: mixture.mixing_ratios[name][-1] for name in others}
    total = sum(last.values())
    return {name: ratio / total if total else 1 / len(others) for name, ratio in last.items()}


def _second_ratios(
    study: SecondRatioStudy, mixture: MovingAverageSettings, content: dict[str, Any]
) -> Iterator[_Variation]:
    if len(mixture.mixing_ratios) != 3:
        names = list(mixture.mixing_ratios)
        yield _Variation("every b", None, content, f"b divides the rest between two of three learners, it has {names}")
        return
    (first, ratios), (second, _), (third, _) = mixture.mixing_ratios.items()
    for b in study.values:
        mixed = {
            first: ratios,
            second: [rounded(b * (1 - ratio)) for ratio in ratios],
            third: [rounded((1 - b) * (1 - ratio)) for ratio in ratios],
        }
        yield _Variation(f"b = {b:g}", b, with_mixture(content, mixing_ratios=mixed))


def _intervals(
    study: CommunicationIntervalStudy, mixture: MovingAverageSettings, content: dict[str, Any], epochs: int
) -> Iterator[_Variation]:
    for value in study.values:
        length = in_epochs(value, epochs)
        shown = length if length.denominator == 1 else value
        meets = epochs // length * length >= in_epochs(mixture.warmup_epochs, epochs)
        problem = (
            f"it divides none of the epochs from warmup_epochs {mixture.warmup_epochs} to the last, {epochs}: the "
            "learners would never restart from the global learner"
        )
        varied = with_mixture(content, communication_interval=value)
        yield _Variation(f"c = {shown}", float(length), varied, None if meets else problem)


def _averages(mixture: MovingAverageSettings, content: dict[str, Any]) -> Iterator[_Variation]:
    names = list(content["learners"])
    average = {"decay": mixture.decay, "warmup": mixture.decay_warmup}
    for setting, averaged in [("none", []), *((name, [name]) for name in names), ("all", names)]:
        learners = {
            name: {**learner, "weight_averaging": average if name in averaged else None}
            for name, learner in content["learners"].items()
        }
        varied = with_mixture(content, source="weight_averages" if averaged else "learners")
        yield _Variation(setting, None, {**varied, "learners": learners})


def _optimizers(study: OptimizersStudy, content: dict[str, Any]) -> Iterator[_Variation]:
    learners = content["learners"]
    own = {name: _kind(learner["optimizer"]) for name, learner in learners.items()}
    for kinds in product(*(dict.fromkeys([kind, "Adam"]) for kind in own.values())):
        adams = [name for name, kind in zip(learners, kinds, strict=True) if kind == "Adam"]
        shown = "none" if not adams else "all" if len(adams) == len(learners) else ", ".join(adams)
        varied = _with_adam(study, content, [name for name in adams if own[name] != "Adam"])
        yield _Variation(f"Adam: {shown}", None, varied)


def _joint(study: OptimizersStudy, params: Params) -> Iterator[_Variation]:
    """The baseline as it is, and with Adam."""
    if study.joint is None:
        return
    if study.joint not in params.methods:
        yield _unknown_method("joint", study.joint, params)
        return
    joint = params.methods[study.joint].model_dump(mode="json")
    kinds = dict.fromkeys(_kind(learner["optimizer"]) for learner in joint["learners"].values())
    yield _Variation(f"joint: {'/'.join(kinds)}", None, joint)
    yield _Variation("joint: Adam", None, _with_adam(study, joint, joint["learners"]))


def _kind(optimizer: dict[str, Any]) -> str:
    """As the field writes it: 'SGD', 'Adam'."""
    return "Adam" if optimizer["name"] == "adam" else str(optimizer["name"]).upper()


def _replaced_examples(
    study: ReplacedExampleStudy, data: DataSettings, content: dict[str, Any]
) -> Iterator[_Variation]:
    yield _Variation("none", None, content, data=data.model_copy(update={"replaced_example": None}))
    for position in study.values:
        setting = f"example {position}"
        try:
            varied = DataSettings.model_validate({**data.model_dump(), "replaced_example": position})
        except ValidationError as error:
            yield _Variation(setting, None, content, error.errors()[0]["msg"].removeprefix("Value error, "))
        else:
            yield _Variation(setting, None, content, data=varied)


def _unknown_method(setting: str, name: str, params: Params) -> _Variation:
    return _Variation(setting, None, {}, f"unknown method '{name}': {did_you_mean(name, list(params.methods))}")


def _with_adam(study: OptimizersStudy, content: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The method with Adam for the learners `names`."""
    adam = {"optimizer": study.adam.model_dump(mode="json")}
    learners = {name: learner | (adam if name in names else {}) for name, learner in content["learners"].items()}
    return {**content, "learners": learners}


def rounded(ratio: float) -> float:
    """Without the last digits of binary arithmetic, so that 1 - 0.8 is 0.2 and equal cells have equal fingerprints."""
    return round(ratio, 12)
