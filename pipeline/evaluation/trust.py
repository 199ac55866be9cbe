"""Signs that a model hides its gradients rather than resists: what its robust accuracy is worth.

The signs are those of Athalye et al. (2018), Carlini et al. (2019) and of AutoAttack's own checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    found = [
        Sign(name, "any", "suspicious" if warning else "fine", warning or "AutoAttack's own check found nothing")
        for name, warning in flags.items()
    ]
    for name, attack in settings.attacks.items():
        if isinstance(attack, AutoAttack) and {"square", "apgd_t"} <= set(attack.members):
            found += _signs_in_norm(verdicts, settings, name, attack)
    return found


def summary(found: list[Sign]) -> dict[str, Any]:
    """As it is kept: whether anything is suspicious, and every sign."""
    return {
        "suspicious": any(sign.verdict == "suspicious" for sign in found),
        "signs": [asdict(sign) for sign in found],
    }


def _signs_in_norm(
    verdicts: pd.DataFrame, settings: EvaluationSettings, ensemble: str, autoattack: AutoAttack
) -> Iterator[Sign]:
    """Every sign once, in the norm and at the radius of one AutoAttack evaluation."""
    attacks = {name: attack for name, attack in settings.attacks.items() if attack.norm == autoattack.norm}
    noise = [name for name, attack in attacks.items() if isinstance(attack, NoiseAttack)]
    pgd = {name: attack for name, attack in attacks.items() if isinstance(attack, PGDAttack)}
    large = [name for name, attack in pgd.items() if attack.epsilon >= LARGE_RADIUS * autoattack.epsilon]
    near = [name for name, attack in pgd.items() if attack.epsilon == autoattack.epsilon]
    near.sort(key=lambda name: pgd[name].steps)
    checks: dict[str, tuple[bool, str] | str] = {
        "Square fools what gradients do not": _square(verdicts, ensemble),
        "more PGD steps help much": _steps(verdicts, near[0], near[-1])
        if len(near) > 1
        else "needs two PGD attacks at this radius, with few and with many steps",
        "images survive a large radius": _survivors(verdicts, large[0])
        if large
        else f"needs a PGD attack with {LARGE_RADIUS:g} times the radius",
        "random noise is as strong as PGD": _noise(verdicts, noise[0], near[0])
        if noise and near
        else "needs random noise and PGD at this radius",
    }
    for name, found in checks.items():
        if isinstance(found, str):
            yield Sign(name, autoattack.norm, "not measured", found)
        else:
            yield Sign(name, autoattack.norm, "suspicious" if found[0] else "fine", found[1])


def _correct(verdicts: pd.DataFrame, *attacks: str) -> pd.DataFrame:
    """Whether each image that all of these attacks saw is correct: a column each."""
    columns = {attack: verdicts[verdicts["attack"] == attack].set_index("image")["correct"] for attack in attacks}
    return pd.concat(columns, axis=1, join="inner")


def _square(verdicts: pd.DataFrame, ensemble: str) -> tuple[bool, str]:
    fooled = verdicts.loc[verdicts["attack"] == ensemble, "fooled_by"] == "square"
    low, _ = wilson(float(fooled.mean()), len(fooled))
    return low > SQUARE_SHARE, f"{int(fooled.sum())} of {len(fooled)} images"


def _steps(verdicts: pd.DataFrame, few: str, many: str) -> tuple[bool, str]:
    correct = _correct(verdicts, few, many)
    low, _ = wilson(float((correct[few] & ~correct[many]).mean()), len(correct))
    return low > STEPS_DROP, f"{few} {correct[few].mean():.2%}, {many} {correct[many].mean():.2%}"


def _survivors(verdicts: pd.DataFrame, large: str) -> tuple[bool, str]:
    correct = _correct(verdicts, large)[large]
    low, _ = wilson(float(correct.mean()), len(correct))
    return low > SURVIVORS, f"{int(correct.sum())} of {len(correct)} images under {large}"


def _noise(verdicts: pd.DataFrame, noise: str, pgd: str) -> tuple[bool, str]:
    correct = _correct(verdicts, "natural", noise, pgd)
    by_noise, by_pgd = (float((correct["natural"] & ~correct[name]).mean()) for name in (noise, pgd))
    strong = by_noise > 0 and by_noise >= by_pgd
    return strong, f"noise fools {by_noise:.2%}, {pgd} {by_pgd:.2%} of all images"
