"""Pairs of the grid whose training sets differ in one example, compared: what `stages.stability` does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from pipeline.config import Experiment, Params
from pipeline.config.studies import ReplacedExampleStudy
from pipeline.core.devices import choose_backend
from pipeline.core.errors import PipelineError, RequestError, did_you_mean
from pipeline.core.files import atomic_write, remove_half_written, write_record, write_text
from pipeline.data.images import ImageSplit
from pipeline.data.split import open_split
from pipeline.provenance.code import digest_of
from pipeline.provenance.folders import prepared_folder, working_folder
from pipeline.reporting.examples import network
from pipeline.studies.cells import Cell, cells
from pipeline.tracking import StoredRun, finished_runs, log_stability, mask, read_artifacts, read_run, tracking_uri
from pipeline.training.loss_gaps import (
    EVERY_LABEL,
    NATURAL,
    Profile,
    differences,
    profiles,
    stability_bound,
    weight_distance,
    worst_cases,
)

DESCRIPTIONS = {
    "error_probability": "1 - p of the true class: the loss in [0, 1]",
    "cross_entropy": "in nats",
    "max, mean": "of |l(A(S), z) - l(A(S'), z)| over test images z, each network under its own worst case",
    "gap, gap_replaced": "test minus training loss of A(S), of A(S')",
    "gradient_norm": "L, the largest norm of a gradient of the cross-entropy at a training image of either network",
    "bound": "of the expected difference, if losses were convex and smooth, and L held everywhere: networks are not "
    "convex, so it is a yardstick, no guarantee (Hardt, Recht and Singer, 2016, Theorem 3.8)",
    "every_label": "natural test images with every class as their label",
}
"""What the columns mean, kept beside them."""
Record = dict[str, Any]
"""JSON: what was found of one pair, where it is from, and by attack (`attacks`) how far its losses are apart."""
PARTS = [part.name for part in fields(Profile)]


@dataclass(frozen=True)
class Network:
    """A trained network, and its losses."""

    run: StoredRun
    model: nn.Module
    """In eval mode, on the CPU."""
    profiles: dict[str, Profile]
    """By attack."""

    @property
    def epoch(self) -> int:
        """The epoch that was selected."""
        return int(self.run.metrics["summary/selected_epoch"])

    @property
    def origin(self) -> dict[str, Any]:
        """Where the weights are from."""
        tags = ("fingerprint", "weights_sha256")
        return {"run_id": self.run.run_id, "epoch": self.epoch, **{tag: self.run.tags[tag] for tag in tags}}


def measure_stability(
    params: Params, studies: Sequence[str], output: Path, announce: Callable[[str], None]
) -> list[Path]:
    """Compare every pair whose runs MLflow has, write what was found to `output`, and log it on the runs.

    Weights are taken from MLflow, images from the prepared data. What was measured of a network is kept below `runs/`.

    Args:
        studies: Keys of `ablation.studies` that vary `replaced_example`; none: all that do.
        announce: Told what is measured, since that takes a while.

    Returns:
        The files: `stability.csv`, a row for every pair and attack, and `stability.json`, which says where it is from.

    Raises:
        RequestError: a study is unknown or of another kind, or the data is not prepared or not whole in memory.
        PipelineError: MLflow is out of reach, has no pair, or the weights of a run are damaged.
    """
    grid = _cells(params, studies)
    experiments = {cell.experiment.fingerprint: cell.experiment for cell in grid}
    frame = finished_runs(experiments.values(), of_this_code=True)
    runs = dict(zip(frame["fingerprint"], frame["run_id"], strict=True))  # the last that finished wins
    lacking = [one.identifier for fingerprint, one in experiments.items() if fingerprint not in runs]
    if lacking:
        announce(f"not compared, MLflow has no finished run of: {', '.join(lacking)}; 'make ablation' trains them")
    replaced = [cell for cell in grid if cell.experiment.data.replaced_example is not None]
    pairs = [cell for cell in replaced if runs.keys() >= set(_pair(cell))]
    if not pairs:
        raise PipelineError(
            f"MLflow at {mask(tracking_uri())} has no pair of finished runs that differ in one example, nothing was "
            "compared; 'make ablation' trains them"
        )
    needed = dict.fromkeys(fingerprint for cell in pairs for fingerprint in _pair(cell))
    networks = {one: _network(experiments[one], runs[one], announce) for one in needed}
    records = []
    for cell in pairs:
        record = _compare(cell, *(networks[fingerprint] for fingerprint in _pair(cell)))
        announce(_line(record))
        log_stability(cell.experiment, _metrics(record))
        records.append(record)
    return _write(records, params.suite, output)


def _pair(cell: Cell) -> tuple[str, str]:
    """The fingerprints of the original and of the experiment with the replaced example."""
    return cell.experiment.original.fingerprint, cell.experiment.fingerprint


def _cells(params: Params, studies: Sequence[str]) -> list[Cell]:
    """The cells of the studies that are asked for, all of the right kind."""
    valid = [name for name, study in params.ablation.studies.items() if isinstance(study, ReplacedExampleStudy)]
    if not valid:
        raise RequestError("no study of params.yaml varies replaced_example; docs/stability.md says how to declare one")
    wrong = [name for name in studies if name not in valid]
    if wrong:
        problems = (f"'{name}' is no study that varies replaced_example: {did_you_mean(name, valid)}" for name in wrong)
        raise RequestError("; ".join(problems))
    return cells(params, studies or valid)


def _network(experiment: Experiment, run_id: str, announce: Callable[[str], None]) -> Network:
    """What a run has trained, and its losses: as they were kept, or measured now."""
    run = read_run(run_id)
    weights = read_artifacts([run_id], "model.safetensors", Path.read_bytes).get(run_id, b"")
    found, expected = hashlib.sha256(weights).hexdigest(), run.tags["weights_sha256"]
    if found != expected:
        raise PipelineError(
            f"the weights of run {run_id} ({experiment.identifier}) are missing in MLflow, or damaged: they have "
            f"SHA-256 {found}, the run says {expected}; train again"
        )
    split = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes)
    if not isinstance(split, ImageSplit):
        raise RequestError(
            f"stability is measured on training images that are whole in memory, those of {experiment.data.name} are "
            "streamed"
        )
    model, attacks = network(experiment, weights), worst_cases(experiment)
    identity = json.dumps([experiment.stability_fingerprint, digest_of("stability", experiment), found, split.digest])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = working_folder(experiment) / "stability" / f"{digest}.safetensors"
    measured = _read(path, [*attacks, EVERY_LABEL])
    if measured is None:
        announce(f"{experiment.identifier}: losses at {len(split.test)} test and {len(split.train)} training images")
        settings, evaluation = experiment.training, experiment.evaluation
        backend = choose_backend(settings.device, "float32", settings.threads)
        placed, train, test = backend.place(model), split.train.to(backend.device), split.test.to(backend.device)
        measured = profiles(placed, train, test, attacks, evaluation.seed, evaluation.batch_size)
        _keep(path, measured)
    return Network(run, model.cpu(), measured)


def _read(path: Path, names: Iterable[str]) -> dict[str, Profile] | None:
    """What was measured before; None where nothing was, or nothing is whole."""
    try:
        tensors = load_file(path)
        return {name: Profile(**{part: tensors[f"{name}/{part}"] for part in PARTS}) for name in names}
    except (FileNotFoundError, SafetensorError, KeyError):
        return None


def _keep(path: Path, measured: Mapping[str, Profile]) -> None:
    tensors = {f"{name}/{part}": getattr(profile, part) for name, profile in measured.items() for part in PARTS}
    with atomic_write(path) as stream:
        stream.write(save(tensors))


def _compare(cell: Cell, original: Network, replaced: Network) -> Record:
    experiment = cell.experiment
    natural, distance = original.profiles[NATURAL], weight_distance(original.model, replaced.model)
    steepest = {
        attack: max(float(one.profiles[attack].gradients.max()) for one in (original, replaced))
        for attack in worst_cases(experiment)
    }
    bound = stability_bound(experiment, len(natural.train), steepest, max(original.epoch, replaced.epoch))
    attacks = {name: differences(one, replaced.profiles[name]) for name, one in original.profiles.items()}
    for attack, norm in steepest.items():
        attacks[attack] |= {"gradient_norm": norm} | ({} if bound is None else {"bound": bound.losses[attack]})
    return {
        "study": cell.study,
        "method": cell.method,
        "seed": experiment.seed,
        "replaced_example": experiment.data.replaced_example,
        "training_images": len(natural.train),
        "test_images": len(natural.test),
        "weights": {
            "weight_distance": distance[0],
            "weight_distance_relative": distance[1],
            **({} if bound is None else {"weight_distance_bound": bound.distance}),
        },
        "attacks": attacks,
        "original": original.origin,
        "replaced": replaced.origin,
    }


def _line(record: Record) -> str:
    losses = ", ".join(
        f"{attack} at most {own['error_probability_max']:.3g}, {own['error_probability_mean']:.3g} in the mean"
        for attack, own in record["attacks"].items()
    )
    name = f"{record['method']}-{record['seed']} with and without training image {record['replaced_example']}"
    return f"{name}: error probabilities differ by {losses}"


def _metrics(record: Record) -> dict[str, float]:
    """The numbers of a pair by one name each, for example `pgd20_linf/error_probability_max`."""
    losses = {f"{attack}/{name}": value for attack, own in record["attacks"].items() for name, value in own.items()}
    return {**record["weights"], **losses}


def _rows(record: Record) -> list[Record]:
    """The numbers of a pair, a row for every attack; a bound that there is not is empty."""
    plain = {key: value for key, value in record.items() if not isinstance(value, dict)}
    epochs = {"epoch": record["original"]["epoch"], "epoch_replaced": record["replaced"]["epoch"]}
    weights = {**record["weights"], "weight_distance_bound": record["weights"].get("weight_distance_bound")}
    return [
        {**plain, **epochs, **weights, "attack": attack, **numbers, "bound": numbers.get("bound")}
        for attack, numbers in record["attacks"].items()
    ]


def _write(records: Sequence[Record], suite: str, output: Path) -> list[Path]:
    """Equal records give equal bytes."""
    remove_half_written(output)
    table, details = output / "stability.csv", output / "stability.json"
    write_text(table, pd.DataFrame([row for record in records for row in _rows(record)]).to_csv(index=False))
    write_record(details, {"suite": suite, "columns": DESCRIPTIONS, "pairs": records}, [table.name])
    return [table, details]
