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
from textwrap import shorten
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from pipeline.data.facts import DATASETS
from pipeline.errors import RequestError, did_you_mean
from pipeline.models import check_input

NUMERICS_VERSION = 1
"""Part of every fingerprint: raise it when a change of the code changes numbers (the golden tests tell when)."""

Norm = Literal["linf", "l2", "l1"]
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
Place = tuple[str, ...]
T = TypeVar("T")


def _mapping(given: dict[str, Any], key: str) -> dict[str, Any]:
    """A mapping within a section, empty where there is something else."""
    value = given.get(key)
    return value if isinstance(value, dict) else {}


class Closed(BaseModel):
    """A section of the file: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """What is wrong between the keys of a section, and where; `given` is as in the file and may be anything."""
        yield from ()

    @model_validator(mode="wrap")
    @classmethod
    def _report_inconsistencies(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Add them to the mistakes of single keys: neither kind hides the other."""
        problems: list[Any] = [
            InitErrorDetails(type="value_error", loc=place, input=None, ctx={"error": text})
            for place, text in (cls.inconsistencies(given) if isinstance(given, dict) else ())
        ]
        if not problems:
            return handler(given)
        try:
            handler(given)
        except ValidationError as error:
            problems = [*error.errors(include_url=False), *problems]
        raise ValidationError.from_exception_data(cls.__name__, problems)


def _unless(problems: list[str], value: T) -> T:
    """`value`, or one ValueError with all problems."""
    if problems:
        raise ValueError("; ".join(problems))
    return value


def _context(info: ValidationInfo, key: str) -> Any:
    """A fact of another section of the file; None where it is not known."""
    return (info.context or {}).get(key)


def _check_breakpoints(epochs: list[float], info: ValidationInfo) -> list[float]:
    """Refuse (ValueError) breakpoints that do not increase or that lie beyond the last epoch."""
    problems = []
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        problems.append(f"breakpoints must increase strictly, got {epochs}")
    last = _context(info, "epochs")
    if last is not None and max(epochs) > last:
        problems.append(f"breakpoint {max(epochs):g} lies beyond the last epoch {last} (training.epochs)")
    return _unless(problems, epochs)


Breakpoints = Annotated[list[Annotated[Real, Field(ge=0)]], Field(min_length=1), AfterValidator(_check_breakpoints)]


class PiecewiseLinear(Closed):
    """A value that changes linearly between breakpoints, in epochs; epochs count from 1 and 0 is the start."""

    epochs: Breakpoints
    """Strictly increasing; before the first and after the last the value stays constant."""
    values: list[Annotated[Real, Field(ge=0)]]
    """The value at each breakpoint."""

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """A value for every breakpoint."""
        epochs, values = given.get("epochs"), given.get("values")
        if isinstance(epochs, list) and isinstance(values, list) and len(epochs) != len(values):
            yield ("values",), f"{len(epochs)} breakpoints need as many values, got {len(values)}"

    def at(self, epoch: float) -> float:
        """The value at `epoch`."""
        return interpolate(self.epochs, self.values, epoch)


def interpolate(epochs: list[float], values: list[float], epoch: float) -> float:
    """Piecewise-linear interpolation, constant outside the breakpoints."""
    for start, end, low, high in zip(epochs, epochs[1:], values, values[1:], strict=False):
        if start <= epoch < end:
            return low + (high - low) * (epoch - start) / (end - start)
    return values[0] if epoch < epochs[0] else values[-1]


class AugmentationSettings(Closed):
    """Random augmentation of training images, drawn anew every epoch."""

    crop_padding: Whole = Field(default=0, ge=0, le=16)
    """Pad with this many zero pixels on each side, then crop back at a random place."""
    horizontal_flip: bool = False
    """Mirror each image with probability 1/2."""


