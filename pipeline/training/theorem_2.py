"""The geometric term of Generalist++, Theorem 2: sum_a gamma_a ||theta_a - theta_bar||^2, theta_bar the previous global
iterate, and what bounds it from below whatever theta_bar is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.core.ranks import ALONE, Ranks
from pipeline.training.weights import combine

PREVIOUS_ITERATE = "previous_iterate"
LAST_RESTART = "last_restart"
LEARNER_SPREAD = "learner_spread"

Shares = Sequence[tuple[float, list[Tensor]]]
"""The mixing ratio and the parameters of every learner that this process trains; ratios of all of them sum to 1."""


def squared_distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """||first - second||^2 over all tensors of both, a float64 scalar."""
    return torch.stack(torch._foreach_norm(torch._foreach_sub(first, second))).double().square().sum()


@torch.no_grad()
def geometric_terms(
    shares: Shares, averaged: list[Tensor], decay: float, restart: list[Tensor] | None, ranks: Ranks = ALONE
) -> dict[str, Tensor]:
    """The term with both readings of theta_bar, and the learners' spread, by name; float64 scalars.

    With m = sum_a gamma_a theta_a, for any theta_bar,

        sum_a gamma_a ||theta_a - theta_bar||^2 = sum_a gamma_a ||theta_a - m||^2 + ||m - theta_bar||^2,

    so the spread, the first of the two, is the least that the term can be. The previous iterate, theta_g^{t-1} of
    eq. (8), need not be kept: theta_g^t = decay theta_g^{t-1} + (1 - decay) m, so m - theta_g^t = decay (m -
    theta_g^{t-1}).

    Args:
        shares: As they entered the last update of the average.
        averaged: theta_g^t, right after it.
        decay: Of that update, in [0, 1); at 0 nothing is left of the previous iterate, and it has no term.
        restart: What the learners last restarted from, at first their initial weights; None: not known, no term.
        ranks: Of the processes that train the other learners.

    Returns:
        `previous_iterate`, `last_restart` and `learner_spread`.
    """
    mean = combine(list(shares), ranks)
    own = [ratio * squared_distance(weights, mean) for ratio, weights in shares]
    spread = ranks.total(torch.stack(own).sum())
    terms = {LEARNER_SPREAD: spread}
    if decay > 0:
        terms[PREVIOUS_ITERATE] = spread + squared_distance(mean, averaged) / decay**2
    if restart is not None:
        terms[LAST_RESTART] = spread + squared_distance(mean, restart)
    return terms
