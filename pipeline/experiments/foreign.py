"""A model from elsewhere, from its file to verdicts: what `stages.evaluate_weights` does."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from pipeline.config import DataSettings, EvaluationSettings, Params
from pipeline.core.datasets import DataFacts
from pipeline.core.errors import RequestError, did_you_mean
from pipeline.core.extensions import named_in
from pipeline.core.files import file_digest, write_json
from pipeline.core.progress import EvaluationDisplay
from pipeline.core.values import Normalization, _digest
from pipeline.experiments.evaluate import write_evaluation
from pipeline.models.own import is_path
from pipeline.provenance.code import WATCHERS, Code, reached, strings_in
from pipeline.provenance.commit import git_commit, versions
from pipeline.provenance.folders import prepared_folder

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from pipeline.evaluation.claims import Claims
    from pipeline.models.normalization import Normalized


@dataclass(frozen=True)
class ExternalModel:
    """Where the weights are, and what they fit."""

    path: Path
    architecture: str
    """As `build_model` takes it."""
    mean: list[float] | None = None
    """Subtracted from inputs in [0, 1] before the network; one value or one per channel."""
    std: list[float] | None = None
    """What inputs are then divided by."""
    key: str | None = None
    """The place of the state dict in the file, where it holds several."""

    def load(self, images: DataFacts, network: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
        """The network for such images with the weights, on the CPU; and what its numbers belong to. Says what was
        done.

        Raises:
            RequestError: the file is no file of weights, they do not fit, or the normalisation is wrong.
        """
        from pipeline.models import build_model
        from pipeline.models.matching import load_into, normalization_of, standardises
        from pipeline.models.normalization import Normalized
        from pipeline.models.weight_files import read_weights

        given, weights = self._normalization(images.channels), read_weights(self.path, self.key)
        model = build_model(self.architecture, images, **network)
        lines = load_into(model, weights, images)
        inside = standardises(model)
        normalization = given or (None if inside else normalization_of(weights, images.channels))
        if normalization is not None:
            source = "--mean and --std" if given else "a layer in the file"
            lines.append(f"normalisation, from {source}: mean {normalization.mean}, std {normalization.std}")
        if normalization is not None and isinstance(model, Normalized):
            _check_same(self.architecture, model, normalization)
        elif normalization is not None:
            model = Normalized(model, normalization.mean, normalization.std)
        print(f"{self.path}:", *lines, sep="\n  ", flush=True)
        identity = {
            "weights_sha256": file_digest(self.path),
            "state_dict": weights.place,
            "architecture": self.architecture,
            **({"network": json.dumps(network, sort_keys=True)} if network else {}),
            "normalization": "none" if normalization is None else normalization.model_dump_json(),
        }
        return model, identity

    def _normalization(self, channels: int) -> Normalization | None:
        """The standardisation that was given, as settings.

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
    params: Params,
    external: ExternalModel,
    attacks: list[str] | None,
    images: int | None,
    output: Path,
    any_scale: bool = False,
    claims: Path | None = None,
) -> dict[str, float]:
    """Check a model and attack it on the test images of a suite.

    Args:
        attacks: Names from `evaluation.attacks` (None: all).
        images: Attack only the first so many test images (None: all).
        output: Where results go, and the journal to continue from.
        any_scale: Attack the model although it is better on inputs in another scale than [0, 1].
        claims: A RobustBench model_info to hold the accuracies against.

    Returns:
        Accuracies in [0, 1] by metric.

    Raises:
        RequestError: the weights do not fit, the model is not fit to be attacked, an attack is unknown, the data is
            not prepared, or the claims are about other data.
    """
    import torch

    from pipeline.core.devices import choose_backend
    from pipeline.data.split import open_split
    from pipeline.evaluation.autoattack import flags
    from pipeline.evaluation.claims import read_claims
    from pipeline.evaluation.evaluate import Evaluation
    from pipeline.evaluation.foreign_weights import check_model
    from pipeline.evaluation.journal import Journal

    settings, facts = _chosen(params.evaluation, attacks), params.data.facts
    claimed = None if claims is None else read_claims(claims, params.data.name)
    model, identity = external.load(facts, _building(params, external.architecture))
    backend = choose_backend(params.training.device, "float32", params.training.threads)
    model = model.to(backend.device).to(memory_format=torch.channels_last).eval()
    split = open_split(prepared_folder(params.data.name), params.data)
    everything = split.test.to(backend.device)
    accuracy = check_model(model, everything, len(facts.classes), any_scale)
    print(f"checked: logits of {len(facts.classes)} classes, {accuracy:.1%} of the first images correct", flush=True)
    test = everything.subset(torch.arange(min(images or len(everything), len(everything))))
    started, code = time.perf_counter(), _code(external.architecture, settings)
    identity |= {"data": params.data.name, "data_digest": split.digest, "evaluation_code": code.digest}
    folder = f"{identity['weights_sha256'][:16]}-{_digest([identity, settings.digest(len(test))])}"
    with EvaluationDisplay(external.path.stem, settings.passes(len(test))) as display:
        verdicts = Evaluation(model, test, settings, Journal(output / "journal" / folder), display).run()
    judged = {"settings": _settings(external, params.data, settings), "git_commit": git_commit(), **versions()}
    flagged, seconds = flags(model, test), time.perf_counter() - started
    metrics = write_evaluation(output, verdicts, settings, flagged, identity | judged, seconds, code)
    (output / "claims.json").unlink(missing_ok=True)
    if claimed is not None:
        _hold_against(claimed, settings, metrics, verdicts, output)
    return metrics


