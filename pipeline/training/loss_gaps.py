"""Empirical stability: how far the losses of two networks lie apart whose training sets differ in one example.

A training A is epsilon-uniformly stable if |l(A(S), z) - l(A(S'), z)| <= epsilon for every z and all training sets S
and S' that differ in one example (Generalist++, Definition 2; Hardt, Recht and Singer, 2016). The largest difference
over some pairs and some z, which is what can be measured, is a lower end of epsilon. Definition 2 bounds the
generalisation gap in expectation.

The loss l is the cross-entropy in nats, or bounded as the theory asks: the error probability, 1 - p of the true class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from pipeline.attacks.pgd import PGD
from pipeline.config import Experiment, LearnerSettings, MixtureSettings, MovingAverageSettings, SGDSettings
from pipeline.core.devices import Backend
from pipeline.core.streams import stream
from pipeline.data.images import ImageSet
from pipeline.evaluation.pieces import fitting
from pipeline.evaluation.predictions import channels_last
from pipeline.training.learner import Learner
from pipeline.training.mesh import ONE_PROCESS

STEPS = 20
"""Steps of the PGD that finds every network's own worst case."""
NATURAL = "natural"
EVERY_LABEL = "every_label"
"""Natural test images with every class as their label in turn: z of Definition 2 is any labelled image."""
GRADIENTS_AT_A_TIME = 16
"""Each is as large as the network."""
CHOSEN = ("tuned", "greedy_soup")
"""Mixtures whose ratios depend on what networks score on held-out images."""


def error_probability(losses: Tensor) -> Tensor:
    """1 - p of the true class, in [0, 1], of cross-entropies: 1 - exp(-loss). Nowhere steeper than the cross-entropy.

    Unlike a cross-entropy that is cut at 1, it still tells networks apart that are not sure of anything.
    """
    return -torch.expm1(-losses)


def cross_entropy(losses: Tensor) -> Tensor:
    """The cross-entropies as they are."""
    return losses


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "error_probability": error_probability,
    "cross_entropy": cross_entropy,
}


@dataclass(frozen=True)
class Profile:
    """The cross-entropies of one network under one attack, in nats: float64, on the CPU."""

    test: Tensor
    """(m,): at the points that networks are compared at, in a fixed order."""
    train: Tensor
    """(n,): at the network's own training images; empty where they are not looked at."""
    gradients: Tensor
    """(n,): Euclidean norms of the gradients of those by all parameters."""


def worst_cases(experiment: Experiment) -> dict[str, PGD | None]:
    """By name, what networks are looked at under: nothing, and PGD-20 in every norm that a learner trains in.

    The budgets are those of `threat_model`.
    """
    trained = {norm for learner in experiment.method.learners.values() for norm in learner.objective.norms()}
    attacks: dict[str, PGD | None] = {NATURAL: None}
    for norm, budget in experiment.threat_model.items():
        if norm in trained:
            attacks[f"pgd{STEPS}_{norm}"] = PGD(norm=norm, **{**budget.model_dump(), "steps": STEPS})
    return attacks


def profiles(
    model: nn.Module, train: ImageSet, test: ImageSet, attacks: Mapping[str, PGD | None], seed: int, batch_size: int
) -> dict[str, Profile]:
    """One network under every attack, and natural test images with every label.

    Args:
        model: Maps images to logits, in eval mode.
        train: What it was trained on, on its device.
        test: What it is compared at, on its device.
        attacks: By name; each finds this network's own worst case, with the same noise for every network.
        seed: Of the attacks' noise, one stream for every attack, set of images and batch.
        batch_size: Images at once.

    Returns:
        By the name of the attack, and `every_label`.
    """
    found = {}
    whole = fitting(model, tuple(test.images.shape[1:]), batch_size, test.images.device)
    for name, attack in attacks.items():
        losses, gradients = [], []
        for inputs, labels in _met(whole, train, attack, seed, f"{name}/train", batch_size):
            losses.append(cross_entropies(whole, inputs, labels))
            gradients.append(gradient_norms(model, inputs, labels))
        tested = losses_under(whole, test, attack, seed, f"{name}/test", batch_size)
        found[name] = Profile(tested, torch.cat(losses), torch.cat(gradients))
    labelled = [_of_every_label(whole, inputs) for inputs, _ in _met(whole, test, None, seed, EVERY_LABEL, batch_size)]
    nothing = torch.zeros(0, dtype=torch.float64)
    return {**found, EVERY_LABEL: Profile(torch.cat(labelled), nothing, nothing)}


