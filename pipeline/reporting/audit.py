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
UNION = "Union is the mean of both AutoAttacks"
MEMBERS = ["apgd_ce_linf", "apgd_t_linf", "fab_t_linf", "square_linf"]
"""What AutoAttack consists of."""
ROW = CELL[:-1]


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
    found = [*_unions(wide), *_gaps(wide), *_steps(wide), *_members(wide), *_between_papers(wide)]
    found += [*_corruptions(wide), *_twins(wide), *_best(wide), *_misplaced(given)]
    frame = pd.DataFrame(found, columns=["check", *CELL, "printed", "expected"])
    return frame.assign(expected=frame["expected"].round(3), difference=(frame["printed"] - frame["expected"]).round(3))


def describe(found: pd.DataFrame) -> str:
    """The findings as Markdown: a heading with a count and a table for each check."""
    parts = [f"# Audit of the papers' tables\n\n{len(found)} findings, computed from the printed numbers alone.\n"]
    header = ["table", "data set", "network", "method", "metric", "printed", "expected", "difference"]
    for check, group in found.groupby("check", sort=False):
        rows = [
            [
                TITLES[row["table"]],
                *(row[key] for key in ("dataset", "architecture", "method", "metric")),
                f"{row['printed']:.2f}",
                _number(row["expected"], ""),
                _number(row["difference"], "+"),
            ]
            for _, row in group.iterrows()
        ]
        parts.append(f"## {check} ({len(group)})\n\n{markdown_table(header, rows, left=5)}\n")
    return "\n".join(parts)


def _number(value: float, sign: str) -> str:
    return "" if math.isnan(value) else f"{value:{sign}.3f}"


def _unions(wide: pd.DataFrame) -> Iterator[Finding]:
    if not {"union", "aa_linf", "aa_l2"} <= set(wide):
        return
    mean = (wide["aa_linf"] + wide["aa_l2"]) / 2
    wrong = (wide["union"] - mean).abs() > ROUNDING + 1e-9
    yield from _findings(UNION, "union", wide["union"][wrong], mean[wrong])


def _gaps(wide: pd.DataFrame) -> Iterator[Finding]:
    """A gap that the same method does not have with the table's other network: one of the two cells is garbled."""
    for norm in ("linf", "l2"):
        gap = _difference(wide, f"pgd20_{norm}", f"aa_{norm}")
        gap = gap[~gap.index.get_level_values("table").isin(["1a", "1b"])]  # one network each
        distance, median = _distances(gap, ["table"])
        unusual = (distance > USUAL).groupby(level=["table", "dataset", "method"]).transform("sum")
        far = (distance > FAR) & (unusual == 1)
        check = "AutoAttack lies below PGD-20 by about as much as in the other rows"
        yield from _findings(check, f"pgd20_{norm} - aa_{norm}", gap[far], median[far])


def _steps(wide: pd.DataFrame) -> Iterator[Finding]:
    fewer, more = _pair(wide, "pgd20_linf", "pgd100_linf")
    weaker = more > fewer
    yield from _findings("PGD-100 is no weaker than PGD-20", "pgd100_linf", more[weaker], fewer[weaker])
    gap = fewer - more
    distance, median = _distances(gap, [])
    far = distance > FAR
    check = "PGD-100 lies below PGD-20 by about as much as in the other rows"
    yield from _findings(check, "pgd20_linf - pgd100_linf", gap[far], median[far])


def _members(wide: pd.DataFrame) -> Iterator[Finding]:
    if not {"aa_linf", *MEMBERS} <= set(wide):
        return
    both = wide[["aa_linf", *MEMBERS]].dropna()
    gap = both[MEMBERS].min(axis=1) - both["aa_linf"]
    above = gap < -ROUNDING - 1e-9
    strongest = both[MEMBERS].min(axis=1)
    yield from _findings(
        "AutoAttack is no weaker than its members", "aa_linf", both["aa_linf"][above], strongest[above]
    )
    distance, median = _distances(gap, [])
    far = distance > FAR
    check = "AutoAttack lies below its strongest member by about as much as in the other rows"
    yield from _findings(check, "strongest member - aa_linf", gap[far], median[far])


def _between_papers(wide: pd.DataFrame) -> Iterator[Finding]:
    earlier = _without_table(wide, ["1a", "1b"])
    later = _without_table(wide, ["I"])
    for metric in wide:
        first, second = earlier[metric].dropna().align(later[metric].dropna(), join="inner")
        different = (first - second).abs() > 1e-9
        shown = pd.concat({"I": second[different]}, names=["table"]).reorder_levels(ROW)
        expected = pd.concat({"I": first[different]}, names=["table"]).reorder_levels(ROW)
        yield from _findings("Generalist++ repeats the CVPR paper's number", str(metric), shown, expected)


