"""Plain convex combinations of learners: tuned mixing ratios, and soups of the final learners."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from pipeline.training.learner import Learner
from pipeline.training.mesh import Mesh
from pipeline.training.weights import combine, recompute_batch_norm, weight_tensors

Ratios = dict[str, float]
"""By learner: a point on the simplex of any dimension."""
Judge = Callable[[nn.Module], float]
"""The score of a network on held-out images: higher is better."""
STRIDES = (0.5, 0.25)
"""How far the neighbours of mixing ratios lie towards each learner."""


class Combinations:
    """Convex combinations of the learners' weights, one at a time in one network of their architecture.

    Args:
        learners: All of them, with the same architecture.
        mesh: Which of them this process trains.
        batches: Training images for BatchNorm's statistics; None: these are combined like weights.
    """

    def __init__(
        self, learners: Sequence[Learner], mesh: Mesh, batches: Callable[[], Iterable[Tensor]] | None = None
    ) -> None:
        self._learners = learners
        self._mesh = mesh
        self._batches = batches
        self._model = deepcopy(learners[0].model).eval()

    def at(self, ratios: Mapping[str, float]) -> nn.Module:
        """The combination with these ratios, in eval mode; the next call overwrites it."""
        trained = [learner for learner in self._learners if self._mesh.trains(learner.name)]
        sources = [(ratios[learner.name], weight_tensors(learner.model)) for learner in trained]
        torch._foreach_copy_(weight_tensors(self._model), combine(sources, self._mesh.across))
        if self._batches is not None:
            recompute_batch_norm(self._model, self._batches())
        return self._model.eval()


def neighbours(ratios: Ratios) -> Iterator[Ratios]:
    """The ratios as they are, then moved by each stride towards every vertex of the simplex."""
    yield ratios
    for stride in STRIDES:
        for goal in ratios:
            yield {name: (1 - stride) * ratio + stride * (name == goal) for name, ratio in ratios.items()}


def tuned(ratios: Ratios, combinations: Combinations, judge: Judge) -> Ratios:
    """The best of the neighbours of `ratios`; ties go to the earlier one, so that nothing moves without a reason."""
    return max(neighbours(ratios), key=lambda candidate: judge(combinations.at(candidate)))


def uniform(names: Sequence[str], members: Sequence[str]) -> Ratios:
    """Equal ratios for `members`, 0 for the others of `names`."""
    return {name: float(name in members) / len(members) for name in names}


def greedy_soup(names: Sequence[str], combinations: Combinations, judge: Judge) -> Ratios:
    """The greedy soup (Wortsman et al., 2022, Recipe 1): learners join, the best first, while the score does not fall.

    Returns:
        Equal ratios for those that joined, 0 for the others.
    """
    scores = {name: judge(combinations.at(uniform(names, [name]))) for name in names}
    first, *others = sorted(names, key=lambda name: -scores[name])
    members, best = [first], scores[first]
    for name in others:
        score = judge(combinations.at(uniform(names, [*members, name])))
        if score >= best:
            members, best = [*members, name], score
    return uniform(names, members)
