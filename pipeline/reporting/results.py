"""Which number belongs into which cell of a table, and what fills the cells that are empty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from pipeline.config import TRAINING_SECONDS, Experiment, Params, TableColumn, TableSettings
from pipeline.config.metrics import metric_named
from pipeline.core.datasets import DATASETS
from pipeline.core.errors import PipelineError
from pipeline.evaluation.statistics import wilson
from pipeline.reporting.audit import UNION, audit
from pipeline.reporting.papers import TITLES, printed_cells
from pipeline.tracking import OTHER_CODE, UNKNOWN_CODE, finished_runs, mask, runs_of_other_protocols, tracking_uri

REGENERATED = "Regenerated images, not the released files."
OTHER_ATTACKS = "Attacked with other settings than the caption's: see `experiment.json` of its run."
OLDER_CODE = "Made by {}, not by this checkout's: `{}` measures it anew, `make explain` says what differs."
MASKING = "There are signs of gradient masking: see `trust.json` of this run."
SHORT = 8
"""Digits of a run's id that are shown."""


Run = dict[str, Any]
"""A row of `finished_runs`; numbers that it lacks are NaN."""
Addresses = dict[tuple[str, str], list[Run]]
"""Runs by fingerprint and evaluation fingerprint, the one that finished last at the end."""


@dataclass(frozen=True)
class Found:
    """The runs of one method of a table by seed, the one that finished last at the end."""

    own: dict[int, list[Run]]
    """The runs with the experiment's fingerprints."""
    other: dict[int, list[Run]]
    """The runs of another protocol, where the table asks for them."""

    def chosen(self, seed: int, metric: str) -> list[Run]:
        """The runs that have the metric: of this protocol, or else of another one."""
        return _measured(self.own[seed], metric) or _measured(self.other[seed], metric)


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
    return {name: fill(params, table, runs, others) for name, table in params.tables.items()}


def fill(params: Params, table: TableSettings, runs: pd.DataFrame, others: pd.DataFrame | None = None) -> pd.DataFrame:
    """The cells of a table.

    Only a run with the experiment's fingerprint and evaluation fingerprint fills a cell; of several, the last that
    finished, of this code where there is one: a number that other code has made says so in a note.

    Args:
        params: Gives methods, seeds and attacks.
        table: What to fill.
        runs: As `finished_runs` gives them.
        others: As `runs_of_other_protocols` gives them; used where the table asks for it.

    Returns:
        One row per method and metric, in the table's order: `method`; `metric`; `mean` and `std` (over seeds, sample
        standard deviation; percent, seconds or a ratio; NaN where there is none); `low` and `high` (Wilson's 95%
        interval, percent; NaN where it was not asked for or the metric is no share of images); `seeds` found and
        `seeds_expected`; `images` (NA where unknown); `missing` (no seed has a number); `command` that measures the
        missing seeds ("" when none is); `notes` for the reader, a tuple.
    """
    found = find(params, table, runs, others)
    cells = [_cell(params, table, method, column, found) for method in table.rows for column in table.columns]
    return pd.DataFrame(cells).astype({"images": "Int64"})


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
        `missing` as `fill`.
    """
    columns, addresses = [TableColumn(metric=metric, label=metric) for metric in metrics], _addresses(runs)
    rows = []
    for name, seeded in experiments.items():
        matching = [addresses.get(_address(experiment), []) for experiment in seeded.values()]
        for column in columns:
            last = [found[-1] for found in (_measured(item, column.metric) for item in matching) if found]
            row = {"name": name, "metric": column.metric, "seeds_expected": len(seeded)}
            rows.append(row | _over_seeds([_value(column, run, run) for run in last], _images(last, column.metric)))
    return pd.DataFrame(rows).astype({"images": "Int64"})


def latest_runs(experiments: Iterable[Experiment], runs: pd.DataFrame) -> dict[int, str]:
    """By seed, the MLflow run that counts for each of a method's experiments; those without one are left out."""
    addresses = _addresses(runs)
    found = {experiment.seed: addresses.get(_address(experiment)) for experiment in experiments}
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
    printed = printed_cells()
    order = {name: place for place, name in enumerate(table.paper)}
    printed = printed[printed["table"].isin(order) & printed["dataset"].eq(params.data.name)]
    printed = printed.sort_values("table", key=lambda names: names.map(order), kind="stable")
    printed = printed.drop_duplicates(["architecture", "method", "metric"])  # the table that is listed first counts
    networks = {method: params.experiment(method, params.seeds[0]).architecture for method in table.rows}
    wanted = results.assign(architecture=results["method"].map(networks))
    merged = wanted.merge(printed, on=["architecture", "method", "metric"], how="inner", validate="one_to_one")
    if merged.empty:
        return None
    doubts = audit()
    doubts = doubts[doubts["check"] == UNION]
    notes = [(*row["notes"], *_notes_on_paper(row, doubts)) for _, row in merged.iterrows()]
    return merged.assign(
        paper=merged["value"], difference=merged["mean"] - merged["value"], notes=pd.Series(notes, index=merged.index)
    ).drop(columns=["value", "note", "architecture"])


def _notes_on_paper(row: pd.Series, doubts: pd.DataFrame) -> Iterator[str]:
    if row["note"]:
        yield row["note"]
    for key in ("table", "dataset", "architecture", "method", "metric"):
        doubts = doubts[doubts[key] == row[key]]
    for _, doubt in doubts.iterrows():
        yield (
            f"{TITLES[row['table']]} prints {doubt['printed']:.2f} where its own AutoAttack columns have the mean "
            f"{doubt['expected']:.2f}."
        )


