"""What a grid will cost, before it starts: time, disk and memory, from a few steps on this machine."""

from __future__ import annotations

import hashlib
import json
import resource
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from itertools import chain, count
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pipeline.config import Experiment
from pipeline.config.mixture import SingleSettings
from pipeline.core.errors import PipelineError
from pipeline.core.files import write_json
from pipeline.core.machine import threads_each
from pipeline.core.processes import ending_at_once
from pipeline.core.waiting import kind, speaking
from pipeline.studies.warm_ups import WarmUp

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.data.images import ImageSet
    from pipeline.training.run import TrainingRun

PROBES = Path("runs/probes")
PROBE = kind("probe", "a probe of an experiment, in a process of its own")
STEPS = 5
"""Steps that are timed, after one that is not. Their median counts: the quickest is not what a grid will see."""
VERDICT_BYTES = 4
"""Bytes of an image and attack, in the verdicts and the journal."""
COPIES = {"checkpoints": 2, "weights": 2}
"""The two newest checkpoints; weights in results/ and in MLflow's artifacts."""


@dataclass(frozen=True)
class Cost:
    """What one experiment takes."""

    training_seconds: float
    evaluation_seconds: float
    """At most: as if every image resisted every attack."""
    disk_bytes: int
    """Without the checkpoints that are kept to branch from."""
    checkpoint_bytes: int
    memory_bytes: int
    """Peak of the process, and of the GPU where there is one."""

    @property
    def seconds(self) -> float:
        """Seconds of training and evaluation together."""
        return self.training_seconds + self.evaluation_seconds


def costs(experiments: Iterable[Experiment], sharers: int = 1, say: Callable[[str], None] = print) -> dict[str, Cost]:
    """The cost of every experiment, by fingerprint, where so many at a time share this machine's cores.

    Experiments whose steps do the same work are probed once, in a process of its own; what a probe found is kept below
    `runs/probes` for this machine.

    Raises:
        RequestError: the data is not prepared, or there is no such device.
    """
    wanted = {experiment.fingerprint: _sharing(experiment, sharers) for experiment in experiments}
    places = {fingerprint: PROBES / f"{_kind(experiment)}.json" for fingerprint, experiment in wanted.items()}
    missing = {place: wanted[fingerprint] for fingerprint, place in places.items() if not place.exists()}
    if missing:
        say(f"probing {len(missing)} kinds of experiments: {STEPS} steps of training and of attacks each")
        # One process for all, since importing takes longer than probing. Its peak of memory never falls again, so the
        # smallest come first.
        with ending_at_once(ProcessPoolExecutor(1, get_context("spawn"))) as process:
            for place, experiment in sorted(missing.items(), key=lambda item: len(item[1].method.learners)):
                with speaking(PROBE, f"a probe of {experiment.identifier}"):
                    write_json(place, asdict(_result(process.submit(probe, experiment), experiment)))
    return {fingerprint: Cost(**json.loads(place.read_text())) for fingerprint, place in places.items()}


def seconds_saved(warm_ups: Iterable[WarmUp], expected: Mapping[str, Cost]) -> float:
    """What training equal learners once saves, as if every learner of an experiment took as long.

    Args:
        warm_ups: That experiments share.
        expected: Their costs alone, by fingerprint.
    """
    saved = 0.0
    for one in warm_ups:
        shares = ((member.experiment, one.lasts_for(member)) for member in one.members)
        alone = sum(expected[each.fingerprint].training_seconds * last / each.training.epochs for each, last in shares)
        saved += alone * one.learner_epochs_saved / (one.learner_epochs + one.learner_epochs_saved)
    return saved


def branch_bytes(experiments: Iterable[Experiment], expected: Mapping[str, Cost]) -> int:
    """The disk that checkpoints take which are kept to branch from: `training.branch_gigabytes` at most.

    Args:
        experiments: What is to be trained.
        expected: Their costs, by fingerprint.
    """
    total, most = 0, 0.0
    for one in experiments:
        points = (one.method.mixture or SingleSettings()).branch_points(one.training.epochs)
        total += len(points) * expected[one.fingerprint].checkpoint_bytes
        most = max(most, one.training.branch_gigabytes * 1e9)
    return min(total, int(most))


def _sharing(experiment: Experiment, sharers: int) -> Experiment:
    """The experiment with the CPU threads that it will have."""
    threads = experiment.training.threads or threads_each(sharers)
    training = experiment.training.model_copy(update={"threads": threads})
    return experiment.model_copy(update={"training": training})


def _result(future: Future[Cost], experiment: Experiment) -> Cost:
    try:
        return future.result()
    except BrokenProcessPool:
        raise PipelineError(
            f"probing {experiment.identifier} was killed, often for want of memory; use a smaller training.batch_size"
        ) from None


