"""Training continues to the same bits, stops on demand, and refuses losses that are not finite."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from pipeline.config import Experiment
from pipeline.core.devices import Backend, choose_backend
from pipeline.core.errors import DivergedError, Interrupted, PipelineError
from pipeline.data.images import ImageSet, ImageSplit
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train
from pipeline.training.run import TrainingRun
from tests.conftest import MakeParams
from tests.running import Recorder, RunExperiment, assert_same, without_times

METHODS = ["nt", "at", "at_l2", "generalist_d_nt_linf", "generalist_d_linf_l2", "generalist_t"]
DEFERRED = Backend(torch.device("cpu"), bfloat16=False, deferred=True)


class StopAfter:
    """Asks to stop once so many steps were made."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def __call__(self) -> str | None:
        self._left -= 1
        return "asked by a test" if self._left == 0 else None


STOPS = (1, 2, 5, 1)
"""Steps from one stop to the next: after the first, at the end of an epoch of three, within one, at an end again."""


@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_training_continues_to_the_same_bits(
    make_params: MakeParams,
    run_method: RunExperiment,
    tiny_split: ImageSplit,
    cpu: Backend,
    tmp_path: Path,
    method: str,
) -> None:
    params = make_params()
    whole = run_method(params, method)
    experiment, folder = params.experiment(method, 1), tmp_path / "stopped"
    for steps in STOPS:
        with pytest.raises(Interrupted, match=r"asked by a test: saved .*\.pt; the same command continues"):
            train(experiment, tiny_split, cpu, folder, Recorder(), StopAfter(steps))
    observer = Recorder()
    result = train(experiment, tiny_split, cpu, folder, observer)
    assert_same(dict(result.model.state_dict()), dict(whole.result.model.state_dict()))
    assert result.selected_epoch == whole.result.selected_epoch
    assert len(observer.steps) == 4 * 3 - sum(STOPS)
    assert without_times(result.history) == without_times(whole.result.history)


