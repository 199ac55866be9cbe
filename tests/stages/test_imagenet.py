"""From a tree of JPEG files, damaged ones among them, to verdicts: the stages that ImageNet goes through."""

from __future__ import annotations

import json
import shutil
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from pipeline.config import load_params, parse_params
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted
from pipeline.core.ranks import Ranks
from pipeline.data.imagefolder.split import open_folders
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train
from pipeline.training.run import TrainingRun, open_minibatches
from stages import train as train_stage
from tests.conftest import content_of
from tests.pictures import CLASSES, DAMAGED, damage, write_tree
from tests.running import Recorder, assert_same
from tests.stages.conftest import Workplace, interrupt, wait_for
from tests.training.ranks import together
from tests.training.test_loop import StopAfter

pytestmark = pytest.mark.timeout(1800)

SMALL = [
    "suite=imagenet",
    "data.name=imagefolder",
    "data.classes=4",
    "data.root=tree",
    "data.held_out_images=6",
    "data.streaming.stored_size=48",
    "data.streaming.other_stored_sizes=[40,original]",
    "data.streaming.crop_size=32",
    "data.streaming.test_crop={size:32,resize:40}",
    "data.streaming.workers=1",
    "training.epochs=4",
    "training.batch_size=8",
    "training.validation_interval=2",
    "training.precision=float32",
    "training.threads=1",
    "training.device=cpu",
    "methods.generalist_d_nt_linf.mixture={breakpoints:[0,1,2,4],warmup_epochs:2,communication_interval:1}",
    "methods.fast_at.epochs=4",
    "methods.fast_at.phases=[{first_epoch:1,batch_size:8,crop_size:24,stored_size:40},"
    "{first_epoch:3,batch_size:6,stored_size:original}]",
    "methods.fast_at.learners.linf.optimizer.learning_rate=0.05",
    "methods.fast_at.learners.linf.schedule.epochs=[0,1,2,3,4]",
    "methods.fast_at.test_crop.size=36",
    "evaluation.attacks.aa_linf={images:2,members:[apgd_ce,apgd_t]}",
    "evaluation.attacks.aa_l2={images:2,members:[apgd_t]}",
]
"""Hydra overrides that shrink the suite `imagenet` to the generated tree."""
CPU = Backend(torch.device("cpu"), bfloat16=False)


