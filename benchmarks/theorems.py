"""Whether what Generalist++ says of stability and of gradients holds on the digits, term by term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.frame import benchmark
from benchmarks.loops import images_of, suite
from benchmarks.trainings import Epochs
from pipeline.config import Experiment, MovingAverageSettings, Params
from pipeline.core.devices import Backend, choose_backend
from pipeline.core.machine import usable_cores
from pipeline.data.images import ImageSet
from pipeline.training.loop import train
from pipeline.training.loss_gaps import LOSSES, NATURAL, losses_under, worst_cases
from pipeline.training.run import build_network
from pipeline.training.theorem_2 import LEARNER_SPREAD, PREVIOUS_ITERATE, geometric_terms
from pipeline.training.theory import GLOBAL, Snapshots
from pipeline.training.weights import combine, weight_tensors

METHODS = ("generalist_d_nt_linf", "generalist_t")
STEEPNESS = {"error_probability": math.sqrt(2) / 4, "cross_entropy": math.sqrt(2)}
"""L, the largest norm of the gradient by the logits: ||e_y - p|| <= sqrt(2) (1 - p_y) for the cross-entropy, and p_y
times that for 1 - p_y, largest at p_y = 1/2."""
DIFFERENCE = 1e-4
"""The step of the central difference along theta_a - theta_bar, in float64."""
OWN_TASKS = "own_tasks"
"""Every learner in its own task, the global learner in the one where it is worst."""


class Trained(NamedTuple):
    """What one training leaves of its last epoch."""

    ratios: dict[str, float]
    terms: dict[str, float]
    """As `geometric_terms`, over parameters and running statistics."""
    losses: dict[str, dict[str, Tensor]]
    """Cross-entropies at the test images, by view and network: the learners and `global`."""
    curvature: float
    """A lower end of M."""
    history: Sequence[Mapping[str, float]]


class Unit(NamedTuple):
    """All trainings of one method and seed."""

    original: Trained
    apart: Trained
    """Without redistribution."""
    replaced: list[Trained]
    """One example of each differs."""


@benchmark(rounds=1, train_images=96)
def theorems(rounds: int = 3, examples: int = 1, train_images: int = 1300) -> dict[str, Any]:
    """Whether what Generalist++ says of stability and of gradients holds on the digits, term by term.

    Theorem 2: epsilon_g <= sum_a gamma_a epsilon_a + C sum_a gamma_a ||theta_a - theta_bar||^2, C = 2 L M. Every
    epsilon is the largest difference of losses over test images and over pairs of trainings that differ in one training
    image: a lower end, like that of `stages.stability`. All networks are those of the last epoch, before the learners
    restart: theta_a of every learner, theta_g right after its last update, theta_bar right before it. theta holds
    parameters and BatchNorm's running statistics, since outputs depend on both. L is known for either loss; of M there
    is a lower end.

    Section III-C: with redistribution, gradients of different minibatches have a larger inner product. Compared is the
    same method with t' and c so late that learners never restart before the last measurement.
    """
    params = suite(
        *("suite=digits", "competitors=none", f"data.train_images={train_images}"),
        *("threat_model.linf.steps=5", "threat_model.l2.steps=5"),  # as in digits_beyond
        *("training.validation_interval=15", "++training.theory={interval: 15}"),  # after the last epoch
        f"seeds={list(range(1, rounds + 1))}",
    )
    choose_backend("auto", params.training.precision, params.training.threads)
    wanted = list(product(METHODS, params.seeds))
    with ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:  # methods and seeds at once
        running = [pool.submit(_train_all, params, method, seed, examples) for method, seed in wanted]
        units = dict(zip(wanted, (one.result() for one in running), strict=True))
    return {
        "epochs": params.training.epochs,
        "seeds": params.seeds,
        "pairs": len(params.seeds) * examples,
        "steepness": STEEPNESS,
        "methods": {
            method: _findings(params.experiment(method, 1), [units[method, seed] for seed in params.seeds])
            for method in METHODS
        },
    }


def _train_all(params: Params, method: str, seed: int, examples: int) -> Unit:
    """The trainings of one method and seed, in a process of its own."""
    backend = choose_backend("auto", params.training.precision, params.training.threads)
    experiment = params.experiment(method, seed)
    others = []
    for number in range(examples):
        data = experiment.data.model_copy(update={"replaced_example": number})
        others.append(_train(experiment.model_copy(update={"data": data}), backend))
    return Unit(_train(experiment, backend), _train(without_redistribution(experiment), backend), others)


def without_redistribution(experiment: Experiment) -> Experiment:
    """The same, with its first restart after the last measurement."""
    last, method = experiment.training.epochs, experiment.method
    assert method.mixture is not None
    mixture = method.mixture.model_copy(update={"warmup_epochs": last, "communication_interval": last})
    return experiment.model_copy(update={"method": method.model_copy(update={"mixture": mixture})})


def _train(experiment: Experiment, backend: Backend) -> Trained:
    """Train, and look at all networks of the last epoch."""
    split, epochs, mixture = images_of(experiment.data), Epochs(), experiment.method.mixture
    assert isinstance(mixture, MovingAverageSettings)
    with TemporaryDirectory() as folder:
        train(experiment, split, backend, Path(folder), epochs)
        networks = _read_networks(experiment, Path(folder) / "theory")
    ratios = mixture.ratios_at(experiment.training.epochs)
    terms, curvature = _geometry(networks, ratios, mixture.decay, split.test)
    size, seed = experiment.evaluation.batch_size, experiment.evaluation.seed
    losses = {
        view: {name: losses_under(one, split.test, attack, seed, view, size) for name, one in networks.items()}
        for view, attack in worst_cases(experiment).items()
    }
    return Trained(ratios, terms, losses, curvature, epochs.rows)


def _read_networks(experiment: Experiment, folder: Path) -> dict[str, nn.Module]:
    """The learners and the global learner as they were measured last, in eval mode on the CPU."""
    host = torch.device("cpu")
    kept, networks, learners = Snapshots(folder, host), {}, list(experiment.method.learners)
    for name in (*learners, GLOBAL):
        own = learners[0] if name == GLOBAL else name
        networks[name] = build_network(experiment, own, Backend(host, bfloat16=False)).eval()
        networks[name].load_state_dict(kept.read(experiment.training.epochs, name)[0])
    return networks


def _geometry(
    networks: Mapping[str, nn.Module], ratios: Mapping[str, float], decay: float, test: ImageSet
) -> tuple[dict[str, float], float]:
    """The terms of Theorem 2, and a lower end of M, in float64."""
    precise = {name: deepcopy(network).double() for name, network in networks.items()}
    shares = [(ratio, weight_tensors(precise[name])) for name, ratio in ratios.items()]
    averaged, mean = weight_tensors(precise[GLOBAL]), combine(shares)
    terms = geometric_terms(shares, averaged, decay, restart=None)
    # theta_bar: where the average was before it moved towards the mean.
    before = torch._foreach_add(averaged, torch._foreach_sub(averaged, mean), alpha=(1 - decay) / decay)
    images = test.batch(torch.arange(len(test)))[0].double()
    counted = [name for name, ratio in ratios.items() if ratio > 0]
    curvature = max(curvature_between(precise[name], list(before), images) for name in (*counted, GLOBAL))
    return {name: value.item() for name, value in terms.items()}, curvature


@torch.no_grad()
def curvature_between(network: nn.Module, start: list[Tensor], images: Tensor) -> float:
    """2 ||f(theta) - f(theta_bar) - J (theta - theta_bar)|| / ||theta - theta_bar||^2, the largest over images.

    A lower end of M: the remainder is the mean curvature on the line from theta_bar (`start`) to theta, weighted.
    """
    moved = deepcopy(network)
    direction = torch._foreach_sub(weight_tensors(network), start)
    length = torch.stack(torch._foreach_norm(direction)).square().sum()
    if length == 0:
        return 0.0

    def at(share: float) -> Tensor:
        torch._foreach_copy_(weight_tensors(moved), torch._foreach_add(start, direction, alpha=share))
        logits: Tensor = moved(images)
        return logits

    slope = (at(DIFFERENCE) - at(-DIFFERENCE)) / (2 * DIFFERENCE)
    remainder = at(1.0) - at(0.0) - slope
    return float((2 * remainder.norm(dim=1) / length).max())


Pair = tuple[Trained, Trained]


def _findings(experiment: Experiment, units: Sequence[Unit]) -> dict[str, Any]:
    """What the trainings of one method tell."""
    pairs = [(unit.original, other) for unit in units for other in unit.replaced]
    members = [one for pair in pairs for one in pair]
    learners, attacks = experiment.method.learners, worst_cases(experiment)
    tasks = {}
    for name, learner in learners.items():
        norms = learner.objective.norms()
        tasks[name] = next((view for view, attack in attacks.items() if attack and attack.norm in norms), NATURAL)

    def gradients(runs: Sequence[Trained]) -> dict[str, dict[str, list[float]]]:
        """By learner, in its own task, at the last measurement; a value for every seed."""
        return {
            name: {
                kind: [one.history[-1][f"theory/minibatch_{kind}/{name}"] for one in runs]
                for kind in ("product", "cosine")
            }
            for name in learners
        }

    return {
        "ratios": members[0].ratios,
        "learner_spread": max(one.terms[LEARNER_SPREAD] for one in members),
        "curvature": max(one.curvature for one in members),
        "inequalities": inequalities(pairs, tasks),
        "gradients": {
            "with": gradients([unit.original for unit in units]),
            "without": gradients([unit.apart for unit in units]),
        },
    }


def inequalities(pairs: Sequence[Pair], tasks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Both sides of Theorem 2 for either loss: with all epsilons of one view, and with each learner's of its own task.

    Args:
        pairs: Trainings of one method that differ in one example.
        tasks: The view that is the task of each learner.
    """
    views = list(pairs[0][0].losses)
    rows = []
    for loss in LOSSES:
        found = {view: _epsilons(pairs, view, loss) for view in views}
        own = {name: found[view][name] for name, view in tasks.items()}
        whole = max(found[view][GLOBAL] for view in views)
        for view, epsilon in {**found, OWN_TASKS: {**own, GLOBAL: whole}}.items():
            rows.append({"loss": loss, "view": view, **_sides(pairs, loss, epsilon)})
    return rows


def _epsilons(pairs: Sequence[Pair], view: str, loss: str) -> dict[str, float]:
    """The largest difference over pairs and test images, of every network."""
    of = LOSSES[loss]
    return {
        name: max(
            (of(one.losses[view][name]) - of(other.losses[view][name])).abs().max().item() for one, other in pairs
        )
        for name in pairs[0][0].losses[view]
    }


def _sides(pairs: Sequence[Pair], loss: str, epsilon: Mapping[str, float]) -> dict[str, Any]:
    """Left and right side, and the least C with which the inequality holds."""
    both = [one for pair in pairs for one in pair]
    plus = sum(ratio * epsilon[name] for name, ratio in both[0].ratios.items())
    term = max(one.terms[PREVIOUS_ITERATE] for one in both)
    constant = 2 * STEEPNESS[loss] * max(one.curvature for one in both)
    return {
        "epsilon": dict(epsilon),
        "epsilon_plus": plus,
        "geometric_term": term,
        "least_constant": max(0.0, (epsilon[GLOBAL] - plus) / term),
        "constant": constant,
        "right_side": plus + constant * term,
        "holds": epsilon[GLOBAL] <= plus + constant * term,
    }
