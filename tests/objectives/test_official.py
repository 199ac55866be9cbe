"""Ours computes what the methods' official code computes; the numbers of that are kept in `official.json`."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.official import PAGE, compute, deviation, page, read, step
from tests.objectives.official_cases import COMPARISONS, PGD_8, masks_agree
from tests.training.golden import double_precision

OFFICIAL = read()
LEAST = 1e-4
"""What a small mistake deviates by, at least."""


def test_every_comparison_has_numbers() -> None:
    assert list(OFFICIAL) == [*COMPARISONS, "part_masks"]


@pytest.mark.parametrize("case", COMPARISONS)
def test_ours_is_what_the_official_code_computes(case: str) -> None:
    assert deviation(compute(COMPARISONS[case]), OFFICIAL[case]) < 10 ** -COMPARISONS[case].digits


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("score_pgd", {"name": "score", "variant": "pgd", "clip": 0.41, "attack": PGD_8}),
        ("score_pgd", {"name": "score", "variant": "pgd", "clip": 0.4, "attack": {**PGD_8, "steps": 9}}),
        ("score_pgd", {"name": "score", "variant": "pgd", "clip": 0.4, "attack": {**PGD_8, "epsilon": 0.0313}}),
    ],
)
def test_a_small_mistake_is_seen(case: str, options: dict[str, object]) -> None:
    with torch.random.fork_rng(devices=[]), double_precision():
        assert deviation(step(options), OFFICIAL[case]) > LEAST


def test_most_of_parts_radii_are_the_sources() -> None:
    """Its docstring says what differs."""
    assert masks_agree(OFFICIAL["part_masks"]["rows"]) > 0.9


def test_the_page_shows_the_comparisons() -> None:
    assert page() == PAGE.read_text(), "write it anew with `python -m tests.objectives.official`"