def losses_under(
    model: nn.Module, images: ImageSet, attack: PGD | None, seed: int, name: str, batch_size: int
) -> Tensor:
    """The cross-entropies of `model` at images under its own worst case: (images,), float64, on the CPU.

    Args:
        model: Maps images to logits, in eval mode.
        images: On its device.
        attack: None: the images as they are.
        seed: Of the attack's noise.
        name: Address of the noise, the same for networks that are compared.
        batch_size: Images at once.
    """
    met = _met(model, images, attack, seed, name, batch_size)
    return torch.cat([cross_entropies(model, *batch) for batch in met])


def _met(
    model: nn.Module, images: ImageSet, attack: PGD | None, seed: int, name: str, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images as `model` meets them under `attack`, and their labels."""
    device = images.images.device
    for number, start in enumerate(range(0, len(images), batch_size)):
        inputs, labels = images.batch(torch.arange(start, min(start + batch_size, len(images)), device=device))
        inputs = channels_last(inputs)
        if attack is not None:
            inputs = attack.perturb(model, inputs, labels, stream(seed, "stability", name, number, device=device))
        yield inputs, labels


@torch.no_grad()
def cross_entropies(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """(batch, channels, height, width) in [0, 1], (batch,) -> (batch,) in nats, float64, on the CPU."""
    return functional.cross_entropy(model(inputs).double(), labels, reduction="none").cpu()


@torch.no_grad()
def _of_every_label(model: nn.Module, inputs: Tensor) -> Tensor:
    """(batch, channels, height, width) -> (batch * classes,)."""
    return -functional.log_softmax(model(inputs).double(), dim=1).flatten().cpu()


def gradient_norms(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The Euclidean norm of each sample's gradient of the cross-entropy by all parameters.

    Args:
        model: In eval mode, so that samples do not depend on each other.
        inputs: (batch, channels, height, width), float32 in [0, 1].
        labels: (batch,), int64.

    Returns:
        (batch,), float64, on the CPU.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, (parameters, buffers), (image.unsqueeze(0),))
        return functional.cross_entropy(logits, label.unsqueeze(0))

    def norm(image: Tensor, label: Tensor) -> Tensor:
        gradient = grad(loss)(parameters, image, label)
        return torch.stack([part.double().square().sum() for part in gradient.values()]).sum().sqrt()

    norms: Tensor = vmap(norm, chunk_size=GRADIENTS_AT_A_TIME)(inputs, labels)
    return norms.detach().cpu()


def differences(first: Profile, second: Profile) -> dict[str, float]:
    """What Definition 2 compares, of two networks under the same attack.

    Args:
        first: Of the network trained on S.
        second: Of the network trained on S', at the same test points.

    Returns:
        For either of `LOSSES`: `<loss>_max` and `<loss>_mean`, the largest and the mean difference over the test
        points; `<loss>_gap` and `<loss>_gap_replaced`, test minus training loss of either network, where there are
        training losses.
    """
    found: dict[str, float] = {}
    for name, of in LOSSES.items():
        apart = (of(first.test) - of(second.test)).abs()
        found |= {f"{name}_max": apart.max().item(), f"{name}_mean": apart.mean().item()}
        for suffix, own in (("gap", first), ("gap_replaced", second)):
            if len(own.train):
                found[f"{name}_{suffix}"] = (of(own.test).mean() - of(own.train).mean()).item()
    return found


def weight_distance(first: nn.Module, second: nn.Module) -> tuple[float, float]:
    """||theta - theta'|| over all parameters, and the same divided by ||theta||, theta those of `first`."""
    one, other = (
        torch.cat([parameter.detach().flatten().double() for parameter in model.parameters()])
        for model in (first, second)
    )
    distance = torch.linalg.vector_norm(one - other).item()
    return distance, distance / torch.linalg.vector_norm(one).item()


@dataclass(frozen=True)
class Bound:
    """What SGD's stability would be if the losses were convex, smooth, and as steep as the steepest that was seen.

    Networks are not convex: a yardstick, not a guarantee.
    """

    distance: float
    """The bound of the expected distance of the weights."""
    losses: dict[str, float]
    """The bound of the expected difference of the losses by attack, for either loss: the bounded one is no steeper."""


def stability_bound(experiment: Experiment, images: int, steepest: Mapping[str, float], epochs: int) -> Bound | None:
    """The argument of Hardt, Recht and Singer (2016, Theorem 3.8), carried through a method's own schedule.

    For one learner without a mixture: epsilon <= 2 L^2 / n * sum of alpha_t. There, a step of gradient descent on a
    convex, smooth loss takes no two weights further apart, and the one example that differs, which is in a minibatch
    with probability batch / n, adds at most 2 alpha_t L / batch. Of several learners, each with its own L, distances
    are mixed, averaged and handed back as the method does with weights: norms are convex. The step size alpha_t is the
    learning rate divided by 1 - momentum: so far does a gradient move the weights in all. Weight decay is left out; it
    brings weights closer.

    Args:
        experiment: The method and its schedules.
        images: n, training images.
        steepest: L by attack, as `worst_cases` names them: the largest norm of a gradient.
        epochs: After which the weights were taken.

    Returns:
        None where the argument does not hold at all: another optimizer than SGD, or a mixture that is not a fixed
        combination of its learners.
    """
    learners, mixture = experiment.method.learners, experiment.method.mixture
    by_gradients = all(isinstance(learner.optimizer, SGDSettings) for learner in learners.values())
    if not by_gradients or (mixture is not None and not _is_fixed(mixture)):
        return None
    lipschitz = {name: _steepest(learner, steepest) for name, learner in learners.items()}
    distance = _distance(experiment, images, lipschitz, epochs)
    return Bound(distance, {name: norm * distance for name, norm in steepest.items()})


def _is_fixed(mixture: MixtureSettings) -> bool:
    """Whether networks are combined in given ratios."""
    return isinstance(mixture, MovingAverageSettings) and {mixture.ratios, mixture.result}.isdisjoint(CHOSEN)


def _steepest(learner: LearnerSettings, steepest: Mapping[str, float]) -> float:
    """L of what a learner meets in training: its worst cases, or images as they are."""
    names = [f"pgd{STEPS}_{norm}" for norm in learner.objective.norms()]
    return max((steepest[name] for name in names if name in steepest), default=steepest[NATURAL])


def _distance(experiment: Experiment, images: int, lipschitz: Mapping[str, float], epochs: int) -> float:
    """How far the method's result may be from that of the other training: distances go through the code of weights."""
    backend, settings = Backend(torch.device("cpu"), bfloat16=False), experiment.method.mixture
    learners = [Learner(name, own, _Distance(), backend) for name, own in experiment.method.learners.items()]
    mixture = None if settings is None else settings.build(learners, experiment.training.epochs, ONE_PROCESS)
    for epoch in range(1, epochs + 1):
        steps = -(-images // experiment.sizes_in(epoch).batch)
        for step in range(1, steps + 1):
            for learner in learners:
                momentum = learner.optimizer.param_groups[0]["momentum"]
                alpha = learner.learning_rate(epoch, step / steps) / (1 - momentum)
                _move_apart(learner, 2 * alpha * lipschitz[learner.name] / images)
            if mixture is not None:
                mixture.after_step(epoch, step, steps)
        if mixture is not None:
            mixture.after_epoch(epoch, images=lambda: (), judge=lambda model: 0.0, steps=steps)
    result = mixture.model if mixture is not None else (learners[0].average or learners[0]).model
    return next(result.parameters()).item()


class _Distance(nn.Module):
    """A network with one weight: how far a learner's weights in one training may be from those in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1, dtype=torch.float64))


@torch.no_grad()
def _move_apart(learner: Learner, by: float) -> None:
    for distance in learner.model.parameters():
        distance.add_(by)
    if learner.average is not None:
        learner.average.update([(1.0, learner.model)])
