"""docs/reproduction.md: its numbers follow from records, none of them is typed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from pipeline.reporting.intervals import bracketed
from pipeline.reporting.markdown import fill_blocks, markdown_table, markdown_text
from pipeline.reporting.reproduction.claims import (
    COSTS,
    METHOD,
    NETWORK,
    NOT_TESTED,
    STEPS,
    Steps,
    ensemble,
    judge_cost,
)
from pipeline.reporting.reproduction.findings import METRICS, Findings, Printed, paper_numbers
from pipeline.reporting.reproduction.record import Run
from pipeline.reporting.results import SHORT

PAGE = Path("docs/reproduction.md")
STUDY = ("cifar10_study", "paper", "small_cnn")
NOT_MEASURED = "Not measured (`make suite SUITE=cifar10_study && make ablation && python -m stages.reproduction`)."
ORDER = [
    (METHOD, "paper"),
    ("at", "paper"),
    (METHOD, "reference_code"),
    ("generalist_t", "paper"),
    ("generalist_d_linf_l2", "paper"),
    ("trades_1", "paper"),
]
"""In which order the papers' full experiments are worth their time; the other rows follow."""


def fill_page(page: str, findings: Iterable[Findings], steps: Steps | None) -> str:
    """The page with all its blocks as the findings have it; what was not measured is said to be, with its command. A
    KeyError says that there is nothing for a block of this name."""
    by_place = {
        (one.record.suite.suite, one.record.suite.protocol, one.record.suite.architecture): one for one in findings
    }
    study = by_place.get(STUDY)
    of_study = {
        "study_scale": _scale,
        "study": _study,
        "study_runs": _runs,
        "study_settings": _settings,
        "study_claims": _claims,
    }
    texts = {name: NOT_MEASURED if study is None else write(study) for name, write in of_study.items()}
    texts["costs"] = "Not measured (`python -m benchmarks methods`)." if steps is None else _costs(steps)
    texts["full"] = _full({name: by_place.get(("cifar10", name, "resnet18")) for name in ("paper", "reference_code")})
    return fill_blocks(page, texts.__getitem__)


def _scale(found: Findings) -> str:
    """How far from the papers' experiment the suite is, by the settings of Generalist-D."""
    runs = found.record.of(METHOD)
    if not runs:
        return NOT_MEASURED
    settings = found.record.experiments[runs[0].identifier]
    data, learners, mixture = settings["data"], settings["method"]["learners"], settings["method"]["mixture"]
    attack = settings["evaluation"]["attacks"]["aa_linf"]
    rates = ", ".join(f"{learners[name]['optimizer']['learning_rate']:g}" for name in ("linf", "natural"))
    decays = ", ".join(f"{learners[name]['optimizer']['weight_decay']:g}" for name in ("linf", "natural"))
    lines = [
        ["network", f"`{found.record.suite.architecture}`", "ResNet-18"],
        ["training images", _count(data["train_images"]), "50,000"],
        ["held-out images", _count(data["held_out_images"]), "not stated"],
        ["test images", _count(data["test_images"]), "10,000"],
        ["epochs", f"{settings['training']['epochs']}", "120"],
        ["breakpoints of gamma_1", ", ".join(f"{epoch:g}" for epoch in mixture["breakpoints"]), "0, 40, 80, 120"],
        ["t', c, decay", f"{mixture['warmup_epochs']}, {mixture['communication_interval']}, {mixture['decay']:g}",
         "75, 5, 0.999"],
        ["learning rate, linf and natural learner", rates, "0.01, 0.1"],
        ["weight decay, likewise", decays, "0.0035, 0.0005"],
        [f"{ensemble(found.record)}, images", f"{', '.join(attack['members'])}; {_count(attack['images'])}",
         "apgd_ce, apgd_t, fab_t, square; 10,000"],
        ["seeds", ", ".join(map(str, found.record.suite.seeds)), "not stated"],
    ]  # fmt: skip
    return markdown_table(["", "here", "papers"], lines)


def _count(images: int | None) -> str:
    return "all" if images is None else f"{images:,}"


def _study(found: Findings) -> str:
    """What was reached beside what the papers print."""
    record, printed = found.record, paper_numbers("cifar10", "resnet18")
    labels = _labels(ensemble(record))
    lines = []
    for name, label in record.suite.methods.items():
        lines += [[markdown_text(label), "here", *_here(found, name)], ["", "papers", *_paper(printed, name)]]
    counts = found.rows.groupby("metric")["images"].max()
    images = ", ".join(f"{labels[metric]} {counts[metric]:,}" for metric in METRICS if not pd.isna(counts[metric]))
    seeds = ", ".join(map(str, record.suite.seeds))
    return (
        f"{markdown_table(['Method', '', *labels.values()], lines)}\n\n**{markdown_text(record.suite.description)}.** "
        f"Percent, mean over the seeds {seeds} with Student's 95 % interval over them. Test images: {images}. "
        "'papers': ResNet-18, 50,000 images, 120 epochs, AutoAttack; the two lines of a method are not comparable."
    )


