"""The blocks of docs/findings.md, from a record that the test makes up."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.reporting.beyond import DEFAULT, FOLDER, LEARNERS, MIXTURES, OBJECTIVES, PAGE, fill_page
from pipeline.reporting.markdown import BLOCK
from pipeline.reporting.reproduction.record import Record, Run, Suite
from tests.conftest import REPOSITORY

SEEDS = [1, 2, 3]
IMAGES = 40
RIGHT = {"at": 30, DEFAULT: 30, "trades": 20, "generalist_d_trades": 36, "greedy_soup": 10, "generalist_t": 33}
"""Images that are right under every attack."""
METHODS = [*RIGHT, *OBJECTIVES.values(), *OBJECTIVES, *MIXTURES, *LEARNERS]


def verdicts(right: int) -> pd.DataFrame:
    attacks = ("natural", "pgd20_linf", "pgd20_l2", "pgd20_l1")
    return pd.DataFrame({name: [image < right for image in range(IMAGES)] for name in attacks}, dtype="boolean")


def run(name: str, seed: int) -> Run:
    metrics = {"ood_c": 0.5} if name == "generalist_t" else {}
    return Run(name, seed, f"{name}{seed}", "f", "e", "c", "cpu", "2", 10.0 * seed, metrics, {}, "no sign")


@pytest.fixture
def record() -> Record:
    runs = [run(name, seed) for name in RIGHT for seed in SEEDS]
    curve = pd.DataFrame(
        {
            "epoch": [1, 2, 3],
            "seconds": [5.0, 5.0, 5.0],
            "theory/seconds": [None, 0.15, 0.15],
            "theory/regret/linf": [None, 0.25, 0.125],
            "geometric_term": [None, None, 4.0],
        }
    )
    learners = {"at": 1, "generalist_t": 3}
    return Record(
        Suite(
            "digits_beyond",
            "paper",
            "digits",
            "small_cnn",
            "",
            SEEDS,
            {name: name.upper().replace("_", " ") for name in METHODS},
            {},
        ),
        [],
        runs,
        {name: {seed: verdicts(right) for seed in SEEDS} for name, right in RIGHT.items()},
        {one.identifier: curve for one in runs},
        {one.identifier: {"method": {"learners": list(range(learners.get(one.name, 2)))}} for one in runs},
    )


def blocks(page: str) -> dict[str, str]:
    return {found[2]: found[0] for found in BLOCK.finditer(page)}


def test_every_block_is_filled_from_the_record(record: Record, tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir(parents=True)
    (folder / "search.md").write_text("12 trials\n")
    pairs = {"method": ["at", "at"], "attack": ["natural", "natural"], "bound": [8.0, 16.0]}
    values = {"max": [0.5, 0.25], "mean": [0.02, 0.04], "gap": [0.1, 0.1]}
    numbers = {f"error_probability_{part}": value for part, value in values.items()}
    pd.DataFrame({**pairs, **numbers}).to_csv(folder / "stability.csv", index=False)
    found = blocks(fill_page((REPOSITORY / PAGE).read_text(), [record], tmp_path))
    assert list(found) == ["theory", "stability", "objectives", "mixtures", "learners", "search"]
    assert "| `at` | `natural` | 2 | 0.5 | 0.03 | 0.1 | 12 |" in found["stability"]
    assert "12 trials" in found["search"]
    assert "| GENERALIST D TRADES minus TRADES | **+40.0** [+25.0, +55.0] [+40.0, +40.0] |" in found["objectives"]
    assert "| GENERALIST D NT LINF minus AT | +0.0 [+0.0, +0.0] [+0.0, +0.0] |" in found["objectives"]
    assert "| GREEDY SOUP minus GENERALIST D NT LINF | **-50.0** [" in found["mixtures"]
    assert "| GENERALIST T | 3 | 82.5 | 82.5 | 82.5 | 82.5 | 82.5 | 50 [50, 50] | 20 |" in found["learners"]
    assert "| 75.0 | -- | 20 |" in found["learners"]
    assert "`theory/regret/linf` | 0.25 [0.25, 0.25] | 0.25 [0.25, 0.25] | 0.125 [0.125, 0.125] |" in found["theory"]
    assert "`theorem_2/learner_spread` | 4 [4, 4] | 4 [4, 4] | 4 [4, 4] |" in found["theory"]
    assert "time of measuring, % of training |  |  | 2 [2, 2] |" in found["theory"]


def test_what_was_not_run_is_a_dash_and_what_is_missing_altogether_says_how_to_get_it(
    record: Record, tmp_path: Path
) -> None:
    page = (REPOSITORY / PAGE).read_text()
    assert "GENERALIST D MART minus MART | -- | -- |" in blocks(fill_page(page, [record], tmp_path))["objectives"]
    assert all("Not measured (`make beyond`)." in text for text in blocks(fill_page(page, [], tmp_path)).values())