def find(
    params: Params, table: TableSettings, runs: pd.DataFrame, others: pd.DataFrame | None = None
) -> dict[str, Found]:
    """The runs that a table needs, by method; arguments as those of `fill`."""
    own = _addresses(runs)
    other = _addresses(others) if others is not None and table.other_protocols else {}
    needed = [*table.rows, *(column.relative_to or table.rows[0] for column in table.columns)]
    found = {}
    for name in dict.fromkeys(needed):
        experiments = [params.experiment(name, seed) for seed in params.seeds]
        keys = {item.seed: _address(item) for item in experiments}
        by_seed = [{seed: runs.get(key, []) for seed, key in keys.items()} for runs in (own, other)]
        found[name] = Found(*by_seed)
    return found


def _address(experiment: Experiment) -> tuple[str, str]:
    return experiment.fingerprint, experiment.evaluation_fingerprint


def _addresses(runs: pd.DataFrame) -> Addresses:
    found: Addresses = {}
    # Aliases, methods with equal settings, share their runs: each run counts once.
    alone = runs.drop_duplicates(["run_id", "fingerprint", "evaluation_fingerprint"])
    for run in alone.sort_values("end_time", kind="stable").to_dict("records"):
        key = run["fingerprint"], run["evaluation_fingerprint"]
        found.setdefault(key, []).append({str(name): value for name, value in run.items()})
    return found


def _cell(
    params: Params, table: TableSettings, method: str, column: TableColumn, found: dict[str, Found]
) -> dict[str, Any]:
    values, last, missing = [], [], []
    notes: dict[str, None] = {}
    for seed in params.seeds:
        names = [method, column.relative_to or method]
        runs, reference = (found[name].chosen(seed, column.metric) for name in names)
        if not runs or not reference:
            missing.append(f"{stage_of(column)}@{column.relative_to if runs else method}-{seed}")
            continue
        values.append(_value(column, runs[-1], reference[-1]))
        last.append(runs[-1])
        notes |= dict.fromkeys(_notes(params, method, seed, column, runs))
    shown = _over_seeds(values, _images(last, column.metric))
    low, high = _interval(table, column, shown["mean"], shown["images"])
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


def _over_seeds(values: list[float], images: int | None) -> dict[str, Any]:
    """What the numbers of several seeds come to."""
    return {
        "mean": fmean(values) if values else math.nan,
        "std": stdev(values) if len(values) > 1 else math.nan,
        "seeds": len(values),
        "images": images,
        "missing": not values,
    }


def _images(runs: list[Run], metric: str) -> int | None:
    """On how many images a metric was measured at most; None where unknown."""
    counts = [metric_named(metric).images(run) for run in runs]
    return max((int(count) for count in counts if not math.isnan(count)), default=None)


def stage_of(column: TableColumn) -> str:
    """The DVC stage that measures a column."""
    return metric_named(column.metric).stage


def _interval(table: TableSettings, column: TableColumn, mean: float, images: int | None) -> tuple[float, float]:
    """Wilson's interval in percent, where the table asks for it and the metric is a share of images."""
    if table.uncertainty != "wilson" or not metric_named(column.metric).is_accuracy or images is None:
        return math.nan, math.nan
    low, high = wilson(mean / 100, images)
    return 100 * low, 100 * high


def _notes(params: Params, method: str, seed: int, column: TableColumn, runs: list[Run]) -> Iterator[str]:
    """What the reader must know of the number of one seed, which the last of `runs` gives."""
    run, metric = runs[-1], metric_named(column.metric)
    made_by = "ood_made_by" if metric.stage == "ood" else "made_by"
    if run.get(made_by) in (OTHER_CODE, UNKNOWN_CODE):
        yield OLDER_CODE.format(run[made_by], "dvc repro")
    if run["protocol"] != params.protocol:
        yield f"From a run of protocol {run['protocol'].replace('_', ' ')}, not {params.protocol.replace('_', ' ')}."
    if not run.get("same_attacks", True) and metric.name not in (TRAINING_SECONDS, "natural"):
        yield OTHER_ATTACKS
    if len({metric.value(item) for item in runs}) > 1 and metric.name != TRAINING_SECONDS:
        shown = ", ".join(f"{_value(column, item, item):g} in `{item['run_id'][:SHORT]}`" for item in runs)
        last = run["run_id"][:SHORT]
        yield f"Runs of {method} with seed {seed} differ: {shown}. The one that finished last is used, `{last}`."
    images = metric.images(run)
    everything = DATASETS[params.data.name].test_images
    if everything is not None and images < everything:
        yield f"{int(images):,} of {everything:,} test images."
    if run.get("gradient_masking") == "suspected" and "autoattack" in _attacks(params, metric.name):
        yield MASKING
    if metric.stage == "ood" and "regenerated" in str(run.get("ood_provenance")):
        yield REGENERATED


def _attacks(params: Params, metric: str) -> set[str]:
    """The kinds of attacks that a metric comes from."""
    names = metric_named(metric).attacks(params.evaluation)
    return {params.evaluation.attacks[name].name for name in names}


def awaits_corrupted_images(results: pd.DataFrame) -> bool:
    """Whether a table is left out: it is about corrupted images, beside `natural` alone, and has no number on them."""
    about = results[results["metric"] != "natural"]
    stages = {metric_named(name).stage for name in about["metric"]}
    return stages == {"ood"} and bool(about["missing"].all())


def _measured(runs: list[Run], metric: str) -> list[Run]:
    """The runs that have the metric."""
    return [run for run in runs if not math.isnan(metric_named(metric).value(run))]


def _value(column: TableColumn, run: Run, reference: Run) -> float:
    """What the cell says for one seed: percent, seconds, or the ratio to another method's value."""
    metric = metric_named(column.metric)
    if column.relative_to is not None:
        return metric.value(run) / metric.value(reference)
    return metric.value(run) * metric.scale