def content(*overrides: str) -> dict[str, Any]:
    made = content_of(*SMALL, *overrides)
    attacks = made["evaluation"]["attacks"]
    made["evaluation"]["attacks"] = {name: attacks[name] for name in ("pgd20_linf", "aa_linf", "pgd20_l2", "aa_l2")}
    return made


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    return content("architecture=small_cnn")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small: dict[str, Any], empty_store: Path) -> Workplace:
    """A folder with the damaged tree, prepared without the damaged files."""
    made = Workplace(tmp_path_factory.mktemp("imagenet"))
    damage(write_tree(made.folder / "tree", (*CLASSES, "n02099601")))
    shutil.copy(empty_store, made.folder / "mlflow.db")
    (made.folder / "params.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    made.run("prepare").expect(2, "3 images are damaged", "allow_damaged", *(f"tree/{name}: " for name in DAMAGED))
    made.change(lambda raw: raw["data"]["streaming"].update(allow_damaged=True))
    made.run("prepare").expect(0)
    return made


def test_damaged_images_are_left_out_of_every_size(place: Workplace) -> None:
    for size in ("48", "40", "original"):
        manifest = json.loads((place.folder / f"data/prepared/imagefolder/{size}/manifest.json").read_text())
        assert set(manifest["damaged"]) == set(DAMAGED) and manifest["images"] == {"train": 36, "val": 20}


def test_what_is_prepared_is_trained_stopped_continued_and_attacked(place: Workplace) -> None:
    process = place.start("train", "generalist_d_nt_linf", "--seed", "1")
    wait_for(place.checkpoints, process)
    stopped = interrupt(process, signal.SIGTERM)
    if stopped.code != 0:  # it may have been about to end
        stopped.expect(75, "SIGTERM received: saved runs/")
    finished = place.run("train", "generalist_d_nt_linf", "--seed", "1")
    finished.expect(0)
    evaluated = place.run("evaluate", "generalist_d_nt_linf", "--seed", "1")
    evaluated.expect(0)
    results = place.folder / "results/imagenet/generalist_d_nt_linf-1"
    metrics = json.loads((results / "evaluate/metrics.json").read_text())
    assert metrics["counts"]["natural"] == 20 and metrics["counts"]["aa_linf"] == 2
    assert set(metrics["metrics"]) >= {"natural", "pgd20_linf", "aa_linf", "pgd20_l2", "aa_l2", "union"}


def test_other_images_do_not_continue_a_run(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was begun on them is named, and left as it is."""
    experiment = load_params(place.folder / "params.yaml").experiment("nt", 1)
    folder = place.folder / "runs" / experiment.fingerprint
    folder.mkdir(parents=True)
    (folder / "data.json").write_text('{"digest": "0123456789abcdef0123"}')
    monkeypatch.chdir(place.folder)
    assert train_stage.main(["nt", "--seed", "1"]) == 2
    assert "was begun with images of digest 0123456789abcdef..., the prepared ones have " in capsys.readouterr().err
    assert not list(folder.glob("checkpoints/*"))


@pytest.fixture(scope="module")
def prepared(place: Workplace) -> Path:
    return place.folder / "data/prepared/imagefolder"


@pytest.mark.parametrize("method", ["fast_at", "generalist_d_nt_linf"])
def test_a_streamed_training_continues_to_the_same_bits(
    small: dict[str, Any], prepared: Path, tmp_path: Path, method: str
) -> None:
    """Also within an epoch, and from one phase into the next: 30 images in batches of 8, later of 6."""
    experiment = parse_params(small).experiment(method, 1)
    split = open_folders(prepared, experiment.data, experiment.stored_sizes)
    whole = train(experiment, split, CPU, tmp_path / "whole", Recorder())
    for steps in (2, 7):
        with pytest.raises(Interrupted):
            train(experiment, split, CPU, tmp_path / "stopped", Recorder(), StopAfter(steps))
    observer = Recorder()
    again = train(experiment, split, CPU, tmp_path / "stopped", observer)
    assert_same(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    steps_of_epochs = [4, 4, 5, 5] if method == "fast_at" else [4] * 4
    assert len(observer.steps) == sum(steps_of_epochs) - 9


def test_phases_change_the_size_of_images_and_batches(small: dict[str, Any], prepared: Path, tmp_path: Path) -> None:
    experiment = parse_params(small).experiment("fast_at", 1)
    split = open_folders(prepared, experiment.data, experiment.stored_sizes)
    run = TrainingRun(experiment, split, CPU, CheckpointFolder(tmp_path, experiment.fingerprint))
    shapes = [[tuple(images.shape) for images, _ in run.batches(epoch)] for epoch in (2, 3)]
    assert shapes[0] == [(8, 3, 24, 24)] * 3 + [(6, 3, 24, 24)]
    assert shapes[1] == [(6, 3, 32, 32)] * 5
    assert split.held_out.images.shape == (6, 3, 36, 36) and split.test.images.shape == (20, 3, 36, 36)
    assert split.held_out_images.files[0].parent.name == "original"


def test_two_ranks_stream_the_minibatches_of_one(small: dict[str, Any], prepared: Path, tmp_path: Path) -> None:
    raw = deepcopy(small)
    raw["data"]["streaming"]["workers"] = 0  # a process of a test has no children of its own
    experiment = parse_params(raw).experiment("at", 1)
    split = open_folders(prepared, experiment.data, experiment.stored_sizes)

    def batches(ranks: Ranks) -> list[tuple[Tensor, Tensor]]:
        minibatches = open_minibatches(experiment, split, CPU.device, ranks)
        return list(minibatches.of_epoch(2, experiment.sizes_in(2), first=1))

    parts = zip(batches(Ranks(0, 2)), batches(Ranks(1, 2)), strict=True)
    for whole, own in zip(batches(Ranks()), parts, strict=True):
        for rows, joined in zip(whole, zip(*own, strict=True), strict=True):
            assert torch.equal(rows, torch.cat(joined))

    def losses(ranks: Ranks) -> list[float]:
        observer, folder = Recorder(), tmp_path / f"ranks-{ranks.count}"
        train(experiment, split, CPU, folder, observer, StopAfter(100), ranks)
        return [record["loss/linf"] for record in observer.records]

    found, alone = together(2, losses, tmp_path)[0], losses(Ranks())
    # Later, training has multiplied what sums in another order differ by.
    assert found[0] == pytest.approx(alone[0], rel=1e-3) and len(found) == len(alone)


def test_resnet50_takes_a_step(prepared: Path, tmp_path: Path) -> None:
    params = parse_params(content("training.batch_size=4", "threat_model.linf.steps=1"))
    experiment = params.experiment("generalist_d_nt_linf", 1)
    split = open_folders(prepared, experiment.data, experiment.stored_sizes)
    run = TrainingRun(experiment, split, CPU, CheckpointFolder(tmp_path, experiment.fingerprint))
    images, labels = next(run.batches(1))
    before = [learner.model.state_dict()["network.fc.weight"].clone() for learner in run.learners]
    for learner, weight in zip(run.learners, before, strict=True):
        learner.set_learning_rate(1, 1.0)
        run.step(learner, images, labels, epoch=1)
        assert run.read_losses()[learner.name] > 0
        assert not torch.equal(learner.model.state_dict()["network.fc.weight"], weight)
        assert weight.shape == (4, 2048)
