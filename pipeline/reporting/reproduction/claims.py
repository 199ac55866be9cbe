"""What the papers claim of Generalist and what their authors' code does otherwise, tested on a suite's verdicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from pipeline.core.values import in_epochs
from pipeline.evaluation.attacks.autoattack import MEMBER_NAMES, STANDARD_MEMBERS
from pipeline.reporting.intervals import (
    Contrast,
    Estimate,
    above_frontier,
    above_line,
    between_views,
    difference,
    estimate,
)
from pipeline.reporting.papers import control_claims, stated_claims
from pipeline.reporting.reproduction.record import Record

METHOD = "generalist_d_nt_linf"
"""Generalist-D (NT + linf), which the papers' ablations and the authors' code are about."""
SHOWN = ("natural", "pgd20_linf", "aa_linf")
"""What settings of the grid are compared by."""
Verdict = Literal[
    "confirmed",
    "not confirmed",
    "one seed speaks for it",
    "one seed speaks against it",
    "less than a point, either way",
    "cannot be told at this size",
    "not measured",
]
BLURRED: Verdict = "cannot be told at this size"
NOT_TESTED: Verdict = "not measured"
MARGIN = 1.0
"""Percentage points that would matter to who chooses between methods; docs/narrow.md says why."""
VALUES = {"difference": difference, "above_line": above_line, "above_frontier": above_frontier}
NUMBERS = list(Estimate.__dataclass_fields__)
STEPS = Path("benchmarks/results/methods.json")
"""What `python -m benchmarks methods` wrote: a benchmark in which the methods' steps take turns on one machine."""
NETWORK = "resnet18"
"""The one whose steps count."""
Steps = Mapping[str, Mapping[str, float]]
"""By method, the time of a step relative to AT's beside it: `median`, `least` and `most` of the rounds."""


def judge_all(record: Record) -> pd.DataFrame:
    """The papers' claims that verdicts can tell of, in words for this suite, each with its verdict.

    `pipeline/reporting/paper/claims.csv` has them. An experiment there is a method, or method/study/setting; a setting
    of c counts only where it is the same share of all epochs, so that nothing is tested at a c that the papers never
    tried. Of views joined by '+', an image must be correct under all. The controls (`controls.csv`) follow where a
    suite has them.

    Returns:
        `claim`, `text`, `source`, `measure` (the number that is above zero if the claim holds); `value`, `images_low`,
        `images_high`, `seeds_low`, `seeds_high` (percentage points), `images`, `seeds` (NA where it was not measured);
        `verdict`.
    """
    rows: list[dict[str, object]] = []
    for number, row in enumerate([*stated_claims(), *control_claims()]):
        contrast = Contrast(
            tuple(_experiment(record, address) for address in row["experiments"].split("; ")),
            tuple(tuple(view.split("+")) for view in row["views"].split("; ")),
            VALUES[row["value"]],
        )
        found = estimate(record.verdicts, contrast)
        if found is None and number >= len(stated_claims()):
            continue
        said = {"claim": row["key"], "text": row["text"], "source": row["source"]}
        said["measure"] = row["measure"].format(attack=ensemble(record))
        rows.append({**said, **_columns(found), "verdict": judge(found)})
    return _typed(rows)


def _experiment(record: Record, address: str) -> str:
    """The name of the experiments of an address; "" where the suite has none."""
    method, *rest = address.split("/", 2)
    if not rest:
        return method
    study, text = rest
    if not text.startswith("c = "):
        return record.name(study, method, text)
    share = Fraction(text.removeprefix("c = "))
    settings = (one for one in record.settings if (one.study, one.method) == (study, method))
    return next((one.name for one in settings if _interval(record, one.name) == share), "")


def _interval(record: Record, name: str) -> Fraction | None:
    """c of an experiment as a share of its epochs; None where it has no run."""
    runs = record.of(name)
    if not runs:
        return None
    settings = record.experiments[runs[0].identifier]
    epochs: int = settings["training"]["epochs"]
    return in_epochs(settings["method"]["mixture"]["communication_interval"], epochs) / epochs