def test_a_finished_training_is_not_repeated(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    experiment = make_params().experiment("at", 1)
    first = train(experiment, tiny_split, cpu, tmp_path, Recorder())
    observer = Recorder()
    second = train(experiment, tiny_split, cpu, tmp_path, observer)
    assert observer.steps == []
    assert_same(dict(first.model.state_dict()), dict(second.model.state_dict()))


def test_seeds_differ_and_repeat(make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path) -> None:
    params = make_params(lambda raw: raw.update(seeds=[1, 2]))
    weights = []
    for number, seed in enumerate((1, 2, 1)):
        result = train(params.experiment("at", seed), tiny_split, cpu, tmp_path / str(number), Recorder())
        weights.append(result.model.state_dict()["linear.weight"])
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_a_loss_that_is_not_finite_stops_before_the_update(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    def explode(raw: dict[str, Any]) -> None:
        raw["methods"]["generalist_d_nt_linf"]["learners"]["natural"]["optimizer"]["learning_rate"] = 1e30

    experiment = make_params(explode).experiment("generalist_d_nt_linf", 1)
    message = r"epoch \d, batch \d of 3: the loss of learner 'natural' is (nan|inf), stopped before the update"
    with pytest.raises(PipelineError, match=message):
        train(experiment, tiny_split, cpu, tmp_path, Recorder())


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_losses_that_are_read_later_are_the_same(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, optimizer: str
) -> None:
    """As on CUDA: every loss is read, once, in its epoch; also of a run that is stopped and continues."""

    def choose(raw: dict[str, Any]) -> None:
        for learner in raw["methods"]["generalist_d_nt_linf"]["learners"].values():
            learner["optimizer"] = {"name": optimizer, "learning_rate": 0.01, "weight_decay": 0.0005}

    experiment = make_params(choose).experiment("generalist_d_nt_linf", 1)
    expected = train(experiment, tiny_split, cpu, tmp_path / "cpu", Recorder())
    with pytest.raises(Interrupted):
        train(experiment, tiny_split, DEFERRED, tmp_path / "deferred", Recorder(), StopAfter(2))
    found = train(experiment, tiny_split, DEFERRED, tmp_path / "deferred", Recorder())
    for ours, theirs in zip(found.history, expected.history, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ("loss/linf", "loss/natural", "train_accuracy/linf"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3)


def test_a_loss_that_is_read_later_never_reaches_the_weights(
    make_params: MakeParams, tiny_split: ImageSplit, tmp_path: Path
) -> None:
    experiment = make_params().experiment("at", 1)
    checkpoints = CheckpointFolder(tmp_path, experiment.fingerprint)
    run = TrainingRun(experiment, tiny_split, DEFERRED, checkpoints)
    (learner,), (images, labels) = run.learners, next(run.batches(1))
    before = [parameter.clone() for parameter in learner.model.parameters()]
    run.step(learner, images * math.nan, labels, epoch=1)
    assert run.read_losses() == {}, "the step is still under way"
    run.progress.step += 1
    with pytest.raises(
        DivergedError, match=r"epoch 1, batch 1 of 3: the loss of learner 'linf' is nan, stopped before"
    ):
        run.save()
    assert all(map(torch.equal, before, learner.model.parameters()))
    assert not list(tmp_path.iterdir()), "nothing of it is kept"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_never_waits_for_the_device(make_params: MakeParams, tiny_split: ImageSplit, tmp_path: Path) -> None:
    experiment, backend = make_params().experiment("generalist_t", 1), choose_backend("cuda", "auto")
    run = TrainingRun(experiment, tiny_split, backend, CheckpointFolder(tmp_path, experiment.fingerprint))
    images, labels = next(run.batches(1))
    try:
        torch.cuda.set_sync_debug_mode("error")
        for learner in run.learners:
            run.step(learner, images, labels, epoch=1)
        run.mixture.after_step(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.read_losses(all_steps=True).keys() == {"linf", "natural", "l2"}


def test_a_compiled_network_trains_alike(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    experiment = make_params().experiment("at", 1)
    compiled = dataclasses.replace(cpu, compiled=True)
    first, second = (
        train(experiment, tiny_split, backend, tmp_path / str(backend.compiled), Recorder())
        for backend in (cpu, compiled)
    )
    for ours, theirs in zip(first.history, second.history, strict=True):
        assert ours["loss/linf"] == pytest.approx(theirs["loss/linf"], rel=1e-4)


def test_networks_stay_compiled_however_many_shapes_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As several experiments in one process of the grid bring; torch would go on without compiling, and say so once."""
    from torch.compiler import config

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(config, "fail_on_recompile_limit_hit", True)
    model = Backend(torch.device("cpu"), bfloat16=False, compiled=True).place(nn.ReLU())
    for dimensions in range(1, 20):
        assert not model(-torch.ones([2] * dimensions)).any()


def test_the_record_has_curves_of_every_learner_and_of_the_global_one(
    make_params: MakeParams, run_method: RunExperiment
) -> None:
    record = run_method(make_params(), "generalist_t").observer.records[0]
    assert record["images_per_second"] > 0
    for learner in ("linf", "natural", "l2"):
        assert record[f"loss/{learner}"] > 0
        assert 0 <= record[f"train_accuracy/{learner}"] <= 1
        assert 0 <= record[f"held_out/{learner}/natural"] <= 1
    assert {"held_out/global/natural", "held_out/global/pgd_linf", "held_out/global/pgd_l2"} <= record.keys()
    either = [record["held_out/global/pgd_linf"], record["held_out/global/pgd_l2"]]
    assert sum(either) - 1 <= record["held_out/global/worst_case_union"] <= min(either)
    assert {"held_out/linf/pgd_linf", "held_out/l2/pgd_l2"} <= record.keys()
    assert record["mixing_ratio/linf"] == 1.0


def test_waiting_for_images_is_time_of_training(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, batches = 0.1, TrainingRun.batches

    def slow(run: TrainingRun, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches(run, epoch, first):
            time.sleep(wait)
            yield batch

    class Speeds(Recorder):
        @override
        def on_step(self, epoch: int, step: int, losses: Mapping[str, float], images_per_second: float) -> None:
            assert images_per_second <= 16 / wait

    monkeypatch.setattr(TrainingRun, "batches", slow)
    record = train(make_params().experiment("nt", 1), tiny_split, cpu, tmp_path, Speeds()).history[0]
    assert record["seconds"] >= 3 * wait and record["images_per_second"] <= 16 / wait


def test_every_image_is_seen_once_an_epoch_and_the_last_batch_may_be_smaller(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    experiment = make_params(lambda raw: raw["training"].update(batch_size=20)).experiment("nt", 1)
    run = _run(experiment, tiny_split, cpu, tmp_path)
    batches = list(run.batches(epoch=2))
    assert [len(labels) for _, labels in batches] == [20, 20, 8]
    seen = torch.cat([images for images, _ in batches]).sort(0).values
    assert torch.equal(seen, (tiny_split.train.images.float() / 255).sort(0).values)
    again, later = list(run.batches(epoch=2, first=1)), list(run.batches(epoch=3))
    assert torch.equal(again[0][0], batches[1][0])
    assert not torch.equal(later[0][0], batches[0][0])


def test_all_learners_start_from_the_same_weights(
    make_params: MakeParams, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    run = _run(make_params().experiment("generalist_t", 1), tiny_split, cpu, tmp_path)
    first, *others = [dict(learner.model.state_dict()) for learner in run.learners]
    for other in others:
        assert_same(first, other)
    assert_same(first, dict(run.mixture.model.state_dict()))
    assert torch.equal(before, torch.get_rng_state()), "the caller's random state was used up"


def test_held_out_and_test_images_are_never_trained_on(
    make_params: MakeParams, run_method: RunExperiment, tiny_split: ImageSplit
) -> None:
    """With other held-out and test images the weights of the last epoch are the same."""
    params = make_params(lambda raw: raw["training"].update(selection={"split": "last"}))
    flipped = ImageSet(255 - tiny_split.test.images, tiny_split.test.labels)
    other = ImageSplit(
        tiny_split.train, ImageSet(255 - tiny_split.held_out.images, tiny_split.held_out.labels), flipped, ""
    )
    first = run_method(params, "generalist_t").result.model.state_dict()
    (other_params,) = [
        make_params(lambda raw: raw["training"].update(selection={"split": "last", "natural_floor": 0.1}))
    ]
    second = run_method(other_params, "generalist_t", other).result.model.state_dict()
    assert_same(dict(first), dict(second))


def _run(experiment: Experiment, split: ImageSplit, backend: Backend, folder: Path) -> TrainingRun:
    return TrainingRun(experiment, split, backend, CheckpointFolder(folder, experiment.fingerprint))
