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
from functools import partial
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
from pipeline.core.progress import Display
from pipeline.core.waiting import kind, speaking
from pipeline.studies.warm_ups import WarmUp

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pipeline.data.images import ImageSet
    from pipeline.training.learner import Learner
    from pipeline.training.run import TrainingRun

PROBES = Path("runs/probes")
PATIENCE = 180.0
"""Seconds for all probes together."""
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


def costs(experiments: Iterable[Experiment], sharers: int = 1, patience: float = PATIENCE) -> dict[str, Cost]:
    """The cost of every experiment, by fingerprint, where so many at a time share this machine's cores.

    Experiments whose steps do the same work are probed once, and each kind of step once, in a process of its own; what
    a probe found is kept below `runs/probes` for this machine. What is not probed within `patience` seconds, but for
    the first one, is told from what was, by the passes that it takes; the next call goes on probing.

    Raises:
        RequestError: the data is not prepared, or there is no such device.
        PipelineError: a probe was killed.
    """
    wanted = {experiment.fingerprint: _sharing(experiment, sharers) for experiment in experiments}
    places = {fingerprint: PROBES / f"{_kind(experiment)}.json" for fingerprint, experiment in wanted.items()}
    missing = {place: wanted[fingerprint] for fingerprint, place in places.items() if not place.exists()}
    if missing:
        _probe_all(missing, patience, is_any_known=len(missing) < len(set(places.values())))
    known = {
        place: (wanted[fingerprint], Cost(**json.loads(place.read_text())))
        for fingerprint, place in places.items()
        if place.exists()
    }
    return {
        fingerprint: known[place][1] if place in known else _told_from(known.values(), wanted[fingerprint])
        for fingerprint, place in places.items()
    }


def _probe_all(missing: Mapping[Path, Experiment], patience: float, is_any_known: bool) -> None:
    """Probe one experiment of each kind, as many as there is time for, and keep what was found."""
    # One process for all, since importing takes longer than probing. Its peak of memory never falls again, so the
    # smallest come first.
    in_order = sorted(missing.items(), key=lambda item: len(item[1].method.learners))
    began, count = time.time(), len(missing)
    with ending_at_once(ProcessPoolExecutor(1, get_context("spawn"))) as process, Display("plan") as display:
        display.message(f"timing {STEPS} steps of each of {count} kinds of experiments, for {patience:.0f} s at most")
        for number, (place, experiment) in enumerate(in_order):
            ends = None if number == 0 else began + min(patience, (time.time() - began) * count / number)
            display.show(f"{number}/{count} kinds", number / count, ends, f"now {experiment.identifier}")
            left = began + patience - time.time() if number or is_any_known else None
            with speaking(PROBE, f"a probe of {experiment.identifier}"):
                found = _result(process.submit(probe, experiment), experiment, left)
            if found is None:
                display.message(f"{number} of {count} kinds are timed, the others told from them; again goes on")
                return
            write_json(place, asdict(found))
            display.rarely(f"{number + 1} of {count} kinds are timed")
        display.show(f"{count}/{count} kinds", 1, None)


def passes_left(experiment: Experiment, shared: int) -> float:
    """Roughly what a training costs, but for `shared` epochs, in forward passes; a backward pass takes two."""
    images = experiment.data.train_images or experiment.data.facts.train_images or 1
    learners = experiment.method.learners.values()
    steps = sum(1 + sum(experiment.threat_model[norm].steps for norm in one.objective.norms()) for one in learners)
    return 3 * steps * images * (experiment.training.epochs - shared)


def passes_of_evaluation(experiment: Experiment) -> float:
    """Roughly what an evaluation costs, as `passes_left`."""
    return sum(experiment.evaluation.passes(experiment.data.facts.test_images or 1).values())


def _told_from(known: Iterable[tuple[Experiment, Cost]], experiment: Experiment) -> Cost:
    """The cost of an experiment as that of the most similar one that was probed, by their passes."""
    size = len(experiment.method.learners)
    like, cost = min(
        known, key=lambda each: (each[0].model != experiment.model, abs(len(each[0].method.learners) - size))
    )
    ratio = size / len(like.method.learners)
    return Cost(
        cost.training_seconds * passes_left(experiment, 0) / passes_left(like, 0),
        cost.evaluation_seconds * passes_of_evaluation(experiment) / passes_of_evaluation(like),
        int(cost.disk_bytes * ratio),
        int(cost.checkpoint_bytes * ratio),
        cost.memory_bytes,
    )


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


def _result(future: Future[Cost], experiment: Experiment, patience: float | None) -> Cost | None:
    """What a probe has found; None if it takes longer than that."""
    try:
        return future.result(None if patience is None else max(patience, 0))
    except TimeoutError:
        return None
    except BrokenProcessPool:
        raise PipelineError(
            f"probing {experiment.identifier} was killed, often for want of memory; use a smaller training.batch_size"
        ) from None


