"""A short soak: what one experiment after the other leaves in memory and on the disk; a long one: `make soak`."""

from __future__ import annotations

import json

import pytest

from benchmarks import soak
from pipeline.reporting.blocks import block

EXPERIMENTS = 6


@pytest.mark.timeout(600)
def test_experiments_leave_their_results_and_little_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    measured = soak.one_process(EXPERIMENTS)
    assert len(measured["resident_kilobytes"]) == EXPERIMENTS
    assert measured["kilobytes_per_experiment"]["slope"] < 5000, measured["resident_kilobytes"]
    growth = measured["disk_bytes_per_experiment"]
    assert growth["results"] > 0 and growth["runs"] > 0 and growth["mlflow"] > 0
    assert growth["other"] == growth["data"] == 0


def test_a_slope_is_the_median_of_all_pairs() -> None:
    found = soak.slope([0.0, 10.0, 20.0, 1000.0, 40.0, 50.0, 60.0, 70.0])
    assert found["slope"] == 10 and found["low"] <= 10 <= found["high"]


def test_the_document_shows_what_was_measured() -> None:
    result = json.loads(soak.RESULTS.read_text())
    assert block(soak.DOCUMENT.read_text(), "soak") == soak.table(result)
    assert result["one_process"]["experiments"] >= 100
    assert result["one_process"]["kilobytes_per_experiment"]["slope"] < 1000
