"""Values and sections that the whole schema of `params.yaml` is built from."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    ModelWrapValidatorHandler,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from pipeline.core.errors import did_you_mean

Norm = Literal["linf", "l2", "l1"]
Protocol = Literal["paper", "reference_code"]
"""What is followed where the papers' text and the authors' code differ: docs/protocols.md."""
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


def parse_fraction(value: Any) -> Any:
    """Read '8/255' as 8 / 255, so that budgets are written as the field writes them. Other values pass unchanged."""
    if not isinstance(value, str):
        return value
    parts = value.split("/")
    try:
        numbers = [float(part) for part in parts]
        return numbers[0] / numbers[1] if len(numbers) == 2 else float(value)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"expected a number or a fraction such as '8/255', got '{value}'") from None


def _refuse_truth_value(value: Any) -> Any:
    """YAML reads yes, on and true as a truth value, which Python would take for 1."""
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {str(value).lower()}")
    return value


NotTruthValue = BeforeValidator(_refuse_truth_value)
Real = Annotated[float, NotTruthValue, Field(allow_inf_nan=False)]
Whole = Annotated[int, NotTruthValue, Field(lt=2**31)]
"""No count, size or seed needs more, and torch cannot take every integer that YAML can write."""
Budget = Annotated[float, NotTruthValue, BeforeValidator(parse_fraction), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, NotTruthValue, BeforeValidator(parse_fraction), Field(gt=0, allow_inf_nan=False)]


def _check_share(value: str) -> str:
    """Refuse (ValueError) what is no share of the epochs such as '5/120'."""
    part, _, whole = value.partition("/")
    if not (part.isdecimal() and whole.isdecimal() and 0 < int(part) <= int(whole)):
        raise ValueError(f"expected whole epochs, or a share of all epochs such as '5/120', got '{value}'")
    return value


Duration = Annotated[
    Annotated[Whole, Field(ge=1), Tag("whole")] | Annotated[str, AfterValidator(_check_share), Tag("share")],
    Discriminator(lambda value: "share" if isinstance(value, str) and not value.isdecimal() else "whole"),
]
"""Epochs, or a share of all of them, which is the same part of a short run as of a long one: '5/120'."""
Location = tuple[str, ...]
T = TypeVar("T")


def mapping(given: dict[str, Any], key: str) -> dict[str, Any]:
    """A mapping within a section, empty where there is something else."""
    value = given.get(key)
    return value if isinstance(value, dict) else {}


class StrictModel(BaseModel):
    """A section of the file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """What is wrong between the keys of a section, and where; `given` is as in the file and may be anything."""
        yield from ()

    @classmethod
    def valid_keys(cls) -> list[str]:
        """The keys that a section may have in the file."""
        return sorted(cls.model_fields)

    @model_validator(mode="wrap")
    @classmethod
    def _report_all(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell unknown keys, inconsistencies and the mistakes of single keys at once: neither kind hides another."""
        mistakes: list[tuple[Location, str]] = []
        if isinstance(given, dict):
            unknown = [str(key) for key in given if key not in cls.model_fields]
            mistakes += [((key,), f"unknown key; {did_you_mean(key, cls.valid_keys())}") for key in unknown]
            mistakes += cls.inconsistencies(given)
            given = {key: value for key, value in given.items() if key in cls.model_fields}
        if not mistakes:
            return handler(given)
        problems: list[Any] = [
            InitErrorDetails(type="value_error", loc=place, input=None, ctx={"error": text}) for place, text in mistakes
        ]
        try:
            handler(given)
        except ValidationError as error:
            problems = [*error.errors(include_url=False), *problems]
        raise ValidationError.from_exception_data(cls.__name__, problems)


def unless(problems: list[str], value: T) -> T:
    """`value`, or one ValueError with all problems."""
    if problems:
        raise ValueError("; ".join(problems))
    return value


def repeated(values: list[Any]) -> list[str]:
    """A problem for each value that is given more than once."""
    several = sorted(repr(value) for value, times in Counter(values).items() if times > 1)
    return [f"{value} is given more than once" for value in several]


def unique(values: list[T]) -> list[T]:
    """`values`, or a ValueError with those that are given more than once."""
    return unless(repeated(values), values)


def unknown(what: str, names: list[str], valid: list[str] | None) -> list[str]:
    """A problem for each name that is not valid; none where there are no valid ones, which is a mistake elsewhere."""
    return [f"unknown {what} '{name}': {did_you_mean(name, valid)}" for name in names if valid and name not in valid]


def is_none(value: Any) -> bool:
    """Whether a setting is not given: one that was added later is then left out of dumps, and so of fingerprints."""
    return value is None


def _digest(content: Any) -> str:
    """16 hexadecimal digits over plain values. Its name is part of the digests of code that results are found by."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def context(info: ValidationInfo, key: str) -> Any:
    """A fact of another section of the file; None where it is not known."""
    return (info.context or {}).get(key)


def declared(what: str, section: str) -> AfterValidator:
    """Checks that names, one or a list without repetitions, are declared in another section of the file.

    Args:
        what: How messages call one of them, for example 'method'.
        section: Its key in the validation's context, for example 'methods'.
    """

    def check(value: Any, info: ValidationInfo) -> Any:
        names = value if isinstance(value, list) else [value]
        return unless([*unknown(what, names, context(info, section)), *repeated(names)], value)

    return AfterValidator(check)


def _check_breakpoints(epochs: list[float], info: ValidationInfo) -> list[float]:
    """Refuse (ValueError) breakpoints that do not increase or that lie beyond the last epoch."""
    problems = []
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        problems.append(f"breakpoints must increase strictly, got {epochs}")
    last = context(info, "epochs")
    if last is not None and max(epochs) > last:
        problems.append(f"breakpoint {max(epochs):g} lies beyond the last epoch {last} (training.epochs)")
    return unless(problems, epochs)


def in_epochs(duration: int | str, epochs: int) -> Fraction:
    """A `Duration` in epochs, where all epochs are `epochs`; exact, so that it can be compared with whole epochs."""
    return Fraction(duration) * epochs if isinstance(duration, str) else Fraction(duration)


Seeds = Annotated[list[Annotated[Whole, Field(ge=0)]], Field(min_length=1), AfterValidator(unique)]
Breakpoints = Annotated[list[Annotated[Real, Field(ge=0)]], Field(min_length=1), AfterValidator(_check_breakpoints)]


Interpolation = Literal["linear", "cosine", "step"]


class Schedule(StrictModel):
    """A value that changes between breakpoints, in epochs; epochs count from 1 and 0 is the start."""

    epochs: Breakpoints
    """Strictly increasing; before the first and after the last the value stays constant."""
    values: list[Annotated[Real, Field(ge=0)]]
    """The value at each breakpoint."""
    interpolation: Interpolation = "linear"
    """From one value to the next: in a straight line, along half a cosine wave, or at once at the next breakpoint."""
    every: Literal["epoch", "epoch_start", "step"] = Field(default="epoch", exclude_if=lambda value: value == "epoch")
    """When it changes: between epochs, each of which has the value at its end, or (`epoch_start`) at its start; or
    after every `step`, to the value at that fraction of the epoch."""

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """A value for every breakpoint."""
        epochs, values = given.get("epochs"), given.get("values")
        if isinstance(epochs, list) and isinstance(values, list) and len(epochs) != len(values):
            yield ("values",), f"{len(epochs)} breakpoints need as many values, got {len(values)}"

    def at(self, epoch: int, share: float = 1.0) -> float:
        """The value in `epoch` (from 1), of which `share` (0 to 1) is over."""
        moment = {"epoch": epoch, "epoch_start": epoch - 1, "step": epoch - 1 + share}[self.every]
        return interpolate(self.epochs, self.values, moment, self.interpolation)


def interpolate(
    epochs: list[float], values: list[float], epoch: float, interpolation: Interpolation = "linear"
) -> float:
    """The value at `epoch` of a curve through (epoch, value), constant outside the breakpoints."""
    for start, end, first, second in zip(epochs, epochs[1:], values, values[1:], strict=False):
        if start <= epoch < end:
            share = (epoch - start) / (end - start)
            way = {"linear": share, "cosine": (1 - math.cos(math.pi * share)) / 2, "step": 0.0}[interpolation]
            return first + (second - first) * way
    return values[0] if epoch < epochs[0] else values[-1]


class AttackBudget(StrictModel):
    """The inner maximisation for one norm: radius, step and number of steps (Generalist++ IV-B: step = epsilon / 4)."""

    epsilon: Budget
    step_size: Positive
    steps: Whole = Field(ge=0)


class Normalization(StrictModel):
    """Per-channel standardisation inside the model: (image - mean) / std; attacks still see inputs in [0, 1]."""

    mean: list[Real]
    std: list[Annotated[Real, Field(gt=0)]]

    @field_validator("mean", "std")
    @classmethod
    def _cover_the_channels(cls, value: list[float], info: ValidationInfo) -> list[float]:
        images = context(info, "images")
        if images is not None and len(value) != images.channels:
            raise ValueError(f"expected one value for each of {images.channels} channels, got {len(value)}")
        return value
