"""Whether what Generalist++ says of stability and of gradients holds on the digits, term by term.

Theorem 2: epsilon_g <= sum_a gamma_a epsilon_a + C sum_a gamma_a ||theta_a - theta_bar||^2, C = 2 L M. Every epsilon is
the largest difference of losses over test images and over pairs of trainings that differ in one training image: a
lower end, like that of `stages.stability`. All networks are those of the last epoch, before the learners restart:
theta_a of every learner, theta_g right after its last update, theta_bar right before it. theta holds parameters and
BatchNorm's running statistics, since outputs depend on both. L is known for either loss; of M there is a lower end.

Section III-C: with redistribution, gradients of different minibatches have a larger inner product. Compared is the
same method with t' and c so late that learners never restart before the last measurement.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from benchmarks.publishing import publish
from benchmarks.theory import Epochs
from benchmarks.timing import Option, read_arguments
from pipeline.config import Experiment, MovingAverageSettings, Params, parse_params
from pipeline.config.composing import compose
from pipeline.core.devices import Backend, choose_backend
from pipeline.core.machine import usable_cores
from pipeline.data.images import ImageSet, ImageSplit
from pipeline.data.prepare import prepare
from pipeline.data.split import open_split
from pipeline.training.loop import train
from pipeline.training.loss_gaps import LOSSES, NATURAL, losses_under, worst_cases
from pipeline.training.run import build_network
from pipeline.training.theorem_2 import LEARNER_SPREAD, PREVIOUS_ITERATE, geometric_terms
from pipeline.training.theory import GLOBAL, Snapshots
from pipeline.training.weights import combine, weight_tensors

METHODS = ("generalist_d_nt_linf", "generalist_t")
OPTIONS = {
    "rounds": Option(3, 1, "seeds"),
    "examples": Option(1, 1, "training images that are replaced, each in a pair of every seed"),
    "train_images": Option(1300, 96, "of the digits"),
}
STEEPNESS = {"error_probability": math.sqrt(2) / 4, "cross_entropy": math.sqrt(2)}
"""L, the largest norm of the gradient by the logits: ||e_y - p|| <= sqrt(2) (1 - p_y) for the cross-entropy, and p_y
times that for 1 - p_y, largest at p_y = 1/2."""
DIFFERENCE = 1e-4
"""The step of the central difference along theta_a - theta_bar, in float64."""
OWN_TASKS = "own_tasks"
"""Every learner in its own task, the global learner in the one where it is worst."""


@dataclass(frozen=True)
class Trained:
    """What one training leaves of its last epoch."""

    ratios: dict[str, float]
    terms: dict[str, float]
    """As `geometric_terms`, over parameters and running statistics."""
    losses: dict[str, dict[str, Tensor]]
    """Cross-entropies at the test images, by view and network: the learners and `global`."""
    curvature: float
    """A lower end of M."""
    history: Sequence[Mapping[str, float]]


def params_of(rounds: int, train_images: int) -> Params:
    """The suite `digits` with two methods and the attack steps of `digits_beyond`, measured after the last epoch."""
    overrides = ["suite=digits", "competitors=none", *(f"threat_model.{norm}.steps=5" for norm in ("linf", "l2"))]
    raw = yaml.safe_load(compose(overrides, Path(__file__).parent.parent / "conf"))
    raw["methods"] = {name: raw["methods"][name] for name in METHODS}
    raw |= {"seeds": list(range(1, rounds + 1)), "tables": {}, "figures": {}}
    raw["ablation"]["studies"] = {}
    raw["search"] = None
    raw["data"]["train_images"] = train_images
    raw["training"]["validation_interval"] = raw["training"]["epochs"]
    raw["training"]["theory"] = {"interval": raw["training"]["epochs"]}
    return parse_params(raw)


def without_redistribution(experiment: Experiment) -> Experiment:
    """The same, with its first restart after the last measurement."""
    last, method = experiment.training.epochs, experiment.method
    assert method.mixture is not None
    mixture = method.mixture.model_copy(update={"warmup_epochs": last, "communication_interval": last})
    return experiment.model_copy(update={"method": method.model_copy(update={"mixture": mixture})})


def with_replaced(experiment: Experiment, example: int) -> Experiment:
    """The other half of a pair."""
    data = experiment.data.model_copy(update={"replaced_example": example})
    return experiment.model_copy(update={"data": data})


def trained(experiment: Experiment, data: Path, backend: Backend) -> Trained:
    """Train, and look at all networks of the last epoch."""
    split = open_split(data, experiment.data, experiment.stored_sizes)
    assert isinstance(split, ImageSplit) and isinstance(experiment.method.mixture, MovingAverageSettings)
    epochs, mixture = Epochs(), experiment.method.mixture
    with tempfile.TemporaryDirectory() as folder:
        train(experiment, split, backend, Path(folder), epochs)
        networks = read_networks(experiment, Path(folder) / "theory")
    ratios = mixture.ratios_at(experiment.training.epochs)
    terms, curvature = geometry(networks, ratios, mixture.decay, split.test)
    size, seed = experiment.evaluation.batch_size, experiment.evaluation.seed
    losses = {
        view: {name: losses_under(one, split.test, attack, seed, view, size) for name, one in networks.items()}
        for view, attack in worst_cases(experiment).items()
    }
    return Trained(ratios, terms, losses, curvature, epochs.rows)


def read_networks(experiment: Experiment, folder: Path) -> dict[str, nn.Module]:
    """The learners and the global learner as they were measured last, in eval mode on the CPU."""
    host = torch.device("cpu")
    kept, networks = Snapshots(folder, host), {}
    for name in (*experiment.method.learners, GLOBAL):
        own = next(iter(experiment.method.learners)) if name == GLOBAL else name
        network = build_network(experiment, own, Backend(host, bfloat16=False))
        network.load_state_dict(kept.read(experiment.training.epochs, name)[0])
        networks[name] = network.eval()
    return networks


def geometry(
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


def inequalities(pairs: Sequence[Pair], tasks: Mapping[str, str]) -> list[dict[str, Any]]:
    """Both sides of Theorem 2 for either loss: with all epsilons of one view, and with each learner's of its own task.

    Args:
        pairs: Trainings of one method that differ in one example.
        tasks: The view that is the task of each learner.
    """
    views = list(pairs[0][0].losses)
    rows = []
    for loss in LOSSES:
        found = {view: epsilons(pairs, view, loss) for view in views}
        own = {name: found[view][name] for name, view in tasks.items()}
        whole = max(found[view][GLOBAL] for view in views)
        for view, epsilon in {**found, OWN_TASKS: {**own, GLOBAL: whole}}.items():
            rows.append({"loss": loss, "view": view, **sides(pairs, loss, epsilon)})
    return rows


def epsilons(pairs: Sequence[Pair], view: str, loss: str) -> dict[str, float]:
    """The largest difference over pairs and test images, of every network."""
    of = LOSSES[loss]
    return {
        name: max(
            (of(one.losses[view][name]) - of(other.losses[view][name])).abs().max().item() for one, other in pairs
        )
        for name in pairs[0][0].losses[view]
    }


def sides(pairs: Sequence[Pair], loss: str, epsilon: Mapping[str, float]) -> dict[str, Any]:
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


def gradients(runs: Sequence[Trained], learners: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """The inner product and the cosine of every seed at each learner in its own task, at the last measurement."""
    keys = {name: (f"theory/minibatch_product/{name}", f"theory/minibatch_cosine/{name}") for name in learners}
    return {
        name: {
            kind: [one.history[-1][key] for one in runs] for kind, key in zip(("product", "cosine"), own, strict=True)
        }
        for name, own in keys.items()
    }


def task_of(experiment: Experiment, learner: str) -> str:
    """The view that a learner trains for."""
    norms = experiment.method.learners[learner].objective.norms()
    return next((view for view, attack in worst_cases(experiment).items() if attack and attack.norm in norms), NATURAL)


@dataclass(frozen=True)
class Unit:
    """All trainings of one method and seed."""

    original: Trained
    apart: Trained
    """Without redistribution."""
    replaced: list[Trained]
    """One example of each differs."""


def train_all(params: Params, method: str, seed: int, examples: int, data: Path) -> Unit:
    """The trainings of one method and seed, in a process of its own."""
    backend = choose_backend("auto", params.training.precision, params.training.threads)
    experiment = params.experiment(method, seed)
    return Unit(
        trained(experiment, data, backend),
        trained(without_redistribution(experiment), data, backend),
        [trained(with_replaced(experiment, number), data, backend) for number in range(examples)],
    )


def measure(params: Params, examples: int) -> dict[str, Any]:
    """Everything, by method; as many methods and seeds at once as there are cores."""
    wanted = list(product(params.methods, params.seeds))
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(usable_cores(), get_context("spawn")) as pool:
        data = Path(folder) / "data"
        prepare(params.data, data)
        running = [pool.submit(train_all, params, method, seed, examples, data) for method, seed in wanted]
        units = dict(zip(wanted, (one.result() for one in running), strict=True))
    return {
        "epochs": params.training.epochs,
        "seeds": params.seeds,
        "pairs": len(params.seeds) * examples,
        "steepness": STEEPNESS,
        "methods": {
            method: findings(params, method, [units[method, seed] for seed in params.seeds])
            for method in params.methods
        },
    }


def findings(params: Params, method: str, units: Sequence[Unit]) -> dict[str, Any]:
    """What the trainings of one method tell."""
    pairs = [(unit.original, other) for unit in units for other in unit.replaced]
    members = [one for pair in pairs for one in pair]
    experiment = params.experiment(method, params.seeds[0])
    learners = list(experiment.method.learners)
    return {
        "ratios": members[0].ratios,
        "learner_spread": max(one.terms[LEARNER_SPREAD] for one in members),
        "curvature": max(one.curvature for one in members),
        "inequalities": inequalities(pairs, {name: task_of(experiment, name) for name in learners}),
        "gradients": {
            "with": gradients([unit.original for unit in units], learners),
            "without": gradients([unit.apart for unit in units], learners),
        },
    }


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    given = read_arguments(__doc__, "theorems", OPTIONS, arguments)
    params = params_of(given.rounds, given.train_images)
    device = choose_backend("auto", params.training.precision, params.training.threads).device
    publish(given.output, measure(params, given.examples), device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
