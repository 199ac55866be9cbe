"""What all learners share in training: the section `training` of `params.yaml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictBool

from pipeline.config.streaming import Phases
from pipeline.core.values import Real, StrictModel, Whole, is_none


class SelectionSettings(StrictModel):
    """Which epoch's weights are the result."""

    split: Literal["held_out", "test", "last"]
    """`held_out`: the best epoch on held-out training images; `test`: on test images, as the authors' code does (item
    24; it leaks, and tables say so); `last`: the last epoch."""
    natural_floor: Real = Field(default=0.0, ge=0, le=1)
    """Epochs with a natural accuracy below this are not chosen (the authors' code: 0.88)."""


class TheorySettings(StrictModel):
    """What the papers' theorems speak of, measured while training; docs/theory.md."""

    interval: Whole = Field(default=10, ge=1)
    """Measure after every so many epochs, and after the last."""
    images: Whole = Field(default=128, ge=1)
    """On the first so many held-out images, or all where there are fewer."""


HOW_TO_TRAIN = {"device", "threads", "compile", "theory", "share_warm_ups", "branch_gigabytes"}
"""Settings of training that are not part of an experiment's identity."""


class TrainingSettings(StrictModel):
    """What all learners share."""

    epochs: Whole = Field(ge=1)
    batch_size: Whole = Field(ge=1)
    """Images of a minibatch, of all processes of a distributed training together."""
    phases: Phases = Field(default=[], exclude_if=lambda phases: not phases)
    """Epochs with images or batches of other sizes."""
    selection: SelectionSettings
    validation_interval: Whole = Field(default=1, ge=1)
    """Measure held-out accuracies after every so many epochs, and after the last."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Arithmetic of training steps; `auto` is bfloat16 where the hardware has it. Verdicts are always float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Not part of an experiment's identity."""
    threads: Whole | None = Field(default=None, ge=1)
    """CPU threads (null: as torch decides). Not part of an experiment's identity."""
    compile: StrictBool | Literal["auto"] = "auto"
    """Send networks through torch.compile: a minute at the start, then fewer and larger kernels. `auto`: for training
    in bfloat16 on a CPU, where so much is planned that it pays; true: for training and evaluation. Not part of an
    experiment's identity."""
    share_warm_ups: StrictBool = Field(default=True, exclude_if=lambda value: value)
    """Train learners that several methods have in common once, until their mixtures hand back. The result has the same
    bits. Not part of an experiment's identity."""
    branch_gigabytes: Real = Field(default=5.0, ge=0, exclude_if=lambda value: value == 5.0)
    """Disk that checkpoints may take from which the same method goes on with other settings: more epochs, another c,
    later t' or other final ratios. The ones used least recently are dropped first. Not part of an experiment's
    identity."""
    theory: TheorySettings | None = Field(default=None, exclude_if=is_none)
    """Measure regrets, task gradients and barriers of methods with a moving average (null: do not). Not part of an
    experiment's identity."""
