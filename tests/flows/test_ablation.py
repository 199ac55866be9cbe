"""What the grid refuses before it asks anybody; the grid itself: tests/stages/test_ablation.py."""

from __future__ import annotations

import os

import pytest

from pipeline.core.errors import RequestError

os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

from pipeline.flows.ablation import ablation_grid


def test_a_grid_that_may_submit_nothing_is_refused() -> None:
    with pytest.raises(RequestError, match=r"limit: expected a whole number from 1 on, or null .*; got 0"):
        ablation_grid.fn(limit=0)
