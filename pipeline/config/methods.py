"""Networks, learners and methods: the sections `model`, `threat_model` and `methods` of `params.yaml`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    StrictBool,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import override

from pipeline.config.data import AugmentationSettings
from pipeline.config.extending import EXTENDS
from pipeline.config.initial_weights import AnyInitialWeights, InitialWeights
from pipeline.config.mixture import MIXTURES, AnyMixture
from pipeline.config.streaming import Phases, TestCrop
from pipeline.core.errors import RequestError
from pipeline.core.values import (
    Location,
    Name,
    Normalization,
    Positive,
    Real,
    Schedule,
    StrictModel,
    Whole,
    context,
    is_none,
    mapping,
)
from pipeline.models import ARCHITECTURES, check_input
from pipeline.models.own import is_path
from pipeline.objectives import OBJECTIVES, Objective, refuse_label_smoothing


def _check_architecture(value: str, info: ValidationInfo) -> str:
    images = context(info, "images")
    if images is not None:
        check_input(value, images)
    return value


Architecture = Annotated[str, AfterValidator(_check_architecture)]


class NetworkSettings(StrictModel):
    """How a network is built that is named by where it is, 'package.module:object'."""

    arguments: dict[str, JsonValue] = Field(default={}, exclude_if=lambda value: not value)
    """What it is called with. `in_channels` (or `in_chans`, `channels`), `classes` (or `num_classes`), and `height`
    with `width` are given to it anyway, where it has parameters of these names."""
    fit: StrictBool = Field(default=False, exclude_if=lambda value: not value)
    """Replace its first convolution and last linear layer where they do not fit the data; for images of up to 64 x 64,
    also a first convolution with a stride, and drop the max-pool after it."""
    last_stage: str | None = Field(default=None, exclude_if=is_none)
    """Its module that gives the last feature maps, for Grad-CAM and PART (null: it is found)."""

    def building(self) -> dict[str, Any]:
        """What `build_model` is told of the network; nothing of the project's own."""
        return self.model_dump(include=set(NetworkSettings.model_fields))

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """What only networks from elsewhere have."""
        architecture = given.get("architecture")
        if isinstance(architecture, str) and is_path(architecture):
            return
        of = "no architecture is given" if architecture is None else f"'{architecture}' comes with this project"
        for key in NetworkSettings.model_fields:
            if given.get(key):
                yield (key,), f"is for an architecture 'package.module:object', and {of}"


class ModelSettings(NetworkSettings):
    """The network of every learner that does not name its own."""

    architecture: Architecture
    normalization: Normalization | None = None


class WeightAveraging(StrictModel):
    """An exponential moving average: average <- decay * average + (1 - decay) * weights, after every step."""

    decay: Real = Field(ge=0, lt=1)
    warmup: StrictBool = False
    """Use min(decay, (s + 1) / (s + 10)) at update s, as the authors' code does (methods.md 2.2, item 8)."""


class SGDSettings(StrictModel):
    """`torch.optim.SGD`."""

    name: Literal["sgd"]
    learning_rate: Positive
    momentum: Real = Field(default=0.9, ge=0, lt=1)
    nesterov: StrictBool = False
    weight_decay: Real = Field(default=0.0, ge=0)
    decay_batch_norm: StrictBool = Field(default=True, exclude_if=bool)
    """Whether weight decay also applies to BatchNorm's scales and shifts."""


