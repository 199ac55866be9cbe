"""Operations are counted as torch counts them, and crafting needs no gradients of parameters."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.limits import operations, products
from benchmarks.loops import Loop, generalist, minibatch, suite
from benchmarks.reference_style import HABITS, PARAMETER_GRADIENTS
from benchmarks.steps import METHOD, PlainLoop
from pipeline.core.devices import Backend
from pipeline.models import build_model

CPU = Backend(torch.device("cpu"), bfloat16=False)


def test_a_pass_forward_and_back_counts_as_with_torchs_counter() -> None:
    model = build_model("small_cnn", "cifar10")
    images, labels = minibatch("cifar10", 2, CPU.device)

    def work() -> None:
        torch.autograd.backward(nn.functional.cross_entropy(model(images), labels))

    with FlopCounterMode(display=False) as counter:
        work()
    assert operations(work) == counter.get_total_flops() > 0


def test_crafting_leaves_out_a_third_of_what_it_costs_with_parameter_gradients() -> None:
    images, labels = minibatch("cifar10", 2, CPU.device)
    loop = generalist("small_cnn", "cifar10", {"linf": {"name": "adversarial", "norm": "linf"}}, CPU)
    (_, step), _ = loop.parts(images, labels)
    (_, wasteful), _ = Loop(loop.learners, loop.mixture, CPU, [PARAMETER_GRADIENTS]).parts(images, labels)
    counted, counted_wasteful = operations(step), operations(wasteful)
    update = operations(
        lambda: generalist("small_cnn", "cifar10", {"n": {"name": "natural"}}, CPU).step(images, labels)
    )
    assert 0.6 < (counted - update) / (counted_wasteful - update) < 0.75


def test_the_reference_style_does_the_work_of_the_loop_written_by_hand() -> None:
    experiment = suite("suite=cifar10", "competitors=none", "architecture=small_cnn").experiment(METHOD, 1)
    images, labels = minibatch("cifar10", 2, CPU.device)
    reference, plain = Loop.of(experiment, CPU, HABITS), PlainLoop("small_cnn", CPU.device)
    counted = operations(partial(reference.step, images, labels))
    assert counted == operations(partial(plain.step, images, labels))
    assert counted > 1.4 * operations(partial(Loop.of(experiment, CPU).step, images, labels))


def test_products_of_matrices_are_counted_as_such() -> None:
    counted = {name: operations(product) for name, product in products([128], torch.float32, CPU.device).items()}
    assert counted == {"product 128": 2 * 128**3, "convolution 32": 2 * 16 * 32 * 32 * 32**2}