def ensemble(record: Record) -> str:
    """What the metrics `aa_linf` and `aa_l2` are: AutoAttack, or those of its members that were run."""
    members = record.suite.attacks.get("aa_linf", {}).get("members", [])
    if members == STANDARD_MEMBERS:
        return "AutoAttack"
    return "APGD" if members == ["apgd_ce", "apgd_t"] else " + ".join(MEMBER_NAMES[name] for name in members)


def judge(found: Estimate | None) -> Verdict:
    """What an estimate says of the claim that its number is above zero.

    Confirmed where both of its intervals are, not confirmed where both are below; where both lie within the margin, the
    difference is too small to matter. One seed has an interval over images alone, which confirms nothing.
    """
    if found is None:
        return NOT_TESTED
    if found.seeds == 1 and found.images_low > 0:
        return "one seed speaks for it"
    if found.seeds == 1 and found.images_high < 0:
        return "one seed speaks against it"
    if found.is_above or found.is_below:
        return "confirmed" if found.is_above else "not confirmed"
    return "less than a point, either way" if found.is_within(MARGIN) else BLURRED


def compare_settings(record: Record) -> pd.DataFrame:
    """Every setting of the grid against the method as it is, and the attack that the authors' code really runs.

    Returns:
        `study`, `method`, `setting`, `metric`; `value` and the rest as `judge_all`, of the setting minus the default;
        `apart`: whether both intervals lie on the same side of zero.
    """
    compared = [
        ((one.study, one.method, one.text, metric), Contrast((one.name, one.method), ((metric,),)))
        for one in record.settings
        if one.name != one.method
        for metric in SHOWN
    ]
    if "pgd10_linf" in record.suite.attacks:
        place = ("switches", METHOD, "PGD-20 that takes 10 steps", "pgd20_linf")
        compared.append((place, Contrast((METHOD,), (("pgd10_linf",), ("pgd20_linf",)), between_views)))
    rows: list[dict[str, object]] = []
    for place, contrast in compared:
        found = estimate(record.verdicts, contrast)
        apart = "not measured" if found is None else "yes" if found.is_above or found.is_below else "cannot be told"
        named = dict(zip(("study", "method", "setting", "metric"), place, strict=True))
        rows.append({**named, **_columns(found), "apart": apart})
    return _typed(rows)


def _columns(found: Estimate | None) -> dict[str, float | None]:
    return dict.fromkeys(NUMBERS) if found is None else asdict(found)


def _typed(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    kinds = {**dict.fromkeys(NUMBERS, "float64"), "images": "Int64", "seeds": "Int64"}
    return pd.DataFrame(rows).astype(kinds) if rows else pd.DataFrame(columns=NUMBERS)


@dataclass(frozen=True)
class Cost:
    """The papers' claim that a method takes less time than others together."""

    text: str
    source: str
    method: str
    others: tuple[str, ...]


GENERALIST = "Generalist-D (NT + linf), one learner after the other,"
COSTS = (
    Cost(f"{GENERALIST} is faster than TRADES (lambda = 6)", "CVPR 4.1", "generalist_d_nt_linf", ("trades_6",)),
    Cost(f"{GENERALIST} is faster than TRADES (lambda = 1)", "CVPR 4.1", "generalist_d_nt_linf", ("trades_1",)),
    Cost(f"{GENERALIST} takes no more than NT and AT", "CVPR 4.1", "generalist_d_nt_linf", ("nt", "at")),
)


def read_steps() -> Steps | None:
    """The committed benchmark; None where there is none."""
    if not STEPS.exists():
        return None
    measured: dict[str, Any] = json.loads(STEPS.read_text(encoding="utf-8"))["architectures"][NETWORK]["methods"]
    return {name: one["relative_to_at"] for name, one in measured.items()}


def judge_cost(cost: Cost, steps: Steps) -> tuple[list[float], str]:
    """The method's time over that of the others together: median, least and most that the rounds allow; and verdict."""
    own, others = steps[cost.method], [steps[name] for name in cost.others]
    ratios = [
        own[end] / sum(other[opposite] for other in others)
        for end, opposite in (("median", "median"), ("least", "most"), ("most", "least"))
    ]
    _, least, most = ratios
    return ratios, "confirmed" if most < 1 else "not confirmed" if least > 1 else "cannot be told from these rounds"
