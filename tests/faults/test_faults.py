"""Every promise of docs/reliability.md, a few times each; the campaign beside this tries each hundreds of times."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest

from pipeline.reporting.markdown import block
from tests.faults.campaign import PAGE, RESULTS, row, table
from tests.faults.host import Host
from tests.faults.places import Workshop
from tests.faults.promises import FAULTS
from tests.faults.trials import Outcome, compare

# The first test waits for the host, and for one whole run.
pytestmark = pytest.mark.timeout(1800)
COUNT = 4
SEED = 20261121


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    folder = tmp_path_factory.mktemp("faults")
    with Host(folder) as host:
        yield Workshop(folder, host)


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_promised_is_kept(workshop: Workshop, name: str) -> None:
    fault, struck, number = FAULTS[name], 0, 0
    while struck < fault.wanted(COUNT):
        outcome = fault.trial(workshop, random.Random(f"{SEED}/{name}/{number}"))
        assert not outcome.lost + outcome.changed + outcome.unsaid, f"trial {number}: {outcome}"
        struck, number = struck + outcome.struck, number + 1
        assert number < 20, f"{struck} of {number} faults have hit"


def test_results_that_differ_or_are_missing_are_seen(workshop: Workshop) -> None:
    place, outcome = workshop.place("evaluate"), Outcome()
    compare(workshop, place, "evaluate", outcome)
    assert any("verdicts.parquet" in path for path in outcome.lost)
    assert any("mlflow" in path for path in outcome.changed)
    workshop.remove(place)


def test_outcomes_are_added_up() -> None:
    outcomes = [Outcome(struck=2, lost=["weights"], repeated_steps=3, ways={"a": 2}), Outcome(struck=1, ways={"b": 1})]
    summary = row(FAULTS["clock"], outcomes)
    assert (summary["faults"], summary["lost"], summary["repeated_steps"]) == (3, 1, 3)
    assert summary["ways"] == {"a": 2, "b": 1}


def test_at_least_one_of_each_is_tried_and_kills_add_up() -> None:
    assert all(fault.wanted(1) == 1 for fault in FAULTS.values())
    assert sum(fault.wanted(200) for name, fault in FAULTS.items() if name.startswith("kill/")) == 200
    assert len({fault.what for fault in FAULTS.values()}) == len(FAULTS)


def test_the_page_has_the_table_of_the_published_results() -> None:
    assert block(PAGE.read_text(encoding="utf-8"), "faults") == table(json.loads(RESULTS.read_text()))