class DataSettings(Closed):
    """Which images are trained and tested on."""

    name: DatasetName
    root: Path = Path("data/raw")
    """Where the official files are, or are downloaded to. Not part of an experiment's identity."""
    train_images: Whole | None = Field(default=None, gt=0)
    """Use only this many training images, a fixed random choice (null: all that are not held out)."""
    held_out_images: Whole = Field(gt=0)
    """Training images that are set aside for model selection and never trained on."""
    test_images: Whole | None = Field(default=None, gt=0)
    """Use only the first so many test images of a fixed random order (null: all, in the official order)."""
    split_seed: Whole = 0
    """Seed of the split; independent of the experiment's seed, so that every seed sees the same images."""
    augmentation: AugmentationSettings = AugmentationSettings()

    @field_validator("held_out_images")
    @classmethod
    def _leave_training_images(cls, value: int, info: ValidationInfo) -> int:
        name, train_images = info.data.get("name"), info.data.get("train_images") or 1
        if name is not None and value + train_images > DATASETS[name].train_images:
            raise ValueError(
                f"{value} + train_images {info.data.get('train_images') or 'of at least 1'} exceed the "
                f"{DATASETS[name].train_images} training images of {name}"
            )
        return value

    @field_validator("test_images")
    @classmethod
    def _exist(cls, value: int | None, info: ValidationInfo) -> int | None:
        name = info.data.get("name")
        if name is not None and (value or 0) > DATASETS[name].test_images:
            raise ValueError(f"{value} exceed the {DATASETS[name].test_images} test images of {name}")
        return value


class Normalization(Closed):
    """Per-channel standardisation inside the model: (image - mean) / std; attacks still see inputs in [0, 1]."""

    mean: list[Real]
    std: list[Annotated[Real, Field(gt=0)]]

    @field_validator("mean", "std")
    @classmethod
    def _cover_the_channels(cls, value: list[float], info: ValidationInfo) -> list[float]:
        dataset = _context(info, "dataset")
        if dataset is not None and len(value) != DATASETS[dataset].channels:
            raise ValueError(f"expected one value for each of {DATASETS[dataset].channels} channels, got {len(value)}")
        return value


def _check_architecture(value: str, info: ValidationInfo) -> str:
    dataset = _context(info, "dataset")
    if dataset is not None:
        check_input(value, dataset)
    return value


Architecture = Annotated[str, AfterValidator(_check_architecture)]


class ModelSettings(Closed):
    """The network of every learner that does not name its own."""

    architecture: Architecture
    normalization: Normalization | None = None


class AttackBudget(Closed):
    """The inner maximisation for one norm: radius, step and number of steps (Generalist++ IV-B: step = epsilon / 4)."""

    epsilon: Budget
    step_size: Positive
    steps: Whole = Field(ge=0)


class SGDSettings(Closed):
    """`torch.optim.SGD`."""

    name: Literal["sgd"]
    learning_rate: Positive
    momentum: Real = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: Real = Field(default=0.0, ge=0)