def _runs(found: Findings) -> str:
    lines = []
    for name in found.record.names:
        own = found.record.of(name)
        kinds = [", ".join(sorted({getattr(run, key) for run in own})) or "--" for key in ("masking", "torch")]
        lines.append([f"`{name}`", *kinds, _run(own)])
    commits = ", ".join(sorted({f"`{_commit(run.commit)}`" for run in found.record.runs}))
    header = ["Experiment", "Gradient masking", "torch", "Training of one seed, device, MLflow runs by seed"]
    return (
        f"{markdown_table(header, lines)}\n\nSeconds are those of machines that had other work at the time: not what "
        f"methods cost beside each other. Code: {commits}."
    )


def _commit(whole: str) -> str:
    """Short, and whether files differed from it."""
    return whole[:10] + "-dirty" * whole.endswith("-dirty")


def _settings(found: Findings) -> str:
    labels, lines = _labels(ensemble(found.record)), []
    for row in found.settings.to_dict("records"):
        shown = [row["study"].replace("_", " "), row["setting"], labels[row["metric"]]]
        lines.append([*shown, *_estimate(row), row["apart"]])
    header = ["Study", "Setting", "Accuracy", "Difference", "over images", "over seeds", "Apart from 0"]
    return (
        f"{markdown_table(header, lines)}\n\nPercentage points, the setting minus "
        f"{markdown_text(found.record.label(METHOD))} as it is; each interval is 95 % by itself, not corrected for "
        "their number."
    )


def _claims(found: Findings) -> str:
    rows = found.claims.to_dict("records")
    lines = [
        [row["text"], row["source"], row["measure"], *_estimate(row), f"**{row['verdict']}**"]
        for row in rows
        if row["verdict"] != NOT_TESTED
    ]
    header = ["Claim", "Papers", "Measured by", "Found", "over images", "over seeds", "Verdict"]
    return (
        f"{markdown_table(header, lines)}\n\nPercentage points. Confirmed: both intervals above zero. Not confirmed: "
        f"both below it. Less than a point: both within one of it. {len(rows) - len(lines)} further claims are about "
        "settings that the study has not; [papers.md](papers.md) lists all of them."
    )


def _costs(steps: Steps) -> str:
    lines = []
    for cost in COSTS:
        (median, least, most), verdict = judge_cost(cost, steps)
        lines.append([cost.text, cost.source, f"{median:.2f} [{least:.2f}, {most:.2f}]", f"**{verdict}**"])
    header = ["Claim", "Papers", "Time, relative to the others", "Verdict"]
    return (
        f"{markdown_table(header, lines)}\n\nTraining steps with {NETWORK} that take turns in one process "
        f"(`{STEPS.name}`): medians, and in brackets the least and the most that the rounds allow."
    )


def _full(found: Mapping[str, Findings | None]) -> str:
    """The rows of the papers' own experiment."""
    printed = paper_numbers("cifar10", "resnet18")
    others = [(name, "paper") for name, _ in printed]
    lines = []
    for name, protocol in dict.fromkeys([*ORDER, *others]):
        one = found[protocol]
        runs = one.record.of(name) if one else []
        lines.append([f"`{name}`", f"`{protocol}`", "papers", *_paper(printed, name), ""])
        if one and runs:
            lines.append(["", "", "here", *_here(one, name), _run(runs)])
    header = ["Method", "Protocol", "", *_labels("AA").values(), "Training of one seed, device, MLflow runs by seed"]
    missing = "" if any(found.values()) else "\n\nNone of these rows has been run here."
    return markdown_table(header, lines) + missing


def _labels(attack: str) -> dict[str, str]:
    return {metric: label.format(attack=attack) for metric, label in METRICS.items()}


def _here(found: Findings, name: str) -> list[str]:
    """What an experiment reached: mean and interval over seeds by metric."""
    rows = found.rows[found.rows["name"] == name].set_index("metric").reindex(list(METRICS))
    return [
        _number(row["mean"], 1) + ("" if math.isnan(row["low"]) else f" [{row['low']:.1f}, {row['high']:.1f}]")
        for row in rows.to_dict("records")
    ]


def _paper(printed: Printed, name: str) -> list[str]:
    return [_number(printed.get((name, metric), math.nan), 2) for metric in METRICS]


def _run(runs: Sequence[Run]) -> str:
    """How long an experiment was trained, on what, and where its runs are."""
    if not runs:
        return "not measured"
    devices = ", ".join(sorted({run.device for run in runs}))
    ids = ", ".join(f"`{run.run_id[:SHORT]}`" for run in runs)
    return f"{fmean(run.seconds for run in runs):,.0f} s, {devices}, {ids}"


def _estimate(row: Mapping[Any, Any]) -> list[str]:
    """The number and its two intervals as three cells."""
    shown = [bracketed(row[f"{kind}_low"], row[f"{kind}_high"]) for kind in ("images", "seeds")]
    return ["--" if math.isnan(row["value"]) else f"{row['value']:+.1f}", *shown]


def _number(value: float, digits: int) -> str:
    return "--" if math.isnan(value) else f"{value:.{digits}f}"
