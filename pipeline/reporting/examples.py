"""Test images as a trained network sees them: as they are and under PGD, with the class that it predicts and why.

Verdicts keep classes, not images. So the images are crafted again, on the CPU: with the noise of their batch in the
evaluation, which makes them those that the verdicts are about wherever the evaluation ran on a CPU, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pandas as pd
import torch
from pydantic import PrivateAttr
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.config import EvaluationSettings, Experiment
from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import atomic_write
from pipeline.core.streams import stream, stream_seed
from pipeline.data.images import ImageSet, to_unit_interval
from pipeline.data.split import Split, open_split
from pipeline.evaluation.attacks.pgd import PGDAttack
from pipeline.evaluation.predictions import channels_last
from pipeline.objectives.part import class_activation
from pipeline.provenance.code import digest_of
from pipeline.tracking import read_artifacts, read_run

CRAFTING_VERSION = 2
"""Raise it when a change of the code changes what is crafted."""
NATURAL = "natural"


@dataclass(frozen=True)
class View:
    """Some images under one attack, or as they are."""

    pixels: Tensor
    """(n, channels, height, width), uint8."""
    predicted: Tensor
    """(n,), int64: the class that the network sees."""
    maps: Tensor
    """(n, height, width), uint8: Grad-CAM (Selvaraju et al., 2017) of that class, 255 where most speaks for it; all 0
    where the network has no feature maps."""


def shown_attacks(settings: EvaluationSettings) -> dict[str, PGDAttack]:
    """The attacks whose images are shown: the first PGD of every norm, by the name of its metric."""
    first: dict[str, tuple[str, PGDAttack]] = {}
    for name, attack in settings.attacks.items():
        if isinstance(attack, PGDAttack):
            first.setdefault(attack.norm, (name, attack))
    return dict(first.values())


def choose(verdicts: pd.DataFrame, attacks: Iterable[str], count: int) -> list[int]:
    """Up to `count` images that show what a network can and cannot do.

    In turn one that is wrong by nature, one that is fooled, one that resists all attacks; the classes in turn, too.

    Args:
        verdicts: Of one experiment.
        attacks: Names of attacks; only images that all of them saw are chosen.
        count: How many.

    Returns:
        Positions in the suite's test order.
    """
    correct = correctness({attack: verdicts[verdicts["attack"] == attack] for attack in (NATURAL, *attacks)})
    kind = pd.Series("fooled", index=correct.index)
    kind[correct.all(axis=1)] = "robust"
    kind[~correct[NATURAL]] = "wrong"
    labels = verdicts[verdicts["attack"] == NATURAL].set_index("image")["label"]
    table = pd.DataFrame({"kind": kind, "label": labels}).dropna()
    table["repeats"] = table.groupby(["kind", "label"]).cumcount()
    table = table.rename_axis("image").reset_index().sort_values(["repeats", "image"])
    table["turn"] = table.groupby("kind").cumcount()
    table["order"] = table["kind"].map({"wrong": 0, "fooled": 1, "robust": 2})
    chosen = table.sort_values(["turn", "order"]).head(count)
    return [int(image) for image in chosen.sort_values(["order", "turn"])["image"]]


def correctness(verdicts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Whether each image is correct, a column for each table of verdicts; only images that all of them have."""
    columns = {name: table.set_index("image")["correct"] for name, table in verdicts.items()}
    return pd.concat(columns, axis=1, join="inner").astype(bool)


def disputed(correct: pd.DataFrame, labels: pd.Series, methods: list[str], count: int) -> list[int]:
    """Up to `count` images that all of `methods` get right and others get wrong.

    Those that more of the others get wrong come first, and among those the classes in turn.

    Args:
        correct: As `correctness` gives it: a column for each of `methods` and of the others.
        labels: Classes by image.
        methods: Names of columns.
        count: How many.

    Returns:
        Positions in the suite's test order; none where there is no such image.
    """
    wrong = (~correct.drop(columns=methods)).sum(axis=1)
    table = pd.DataFrame({"wrong": wrong, "label": labels})[correct[methods].all(axis=1) & wrong.gt(0)]
    table["repeats"] = table.groupby(["wrong", "label"]).cumcount()
    ordered = table.rename_axis("image").sort_values(["wrong", "repeats", "image"], ascending=[False, True, True])
    return [int(image) for image in ordered.index[:count]]


