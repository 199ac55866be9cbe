"""The closed schema of `params.yaml`, and the experiments that it declares.

Every key is known, typed and checked against the others before anything starts; one message lists every mistake with
its path in the file. This module is free of torch until an objective's options are checked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.data.facts import DATASETS
from pipeline.errors import RequestError, did_you_mean
from pipeline.models import check_input

NUMERICS_VERSION = 1
"""Part of every fingerprint: raise it when a change of the code changes numbers (the golden tests tell when)."""

Norm = Literal["linf", "l2"]
DatasetName = Literal["digits", "cifar10", "cifar100", "mnist", "svhn"]
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


Budget = Annotated[float, BeforeValidator(parse_fraction), Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, BeforeValidator(parse_fraction), Field(gt=0, allow_inf_nan=False)]


class Closed(BaseModel):
    """A section of the file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PiecewiseLinear(Closed):
    """A value that changes linearly between breakpoints, in epochs; epochs count from 1 and 0 is the start."""

    epochs: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """Breakpoints, strictly increasing; before the first and after the last the value stays constant."""
    values: list[Annotated[float, Field(ge=0)]]
    """The value at each breakpoint."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        check_breakpoints(self.epochs, info)
        if len(self.values) != len(self.epochs):
            raise ValueError(f"{len(self.epochs)} breakpoints need as many values, got {len(self.values)}")
        return self

    def at(self, epoch: float) -> float:
        """The value at `epoch`."""
        return interpolate(self.epochs, self.values, epoch)


def interpolate(epochs: list[float], values: list[float], epoch: float) -> float:
    """Piecewise-linear interpolation, constant outside the breakpoints."""
    for start, end, low, high in zip(epochs, epochs[1:], values, values[1:], strict=False):
        if start <= epoch < end:
            return low + (high - low) * (epoch - start) / (end - start)
    return values[0] if epoch < epochs[0] else values[-1]


def check_breakpoints(epochs: list[float], info: ValidationInfo) -> None:
    """Refuse (ValueError) breakpoints that do not increase or that lie beyond the last epoch."""
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ValueError(f"breakpoints must increase strictly, got {epochs}")
    last = _context(info, "epochs")
    if isinstance(last, int) and epochs[-1] > last:
        raise ValueError(f"breakpoint {epochs[-1]:g} lies beyond the last epoch {last} (training.epochs)")


def _context(info: ValidationInfo, key: str) -> Any:
    return (info.context or {}).get(key)


class AugmentationSettings(Closed):
    """Random augmentation of training images, drawn anew every epoch."""

    crop_padding: int = Field(default=0, ge=0, le=16)
    """Pad with this many zero pixels on each side, then crop back at a random place."""
    horizontal_flip: bool = False
    """Mirror each image with probability 1/2."""


class DataSettings(Closed):
    """Which images are trained and tested on."""

    name: DatasetName
    root: Path = Path("data/raw")
    """Where the official files are, or are downloaded to. Not part of an experiment's identity."""
    train_images: int | None = Field(default=None, gt=0)
    """Use only this many training images, a fixed random choice (null: all that are not held out)."""
    held_out_images: int = Field(gt=0)
    """Training images that are set aside for model selection and never trained on."""
    test_images: int | None = Field(default=None, gt=0)
    """Use only the first so many test images of a fixed random order (null: all, in the official order)."""
    split_seed: int = 0
    """Seed of the split; independent of the experiment's seed, so that every seed sees the same images."""
    augmentation: AugmentationSettings = AugmentationSettings()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        facts = DATASETS[self.name]
        if self.held_out_images + (self.train_images or 1) > facts.train_images:
            raise ValueError(
                f"held_out_images {self.held_out_images} + train_images {self.train_images or 'at least 1'} exceed "
                f"the {facts.train_images} training images of {self.name}"
            )
        if (self.test_images or 0) > facts.test_images:
            raise ValueError(f"test_images {self.test_images} exceed the {facts.test_images} of {self.name}")
        return self


