"""Which number belongs into which cell of a table, and what fills the cells that are empty.

`accuracies` in `pipeline/evaluation/verdicts.py` computes a number, MLflow keeps it as `test/<metric>` of its run, and
`finished_runs` in `pipeline/tracking/frames.py` reads it as `metric.<metric>`; `_cell` here gives its mean over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from types import MappingProxyType
from typing import Any

import pandas as pd

from pipeline.config import TRAINING_SECONDS, Experiment, Metric, Params, TableColumn, TableSettings
from pipeline.config.metrics import metric_named
from pipeline.core.digits import decimals
from pipeline.core.errors import PipelineError
from pipeline.core.files import read_frame
from pipeline.evaluation.statistics import wilson
from pipeline.reporting.audit import UNION, audit
from pipeline.reporting.intervals import Verdicts, by_image, like_best
from pipeline.reporting.papers import CELL, TITLES, cells_on
from pipeline.tracking import (
    OTHER_CODE,
    UNKNOWN_CODE,
    finished_runs,
    mask,
    read_artifacts,
    runs_of_other_protocols,
    tracking_uri,
)

REGENERATED = "Regenerated images, not the released files."
OTHER_ATTACKS = "Attacked with other settings than the caption's: see `experiment.json` of its run."
OLDER_CODE = "Made by {}, not by this checkout's: `dvc repro` measures it anew, `make explain` says what differs."
MASKING = "There are signs of gradient masking: see `trust.json` of this run."
SHORT = 8
"""Digits of a run's id that are shown."""
Run = dict[str, Any]
"""A row of `finished_runs`; numbers that it lacks are NaN."""
Addresses = dict[tuple[str, str], list[Run]]
"""Runs by fingerprint and evaluation fingerprint, the one that finished last at the end."""
Candidates = list[list[Run]]
"""The runs of an experiment; where a table asks for them, its runs of other protocols as the second list."""