def _building(params: Params, architecture: str) -> dict[str, Any]:
    """What `build_model` is told of a network: what params.yaml says where it is that one."""
    if architecture == params.model.architecture:
        return params.model.building()
    # torchvision's functions take it among **kwargs, where nobody sees it.
    hidden = architecture.startswith("torchvision.models")
    return {"arguments": {"num_classes": len(params.data.facts.classes)}} if hidden else {}


def _hold_against(
    claimed: Claims,
    settings: EvaluationSettings,
    metrics: Mapping[str, float],
    verdicts: pd.DataFrame,
    output: Path,
) -> None:
    """Print, and write to `claims.json`, what was measured beside what a leaderboard says."""
    from pipeline.evaluation.claims import hold

    counts = {str(name): int(count) for name, count in verdicts["attack"].value_counts().items()}
    held = list(hold(claimed, settings, metrics, counts))
    write_json(output / "claims.json", [one if isinstance(one, str) else asdict(one) for one in held])
    print(f"the leaderboard's entry ({claimed.architecture}):", *held, sep="\n  ", flush=True)


def _settings(external: ExternalModel, data: DataSettings, evaluation: EvaluationSettings) -> dict[str, Any]:
    """What a comparison with another model looks at, as plain values."""
    model = asdict(external) | {"path": str(external.path)}
    judged = {"data": data.model_dump(mode="json"), "evaluation": evaluation.model_dump(mode="json")}
    return {"model": model, **judged}


def _code(architecture: str, settings: EvaluationSettings) -> Code:
    content = {"architecture": architecture, "evaluation": settings.model_dump(mode="json")}
    roots = [f"{__name__}:{one.__name__}" for one in (attack_external, ExternalModel)]
    networks = [architecture] if is_path(architecture) else []
    return reached([*roots, *networks], strings_in(content), WATCHERS, extensions=named_in(content["evaluation"]))


def _check_same(architecture: str, model: Normalized, given: Normalization) -> None:
    """Refuse a normalisation that is not the one that the network does itself."""
    import torch

    for ours, theirs in ((model.mean, given.mean), (model.std, given.std)):
        if not torch.allclose(ours.flatten(), torch.tensor(theirs), atol=1e-3):
            raise RequestError(
                f"{architecture} standardises its inputs itself, with {ours.flatten().tolist()}, and the weights were "
                f"trained with {theirs}; it cannot be exchanged"
            )


def _chosen(settings: EvaluationSettings, names: list[str] | None) -> EvaluationSettings:
    if names is None:
        return settings
    for name in names:
        if name not in settings.attacks:
            raise RequestError(f"unknown attack '{name}': {did_you_mean(name, list(settings.attacks))}")
    union = settings.union if set(settings.union) <= set(names) else []
    return settings.model_copy(update={"attacks": {name: settings.attacks[name] for name in names}, "union": union})