class Normalization(Closed):
    """Per-channel standardisation inside the model: (image - mean) / std; attacks still see inputs in [0, 1]."""

    mean: list[float]
    std: list[Annotated[float, Field(gt=0)]]


class ModelSettings(Closed):
    """The network of every learner that does not name its own."""

    architecture: str
    normalization: Normalization | None = None

    @field_validator("architecture")
    @classmethod
    def _takes_the_data(cls, value: str, info: ValidationInfo) -> str:
        return _check_architecture(value, info)


def _check_architecture(value: str, info: ValidationInfo) -> str:
    dataset = _context(info, "dataset")
    if dataset in DATASETS:
        check_input(value, dataset)
    return value


class AttackBudget(Closed):
    """The inner maximisation for one norm: radius, step and number of steps (Generalist++ IV-B: step = epsilon / 4)."""

    epsilon: Budget
    step_size: Positive
    steps: int = Field(ge=0)


class SGDSettings(Closed):
    """`torch.optim.SGD`."""

    name: Literal["sgd"]
    learning_rate: Positive
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)


class AdamSettings(Closed):
    """`torch.optim.Adam`."""

    name: Literal["adam"]
    learning_rate: Positive
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)


OptimizerSettings = Annotated[SGDSettings | AdamSettings, Field(discriminator="name")]


def _check_objective(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    from pipeline.objectives import resolve_objective

    return resolve_objective(value, _context(info, "threat_model") or {})


class WeightAveraging(Closed):
    """An exponential moving average: average <- decay * average + (1 - decay) * weights, after every step."""

    decay: float = Field(ge=0, lt=1)
    warmup: bool = False
    """Use min(decay, (s + 1) / (s + 10)) at update s, as the authors' code does (methods.md 2.2, item 8)."""


class LearnerSettings(Closed):
    """One learner: a network with its own objective, optimizer and schedule."""

    objective: Annotated[dict[str, Any], AfterValidator(_check_objective)]
    """`name` of a module in `pipeline/objectives/` (or a dotted module path) and that objective's options."""
    optimizer: OptimizerSettings
    schedule: PiecewiseLinear
    """Factor on the learning rate, per epoch."""
    weight_averaging: WeightAveraging | None = None
    """Keep a moving average of this learner's weights beside it; for a single learner, it is the result."""
    architecture: str | None = None
    """A network of its own instead of `model.architecture`."""

    @field_validator("architecture")
    @classmethod
    def _takes_the_data(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value if value is None else _check_architecture(value, info)


class MixtureSettings(Closed):
    """The global learner (Generalist++ Alg. 1 and 2): an EMA of the convex combination of the learners' weights."""

    breakpoints: list[Annotated[float, Field(ge=0)]] = Field(min_length=1)
    """Epochs between which the mixing ratios are linear."""
    mixing_ratios: dict[Name, list[float]]
    """gamma of each learner at every breakpoint: a point on the simplex each."""
    decay: float = Field(ge=0, lt=1)
    """alpha' of the paper: theta_g <- decay * theta_g + (1 - decay) * mixture, after every step."""
    warmup_epochs: int = Field(ge=1)
    """t': the first epoch after which the learners may restart from the global learner."""
    communication_interval: int = Field(ge=1)
    """c: they do so after every epoch from t' on that c divides."""
    redistribution: Literal["epoch_end", "every_batch"] = "epoch_end"
    """`every_batch`: after every minibatch of those epochs, as the authors' code does (methods.md 2.2, item 11)."""
    decay_warmup: bool = False
    """Use min(decay, (s + 1) / (s + 10)) at update s (item 8)."""
    source: Literal["learners", "weight_averages"] = "learners"
    """What is mixed: the raw weights, or each learner's own moving average (item 7)."""
    batch_norm: Literal["average", "recompute"] = "average"
    """BatchNorm statistics of the global learner: mixed like weights, or recomputed on clean training images."""

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> Self:
        check_breakpoints(self.breakpoints, info)
        for learner, ratios in self.mixing_ratios.items():
            if len(ratios) != len(self.breakpoints):
                raise ValueError(
                    f"mixing_ratios.{learner}: expected {len(self.breakpoints)} ratios, one for each of breakpoints, "
                    f"got {len(ratios)}"
                )
        for position, epoch in enumerate(self.breakpoints):
            _check_simplex({name: ratios[position] for name, ratios in self.mixing_ratios.items()}, epoch)
        last = _context(info, "epochs")
        if isinstance(last, int) and self.warmup_epochs > last:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} lies beyond the last epoch {last} (training.epochs): the learners "
                "would never restart from the global learner"
            )
        return self

    def ratios_at(self, epoch: float) -> dict[str, float]:
        """The mixing ratio of every learner at `epoch`; they are >= 0 and sum to 1."""
        return {name: interpolate(self.breakpoints, values, epoch) for name, values in self.mixing_ratios.items()}


