"""What follows from a record, computed once for the files beside it and for the page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from pipeline.reporting.intervals import half_width
from pipeline.reporting.papers import cells_on
from pipeline.reporting.reproduction.claims import compare_settings, judge_all
from pipeline.reporting.reproduction.record import Record

METRICS = {
    "natural": "Natural",
    "pgd20_linf": "PGD-20 linf",
    "aa_linf": "{attack} linf",
    "pgd20_l2": "PGD-20 l2",
    "aa_l2": "{attack} l2",
    "union": "Union",
    "worst_case_union": "Worst case",
}
"""What is shown of every experiment, with the labels of tables; `attack`: AutoAttack, or what stands for it."""
PRINTED_IN = ["I", "1a", "1b"]
"""The papers' tables on CIFAR-10; where two have a number, the first counts."""
Printed = dict[tuple[str, str], float]
"""What the papers print, percent, by method and metric."""


@dataclass(frozen=True)
class Findings:
    """A record and its three tables."""

    record: Record
    rows: pd.DataFrame
    """As `accuracies` gives them."""
    settings: pd.DataFrame
    """As `compare_settings`."""
    claims: pd.DataFrame
    """As `judge_all`."""

    def files(self) -> dict[str, str]:
        """The tables as CSV, by file name."""
        frames = {"rows.csv": self.rows, "settings.csv": self.settings, "claims.csv": self.claims}
        return {
            name: frame.to_csv(index=False, lineterminator="\n", float_format="%.4f") for name, frame in frames.items()
        }


def find(record: Record) -> Findings:
    """All that a record tells; seconds, most of them for the bootstrap."""
    return Findings(record, accuracies(record), compare_settings(record), judge_all(record))


def accuracies(record: Record) -> pd.DataFrame:
    """What every method and setting reached, and what the papers print for it.

    Returns:
        `name`, `label`, `metric`; `mean` over seeds, `low` and `high` of Student's 95 % interval over them (percent,
        NaN with one seed); `seeds`; `images` (NA where there are none); `paper` and `difference` to it, where the
        papers have this data set and network.
    """
    printed = paper_numbers(record.suite.dataset, record.suite.architecture)
    rows = []
    for name in record.names:
        for metric in METRICS:
            own = [run for run in record.of(name) if metric in run.metrics]
            values = [100 * run.metrics[metric] for run in own]
            mean, half = (fmean(values) if values else math.nan), half_width(values)
            paper = printed.get((name, metric), math.nan)
            images = max((run.images[metric] for run in own), default=None)
            row = {"name": name, "label": record.label(name), "metric": metric, "mean": mean, "seeds": len(values)}
            row |= {"low": mean - half, "high": mean + half, "images": images}
            rows.append({**row, "paper": paper, "difference": mean - paper})
    return pd.DataFrame(rows).astype({"images": "Int64"})


def paper_numbers(dataset: str, architecture: str) -> Printed:
    """What the papers print for a data set and network; nothing where they do not have them."""
    cells = cells_on(dataset, PRINTED_IN)
    chosen = cells[cells["architecture"] == architecture]
    return {(row["method"], row["metric"]): float(row["value"]) for row in chosen.to_dict("records")}
