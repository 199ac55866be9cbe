"""What a training is given: a pair that differs in one example differs in nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.core.ranks import ALONE
from pipeline.data.images import load_split
from pipeline.training.run import build_network, open_minibatches
from tests.conftest import MakeParams
from tests.running import assert_same

POSITION = 5


@pytest.fixture
def pair(make_params: MakeParams) -> list[Experiment]:
    """One training of augmented images, and the same with the image at POSITION replaced."""

    def changed(value: int | None) -> Experiment:
        def change(raw: dict[str, Any]) -> None:
            raw["data"] |= {"replaced_example": value, "augmentation": {"crop_padding": 2, "horizontal_flip": True}}

        return make_params(change).experiment("generalist_d_nt_linf", 1)

    return [changed(None), changed(POSITION)]


def null_example(raw: dict[str, Any]) -> None:
    raw["data"]["replaced_example"] = None


def epoch(experiment: Experiment, number: int, prepared: Path, backend: Backend) -> list[tuple[Tensor, Tensor]]:
    split = load_split(prepared, experiment.data)
    minibatches = open_minibatches(experiment, split, backend.device, ALONE)
    return list(minibatches.of_epoch(number, experiment.sizes_in(number), first=0))


@pytest.mark.parametrize("number", [1, 2])
def test_minibatches_of_a_pair_differ_in_one_image(
    pair: list[Experiment], number: int, prepared_digits: Path, cpu: Backend
) -> None:
    differing = 0
    for first, second in zip(*(epoch(one, number, prepared_digits, cpu) for one in pair), strict=True):
        assert first[0].shape == second[0].shape
        unequal = (first[0] != second[0]).flatten(1).any(1)
        assert not bool((first[1] != second[1])[~unequal].any()), "labels of equal images are equal"
        differing += int(unequal.sum())
    assert differing == 1


def test_the_pair_has_the_same_first_weights_and_other_fingerprints(pair: list[Experiment], cpu: Backend) -> None:
    assert pair[0].fingerprint != pair[1].fingerprint
    for name in pair[0].method.learners:
        first, second = (build_network(one, name, cpu).state_dict() for one in pair)
        assert_same(first, second)


def test_without_it_nothing_of_an_experiment_changes(make_params: MakeParams) -> None:
    absent, null = (make_params(change).experiment("at", 1) for change in (lambda raw: None, null_example))
    assert absent == null and absent.fingerprint == null.fingerprint
    assert "replaced_example" not in absent.model_dump_json() + str(absent.training_identity())