def _check_simplex(ratios: dict[str, float], epoch: float) -> None:
    total = sum(ratios.values())
    if min(ratios.values(), default=0) < 0 or abs(total - 1) > 1e-9:
        raise ValueError(
            f"mixing ratios at epoch {epoch:g} leave the simplex: {ratios} (each must be >= 0 and their sum 1, "
            f"the sum is {total:g})"
        )


class MethodSettings(Closed):
    """One row of the tables: a list of learners, and how they are combined when there are several."""

    label: str
    """How tables and figures name it; LaTeX is escaped, `_{...}` and `^{...}` are kept in math."""
    learners: dict[Name, LearnerSettings] = Field(min_length=1)
    mixture: MixtureSettings | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = list(self.learners)
        if "global" in names:
            raise ValueError("'global' is the name of the mixture's own learner; give this learner another name")
        if self.mixture is None:
            if len(names) > 1:
                raise ValueError(f"{len(names)} learners ({', '.join(names)}) need a 'mixture' that combines them")
            return self
        if set(self.mixture.mixing_ratios) != set(names):
            raise ValueError(
                f"mixture.mixing_ratios names {sorted(self.mixture.mixing_ratios)}, learners are {sorted(names)}"
            )
        architectures = {name: learner.architecture for name, learner in self.learners.items()}
        if len(set(architectures.values())) > 1:
            raise ValueError(
                "learners of different architectures cannot be mixed, their weights do not correspond: "
                + ", ".join(f"{name} has {value or 'model.architecture'}" for name, value in architectures.items())
            )
        missing = [name for name, learner in self.learners.items() if learner.weight_averaging is None]
        if self.mixture.source == "weight_averages" and missing:
            raise ValueError(
                f"mixture.source 'weight_averages' needs weight_averaging on every learner; missing: {missing}"
            )
        return self


class SelectionSettings(Closed):
    """Which epoch's weights are the result."""

    split: Literal["held_out", "test", "last"]
    """`held_out`: the best epoch on held-out training images; `test`: on test images, as the authors' code does (item
    24; it leaks, and tables say so); `last`: the last epoch."""
    natural_floor: float = Field(default=0.0, ge=0, le=1)
    """Epochs with a natural accuracy below this are not chosen (the authors' code: 0.88)."""


class TrainingSettings(Closed):
    """What all learners share."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    selection: SelectionSettings
    validation_interval: int = Field(default=1, ge=1)
    """Measure held-out accuracies after every so many epochs, and after the last."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of training steps; `auto` is bfloat16 where the hardware has it. Verdicts are always float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Not part of an experiment's identity."""
    threads: int | None = Field(default=None, ge=1)
    """CPU threads (null: as torch decides). Not part of an experiment's identity."""


class PGDAttackSettings(Closed):
    """PGD with a fixed number of steps and a random start, the last iterate counts."""

    name: Literal["pgd"]
    norm: Norm
    epsilon: Budget
    step_size: Positive
    steps: int = Field(ge=1)
    images: int | None = Field(default=None, gt=0)
    """Attack only the first so many test images (null: all)."""


