"""What came of a grid, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Experiment, Params
from pipeline.core.files import write_text
from pipeline.reporting.markdown import markdown_table
from pipeline.studies.cells import Cell

METRICS = ("natural", "union", "worst_case_union")


def write_summary(params: Params, cells: Sequence[Cell], set_aside: Mapping[str, str]) -> str:
    """A line per cell with its accuracies, and the last log lines of what was set aside; also as a file.

    Args:
        params: Of the grid.
        cells: All that were asked for.
        set_aside: Last log lines by fingerprint.

    Returns:
        Markdown, as in `results/ablation/<suite>/summary.md`.
    """
    from pipeline.tracking import finished_runs

    experiments = {cell.experiment.fingerprint: cell.experiment for cell in cells}
    rows = finished_runs(experiments.values(), of_this_code=True).to_dict("records")
    runs = {row["fingerprint"]: row for row in rows}
    table = [
        [
            one.study,
            one.method,
            one.setting,
            one.experiment.seed,
            *_numbers(one.experiment.fingerprint, runs, set_aside),
        ]
        for one in cells
    ]
    lines = [markdown_table(["study", "method", "setting", "seed", *METRICS], table, left=4)]
    for fingerprint, reason in set_aside.items():
        lines += ["", f"{experiments[fingerprint].identifier} ({fingerprint}) is set aside:", "", "```", reason.strip()]
        lines.append("```")
    text = "\n".join(lines) + "\n"
    write_text(Path("results/ablation") / params.suite / "summary.md", text)
    return text


def settings_by_experiment(cells: Sequence[Cell]) -> Iterator[tuple[Experiment, dict[str, str]]]:
    """Every experiment once, with its setting in each study that it belongs to."""
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        found.setdefault(cell.experiment.fingerprint, {})[cell.study] = cell.setting
    experiments = {cell.experiment.fingerprint: cell.experiment for cell in cells}
    yield from ((experiments[fingerprint], settings) for fingerprint, settings in found.items())


def _numbers(fingerprint: str, runs: Mapping[str, Mapping[Any, Any]], set_aside: Mapping[str, str]) -> list[str]:
    if fingerprint in runs:
        return [f"{runs[fingerprint][f'metric.{name}']:.2%}" for name in METRICS]
    return ["set aside" if fingerprint in set_aside else "missing", "", ""]
