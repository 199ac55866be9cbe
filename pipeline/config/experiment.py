"""One experiment, fully resolved, and the fingerprints by which its results are found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from pipeline.config.data import DataSettings
from pipeline.config.evaluation import EvaluationSettings, OODSettings
from pipeline.config.initial_weights import InitialWeights
from pipeline.config.methods import MethodSettings, ModelSettings
from pipeline.config.streaming import BOOKKEEPING, Phase, Sizes, StoredSize
from pipeline.config.training import HOW_TO_TRAIN, TrainingSettings
from pipeline.core.values import AttackBudget, Name, Norm, StrictModel, _digest
from pipeline.models.own import is_path

if TYPE_CHECKING:
    from torch import nn

LONGEST_NAME = 120
"""Characters in an experiment's name: it names a folder."""


class Experiment(StrictModel):
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
        """The network of every learner: those that are mixed have the same."""
        learner = next(iter(self.method.learners.values()))
        return learner.architecture or self.model.architecture

    @property
    def initial_weights(self) -> list[InitialWeights]:
        """The files that learners start from."""
        return [one.initial_weights for one in self.method.learners.values() if one.initial_weights is not None]

    def build_model(self, learner: str | None = None) -> nn.Module:
        """A freshly initialised network of a learner (None: of the first; mixed ones have the same)."""
        from pipeline.models import build_model

        own = self.method.learners[learner or next(iter(self.method.learners))]
        return build_model(
            own.architecture or self.model.architecture,
            self.data.facts,
            self.model.normalization,
            **(self.model if own.architecture is None else own).building(),
        )

    def check_network(self, model: nn.Module) -> None:
        """Refuse (RequestError) a network from elsewhere that does not do, at every size that images have."""
        if not is_path(self.architecture):
            return
        from pipeline.models.checks import check_network

        maps = any(learner.objective.needs_feature_maps for learner in self.method.learners.values())
        channels, *sides = self.data.facts.shape
        for crop in {self.sizes_in(epoch).crop for epoch in range(1, self.training.epochs + 1)}:
            height, width = sides if crop is None else (crop, crop)
            check_network(self.architecture, model, (channels, height, width), len(self.data.facts.classes), maps)

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
        """The sizes of streamed images that are trained on, that of the last epoch last; none for others."""
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
        if self.training.selection.split != "test":
            ignored["test_images"] = True
        data = self.data.model_dump(mode="json", exclude=ignored)
        return {
            "numerics_version": 1,  # of no meaning any more, but fingerprints have it
            "seed": self.seed,
            "data": data,
            "model": self.model.model_dump(mode="json"),
            "threat_model": {norm: budget.model_dump(mode="json") for norm, budget in self.threat_model.items()},
            "training": self.training.model_dump(mode="json", exclude=HOW_TO_TRAIN),
            "learners": {
                name: learner.model_dump(mode="json", exclude={"initial_weights": {"file"}})
                for name, learner in self.method.learners.items()
            },
            "mixture": self.method.mixture and self.method.mixture.model_dump(mode="json"),
        }