class AutoAttackSettings(Closed):
    """The standard AutoAttack ensemble of Croce and Hein (2020), by its authors' package."""

    name: Literal["autoattack"]
    norm: Norm
    epsilon: Budget
    images: int | None = Field(default=None, gt=0)
    """Attack only the first so many test images (null: all)."""


EvaluationAttack = Annotated[PGDAttackSettings | AutoAttackSettings, Field(discriminator="name")]


class EvaluationSettings(Closed):
    """What is measured on the test images."""

    batch_size: int = Field(ge=1)
    seed: int = 0
    attacks: dict[Name, EvaluationAttack]
    """By the name of the metric that each gives, for example `aa_linf`."""
    union: list[Name] = Field(min_length=2)
    """The attacks whose mean accuracy is the paper's Union, and whose per-image minimum is the worst-case union."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        unknown = [name for name in self.union if name not in self.attacks]
        if unknown:
            raise ValueError(f"union names {unknown}: {did_you_mean(unknown[0], list(self.attacks))}")
        return self


class TableColumn(Closed):
    """One column of a table."""

    metric: str
    label: str


class TableSettings(Closed):
    """One table of the paper: rows are methods, columns are metrics."""

    caption: str
    rows: list[str] = Field(min_length=1)
    columns: list[TableColumn] = Field(min_length=1)
    digits: int = Field(default=2, ge=0, le=4)


class Params(Closed):
    """The whole of `params.yaml`."""

    suite: Name
    description: str
    protocol: Literal["paper", "reference_code"]
    seeds: list[Annotated[int, Field(ge=0)]] = Field(min_length=1)
    data: DataSettings
    model: ModelSettings
    threat_model: dict[Norm, AttackBudget]
    training: TrainingSettings
    methods: dict[Name, MethodSettings] = Field(min_length=1)
    evaluation: EvaluationSettings
    tables: dict[Name, TableSettings]

    @model_validator(mode="after")
    def _check(self) -> Self:
        known_metrics = ["natural", "union", "worst_case_union", *self.evaluation.attacks]
        problems = []
        for name, table in self.tables.items():
            unknown_rows = [row for row in table.rows if row not in self.methods]
            problems += [
                f"tables.{name}.rows: unknown method '{row}': {did_you_mean(row, list(self.methods))}"
                for row in unknown_rows
            ]
            unknown = [column.metric for column in table.columns if column.metric not in known_metrics]
            problems += [
                f"tables.{name}.columns: unknown metric '{metric}': {did_you_mean(metric, known_metrics)}"
                for metric in unknown
            ]
        if len(set(self.seeds)) != len(self.seeds):
            problems.append(f"seeds: {self.seeds} repeats a seed")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def experiments(self) -> Iterator[Experiment]:
        """Every experiment of the suite: each method with each seed, in the order of the file."""
        for method in self.methods:
            for seed in self.seeds:
                yield self.experiment(method, seed)

    def experiment(self, method: str, seed: int) -> Experiment:
        """The experiment of one method and seed.

        Raises:
            RequestError: the file declares no such method.
        """
        if method not in self.methods:
            raise RequestError(f"unknown method '{method}': {did_you_mean(method, list(self.methods))}")
        return Experiment(
            suite=self.suite,
            protocol=self.protocol,
            name=method,
            seed=seed,
            data=self.data,
            model=self.model,
            threat_model=self.threat_model,
            training=self.training,
            method=self.methods[method],
            evaluation=self.evaluation,
        )


class Experiment(Closed):
    """Data set x network x method x protocol x seed, fully resolved: all that `train` and `evaluate` need to know."""

    suite: Name
    protocol: str
    name: Name
    seed: int
    data: DataSettings
    model: ModelSettings
    threat_model: dict[Norm, AttackBudget]
    """Budgets of the held-out accuracies; the learners' own attacks are already in their objectives."""
    training: TrainingSettings
    method: MethodSettings
    evaluation: EvaluationSettings

    @property
    def identifier(self) -> str:
        """The experiment's name among those of its suite, for example `generalist_t-1`."""
        return f"{self.name}-{self.seed}"

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over everything that changes the trained weights, and over nothing else."""
        return _digest(self.training_identity())

    @property
    def evaluation_fingerprint(self) -> str:
        """16 hexadecimal digits over the trained weights' identity and everything that changes the verdicts."""
        return _digest({"weights": self.fingerprint, "evaluation": self.evaluation.model_dump(mode="json")})

    def training_identity(self) -> dict[str, Any]:
        """What the fingerprint covers, as plain values: names, labels, paths and devices are left out."""
        data = self.data.model_dump(
            mode="json", exclude={"root"} | (set() if self._uses_test_images else {"test_images"})
        )
        return {
            "numerics_version": NUMERICS_VERSION,
            "seed": self.seed,
            "data": data,
            "model": self.model.model_dump(mode="json"),
            "threat_model": {norm: budget.model_dump(mode="json") for norm, budget in self.threat_model.items()},
            "training": self.training.model_dump(mode="json", exclude={"device", "threads"}),
            "learners": {name: learner.model_dump(mode="json") for name, learner in self.method.learners.items()},
            "mixture": self.method.mixture and self.method.mixture.model_dump(mode="json"),
        }

    @property
    def _uses_test_images(self) -> bool:
        return self.training.selection.split == "test"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def load_params(path: Path) -> Params:
    """Read and check `params.yaml`.

    Raises:
        RequestError: the file is missing or is not YAML, or it has mistakes; the message lists every one.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}). 'make suite SUITE=digits' writes it.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: is not YAML: {error}") from None
    return parse_params(raw, str(path))


def parse_params(raw: Any, origin: str = "params.yaml") -> Params:
    """Check the content of `params.yaml`; see `load_params`."""
    if not isinstance(raw, dict):
        raise RequestError(f"{origin}: expected a mapping of sections, got {type(raw).__name__}")
    try:
        return Params.model_validate(raw, context=_cross_references(raw))
    except ValidationError as error:
        lines = [_describe(problem) for problem in error.errors()]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise RequestError(
            f"{origin}: {count}, nothing was started\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def _cross_references(raw: dict[str, Any]) -> dict[str, Any]:
    """What sections need to know of each other, taken from the raw file so that one mistake does not hide another."""

    def section(name: str) -> dict[str, Any]:
        return raw[name] if isinstance(raw.get(name), dict) else {}

    return {
        "epochs": section("training").get("epochs"),
        "dataset": section("data").get("name"),
        "threat_model": section("threat_model"),
    }


def _describe(problem: Any) -> str:
    """One line for one pydantic error: path, what is wrong, and the valid choices."""
    location = list(problem["loc"])
    path = ".".join(str(part) for part in location) or "(top level)"
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key; {did_you_mean(str(location[-1]), _keys_at(Params, location[:-1]))}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) and repr(given) not in message else ""
    return f"{path}: {message[0].lower()}{message[1:]}{shown}"


def _keys_at(annotation: Any, location: list[Any]) -> list[str]:
    """The keys that are valid at `location` below a model, walking through dicts, lists, options and tagged unions."""
    models = list(_models_in(annotation))
    if not location:
        return sorted({key for model in models for key in model.model_fields})
    for model in models:
        if location[0] in model.model_fields:
            return _keys_at(model.model_fields[location[0]].annotation, location[1:])
    if any(
        location[0] in get_args(model.model_fields["name"].annotation)
        for model in models
        if "name" in model.model_fields
    ):
        chosen = next(model for model in models if location[0] in get_args(model.model_fields["name"].annotation))
        return _keys_at(chosen, location[1:])
    return _keys_at(annotation, location[1:]) if len(location) > 1 or models else []


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
