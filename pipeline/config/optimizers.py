"""How a learner's weights follow its gradients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from pipeline.core.values import Positive, Real, StrictModel


class SGDSettings(StrictModel):
    """`torch.optim.SGD`."""

    name: Literal["sgd"]
    learning_rate: Positive
    momentum: Real = Field(default=0.9, ge=0, lt=1)
    nesterov: StrictBool = False
    weight_decay: Real = Field(default=0.0, ge=0)
    decay_batch_norm: StrictBool = Field(default=True, exclude_if=bool)
    """Whether weight decay reaches BatchNorm's scales and shifts, too."""


class AdamSettings(StrictModel):
    """`torch.optim.Adam`."""

    name: Literal["adam"]
    learning_rate: Positive
    betas: tuple[Annotated[Real, Field(ge=0, lt=1)], Annotated[Real, Field(ge=0, lt=1)]] = (0.9, 0.999)
    weight_decay: Real = Field(default=0.0, ge=0)


OptimizerSettings = Annotated[SGDSettings | AdamSettings, Field(discriminator="name")]
