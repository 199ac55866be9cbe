"""What is said of the cases of a kind: its row, its failures, the table."""

from __future__ import annotations

import math
import random
from typing import Any

from benchmarks.bad_input.cases import PROBLEMS, Outcome
from benchmarks.bad_input.kinds import KINDS, outcomes, summary
from benchmarks.bad_input.running import REPOSITORY, run_apart

RESULTS = REPOSITORY / "benchmarks/results/bad_input.json"
DOCUMENT = REPOSITORY / "docs/security.md"
SHOWN = 5
"""Failures of a kind that are printed in full."""
AGAIN = 0.005
"""Share of the cases of a kind that run again as processes, if they were refused as they should."""


Row = dict[str, Any]


def run_kind(name: str, count: int, start: int) -> tuple[Row, Row, list[str]]:
    """A kind's row, that of those which ran again as processes, and what to print."""
    kind = next(kind for kind in KINDS if kind.name == name)
    found = list(outcomes(kind, count, start))
    refused = [one.case for one in found if one.code == 2 and one.problem is None]
    again = random.Random(start).sample(refused, min(len(refused), math.ceil(count * AGAIN)))
    apart = [run_apart(case) for case in again]
    failed = [one for one in found if one.problem]
    row = summary(found)
    lines = [describe(one) for one in failed[:SHOWN]]
    lines += [f"as a process: {describe(one)}" for one in apart if one.problem]
    shown = ", ".join(f"{row[problem]} {problem}" for problem in PROBLEMS if row[problem]) or "none failed"
    slowest = f"slowest {row['slowest_cpu_seconds']} s; {len(apart)} again as processes"
    return row, summary(apart), [*lines, f"{name}: {row['refused']} refused, {row['valid']} valid, {shown}; {slowest}"]


def added(rows: list[Row]) -> Row:
    """One row for several."""
    return {key: (max if key.startswith("slowest") else sum)(row[key] for row in rows) for key in rows[0]}


def describe(outcome: Outcome) -> str:
    """A failure, to be made again by hand."""
    case = outcome.case
    what = (
        f"{outcome.problem}: {case.kind}: {case.what}\n  python -m stages.{case.stage} {' '.join(case.arguments)[:200]}"
    )
    written = f"\n  written: {', '.join(outcome.written[:5])}" if outcome.written else ""
    said = outcome.traceback[-1500:] or outcome.message[:1500]
    return f"{what}\n  exit code {outcome.code}, {outcome.cpu_seconds:.1f} s{written}\n  {said}"


def table(result: dict[str, Any]) -> str:
    """In Markdown."""
    header = ["what is wrong", "kind", "cases", "refused", "valid after all", "failed", "slowest, CPU s"]
    rows = [[row["about"], name, *_cells(row)] for name, row in result["kinds"].items()]
    rows.append(["", "**all**", *_cells(result["all"])])
    rows.append(["", "of these again as processes, imports included", *_cells(result["processes"])])
    lines = [header, [":--", ":--", *["--:"] * 5], *rows]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    spent = (
        f"Seed {result['seed']}; {result['seconds'] / 60:.0f} min beside other jobs; commit {result['git_commit'][:10]}"
    )
    return f"{text}\n\n{spent}, Python {result['python']}, torch {result['torch']}."


def _cells(row: dict[str, Any]) -> list[str]:
    failed = sum(row[name] for name in PROBLEMS)
    return [
        f"{row['cases']:,}",
        f"{row['refused']:,}",
        str(row["valid"]),
        str(failed),
        f"{row['slowest_cpu_seconds']:.1f}",
    ]
