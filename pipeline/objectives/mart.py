"""MART: misclassification-aware adversarial training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from pipeline.attacks.pgd import PGD
from pipeline.objectives.base import Losses, Moment, Objective


def boosted_cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """BCE of MART: CE(f(x'), y) - log(1.0001 - max_{k != y} p_k(x') + 1e-12), (batch, classes) -> (batch,).

    Smoothing is that of the cross-entropy; the second term has no target.
    """
    probabilities = logits.softmax(1)
    others = probabilities.scatter(1, labels.unsqueeze(1), 0.0).amax(1)
    margin = -(1.0001 - others + 1e-12).log()
    cross_entropy = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return cross_entropy + margin


class Mart(Objective):
    """min BCE(f(x'), y) + beta KL(p(x) || p(x')) (1 - p_y(x)), x' by PGD on CE (Wang et al., 2020).

    Gradients flow through p(x), the weight (1 - p_y(x)) included, as in the source. The small constants are the
    source's. The attack starts at x + 0.001 N(0, 1) cut to [0, 1]; the source takes its first gradient before it cuts.
    """

    takes_label_smoothing: ClassVar[bool] = True

    name: Literal["mart"]
    attack: PGD
    beta: float = Field(default=5.0, ge=0)

    @override
    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor, moment: Moment) -> Losses:
        perturbed = self.attack.perturb(model, images, labels, moment.generator)
        clean = model(images).float().softmax(1)
        logits = model(perturbed).float()
        divergence = functional.kl_div((logits.softmax(1) + 1e-12).log(), clean, reduction="none").sum(1)
        weight = 1.0000001 - clean.gather(1, labels.unsqueeze(1)).squeeze(1)
        boosted = boosted_cross_entropy(logits, labels, moment.label_smoothing)
        loss = boosted.mean() + self.beta * (divergence * weight).mean()
        return Losses(loss, logits.detach())


OBJECTIVE = Mart
