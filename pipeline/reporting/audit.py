"""Where the papers' tables contradict themselves or each other, computed from their numbers alone.

Numbers are printed with two decimals, so a sum or mean of printed numbers may be off by 0.01 without a mistake. What
has no exact rule, such as how far AutoAttack lies below PGD, is compared with the other rows: a row is listed when it
is more than `FAR` robust standard deviations (1.4826 times the median absolute deviation) from their median.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pandas as pd

from pipeline.reporting.markdown import markdown_table
from pipeline.reporting.papers import CELL, TITLES, printed_cells, readings

ROUNDING = 0.01
FAR = 6
USUAL = 3.5
SLACK = ROUNDING + 1e-9
UNION = "Union is the mean of both AutoAttacks"
MEMBERS = ["apgd_ce_linf", "apgd_t_linf", "fab_t_linf", "square_linf"]
"""What AutoAttack consists of."""
CORRUPTED = ["ood_c_severity_5", "ood_p"]
"""The columns of Table IV."""
ROW = CELL[:-1]
AS_ELSEWHERE = "by about as much as in the other rows"
Finding = dict[str, Any]
"""One row of what `audit` returns."""


def audit(cells: pd.DataFrame | None = None) -> pd.DataFrame:
    """Every contradiction within and between the tables.

    Args:
        cells: As `printed_cells` gives them (None: those).

    Returns:
        `check` (what should hold), `table`, `dataset`, `architecture`, `method`, `metric` (or the difference of
        two that the numbers are of), `printed` and `expected` (percent; computed from other cells, NaN where there is
        no such thing), and `difference`: printed minus expected.
    """
    given = printed_cells() if cells is None else cells
    wide = given.pivot(index=ROW, columns="metric", values="value")
    checks = (_unions, _gaps, _steps, _members, _between_papers, _corruptions, _twins, _best)
    found = [*(finding for check in checks for finding in check(wide)), *_misplaced(given)]
    frame = pd.DataFrame(found, columns=["check", *CELL, "printed", "expected"])
    return frame.assign(expected=frame["expected"].round(3), difference=(frame["printed"] - frame["expected"]).round(3))


def describe(found: pd.DataFrame) -> str:
    """The findings as Markdown: a heading with a count and a table for each check."""
    parts = [f"# Audit of the papers' tables\n\n{len(found)} findings, computed from the printed numbers alone.\n"]
    header = ["table", "data set", "network", "method", "metric", "printed", "expected", "difference"]
    shown = found.assign(table=found["table"].map(TITLES)).astype({"printed": float, "expected": float})
    for check, group in shown.groupby("check", sort=False):
        rows = [
            [
                *place,
                f"{printed:.2f}",
                *(("", "") if math.isnan(difference) else (f"{expected:.3f}", f"{difference:+.3f}")),
            ]
            for *place, printed, expected, difference in group.drop(columns="check").itertuples(index=False)
        ]
        parts.append(f"## {check} ({len(group)})\n\n{markdown_table(header, rows, left=5)}\n")
    return "\n".join(parts)


def _unions(wide: pd.DataFrame) -> Iterator[Finding]:
    mean = (wide["aa_linf"] + wide["aa_l2"]) / 2
    return _findings(UNION, "union", wide["union"], mean, (wide["union"] - mean).abs() > SLACK)


def _gaps(wide: pd.DataFrame) -> Iterator[Finding]:
    """A gap that the same method does not have with the table's other network: one of the two cells is garbled."""
    for norm in ("linf", "l2"):
        gap = (wide[f"pgd20_{norm}"] - wide[f"aa_{norm}"]).dropna()
        gap = gap[~gap.index.get_level_values("table").isin(["1a", "1b"])]  # one network each
        distance, median = _distances(gap, ["table"])
        unusual = (distance > USUAL).groupby(level=["table", "dataset", "method"]).transform("sum")
        far = (distance > FAR) & (unusual == 1)
        yield from _findings(
            f"AutoAttack lies below PGD-20 {AS_ELSEWHERE}", f"pgd20_{norm} - aa_{norm}", gap, median, far
        )


def _steps(wide: pd.DataFrame) -> Iterator[Finding]:
    fewer, more = wide["pgd20_linf"], wide["pgd100_linf"]
    yield from _findings("PGD-100 is no weaker than PGD-20", "pgd100_linf", more, fewer, more > fewer)
    yield from _far(f"PGD-100 lies below PGD-20 {AS_ELSEWHERE}", "pgd20_linf - pgd100_linf", fewer - more)


def _members(wide: pd.DataFrame) -> Iterator[Finding]:
    ensemble, strongest = wide["aa_linf"], wide[MEMBERS].min(axis=1, skipna=False)
    weaker = strongest - ensemble < -SLACK
    yield from _findings("AutoAttack is no weaker than its members", "aa_linf", ensemble, strongest, weaker)
    check = f"AutoAttack lies below its strongest member {AS_ELSEWHERE}"
    yield from _far(check, "strongest member - aa_linf", strongest - ensemble)


