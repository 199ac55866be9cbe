"""PGD that stops early where it has already won (Zhang et al., 2020)."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pipeline.attacks.geometry import project, steepest_direction
from pipeline.attacks.pgd import PGD, frozen
from pipeline.core.streams import draw, part_of


class FriendlyPGD(PGD):
    """PGD whose samples are frozen once they were misclassified at more than `patience` checks."""

    noise: float = Field(default=0.001, ge=0)
    """omega: standard deviation of Gaussian noise that is added at every step."""

    def perturb_friendly(
        self, model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator, patience: int
    ) -> tuple[Tensor, int]:
        """Adversarial examples in the order of `images`, and how many sample-steps they took.

        Args:
            model: As for `PGD.perturb`.
            images: (batch, channels, height, width), float32 in [0, 1].
            labels: (batch,), int64.
            generator: Source of the random start and of the noise.
            patience: tau: how many further steps a misclassified sample is given; from `steps` on, plain PGD with
            noise.
        """
        with frozen(model) as attacked:
            perturbed = self.starting_points(images, generator)
            left = torch.full_like(labels, patience)
            active = torch.arange(len(labels), device=labels.device)
            count = 0
            for _ in range(self.steps):
                points = perturbed[active].requires_grad_(True)
                logits = attacked(points).float()
                wrong = logits.argmax(1) != labels[active]
                goes_on = ~(wrong & (left[active] == 0))
                left[active] -= wrong.long()
                (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, labels[active]), points)
                active, points, gradient = active[goes_on], points.detach()[goes_on], gradient[goes_on]
                part = part_of(generator, len(labels)).ranks.place(len(active))
                if part.total == 0:
                    break
                count += len(active)
                noise = self.noise * draw(torch.randn, points.shape, generator, part)
                moved = points + self.step_size * steepest_direction(self.norm, gradient) + noise
                perturbed[active] = project(self.norm, moved, images[active], self.epsilon)
            return perturbed.detach(), count
