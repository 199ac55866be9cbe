"""A training with other settings goes on from what is there, with the bits that it would have from the start."""

from __future__ import annotations

import os
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Experiment
from pipeline.core.devices import Backend
from pipeline.core.errors import Interrupted
from pipeline.data.images import ImageSplit
from pipeline.studies.course import Course
from pipeline.training.checkpoint import KEPT, CheckpointFolder, drop_branch_points, read_note
from pipeline.training.loop import train
from tests.conftest import MakeParams, keep
from tests.running import Recorder, RunExperiment, assert_same, run_experiment, without_times
from tests.training.test_loop import StopAfter

Change = Callable[[dict[str, Any]], Any]
T = "generalist_t"


@pytest.fixture
def make(make_params: MakeParams) -> Callable[..., Experiment]:
    """Generalist-T of eight epochs: mixing ratios turn at 2, 4 and 6, learners restart after 4, 6 and 8."""

    def base(content: dict[str, Any]) -> None:
        content["training"]["epochs"] = 8
        keep(content, ("at", T))
        content["methods"]["fat"] = {**deepcopy(content["methods"]["at"]), "label": "FAT"}
        content["methods"]["fat"]["learners"]["linf"]["objective"]["name"] = "fat"
        mixture = content["methods"][T]["mixture"]
        mixture.update(breakpoints=[0, 2, 4, 6], warmup_epochs=4, communication_interval=2)
        for method in content["methods"].values():
            for learner in method["learners"].values():
                learner["schedule"] = {"epochs": [0, 5], "values": [1, 0.5]}

    def made(change: Change = lambda content: None, method: str = T) -> Experiment:
        params = make_params(base, change)
        return params.experiment(method, params.seeds[0])

    return made


def mixture(**changes: Any) -> Change:
    return lambda content: content["methods"][T]["mixture"].update(changes)


def training(**changes: Any) -> Change:
    return lambda content: content["training"].update(changes)


def ratios_end_otherwise(content: dict[str, Any]) -> None:
    ratios = content["methods"][T]["mixture"]["mixing_ratios"]
    for number, values in enumerate(ratios.values()):
        values[-1] = [0.5, 0.25, 0.25][number]


def rates_fall_later(content: dict[str, Any]) -> None:
    for learner in content["methods"][T]["learners"].values():
        learner["schedule"] = {"epochs": [0, 5, 6, 7], "values": [1, 0.5, 0.5, 0.1]}


def both(*changes: Change) -> Change:
    return lambda content: [change(content) for change in changes]


BRANCHES: dict[str, tuple[Change, tuple[int, int] | None]] = {
    "more epochs": (training(epochs=10), (8, 0)),
    "fewer epochs": (training(epochs=7), (7, 0)),
    "a longer c": (mixture(communication_interval=3), (3, 3)),
    "a later t'": (mixture(warmup_epochs=6), (3, 3)),
    "another final ratio": (ratios_end_otherwise, (3, 3)),
    "other rates at the end": (rates_fall_later, (5, 3)),
    "a soup in the end": (mixture(result="uniform_soup"), (3, 3)),
    "validation seldom": (training(validation_interval=2), None),
    "two things at once": (both(training(epochs=9), mixture(communication_interval=5)), (3, 3)),
}


def own(folder: Path, experiment: Experiment) -> CheckpointFolder:
    return CheckpointFolder(folder / experiment.fingerprint / "checkpoints", experiment.fingerprint)


def branch(experiment: Experiment, split: ImageSplit, backend: Backend, folder: Path) -> tuple[int, int] | None:
    """Let an experiment begin from what others have left in a folder; gives where."""
    keys = Course.of(experiment, len(split.train), split.digest).keys
    point = own(folder, experiment).branch_from(folder.glob("*/checkpoints/*.json"), keys, backend.device)
    return None if point is None else (read_note(point)["epoch"], read_note(point)["step"])


@pytest.fixture
def alone(tiny_split: ImageSplit, cpu: Backend, tmp_path: Path) -> RunExperiment:
    """Trains an experiment by itself."""
    return lambda one: run_experiment(one, tiny_split, cpu, tmp_path / "alone" / one.fingerprint)


@pytest.mark.parametrize("name", BRANCHES)
def test_a_branch_has_the_bits_that_it_has_alone(
    name: str, make: Any, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, alone: RunExperiment
) -> None:
    donor, folder = make(), tmp_path / "runs"
    train(donor, tiny_split, cpu, folder / donor.fingerprint, Recorder())
    experiment, expected = make(BRANCHES[name][0]), BRANCHES[name][1]
    assert branch(experiment, tiny_split, cpu, folder) == expected
    observer = Recorder()
    result = train(experiment, tiny_split, cpu, folder / experiment.fingerprint, observer)
    epochs, (before, steps) = experiment.training.epochs, expected or (0, 0)
    assert len(observer.steps) == 3 * (epochs - before) - steps
    whole = alone(experiment).result
    assert_same(dict(result.model.state_dict()), dict(whole.model.state_dict()))
    assert without_times(result.history) == without_times(whole.history)
    assert result.selected_epoch == whole.selected_epoch
    shared = f"epochs 1 to {before + (steps > 0)} of {donor.identifier} ({donor.fingerprint})"
    assert result.shared == (shared if expected else "")


