"""Numbers from verdicts."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.verdicts import accuracies, verdict_frame

Correct = st.lists(st.booleans(), min_size=1, max_size=30)


def verdicts(**correct: list[bool]) -> pd.DataFrame:
    """A verdict table in which these images are correct under these attacks."""
    frames = [
        verdict_frame(attack, [3] * len(flags), [3 if flag else 4 for flag in flags])
        for attack, flags in correct.items()
    ]
    return pd.concat(frames, ignore_index=True)


def test_every_metric_on_a_known_table() -> None:
    table = verdicts(natural=[True] * 8, aa_linf=[True, True, False, False], aa_l2=[True, False, True, False])
    values, counts = accuracies(table, ["aa_linf", "aa_l2"])
    assert values == {"natural": 1.0, "aa_linf": 0.5, "aa_l2": 0.5, "union": 0.5, "worst_case_union": 0.25}
    assert counts == {"natural": 8, "aa_linf": 4, "aa_l2": 4, "union": 4, "worst_case_union": 4}


def test_the_worst_case_counts_images_that_all_members_attacked() -> None:
    table = verdicts(aa_linf=[True] * 6, aa_l2=[True, False])
    values, counts = accuracies(table, ["aa_linf", "aa_l2"])
    assert values["worst_case_union"] == 0.5 and counts["worst_case_union"] == 2
    assert values["union"] == 0.75 and counts["union"] == 2


@given(pairs=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_worst_case_is_at_most_every_member_and_they_at_most_one(pairs: list[tuple[bool, bool]]) -> None:
    """methods.md 3.3: worst case <= min(AA_inf, AA_2) <= the paper's union."""
    table = verdicts(aa_linf=[first for first, _ in pairs], aa_l2=[second for _, second in pairs])
    values, _ = accuracies(table, ["aa_linf", "aa_l2"])
    lowest = min(values["aa_linf"], values["aa_l2"])
    assert values["worst_case_union"] <= lowest + 1e-12
    assert lowest <= values["union"] + 1e-12
    expected = sum(first and second for first, second in pairs) / len(pairs)
    assert values["worst_case_union"] == pytest.approx(expected)


def test_columns_and_types_are_small() -> None:
    table = verdict_frame("natural", [1, 2], [1, 3])
    assert list(table.columns) == ["attack", "image", "label", "predicted", "correct", "fooled_by"]
    assert table["correct"].tolist() == [True, False]
    assert {str(kind) for kind in table.dtypes} == {"category", "int32", "int16", "bool"}