class AdamSettings(Closed):
    """`torch.optim.Adam`."""

    name: Literal["adam"]
    learning_rate: Positive
    betas: tuple[Annotated[Real, Field(ge=0, lt=1)], Annotated[Real, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: Real = Field(default=0.0, ge=0)


OptimizerSettings = Annotated[SGDSettings | AdamSettings, Field(discriminator="name")]


def _check_objective(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    from pipeline.objectives import resolve_objective

    return resolve_objective(value, _context(info, "threat_model") or {})


class WeightAveraging(Closed):
    """An exponential moving average: average <- decay * average + (1 - decay) * weights, after every step."""

    decay: Real = Field(ge=0, lt=1)
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
    architecture: Architecture | None = None
    """A network of its own instead of `model.architecture`."""


class MixtureSettings(Closed):
    """The global learner (Generalist++ Alg. 1 and 2): an EMA of the convex combination of the learners' weights."""

    breakpoints: Breakpoints
    """Epochs between which the mixing ratios are linear."""
    mixing_ratios: dict[Name, list[Real]]
    """gamma of each learner at every breakpoint: a point on the simplex each."""
    decay: Real = Field(ge=0, lt=1)
    """alpha' of the paper: theta_g <- decay * theta_g + (1 - decay) * mixture, after every step."""
    warmup_epochs: Whole = Field(ge=1)
    """t': the first epoch after which the learners may restart from the global learner."""
    communication_interval: Whole = Field(ge=1)
    """c: they do so after every epoch from t' on that c divides."""
    redistribution: Literal["epoch_end", "every_batch"] = "epoch_end"
    """`every_batch`: after every minibatch of those epochs, as the authors' code does (methods.md 2.2, item 11)."""
    decay_warmup: bool = False
    """Use min(decay, (s + 1) / (s + 10)) at update s (item 8)."""
    source: Literal["learners", "weight_averages"] = "learners"
    """What is mixed: the raw weights, or each learner's own moving average (item 7)."""
    batch_norm: Literal["average", "recompute"] = "average"
    """BatchNorm statistics of the global learner: mixed like weights, or recomputed on clean training images."""

    @field_validator("mixing_ratios")
    @classmethod
    def _stay_on_the_simplex(cls, value: dict[str, list[float]]) -> dict[str, list[float]]:
        problems = []
        for number, ratios in enumerate(zip(*value.values(), strict=False), start=1):
            if min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-9:
                shown = ", ".join(f"{name} {ratio:g}" for name, ratio in zip(value, ratios, strict=True))
                problems.append(
                    f"ratios at breakpoint number {number} leave the simplex: {shown} "
                    f"(each must be >= 0 and their sum 1, the sum is {sum(ratios):g})"
                )
        return _unless(problems, value)

    @field_validator("warmup_epochs")
    @classmethod
    def _end_before_training(cls, value: int, info: ValidationInfo) -> int:
        last = _context(info, "epochs")
        if last is not None and value > last:
            raise ValueError(
                f"{value} lies beyond the last epoch {last} (training.epochs): the learners would never restart from "
                "the global learner"
            )
        return value

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """A ratio of every learner for every breakpoint."""
        breakpoints = given.get("breakpoints")
        for learner, ratios in _mapping(given, "mixing_ratios").items():
            if isinstance(breakpoints, list) and isinstance(ratios, list) and len(ratios) != len(breakpoints):
                expected = f"expected {len(breakpoints)} ratios, one for each of breakpoints"
                yield ("mixing_ratios", str(learner)), f"{expected}, got {len(ratios)}"

    def complete_from(self, epochs: int) -> int:
        """The first of `epochs` (from 1) by which every learner that ever enters the mixture has entered it."""
        entered: dict[str, int] = {}
        for epoch in range(1, epochs + 1):
            for learner, ratio in self.ratios_at(epoch).items():
                if ratio > 0:
                    entered.setdefault(learner, epoch)
        return max(entered.values())

    def ratios_at(self, epoch: float) -> dict[str, float]:
        """The mixing ratio of every learner at `epoch`; they are >= 0 and sum to 1."""
        return {name: interpolate(self.breakpoints, values, epoch) for name, values in self.mixing_ratios.items()}


class MethodSettings(Closed):
    """One row of the tables: a list of learners, and how they are combined when there are several."""

    label: str
    """How tables and figures name it: plain text, `$math$` and `` `code` ``."""
    learners: dict[Name, LearnerSettings] = Field(min_length=1)
    mixture: MixtureSettings | None = None

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """What the learners and the mixture must know of each other."""
        learners, mixture = _mapping(given, "learners"), _mapping(given, "mixture")
        names = [str(name) for name in learners]
        if "global" in names:
            yield ("learners", "global"), "'global' is the name of the mixture's own learner; choose another one"
        if given.get("mixture") is None:
            if len(names) > 1:
                yield ("mixture",), f"{len(names)} learners ({', '.join(names)}) need one that combines them"
            return
        ratios = sorted(str(name) for name in _mapping(mixture, "mixing_ratios"))
        if ratios and names and ratios != sorted(names):
            yield ("mixture", "mixing_ratios"), f"names {ratios}, learners are {sorted(names)}"
        own = {name: _mapping(learners, name).get("architecture") for name in learners}
        if len({str(architecture) for architecture in own.values()}) > 1:
            shown = ", ".join(f"{name} has {value or 'model.architecture'}" for name, value in own.items())
            yield (
                ("learners",),
                f"learners of different architectures cannot be mixed, their weights do not correspond: {shown}",
            )
        missing = [name for name in learners if _mapping(learners, name).get("weight_averaging") is None]
        if mixture.get("source") == "weight_averages" and missing:
            yield (
                ("mixture", "source"),
                f"'weight_averages' needs weight_averaging on every learner, missing: {missing}",
            )


class SelectionSettings(Closed):
    """Which epoch's weights are the result."""

    split: Literal["held_out", "test", "last"]
    """`held_out`: the best epoch on held-out training images; `test`: on test images, as the authors' code does (item
    24; it leaks, and tables say so); `last`: the last epoch."""
    natural_floor: Real = Field(default=0.0, ge=0, le=1)
    """Epochs with a natural accuracy below this are not chosen (the authors' code: 0.88)."""


class TrainingSettings(Closed):
    """What all learners share."""

    epochs: Whole = Field(ge=1)
    batch_size: Whole = Field(ge=1)
    selection: SelectionSettings
    validation_interval: Whole = Field(default=1, ge=1)
    """Measure held-out accuracies after every so many epochs, and after the last."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of training steps; `auto` is bfloat16 where the hardware has it. Verdicts are always float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Not part of an experiment's identity."""
    threads: Whole | None = Field(default=None, ge=1)
    """CPU threads (null: as torch decides). Not part of an experiment's identity."""


class PGDAttackSettings(Closed):
    """PGD with a fixed number of steps and a random start, the last iterate counts."""

    name: Literal["pgd"]
    norm: Norm
    epsilon: Budget
    step_size: Positive
    steps: Whole = Field(ge=1)
    images: Whole | None = Field(default=None, gt=0)
    """Attack only the first so many test images (null: all)."""


class AutoAttackSettings(Closed):
    """The standard AutoAttack ensemble of Croce and Hein (2020), by its authors' package."""

    name: Literal["autoattack"]
    norm: Norm
    epsilon: Budget
    images: Whole | None = Field(default=None, gt=0)
    """Attack only the first so many test images (null: all)."""


EvaluationAttack = Annotated[PGDAttackSettings | AutoAttackSettings, Field(discriminator="name")]


DERIVED_METRICS = ("natural", "union", "worst_case_union")
"""What every evaluation gives besides the accuracy under each attack."""


class EvaluationSettings(Closed):
    """What is measured on the test images."""

    batch_size: Whole = Field(ge=1)
    seed: Whole = Field(default=0, ge=0)
    attacks: dict[Name, EvaluationAttack] = Field(min_length=1)
    """By the name of the metric that each gives, for example `aa_linf`."""
    union: list[Name] = Field(min_length=2)
    """The attacks whose mean accuracy is the paper's Union, and whose per-image minimum is the worst-case union."""

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
        problems = _unknown("attack", value, _context(info, "attacks"))
        return _unless([*problems, *_repeated(value)], value)


def _unknown(what: str, names: list[str], valid: list[str] | None) -> list[str]:
    """A problem for each name that is not valid; none where there are no valid ones, which is a mistake elsewhere."""
    return [f"unknown {what} '{name}': {did_you_mean(name, valid)}" for name in names if valid and name not in valid]


def _repeated(values: list[Any]) -> list[str]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    return [f"{value!r} is given more than once" for value in repeated]


class TableColumn(Closed):
    """One column of a table."""

    metric: str
    label: str

    @field_validator("metric")
    @classmethod
    def _is_measured(cls, value: str, info: ValidationInfo) -> str:
        attacks = _context(info, "attacks")
        return _unless(_unknown("metric", [value], attacks and [*DERIVED_METRICS, *attacks]), value)


class TableSettings(Closed):
    """One table of the paper: rows are methods, columns are metrics."""

    caption: str
    rows: list[str] = Field(min_length=1)
    columns: list[TableColumn] = Field(min_length=1)
    digits: Whole = Field(default=2, ge=0, le=4)

    @field_validator("rows")
    @classmethod
    def _are_methods(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return _unless(_unknown("method", value, _context(info, "methods")), value)


class Params(Closed):
    """The whole of `params.yaml`."""

    suite: Name
    description: str
    protocol: Literal["paper", "reference_code"]
    seeds: list[Annotated[Whole, Field(ge=0)]] = Field(min_length=1)
    tables_folder: Annotated[str, Field(pattern=r"^reports/[A-Za-z0-9][A-Za-z0-9_/-]*$")]
    """Where the report stage writes this suite's tables, below `reports/`."""
    data: DataSettings
    model: ModelSettings
    threat_model: dict[Norm, AttackBudget]
    training: TrainingSettings
    methods: dict[Name, MethodSettings] = Field(min_length=1)
    evaluation: EvaluationSettings
    tables: dict[Name, TableSettings]

    @field_validator("seeds")
    @classmethod
    def _differ(cls, value: list[int]) -> list[int]:
        return _unless(_repeated(value), value)

    def experiments(self) -> Iterator[Experiment]:
        """Every experiment of the suite: each method with each seed, in the order of the file."""
        for method in self.methods:
            for seed in self.seeds:
                yield self.experiment(method, seed)

    def experiment(self, method: str, seed: int) -> Experiment:
        """The experiment of one method and seed.

        Raises:
            RequestError: the file declares no such method or seed.
        """
        if method not in self.methods:
            raise RequestError(f"unknown method '{method}': {did_you_mean(method, list(self.methods))}")
        if seed not in self.seeds:
            raise RequestError(f"seed {seed} is not one of 'seeds' in params.yaml: {self.seeds}")
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
    def architecture(self) -> str:
        """Of every learner: those that are mixed have the same."""
        learner = next(iter(self.method.learners.values()))
        return learner.architecture or self.model.architecture

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over everything that changes the trained weights, and over nothing else."""
        return _digest(self.training_identity())

    @property
    def evaluation_fingerprint(self) -> str:
        """16 hexadecimal digits over the trained weights' identity and everything that changes the verdicts."""
        content: dict[str, Any] = {"weights": self.fingerprint, "evaluation": self.evaluation.model_dump(mode="json")}
        if self.data.test_images is not None:
            content["test_images"] = self.data.test_images
        return _digest(content)

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
        raw = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror}). 'make suite SUITE=digits' writes it.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RequestError(f"{path}: is not YAML: {place}{error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or no such date
        raise RequestError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    return parse_params(raw, str(path))


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that is given twice is a mistake, where PyYAML lets the last one win."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def parse_params(raw: Any, origin: str = "params.yaml") -> Params:
    """Check the content of `params.yaml`; see `load_params`."""
    if not isinstance(raw, dict):
        raise RequestError(f"{origin}: expected a mapping of sections, got {_shown(raw)}")
    try:
        return Params.model_validate(raw, context=_cross_references(raw))
    except ValidationError as error:
        lines = [_describe(problem, raw) for problem in error.errors()]
        count = "1 mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        raise RequestError(
            f"{origin}: {count}, nothing was started\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def _cross_references(raw: dict[str, Any]) -> dict[str, Any]:
    """What sections need to know of each other, taken from the raw file so that one mistake does not hide another.

    What is itself a mistake is None, or a stand-in: it is reported once, at its own place.
    """
    epochs, dataset = _mapping(raw, "training").get("epochs"), _mapping(raw, "data").get("name")
    budgets = raw["threat_model"] if isinstance(raw.get("threat_model"), dict) else dict.fromkeys(get_args(Norm))
    return {
        "epochs": epochs if type(epochs) is int and epochs > 0 else None,
        "dataset": dataset if isinstance(dataset, str) and dataset in DATASETS else None,
        "threat_model": {norm: _budget(budget) for norm, budget in budgets.items()},
        "methods": [str(name) for name in _mapping(raw, "methods")],
        "attacks": [str(name) for name in _mapping(_mapping(raw, "evaluation"), "attacks")],
    }


def _budget(raw: Any) -> AttackBudget:
    try:
        return AttackBudget.model_validate(raw)
    except ValidationError:
        return AttackBudget(epsilon=0, step_size=1, steps=0)


EXPECTED = {
    "missing": "is missing",
    "model_type": "expected a mapping",
    "model_attributes_type": "expected a mapping",
    "dict_type": "expected a mapping",
    "too_short": "expected more entries",
    "list_type": "expected a list",
    "tuple_type": "expected a list",
    "string_pattern_mismatch": "a name consists of a-z, 0-9 and _, and begins with a letter (a folder: reports/name)",
    "union_tag_not_found": "needs a 'name'",
}
"""pydantic's messages that speak of Python, in terms of the file."""


def _describe(problem: Any, raw: dict[str, Any]) -> str:
    """One line for one pydantic error: path, what is wrong, and the valid choices."""
    kind, location = problem["type"], list(problem["loc"])
    path = ".".join(_path(location, raw)) or "(top level)"
    if kind == "extra_forbidden":
        return f"{path}: unknown key; {did_you_mean(str(location[-1]), _keys_at(Params, location[:-1]))}"
    if kind == "union_tag_invalid":
        valid = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{path}.name: unknown '{problem['ctx']['tag']}': {did_you_mean(problem['ctx']['tag'], valid)}"
    message = EXPECTED.get(kind) or str(problem["msg"]).removeprefix("Value error, ")
    silent = kind in ("missing", "value_error", "union_tag_not_found")
    return f"{path}: {message[0].lower()}{message[1:]}" + ("" if silent else f" (got {_shown(problem['input'])})")


def _path(location: list[Any], raw: Any) -> Iterator[str]:
    """The keys in the file that lead to a mistake, without what pydantic adds: '[key]', the kind of an optimizer."""
    for part in location:
        keys = raw if isinstance(raw, dict) else {}
        if part != "[key]" and (part in keys or part != keys.get("name")):
            yield str(part)
            raw = raw[part] if isinstance(raw, list) else keys.get(part)


def _shown(value: Any) -> str:
    """A value of the file, briefly."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else f"a list of {len(value)}"
    return shorten(json.dumps(value, default=str, ensure_ascii=False), 60)


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