def collect(params: Params, runs: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """The cells of every table of the suite, from MLflow, which is read once; see `fill`.

    Args:
        params: The suite.
        runs: As `finished_runs` gives them for its experiments; None: they are read.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.finished_runs`; or there is no finished run of the suite.
    """
    runs = finished_runs(params.experiments()) if runs is None else runs
    others = None
    if any(table.other_protocols for table in params.tables.values()):
        others = runs_of_other_protocols(params.experiments())
    if runs.empty and (others is None or others.empty):
        raise PipelineError(
            f"MLflow at {mask(tracking_uri())} has no finished run of suite '{params.suite}' with the settings of "
            "params.yaml, so every cell would be empty: nothing was written. 'make repro' trains and evaluates; "
            "MLFLOW_TRACKING_URI names another store."
        )
    verdicts = read_verdicts(runs if others is None else pd.concat([runs, others]))
    return {name: fill(params, table, runs, others, verdicts) for name, table in params.tables.items()}


def read_verdicts(runs: pd.DataFrame) -> Mapping[str, pd.DataFrame]:
    """Whether images were correct, by run: the last of every experiment.

    Raises:
        RequestError, PipelineError: as `pipeline.tracking.read_artifacts`.
    """
    last = runs.drop_duplicates(["fingerprint", "evaluation_fingerprint"], keep="last")["run_id"]
    return read_artifacts(last, "verdicts.parquet", if_whole(lambda path: by_image(read_frame(path))))


def if_whole(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """None instead of a failure, so that a damaged file is one that is missing."""

    def attempt(path: Path) -> Any:
        try:
            return read(path)
        except ValueError:
            return None

    return attempt


def fill(
    params: Params,
    table: TableSettings,
    runs: pd.DataFrame,
    others: pd.DataFrame | None = None,
    verdicts: Mapping[str, pd.DataFrame] = MappingProxyType({}),
) -> pd.DataFrame:
    """The cells of a table.

    Only a run with the experiment's fingerprint and evaluation fingerprint fills a cell; of several, the last that
    finished, of this code where there is one: a number that other code has made says so in a note.

    Args:
        params: Gives methods, seeds and attacks.
        table: What to fill.
        runs: As `finished_runs` gives them.
        others: As `runs_of_other_protocols` gives them; used where the table asks for it.
        verdicts: As `read_verdicts` gives them.

    Returns:
        One row per method and metric, in the table's order: `method`; `metric`; `mean` and `std` (over seeds, sample
        standard deviation; percent, seconds or a ratio; NaN where there is none); `low` and `high` (Wilson's 95%
        interval, percent; NaN where it was not asked for or the metric is no share of images); `seeds` found and
        `seeds_expected`; `images` (NA where unknown); `missing` (no seed has a number); `command` that measures the
        missing seeds ("" when none is); `notes` for the reader, a tuple; `digits`, how many decimals are shown; and
        `like_best`, whether it is the best of its column or cannot be told from it on the same images.
    """
    found = find(params, table, runs, others)
    cells = [_cell(params, table, method, column, found) for method in table.rows for column in table.columns]
    results = pd.DataFrame(cells).astype({"images": "Int64"})
    counts = results.groupby("metric")["images"].max()
    metrics = [metric_named(column.metric) for column in table.columns]
    digits = {metric.name: _digits(metric, table, counts[metric.name]) for metric in metrics}
    best = {metric.name: _like_best(params, table, metric, found, verdicts) for metric in metrics}
    like_best = [method in best[metric] for method, metric in zip(results["method"], results["metric"], strict=True)]
    return results.assign(digits=results["metric"].map(digits), like_best=like_best)


def _digits(metric: Metric, table: TableSettings, images: int | None) -> int:
    return table.digits if not metric.is_accuracy or pd.isna(images) else min(table.digits, decimals(images))


def _like_best(
    params: Params,
    table: TableSettings,
    metric: Metric,
    found: dict[str, dict[int, Candidates]],
    verdicts: Mapping[str, pd.DataFrame],
) -> set[str]:
    """Methods whose numbers cannot be told from the best of their column; none where there are no verdicts."""
    members = tuple(params.evaluation.union)
    views: dict[str, tuple[tuple[str, ...], ...]] = {
        name: ((name,),) for name in ("natural", *params.evaluation.attacks)
    }
    views |= {"union": tuple((name,) for name in members), "worst_case_union": (members,)}
    judged: Verdicts = {}
    for method in table.rows if metric.name in views else ():  # what another metric is made of only that knows
        last = {seed: runs[-1]["run_id"] for seed, one in found[method].items() if (runs := measured(one, metric))}
        if own := {seed: verdicts[run_id] for seed, run_id in last.items() if run_id in verdicts}:
            judged[method] = own
    return like_best(judged, list(judged), views[metric.name]) if judged else set()


def measure(
    experiments: Mapping[str, Mapping[int, Experiment]], metrics: Iterable[str], runs: pd.DataFrame
) -> pd.DataFrame:
    """Metrics of any experiments, whether or not they are those of a method of the file.

    Args:
        experiments: By a name of your choice and seed.
        metrics: As `fill`.
        runs: As `fill`.

    Returns:
        One row per name and metric, in order: `name`, and `metric`, `mean`, `std`, `seeds`, `seeds_expected`, `images`,
        `missing` as `fill`; `below` and `above`, how far its error bar reaches: one standard deviation over seeds, or
        Wilson's 95% interval where one seed is all that is expected; NaN where there is neither.
    """
    wanted, addresses = [metric_named(metric) for metric in metrics], _addresses(runs)
    rows = []
    for name, seeded in experiments.items():
        candidates = [_candidates(experiment, addresses) for experiment in seeded.values()]
        for metric in wanted:
            last = [found[-1] for one in candidates if (found := measured(one, metric))]
            row = {"name": name, "metric": metric.name, "seeds_expected": len(seeded)}
            shown = _over_seeds(metric, last, [metric.value(run) * metric.scale for run in last])
            below, above = _error_bar(metric, shown, len(seeded))
            rows.append(row | shown | {"below": below, "above": above})
    return pd.DataFrame(rows).astype({"images": "Int64"})


def latest_runs(experiments: Iterable[Experiment], runs: pd.DataFrame) -> dict[int, str]:
    """By seed, the MLflow run that counts for each of a method's experiments; those without one are left out."""
    addresses = _addresses(runs)
    found = {experiment.seed: _candidates(experiment, addresses)[0] for experiment in experiments}
    return {seed: str(matching[-1]["run_id"]) for seed, matching in found.items() if matching}


def beside_paper(params: Params, table: TableSettings, results: pd.DataFrame) -> pd.DataFrame | None:
    """The cells that the papers have a number for.

    Args:
        params: Gives data set and networks.
        table: Names the papers' tables.
        results: As `fill` gives them.

    Returns:
        Those rows of `results` with `paper` (the printed number, percent) and `difference` (`mean` minus it, percentage
        points), and notes on the printed number added; None where the papers have none for this data set and network.
    """
    networks = {method: params.experiment(method, params.seeds[0]).architecture for method in table.rows}
    wanted = results.assign(architecture=results["method"].map(networks))
    printed = cells_on(params.data.name, table.paper)
    merged = wanted.merge(printed, on=["architecture", "method", "metric"], how="inner", validate="one_to_one")
    if merged.empty:
        return None
    doubts = audit()
    unions = doubts[doubts["check"] == UNION].to_dict("records")
    expected = {tuple(row[key] for key in CELL): row["expected"] for row in unions}
    notes = [(*row["notes"], *_notes_on_paper(row, expected)) for _, row in merged.iterrows()]
    return merged.assign(
        paper=merged["value"], difference=merged["mean"] - merged["value"], notes=pd.Series(notes, index=merged.index)
    ).drop(columns=["value", "note", "architecture"])


def _notes_on_paper(row: pd.Series, expected: Mapping[tuple[Any, ...], float]) -> Iterator[str]:
    """What the reader must know of a printed number; `expected`: what doubtful Unions should be."""
    if row["note"]:
        yield row["note"]
    if (mean := expected.get(tuple(row[CELL]))) is not None:
        title = TITLES[row["table"]]
        yield f"{title} prints {row['value']:.2f} where its own AutoAttack columns have the mean {mean:.2f}."


def find(
    params: Params, table: TableSettings, runs: pd.DataFrame, others: pd.DataFrame | None = None
) -> dict[str, dict[int, Candidates]]:
    """The runs that a table needs, by method and seed; arguments as those of `fill`."""
    frames = [runs] if others is None or not table.other_protocols else [runs, others]
    addresses = [_addresses(frame) for frame in frames]
    needed = dict.fromkeys([*table.rows, *(column.relative_to for column in table.columns if column.relative_to)])
    return {
        method: {seed: _candidates(params.experiment(method, seed), *addresses) for seed in params.seeds}
        for method in needed
    }


def _candidates(experiment: Experiment, *addresses: Addresses) -> Candidates:
    key = experiment.fingerprint, experiment.evaluation_fingerprint
    return [found.get(key, []) for found in addresses]


def measured(candidates: Candidates, metric: Metric) -> list[Run]:
    """The runs of an experiment that have the metric: of its own protocol, or else of another one."""
    having = ([run for run in runs if not math.isnan(metric.value(run))] for runs in candidates)
    return next(filter(None, having), [])


def _addresses(runs: pd.DataFrame) -> Addresses:
    found: Addresses = {}
    # Aliases, methods with equal settings, share their runs: each run counts once.
    alone = runs.drop_duplicates(["run_id", "fingerprint", "evaluation_fingerprint"])
    for run in alone.sort_values("end_time", kind="stable").to_dict("records"):
        key = run["fingerprint"], run["evaluation_fingerprint"]
        found.setdefault(key, []).append({str(name): value for name, value in run.items()})
    return found


def _cell(
    params: Params, table: TableSettings, method: str, column: TableColumn, found: dict[str, dict[int, Candidates]]
) -> dict[str, Any]:
    metric, reference = metric_named(column.metric), column.relative_to
    values, last, missing = [], [], []
    notes: dict[str, None] = {}
    for seed in params.seeds:
        runs, beside = (measured(found[name][seed], metric) for name in (method, reference or method))
        if not runs or not beside:
            missing.append(f"{metric.stage}@{reference if runs else method}-{seed}")
            continue
        value = metric.value(runs[-1])
        values.append(value * metric.scale if reference is None else value / metric.value(beside[-1]))
        last.append(runs[-1])
        notes |= dict.fromkeys(_notes(params, f"{method} with seed {seed}", metric, runs))
    shown, low, high = _over_seeds(metric, last, values), math.nan, math.nan
    if table.uncertainty == "wilson" and metric.is_accuracy and shown["images"] is not None:
        low, high = (100 * end for end in wilson(shown["mean"] / 100, shown["images"]))
    return {
        "method": method,
        "metric": column.metric,
        **shown,
        "low": low,
        "high": high,
        "seeds_expected": len(params.seeds),
        "command": f"dvc repro {' '.join(missing)}" if missing else "",
        "notes": tuple(notes),
    }


def _error_bar(metric: Metric, shown: Mapping[str, Any], seeds: int) -> tuple[float, float]:
    mean, std = shown["mean"], shown["std"]
    if not metric.is_accuracy:
        return std, std
    if seeds > 1:
        return min(std, mean), min(std, 100 - mean)
    if shown["missing"] or not shown["images"]:
        return math.nan, math.nan
    low, high = wilson(mean / 100, shown["images"])
    return max(mean - 100 * low, 0.0), max(100 * high - mean, 0.0)  # rounding may leave less than 0


def _over_seeds(metric: Metric, runs: list[Run], values: list[float]) -> dict[str, Any]:
    """What the numbers of several seeds come to; `runs` are those that gave them."""
    counts = [metric.images(run) for run in runs]
    return {
        "mean": fmean(values) if values else math.nan,
        "std": stdev(values) if len(values) > 1 else math.nan,
        "seeds": len(values),
        "images": max((int(count) for count in counts if not math.isnan(count)), default=None),
        "missing": not values,
    }


def _notes(params: Params, what: str, metric: Metric, runs: list[Run]) -> Iterator[str]:
    """What the reader must know of the number of one seed, which the last of `runs` gives."""
    run = runs[-1]
    made_by = run.get("ood_made_by" if metric.stage == "ood" else "made_by")
    if made_by in (OTHER_CODE, UNKNOWN_CODE):
        yield OLDER_CODE.format(made_by)
    if run["protocol"] != params.protocol:
        yield f"From a run of protocol {run['protocol'].replace('_', ' ')}, not {params.protocol.replace('_', ' ')}."
    if not run.get("same_attacks", True) and metric.name not in (TRAINING_SECONDS, "natural"):
        yield OTHER_ATTACKS
    if len({metric.value(item) for item in runs}) > 1 and metric.name != TRAINING_SECONDS:
        shown = ", ".join(f"{metric.value(item) * metric.scale:g} in `{item['run_id'][:SHORT]}`" for item in runs)
        yield f"Runs of {what} differ: {shown}. The one that finished last is used, `{run['run_id'][:SHORT]}`."
    images, everything = metric.images(run), params.data.facts.test_images
    if everything is not None and images < everything:
        yield f"{int(images):,} of {everything:,} test images."
    attacks = {params.evaluation.attacks[name].name for name in metric.attacks(params.evaluation)}
    if run.get("gradient_masking") == "suspected" and "autoattack" in attacks:
        yield MASKING
    if metric.stage == "ood" and "regenerated" in str(run.get("ood_provenance")):
        yield REGENERATED


def awaits_corrupted_images(results: pd.DataFrame) -> bool:
    """Whether a table is left out: it is about corrupted images, beside `natural` alone, and has no number on them."""
    about = results[results["metric"] != "natural"]
    stages = {metric_named(name).stage for name in about["metric"]}
    return stages == {"ood"} and bool(about["missing"].all())