class PGDFrom(PGD):
    """PGD from given points."""

    _points: Tensor = PrivateAttr()

    @override
    def starting_points(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return self._points


def craft(
    model: nn.Module, test: ImageSet, chosen: Sequence[int], name: str, attack: PGDAttack, batch: int, seed: int
) -> Tensor:
    """The adversarial examples that the evaluation found for the images `chosen`, without attacking all the others.

    Args:
        model: In eval mode, on the CPU.
        test: The suite's test images.
        chosen: Positions in them, below `attack.images`.
        name: Of the attack's metric.
        attack: Its settings.
        batch: `evaluation.batch_size`.
        seed: `evaluation.seed`.

    Returns:
        (n, channels, height, width), float32 in [0, 1].
    """
    settings = attack.model_dump(exclude={"name", "images"})
    replayed, count = PGDFrom(**settings), min(attack.images or len(test), len(test))
    points = []
    for image in chosen:
        first = image // batch * batch
        inputs, _ = test.batch(torch.arange(first, min(first + batch, count)))
        noise = stream(stream_seed(seed, name), "batch", image // batch)
        points.append(PGD(**settings).starting_points(inputs, noise)[image - first])
    replayed._points = torch.stack(points)
    inputs, labels = test.batch(torch.tensor(chosen))
    return replayed.perturb(model, channels_last(inputs), labels, torch.Generator())


def views(
    experiment: Experiment, weights: bytes, test: ImageSet, chosen: Sequence[int], names: Iterable[str]
) -> dict[str, View]:
    """Images as the network of an experiment sees them.

    Args:
        experiment: Whose network and attacks.
        weights: The content of its `model.safetensors`.
        test: The suite's test images, on the CPU.
        chosen: Positions in them.
        names: `natural`, or names of PGD attacks.

    Raises:
        PipelineError: the weights are damaged or of another network.
    """
    model, settings = network(experiment, weights), experiment.evaluation
    found = {}
    for name in names:
        attack = settings.attacks.get(name)
        if isinstance(attack, PGDAttack):
            images = craft(model, test, chosen, name, attack, settings.batch_size, settings.seed)
        else:
            images = to_unit_interval(test.images[torch.tensor(chosen)])
        with torch.no_grad():
            predicted = model(channels_last(images)).argmax(1)
        try:
            maps = class_activation(model, channels_last(images))
        except RequestError:
            maps = torch.zeros_like(images[:, 0])
        found[name] = View(images.mul(255).round().to(torch.uint8), predicted, maps.mul(255).round().to(torch.uint8))
    return found


def network(experiment: Experiment, weights: bytes) -> nn.Module:
    """The network of an experiment, in eval mode, on the CPU.

    Args:
        experiment: Whose.
        weights: The content of its `model.safetensors`.

    Raises:
        PipelineError: the weights are damaged or of another network.
    """
    model = experiment.build_model()
    try:
        model.load_state_dict(load(weights))
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise PipelineError(f"the weights of {experiment.identifier} in MLflow cannot be used: {reason}") from None
    return model.to(memory_format=torch.channels_last).eval()


class Pictures:
    """Test images as the networks of a suite see them. What was crafted once is kept.

    Args:
        prepared: The folder of the prepared data set.
        kept: The folder for what was crafted. Only what decides about it is in a file's name: it is never out of date.
        announce: Told what is crafted, since that takes a while.
    """

    def __init__(
        self,
        prepared: Path,
        kept: Path,
        announce: Callable[[str], None] = lambda message: None,
    ) -> None:
        self._prepared = prepared
        self._splits: dict[str, Split] = {}
        self._kept = kept
        self._announce = announce

    def split(self, experiment: Experiment) -> Split:
        """The images of an experiment; most share theirs, but streamed ones may be cropped for each method.

        Raises:
            RequestError: they are not prepared here; the message says what prepares them.
        """
        key = json.dumps([experiment.data.model_dump(mode="json"), experiment.stored_sizes])
        if key not in self._splits:
            self._splits[key] = open_split(self._prepared, experiment.data, experiment.stored_sizes)
        return self._splits[key]

    def seen(self, experiment: Experiment, run_id: str, chosen: Sequence[int], names: Sequence[str]) -> dict[str, View]:
        """The views `names` of the images `chosen` by the network of an experiment; see `views`.

        Raises:
            RequestError: the data set is not prepared here.
            PipelineError: its MLflow run has no weights, or they are damaged.
        """
        split, weights_digest = self.split(experiment), read_run(run_id).tags.get("weights_sha256")
        code = digest_of("evaluate", experiment)
        settings = [experiment.evaluation_fingerprint, code, weights_digest, split.digest]
        identity = [CRAFTING_VERSION, *settings, list(chosen), list(names)]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        path = self._kept / experiment.fingerprint / "views" / f"{digest}.safetensors"
        found = _read(path, names)
        if found is None:
            weights = read_artifacts([run_id], "model.safetensors", Path.read_bytes).get(run_id)
            if weights is None:
                raise PipelineError(
                    f"the weights of {experiment.identifier} are not in MLflow. 'make tables' logs them again where "
                    f"results/ has them, else 'dvc repro --force train@{experiment.identifier}' makes them."
                )
            self._announce(f"{experiment.identifier}: crafting {len(chosen)} images ({', '.join(names)})")
            found = views(experiment, weights, split.test, chosen, names)
            _write(path, found)
        return found


def _read(path: Path, names: Iterable[str]) -> dict[str, View] | None:
    """What is kept; None where nothing is, or nothing whole."""
    try:
        tensors = load_file(path)
        return {name: View(**{part.name: tensors[f"{name}/{part.name}"] for part in fields(View)}) for name in names}
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def _write(path: Path, found: Mapping[str, View]) -> None:
    tensors = {
        f"{name}/{part}": tensor.contiguous() for name, view in found.items() for part, tensor in vars(view).items()
    }
    with atomic_write(path) as stream:
        stream.write(save(tensors))
