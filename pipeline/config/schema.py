"""The closed schema of `params.yaml`, and the experiments that it declares.

Every key is known, typed and checked against the others before anything starts. This module is free of torch until an
objective's options are checked.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    ModelWrapValidatorHandler,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pipeline.config.figures import FigureSettings
from pipeline.config.mixture import RULES, MixtureSettings
from pipeline.config.optimizers import OptimizerSettings
from pipeline.config.search import SearchSettings
from pipeline.config.streaming import BOOKKEEPING, Phase, Phases, Sizes, StoredSize, StreamingSettings, TestCrop
from pipeline.config.studies import AblationSettings
from pipeline.config.values import (
    Budget,
    Closed,
    Name,
    Norm,
    Place,
    Positive,
    Protocol,
    Real,
    Schedule,
    Seeds,
    TruthValue,
    Whole,
    context,
    mapping,
    unless,
)
from pipeline.data.facts import DATASETS
from pipeline.errors import RequestError, did_you_mean
from pipeline.models import check_input

LONGEST_NAME = 120
"""Characters in an experiment's name: it names a folder."""

DatasetName = Literal["digits", "cifar10", "cifar100", "mnist", "svhn", "imagenet", "imagefolder"]
STREAMED = ("imagenet", "imagefolder")
"""Data sets too large for memory: trees of image folders, prepared to shards."""


def _is_none(value: Any) -> bool:
    """Settings that were added later are left out of dumps, and so of fingerprints, where they are not given."""
    return value is None


class AugmentationSettings(Closed):
    """Random augmentation of training images, drawn anew every epoch."""

    crop_padding: Whole = Field(default=0, ge=0, le=16)
    """Pad with this many zero pixels on each side, then crop back at a random place."""
    horizontal_flip: TruthValue = False
    """Mirror each image with probability 1/2."""


class DataSettings(Closed):
    """Which images are trained and tested on."""

    name: DatasetName
    root: Path = Path("data/raw")
    """Where the official files are, or are downloaded to; for streamed images, the folder with `train` and `val`. Not
    part of an experiment's identity."""
    classes: Whole | None = Field(default=None, ge=4, exclude_if=_is_none)
    """Number of classes, for `imagefolder` alone: other data sets are known. AutoAttack compares four of them."""
    streaming: StreamingSettings | None = Field(default=None, exclude_if=_is_none)
    """For images that are too large for memory, and only for them."""
    train_images: Whole | None = Field(default=None, gt=0)
    """Use only this many training images, a fixed random choice (null: all that are not held out)."""
    held_out_images: Whole = Field(gt=0)
    """Training images that are set aside for model selection and never trained on."""
    replaced_example: Whole | None = Field(default=None, ge=0, exclude_if=_is_none)
    """Train on a held-out image instead of the training image at this position (from 0): with the same experiment
    without it, a pair whose training sets differ in one example; see docs/stability.md. Held-out images stay as they
    are."""
    test_images: Whole | None = Field(default=None, gt=0)
    """Use only the first so many test images of a fixed random order (null: all, in the official order)."""
    split_seed: Whole = 0
    """Seed of the split; independent of the experiment's seed, so that every seed sees the same images."""
    augmentation: AugmentationSettings = AugmentationSettings()

    @property
    def class_names(self) -> tuple[str, ...]:
        """By label; numbers where only the folders' names say."""
        return DATASETS[self.name].classes or tuple(f"class_{number:04d}" for number in range(self.classes or 0))

    def judged_on(self, crop: TestCrop | None) -> DataSettings:
        """The same images, with another crop of held-out and test images; None changes nothing."""
        if crop is None or self.streaming is None:
            return self
        return self.model_copy(update={"streaming": self.streaming.model_copy(update={"test_crop": crop})})

    @field_validator("held_out_images")
    @classmethod
    def _leave_training_images(cls, value: int, info: ValidationInfo) -> int:
        name, train_images = info.data.get("name"), info.data.get("train_images") or 1
        known = None if name is None else DATASETS[name].train_images
        if known is not None and value + train_images > known:
            raise ValueError(
                f"{value} + train_images {info.data.get('train_images') or 'of at least 1'} exceed the "
                f"{known} training images of {name}"
            )
        return value

    @field_validator("replaced_example")
    @classmethod
    def _is_trained_on(cls, value: int | None, info: ValidationInfo) -> int | None:
        name, held_out = info.data.get("name"), info.data.get("held_out_images")
        known = None if name is None else DATASETS[name].train_images
        count = info.data.get("train_images")
        if count is None and known is not None and held_out is not None:
            count = known - held_out
        if value is not None and count is not None and value >= count:
            raise ValueError(f"{value} is not among the {count} training images, which count from 0")
        return value

    @field_validator("test_images")
    @classmethod
    def _exist(cls, value: int | None, info: ValidationInfo) -> int | None:
        name = info.data.get("name")
        known = None if name is None else DATASETS[name].test_images
        if known is not None and (value or 0) > known:
            raise ValueError(f"{value} exceed the {known} test images of {name}")
        return value

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """What only some data sets need."""
        name = given.get("name")
        if name not in get_args(DatasetName):
            return
        needed = {"classes": name == "imagefolder", "streaming": name in STREAMED}
        for key, is_needed in needed.items():
            if is_needed != (given.get(key) is not None):
                yield (key,), f"data set '{name}' {'needs it' if is_needed else 'has none'}"
        if name in STREAMED and mapping(given, "augmentation").get("crop_padding"):
            yield (
                ("augmentation", "crop_padding"),
                "streamed images are cropped at random places without padding; expected 0",
            )