def _kind(experiment: Experiment) -> str:
    """A digest of what the cost of an experiment depends on, and of the machine."""
    content = {
        "version": 5,
        "host": socket.gethostname(),
        "setting": _setting(experiment),
        "learners": [_learner_kind(experiment, name) for name in experiment.method.learners],
        "mixture": experiment.method.mixture and experiment.method.mixture.rule,
        "evaluation": experiment.evaluation.model_dump(mode="json", exclude={"seed"}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _setting(experiment: Experiment) -> str:
    """What the time of a step, a pass and a validation depends on besides the learners and their networks."""
    content = {
        "data": experiment.data.model_dump(mode="json", exclude={"root", "split_seed", "replaced_example"}),
        "model": experiment.model.model_dump(mode="json"),
        "architecture": experiment.architecture,
        "training": experiment.training.model_dump(mode="json"),
        "threat_model": {norm: budget.steps for norm, budget in experiment.threat_model.items()},
    }
    return json.dumps(content, sort_keys=True)


def _learner_kind(experiment: Experiment, name: str) -> str:
    """What the time of a learner's step depends on besides the setting."""
    learner = experiment.method.learners[name]
    averaged = learner.weight_averaging is not None
    content = [learner.objective.model_dump(mode="json"), learner.optimizer.name, averaged, learner.building()]
    return json.dumps([*content, learner.architecture], sort_keys=True)


def _network(experiment: Experiment) -> str:
    """What the global learner's network depends on besides the setting: the learners'."""
    learner = next(iter(experiment.method.learners.values()))
    return json.dumps([learner.architecture, learner.building()], sort_keys=True)


_timings: dict[tuple[str, ...], float] = {}
"""Seconds that were timed in this process: of a kind of step, a validation, a pass."""


def _once(measure: Callable[[], float], *key: str) -> float:
    """What was timed under a key, or is now."""
    if key not in _timings:
        _timings[key] = measure()
    return _timings[key]


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
        setting, rule = _setting(experiment), experiment.method.mixture and experiment.method.mixture.rule
        step = 0.0
        for learner in run.learners:
            take_step = _steps_of(run, learner)
            take_step()  # not timed; with it the optimizer has all that a checkpoint keeps
            kind = _learner_kind(experiment, learner.name)
            step += _once(partial(_median_seconds, take_step, backend.device), setting, kind)
        step += _timed(lambda: run.mixture.after_step(1), backend.device)
        measured = (_network(experiment), str(len(run.learners)), str(rule))
        validation = _once(
            lambda: _timed(lambda: run.finish_epoch(settings.epochs), backend.device), setting, "validation", *measured
        )
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


def _steps_of(run: TrainingRun, learner: Learner) -> Callable[[], None]:
    """Takes a step of a learner whenever it is called."""
    batches = chain.from_iterable(run.batches(1) for _ in count())

    def step() -> None:
        run.step(learner, *next(batches), 1)
        run.read_losses(all_steps=True)

    return step


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    return median(_timed(work, device) for _ in range(STEPS))


def _evaluation_seconds(experiment: Experiment, model: nn.Module, test: ImageSet, device: torch.device) -> float:
    """Seconds of all attacks, each timed with batches of the size that it will have."""
    seconds, kind = 0.0, (_setting(experiment), _network(experiment))
    for attack in experiment.evaluation.attacks.values():
        images = min(attack.images or len(test), len(test))
        size = min(images, experiment.evaluation.batch_size)
        gradient = _once(partial(_time_gradient, model, test, size, device), *kind, "gradient", str(size))
        forward = _once(partial(_time_forward, model, test, size, device), *kind, "forward", str(size))
        cost = attack.passes()
        seconds += images * (cost.gradients * gradient + cost.forwards * forward)
    return seconds


def _time_gradient(model: nn.Module, test: ImageSet, size: int, device: torch.device) -> float:
    """Seconds per image of a step of PGD."""
    import torch

    from pipeline.attacks.pgd import PGD

    images, labels = _first(test, size, device)
    generator = torch.Generator(device).manual_seed(0)
    attack = PGD(norm="linf", epsilon=0.1, step_size=0.01, steps=STEPS)

    def perturb() -> None:
        attack.perturb(model.eval(), images, labels, generator)

    perturb()
    return _median_seconds(perturb, device) / STEPS / size


def _time_forward(model: nn.Module, test: ImageSet, size: int, device: torch.device) -> float:
    """Seconds per image of a forward pass."""
    import torch

    images, _ = _first(test, size, device)
    with torch.no_grad():
        model.eval()(images)
        return _median_seconds(lambda: model(images), device) / size


def _first(test: ImageSet, size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    from pipeline.evaluation.predictions import channels_last

    images, labels = test.to(device).batch(torch.arange(size, device=device))
    return channels_last(images), labels


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
