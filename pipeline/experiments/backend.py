"""Choose where and how an experiment is trained: compiled where what that takes at the start is less than it saves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from pipeline.config import Experiment
from pipeline.core.devices import Backend, choose_backend
from pipeline.models.own import is_path

WORTH = 1e14
"""Planned floating-point operations for each CPU thread from which compiling pays (docs/performance.md)."""
UPDATE, CRAFTING = 3, 2
"""Forward passes that an update of the weights and a step of an attack are worth: gradients of both weights and images
cost two, those of images alone one."""
_MOST = 1e7
"""Operations of an image's forward pass with which nothing is counted where even they would be too few: counting
imports parts of torch that take a second."""


def training_backend(experiment: Experiment, images: int, say: Callable[[str], None] = print) -> Backend:
    """The device and arithmetic of a training on so many images, and whether its networks are compiled.

    Under `training.compile: auto` they are where a CPU trains in bfloat16 and at least `WORTH` is planned; a line tells
    the decision where the work is not tiny. In float32 compiled steps took no less time than others, and what compiling
    gains on a GPU has not been measured.

    Raises:
        RequestError: CUDA is asked for and there is none.
    """
    settings = experiment.training
    choose = partial(choose_backend, settings.device, settings.precision, settings.threads)
    if settings.compile != "auto":
        return choose(settings.compile)
    plain, least = choose(), WORTH * (settings.threads or torch.get_num_threads())
    passes = passes_of_training(experiment, images)
    if plain.device.type != "cpu" or not plain.bfloat16 or passes * _MOST < least:
        return plain
    work = passes * forward_operations(experiment)
    say(
        f"{experiment.identifier}: networks are {'compiled' if work >= least else 'not compiled'}: {work:.1e} "
        f"floating-point operations are planned, and it pays from {least:.0e} on (training.compile: true or false "
        "overrules)"
    )
    return choose(compiled=True) if work >= least else plain


def passes_of_training(experiment: Experiment, images: int) -> int:
    """Forward passes of one image that training takes, backward ones counted as such."""
    each = [
        UPDATE + sum(experiment.threat_model[norm].steps * CRAFTING for norm in learner.objective.norms())
        for learner in experiment.method.learners.values()
    ]
    return images * experiment.training.epochs * sum(each)


def forward_operations(experiment: Experiment) -> int:
    """Floating-point operations of one image's forward pass: two for each multiplication and addition."""
    from torch.utils.flop_counter import FlopCounterMode

    # Code from elsewhere may read values, and tensors on the device 'meta' have none.
    where = torch.device("cpu" if is_path(experiment.architecture) else "meta")
    with where, torch.random.fork_rng(devices=[]), FlopCounterMode(display=False) as counter, torch.no_grad():
        experiment.build_model().eval()(torch.empty(1, *experiment.data.facts.shape))
    return int(counter.get_total_flops())