def _corruptions(wide: pd.DataFrame) -> Iterator[Finding]:
    """Accuracy under corruptions and along sequences against the natural one of the same network in Table I or II."""
    natural = _without_table(wide, ["I", "II"])["natural"]
    corrupted = wide[wide.index.get_level_values("table") == "IV"]
    for metric in ("ood_c_severity_5", "ood_p"):
        if metric not in corrupted:
            return
        gap = natural.reindex(_without_table(wide, ["IV"]).index).to_numpy() - corrupted[metric]
        distance, median = _distances(gap.dropna(), ["dataset"])
        far = distance > FAR
        check = "Accuracy on corrupted images lies below the natural one by about as much as in the other rows"
        yield from _findings(check, f"natural - {metric}", gap[distance.index][far], median[far])
    gap = _difference(corrupted, "ood_p", "ood_c_severity_5")
    distance, median = _distances(gap, ["dataset"])
    far = distance > FAR
    check = "Sequences are easier than severity 5 by about as much as in the other rows"
    yield from _findings(check, "ood_p - ood_c_severity_5", gap[far], median[far])


def _twins(wide: pd.DataFrame) -> Iterator[Finding]:
    """Two methods that agree to 0.01 in both columns of Table IV."""
    metrics = ["ood_c_severity_5", "ood_p"]
    both = wide.reindex(columns=metrics).dropna()
    for _, group in both.groupby(level=["table", "dataset", "architecture"]):
        for first, second in combinations(group.reset_index().to_dict("records"), 2):
            if all(abs(first[metric] - second[metric]) <= ROUNDING + 1e-9 for metric in metrics):
                check = f"No two methods share a row ({first['method']} has the same)"
                for metric in metrics:
                    place = {key: second[key] for key in ROW}
                    numbers = {"printed": second[metric], "expected": first[metric]}
                    yield {"check": check, "metric": metric, **place, **numbers}


def _best(wide: pd.DataFrame) -> Iterator[Finding]:
    """Generalist++ IV-B: Generalist-T 'exceeds the performance of current methods in each aspect'."""
    first = wide[wide.index.get_level_values("table") == "I"].dropna(axis=1, how="all")
    ours = first.index.get_level_values("method").str.startswith("generalist")
    best = first[~ours].groupby(level="architecture").max()
    claimed = first[first.index.get_level_values("method") == "generalist_t"]
    for metric in first:
        limit = claimed[metric].index.get_level_values("architecture").map(best[metric].to_dict())
        expected = pd.Series(limit, index=claimed.index, dtype=float)
        below = claimed[metric] < expected
        check = "Generalist-T exceeds every other method in each column, as the text says"
        yield from _findings(check, str(metric), claimed[metric][below], expected[below])


def _misplaced(cells: pd.DataFrame) -> Iterator[Finding]:
    check = "Every number is printed in its own row (three values in one row, none in the next two)"
    for row in cells.merge(readings()[CELL], on=CELL).to_dict("records"):
        yield {"check": check, **{key: row[key] for key in CELL}, "printed": row["value"], "expected": math.nan}


def _findings(check: str, metric: str, printed: pd.Series, expected: pd.Series) -> Iterator[Finding]:
    rows = pd.DataFrame({"printed": printed, "expected": expected.reindex(printed.index)}).reset_index()
    for row in rows.to_dict("records"):
        yield {"check": check, "metric": metric, **{str(key): value for key, value in row.items()}}


def _pair(wide: pd.DataFrame, first: str, second: str) -> tuple[pd.Series, pd.Series]:
    """Two columns where both have a number."""
    both = wide.reindex(columns=[first, second]).dropna()
    return both[first], both[second]


def _difference(wide: pd.DataFrame, first: str, second: str) -> pd.Series:
    above, below = _pair(wide, first, second)
    return above - below


def _distances(values: pd.Series, within: list[str]) -> tuple[pd.Series, pd.Series]:
    """How many robust standard deviations each value is from the median of its group, and that median."""
    keys = [values.index.get_level_values(level) for level in within] or [values.index.map(lambda _: 0)]
    median = values.groupby(keys).transform("median")
    deviation = (values - median).abs()
    spread = deviation.groupby(keys).transform("median")
    return deviation / (1.4826 * spread.clip(lower=ROUNDING)), median


def _without_table(wide: pd.DataFrame, tables: list[str]) -> pd.DataFrame:
    """The rows of some tables, addressed without the table."""
    return wide[wide.index.get_level_values("table").isin(tables)].droplevel("table")