class Normalization(Closed):
    """Per-channel standardisation inside the model: (image - mean) / std; attacks still see inputs in [0, 1]."""

    mean: list[Real]
    std: list[Annotated[Real, Field(gt=0)]]

    @field_validator("mean", "std")
    @classmethod
    def _cover_the_channels(cls, value: list[float], info: ValidationInfo) -> list[float]:
        dataset = context(info, "dataset")
        if dataset is not None and len(value) != DATASETS[dataset].channels:
            raise ValueError(f"expected one value for each of {DATASETS[dataset].channels} channels, got {len(value)}")
        return value


def _check_architecture(value: str, info: ValidationInfo) -> str:
    dataset = context(info, "dataset")
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


def _check_objective(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    from pipeline.objectives import resolve_objective

    return resolve_objective(value, context(info, "threat_model") or {})


class WeightAveraging(Closed):
    """An exponential moving average: average <- decay * average + (1 - decay) * weights, after every step."""

    decay: Real = Field(ge=0, lt=1)
    warmup: TruthValue = False
    """Use min(decay, (s + 1) / (s + 10)) at update s, as the authors' code does (methods.md 2.2, item 8)."""


class LearnerSettings(Closed):
    """One learner: a network with its own objective, optimizer and schedule."""

    objective: Annotated[dict[str, Any], AfterValidator(_check_objective)]
    """`name` of a module in `pipeline/objectives/` (or a dotted module path) and that objective's options."""
    optimizer: OptimizerSettings
    schedule: Schedule
    """Factor on the learning rate, per epoch."""
    weight_averaging: WeightAveraging | None = None
    """Keep a moving average of this learner's weights beside it; for a single learner, it is the result."""
    architecture: Architecture | None = None
    """A network of its own instead of `model.architecture`."""
    label_smoothing: Real = Field(default=0.0, ge=0, lt=1, exclude_if=lambda value: value == 0)
    """Targets of the cross-entropy that it minimises: 1 - s at the label plus s / classes everywhere."""
    augmentation: AugmentationSettings | None = Field(default=None, exclude_if=_is_none)
    """Crops and mirror images of its own, of the minibatch that all learners share; after those of
    `data.augmentation`."""

    @field_validator("label_smoothing")
    @classmethod
    def _is_of_a_cross_entropy(cls, value: float, info: ValidationInfo) -> float:
        from pipeline.objectives import refuse_label_smoothing

        if value and "objective" in info.data:
            refuse_label_smoothing(info.data["objective"]["name"])
        return value


class MethodSettings(Closed):
    """One row of the tables: a list of learners, and how they are combined when there are several.

    In the file, `extends` names another method that it has everything of but the label, and what it says itself.
    """

    label: str
    """How tables and figures name it: plain text, `$math$` and `` `code` ``."""
    learners: dict[Name, LearnerSettings] = Field(min_length=1)
    mixture: MixtureSettings | None = None
    epochs: Whole | None = Field(default=None, ge=1)
    """Its own number, instead of `training.epochs`."""
    batch_size: Whole | None = Field(default=None, ge=1)
    """Its own, instead of `training.batch_size`."""
    phases: Phases | None = None
    """Its own, instead of `training.phases`."""
    test_crop: TestCrop | None = None
    """Its own, instead of that of `data.streaming`: networks are judged at the size that they were trained for."""

    @field_validator("test_crop")
    @classmethod
    def _has_images_to_crop(cls, value: TestCrop | None, info: ValidationInfo) -> TestCrop | None:
        if value is not None and context(info, "stored_sizes") == []:
            raise ValueError("is for images that are streamed, there is no data.streaming")
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _count_its_own_epochs(cls, given: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Let its schedules be checked against its own last epoch."""
        own = given.get("epochs") if isinstance(given, dict) else None
        if info.context is None or type(own) is not int:
            return handler(given)
        shared, info.context["epochs"] = info.context["epochs"], own
        try:
            return handler(given)
        finally:
            info.context["epochs"] = shared

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Place, str]]:
        """What the learners and the mixture must know of each other."""
        learners, mixture = mapping(given, "learners"), mapping(given, "mixture")
        names = [str(name) for name in learners]
        if "global" in names:
            yield ("learners", "global"), "'global' is the name of the mixture's own learner; choose another one"
        if given.get("mixture") is None:
            if len(names) > 1:
                yield ("mixture",), f"{len(names)} learners ({', '.join(names)}) need one that combines them"
            return
        rule = RULES.get(str(mixture.get("rule")))
        combined = sorted(rule.combines(mixture)) if rule else []
        if combined and names and combined != sorted(names):
            place = ("mixture", "mixing_ratios") if "mixing_ratios" in mixture else ("mixture",)
            yield place, f"names {combined}, learners are {sorted(names)}"
        own = {name: mapping(learners, name).get("architecture") for name in learners}
        if len({str(architecture) for architecture in own.values()}) > 1:
            shown = ", ".join(f"{name} has {value or 'model.architecture'}" for name, value in own.items())
            yield (
                ("learners",),
                f"learners of different architectures cannot be mixed, their weights do not correspond: {shown}",
            )
        missing = [name for name in learners if mapping(learners, name).get("weight_averaging") is None]
        if mixture.get("source") == "weight_averages" and len(missing) == len(names):
            yield (
                ("mixture", "source"),
                f"'weight_averages' needs weight_averaging on a learner, none of {names} has it",
            )


class SelectionSettings(Closed):
    """Which epoch's weights are the result."""

    split: Literal["held_out", "test", "last"]
    """`held_out`: the best epoch on held-out training images; `test`: on test images, as the authors' code does (item
    24; it leaks, and tables say so); `last`: the last epoch."""
    natural_floor: Real = Field(default=0.0, ge=0, le=1)
    """Epochs with a natural accuracy below this are not chosen (the authors' code: 0.88)."""


class TheorySettings(Closed):
    """What the papers' theorems speak of, measured while training; docs/theory.md."""

    interval: Whole = Field(default=10, ge=1)
    """Measure after every so many epochs, and after the last."""
    images: Whole = Field(default=128, ge=1)
    """On the first so many held-out images, or all where there are fewer."""


HOW_TO_TRAIN = {"device", "threads", "compile", "overlap_learners", "theory"}
"""Settings of training that are not part of an experiment's identity."""


class TrainingSettings(Closed):
    """What all learners share."""

    epochs: Whole = Field(ge=1)
    batch_size: Whole = Field(ge=1)
    """Of all processes of a distributed training together."""
    phases: Phases = Field(default=[], exclude_if=lambda phases: not phases)
    """Epochs with images or batches of other sizes."""
    selection: SelectionSettings
    validation_interval: Whole = Field(default=1, ge=1)
    """Measure held-out accuracies after every so many epochs, and after the last."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of training steps; `auto` is bfloat16 where the hardware has it. Verdicts are always float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Not part of an experiment's identity."""
    threads: Whole | None = Field(default=None, ge=1)
    """CPU threads (null: as torch decides). Not part of an experiment's identity."""
    compile: TruthValue = False
    """Send networks through torch.compile, in training and evaluation: a minute at the start, then fewer and larger
    kernels. Not part of an experiment's identity."""
    overlap_learners: TruthValue = False
    """Let learners share a GPU, each on a stream of its own, if the first minibatches show that to be faster. Not part
    of an experiment's identity, since steps are the same in either way."""
    theory: TheorySettings | None = Field(default=None, exclude_if=_is_none)
    """Measure regrets, task gradients and barriers of methods with a moving average (null: do not). Not part of an
    experiment's identity."""


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
    """Of Square; the standard is 5,000."""

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
    """Of the random corruptions that are regenerated."""


class SuiteOOD(OODSettings):
    """What `ood` of `params.yaml` says: the corrupted images, and which methods meet them."""

    methods: list[str] = Field(default=[])
    """Keys of `methods` that `dvc repro` measures on them; none: Table IV is left out."""

    @field_validator("methods")
    @classmethod
    def _are_methods(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return unless([*_unknown("method", value, context(info, "methods")), *_repeated(value)], value)


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
        problems = _unknown("attack", value, context(info, "attacks"))
        return unless([*problems, *_repeated(value)], value)


def _unknown(what: str, names: list[str], valid: list[str] | None) -> list[str]:
    """A problem for each name that is not valid; none where there are no valid ones, which is a mistake elsewhere."""
    return [f"unknown {what} '{name}': {did_you_mean(name, valid)}" for name in names if valid and name not in valid]


def _repeated(values: list[Any]) -> list[str]:
    repeated = sorted(value for value, times in Counter(values).items() if times > 1)
    return [f"{value!r} is given more than once" for value in repeated]


PaperTable = Literal["1a", "1b", "I", "II", "III", "IV"]
"""Tables of Generalist (CVPR 2023) by number, those of Generalist++ by Roman number."""


class TableColumn(Closed):
    """One column of a table."""

    metric: str
    label: str
    relative_to: str | None = None
    """Divide by this method's value of the same seed; for `training_seconds` alone."""

    @field_validator("metric")
    @classmethod
    def _is_measured(cls, value: str, info: ValidationInfo) -> str:
        attacks = context(info, "attacks")
        known = attacks and [*DERIVED_METRICS, *OOD_METRICS, TRAINING_SECONDS, *attacks]
        return unless(_unknown("metric", [value], known), value)

    @field_validator("relative_to")
    @classmethod
    def _is_a_method(cls, value: str | None, info: ValidationInfo) -> str | None:
        problems = _unknown("method", [value] if value else [], context(info, "methods"))
        if value is not None and info.data.get("metric", TRAINING_SECONDS) != TRAINING_SECONDS:
            problems.append(f"only {TRAINING_SECONDS} is given relative to a method, {info.data['metric']} is not")
        return unless(problems, value)


class TableSettings(Closed):
    """One table of the paper: rows are methods, columns are metrics."""

    caption: str
    rows: list[str] = Field(min_length=1)
    """Keys of `methods`; `all` stands for every one, in the order of the file."""
    columns: list[TableColumn] = Field(min_length=1)
    digits: Whole = Field(default=2, ge=0, le=4)
    marks: list[Literal["best", "second"]] = Field(default=["best", "second"])
    """What is marked in every column: the best in bold, the second best underlined."""
    uncertainty: Literal["seeds", "wilson", "none"] = "seeds"
    """Beside each number: standard deviation over seeds (where there are several), the 95% interval of Wilson over test
    images, or nothing."""
    other_protocols: TruthValue = False
    """Fill cells without a run of this protocol from runs of another one, with a footnote."""
    file: Name | None = None
    """Name of the files instead of the table's key."""
    paper: list[PaperTable] = Field(default=[])
    """The papers' tables that it stands beside: what they have for this data set and network is subtracted in a second
    form, 'reproduced minus paper'. Where two have the same cell, the one that is listed first counts."""

    @field_validator("rows", mode="before")
    @classmethod
    def _write_out_all(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str) and value != "all":
            raise ValueError(f"expected a list of methods, or 'all', got '{value}'")
        return context(info, "methods") if value == "all" else value

    @field_validator("rows")
    @classmethod
    def _are_methods(cls, value: list[str], info: ValidationInfo) -> list[str]:
        return unless([*_unknown("method", value, context(info, "methods")), *_repeated(value)], value)

    @field_validator("columns")
    @classmethod
    def _differ(cls, value: list[TableColumn]) -> list[TableColumn]:
        return unless(_repeated([column.metric for column in value]), value)


class Params(Closed):
    """The whole of `params.yaml`."""

    suite: Name
    description: str
    protocol: Protocol
    seeds: Seeds
    reports_folder: Annotated[str, Field(pattern=r"^reports/[A-Za-z0-9][A-Za-z0-9_/-]*$")]
    """Where this suite's tables, figures and report are written, below `reports/`."""
    data: DataSettings
    model: ModelSettings
    threat_model: dict[Norm, AttackBudget]
    training: TrainingSettings
    methods: dict[Name, MethodSettings] = Field(min_length=1)
    evaluation: EvaluationSettings
    ood: SuiteOOD = SuiteOOD()
    tables: dict[Name, TableSettings]
    ablation: AblationSettings = AblationSettings()
    search: SearchSettings | None = None
    figures: dict[Name, FigureSettings] = Field(default_factory=dict)

    @field_validator("tables")
    @classmethod
    def _have_files_of_their_own(cls, value: dict[str, TableSettings]) -> dict[str, TableSettings]:
        return unless(_repeated([table.file or name for name, table in value.items()]), value)

    @property
    def reports(self) -> Path:
        """`reports_folder`: tables/, figures/, report.html and what else is told of the suite."""
        return Path(self.reports_folder)

    def experiments(self) -> Iterator[Experiment]:
        """Every experiment of the suite: each method with each seed, in the order of the file."""
        for method in self.methods:
            for seed in self.seeds:
                yield self.experiment(method, seed)

    def experiment(self, method: str, seed: int | None) -> Experiment:
        """The experiment of one method and seed.

        Args:
            method: A key of `methods`.
            seed: One of `seeds`; None stands for the only one.

        Raises:
            RequestError: the file declares no such method or seed, or several seeds where none is given.
        """
        if method not in self.methods:
            raise RequestError(f"unknown method '{method}': {did_you_mean(method, list(self.methods))}")
        if seed is None:
            if len(self.seeds) > 1:
                raise RequestError(
                    f"params.yaml has several seeds, {self.seeds}: say which is meant, --seed {self.seeds[0]}"
                )
            seed = self.seeds[0]
        if seed not in self.seeds:
            raise RequestError(f"seed {seed} is not one of 'seeds' in params.yaml: {self.seeds}")
        return self.resolve(method, self.methods[method], seed)

    def resolve(self, name: str, method: MethodSettings, seed: int) -> Experiment:
        """The experiment of any method, in this file or a variation of one that is, under this file's settings."""
        own = {key: getattr(method, key) for key in ("epochs", "batch_size", "phases")}
        return Experiment(
            suite=self.suite,
            protocol=self.protocol,
            name=name,
            seed=seed,
            data=self.data.judged_on(method.test_crop),
            model=self.model,
            threat_model=self.threat_model,
            training=self.training.model_copy(update={key: value for key, value in own.items() if value is not None}),
            method=method,
            evaluation=self.evaluation,
            ood=OODSettings.model_validate(self.ood.model_dump(exclude={"methods"})),
        )


class Experiment(Closed):
    """Data set x network x method x protocol x seed, fully resolved: all that `train` and `evaluate` need to know."""

    suite: Name
    protocol: str
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=LONGEST_NAME)]
    """A key of `methods`, or the name of a cell of the ablation grid."""
    grid: bool = False
    """Whether the ablation grid runs it; it then leaves its files apart from those that DVC keeps."""
    seed: int
    data: DataSettings
    model: ModelSettings
    threat_model: dict[Norm, AttackBudget]
    """Budgets of the held-out accuracies; the learners' own attacks are already in their objectives."""
    training: TrainingSettings
    method: MethodSettings
    evaluation: EvaluationSettings
    ood: OODSettings = OODSettings()

    @property
    def identifier(self) -> str:
        """The experiment's name among those of its suite, for example `generalist_t-1`."""
        return f"{self.name}-{self.seed}"

    @property
    def architecture(self) -> str:
        """Of every learner: those that are mixed have the same."""
        learner = next(iter(self.method.learners.values()))
        return learner.architecture or self.model.architecture

    def sizes_in(self, epoch: int) -> Sizes:
        """The sizes of batches and, where images are streamed, of images in `epoch` (from 1)."""
        begun = [phase for phase in self.training.phases if phase.first_epoch <= epoch]
        phase, streaming = begun[-1] if begun else Phase(first_epoch=1), self.data.streaming
        batch = phase.batch_size or self.training.batch_size
        if streaming is None:
            return Sizes(batch)
        return Sizes(batch, phase.crop_size or streaming.crop_size, phase.stored_size or streaming.stored_size)

    @property
    def stored_sizes(self) -> list[StoredSize]:
        """Of streamed images, the sizes that are trained on, that of the last epoch last; of others, none."""
        stored = [self.sizes_in(epoch).stored for epoch in range(self.training.epochs, 0, -1)]
        return [size for size in reversed(dict.fromkeys(stored)) if size is not None]

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over everything that changes the trained weights, and over nothing else."""
        return _digest(self.training_identity())

    @property
    def evaluation_fingerprint(self) -> str:
        """16 hexadecimal digits over the trained weights' identity and everything that changes the verdicts."""
        return self.evaluation_of(self.fingerprint)

    def evaluation_of(self, fingerprint: str) -> str:
        """The evaluation fingerprint that other weights have which are evaluated as this experiment is."""
        return _digest({"weights": fingerprint, "evaluation": self.evaluation.digest(self.data.test_images)})

    @property
    def ood_fingerprint(self) -> str:
        """16 hexadecimal digits over the trained weights' identity and the settings of corrupted images."""
        return _digest({"weights": self.fingerprint, "ood": self.ood.model_dump(mode="json")})

    @property
    def original(self) -> Experiment:
        """The experiment that this one forms a pair with: the same without `data.replaced_example`."""
        return self.model_copy(update={"data": self.data.model_copy(update={"replaced_example": None})})

    @property
    def stability_fingerprint(self) -> str:
        """16 hexadecimal digits over what decides how far this experiment's losses are from those of its `original`."""
        networks = [one.evaluation_fingerprint for one in (self.original, self)]
        return _digest({"version": 1, "networks": networks})

    def training_identity(self) -> dict[str, Any]:
        """What the fingerprint covers, as plain values: names, labels, paths and devices are left out."""
        ignored: dict[str, Any] = {"root": True, "streaming": BOOKKEEPING}
        if not self._uses_test_images:
            ignored["test_images"] = True
        data = self.data.model_dump(mode="json", exclude=ignored)
        return {
            "numerics_version": 1,  # of no meaning any more, but fingerprints have it
            "seed": self.seed,
            "data": data,
            "model": self.model.model_dump(mode="json"),
            "threat_model": {norm: budget.model_dump(mode="json") for norm, budget in self.threat_model.items()},
            "training": self.training.model_dump(mode="json", exclude=HOW_TO_TRAIN),
            "learners": {name: learner.model_dump(mode="json") for name, learner in self.method.learners.items()},
            "mixture": self.method.mixture and self.method.mixture.model_dump(mode="json"),
        }

    @property
    def _uses_test_images(self) -> bool:
        return self.training.selection.split == "test"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
