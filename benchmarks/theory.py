"""What measuring the theorems costs: the share of training time that it takes at the default interval.

Generalist-T on the digits, with the settings of `conf/`, a seed for each round; both times are those that training
itself records (`theory/seconds` and `seconds` of every epoch).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.publishing import publish
from benchmarks.timing import Option, read_arguments, spread
from pipeline.config import Params, parse_params
from pipeline.config.composing import compose
from pipeline.core.devices import Backend, choose_backend
from pipeline.data.images import ImageSplit
from pipeline.data.prepare import prepare
from pipeline.data.split import open_split
from pipeline.training.loop import train
from pipeline.training.observer import Silent

METHOD = "generalist_t"
OPTIONS = {
    "rounds": Option(3, 1, "trainings, each with a seed of its own"),
    "train_images": Option(1300, 96, "of the digits"),
}


class Epochs(Silent):
    """Keeps the rows of the history."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, float]] = []

    def on_epoch(self, record: Mapping[str, float]) -> None:
        """One more row."""
        self.rows.append(record)

    def sum(self, column: str) -> float:
        """Over the epochs that have it."""
        return sum(row[column] for row in self.rows if column in row)


def params_of(rounds: int, train_images: int) -> Params:
    """The suite `digits` with one method."""
    raw = yaml.safe_load(compose(["suite=digits", "competitors=none"], Path(__file__).parent.parent / "conf"))
    raw["seeds"], raw["tables"], raw["methods"] = list(range(rounds)), {}, {METHOD: raw["methods"][METHOD]}
    raw["data"]["train_images"] = train_images
    raw["training"]["theory"] = {}  # as it is unless something is said
    return parse_params(raw)


def measure(params: Params, backend: Backend) -> dict[str, Any]:
    """Train with every seed."""
    shares, moments = [], 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(params.data, Path(folder) / "data")
        for experiment in params.experiments():
            split = open_split(Path(folder) / "data", experiment.data, experiment.stored_sizes)
            assert isinstance(split, ImageSplit)
            epochs = Epochs()
            train(experiment, split, backend, Path(folder) / str(experiment.seed), epochs)
            shares.append(epochs.sum("theory/seconds") / epochs.sum("seconds"))
            moments = sum("theory/seconds" in row for row in epochs.rows)
            print(f"seed {experiment.seed}: {100 * shares[-1]:.2f} %", file=sys.stderr, flush=True)
    theory = params.training.theory
    assert theory is not None
    return {
        "interval": theory.interval,
        "images": theory.images,
        "epochs": params.training.epochs,
        "moments": moments,
        "learners": len(params.methods[METHOD].learners),
        "rounds": len(shares),
        "share_of_training": spread(shares),
    }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "theory", OPTIONS, arguments)
    params = params_of(given.rounds, given.train_images)
    backend = choose_backend("auto", params.training.precision, params.training.threads)
    publish(given.output, measure(params, backend), backend.device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
