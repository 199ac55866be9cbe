"""E-AT: one extreme norm per batch, the less robust one more often."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from pipeline.attacks.apgd import APGD
from pipeline.core.streams import on_host
from pipeline.objectives.base import Losses, Moment, Objective


def norm_probabilities(counts: dict[str, list[float]], norms: list[str]) -> list[float]:
    """Probability of each norm, proportional to 1 - its robust accuracy in training so far.

    Args:
        counts: norm -> (correct, seen) since the start of training.
        norms: All norms; equally likely until each was used.
    """
    if any(norm not in counts for norm in norms):
        return [1 / len(norms)] * len(norms)
    errors = [1 - counts[norm][0] / counts[norm][1] for norm in norms]
    total = sum(errors)
    return [error / total for error in errors] if total > 0 else [1 / len(norms)] * len(norms)


class ExtremeNorms(Objective):
    """min CE(f(x'_p), y), one norm p per batch, x'_p by APGD (Croce and Hein, 2022).

    Norms are drawn in proportion to 1 - r_p, r_p the share of samples that were correct at every point of the attack,
    over the whole training. In the source's training from scratch BatchNorm and biases keep a learning rate of 1.0, a
    defect of its schedule that is not repeated.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["eat"]
    attacks: list[APGD] = Field(min_length=1)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        counts: dict[str, list[float]] = moment.state.setdefault("counts", {})
        probabilities = norm_probabilities(counts, [attack.norm for attack in self.attacks])
        drawn = torch.rand((), generator=on_host(moment.generator)).item()
        edges = torch.tensor(probabilities).cumsum(0).tolist()
        attack = self.attacks[min(sum(drawn >= edge for edge in edges), len(self.attacks) - 1)]
        climb = attack.climb(model, images, labels)
        correct, seen = counts.get(attack.norm, [0.0, 0.0])
        part = moment.part(labels)
        counts[attack.norm] = [correct + float(part.ranks.total(climb.correct.sum())), seen + part.total]
        logits = model(climb.best).float()
        return Losses(moment.cross_entropy(logits, labels), logits.detach())


OBJECTIVE = ExtremeNorms