class AdamSettings(StrictModel):
    """`torch.optim.Adam`."""

    name: Literal["adam"]
    learning_rate: Positive
    betas: tuple[Annotated[Real, Field(ge=0, lt=1)], Annotated[Real, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: Real = Field(default=0.0, ge=0)


OptimizerSettings = Annotated[SGDSettings | AdamSettings, Field(discriminator="name")]


class LearnerSettings(NetworkSettings):
    """One learner: a network with its own objective, optimizer and schedule."""

    objective: Annotated[Objective, OBJECTIVES]
    """In the file: `name` of a module in `pipeline/objectives/` (or a dotted module path), that objective's options,
    and `norm` or `norms` for the budgets of `threat_model`."""
    optimizer: OptimizerSettings
    schedule: Schedule
    """Factor on the learning rate, per epoch."""
    weight_averaging: WeightAveraging | None = None
    """Keep a moving average of this learner's weights beside it; for a single learner, it is the result."""
    architecture: Architecture | None = None
    """A network of its own instead of `model.architecture`; `arguments`, `fit` and `last_stage` are this one's."""
    initial_weights: AnyInitialWeights | None = Field(default=None, exclude_if=is_none)
    """A file that it starts from, instead of random weights."""
    label_smoothing: Real = Field(default=0.0, ge=0, lt=1, exclude_if=lambda value: value == 0)
    """Targets of the cross-entropy that it minimises: 1 - s at the label plus s / classes everywhere."""
    augmentation: AugmentationSettings | None = Field(default=None, exclude_if=is_none)
    """Crops and mirror images of its own, of the minibatch that all learners share; after those of
    `data.augmentation`."""

    @field_validator("initial_weights")
    @classmethod
    def _are_of_its_network(cls, value: InitialWeights | None, info: ValidationInfo) -> InitialWeights | None:
        images, shared = context(info, "images"), context(info, "model") or {}
        architecture = info.data.get("architecture") or shared.get("architecture")
        if value is None or images is None or architecture not in ARCHITECTURES:
            return value
        try:
            value.check(architecture, images, shared.get("normalization"))
        except RequestError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("label_smoothing")
    @classmethod
    def _is_of_a_cross_entropy(cls, value: float, info: ValidationInfo) -> float:
        if value and "objective" in info.data:
            refuse_label_smoothing(info.data["objective"])
        return value


class MethodSettings(StrictModel):
    """One row of the tables: a list of learners, and how they are combined when there are several.

    In the file, `extends` names another method that it has everything of but the label, and what it says itself.
    """

    label: str
    """How tables and figures name it: plain text, `$math$` and `` `code` ``."""
    learners: dict[Name, LearnerSettings] = Field(min_length=1)
    mixture: AnyMixture | None = None
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
    @override
    def valid_keys(cls) -> list[str]:
        return sorted([*super().valid_keys(), EXTENDS])

    @classmethod
    def inconsistencies(cls, given: dict[str, Any]) -> Iterator[tuple[Location, str]]:
        """What the learners and the mixture must know of each other."""
        learners, mixture = mapping(given, "learners"), mapping(given, "mixture")
        names = [str(name) for name in learners]
        if "global" in names:
            yield ("learners", "global"), "'global' is the name of the mixture's own learner; choose another one"
        if given.get("mixture") is None:
            if len(names) > 1:
                yield ("mixture",), f"{len(names)} learners ({', '.join(names)}) need one that combines them"
            return
        combined: list[str] = []
        with suppress(ValueError):  # an unknown rule is told at its own place
            combined = sorted(MIXTURES.find(mixture.get("rule")).combines(mixture))
        if combined and names and combined != sorted(names):
            place = ("mixture", "mixing_ratios") if "mixing_ratios" in mixture else ("mixture",)
            yield place, f"names {combined}, learners are {sorted(names)}"
        own = {name: mapping(learners, name).get("architecture") for name in learners}
        built = [
            [mapping(learners, name).get(key) for key in ("architecture", "arguments", "fit")] for name in learners
        ]
        if any(one != built[0] for one in built):
            shown = ", ".join(f"{name} has {value or 'model.architecture'}" for name, value in own.items())
            yield (
                ("learners",),
                f"learners of different architectures cannot be mixed, their weights do not correspond: {shown}",
            )
        starts = {name: mapping(learners, name).get("initial_weights") for name in learners}
        if len({str(start) for start in starts.values()}) > 1 and _starts_together(mixture):
            shown = ", ".join(f"{name} from {value or 'random weights'}" for name, value in starts.items())
            yield ("learners",), f"learners that are mixed start from the same weights, here {shown}"
        missing = [name for name in learners if mapping(learners, name).get("weight_averaging") is None]
        if mixture.get("source") == "weight_averages" and len(missing) == len(names):
            yield (
                ("mixture", "source"),
                f"'weight_averages' needs weight_averaging on a learner, none of {names} has it",
            )


def _starts_together(mixture: dict[str, Any]) -> bool:
    """Whether the rule of a mixture says so; False where it is unknown, which is told at its own place."""
    try:
        return MIXTURES.find(mixture.get("rule")).starts_together
    except ValueError:
        return False