def _kind(experiment: Experiment) -> str:
    """A digest of what the cost of an experiment depends on, and of the machine."""
    learners = experiment.method.learners.values()
    content = {
        "version": 3,
        "host": socket.gethostname(),
        "data": experiment.data.model_dump(mode="json", exclude={"root", "split_seed", "replaced_example"}),
        "model": experiment.model.model_dump(mode="json"),
        "training": experiment.training.model_dump(mode="json"),
        "learners": [
            (
                learner.objective.model_dump(mode="json"),
                learner.optimizer.name,
                learner.weight_averaging is None,
                experiment.architecture,
                learner.building(),
            )
            for learner in learners
        ],
        "mixture": experiment.method.mixture and experiment.method.mixture.rule,
        "threat_model": {norm: budget.steps for norm, budget in experiment.threat_model.items()},
        "evaluation": experiment.evaluation.model_dump(mode="json", exclude={"seed"}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def probe(experiment: Experiment) -> Cost:
    """Train and evaluate an experiment for a few steps, in a folder that is removed again."""
    import torch

    from pipeline.core.devices import choose_backend
    from pipeline.data.split import open_split
    from pipeline.provenance.folders import prepared_folder
    from pipeline.training.checkpoint import CheckpointFolder
    from pipeline.training.run import TrainingRun

    settings = experiment.training
    backend = choose_backend(settings.device, settings.precision, settings.threads, settings.compile is True)
    split = open_split(prepared_folder(experiment.data.name), experiment.data, experiment.stored_sizes)
    with tempfile.TemporaryDirectory() as folder:
        run = TrainingRun(experiment, split, backend, CheckpointFolder(Path(folder), experiment.fingerprint))
        for group in (group for learner in run.learners for group in learner.optimizer.param_groups):
            group["lr"] = 0.0  # only time counts: what would diverge must not stop a grid before it starts
        step = _time_steps(run, backend.device)
        validation = _timed(lambda: run.finish_epoch(settings.epochs), backend.device)
        checkpoint = run.save().stat().st_size
    evaluation = _evaluation_seconds(experiment, run.mixture.model, split.test, backend.device)
    images = len(split.test)
    validations = -(-settings.epochs // settings.validation_interval)
    steps = sum(run.steps_in(epoch) for epoch in range(1, settings.epochs + 1))
    weights = sum(tensor.numel() * tensor.element_size() for tensor in run.mixture.model.state_dict().values())
    attacked = sum(min(attack.images or images, images) for attack in experiment.evaluation.attacks.values())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if backend.device.type == "cuda":
        memory += torch.cuda.max_memory_reserved(backend.device)
    return Cost(
        training_seconds=steps * step + validations * validation,
        evaluation_seconds=evaluation,
        disk_bytes=COPIES["checkpoints"] * checkpoint + COPIES["weights"] * weights + VERDICT_BYTES * attacked,
        checkpoint_bytes=checkpoint,
        memory_bytes=memory,
    )


def _time_steps(run: TrainingRun, device: torch.device) -> float:
    """Seconds of a step of all learners and their mixture."""
    batches = chain.from_iterable(run.batches(1) for _ in count())

    def step() -> None:
        images, labels = next(batches)
        for learner in run.learners:
            run.step(learner, images, labels, 1)
        run.mixture.after_step(1)
        run.read_losses()
        run.progress.step = (run.progress.step + 1) % run.steps_in(1)

    step()
    return median(_timed(step, device) for _ in range(STEPS))


def _evaluation_seconds(experiment: Experiment, model: nn.Module, test: ImageSet, device: torch.device) -> float:
    """Seconds of all attacks, each timed with batches of the size that it will have."""
    seconds, passes = 0.0, {}
    for attack in experiment.evaluation.attacks.values():
        images = min(attack.images or len(test), len(test))
        size = min(images, experiment.evaluation.batch_size)
        if size not in passes:
            passes[size] = _time_passes(model, test, size, device)
        gradient, forward = passes[size]
        cost = attack.passes()
        seconds += images * (cost.gradients * gradient + cost.forwards * forward)
    return seconds


def _time_passes(model: nn.Module, test: ImageSet, size: int, device: torch.device) -> tuple[float, float]:
    """Seconds per image of a step of PGD, and of a forward pass."""
    import torch

    from pipeline.attacks.pgd import PGD
    from pipeline.evaluation.predictions import channels_last

    images, labels = test.to(device).batch(torch.arange(size, device=device))
    images, generator = channels_last(images), torch.Generator(device).manual_seed(0)
    model.eval()
    attack = PGD(norm="linf", epsilon=0.1, step_size=0.01, steps=STEPS)

    def perturb() -> None:
        attack.perturb(model, images, labels, generator)

    perturb()
    gradient = median(_timed(perturb, device) for _ in range(STEPS)) / STEPS
    with torch.no_grad():
        forward = median(_timed(lambda: model(images), device) for _ in range(STEPS))
    return gradient / size, forward / size


def _timed(work: Callable[[], object], device: torch.device) -> float:
    import torch

    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def describe_bytes(count: float) -> str:
    """'1.3 GB', with decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def describe_seconds(seconds: float) -> str:
    """'45 s', '12 min', '3.4 h'."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
