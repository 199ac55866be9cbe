"""A short training of every method gives the golden numbers, whatever the order of arithmetic, and no wrong formula
does.

Measured in parts of what a tensor moved, the greatest of all cases. In float32, torch's plain kernels in place of those
for AVX-512, and another memory layout, change up to 0.26 (TRADES: signs of gradients near zero), as much as wrong
formulas do. So the golden numbers are of float64: there the same change is 1e-12, a second thread 2e-13 (both with two
attack steps), weights that begin some units in the last place elsewhere 7e-12. The six digits that are kept leave 9e-6.
The tolerance of 5e-5 is five times that; the least wrong formula of `PLANTS`, twice RMC's weight decay, deviates by
1.5e-3, thirty times the tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.devices import Backend
from pipeline.data.images import ImageSplit
from pipeline.objectives import OBJECTIVES
from tests.training.golden import TOLERANCE, cases, deviation, measure, read
from tests.training.plants import PLANTS, Plant, planted

EXPECTED = read()
RENEW = "If numbers are meant to change, write them anew with "
RENEW += "`python -m tests.training.golden`"
WIDE = 10
"""How many times the tolerance a wrong formula must deviate."""
REORDERED = [
    "digits/nt", "digits/generalist_t", "digits/trades_6", "digits/score", "digits/eat", "digits/at_max_source",
    "digits/ramp", "digits/rmc", "beyond/generalist_5", "reference_code/generalist_d_nt_linf",
]  # fmt: skip
"""Every kind of attack and mixture; where the noise is greatest is among them."""


def test_every_method_has_golden_numbers() -> None:
    assert list(EXPECTED) == list(cases()), RENEW


@pytest.mark.parametrize("case", EXPECTED)
def test_a_method_trains_to_its_golden_numbers(tiny_split: ImageSplit, tmp_path: Path, case: str) -> None:
    found = deviation(measure(cases()[case], tiny_split, tmp_path), EXPECTED[case])
    assert found <= TOLERANCE, f"{case}: {found:.1g} of what a tensor moved. {RENEW}"


@contextmanager
def rounded_otherwise(size: float = 1e-15, seed: int = 0) -> Iterator[None]:
    """Let networks begin a few units in the last place of float64 beside their weights, so that all is rounded
    otherwise.

    Layers' outputs are not disturbed one by one: pixels of the same surroundings would no longer have the same
    gradient, and the steepest l1 step, which moves all pixels that tie, would move others.
    """
    place = Backend.place

    def beside(backend: Backend, model: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.mul_(1 + size * noise)
        return place(backend, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Backend, "place", beside)
        yield


@pytest.mark.parametrize("case", REORDERED)
def test_the_order_of_arithmetic_is_no_deviation(tiny_split: ImageSplit, tmp_path: Path, case: str) -> None:
    with rounded_otherwise():
        assert deviation(measure(cases()[case], tiny_split, tmp_path), EXPECTED[case]) <= TOLERANCE


@pytest.mark.parametrize("plant", PLANTS, ids=str)
def test_a_wrong_formula_is_caught(tiny_split: ImageSplit, tmp_path: Path, plant: Plant) -> None:
    with planted(plant):
        found = deviation(measure(cases()[plant.case], tiny_split, tmp_path), EXPECTED[plant.case])
    assert found > WIDE * TOLERANCE


def test_every_objective_has_a_wrong_formula() -> None:
    assert {f"objectives.{name}" for name in OBJECTIVES.names()} <= {plant.module for plant in PLANTS}


def test_a_plant_is_gone_afterwards_and_must_fit() -> None:
    plant = Plant("objectives.natural", "labels), logits", "labels) * 1.1, logits", "digits/nt")
    code = _natural()
    with planted(plant):
        assert _natural() != code
    assert _natural() is code
    for old in ("no such text", "logits"):
        with pytest.raises(ValueError, match="expected once"), planted(Plant(plant.module, old, "", "")):
            pass


def _natural() -> Any:
    from pipeline.objectives.natural import Natural

    return Natural.__call__.__code__
