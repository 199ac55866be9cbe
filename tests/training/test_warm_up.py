"""A warm-up that experiments share leaves each of them the bits that it would have alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Experiment, Params
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted
from pipeline.data.images import ImageSplit
from pipeline.studies.warm_ups import Member, WarmUp, shared_warm_ups
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train
from pipeline.training.warm_up import SharedTraining
from tests.conftest import MakeParams
from tests.running import Recorder, RunExperiment, assert_same, run_experiment, without_times
from tests.training.test_loop import StopAfter

METHODS = ["nt", "at", "at_l2", "generalist_d_nt_linf", "generalist_d_linf_l2", "generalist_t"]
T, D = "generalist_t", "generalist_d_nt_linf"


@pytest.fixture
def params(make_params: MakeParams) -> Params:
    """Restarts after epochs 3 and 4 of 4."""
    return make_params(*(at_epoch(method, 3, 1) for method in (T, D, "generalist_d_linf_l2")))


def at_epoch(method: str, first: int, interval: int) -> Any:
    """Lets a mixture hand back from an epoch on."""

    def change(content: dict[str, Any]) -> None:
        content["methods"][method]["mixture"].update(warmup_epochs=first, communication_interval=interval)

    return change


def every_batch(content: dict[str, Any]) -> None:
    """Lets a mixture hand back in the first epoch already."""
    content["methods"][T]["mixture"].update(warmup_epochs=1, communication_interval=1, redistribution="every_batch")


def of(params: Params) -> WarmUp:
    (found,) = shared_warm_ups(params.experiments())
    return found


def own(folder: Path, experiment: Experiment) -> Path:
    """Where an experiment's state is kept."""
    return folder / experiment.fingerprint


def share(warm_up: WarmUp, split: ImageSplit, backend: Backend, folder: Path, stop: Any = lambda: None) -> Recorder:
    observer = Recorder()
    under_way = CheckpointFolder(folder / "shared", warm_up.fingerprint)
    each = {
        one.fingerprint: CheckpointFolder(own(folder, one) / "checkpoints", one.fingerprint)
        for one in warm_up.experiments
    }
    SharedTraining(warm_up, split, backend, under_way, each, observer).train(stop)
    return observer


def check(warm_up: WarmUp, split: ImageSplit, backend: Backend, folder: Path, alone: RunExperiment) -> None:
    """Continue each experiment from what the warm-up left, and compare it with itself alone."""
    for member in warm_up.members:
        experiment, shared, observer = member.experiment, warm_up.lasts_for(member), Recorder()
        result = train(experiment, split, backend, own(folder, experiment), observer)
        assert observer.messages == [f"continuing after epoch {shared - 1}, step 3"]
        assert len(observer.records) == experiment.training.epochs - shared + 1
        expected = alone(experiment).result
        assert_same(dict(result.model.state_dict()), dict(expected.model.state_dict()))
        others = sorted(one.identifier for one in warm_up.experiments if one != experiment)
        assert result.shared == f"epochs 1 to {shared} with {', '.join(others)}" and expected.shared == ""
        assert without_times(result.history) == without_times(expected.history)
        assert result.selected_epoch == expected.selected_epoch
        assert all(row["seconds"] > 0 for row in result.history)


@pytest.fixture
def alone(tiny_split: ImageSplit, cpu: Backend, tmp_path: Path) -> RunExperiment:
    """Trains an experiment by itself."""
    return lambda one: run_experiment(one, tiny_split, cpu, tmp_path / "alone" / one.fingerprint)


def test_all_three_variants_and_their_baselines_train_each_learner_once(params: Params) -> None:
    warm_up = of(params)
    assert warm_up.experiments[0].name == T and {one.name for one in warm_up.experiments} == set(METHODS)
    assert {warm_up.lasts_for(one) for one in warm_up.members} == {3}
    assert (warm_up.learner_epochs, warm_up.learner_epochs_saved) == (3 * 3, 7 * 3)


