"""Operations are counted as torch counts them, and crafting needs no gradients of parameters."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.loops import Loop, generalist, minibatch
from benchmarks.peak import operations
from benchmarks.reference_style import PARAMETER_GRADIENTS
from pipeline.devices import Backend
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