def test_a_branch_that_is_stopped_goes_on_and_can_be_branched_from(
    make: Any, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, alone: RunExperiment
) -> None:
    first, second, third = (
        make(),
        make(mixture(warmup_epochs=6)),
        make(both(mixture(warmup_epochs=6), rates_fall_later)),
    )
    train(first, tiny_split, cpu, tmp_path / first.fingerprint, Recorder())
    assert branch(second, tiny_split, cpu, tmp_path) == (3, 3)
    for steps in (1, 4, 2):
        with pytest.raises(Interrupted):
            train(second, tiny_split, cpu, tmp_path / second.fingerprint, Recorder(), StopAfter(steps))
    train(second, tiny_split, cpu, tmp_path / second.fingerprint, Recorder())
    assert branch(third, tiny_split, cpu, tmp_path) == (5, 3)
    result = train(third, tiny_split, cpu, tmp_path / third.fingerprint, Recorder())
    assert_same(dict(result.model.state_dict()), dict(alone(third).result.model.state_dict()))
    assert result.shared == (
        f"epochs 1 to 6 of {T}-1 ({second.fingerprint}), epochs 1 to 4 of {T}-1 ({first.fingerprint})"
    )


def test_a_damaged_or_foreign_branch_point_is_not_begun_from(
    make: Any, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    donor, experiment = make(), make(rates_fall_later)
    train(donor, tiny_split, cpu, tmp_path / donor.fingerprint, Recorder())
    furthest = own(tmp_path, donor).path(5, 3)
    furthest.write_bytes(furthest.read_bytes()[:-100])
    assert branch(experiment, tiny_split, cpu, tmp_path) == (3, 3)
    keys = Course.of(experiment, len(tiny_split.train), tiny_split.digest).keys
    for name, code, used in (("same", "unknown", True), ("other", "0123456789abcdef", False)):
        newcomer = CheckpointFolder(tmp_path / name, experiment.fingerprint, code)
        assert bool(newcomer.branch_from(tmp_path.glob("*/checkpoints/*.json"), keys, cpu.device)) == used
    other = Course.of(experiment, len(tiny_split.train), "another digest").keys
    assert (
        own(tmp_path / "new", experiment).branch_from(tmp_path.glob("*/checkpoints/*.json"), other, cpu.device) is None
    )


def test_an_objective_that_asks_for_the_last_epoch_is_another_one_in_a_longer_training(
    make: Any, tiny_split: ImageSplit
) -> None:
    def keys(experiment: Experiment) -> dict[tuple[int, int], str]:
        return Course.of(experiment, len(tiny_split.train), tiny_split.digest).keys

    longer = training(epochs=10)
    plain, asking = (keys(make(method=name)).items() & keys(make(longer, name)).items() for name in ("at", "fat"))
    assert len(plain) == 2 * 8 and not asking


def test_what_keeps_an_experiment_from_going_on_is_said(make: Any, tiny_split: ImageSplit) -> None:
    def course(change: Change = lambda content: None) -> Course:
        return Course.of(make(change), len(tiny_split.train), tiny_split.digest)

    def slower(content: dict[str, Any]) -> None:
        content["methods"][T]["learners"]["linf"]["optimizer"]["learning_rate"] = 0.0625

    assert course().leaves(course()) is None and course(training(epochs=9)).leaves(course()) is None
    reasons = {
        "in epoch 4 in restart: false, there true": mixture(warmup_epochs=5),
        "in epoch 7 in learning rates of l2: [0.1], there [0.5]": rates_fall_later,
        "in epoch 1 in validation: false, there true": training(validation_interval=2),
    }
    assert {course(change).leaves(course()): change for change in reasons.values()} == reasons
    found = course(slower).leaves(course())
    assert found is not None and found.startswith(
        "from the start in learners of linf of optimizer of learning_rate: 0.0625, "
    )


def test_branch_points_that_were_used_least_recently_are_dropped_first(
    make: Any, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    donor = make()
    train(donor, tiny_split, cpu, tmp_path / donor.fingerprint, Recorder())
    checkpoints = own(tmp_path, donor)
    points = [checkpoints.path(*place) for place in ((3, 3), (5, 3))]
    kept = sorted(checkpoints.folder.glob("*.pt"))
    assert set(points) < set(kept) and len(kept) == KEPT + 2
    sizes = [point.stat().st_size for point in points]
    drop_branch_points([checkpoints.folder], sum(sizes))
    assert sorted(checkpoints.folder.glob("*.pt")) == kept
    points[0].with_suffix(".json").touch()
    drop_branch_points([checkpoints.folder], sum(sizes) - 1)
    assert points[0].exists() and not points[1].exists() and not points[1].with_suffix(".json").exists()
    drop_branch_points([checkpoints.folder], 0)
    assert sorted(checkpoints.folder.glob("*.pt")) == kept[-KEPT:]


def test_a_branch_point_that_is_dropped_meanwhile_is_not_begun_from(
    make: Any, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    donor, experiment = make(), make(rates_fall_later)
    train(donor, tiny_split, cpu, tmp_path / donor.fingerprint, Recorder())
    dropped, touch = own(tmp_path, donor).path(5, 3), os.utime

    def drop(path: Path) -> None:
        dropped.unlink(missing_ok=True)
        touch(path)

    monkeypatch.setattr(os, "utime", drop)
    assert branch(experiment, tiny_split, cpu, tmp_path) == (3, 3)


def test_nothing_is_kept_where_no_disk_is_given_for_it(
    make: Any, tiny_split: ImageSplit, cpu: Backend, tmp_path: Path
) -> None:
    donor = make(training(branch_gigabytes=0))
    train(donor, tiny_split, cpu, tmp_path / donor.fingerprint, Recorder())
    assert len(list(own(tmp_path, donor).folder.glob("*.pt"))) == KEPT
