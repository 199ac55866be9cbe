"""A model from elsewhere, from its file to verdicts: what `stages.evaluate_weights` does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline.config import EvaluationSettings, Params
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.files import file_digest
from pipeline.core.progress import EvaluationDisplay
from pipeline.core.values import Normalization
from pipeline.experiments.evaluate import write_evaluation
from pipeline.provenance.folders import prepared_folder


@dataclass(frozen=True)
class ExternalModel:
    """Where the weights are, and what they fit."""

    path: Path
    architecture: str
    """A key of `ARCHITECTURES`."""
    mean: list[float] | None = None
    """Subtracted from inputs in [0, 1] before the network; one value or one per channel."""
    std: list[float] | None = None
    """What inputs are then divided by."""

    def normalization(self, channels: int) -> Normalization | None:
        """The standardisation as settings.

        Raises:
            RequestError: one of mean and std is missing, or their number is not that of the channels.
        """
        if self.mean is None and self.std is None:
            return None
        values = [self.mean or [], self.std or []]
        if any(len(given) not in (1, channels) for given in values):
            raise RequestError(f"--mean and --std go together and need 1 or {channels} values, got {values}")
        mean, std = (given * channels if len(given) == 1 else given for given in values)
        try:
            return Normalization(mean=mean, std=std)
        except ValidationError:
            raise RequestError(
                f"--mean and --std: expected finite numbers, those of --std above 0; got {mean} and {std}"
            ) from None


def attack_external(
    params: Params, external: ExternalModel, attacks: list[str] | None, images: int | None, output: Path
) -> dict[str, float]:
    """Check a model and attack it on the test images of a suite.

    Args:
        params: Gives the data and the attacks.
        external: The model.
        attacks: Names from `evaluation.attacks` (None: all).
        images: Attack only the first so many test images (None: all).
        output: Where results go, and the journal to continue from.

    Returns:
        Accuracies in [0, 1] by metric.

    Raises:
        RequestError: the weights do not fit, the model is not fit to be attacked, an attack is unknown, or the data is
            not prepared.
    """
    import torch

    from pipeline.core.devices import choose_backend
    from pipeline.data.split import open_split
    from pipeline.evaluation.autoattack import flags
    from pipeline.evaluation.evaluate import Evaluation
    from pipeline.evaluation.foreign_weights import check_model, load_into, read_state
    from pipeline.evaluation.journal import Journal
    from pipeline.models import build_model
    from pipeline.models.normalization import Normalized

    settings, facts = _chosen(params.evaluation, attacks), params.data.facts
    normalization = external.normalization(facts.channels)
    model = build_model(external.architecture, facts)
    matched = load_into(model, read_state(external.path), str(external.path))
    print(f"{external.path}: {len(model.state_dict())} tensors matched {matched}", flush=True)
    if normalization is not None:
        model = Normalized(model, normalization.mean, normalization.std)
    backend = choose_backend(params.training.device, "float32", params.training.threads)
    model = model.to(backend.device).to(memory_format=torch.channels_last).eval()
    test = open_split(prepared_folder(params.data.name), params.data).test
    test = test.subset(torch.arange(min(images or len(test), len(test)))).to(backend.device)
    accuracy = check_model(model, test, len(facts.classes))
    print(f"checked: logits of {len(facts.classes)} classes, {accuracy:.1%} of the first images correct", flush=True)
    started, identity = time.perf_counter(), {"weights_sha256": file_digest(external.path), "matched": matched}
    folder = f"{identity['weights_sha256'][:16]}-{settings.digest(len(test))}"
    with EvaluationDisplay(external.path.stem) as display:
        verdicts = Evaluation(model, test, settings, Journal(output / "journal" / folder), display).run()
    return write_evaluation(output, verdicts, settings, flags(model, test), identity, time.perf_counter() - started)


def _chosen(settings: EvaluationSettings, names: list[str] | None) -> EvaluationSettings:
    """The settings with these attacks alone."""
    if names is None:
        return settings
    for name in names:
        if name not in settings.attacks:
            raise RequestError(f"unknown attack '{name}': {did_you_mean(name, list(settings.attacks))}")
    union = settings.union if set(settings.union) <= set(names) else []
    return settings.model_copy(update={"attacks": {name: settings.attacks[name] for name in names}, "union": union})
