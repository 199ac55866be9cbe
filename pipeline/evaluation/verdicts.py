"""The verdict table, and every number that follows from it without attacking again."""

from __future__ import annotations

import pandas as pd


def verdict_frame(
    attack: str, labels: list[int], predicted: list[int], fooled_by: list[str] | None = None, first: int = 0
) -> pd.DataFrame:
    """Verdicts of one attack.

    Args:
        attack: Its name.
        labels: Of every image.
        predicted: Class after the attack.
        first: Position of the first image.
        fooled_by: The member of an ensemble that fooled the model first, "" where none did (None: no ensemble).

    Returns:
        One row per image: `attack` (name), `image` (position in the suite's fixed test order), `label`, `predicted`
        (class after the attack), `correct` (predicted == label; for AutoAttack: never fooled), `fooled_by`.
    """
    frame = pd.DataFrame({"attack": attack, "image": range(first, first + len(labels)), "label": labels})
    frame["predicted"] = predicted
    frame = frame.astype({"attack": "category", "image": "int32", "label": "int16", "predicted": "int16"})
    frame["correct"] = frame["label"] == frame["predicted"]
    frame["fooled_by"] = pd.Categorical(fooled_by or [""] * len(labels))
    return frame


def accuracies(verdicts: pd.DataFrame, union: list[str]) -> tuple[dict[str, float], dict[str, int]]:
    """Accuracy in [0, 1] and number of images of every attack, and of the two unions.

    `union` is the mean of its members' accuracies, as Generalist++ defines it (methods.md 3.3); `worst_case_union` is
    the share of images that are correct under all of them, as the rest of the field does. Never compare the two.

    Args:
        verdicts: As written by `evaluate`.
        union: Names of the attacks that make up the union; none for no union.
    """
    by_attack = verdicts.groupby("attack", observed=True)["correct"]
    values = {str(name): float(value) for name, value in by_attack.mean().items()}
    counts = {str(name): int(value) for name, value in by_attack.count().items()}
    if not union:
        return values, counts
    values["union"] = sum(values[name] for name in union) / len(union)
    counts["union"] = min(counts[name] for name in union)
    correct = verdicts[verdicts["attack"].isin(union)].pivot_table(
        index="image", columns="attack", values="correct", observed=True, aggfunc="min"
    )
    attacked_by_all = correct.dropna()
    values["worst_case_union"] = float(attacked_by_all.all(axis=1).mean())
    counts["worst_case_union"] = len(attacked_by_all)
    return values, counts
