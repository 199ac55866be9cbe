"""Streamed images, phases and rates per step in params.yaml; and that what they added changes no older fingerprint."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from pipeline.config import LearnerSettings, Params, Sizes, parse_params
from pipeline.core.errors import RequestError
from tests.conftest import MakeParams, composed, content_of

FINGERPRINTS = {
    ("digits", "at"): "806dffce48c990bc",
    ("digits", "fast_at"): "5b97dcdc9616a9f4",
    ("cifar10", "generalist_t"): "b8b059313a9a2e1b",
    ("svhn", "ramp"): "8dd5c34b01757c3d",
}
"""As they were before streaming, phases and ranks, by suite and method."""


def params(*overrides: str) -> Params:
    return composed(*overrides)


@pytest.fixture(scope="module")
def imagenet() -> Params:
    return params("suite=imagenet", "recipes=imagenet_sources")


@pytest.mark.parametrize(("suite", "method"), FINGERPRINTS)
def test_older_fingerprints_are_as_they_were(suite: str, method: str) -> None:
    """They find the runs that people have. A suite whose settings change gets new ones, and only then."""
    assert params(f"suite={suite}", "competitors=all").experiment(method, 1).fingerprint == FINGERPRINTS[suite, method]


def test_fast_ats_phases_are_the_sources(imagenet: Params) -> None:
    experiment = imagenet.experiment("fast_at", 1)
    sizes = [experiment.sizes_in(epoch) for epoch in range(1, 16)]
    assert sizes == [Sizes(512, 128, 160)] * 6 + [Sizes(224, 224, 352)] * 6 + [Sizes(128, 288, "original")] * 3
    assert experiment.stored_sizes == [160, 352, "original"]
    assert experiment.data.streaming and experiment.data.streaming.test_crop.model_dump() == {
        "size": 288,
        "resize": None,
    }
    learner = experiment.method.learners["linf"]
    rate = learner.optimizer.learning_rate
    assert [rate * learner.schedule.at(epoch) for epoch in (1, 6, 12, 15)] == pytest.approx([0.4, 0.04, 0.004, 0.0004])
    assert rate * learner.schedule.at(1, 0.25) == pytest.approx(0.1)
    assert rate * learner.schedule.at(2, 0.5) == pytest.approx(0.364)
    assert attack_of(learner).epsilon == 4 / 255


def attack_of(learner: LearnerSettings) -> Any:
    """The attack that a learner trains with; None for natural training."""
    return getattr(learner.objective, "attack", None)


def test_the_other_rows_of_table_3_share_their_settings(imagenet: Params) -> None:
    assert imagenet.tables["table1"].rows == [
        "fast_at",
        "at",
        "generalist_d_nt_linf",
        "generalist_d_linf_l2",
        "generalist_t",
    ]
    for method in imagenet.tables["table1"].rows[1:]:
        experiment = imagenet.experiment(method, 1)
        assert {experiment.sizes_in(epoch) for epoch in (1, 100, 240)} == {Sizes(256, 224, 256)}
        for name, learner in experiment.method.learners.items():
            attack = attack_of(learner)
            assert learner.optimizer.weight_decay == (2e-4 if name == "natural" else 1e-4)
            assert attack is None or (attack.steps, attack.step_size) == (3, attack.epsilon / 4)
    source = attack_of(imagenet.methods["at_source"].learners["linf"])
    assert source.step_size * source.steps == pytest.approx(2 * source.epsilon) and source.start == "zero"


@pytest.mark.parametrize(
    ("path", "value", "same"),
    [
        ("data.root", "/elsewhere", True),
        ("data.streaming.workers", 3, True),
        ("data.streaming.other_stored_sizes", [160, 352, "original", 64], True),
        ("data.streaming.crop_size", 192, False),
        ("data.streaming.test_crop.size", 192, False),
        ("data.streaming.stored_size", 352, False),
        ("training.phases", [{"first_epoch": 3, "batch_size": 9}], False),
        ("methods.at.phases", [{"first_epoch": 3, "crop_size": 9}], False),
        ("methods.at.test_crop", {"size": 9, "resize": None}, False),
        ("methods.at.learners.linf.schedule.every", "step", False),
        ("methods.at.learners.linf.optimizer.decay_batch_norm", False, False),
    ],
)
def test_what_changes_numbers_changes_the_fingerprint(path: str, value: Any, same: bool) -> None:
    raw = content_of("suite=imagenet")
    before = parse_params(raw).experiment("at", 1).fingerprint
    assert (parse_params(changed(raw, path, value)).experiment("at", 1).fingerprint == before) == same


def changed(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    content = deepcopy(raw)
    here: Any = content
    *parts, last = path.split(".")
    for part in parts:
        here = here[int(part) if part.isdigit() else part]
    here[last] = value
    return content


@pytest.mark.parametrize(
    ("suite", "path", "value", "text"),
    [
        ("digits", "data.classes", 10, "data.classes: data set 'digits' has none"),
        ("digits", "training.phases", [{"first_epoch": 2, "crop_size": 8}], "crop_size and stored_size are for images"),
        ("digits", "methods.at.test_crop", {"size": 8, "resize": 8}, "there is no data.streaming"),
        ("digits", "training.phases", [{"first_epoch": 99}], "first epoch 99 lies beyond the last epoch 15"),
        ("imagenet", "data.streaming", None, "data.streaming: data set 'imagenet' needs it"),
        ("imagenet", "data.classes", 1, "data.classes: input should be greater than or equal to 2"),
        ("imagenet", "data.augmentation.crop_padding", 4, "streamed images are cropped at random places without"),
        ("imagenet", "data.streaming.stored_size", "full", "data.streaming.stored_size"),
        ("imagenet", "methods.fast_at.phases.0.stored_size", 161, "stored_size 161 is not prepared, data.streaming na"),
        ("imagenet", "methods.fast_at.phases.1.first_epoch", 1, "first epochs must increase strictly, got [1, 1, 13]"),
        ("imagenet", "methods.fast_at.phases.2.first_epoch", 16, "lies beyond the last epoch 15"),
    ],
)
def test_a_mistake_is_named_with_its_place(suite: str, path: str, value: Any, text: str) -> None:
    raw = content_of(f"suite={suite}")
    with pytest.raises(RequestError) as caught:
        parse_params(changed(raw, path, value))
    assert text in str(caught.value)


def test_batches_may_grow_in_memory_too(make_params: MakeParams) -> None:
    phases = [{"first_epoch": 2, "batch_size": 24}, {"first_epoch": 4, "batch_size": 48}]
    experiment = make_params(lambda raw: raw["training"].update(phases=phases)).experiment("at", 1)
    assert [experiment.sizes_in(epoch) for epoch in (1, 2, 3, 4)] == [Sizes(16), Sizes(24), Sizes(24), Sizes(48)]
    assert experiment.stored_sizes == []