def _between_papers(wide: pd.DataFrame) -> Iterator[Finding]:
    earlier, later = _without_table(wide, ["1a", "1b"]), _of_table(wide, ["I"])
    expected = earlier.reindex(_without_table(wide, ["I"]).index).set_axis(later.index)
    for metric in wide:
        different = (expected[metric] - later[metric]).abs() > 1e-9
        check = "Generalist++ repeats the CVPR paper's number"
        yield from _findings(check, str(metric), later[metric], expected[metric], different)


def _corruptions(wide: pd.DataFrame) -> Iterator[Finding]:
    """Accuracy under corruptions and along sequences against the natural one of the same network in Table I or II."""
    corrupted = _of_table(wide, ["IV"])
    natural = _without_table(wide, ["I", "II"])["natural"].reindex(_without_table(wide, ["IV"]).index).to_numpy()
    check = f"Accuracy on corrupted images lies below the natural one {AS_ELSEWHERE}"
    for metric in CORRUPTED:
        yield from _far(check, f"natural - {metric}", natural - corrupted[metric], ["dataset"])
    check = f"Sequences are easier than severity 5 {AS_ELSEWHERE}"
    gap = corrupted["ood_p"] - corrupted["ood_c_severity_5"]
    yield from _far(check, "ood_p - ood_c_severity_5", gap, ["dataset"])


def _twins(wide: pd.DataFrame) -> Iterator[Finding]:
    """Two methods that agree to 0.01 in both columns of Table IV."""
    both = wide[CORRUPTED].dropna()
    for _, group in both.groupby(level=["table", "dataset", "architecture"]):
        for first, second in combinations(group.reset_index().to_dict("records"), 2):
            if all(abs(first[metric] - second[metric]) <= SLACK for metric in CORRUPTED):
                check = f"No two methods share a row ({first['method']} has the same)"
                place = {key: second[key] for key in ROW}
                for metric in CORRUPTED:
                    yield _finding(check, metric, place, second[metric], first[metric])


def _best(wide: pd.DataFrame) -> Iterator[Finding]:
    """Generalist++ IV-B: Generalist-T 'exceeds the performance of current methods in each aspect'."""
    first = _of_table(wide, ["I"]).dropna(axis=1, how="all")
    method, network = (first.index.get_level_values(level) for level in ("method", "architecture"))
    best = first[~method.str.startswith("generalist")].groupby(level="architecture").max()
    expected = best.reindex(network).set_axis(first.index)
    check = "Generalist-T exceeds every other method in each column, as the text says"
    for metric in first:
        below = (first[metric] < expected[metric]) & (method == "generalist_t")
        yield from _findings(check, str(metric), first[metric], expected[metric], below)


def _misplaced(cells: pd.DataFrame) -> Iterator[Finding]:
    check = "Every number is printed in its own row (three values in one row, none in the next two)"
    for row in cells.merge(readings()[CELL], on=CELL).to_dict("records"):
        yield _finding(check, row["metric"], {key: row[key] for key in ROW}, row["value"], math.nan)


def _far(check: str, metric: str, gap: pd.Series, within: list[str] | None = None) -> Iterator[Finding]:
    """Differences that are far from the median of their group."""
    there = gap.dropna()
    distance, median = _distances(there, within or [])
    return _findings(check, metric, there, median, distance > FAR)


def _findings(check: str, metric: str, printed: pd.Series, expected: pd.Series, wrong: pd.Series) -> Iterator[Finding]:
    for row in printed.index[wrong]:
        yield _finding(check, metric, dict(zip(ROW, row, strict=True)), printed[row], expected[row])


def _finding(check: str, metric: str, place: dict[str, str], printed: float, expected: float) -> Finding:
    return {"check": check, **place, "metric": metric, "printed": printed, "expected": expected}


def _distances(values: pd.Series, within: list[str]) -> tuple[pd.Series, pd.Series]:
    """How many robust standard deviations each value is from the median of its group, and that median."""
    keys = [values.index.get_level_values(level) for level in within] or [values.index.map(lambda _: 0)]
    median = values.groupby(keys).transform("median")
    deviation = (values - median).abs()
    spread = deviation.groupby(keys).transform("median")
    return deviation / (1.4826 * spread.clip(lower=ROUNDING)), median


def _of_table(wide: pd.DataFrame, tables: list[str]) -> pd.DataFrame:
    return wide.loc[wide.index.get_level_values("table").isin(tables)]


def _without_table(wide: pd.DataFrame, tables: list[str]) -> pd.DataFrame:
    """The rows of some tables, addressed without the table."""
    return _of_table(wide, tables).droplevel("table")
