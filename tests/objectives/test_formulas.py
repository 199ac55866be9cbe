"""The numeric properties that methods.md lists for each objective."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.attacks.apgd import APGD
from pipeline.attacks.friendly import FriendlyPGD
from pipeline.attacks.geometry import norms
from pipeline.attacks.pgd import PGD
from pipeline.core.errors import RequestError
from pipeline.core.ranks import Ranks
from pipeline.core.streams import stream
from pipeline.models import build_model
from pipeline.models.bezier import BezierPath
from pipeline.objectives import Losses, Moment, resolve_objective
from pipeline.objectives.agr import reconstruct
from pipeline.objectives.eat import norm_probabilities
from pipeline.objectives.iat import beta_sample, mixup_loss
from pipeline.objectives.mart import boosted_cross_entropy
from pipeline.objectives.maximum import strongest
from pipeline.objectives.msd import movable_signs, multi_steepest
from pipeline.objectives.part import class_activation, jet, radii
from pipeline.objectives.rst import weighted_mean
from pipeline.objectives.score import squared_distance
from pipeline.objectives.trades import divergence

BUDGETS: dict[str, Any] = {
    "linf": {"epsilon": 0.1, "step_size": 0.025, "steps": 3},
    "l2": {"epsilon": 0.4, "step_size": 0.1, "steps": 3},
    "l1": {"epsilon": 1.0, "step_size": 0.3, "steps": 3},
}
NO_BUDGET = {norm: {**budget, "epsilon": 0.0} for norm, budget in BUDGETS.items()}
LABELS = torch.arange(16) % 10


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_model("small_cnn", "digits").train()


def images(seed: int = 1) -> Tensor:
    return torch.rand(16, 1, 8, 8, generator=generator(seed))


def losses(options: dict[str, Any], budgets: dict[str, Any] = BUDGETS, epoch: int = 100, model: Any = None) -> Losses:
    objective = resolve_objective(options, budgets)
    return objective(model or network(), images(), LABELS, Moment(epoch, 120, generator()))


def gradients(options: dict[str, Any], budgets: dict[str, Any] = BUDGETS, epoch: int = 100) -> list[Tensor]:
    model = network()
    result = losses(options, budgets, epoch, model)
    if result.gradients is not None:
        return [gradient for gradient in result.gradients if gradient is not None]
    return list(torch.autograd.grad(result.loss, list(model.parameters())))


def assert_equal(first: list[Tensor], second: list[Tensor], tolerance: float = 1e-6) -> None:
    for ours, theirs in zip(first, second, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=1e-4)


NATURAL, AT = {"name": "natural"}, {"name": "adversarial", "norm": "linf"}


@pytest.mark.parametrize(
    "options",
    [
        {"name": "half_half", "norm": "linf"},
        {"name": "fat", "norm": "linf", "attack": {"noise": 0}},
        {"name": "rst", "norm": "linf"},
        {"name": "average", "norms": ["linf"]},
        {"name": "maximum", "norms": ["linf", "l2"]},
        {"name": "msd", "norms": ["linf", "l2"]},
        {"name": "eat", "norms": ["linf", "l1"]},
        {"name": "fast", "norm": "linf"},
        {"name": "part", "norm": "linf"},
        {"name": "agr", "norm": "linf", "starts_after": 1.0},
        {"name": "trades", "norm": "linf", "beta": 0},
    ],
)
def test_without_a_budget_it_is_natural_training(options: dict[str, Any]) -> None:
    assert_equal(gradients(options, NO_BUDGET), gradients(NATURAL))


def test_half_half_is_affine_in_beta() -> None:
    ends = [gradients({"name": "half_half", "norm": "linf", "beta": beta}) for beta in (0, 1)]
    middle = gradients({"name": "half_half", "norm": "linf", "beta": 0.5})
    assert_equal(middle, [(first + second) / 2 for first, second in zip(*ends, strict=True)])
    assert_equal(ends[0], gradients(NATURAL))
    assert_equal(ends[1], gradients(AT))


def test_trades_divergence() -> None:
    clean, adversarial = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()
    assert divergence(clean, adversarial).item() == pytest.approx(0.36806, abs=1e-5)
    same = torch.randn(4, 10, generator=generator())
    assert divergence(same, same).abs().max() <= 1e-6
    assert losses({"name": "trades", "norm": "linf", "beta": 6}).loss > losses(NATURAL).loss
    assert_equal(gradients({"name": "trades", "norm": "linf", "beta": 0}), gradients(NATURAL))


def test_friendly_steps_stop_early() -> None:
    attack = FriendlyPGD(norm="linf", **BUDGETS["linf"], noise=0)
    plain = PGD(norm="linf", **BUDGETS["linf"])
    model = network().eval()
    patient, count = attack.perturb_friendly(model, images(), LABELS, generator(), patience=3)
    assert torch.equal(patient, plain.perturb(model, images(), LABELS, generator()))
    assert count == 3 * 16
    with torch.no_grad():
        predicted = model(attack.starting_points(images(), generator())).argmax(1)
    wrong = (predicted + 1) % 10
    still, count = attack.perturb_friendly(model, images(), wrong, generator(), patience=0)
    assert count == 0 and torch.equal(still, attack.starting_points(images(), generator()))
    counts = [attack.perturb_friendly(model, images(), LABELS, generator(), patience)[1] for patience in range(4)]
    assert counts == sorted(counts)


def test_mixup() -> None:
    model, order = network().eval(), torch.randperm(16, generator=generator())
    whole, _ = mixup_loss(model, images(), LABELS, 1.0, order)
    torch.testing.assert_close(whole, nn.functional.cross_entropy(model(images()), LABELS))
    inverse = torch.argsort(order)
    first, _ = mixup_loss(model, images(), LABELS, 0.3, order)
    second, _ = mixup_loss(model, images(), LABELS, 0.7, inverse)
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_beta_samples_have_the_moments_of_the_beta_distribution(alpha: float) -> None:
    noise = generator()
    drawn = torch.tensor([beta_sample(alpha, noise) for _ in range(4000)])
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_self_training_weights() -> None:
    labelled, extra = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 7.0])
    assert weighted_mean(labelled, extra, 0.5, (2, 2)).item() == 4.0
    assert weighted_mean(labelled, extra, 0.0, (2, 2)).item() == 2.0
    assert weighted_mean(labelled, extra[:0], 0.9, (2, 0)).item() == pytest.approx(2.0)


def test_self_training_names_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="expected safetensors with 'images' and 'labels'"):
        losses({"name": "rst", "norm": "linf", "extra_images": str(tmp_path / "extra.safetensors")})


@pytest.mark.parametrize("ranks", [1, 3])
def test_self_training_replaces_half_of_a_minibatch_by_augmented_extra_images(tmp_path: Path, ranks: int) -> None:
    """Of three processes, with 5, 5 and 6 images, all replace the images that one would."""
    path = tmp_path / "extra.safetensors"
    pool = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=generator())
    save_file({"images": pool, "labels": torch.full((20,), 9)}, path)
    options = {"name": "rst", "norm": "linf", "extra_images": str(path)}
    objective = resolve_objective(options, NO_BUDGET)
    seen, compared = [], []
    for rank in range(ranks):
        part = Ranks(rank, ranks).part(16)
        noise = generator() if ranks == 1 else stream(0, "a", part=part)
        own = slice(part.first, part.last)
        model = network()
        model.register_forward_pre_hook(
            lambda module, arguments: seen.append(arguments[0]) if module.training else None
        )
        moment = Moment(1, 1, noise, augment=lambda images, _: images.flip(3))
        labels = objective(model, images()[own], LABELS[own], moment).labels
        assert labels is not None
        compared.append(labels)
    extra = {image.numpy().tobytes() for image in pool.flip(3).float().div(255)}
    replaced = torch.cat(seen[1::2])  # each second forward pass is of clean images
    assert [image.numpy().tobytes() in extra for image in replaced] == [False, True] * 8
    assert torch.equal(replaced[::2], images()[::2])
    assert torch.equal(torch.cat(compared), torch.where(torch.arange(16) % 2 == 1, 9, LABELS))


def test_score_distances() -> None:
    uniform, target = torch.full((1, 10), 0.1), nn.functional.one_hot(torch.tensor([3]), 10).float()
    assert squared_distance(uniform, target).item() == pytest.approx(0.90)
    brier = losses({"name": "score", "norm": "linf", "beta": 0, "clip": 0})
    with torch.no_grad():
        probabilities = network()(images()).softmax(1)
    expected = squared_distance(probabilities, nn.functional.one_hot(LABELS, 10).float()).mean()
    torch.testing.assert_close(brier.loss.detach(), expected)
    model = network()
    clipped = losses({"name": "score", "norm": "linf", "beta": 0, "clip": 2}, model=model)
    assert clipped.loss.item() == 0
    assert all((each == 0).all() for each in torch.autograd.grad(clipped.loss, list(model.parameters())))


@pytest.mark.parametrize(
    ("adversarial", "clean", "expected"),
    [
        ((1.0, 0.0), (0.6, 0.8), (0.76, 0.48)),
        ((1.0, 0.0), (-(0.5**0.5), 0.5**0.5), (0.5, 0.5)),
        ((0.3, 0.4), (0.3, 0.4), (0.3, 0.4)),
        ((0.3, 0.4), (-0.3, -0.4), (0.0, 0.0)),
        ((1.0, 0.0), (0.0, 0.0), (1.0, 0.0)),
    ],
)
def test_reconstructed_gradients(
    adversarial: tuple[float, float], clean: tuple[float, float], expected: tuple[float, float]
) -> None:
    found = reconstruct(torch.tensor(adversarial), torch.tensor(clean), longest=10)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=0)


def test_reconstruction_starts_late_and_is_short() -> None:
    options = {"name": "agr", "norm": "linf", "starts_after": 0.5}
    assert_equal(gradients(options, epoch=60), gradients(AT))
    assert all(each.norm() <= 0.1 + 1e-6 for each in gradients(options, epoch=61))


def test_pixel_weights() -> None:
    model = network().eval()
    activation = class_activation(model, images())
    assert activation.shape == (16, 8, 8) and activation.min() >= 0 and activation.max() <= 1
    radius = radii(model, images(), 0.1, 0.02)
    assert sorted(set(radius.flatten().tolist())) == pytest.approx([0.02, 0.1])
    attack = PGD(norm="linf", **BUDGETS["linf"])
    perturbed = attack.perturb(model, images(), LABELS, generator(), radius=radius)
    assert ((perturbed - images()).abs() <= radius + 1e-6).all()
    frozen = attack.perturb(model, images(), LABELS, generator(), radius=torch.where(radius > 0.05, radius, 0.0))
    assert (frozen == images())[radius < 0.05].all()
    everywhere = {"name": "part", "norm": "linf", "low_factor": 1.0, "warmup": 0}
    assert_equal(gradients(everywhere), gradients(AT))


def test_class_activation_is_per_sample() -> None:
    model = network().eval()
    whole = class_activation(model, images())
    alone = torch.cat([class_activation(model, images()[index : index + 1]) for index in range(16)])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-4)


def test_jet_goes_from_blue_over_green_to_red() -> None:
    colours = jet(torch.tensor([[[0.0, 0.5, 1.0]]]))[0, :, 0].T.tolist()
    assert colours == [[0.0, 0.0, 0.5], [0.5, 1.0, 0.5], [0.5, 0.0, 0.0]]


def test_averages_and_maxima() -> None:
    single = {"name": "average", "norms": ["linf"]}
    assert_equal(gradients(single), gradients(AT))
    twice = resolve_objective({"name": "average", "norms": ["linf", "linf"]}, NO_BUDGET)
    model = network()
    result = twice(model, images(), LABELS, Moment(1, 2, generator()))
    assert_equal(list(torch.autograd.grad(result.loss, list(model.parameters()))), gradients(NATURAL), 1e-5)


def test_the_maximum_is_at_least_every_single_norm_and_in_the_union_of_the_balls() -> None:
    model = network().eval()
    attacks = [APGD(norm="linf", epsilon=0.1, steps=5), APGD(norm="l2", epsilon=0.4, steps=5)]
    chosen = strongest(attacks, model, images(), LABELS)
    reached = nn.functional.cross_entropy(model(chosen), LABELS, reduction="none")
    for attack in attacks:
        assert (reached >= attack.climb(model, images(), LABELS).best_loss - 1e-5).all()
    inside = [norms(attack.norm, chosen - images()) <= attack.epsilon + 1e-4 for attack in attacks]
    assert (inside[0] | inside[1]).all()


def test_multi_steepest_with_one_norm_is_best_iterate_pgd_from_zero() -> None:
    model = network().eval()
    attack = PGD(norm="linf", start="zero", **BUDGETS["linf"])
    found = multi_steepest([attack], model, images(), LABELS, generator())
    iterates = [
        PGD(norm="linf", start="zero", **{**BUDGETS["linf"], "steps": steps}).perturb(
            model, images(), LABELS, generator()
        )
        for steps in (1, 2, 3)
    ]
    values = torch.stack([nn.functional.cross_entropy(model(each), LABELS, reduction="none") for each in iterates])
    best = values.argmax(0)
    expected = torch.stack([iterates[int(step)][index] for index, step in enumerate(best)])
    torch.testing.assert_close(found, expected)


def test_an_l1_step_moves_what_can_move() -> None:
    gradient = torch.tensor([5.0, -4, 3, 2, -1, 0.5]).view(1, 1, 1, 6)
    grey = torch.full((1, 1, 1, 6), 0.5)
    moved = movable_signs(gradient, grey, 1.0, 4)
    assert moved.flatten().tolist() == [0.25, -0.25, 0.25, 0.25, 0, 0]
    # Within a quarter of the edge that they are pushed to, on an edge, and free to leave one that is near.
    points = torch.tensor([0.8, 0.2, 0.0, 0.8, 0.9, 0.1]).view(1, 1, 1, 6)
    assert movable_signs(gradient, points, 1.0, 4).flatten().tolist() == [0, 0, 0, 0, -0.25, 0.25]


def test_an_l1_climb_moves_5_to_20_coordinates_a_step() -> None:
    attack = PGD(norm="l1", epsilon=12, step_size=1, steps=1)
    moved = []
    for seed in range(100):
        found = multi_steepest([attack], network().eval(), images(), LABELS, generator(seed))
        counts = (found != images()).flatten(1).sum(1)
        assert counts.min() == counts.max()
        moved.append(int(counts[0]))
    assert min(moved) == 5 and max(moved) == 20


def test_extreme_norms_are_drawn_by_their_errors() -> None:
    assert norm_probabilities({}, ["linf", "l1"]) == [0.5, 0.5]
    assert norm_probabilities({"linf": [4, 10]}, ["linf", "l1"]) == [0.5, 0.5]
    assert norm_probabilities({"linf": [4, 10], "l1": [6, 10]}, ["linf", "l1"]) == pytest.approx([0.6, 0.4])
    assert norm_probabilities({"linf": [1, 1], "l1": [1, 1]}, ["linf", "l1"]) == [0.5, 0.5]


def test_extreme_norms_remember_what_they_met() -> None:
    objective = resolve_objective({"name": "eat", "norms": ["linf", "l1"]}, BUDGETS)
    state: dict[str, Any] = {}
    for step in range(8):
        objective(network(), images(), LABELS, Moment(1, 2, generator(step), state))
    seen = {norm: counts[1] for norm, counts in state["counts"].items()}
    assert set(seen) == {"linf", "l1"} and sum(seen.values()) == 8 * 16


def test_mart_on_uniform_logits() -> None:
    uniform = torch.zeros(4, 10)
    assert boosted_cross_entropy(uniform, torch.arange(4)).mean().item() == pytest.approx(2.407834, abs=1e-5)
    with_pairing, without = ({"name": "mart", "norm": "linf", "beta": beta} for beta in (5, 0))
    torch.testing.assert_close(losses(with_pairing, NO_BUDGET).loss, losses(without, NO_BUDGET).loss, atol=1e-5, rtol=0)
    assert losses(with_pairing).loss > losses(without).loss


def test_a_fast_step_saturates_as_often_as_its_formula_says() -> None:
    """P(|d| = epsilon) = 0.625 before the box: the start is beyond -0.25 epsilon along the sign of the gradient."""
    linear = nn.Sequential(nn.Flatten(), nn.Linear(400, 10))
    grey = torch.full((64, 1, 20, 20), 0.5)
    attack = PGD(norm="linf", epsilon=0.1, step_size=0.125, steps=1)
    perturbed = attack.perturb(linear, grey, torch.zeros(64, dtype=torch.long), generator())
    share = ((perturbed - grey).abs() > 0.1 - 1e-6).float().mean().item()
    assert share == pytest.approx(0.625, abs=0.02)
    single = {"name": "fast", "norm": "linf"}
    assert math.isfinite(losses(single).loss.item())


def test_ramp_without_pairing_is_the_maximum_and_pairs_what_the_source_norm_gets_right() -> None:
    norms_both = {"norms": ["linf", "l2"]}
    maximum = losses({"name": "maximum", **norms_both})
    assert losses({"name": "ramp", "pairing": 0, **norms_both}).loss.item() == pytest.approx(maximum.loss.item())
    one, five = (losses({"name": "ramp", "pairing": pairing, **norms_both}).loss.item() for pairing in (1, 5))
    assert five - maximum.loss.item() == pytest.approx(5 * (one - maximum.loss.item()), rel=1e-4)
    twice_the_same = losses({"name": "ramp", "pairing": 5, "norms": ["linf", "linf"]})
    assert twice_the_same.loss.item() == pytest.approx(losses({"name": "maximum", "norms": ["linf"]}).loss.item())


def test_ramp_pairs_nothing_where_nothing_is_right() -> None:
    def loss(pairing: float) -> float:
        model = network()
        with torch.no_grad():
            model.get_parameter("linear.bias")[0] += 1000.0  # every image is taken for a 0
        objective = resolve_objective({"name": "ramp", "norms": ["linf", "l2"], "pairing": pairing}, BUDGETS)
        wrong = torch.ones(16, dtype=torch.long)
        return objective(model, images(), wrong, Moment(1, 1, generator())).loss.item()

    assert math.isfinite(loss(5)) and loss(5) == loss(0)


def test_rmc_penalises_the_point_of_the_path() -> None:
    options: dict[str, Any] = {"name": "rmc", "norms": ["linf", "l2"]}
    msd = losses({"name": "msd", "norms": ["linf", "l2"]}).loss.item()
    squares = sum(parameter.square().sum().item() for parameter in network().parameters())
    assert losses({**options, "weight_decay": 0}).loss.item() == pytest.approx(msd)
    assert losses({**options, "weight_decay": 0.1}).loss.item() == pytest.approx(msd + 0.05 * squares, rel=1e-5)
    path = BezierPath(network(), network(), network()).train()
    moved = losses({**options, "weight_decay": 0}, model=path).loss.item()
    assert 0 < path.position < 1 and path.position != 0.5
    assert moved == pytest.approx(msd, rel=1e-4)