def test_every_experiment_has_the_bits_that_it_has_alone(
    params: Params, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, alone: RunExperiment
) -> None:
    observer = share(of(params), tiny_split, cpu, tmp_path)
    assert observer.steps == [(epoch, step) for epoch in (1, 2, 3) for step in (1, 2, 3)]
    check(of(params), tiny_split, cpu, tmp_path, alone)


def test_a_stopped_warm_up_continues_and_members_leave_one_by_one(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, alone: RunExperiment
) -> None:
    warm_up = of(make_params(at_epoch(T, 2, 1), at_epoch(D, 4, 1), at_epoch("generalist_d_linf_l2", 3, 1)))
    assert {one.experiment.name: warm_up.lasts_for(one) for one in warm_up.members} == {
        T: 2, "generalist_d_linf_l2": 3, D: 4, "at": 4, "nt": 4, "at_l2": 4,
    }  # fmt: skip
    for steps in (1, 2, 4, 2, 1):
        with pytest.raises(Interrupted, match=r"asked by a test: saved .*; the same command continues"):
            share(warm_up, tiny_split, cpu, tmp_path, StopAfter(steps))
    share(warm_up, tiny_split, cpu, tmp_path)
    check(warm_up, tiny_split, cpu, tmp_path, alone)


def test_a_damaged_warm_up_is_trained_again(
    params: Params, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, alone: RunExperiment
) -> None:
    with pytest.raises(Interrupted):
        share(of(params), tiny_split, cpu, tmp_path, StopAfter(4))
    for path in (tmp_path / "shared").glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-100])
    observer = share(of(params), tiny_split, cpu, tmp_path)
    assert any("trained again" in text for text in observer.messages) and len(observer.steps) == 9
    check(of(params), tiny_split, cpu, tmp_path, alone)


def test_who_has_begun_by_itself_is_left_as_it_is(
    params: Params, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    experiment = params.experiment("at", 1)
    train(experiment, tiny_split, cpu, own(tmp_path, experiment), Recorder())
    kept = {path: path.read_bytes() for path in own(tmp_path, experiment).rglob("*.pt")}
    share(of(params), tiny_split, cpu, tmp_path)
    assert {path: path.read_bytes() for path in own(tmp_path, experiment).rglob("*.pt")} == kept


def test_learners_are_the_same_where_all_is_that_decides_them(make_params: MakeParams) -> None:
    def key(method: str, *changes: Any) -> str:
        params = make_params(*changes)
        return Member.of(params.experiment(method, params.seeds[0])).learners[0]

    def learner(**changes: Any) -> Any:
        return lambda content: content["methods"]["at"]["learners"]["linf"].update(changes)

    same = key("at")
    assert same == key("at", lambda content: content["methods"]["at"].update(label="another"))
    assert same == key(D)
    others = [
        key("nt"),
        key("at", lambda content: content.update(seeds=[2])),
        key("at", lambda content: content["training"].update(batch_size=8)),
        key("at", lambda content: content["data"].update(train_images=47)),
        key("at", lambda content: content["threat_model"]["linf"].update(steps=3)),
        key("at", learner(label_smoothing=0.1)),
        key("at", learner(schedule={"epochs": [0, 4], "values": [1, 0.5]})),
        key("at", learner(weight_averaging={"decay": 0.9})),
    ]
    assert len({same, *others}) == 1 + len(others)


@pytest.mark.parametrize(
    ("change", "members"),
    [
        (lambda content: content["training"].update(share_warm_ups=False), None),
        (lambda content: content["training"].update(theory={"interval": 1, "images": 8}), None),
        (lambda content: [content["methods"].pop(name) for name in (T, D, "generalist_d_linf_l2")], None),
        (every_batch, set(METHODS) - {T}),
    ],
)
def test_who_shares_a_warm_up(make_params: MakeParams, change: Any, members: set[str] | None) -> None:
    def clean(content: dict[str, Any]) -> None:
        content["tables"], content["figures"], content["ood"]["methods"] = {}, {}, []
        content["ablation"]["studies"] = {}
        content.pop("search", None)
        change(content)

    found = shared_warm_ups(make_params(clean).experiments())
    assert [{one.name for one in warm_up.experiments} for warm_up in found] == ([members] if members else [])
