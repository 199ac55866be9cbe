"""A small suite with two tables, and runs that fill it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from pipeline.config import Experiment, Params, parse_params

METRICS = ("natural", "aa_linf", "pgd_l2", "union", "worst_case_union")


def learner(objective: dict[str, Any]) -> dict[str, Any]:
    return {
        "objective": objective,
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "schedule": {"epochs": [0], "values": [1.0]},
    }


@pytest.fixture
def raw() -> dict[str, Any]:
    """The content of a params.yaml; tests change it before it is checked."""
    attacked = learner({"name": "adversarial", "norm": "linf"})
    column_labels = {"natural": "Natural", "aa_linf": r"AA$_\infty$", "pgd_l2": "PGD_{2}", "union": "Union"}
    return {
        "suite": "small",
        "reports_folder": "reports/small",
        "description": "A suite for tests & no more",
        "protocol": "reference_code",
        "seeds": [0, 1],
        "data": {"name": "digits", "held_out_images": 300},
        "model": {"architecture": "small_cnn"},
        "threat_model": {"linf": {"epsilon": "8/255", "step_size": "2/255", "steps": 1}},
        "training": {"epochs": 1, "batch_size": 8, "selection": {"split": "held_out"}},
        "methods": {
            "nt": {"label": "NT", "learners": {"natural": learner({"name": "natural"})}},
            "at": {"label": r"AT_{\infty} 100% | $\ell_\infty$", "learners": {"linf": attacked}},
            "slow_at": {
                "label": "slow_at",
                "learners": {"linf": {**attacked, "optimizer": {"name": "adam", "learning_rate": 0.1}}},
            },
        },
        "evaluation": {
            "batch_size": 8,
            "attacks": {
                "aa_linf": {"name": "autoattack", "norm": "linf", "epsilon": "8/255", "images": 64},
                "pgd_l2": {"name": "pgd", "norm": "l2", "epsilon": 0.5, "step_size": 0.1, "steps": 1, "images": 64},
            },
            "union": ["aa_linf", "pgd_l2"],
        },
        "tables": {
            "main": {
                "caption": "Main results",
                "rows": ["nt", "at", "slow_at"],
                "columns": [{"metric": metric, "label": label} for metric, label in column_labels.items()],
            },
            "one_column": {
                "caption": "Worst case only.",
                "rows": ["at"],
                "columns": [{"metric": "worst_case_union", "label": "Worst case"}],
                "digits": 1,
            },
        },
    }


@pytest.fixture
def params(raw: dict[str, Any]) -> Params:
    return parse_params(raw)


RunRow = Callable[..., dict[str, Any]]


@pytest.fixture
def run_row() -> RunRow:
    """Builds a row as `finished_runs` gives it: of an experiment, finished at a second, with some metrics."""

    def build(experiment: Experiment, finished: int = 1, **metrics: float) -> dict[str, Any]:
        images = {"natural": 360}
        return {
            "fingerprint": experiment.fingerprint,
            "evaluation_fingerprint": experiment.evaluation_fingerprint,
            "protocol": experiment.protocol,
            "made_by": "this code",
            "run_id": f"{finished:04}-{experiment.identifier}",
            "end_time": pd.Timestamp(finished, unit="s", tz="UTC"),
            **{f"metric.{name}": value for name, value in metrics.items()},
            **{f"count.{name}": images.get(name, 64) for name in metrics},
        }

    return build


@pytest.fixture
def runs(params: Params, run_row: RunRow) -> pd.DataFrame:
    """nt with both seeds, at with seed 0 only, slow_at not at all."""
    return pd.DataFrame(
        [
            run_row(params.experiment("nt", 0), natural=1.0, aa_linf=0.0, pgd_l2=0.3, union=0.15),
            run_row(params.experiment("nt", 1), natural=0.98, aa_linf=0.0, pgd_l2=0.1, union=0.05),
            run_row(params.experiment("at", 0), natural=0.9, aa_linf=0.4125, pgd_l2=0.2, union=0.30625),
        ]
    )
