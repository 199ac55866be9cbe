"""Theorem 2's terms where they are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks.theorems import OWN_TASKS, STEEPNESS, Trained, curvature_between, inequalities, without_redistribution
from pipeline.config import MovingAverageSettings
from tests.conftest import MakeParams


class Powers(nn.Module):
    """f(x) = (3 a^2, b): second derivatives 6 and 0 whatever x is."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([a, b], dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        a, b = self.weights
        return torch.stack([3 * a**2, b]).expand(len(images), 2)


@pytest.mark.parametrize(
    ("end", "expected"), [((5.0, 2.0), 6.0), ((2.0, 9.0), 0.0), ((3.0, 3.0), 3.0), ((2.0, 2.0), 0.0)]
)
def test_the_remainder_gives_the_curvature_along_the_line(end: tuple[float, float], expected: float) -> None:
    start = [torch.tensor([2.0, 2.0], dtype=torch.float64)]
    assert curvature_between(Powers(*end), start, torch.zeros(3, 1)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("loss", STEEPNESS)
def test_no_gradient_by_the_logits_is_longer_than_l(loss: str) -> None:
    logits = (8 * torch.randn(2000, 5, generator=torch.Generator().manual_seed(0))).requires_grad_(True)
    own = nn.functional.cross_entropy(logits, torch.zeros(2000, dtype=torch.int64), reduction="none")
    values = own if loss == "cross_entropy" else 1 - (-own).exp()
    (gradient,) = torch.autograd.grad(values.sum(), logits)
    longest = gradient.norm(dim=1).max().item()
    assert 0.9 * STEEPNESS[loss] < longest <= STEEPNESS[loss]


def trained(natural: float, linf: float, mixed: float, term: float) -> Trained:
    """Cross-entropies of one test image: of both learners in both views, and of the global learner."""
    view = {"natural": natural, "linf": linf, "global": mixed}
    losses = {
        name: {key: torch.tensor([value], dtype=torch.float64) for key, value in view.items()}
        for name in ("natural", "pgd20_linf")
    }
    ratios = {"natural": 0.75, "linf": 0.25}
    return Trained(ratios, {"previous_iterate": term}, losses, 0.5, [])


@pytest.mark.parametrize(("mixed", "least", "holds"), [(0.1, 0.0, True), (0.9, 0.2, True), (9.0, 4.25, False)])
def test_both_sides(mixed: float, least: float, holds: bool) -> None:
    pair = trained(0, 0, 0, 1.0), trained(0.4, 0.8, mixed, 2.0)
    rows = {
        (row["loss"], row["view"]): row for row in inequalities([pair], {"natural": "natural", "linf": "pgd20_linf"})
    }
    row = rows["cross_entropy", "natural"]
    assert row["epsilon"] == pytest.approx({"natural": 0.4, "linf": 0.8, "global": mixed})
    assert row["epsilon_plus"] == pytest.approx(0.75 * 0.4 + 0.25 * 0.8)
    assert (row["geometric_term"], row["least_constant"]) == pytest.approx((2.0, least))
    assert row["constant"] == pytest.approx(2 * math.sqrt(2) * 0.5)
    assert row["right_side"] == pytest.approx(0.5 + 2 * math.sqrt(2))
    assert row["holds"] == holds
    assert rows["cross_entropy", OWN_TASKS]["epsilon"] == pytest.approx(row["epsilon"])
    assert rows["error_probability", "natural"]["epsilon"]["natural"] == pytest.approx(1 - math.exp(-0.4))


def test_without_redistribution_learners_restart_after_the_last_epoch_only(make_params: MakeParams) -> None:
    mixture = without_redistribution(make_params().experiment("generalist_t", 1)).method.mixture
    assert isinstance(mixture, MovingAverageSettings)
    assert [epoch for epoch in range(1, 5) if mixture.redistributes_in(epoch, 4)] == [4]
