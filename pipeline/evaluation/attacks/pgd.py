"""Projected gradient descent (Madry et al., 2018)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pipeline.evaluation.attacks.base import SteppedAttack


class PGDAttack(SteppedAttack):
    """PGD with a fixed number of steps and a random start, the last iterate counts."""

    label: ClassVar[str] = "PGD"
    name: Literal["pgd"]


ATTACK = PGDAttack
