"""Label smoothing and augmentation of a learner's own: what it alone meets, and what others do not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.attacks.pgd import PGD
from pipeline.config import Params
from pipeline.core.devices import Backend
from pipeline.core.errors import RequestError
from pipeline.core.streams import stream
from pipeline.data.augmentation import augment
from pipeline.data.images import ImageSplit, to_unit_interval
from pipeline.objectives import OBJECTIVES, Moment, resolve_objective
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.run import TrainingRun
from tests.conftest import MakeParams
from tests.objectives.test_formulas import BUDGETS, LABELS, generator, images, network
from tests.running import Weights, assert_same

D = "generalist_d_nt_linf"
OWN = {"crop_padding": 1, "horizontal_flip": True}
OPTIONS: dict[str, dict[str, Any]] = {
    "agr": {"norm": "linf", "starts_after": 0},
    "average": {"norms": ["linf", "l2"]},
    "corruptions": {},
    "eat": {"norms": ["linf", "l2"]},
    "maximum": {"norms": ["linf", "l2"]},
    "msd": {"norms": ["linf", "l2"]},
    "natural": {},
    "ramp": {"norms": ["linf", "l2"]},
    "rmc": {"norms": ["linf", "l2"]},
    "trades": {"norm": "linf", "beta": 6},
}
"""Of objectives that need more than a norm."""


def having(**settings: Any) -> Callable[[dict[str, Any]], None]:
    """The natural learner of Generalist-D with these."""
    return lambda raw: raw["methods"][D]["learners"]["natural"].update(settings)


def loss(name: str, label_smoothing: float) -> Tensor:
    """Of one minibatch, with the same network and noise every time."""
    options = {"name": name, **OPTIONS.get(name, {"norm": "linf"})}
    moment = Moment(100, 120, generator(), label_smoothing=label_smoothing)
    return resolve_objective(options, BUDGETS)(network(), images(), LABELS, moment).loss


# --- Label smoothing


def test_targets_are_smoothed() -> None:
    logits = network()(images())
    target = 0.7 * functional.one_hot(LABELS, 10) + 0.3 / 10
    torch.testing.assert_close(loss("natural", 0.3), -(target * logits.log_softmax(1)).sum(1).mean())


def test_attacks_climb_the_plain_cross_entropy() -> None:
    attack = PGD(norm="linf", **BUDGETS["linf"])
    logits = network()(attack.perturb(network(), images(), LABELS, generator()))
    expected = functional.cross_entropy(logits, LABELS, label_smoothing=0.3)
    torch.testing.assert_close(loss("adversarial", 0.3), expected)


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_every_objective_is_smoothed_or_refuses(make_params: MakeParams, name: str) -> None:
    plain, smoothed = loss(name, 0.0), loss(name, 0.3)
    options = {"name": name, **OPTIONS.get(name, {"norm": "linf"})}
    change = having(objective=options, label_smoothing=0.3)
    if smoothed != plain:
        assert make_params(change).methods[D].learners["natural"].label_smoothing == 0.3
        return
    with pytest.raises(RequestError, match=f"label_smoothing: .*'{name}' has no cross-entropy .* expected 0"):
        make_params(change)


def test_only_the_squared_distance_has_no_cross_entropy(make_params: MakeParams) -> None:
    refused = [name for name in OBJECTIVES.names() if loss(name, 0.3) == loss(name, 0.0)]
    assert refused == ["score"]


@pytest.mark.parametrize("value", [-0.1, 1.0])
def test_smoothing_is_a_share(make_params: MakeParams, value: float) -> None:
    with pytest.raises(RequestError, match="label_smoothing"):
        make_params(having(label_smoothing=value))


# --- Augmentation


def seen_by(run: TrainingRun, name: str) -> list[tuple[Tensor, Moment]]:
    """The images and the moment of every step of the first epoch, as a learner's step gets them."""
    (learner,) = [one for one in run.learners if one.name == name]
    seen, step = [], learner.step

    def recording(images: Tensor, labels: Tensor, moment: Moment) -> Any:
        seen.append((images, moment))
        return step(images, labels, moment)

    learner.step = recording  # type: ignore[method-assign]
    forward(run, epochs=1)
    return seen


def forward(run: TrainingRun, epochs: int) -> None:
    """The steps of so many epochs, without what comes at their ends."""
    for epoch in range(1, epochs + 1):
        for minibatch, labels in run.minibatches_left(epoch):
            for learner in run.learners:
                run.step(learner, minibatch, labels, epoch)
            run.progress.step += 1
        run.progress.step = 0


def started(params: Params, split: ImageSplit, backend: Backend, folder: Path) -> TrainingRun:
    experiment = params.experiment(D, 1)
    return TrainingRun(experiment, split, backend, CheckpointFolder(folder, experiment.fingerprint))


def test_the_shared_minibatch_is_cropped_by_a_stream_of_the_learner(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    plain = seen_by(started(make_params(), tiny_split, cpu, tmp_path), "natural")
    params = make_params(having(augmentation=OWN))
    own = seen_by(started(params, tiny_split, cpu, tmp_path), "natural")
    settings = params.methods[D].learners["natural"].augmentation
    assert settings is not None
    for step, ((shared, _), (cropped, _)) in enumerate(zip(plain, own, strict=True)):
        stored = (shared * 255).round().to(torch.uint8)
        expected = augment(stored, settings, stream(1, "augmentation", "natural", 1, step))
        assert torch.equal(cropped, to_unit_interval(expected)) and not torch.equal(cropped, shared)


@pytest.mark.parametrize("own", [{}, {"augmentation": OWN}])
def test_images_that_an_objective_brings_are_augmented_like_the_minibatch(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, own: dict[str, Any]
) -> None:
    def change(raw: dict[str, Any]) -> None:
        raw["data"]["augmentation"] = {"crop_padding": 2, "horizontal_flip": False}
        having(**own)(raw)

    params = make_params(change)
    _, moment = seen_by(started(params, tiny_split, cpu, tmp_path), "natural")[0]
    brought = torch.randint(256, (16, 1, 8, 8), dtype=torch.uint8, generator=generator(3))
    noise = generator()
    expected = augment(brought, params.data.augmentation, noise)
    settings = params.methods[D].learners["natural"].augmentation
    if settings is not None:
        expected = augment(expected, settings, noise)
    found = moment.augment(brought, generator())
    assert torch.equal(found, expected) and not torch.equal(found, brought)


@pytest.mark.parametrize("own", [{"augmentation": OWN}, {"label_smoothing": 0.1}])
def test_other_learners_do_not_notice(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, own: dict[str, Any]
) -> None:
    found: list[dict[str, Weights]] = []
    for number, params in enumerate((make_params(), make_params(having(**own)))):
        run = started(params, tiny_split, cpu, tmp_path / str(number))
        forward(run, epochs=2)
        found.append({learner.name: dict(learner.model.state_dict()) for learner in run.learners})
    assert_same(found[0]["linf"], found[1]["linf"])
    assert not torch.equal(found[0]["natural"]["linear.weight"], found[1]["natural"]["linear.weight"])


# --- Identity


def test_what_is_not_given_is_not_part_of_the_identity(make_params: MakeParams) -> None:
    plain, own = make_params(), make_params(having(augmentation=OWN, label_smoothing=0.1))
    as_before = having(augmentation=None, label_smoothing=0.0)
    fingerprints = [params.experiment(D, 1).fingerprint for params in (plain, make_params(as_before), own)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]
    learner = plain.experiment(D, 1).training_identity()["learners"]["natural"]
    assert learner.keys().isdisjoint({"label_smoothing", "augmentation"})
