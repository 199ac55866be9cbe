"""Signs that a model hides its gradients rather than resists: what its robust accuracy is worth.

The signs are those of Athalye et al. (2018), Carlini et al. (2019) and of AutoAttack's own checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pandas as pd

from pipeline.config import EvaluationSettings
from pipeline.evaluation.attacks.autoattack import AutoAttack
from pipeline.evaluation.attacks.noise import NoiseAttack
from pipeline.evaluation.attacks.pgd import PGDAttack
from pipeline.evaluation.statistics import wilson

SQUARE_SHARE = 0.002
"""AutoAttack warns when Square still fools more than this share of all images."""
STEPS_DROP = 0.05
"""PGD with more steps may lower the accuracy by this much before its step size or steps are in doubt."""
LARGE_RADIUS = 4.0
"""A PGD attack with at least this many times AutoAttack's radius is one that nothing should resist."""
SURVIVORS = 0.01
"""Share of images that may be left at a large radius."""


@dataclass(frozen=True)
class Sign:
    """One sign of gradient masking."""

    name: str
    norm: str
    """The norm of the attacks that tell, or 'any' for what the model shows before any attack."""
    verdict: Literal["fine", "suspicious", "not measured"]
    reason: str
    """The numbers behind the verdict, or which attack is missing."""


def signs(verdicts: pd.DataFrame, settings: EvaluationSettings, flags: Mapping[str, str]) -> list[Sign]:
    """What AutoAttack's own checks flag, and all signs in every norm that it was run in.

    A sign is suspicious only where the number of images allows to say so: the end of the 95 % interval is compared with
    the threshold.

    Args:
        verdicts: As written by `evaluate`.
        settings: The attacks that gave them.
        flags: As `pipeline.evaluation.autoattack.flags` gives them.
    """
    flagged = [
        Sign(name, "any", "suspicious" if warning else "fine", warning or "AutoAttack's own check found nothing")
        for name, warning in flags.items()
    ]
    return flagged + [sign for panel in _panels(verdicts, settings) for sign in panel.signs()]


def summary(found: list[Sign]) -> dict[str, Any]:
    """As it is kept: whether anything is suspicious, and every sign."""
    return {
        "suspicious": any(sign.verdict == "suspicious" for sign in found),
        "signs": [asdict(sign) for sign in found],
    }


def _panels(verdicts: pd.DataFrame, settings: EvaluationSettings) -> Iterator[_Panel]:
    for name, attack in settings.attacks.items():
        if isinstance(attack, AutoAttack) and {"square", "apgd_t"} <= set(attack.members):
            yield _Panel(verdicts, settings, name)


class _Panel:
    """The signs in the norm of one AutoAttack evaluation."""

    def __init__(self, verdicts: pd.DataFrame, settings: EvaluationSettings, ensemble: str) -> None:
        self._verdicts = verdicts
        self._ensemble = ensemble
        self._norm = settings.attacks[ensemble].norm
        self._epsilon = settings.attacks[ensemble].epsilon
        self._attacks = {name: attack for name, attack in settings.attacks.items() if attack.norm == self._norm}

    def signs(self) -> Iterator[Sign]:
        """Every sign once."""
        checks: dict[str, Callable[[], tuple[bool, str] | str]] = {
            "Square fools what gradients do not": self._square,
            "more PGD steps help much": self._steps,
            "images survive a large radius": self._radius,
            "random noise is as strong as PGD": self._noise,
        }
        for name, check in checks.items():
            found = check()
            if isinstance(found, str):
                yield Sign(name, self._norm, "not measured", found)
            else:
                yield Sign(name, self._norm, "suspicious" if found[0] else "fine", found[1])

    def _correct(self, *attacks: str) -> pd.DataFrame:
        """Whether each image that all of these attacks saw is correct: a column each."""
        columns = {
            attack: self._verdicts[self._verdicts["attack"] == attack].set_index("image")["correct"]
            for attack in attacks
        }
        return pd.concat(columns, axis=1, join="inner")

    def _pgd(self) -> list[str]:
        """PGD attacks at AutoAttack's radius, by their number of steps."""
        found = {
            name: attack.steps
            for name, attack in self._attacks.items()
            if isinstance(attack, PGDAttack) and attack.epsilon == self._epsilon
        }
        return sorted(found, key=lambda name: found[name])

    def _square(self) -> tuple[bool, str]:
        fooled = self._verdicts.loc[self._verdicts["attack"] == self._ensemble, "fooled_by"] == "square"
        low, _ = wilson(float(fooled.mean()), len(fooled))
        return low > SQUARE_SHARE, f"{int(fooled.sum())} of {len(fooled)} images"

    def _steps(self) -> tuple[bool, str] | str:
        attacks = self._pgd()
        if len(attacks) < 2:
            return "needs two PGD attacks at this radius, with few and with many steps"
        few, many = attacks[0], attacks[-1]
        correct = self._correct(few, many)
        low, _ = wilson(float((correct[few] & ~correct[many]).mean()), len(correct))
        return low > STEPS_DROP, f"{few} {correct[few].mean():.2%}, {many} {correct[many].mean():.2%}"

    def _radius(self) -> tuple[bool, str] | str:
        large = [
            name
            for name, attack in self._attacks.items()
            if isinstance(attack, PGDAttack) and attack.epsilon >= LARGE_RADIUS * self._epsilon
        ]
        if not large:
            return f"needs a PGD attack with {LARGE_RADIUS:g} times the radius"
        correct = self._correct(large[0])[large[0]]
        low, _ = wilson(float(correct.mean()), len(correct))
        return low > SURVIVORS, f"{int(correct.sum())} of {len(correct)} images under {large[0]}"

    def _noise(self) -> tuple[bool, str] | str:
        noise = [name for name, attack in self._attacks.items() if isinstance(attack, NoiseAttack)]
        attacks = self._pgd()
        if not noise or not attacks:
            return "needs random noise and PGD at this radius"
        correct = self._correct("natural", noise[0], attacks[0])
        by_noise, by_pgd = (float((correct["natural"] & ~correct[name]).mean()) for name in (noise[0], attacks[0]))
        strong = by_noise > 0 and by_noise >= by_pgd
        return strong, f"noise fools {by_noise:.2%}, {attacks[0]} {by_pgd:.2%} of all images"
