"""Which experiments share a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.grid.groups import SHORT, group, parts_of_warm_ups
from pipeline.grid.plan import Cost
from pipeline.studies.cells import cells
from tests.conftest import MakeParams

COST = st.floats(0.1, 500)


@given(seconds=st.lists(COST, min_size=1, max_size=30), bound=st.floats(1, 1000), workers=st.integers(1, 8))
@example(seconds=[1.0, 30.0, 30.0, 30.0, 30.0, 99.0, 500.0], bound=60.0, workers=6)
def test_groups_keep_the_order_and_the_bound(seconds: list[float], bound: float, workers: int) -> None:
    members = [SimpleNamespace(fingerprint=str(number)) for number in range(len(seconds))]
    expected = {str(number): Cost(cost, 0.0, 0, 0, 0) for number, cost in enumerate(seconds)}
    groups = group(cast(Any, members), expected, bound, workers)
    assert [one for members in groups for one in members] == members
    for found in groups:
        assert len(found) == 1 or sum(expected[one.fingerprint].seconds for one in found) <= bound + 1e-6
    # As even as neighbours can be: no worker has more than its share and one experiment.
    fair = sum(seconds) / workers + max(seconds, default=0.0)
    largest = max((sum(expected[one.fingerprint].seconds for one in found) for found in groups), default=0.0)
    assert largest <= max(SHORT, fair) * (1 + 1e-5)


def test_one_group_for_each_worker_where_that_is_enough() -> None:
    members = [SimpleNamespace(fingerprint=str(number)) for number in range(16)]
    expected = {str(number): Cost(9.0 + number / 10, 0.0, 0, 0, 0) for number in range(16)}
    assert [len(found) for found in group(cast(Any, members), expected, 120.0, 2)] == [8, 8]


def test_those_that_share_a_warm_up_are_in_a_part_for_each_worker(make_params: MakeParams) -> None:
    experiments = list({cell.experiment.fingerprint: cell.experiment for cell in cells(make_params())}.values())
    (whole,) = parts_of_warm_ups(experiments, 1)
    halves = parts_of_warm_ups(experiments, 2)
    size = len(whole.experiments)
    assert [len(part.experiments) for part in halves] == [-(-size // 2), size // 2]
    assert {one.fingerprint for part in halves for one in part.experiments} == {
        one.fingerprint for one in whole.experiments
    }
    assert 0 < sum(part.learner_epochs_saved for part in halves) < whole.learner_epochs_saved
    assert all(len(part.experiments) <= 2 for part in parts_of_warm_ups(experiments, size // 2))


def test_without_expectations_each_stays_alone(make_params: MakeParams) -> None:
    experiments = [cell.experiment for cell in cells(make_params())]
    assert group(experiments, {}, 120.0, 2) == [[one] for one in experiments]
