"""What the papers claim of Generalist and what their authors' code does otherwise, tested on a suite's verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import pandas as pd

from pipeline.reporting.reproduction.intervals import (
    Contrast,
    Estimate,
    above_line,
    between_views,
    difference,
    estimate,
)
from pipeline.reporting.reproduction.record import Record, Setting

METHOD = "generalist_d_nt_linf"
"""Generalist-D (NT + linf), which the papers' ablations and the authors' code are about."""
NATURAL, PGD, PGD_L2, AA, AA_L2 = ("natural",), ("pgd20_linf",), ("pgd20_l2",), ("aa_linf",), ("aa_l2",)
SHOWN = {"natural": NATURAL, "pgd20_linf": PGD, "aa_linf": AA}
"""What settings of the grid are compared by."""
MEMBERS = {
    "apgd_ce": "APGD-CE",
    "apgd_dlr": "APGD-DLR",
    "apgd_t": "targeted APGD",
    "fab_t": "FAB-T",
    "square": "Square",
}
"""Of AutoAttack, as the field writes them."""
MARGIN = 1.0
"""Percentage points: c is said not to matter where no value of it differs by more."""
Verdict = Literal["confirmed", "not confirmed", "cannot be told at this size", "not measured"]
BLURRED: Verdict = "cannot be told at this size"


@dataclass(frozen=True)
class Claim:
    """One sentence that the verdicts of a suite can speak for or against."""

    key: str
    text: str
    source: str
    """Where the papers have it."""
    measure: str
    """The number that is above zero if the claim holds."""
    contrasts: tuple[Contrast, ...]
    """One; or, where the claim is that settings differ, one for each."""
    differ: bool = False
    """Whether the claim is that some of the contrasts are not zero, on whichever side."""


def claims(record: Record) -> list[Claim]:
    """The papers' claims that a suite with these methods and studies can tell of."""
    attack = ensemble(record)
    return [*_lines(attack), *_decay(record), _interval(record), *_unions(attack)]


def ensemble(record: Record) -> str:
    """What the metrics `aa_linf` and `aa_l2` are: AutoAttack, or those of its members that were run."""
    members = record.suite.attacks.get("aa_linf", {}).get("members", [])
    if members == ["apgd_ce", "apgd_t", "fab_t", "square"]:
        return "AutoAttack"
    return "APGD" if members == ["apgd_ce", "apgd_t"] else " + ".join(MEMBERS[name] for name in members)


def _lines(attack: str) -> Iterator[Claim]:
    source = "CVPR, Figure 1; Generalist++, Figure 1"
    text = "Generalist-D (NT + linf) lies above the line between NT and AT"
    for name, robust in {"PGD-20": PGD, attack: AA}.items():
        contrast = Contrast((METHOD, "nt", "at"), (NATURAL, robust), above_line)
        measure = f"distance from the line, natural against {name} accuracy"
        yield Claim(f"line_nt_at_{robust[0]}", text, source, measure, (contrast,))
    text = "Generalist-D (linf + l2) lies above the line between AT (linf) and AT (l2)"
    for name, views in {"PGD-20": (PGD, PGD_L2), attack: (AA, AA_L2)}.items():
        contrast = Contrast(("generalist_d_linf_l2", "at", "at_l2"), views, above_line)
        measure = f"distance from the line, {name} accuracy in linf against l2"
        yield Claim(f"line_at_at_l2_{views[0][0]}", text, source, measure, (contrast,))


def _decay(record: Record) -> Iterator[Claim]:
    measure = "difference in the mean of natural and PGD-20 accuracy"
    for early in ("1-1-0-0", "1-0-0-0"):
        contrast = Contrast((METHOD, record.name("decay_stages", METHOD, early)), (NATURAL, PGD), difference)
        text = f"late decay of gamma_1 (1-1-1-0) is better than early decay ({early})"
        yield Claim(f"late_decay_{early}", text, "CVPR 4.2.1; Generalist++ V-A", measure, (contrast,))


def _interval(record: Record) -> Claim:
    study = [one for one in record.settings if (one.study, one.method) == ("communication_interval", METHOD)]
    tried = ", ".join(one.text.removeprefix("c = ") for one in study) or "none"
    others = [one.name for one in study if one.name != METHOD]
    contrasts = tuple(Contrast((name, METHOD), (NATURAL, PGD), difference) for name in others)
    measure = "largest difference from the method as it is in the mean of natural and PGD-20 accuracy"
    text = f"the communication interval c matters (tried: {tried})"
    return Claim("interval", text, "CVPR, Figure 4; Generalist++, Figure 6", measure, contrasts, differ=True)


