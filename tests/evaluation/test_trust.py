"""The signs of gradient masking, on verdicts that show them and on verdicts that do not."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from pipeline.config import EvaluationSettings
from pipeline.evaluation.trust import signs, summary
from pipeline.evaluation.verdicts import verdict_frame

IMAGES = 100
PGD = {"name": "pgd", "norm": "linf", "epsilon": 0.1, "step_size": 0.02, "steps": 20}
ATTACKS: dict[str, dict[str, Any]] = {
    "pgd20": PGD,
    "pgd100": {**PGD, "steps": 100},
    "large": {**PGD, "epsilon": 0.5},
    "noise": {"name": "noise", "norm": "linf", "epsilon": 0.1},
    "aa": {"name": "autoattack", "norm": "linf", "epsilon": 0.1},
}
FLAGS = {"outputs are random": ""}
HEALTHY = {"natural": 95, "pgd20": 60, "pgd100": 59, "large": 0, "noise": 93, "aa": 55}
"""Images that are correct, of a model that resists."""
SQUARE, STEPS, RADIUS, NOISE = (
    "Square fools what gradients do not",
    "more PGD steps help much",
    "images survive a large radius",
    "random noise is as strong as PGD",
)


def verdicts(square: int = 0, **correct: int) -> pd.DataFrame:
    """The first images are correct; the last `square` of those that AutoAttack fools fall to Square."""
    frames = []
    for attack, count in correct.items():
        predicted = [0] * count + [1] * (IMAGES - count)
        by = [""] * count + ["apgd_ce"] * (IMAGES - count - square) + ["square"] * square
        frames.append(verdict_frame(attack, [0] * IMAGES, predicted, by if attack == "aa" else None))
    return pd.concat(frames, ignore_index=True)


def settings(*names: str) -> EvaluationSettings:
    chosen = {name: ATTACKS[name] for name in names or ATTACKS}
    return EvaluationSettings.model_validate({"batch_size": 8, "attacks": chosen, "union": list(chosen)[:2]})


def suspicious(table: pd.DataFrame) -> list[str]:
    return [sign.name for sign in signs(table, settings(), FLAGS) if sign.verdict == "suspicious"]


def test_a_model_that_resists_shows_no_sign() -> None:
    found = signs(verdicts(**HEALTHY), settings(), FLAGS)
    assert [sign.verdict for sign in found] == ["fine"] * 5
    assert summary(found)["suspicious"] is False


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"square": 9}, SQUARE),
        ({"pgd100": 40}, STEPS),
        ({"large": 12}, RADIUS),
        ({"noise": 50}, NOISE),
    ],
)
def test_every_sign_is_found(changes: dict[str, int], name: str) -> None:
    assert suspicious(verdicts(**(HEALTHY | changes))) == [name]


@pytest.mark.parametrize("changes", [{"square": 1}, {"pgd100": 53}, {"large": 1}])
def test_a_few_images_prove_nothing(changes: dict[str, int]) -> None:
    assert suspicious(verdicts(**(HEALTHY | changes))) == []


def test_a_model_that_nothing_fools_is_not_blamed_for_noise() -> None:
    assert NOISE not in suspicious(verdicts(**(HEALTHY | {"pgd20": 95, "pgd100": 95, "noise": 95, "aa": 95})))


def test_attacks_on_fewer_images_are_compared_on_those() -> None:
    table = verdicts(**HEALTHY)
    fewer = table[~table["attack"].isin(["pgd100", "noise"]) | (table["image"] < 30)]
    found = {sign.name: sign for sign in signs(fewer, settings(), FLAGS)}
    assert found[STEPS].reason == "pgd20 100.00%, pgd100 100.00%"
    assert [found[name].verdict for name in (STEPS, NOISE)] == ["fine", "fine"]


def test_what_is_missing_is_said() -> None:
    found = {sign.name: sign for sign in signs(verdicts(natural=95, pgd20=60, aa=55), settings("pgd20", "aa"), FLAGS)}
    assert found[SQUARE].verdict == "fine"
    assert {found[name].verdict for name in (STEPS, RADIUS, NOISE)} == {"not measured"}
    assert "4 times the radius" in found[RADIUS].reason


def test_a_flag_of_autoattack_is_a_sign() -> None:
    found = signs(verdicts(**HEALTHY), settings(), {"outputs are random": "it seems to be a randomized defense!"})
    flagged = [sign for sign in found if sign.verdict == "suspicious"]
    assert [(sign.name, sign.norm) for sign in flagged] == [("outputs are random", "any")]
    assert flagged[0].reason == "it seems to be a randomized defense!"
