"""The habits of plain code do what they say, on the objectives of the engine, and leave the engine as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from benchmarks.loops import Loop, generalist, minibatch, suite
from benchmarks.reference_style import (
    CHANNELS_FIRST,
    CLONED_AVERAGES,
    HABITS,
    METER,
    TENSOR_BY_TENSOR,
    parameter_gradients_while_crafting,
)
from pipeline.attacks import pgd
from pipeline.attacks.pgd import PGD
from pipeline.config import ModeConnectivitySettings, Params
from pipeline.core.devices import Backend
from pipeline.models import build_model
from pipeline.objectives import part, trades
from pipeline.training import weights

SMALL = ("suite=cifar10", "architecture=small_cnn", "threat_model.linf.steps=2", "threat_model.l2.steps=2")
CPU = Backend(torch.device("cpu"), bfloat16=False)


@pytest.fixture(scope="module")
def params() -> Params:
    return suite(*SMALL)


@contextmanager
def gradients_of(parameter: nn.Parameter) -> Iterator[list[Tensor]]:
    """Every gradient that is computed for `parameter` inside the block."""
    found: list[Tensor] = []
    handle = parameter.register_hook(found.append)  # type: ignore[no-untyped-call]
    try:
        yield found
    finally:
        handle.remove()


def test_parameter_gradients_are_computed_while_crafting_and_the_attack_stays_the_same() -> None:
    torch.manual_seed(0)
    model = build_model("small_cnn", "cifar10").train()
    images, labels = minibatch("cifar10", 4, CPU.device)
    attack = PGD(norm="linf", epsilon=8 / 255, step_size=2 / 255, steps=3)
    weight = next(model.parameters())
    crafted, computed = [], []
    for style in (None, parameter_gradients_while_crafting):
        with gradients_of(weight) as found:
            if style is None:
                crafted.append(attack.perturb(model, images, labels, torch.Generator().manual_seed(1)))
            else:
                with style():
                    crafted.append(attack.perturb(model, images, labels, torch.Generator().manual_seed(1)))
        computed.append(len(found))
    assert computed == [0, attack.steps]
    assert torch.equal(*crafted)
    assert model.training and all(parameter.requires_grad for parameter in model.parameters())


def test_every_module_that_crafts_is_exchanged_and_restored() -> None:
    modules = (pgd, part, trades)
    before = [module.frozen for module in modules]
    own = torch.autograd.grad
    with parameter_gradients_while_crafting():
        assert all(module.frozen is not original for module, original in zip(modules, before, strict=True))
    assert [module.frozen for module in modules] == before
    assert torch.autograd.grad is own


@pytest.mark.parametrize("method", [str(name) for name in suite(*SMALL).methods])
def test_every_methods_step_ends_with_the_same_weights_in_either_style(params: Params, method: str) -> None:
    experiment = params.experiment(method, 1)
    images, labels = minibatch("cifar10", 8, CPU.device)
    start = flat(Loop.of(experiment, CPU))
    ended = []
    # The meter's forward pass moves BatchNorm's statistics once more, as in the authors' code.
    for habits in ((), [habit for habit in HABITS if habit != METER]):
        loop = Loop.of(experiment, CPU, habits)
        loop.step(images, labels)
        ended.append(flat(loop))
    moved, apart = ended[0] - start, ended[0] - ended[1]
    assert moved.norm() > 0.01
    assert apart.norm() / moved.norm() < 1e-3


def flat(loop: Loop) -> Tensor:
    """All weights of the learners and of their mixture."""
    networks = [learner.model for learner in loop.learners] + ([loop.mixture.model] if loop.mixture else [])
    return torch.cat([tensor.flatten() for network in networks for tensor in weights.weight_tensors(network)])


def test_habits_are_settings_of_learners() -> None:
    loop = generalist("small_cnn", "cifar10", {"natural": {"name": "natural"}}, CPU)
    plain = Loop(loop.learners, loop.mixture, CPU, [CHANNELS_FIRST, TENSOR_BY_TENSOR])
    weight = next(plain.learners[0].model.parameters())
    assert weight.is_contiguous() and not weight.is_contiguous(memory_format=torch.channels_last)
    assert [group["foreach"] for group in plain.learners[0].optimizer.param_groups] == [False]


def test_a_mixture_by_cloning_calls_none_of_the_fused_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    objectives = {"first": {"name": "natural"}, "second": {"name": "natural"}}
    loop = generalist("small_cnn", "cifar10", objectives, CPU)
    plain = Loop(loop.learners, loop.mixture, CPU, [CLONED_AVERAGES])
    own = weights.average_into
    monkeypatch.setattr(torch, "_foreach_add_", None)
    monkeypatch.setattr(torch, "_foreach_mul_", None)
    *_, (share, mix) = plain.parts(*minibatch("cifar10", 2, CPU.device))
    mix()
    assert share == 1.0 and weights.average_into is own
    with pytest.raises(TypeError):
        loop.parts(*minibatch("cifar10", 2, CPU.device))[-1][1]()


def test_a_learner_that_rests_counts_for_its_share_of_the_epochs(params: Params) -> None:
    loop = Loop.of(params.experiment("rmc", 1), CPU)
    shares = [share for share, _ in loop.parts(*minibatch("cifar10", 2, CPU.device))]
    settings, epochs = params.methods["rmc"].mixture, params.training.epochs
    assert isinstance(settings, ModeConnectivitySettings)
    until = settings.path_starts_after / epochs
    expected = {True: 1 - until, False: until}
    assert shares[:-1] == [pytest.approx(expected[name == settings.middle]) for name in params.methods["rmc"].learners]