def _unions(attack: str) -> Iterator[Claim]:
    views = {
        f"the mean of both {attack}": (AA, AA_L2),
        f"the worst case of both {attack}": ((*AA, *AA_L2),),
        "the mean of both PGD-20": (PGD, PGD_L2),
        "the worst case of both PGD-20": ((*PGD, *PGD_L2),),
    }
    for baseline, label in {"at": "AT", "at_linf_l2": "AT average"}.items():
        for number, (name, view) in enumerate(views.items(), start=1):
            contrast = Contrast(("generalist_t", baseline), view, difference)
            text = f"Generalist-T is more robust over both norms than {label}"
            source = "Generalist++, Tables I to III"
            yield Claim(f"union_{baseline}_{number}", text, source, f"difference in {name}", (contrast,))


def judge(claim: Claim, found: Sequence[Estimate | None]) -> Verdict:
    """What the estimates of a claim's contrasts say of it.

    A claim that a number is above zero is confirmed where both of its intervals are, and not confirmed where both are
    below. A claim that settings differ is confirmed where both intervals of one of them are on the same side of zero,
    and not confirmed where all are within `MARGIN`.
    """
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return "not measured"
    if claim.differ:
        if any(one.is_above or one.is_below for one in known):
            return "confirmed"
        return "not confirmed" if all(one.is_within(MARGIN) for one in known) else BLURRED
    (only,) = known
    return "confirmed" if only.is_above else "not confirmed" if only.is_below else BLURRED


def judge_all(record: Record) -> pd.DataFrame:
    """Every claim with its verdict.

    Returns:
        `claim`, `text`, `source`, `measure`; of the contrast that lies farthest from zero `value`, `images_low`,
        `images_high`, `seeds_low`, `seeds_high` (percentage points), `images`, `seeds` (NA where it was not measured);
        `verdict`. Several contrasts of a claim share the 5 % of error evenly (Bonferroni).
    """
    rows: list[dict[str, object]] = []
    for claim in claims(record):
        confidence = 1 - 0.05 / max(len(claim.contrasts), 1)
        found = [estimate(record.verdicts, contrast, confidence) for contrast in claim.contrasts]
        shown = max((one for one in found if one is not None), key=lambda one: abs(one.value), default=None)
        said = {"claim": claim.key, "text": claim.text, "source": claim.source, "measure": claim.measure}
        rows.append({**said, **_columns(shown), "verdict": judge(claim, found)})
    return _typed(rows)


def compare_settings(record: Record) -> pd.DataFrame:
    """Every setting of the grid against the method as it is, and the attack that the authors' code really runs.

    Returns:
        `study`, `method`, `setting`, `metric`; `value` and the rest as `judge_all`, of the setting minus the default;
        `apart`: whether both intervals lie on the same side of zero.
    """
    rows = []
    for one in record.settings:
        if one.name != one.method:
            for metric, view in SHOWN.items():
                found = estimate(record.verdicts, Contrast((one.name, one.method), (view,), difference))
                rows.append(_row(one, metric, found))
    steps = Setting("switches", METHOD, "PGD-20 that takes 10 steps", METHOD)
    views = (("pgd10_linf",), PGD)
    if "pgd10_linf" in record.suite.attacks:
        rows.append(_row(steps, "pgd20_linf", estimate(record.verdicts, Contrast((METHOD,), views, between_views))))
    return _typed(rows)


def _row(setting: Setting, metric: str, found: Estimate | None) -> dict[str, object]:
    place = {"study": setting.study, "method": setting.method, "setting": setting.text, "metric": metric}
    if found is None:
        return {**place, **_columns(found), "apart": "not measured"}
    return {**place, **_columns(found), "apart": "yes" if found.is_above or found.is_below else "cannot be told"}


_NUMBERS = list(Estimate.__dataclass_fields__)


def _columns(found: Estimate | None) -> dict[str, float | None]:
    return dict.fromkeys(_NUMBERS) if found is None else asdict(found)


def _typed(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    kinds = {**dict.fromkeys(_NUMBERS, "float64"), "images": "Int64", "seeds": "Int64"}
    return pd.DataFrame(rows).astype(kinds) if rows else pd.DataFrame(columns=_NUMBERS)
