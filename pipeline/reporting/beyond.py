"""docs/findings.md: what the suite `digits_beyond` tells; its numbers follow from the record, none of them is typed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd

from pipeline.reporting.intervals import (
    Contrast,
    Estimate,
    bracketed,
    estimate,
    half_width,
)
from pipeline.reporting.markdown import fill_blocks, markdown_table, markdown_text
from pipeline.reporting.reproduction.record import Record

PAGE = Path("docs/findings.md")
SUITE = "digits_beyond"
FOLDER = "digits_beyond/small_cnn"
NOT_MEASURED = "Not measured (`make beyond`)."
DEFAULT, AT = "generalist_d_nt_linf", "at"
OBJECTIVES = {
    "at": DEFAULT,
    "trades": "generalist_d_trades",
    "mart": "generalist_d_mart",
    "score": "generalist_d_score",
}
"""The method with one learner, and Generalist-D with that learner."""
MIXTURES = ("batch_norm_recomputed", "optimizer_state_reset", "tuned_ratios", "uniform_soup", "greedy_soup")
LEARNERS = (DEFAULT, "generalist_t", "generalist_5", "generalist_8")
THEORY = (DEFAULT, "generalist_t")
SHOWN = (
    "theory/regret/",
    "theory/trade_off_",
    "theory/bound_slack/",
    "theory/cosine/",
    "theory/minibatch_cosine/",
    "theory/barrier/",
    "theorem_2/",
)
OLDER = {"geometric_term": "theorem_2/learner_spread"}
"""What runs of older versions call it."""
VIEWS: dict[str, tuple[str, ...]] = {
    "Natural": ("natural",),
    "PGD-20 linf": ("pgd20_linf",),
    "PGD-20 l2": ("pgd20_l2",),
    "PGD-20 l1": ("pgd20_l1",),
    "worst of the three": ("pgd20_linf", "pgd20_l2", "pgd20_l1"),
}
"""The attacks behind a measure; where there are several, an image must be correct under all."""
CORRUPTED = "ood_c"


def fill_page(page: str, records: Iterable[Record], reports: Path) -> str:
    """The page with all its blocks; what was not measured says which command does, and a KeyError that there is nothing
    for a block of this name. `FOLDER` in `reports` has what `stages.stability` and `stages.search` have written."""
    found = next((record for record in records if record.suite.suite == SUITE), None)
    stability, search = reports / FOLDER / "stability.csv", reports / FOLDER / "search.md"
    of_record = {
        "objectives": _objectives,
        "mixtures": _mixtures,
        "learners": _learners,
        "theory": _theory,
    }
    texts = {name: write(found) if found else NOT_MEASURED for name, write in of_record.items()}
    texts["stability"] = _stability(pd.read_csv(stability)) if stability.exists() else NOT_MEASURED
    texts["search"] = search.read_text().rstrip() if search.exists() else NOT_MEASURED
    return fill_blocks(page, texts.__getitem__)


def _stability(pairs: pd.DataFrame) -> str:
    """Over all pairs of a method, by attack: the largest difference, the mean one, the gap and the bound."""
    columns = [*(f"error_probability_{part}" for part in ("max", "mean", "gap")), "bound"]
    lines = []
    for (method, attack), rows in pairs.groupby(["method", "attack"], sort=False):
        numbers = [rows[columns[0]].max(), *(rows[column].mean() for column in columns[1:])]
        shown = ["--" if math.isnan(number) else f"{number:.3g}" for number in numbers]
        lines.append([f"`{method}`", f"`{attack}`", str(len(rows)), *shown])
    header = ["Method", "Attack", "Pairs", "largest difference", "mean difference", "generalisation gap", "bound"]
    return (
        f"{markdown_table(header, lines)}\n\nOf the error probability, 1 - p of the true class. The first is the "
        "largest over all pairs and test images, the others are means over pairs."
    )


def _objectives(record: Record) -> str:
    """Each objective in Generalist-D against itself alone, and against Generalist-D with AT."""
    pairs = [*((mixed, alone) for alone, mixed in OBJECTIVES.items())]
    pairs += [(mixed, DEFAULT) for mixed in OBJECTIVES.values() if mixed != DEFAULT]
    return _differences(record, pairs)


def _mixtures(record: Record) -> str:
    return _differences(record, [(name, DEFAULT) for name in MIXTURES])


def _learners(record: Record) -> str:
    """Accuracies and time of 2, 3, 5 and 8 learners, then what each changes against two."""
    lines = []
    for name in (AT, *LEARNERS):
        if runs := record.of(name):
            count = len(record.experiments[runs[0].identifier]["method"]["learners"])
            accuracies = [_mean(record, name, view) for view in VIEWS.values()]
            corrupted = [100 * run.metrics[CORRUPTED] for run in runs if CORRUPTED in run.metrics]
            seconds = f"{fmean(run.seconds for run in runs):,.0f}"
            lines.append([markdown_text(record.label(name)), str(count), *accuracies, _over_seeds(corrupted), seconds])
    table = markdown_table(["Method", "Learners", *VIEWS, "Corruptions", "Time (s)"], lines)
    return f"{table}\n\n{_differences(record, [(name, DEFAULT) for name in LEARNERS[1:]])}"


def _differences(record: Record, pairs: Sequence[tuple[str, str]]) -> str:
    """A line for each pair, a column for each view: the first minus the second, with both intervals."""
    lines = []
    for first, second in pairs:
        names = [markdown_text(record.label(name)) for name in (first, second)]
        found = [estimate(record.verdicts, Contrast((first, second), (view,))) for view in VIEWS.values()]
        lines.append([f"{names[0]} minus {names[1]}", *map(_shown, found)])
    images = max(len(frame) for by_seed in record.verdicts.values() for frame in by_seed.values())
    return (
        f"{markdown_table(['', *VIEWS], lines)}\n\nPercentage points, mean over the seeds "
        f"{', '.join(map(str, record.suite.seeds))}, {images} test images; in brackets the 95 % interval over images, "
        "then over seeds; bold where both lie on the same side of zero. Not corrected for their number."
    )


def _shown(found: Estimate | None) -> str:
    if found is None:
        return "--"
    intervals = f"{bracketed(found.images_low, found.images_high)} {bracketed(found.seeds_low, found.seeds_high)}"
    value = f"{found.value:+.1f}"
    return f"{f'**{value}**' if found.is_above or found.is_below else value} {intervals}"


def _mean(record: Record, name: str, view: Sequence[str]) -> str:
    """The mean accuracy over seeds, percent."""
    frames = record.verdicts.get(name, {}).values()
    return f"{100 * fmean(frame[list(view)].all(axis=1).mean() for frame in frames):.1f}" if frames else "--"


def _theory(record: Record) -> str:
    """What was measured of the theorems, losses left out, and what measuring cost."""
    lines = []
    for name in (one for one in THEORY if record.of(one)):
        curves = [record.curves[run.identifier].rename(columns=OLDER) for run in record.of(name)]
        label = markdown_text(record.label(name))
        for column in (one for one in map(str, curves[0]) if one.startswith(SHOWN)):
            lines.append([label, f"`{column}`", *_over_epochs(curves, column)])
        cost = [100 * curve["theory/seconds"].sum() / curve["seconds"].sum() for curve in curves]
        lines.append([label, "time of measuring, % of training", "", "", _over_seeds(cost)])
    table = markdown_table(["Method", "", "first measured", "largest", "last"], lines)
    return f"{table}\n\nMean over seeds with Student's 95 % interval. What the names mean: [theory.md](theory.md)."


def _over_epochs(curves: Sequence[pd.DataFrame], column: str) -> list[str]:
    measured = [curve[column].dropna() for curve in curves]
    return [
        _over_seeds([values.iloc[0] for values in measured]),
        _over_seeds([values.max() for values in measured]),
        _over_seeds([values.iloc[-1] for values in measured]),
    ]


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return "--"
    half = half_width(values)
    mean = fmean(values)
    return f"{mean:.3g}" if math.isnan(half) else f"{mean:.3g} [{mean - half:.3g}, {mean + half:.3g}]"
