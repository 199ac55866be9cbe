"""What shared warm-ups save: digits, each experiment trained alone against what they share trained once.

The experiments of `make repro` that share a warm-up, and the study of the communication interval of all three variants.
One thread, no evaluation; alone and shared take turns, and must end with the same bits.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.publishing import publish
from benchmarks.timing import Option, in_turn, rates, ratios, read_arguments, spread, timer
from pipeline.config import Experiment, Params, parse_params
from pipeline.config.composing import compose
from pipeline.core.devices import Backend, choose_backend
from pipeline.data.prepare import prepare
from pipeline.data.split import Split, open_split
from pipeline.studies.cells import cells
from pipeline.studies.warm_ups import shared_warm_ups
from pipeline.training.checkpoint import CheckpointFolder
from pipeline.training.loop import train
from pipeline.training.observer import Silent
from pipeline.training.warm_up import SharedTraining

OPTIONS = {
    "rounds": Option(3, 1, "trainings of each set, alone and shared"),
    "studies": Option(
        ["communication_interval", "communication_interval_nt_linf", "communication_interval_linf_l2"],
        [],
        "of the grid",
    ),
    "train_images": Option(1300, 32, "of the digits"),
}


class Set:
    """Experiments that are trained again and again."""

    def __init__(self, experiments: Sequence[Experiment], split: Split, backend: Backend) -> None:
        self.warm_ups = shared_warm_ups(experiments)
        self.experiments = [one for warm_up in self.warm_ups for one in warm_up.experiments]
        self._split, self._backend = split, backend
        self._weights: dict[str, dict[str, torch.Tensor]] = {}

    @property
    def learner_epochs(self) -> int:
        """Epochs of one learner, where each experiment is trained by itself."""
        return sum(len(one.method.learners) * one.training.epochs for one in self.experiments)

    def train(self, is_shared: bool) -> None:
        """Train all from the beginning.

        Raises:
            AssertionError: weights are not those of the last time.
        """
        with tempfile.TemporaryDirectory() as folder:
            places = {one.fingerprint: Path(folder) / one.fingerprint for one in self.experiments}
            own = {key: CheckpointFolder(place / "checkpoints", key) for key, place in places.items()}
            for number, warm_up in enumerate(self.warm_ups if is_shared else []):
                kept = CheckpointFolder(Path(folder) / f"shared {number}", warm_up.fingerprint)
                SharedTraining(warm_up, self._split, self._backend, kept, own, Silent()).train()
            for one in self.experiments:
                place = places[one.fingerprint]
                weights = dict(train(one, self._split, self._backend, place, Silent()).model.state_dict())
                before = self._weights.setdefault(one.fingerprint, weights)
                same = all(torch.equal(weights[name], tensor) for name, tensor in before.items())
                assert same, f"{one.identifier} has other weights where its warm-up is shared"


def measure(experiments: Sequence[Experiment], split: Split, backend: Backend, rounds: int) -> dict[str, Any]:
    """Seconds and epochs of one learner, alone and shared."""
    trained = Set(experiments, split, backend)
    alone, saved = trained.learner_epochs, sum(one.learner_epochs_saved for one in trained.warm_ups)
    timers = {is_shared: timer(partial(trained.train, is_shared), backend.device) for is_shared in (False, True)}
    seconds = in_turn(timers, rounds)
    return {
        "experiments": len(trained.experiments),
        "learner_epochs": {"alone": alone, "shared": alone - saved},
        "seconds": {"alone": spread(seconds[False]), "shared": spread(seconds[True])},
        "learner_epochs_per_second": rates(alone, seconds[False]),
        "ratio": ratios(seconds[False], seconds[True]),
    }


def params_of(train_images: int) -> Params:
    """The suite `digits` with the whole grid."""
    raw = yaml.safe_load(compose(["suite=digits", "ablation=full"], Path(__file__).parent.parent / "conf"))
    raw["data"]["train_images"] = train_images
    raw["data"]["held_out_images"] = min(train_images, raw["data"]["held_out_images"])
    return parse_params(raw)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "warm_ups", OPTIONS, arguments)
    params = params_of(given.train_images)
    backend = choose_backend("auto", params.training.precision, params.training.threads)
    of_study = {cell.experiment.fingerprint: cell.experiment for cell in cells(params, given.studies)}
    with tempfile.TemporaryDirectory() as folder:
        prepare(params.data, Path(folder))
        split = open_split(Path(folder), params.data, [])
        sets = {"make repro": list(params.experiments())} | ({"study": list(of_study.values())} if of_study else {})
        found = {name: measure(one, split, backend, given.rounds) for name, one in sets.items()}
    publish(given.output, {"sets": found, "studies": given.studies, "rounds": given.rounds}, backend.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
